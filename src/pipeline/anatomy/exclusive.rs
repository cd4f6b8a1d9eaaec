//! No voxel belongs to two organs.
//!
//! Where the probabilities of two organs add up to more than one, the larger keeps `(1 + d) / 2` and the smaller
//! `(1 - d) / 2`, `d` being their difference: the border lies where both were equal, with the accuracy of the fields,
//! and away from a border nothing changes. Interpolation between voxels is linear, so two fields that never add up to
//! more than one do so nowhere, and the contours traced at one half do not cross.
//!
//! How sure a network is of an organ that it never saw on a real patient says nothing about real patients. So such an
//! organ takes no voxel from one whose contours were measured there.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array3;

use super::{Examined, Finding, cm3};
use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::Grid;

/// By so much the sum stays below one: equal probabilities would belong to both, and sums are rounded.
pub(super) const SLACK: f32 = 1e-4;

/// Settles every voxel that several organs claim. A lens wins against its eye, in which it lies, or with
/// `eye_includes_lens` is left to both; one of the `measured` organs wins against the others.
pub(super) fn no_voxel_for_two(
    examined: &mut Examined,
    grid: &Grid,
    eye_includes_lens: bool,
    measured: &BTreeSet<Organ>,
) {
    let mut given: BTreeMap<(Organ, Organ), usize> = BTreeMap::new();
    for at in contested(&examined.masks, grid.shape()) {
        let mut claims: Vec<Claim> =
            examined.masks.iter().enumerate().filter_map(|(n, mask)| Claim::of(n, mask, at)).collect();
        let before: Vec<Claim> =
            claims.iter().copied().filter(|claim| claim.probability >= MASK_THRESHOLD).collect();
        settle(&mut claims, eye_includes_lens, measured);
        for claim in &claims {
            let mask = &mut examined.masks[claim.mask];
            let here = inside(mask, at).expect("the claim came from this voxel");
            mask.probability[here] = claim.probability;
        }
        let winner = claims.iter().find(|claim| claim.probability >= MASK_THRESHOLD);
        for loser in before {
            let lost =
                claims.iter().any(|claim| claim.organ == loser.organ && claim.probability < MASK_THRESHOLD);
            if let Some(winner) = winner.filter(|_| lost) {
                *given.entry((loser.organ, winner.organ)).or_default() += 1;
            }
        }
    }
    for ((organ, with), n) in given {
        examined.note(organ, Finding::Shared { with, cm3: cm3(n, grid) });
    }
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    mask: usize,
    organ: Organ,
    probability: f32,
}

impl Claim {
    fn of(n: usize, mask: &OrganMask, at: [usize; 3]) -> Option<Self> {
        let probability = mask.probability[inside(mask, at)?];
        (probability > 0.0).then_some(Self { mask: n, organ: mask.organ, probability })
    }
}

/// The place in a mask's box of a voxel of the grid.
fn inside(mask: &OrganMask, at: [usize; 3]) -> Option<[usize; 3]> {
    let (start, end) = (mask.region.start, mask.region.end);
    (0..3)
        .all(|axis| (start[axis]..end[axis]).contains(&at[axis]))
        .then(|| std::array::from_fn(|axis| at[axis] - start[axis]))
}

/// Voxels of the grid in which two or more organs add up to more than one, and perhaps some more.
fn contested(masks: &[OrganMask], shape: [usize; 3]) -> Vec<[usize; 3]> {
    let mut sum = Array3::<f32>::zeros(shape);
    let mut n_claims = Array3::<u8>::zeros(shape);
    for mask in masks {
        let [z0, y0, x0] = mask.region.start;
        for ((z, y, x), p) in mask.probability.indexed_iter().filter(|(_, p)| **p > 0.0) {
            let at = [z + z0, y + y0, x + x0];
            sum[at] += p;
            n_claims[at] += 1;
        }
    }
    let found = sum.indexed_iter().filter(|(at, sum)| **sum > 1.0 - SLACK && n_claims[*at] > 1);
    found.map(|((z, y, x), _)| [z, y, x]).collect()
}

