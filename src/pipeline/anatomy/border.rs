//! Where the brain stem ends the cord begins: at one height, without overlap.

use ndarray::{Array3, Axis, Zip, s};

use super::exclusive::SLACK;
use super::{Examined, Finding, cm3};
use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, VoxelBox};

/// With more than this part of the smaller organ on the wrong side of the best border there is no border to be seen.
const MOST_MOVED: f64 = 0.3;

/// Gives all above a height to the brain stem and all below to the cord. The height is the one between two planes of
/// the network's grid that leaves fewest voxels on the wrong side, the middle one of equals. Source of a border that is an axial
/// plane: the contouring guideline of Brouwer et al. 2015 (tip of the dens).
pub(super) fn brain_stem_above_cord(examined: &mut Examined, grid: &Grid) {
    let (Some(b), Some(c)) = (examined.place_of(Organ::BrainStem), examined.place_of(Organ::SpinalCord))
    else {
        return;
    };
    let region = common(examined.masks[b].region, examined.masks[c].region);
    let (stem, cord) = (counts(&examined.masks[b], region), counts(&examined.masks[c], region));
    let (Some(lowest), Some(highest)) = (stem.iter().position(|n| *n > 0), cord.iter().rposition(|n| *n > 0))
    else {
        return;
    };
    if highest < lowest {
        return;
    }
    let wrong = |first: usize| stem[..first].iter().sum::<usize>() + cord[first..].iter().sum::<usize>();
    let heights = lowest..=highest + 1;
    let least = heights.clone().map(wrong).min().unwrap_or(0);
    let best: Vec<usize> = heights.filter(|first| wrong(*first) == least).collect();
    let first = best[best.len() / 2];
    let smaller = stem.iter().sum::<usize>().min(cord.iter().sum());
    if least as f64 > MOST_MOVED * smaller as f64 {
        let mm = (highest + 1 - lowest) as f64 * grid.spacing_mm()[0];
        examined.note(Organ::BrainStem, Finding::BorderUnclear { mm });
        examined.note(Organ::SpinalCord, Finding::BorderUnclear { mm });
        return;
    }
    if least == 0 {
        return;
    }
    let [mut stem, mut cord] = [b, c].map(|n| grown(&examined.masks[n], region));
    divide(&mut stem, &mut cord, first);
    for (n, probability) in [(b, stem), (c, cord)] {
        examined.masks[n].region = region;
        examined.masks[n].probability = probability;
    }
    for organ in [Organ::BrainStem, Organ::SpinalCord] {
        examined.note(organ, Finding::BorderSet { cm3: cm3(least, grid) });
    }
}

/// Planes from `first` on are the upper organ's, those below the lower one's, each with the larger probability of both.
/// In the two planes beside the border the other organ keeps the complement, so that between them both pass one half
/// in the middle, whatever the probabilities are.
fn divide(upper: &mut Array3<f32>, lower: &mut Array3<f32>, first: usize) {
    for (z, (upper, lower)) in upper.axis_iter_mut(Axis(0)).zip(lower.axis_iter_mut(Axis(0))).enumerate() {
        let (owner, other) = if z >= first { (upper, lower) } else { (lower, upper) };
        let beside = z == first || z + 1 == first;
        Zip::from(owner).and(other).for_each(|owner, other| {
            *owner = owner.max(*other);
            *other = if beside { (1.0 - *owner - SLACK).min(*owner).max(0.0) } else { 0.0 };
        });
    }
}

fn common(a: VoxelBox, b: VoxelBox) -> VoxelBox {
    VoxelBox {
        start: std::array::from_fn(|axis| a.start[axis].min(b.start[axis])),
        end: std::array::from_fn(|axis| a.end[axis].max(b.end[axis])),
    }
}

/// Voxels of the organ in each plane of a box around its own.
fn counts(mask: &OrganMask, region: VoxelBox) -> Vec<usize> {
    let mut counts = vec![0; region.shape()[0]];
    for (plane, n) in
        mask.probability.axis_iter(Axis(0)).zip(&mut counts[mask.region.start[0] - region.start[0]..])
    {
        *n = plane.iter().filter(|p| **p >= MASK_THRESHOLD).count();
    }
    counts
}

fn grown(mask: &OrganMask, region: VoxelBox) -> Array3<f32> {
    let mut probability = Array3::zeros(region.shape());
    let [z, y, x] = [0, 1, 2]
        .map(|axis| mask.region.start[axis] - region.start[axis]..mask.region.end[axis] - region.start[axis]);
    probability.slice_mut(s![z, y, x]).assign(&mask.probability);
    probability
}

#[cfg(test)]
mod tests {
    use super::super::bricks::{examined, grid, organ};
    use super::super::n_voxels;
    use super::*;

    const CORD: [std::ops::Range<usize>; 3] = [3..22, 23..27, 30..34];

    fn with(stem: &[[std::ops::Range<usize>; 3]]) -> Examined {
        let mut found = examined(vec![organ(Organ::BrainStem, stem), organ(Organ::SpinalCord, &[CORD])]);
        brain_stem_above_cord(&mut found, &grid());
        found
    }

    /// The stem is 6 x 7 wide from plane 19 on with a tail of 2 x 2 down to 17; the cord, 4 x 4, reaches plane 21. From
    /// plane 19 on: the tail's 2 x 4 voxels and the cord's 3 x 16 change; from 22 on: 2 x 4 + 3 x 42; so it is 19.
    #[test]
    fn the_border_is_the_height_that_moves_least() {
        let found = with(&[[19..30, 22..28, 28..35], [17..19, 24..26, 31..33]]);
        let (stem, cord) = (&found.masks[0], &found.masks[1]);
        let planes = |mask: &OrganMask| {
            let n = counts(mask, VoxelBox::whole([40, 48, 64]));
            (n.iter().position(|n| *n > 0).unwrap(), n.iter().rposition(|n| *n > 0).unwrap())
        };
        assert_eq!((planes(stem), planes(cord)), ((19, 29), (3, 18)));
        assert_eq!((n_voxels(stem), n_voxels(cord)), (11 * 42, 16 * 16));
        assert_eq!(found.findings[&Organ::BrainStem], [Finding::BorderSet { cm3: 0.84 }]);
        // Half way between the planes both are one half, and nowhere more than one together.
        for at in [[18, 24, 31], [19, 24, 31]] {
            let sum = stem.probability[at] + cord.probability[at];
            assert!(sum <= 1.0 && sum > 0.999, "{sum}");
        }
    }

    #[test]
    fn organs_beside_each_other_over_a_long_way_are_marked_and_left() {
        let found = with(&[[8..24, 22..27, 34..38]]);
        assert_eq!(n_voxels(&found.masks[0]), 16 * 20);
        assert_eq!(found.findings[&Organ::SpinalCord], [Finding::BorderUnclear { mm: 42.0 }]);
    }

    #[test]
    fn organs_that_do_not_overlap_in_height_are_left() {
        for first in [22, 25] {
            let found = with(&[[first..33, 22..28, 28..35]]);
            assert!(found.findings.is_empty());
            assert_eq!(n_voxels(&found.masks[1]), 19 * 16);
        }
    }
}
