//! Left and right: each of a pair on its side.

use super::{Examined, Finding, Midplane, centre, cm3, place, places};
use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, PatientPoint};

/// Organs that the midsagittal plane passes through.
const UNPAIRED: [Organ; 10] = [
    Organ::BrainStem,
    Organ::ConstrictorNaris,
    Organ::Hypophysis,
    Organ::Larynx,
    Organ::Mandible,
    Organ::OpticChiasm,
    Organ::OralCavity,
    Organ::SpinalCord,
    Organ::Thyroid,
    Organ::Trachea,
];

/// The plane is known to about this, mm: nearer to it nobody is on the wrong side.
const BAND_MM: f64 = 8.0;
/// An organ with at least this part on the other side is wholly there.
const WHOLLY: f64 = 0.8;

/// Exchanges a pair of which both lie on the other's side; removes an organ that lies on the other side alone, and of
/// any other the part more than [`BAND_MM`] beyond the plane. The plane of a pair comes from all other organs; with
/// fewer than three of them nothing is done.
pub(super) fn each_on_its_side(examined: &mut Examined, grid: &Grid) {
    let landmarks = landmarks(&examined.masks, grid);
    for left in Organ::ALL {
        let Some(right) = left.partner().filter(|right| left < *right) else { continue };
        let others: Vec<PatientPoint> =
            landmarks.iter().filter(|(of, _)| *of != left).map(|(_, at)| *at).collect();
        let Some(plane) = Midplane::through(&others) else { continue };
        let pair = [left, right].map(|organ| examined.place_of(organ));
        let wrong = [left, right].map(|organ| {
            examined
                .place_of(organ)
                .is_some_and(|n| wholly_beyond(&examined.masks[n], grid, &plane, organ == left))
        });
        if let ([Some(l), Some(r)], [true, true]) = (pair, wrong) {
            examined.masks[l].organ = right;
            examined.masks[r].organ = left;
            examined.masks.swap(l, r);
            examined.note(left, Finding::SidesExchanged);
            examined.note(right, Finding::SidesExchanged);
            continue;
        }
        for (organ, wrong) in [left, right].into_iter().zip(wrong) {
            let Some(n) = examined.place_of(organ) else { continue };
            if wrong {
                let removed = examined.masks.remove(n);
                examined.note(organ, Finding::WrongSide { cm3: cm3(super::n_voxels(&removed), grid) });
            } else if let Some(cm3) = cut_beyond(&mut examined.masks[n], grid, &plane, organ == left) {
                examined.note(organ, Finding::BeyondMidplane { cm3 });
            }
        }
    }
}

/// Points on the plane: centres of unpaired organs and midpoints of pairs, under the name of the pair's left one.
fn landmarks(masks: &[OrganMask], grid: &Grid) -> Vec<(Organ, PatientPoint)> {
    let centre_of = |organ: Organ| centre(masks.iter().find(|mask| mask.organ == organ)?, grid);
    let unpaired = UNPAIRED.into_iter().filter_map(|organ| Some((organ, centre_of(organ)?)));
    let pairs = Organ::ALL.into_iter().filter_map(|left| {
        let right = left.partner().filter(|right| left < *right)?;
        let (l, r) = (centre_of(left)?, centre_of(right)?);
        Some((left, PatientPoint::lps_mm((l.x + r.x) / 2.0, (l.y + r.y) / 2.0, (l.z + r.z) / 2.0)))
    });
    unpaired.chain(pairs).collect()
}

/// How far a point lies beyond the plane, seen from the organ's own side, mm.
fn beyond_mm(plane: &Midplane, p: PatientPoint, is_left: bool) -> f64 {
    if is_left { -plane.left_mm(p) } else { plane.left_mm(p) }
}

fn wholly_beyond(mask: &OrganMask, grid: &Grid, plane: &Midplane, is_left: bool) -> bool {
    let (mut n, mut n_beyond, mut sum_mm) = (0_usize, 0_usize, 0.0);
    for p in places(mask, grid) {
        let mm = beyond_mm(plane, p, is_left);
        n += 1;
        n_beyond += usize::from(mm > 0.0);
        sum_mm += mm;
    }
    n > 0 && n_beyond as f64 >= WHOLLY * n as f64 && sum_mm / n as f64 > BAND_MM
}