/// Lowers probabilities until no two organs add up to more than one; the most probable one wins first.
fn settle(claims: &mut [Claim], eye_includes_lens: bool, measured: &BTreeSet<Organ>) {
    let is_measured = |claim: &Claim| measured.contains(&claim.organ);
    let known = claims.iter().filter(|claim| is_measured(claim)).map(|claim| claim.probability);
    let known = known.fold(0.0, f32::max);
    if known >= MASK_THRESHOLD {
        for claim in claims.iter_mut().filter(|claim| !is_measured(claim)) {
            claim.probability = claim.probability.min(1.0 - known - SLACK).max(0.0);
        }
    }
    if !eye_includes_lens {
        for n in 0..claims.len() {
            let Some(lens) = lens_of(claims[n].organ) else { continue };
            if let Some(p) = claims.iter().find(|claim| claim.organ == lens).map(|claim| claim.probability) {
                claims[n].probability = claims[n].probability.min(1.0 - p - SLACK).max(0.0);
            }
        }
    }
    // Stable: of equal ones the first organ wins.
    claims.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    for n in 0..claims.len() {
        let (winner, others) = claims[n..].split_first_mut().expect("n is a place");
        let rivals = |claim: &Claim| {
            !eye_includes_lens
                || (lens_of(claim.organ) != Some(winner.organ) && lens_of(winner.organ) != Some(claim.organ))
        };
        let second =
            others.iter().filter(|claim| rivals(claim)).map(|claim| claim.probability).fold(0.0, f32::max);
        if winner.probability + second <= 1.0 - SLACK {
            continue;
        }
        let difference = (winner.probability - second).max(0.0);
        let most = f32::midpoint(1.0, -difference) - SLACK;
        for other in others.iter_mut().filter(|claim| rivals(claim)) {
            other.probability = other.probability.min(most).max(0.0);
        }
        winner.probability = winner.probability.min(f32::midpoint(1.0, difference));
    }
}

