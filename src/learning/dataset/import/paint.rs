//! Masks of structures into one volume of organ sets.

use std::collections::BTreeMap;

use ndarray::{Array3, s};

use super::fault::Fault;
use super::naming::Sorted;
use crate::learning::dataset::OrganSet;
use crate::settings::DatasetMap;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, RegionMask, VoxelBox, VoxelPoint};

/// Why a structure has no voxel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nothing {
    /// Nothing is drawn, which the format would not write for an organ that is not there.
    Empty(&'static str),
    /// All of it lies outside the image.
    Outside,
    /// The format says in this way that the organ is not there, or that nobody looked for it.
    Absent,
}

/// A structure of theirs on the grid of the image.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) name: String,
    pub(super) mask: Result<RegionMask, Nothing>,
}

/// The organs of a case.
#[derive(Debug)]
pub(super) struct Painted {
    /// Bits of an [`OrganSet`] per voxel, shape of the image.
    pub(super) organs: Array3<u32>,
    /// Those with a voxel.
    pub(super) present: OrganSet,
    /// Which structures each organ was made of.
    pub(super) from: BTreeMap<Organ, Vec<String>>,
    pub(super) faults: Vec<Fault>,
}

/// Each side of a pair has at least this part of its voxels.
const LEAST_SIDE: f64 = 0.1;

/// Paints the organs; an organ with a part missing stays out.
pub(super) fn paint(sorted: &Sorted, drawn: &[Drawn], grid: &Grid, map: &DatasetMap) -> Painted {
    let mut painted = Painted {
        organs: Array3::zeros(grid.shape()),
        present: OrganSet::EMPTY,
        from: BTreeMap::new(),
        faults: Vec::new(),
    };
    for (organ, indices) in &sorted.organs {
        let masks: Vec<Option<&RegionMask>> =
            indices.iter().map(|index| painted.mask_or_fault(&drawn[*index], *organ)).collect();
        let masks: Option<Vec<&RegionMask>> = masks.into_iter().collect();
        for mask in masks.iter().flatten() {
            painted.add(*organ, mask);
        }
        if masks.is_some() {
            painted.from.insert(*organ, indices.iter().map(|index| drawn[*index].name.clone()).collect());
        }
    }
    for (pair, index) in &sorted.pairs {
        let (pair, structure) = (&map.pairs[*pair], &drawn[*index]);
        let Some(mask) = painted.mask_or_fault(structure, pair.left) else { continue };
        match left_and_right(mask, grid) {
            Some([left, right]) => {
                for (organ, mask) in [(pair.left, left), (pair.right, right)] {
                    painted.add(organ, &mask);
                    painted.from.insert(organ, vec![structure.name.clone()]);
                }
            }
            None => painted.faults.push(Fault::NoGap { name: structure.name.clone() }),
        }
    }
    painted
}

impl Painted {
    fn mask_or_fault<'d>(&mut self, structure: &'d Drawn, organ: Organ) -> Option<&'d RegionMask> {
        let (name, organ) = (structure.name.clone(), organ.key());
        match &structure.mask {
            Ok(mask) => return Some(mask),
            Err(Nothing::Empty(why)) => self.faults.push(Fault::EmptyOrgan { name, organ, why }),
            Err(Nothing::Outside) => self.faults.push(Fault::OutsideImage { name, organ }),
            Err(Nothing::Absent) => {}
        }
        None
    }

    fn add(&mut self, organ: Organ, mask: &RegionMask) {
        let bit = OrganSet::of(organ).bits();
        if mask.voxels.iter().any(|inside| *inside) {
            self.present = self.present.union(OrganSet::of(organ));
        }
        let VoxelBox { start, end } = mask.region;
        let mut part = self.organs.slice_mut(s![start[0]..end[0], start[1]..end[1], start[2]..end[2]]);
        part.iter_mut().zip(&mask.voxels).filter(|(_, inside)| **inside).for_each(|(bits, _)| *bits |= bit);
    }
}