/// Removes what lies beyond the band and says how much was organ, cm3; `None` where nothing was.
fn cut_beyond(mask: &mut OrganMask, grid: &Grid, plane: &Midplane, is_left: bool) -> Option<f64> {
    let far: Vec<[usize; 3]> = mask
        .probability
        .indexed_iter()
        .map(|((z, y, x), _)| [z, y, x])
        .filter(|at| beyond_mm(plane, place(mask, grid, *at), is_left) > BAND_MM)
        .collect();
    let n_organ = far.iter().filter(|at| mask.probability[**at] >= MASK_THRESHOLD).count();
    if n_organ == 0 {
        return None;
    }
    for at in far {
        mask.probability[at] = 0.0;
    }
    Some(cm3(n_organ, grid))
}

#[cfg(test)]
mod tests {
    use super::super::bricks::{examined, grid, organ};
    use super::*;

    /// The middle lies near voxel 31 to 32 (L 0); the left parotid is bigger and higher than the right one.
    fn head() -> Vec<OrganMask> {
        vec![
            organ(Organ::BrainStem, &[[24..33, 20..28, 27..36]]),
            organ(Organ::Larynx, &[[6..11, 10..16, 28..37]]),
            organ(Organ::Mandible, &[[12..18, 4..20, 17..46]]),
            organ(Organ::SpinalCord, &[[2..24, 24..28, 30..34]]),
        ]
    }

    const LEFT: [std::ops::Range<usize>; 3] = [19..28, 20..27, 48..56];
    const RIGHT: [std::ops::Range<usize>; 3] = [18..25, 21..26, 9..15];

    fn with(parotids: &[(Organ, &[[std::ops::Range<usize>; 3]])]) -> Examined {
        let mut masks = head();
        masks.extend(parotids.iter().map(|(name, boxes)| organ(*name, boxes)));
        masks.sort_by_key(|mask| mask.organ);
        let mut found = examined(masks);
        each_on_its_side(&mut found, &grid());
        found
    }

    fn n_of(examined: &Examined, organ: Organ) -> Option<usize> {
        examined.place_of(organ).map(|n| super::super::n_voxels(&examined.masks[n]))
    }

    #[test]
    fn a_pair_on_each_others_side_is_exchanged_and_says_so() {
        let found = with(&[(Organ::ParotidL, &[RIGHT]), (Organ::ParotidR, &[LEFT])]);
        assert_eq!(n_of(&found, Organ::ParotidL), Some(9 * 7 * 8));
        assert_eq!(n_of(&found, Organ::ParotidR), Some(7 * 5 * 6));
        assert!(found.masks.windows(2).all(|pair| pair[0].organ < pair[1].organ));
        for organ in [Organ::ParotidL, Organ::ParotidR] {
            assert_eq!(found.findings[&organ], [Finding::SidesExchanged]);
        }
        let right = with(&[(Organ::ParotidL, &[LEFT]), (Organ::ParotidR, &[RIGHT])]);
        assert!(right.findings.is_empty());
        assert_eq!(right.masks, found.masks);
    }

    /// 7 x 5 x 6 voxels of 15 mm3 are 3.15 cm3. Nobody makes a right parotid of it.
    #[test]
    fn an_organ_alone_on_the_wrong_side_is_removed_and_says_so() {
        let alone = with(&[(Organ::ParotidL, &[RIGHT])]);
        assert_eq!((n_of(&alone, Organ::ParotidL), n_of(&alone, Organ::ParotidR)), (None, None));
        assert_eq!(alone.findings[&Organ::ParotidL], [Finding::WrongSide { cm3: 3.15 }]);
        let both_right = with(&[(Organ::ParotidL, &[RIGHT]), (Organ::ParotidR, &[[16..26, 20..27, 8..15]])]);
        assert_eq!(n_of(&both_right, Organ::ParotidL), None);
        assert_eq!(n_of(&both_right, Organ::ParotidR), Some(10 * 7 * 7));
    }

    #[test]
    fn the_part_beyond_the_middle_goes() {
        let found =
            with(&[(Organ::ParotidL, &[LEFT, [20..22, 21..23, 10..13]]), (Organ::ParotidR, &[RIGHT])]);
        assert_eq!(n_of(&found, Organ::ParotidL), Some(9 * 7 * 8));
        let Finding::BeyondMidplane { cm3 } = found.findings[&Organ::ParotidL][0] else { panic!() };
        assert!((cm3 - 12.0 * 0.015).abs() < 1e-9);
    }

    /// Without three other organs nobody knows where the middle is.
    #[test]
    fn without_landmarks_nothing_is_done() {
        let masks = vec![
            organ(Organ::Larynx, &[[6..11, 10..16, 28..37]]),
            organ(Organ::ParotidL, &[RIGHT]),
            organ(Organ::ParotidR, &[LEFT]),
        ];
        let mut found = examined(masks.clone());
        each_on_its_side(&mut found, &grid());
        assert_eq!((found.masks, found.findings.len()), (masks, 0));
    }
}