fn lens_of(organ: Organ) -> Option<Organ> {
    match organ {
        Organ::EyeL => Some(Organ::LensL),
        Organ::EyeR => Some(Organ::LensR),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::bricks::{examined, grid, organ};
    use super::super::n_voxels;
    use super::*;
    use crate::vocabulary::space::VoxelBox;

    fn settled(claims: &[(Organ, f32)], eye_includes_lens: bool) -> BTreeMap<Organ, f32> {
        settled_by(claims, eye_includes_lens, &BTreeSet::new())
    }

    fn settled_by(
        claims: &[(Organ, f32)],
        eye_includes_lens: bool,
        measured: &BTreeSet<Organ>,
    ) -> BTreeMap<Organ, f32> {
        let claim = |(mask, (organ, probability)): (usize, &(Organ, f32))| Claim {
            mask,
            organ: *organ,
            probability: *probability,
        };
        let mut claims: Vec<Claim> = claims.iter().enumerate().map(claim).collect();
        settle(&mut claims, eye_includes_lens, measured);
        claims.iter().map(|claim| (claim.organ, claim.probability)).collect()
    }

    /// 0.9 and 0.6 differ by 0.3: 0.65 and 0.35. A third of 0.8 is the second then: 0.55, 0.45 and 0.45.
    #[test]
    fn the_most_probable_organ_wins_by_its_lead() {
        use Organ::{Larynx, Thyroid, Trachea};
        let near = |found: &BTreeMap<Organ, f32>, organ, wanted: f32| {
            assert!((found[&organ] - wanted).abs() < 2e-4, "{organ:?}: {found:?}, wanted {wanted}");
        };
        let two = settled(&[(Larynx, 0.6), (Trachea, 0.9)], false);
        near(&two, Trachea, 0.65);
        near(&two, Larynx, 0.35);
        let three = settled(&[(Larynx, 0.6), (Trachea, 0.9), (Thyroid, 0.8)], false);
        near(&three, Trachea, 0.55);
        near(&three, Thyroid, 0.45);
        near(&three, Larynx, 0.45);
        let apart = settled(&[(Larynx, 0.6), (Trachea, 0.3)], false);
        assert_eq!((apart[&Larynx], apart[&Trachea]), (0.6, 0.3), "nothing to settle");
        let equal = settled(&[(Larynx, 1.0), (Trachea, 1.0)], false);
        assert!(equal[&Larynx] >= 0.5 && equal[&Trachea] < 0.5);
    }

    /// The lobe is surer, but nobody knows what that is worth; below one half the parotid claims nothing itself.
    #[test]
    fn an_organ_that_was_never_measured_takes_nothing_from_one_that_was() {
        use Organ::{Larynx, Mandible, ParotidL, TemporalLobeL};
        let measured = BTreeSet::from([ParotidL, Mandible]);
        let found = settled_by(&[(ParotidL, 0.6), (TemporalLobeL, 0.95)], false, &measured);
        assert!((found[&ParotidL] - 0.6).abs() < 1e-6 && found[&TemporalLobeL] < 0.4, "{found:?}");
        let found = settled_by(&[(ParotidL, 0.4), (TemporalLobeL, 0.95)], false, &measured);
        assert!(found[&ParotidL] < 0.5 && found[&TemporalLobeL] > 0.5, "{found:?}");
        let found = settled_by(&[(ParotidL, 0.7), (Mandible, 0.9), (Larynx, 0.99)], false, &measured);
        assert!(found[&Mandible] > 0.5 && found[&ParotidL] < 0.5 && found[&Larynx] < 0.2, "{found:?}");
    }

    #[test]
    fn a_lens_is_cut_out_of_its_eye_or_left_in_both() {
        use Organ::{EyeL, LensL, LensR, OpticNerveL};
        let cut = settled(&[(EyeL, 0.95), (LensL, 0.7)], false);
        assert!(cut[&EyeL] < 0.5 && (cut[&LensL] - 0.7).abs() < 2e-4, "{cut:?}");
        let both = settled(&[(EyeL, 0.95), (LensL, 0.7), (OpticNerveL, 0.6)], true);
        assert!(both[&EyeL] >= 0.5 && both[&LensL] >= 0.5 && both[&OpticNerveL] < 0.5, "{both:?}");
        let other = settled(&[(EyeL, 0.95), (LensR, 0.7)], true);
        assert!(other[&EyeL] >= 0.5 && other[&LensR] < 0.5, "the other eye's lens");
    }

    /// Whatever is claimed, no two organs have more than one together afterwards, and no organ gains.
    #[test]
    fn no_two_organs_have_more_than_one_together() {
        let mut state = 7_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        for _ in 0..2_000 {
            let before: Vec<(Organ, f32)> =
                [4, 5, 8, 9, 10, 14].iter().map(|n| (Organ::ALL[n + 1], random().sqrt())).collect();
            let after = settled(&before, false);
            for (organ, p) in &before {
                assert!(after[organ] <= p + 1e-6 && after[organ] >= 0.0);
            }
            for (n, (a, _)) in before.iter().enumerate() {
                for (b, _) in &before[n + 1..] {
                    assert!(after[a] + after[b] < 1.0, "{before:?} -> {after:?}");
                }
            }
        }
    }

    /// Boxes that meet in 3 x 4 x 2 voxels; the trachea is surer there. Where they only touch nothing is taken.
    #[test]
    fn shared_voxels_change_hands_and_neighbours_stay() {
        let mut trachea = organ(Organ::Trachea, &[[3..12, 20..26, 30..36]]);
        trachea.probability.mapv_inplace(|p| if p > 0.5 { 0.97 } else { 0.0 });
        // The same organ in a box that begins elsewhere.
        let region = VoxelBox { start: [2, 16, 24], end: [16, 32, 40] };
        trachea.probability = trachea.probability.slice(ndarray::s![2..16, 16..32, 24..40]).to_owned();
        trachea.region = region;
        let larynx = organ(Organ::Larynx, &[[9..15, 22..30, 34..44]]);
        let thyroid = organ(Organ::Thyroid, &[[3..12, 20..26, 36..40]]);
        let n_thyroid = n_voxels(&thyroid);
        let mut found = examined(vec![larynx, thyroid, trachea]);
        no_voxel_for_two(&mut found, &grid(), false, &BTreeSet::new());
        let n: Vec<usize> = found.masks.iter().map(n_voxels).collect();
        // Larynx and thyroid meet in 3 x 4 x 4 voxels with equal claims: the first organ has them.
        assert_eq!(n, [6 * 8 * 10 - 3 * 4 * 2, n_thyroid - 3 * 4 * 4, 9 * 6 * 6]);
        let shared = |with, n: usize| Finding::Shared { with, cm3: n as f64 * 15.0 / 1000.0 };
        assert_eq!(found.findings[&Organ::Larynx], [shared(Organ::Trachea, 24)]);
        assert_eq!(found.findings[&Organ::Thyroid], [shared(Organ::Larynx, 48)]);
    }
}