/// The two parts of a mask beside the widest gap across the patient, left first; `None` without a gap or where one side
/// is next to nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bin between the mask's two ends"
)]
fn left_and_right(mask: &RegionMask, grid: &Grid) -> Option<[RegionMask; 2]> {
    let start = mask.region.start;
    let x_mm = |(z, y, x): (usize, usize, usize)| {
        let [z, y, x] = [z + start[0], y + start[1], x + start[2]].map(|index| index as f64);
        grid.patient_from_voxel(VoxelPoint { z, y, x }).x
    };
    let places: Vec<f64> =
        mask.voxels.indexed_iter().filter(|(_, inside)| **inside).map(|(at, _)| x_mm(at)).collect();
    let low = places.iter().copied().fold(f64::MAX, f64::min);
    let high = places.iter().copied().fold(f64::MIN, f64::max);
    // A voxel is no wider than this in any direction, so bins of this width have no gap where the mask has none.
    let [z, y, x] = grid.directions();
    let width_mm = [z, y, x].iter().zip(grid.spacing_mm()).map(|(d, mm)| d.x.abs() * mm).sum::<f64>();
    let bin = |mm: f64| ((mm - low) / width_mm + 0.5) as usize;
    let mut counts = vec![0_usize; if places.is_empty() { 0 } else { bin(high) + 1 }];
    places.iter().for_each(|mm| counts[bin(*mm)] += 1);
    let filled: Vec<usize> = (0..counts.len()).filter(|bin| counts[*bin] > 0).collect();
    let gaps = filled.windows(2).map(|pair| (pair[1] - pair[0] - 1, pair[0] + 1));
    let (length, first) = gaps.max().filter(|(length, _)| *length > 0)?;
    let middle_mm = low + (first as f64 + length as f64 / 2.0 - 0.5) * width_mm;
    let n_left = places.iter().filter(|mm| **mm > middle_mm).count();
    let share = n_left as f64 / places.len() as f64;
    if !(LEAST_SIDE..=1.0 - LEAST_SIDE).contains(&share) {
        return None;
    }
    let side = |is_left: bool| {
        let mut voxels = mask.voxels.clone();
        voxels.indexed_iter_mut().for_each(|(at, inside)| *inside &= (x_mm(at) > middle_mm) == is_left);
        RegionMask { region: mask.region, voxels }
    };
    Some([side(true), side(false)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::{PatientPoint, PatientVector};

    /// A prone patient: columns run to the right, so the left organ has the lower column.
    #[test]
    fn a_pair_is_split_by_the_patients_sides() {
        let directions = [
            PatientVector::lps(0.0, 0.0, 1.0),
            PatientVector::lps(0.0, -1.0, 0.0),
            PatientVector::lps(-1.0, 0.0, 0.0),
        ];
        let grid =
            Grid::new([3, 4, 20], [2.0, 1.1, 1.3], PatientPoint::lps_mm(9.0, 5.0, 0.0), directions).unwrap();
        let mut whole = Array3::from_elem([3, 4, 20], false);
        whole.slice_mut(s![0..2, 1..3, 2..5]).fill(true); // 12 voxels at the left
        whole.slice_mut(s![1..3, 1..4, 11..16]).fill(true); // 30 at the right
        let mask = RegionMask::from_whole(whole.view());
        let [left, right] = left_and_right(&mask, &grid).unwrap();
        assert_eq!((left.n_voxels(), right.n_voxels()), (12, 30));
        assert!(left.to_whole(grid.shape())[[0, 1, 3]] && !right.to_whole(grid.shape())[[0, 1, 3]]);
        whole.slice_mut(s![1..2, 2..3, 5..11]).fill(true);
        assert_eq!(left_and_right(&RegionMask::from_whole(whole.view()), &grid), None);
        let mut one = Array3::from_elem([3, 4, 20], false);
        one.slice_mut(s![0..3, 0..4, 12..19]).fill(true);
        one[[0, 0, 2]] = true;
        assert_eq!(left_and_right(&RegionMask::from_whole(one.view()), &grid), None);
    }
}
