//! The patient in the mirror: a network that knows anatomy answers alike.

use ndarray::{Array3, s};

use super::signs::agreement;
use crate::pipeline::network::OrganMask;
use crate::pipeline::volume::NetworkInput;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

/// The input with left and right exchanged, on the same grid.
#[must_use]
pub fn mirrored(input: &NetworkInput) -> NetworkInput {
    let tensor = input.tensor.slice(s![.., .., ..;-1]).as_standard_layout().into_owned();
    NetworkInput { tensor, grid: input.grid.clone() }
}

/// Masks found in a mirrored input of this width, back in the patient, under the names of the organs' partners, in class order.
///
/// # Panics
/// If a box reaches beyond the width: it would come from another input.
#[must_use]
pub fn mirrored_back(masks: Vec<OrganMask>, width: usize) -> Vec<OrganMask> {
    let mut back: Vec<OrganMask> = masks
        .into_iter()
        .map(|mut mask| {
            let (start, end) = (mask.region.start[2], mask.region.end[2]);
            mask.region.start[2] = width - end;
            mask.region.end[2] = width - start;
            mask.organ = mask.organ.mirrored();
            mask.probability = mask.probability.slice(s![.., .., ..;-1]).as_standard_layout().into_owned();
            mask
        })
        .collect();
    back.sort_by_key(|mask| mask.organ);
    back
}

/// Below this the two answers are of different places, and their mean would be of neither: DSC.
const LEAST_AGREEMENT: f64 = 0.3;

/// What both answers say together, in class order: the mean of the probabilities where both found an organ in one place, the
/// likelier of two places, the only one of one.
#[must_use]
pub fn merged(masks: &[OrganMask], mirror: &[OrganMask]) -> Vec<OrganMask> {
    let of = |masks: &[OrganMask], organ: Organ| masks.iter().find(|mask| mask.organ == organ).cloned();
    let both = |organ| match (of(masks, organ), of(mirror, organ)) {
        (Some(a), Some(b)) if agreement(&a, Some(&b)) >= LEAST_AGREEMENT => Some(mean(&a, &b)),
        (Some(a), Some(b)) => Some(if b.detection_probability > a.detection_probability { b } else { a }),
        (a, b) => a.or(b),
    };
    Organ::ALL.into_iter().filter_map(both).collect()
}

/// Outside of its box an answer is zero.
fn mean(a: &OrganMask, b: &OrganMask) -> OrganMask {
    let axes = [0, 1, 2];
    let start = axes.map(|axis: usize| a.region.start[axis].min(b.region.start[axis]));
    let end = axes.map(|axis: usize| a.region.end[axis].max(b.region.end[axis]));
    let mut probability = Array3::zeros(axes.map(|axis| end[axis] - start[axis]));
    for mask in [a, b] {
        let [z, y, x] =
            axes.map(|axis| mask.region.start[axis] - start[axis]..mask.region.end[axis] - start[axis]);
        probability.slice_mut(s![z, y, x]).scaled_add(0.5, &mask.probability);
    }
    let detection_probability = 0.5 * (a.detection_probability + b.detection_probability);
    OrganMask { organ: a.organ, detection_probability, region: VoxelBox { start, end }, probability }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::{Grid, PatientPoint};

    #[test]
    fn a_mask_comes_back_to_its_place_under_its_name() {
        let tensor = Array3::from_shape_fn([3, 5, 16], |(z, y, x)| (100 * z + 20 * y + x) as f32);
        let grid = Grid::axial([3, 5, 16], [3.0, 2.5, 2.5], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        let input = NetworkInput { tensor, grid };
        let mirror = mirrored(&input);
        assert_eq!(mirror.tensor[[1, 2, 3]], input.tensor[[1, 2, 12]]);
        assert_eq!(mirrored(&mirror), input);
        // What a network would find of the values themselves, in columns 2..7 of the mirror.
        let region = VoxelBox { start: [1, 1, 2], end: [3, 4, 7] };
        let found = |organ| OrganMask {
            organ,
            detection_probability: 0.8,
            region,
            probability: mirror.tensor.slice(s![1..3, 1..4, 2..7]).to_owned(),
        };
        let back = mirrored_back(vec![found(Organ::EyeL), found(Organ::Larynx), found(Organ::LensR)], 16);
        let organs: Vec<Organ> = back.iter().map(|mask| mask.organ).collect();
        assert_eq!(organs, [Organ::EyeR, Organ::Larynx, Organ::LensL]);
        assert_eq!((back[0].region.start, back[0].region.end), ([1, 1, 9], [3, 4, 14]));
        assert_eq!(back[0].probability, input.tensor.slice(s![1..3, 1..4, 9..14]));
    }

    #[test]
    fn two_answers_are_averaged_where_they_agree_and_the_likelier_stands_where_they_do_not() {
        let mask = |organ, start: [usize; 3], detection_probability, row: [f32; 3]| OrganMask {
            organ,
            detection_probability,
            region: VoxelBox { start, end: [start[0] + 1, start[1] + 1, start[2] + 3] },
            probability: Array3::from_shape_vec((1, 1, 3), row.to_vec()).unwrap(),
        };
        let masks = [
            mask(Organ::EyeL, [2, 3, 4], 0.9, [0.2, 0.8, 0.6]),
            mask(Organ::LensL, [2, 3, 4], 0.4, [0.9, 0.9, 0.9]),
            mask(Organ::Larynx, [9, 9, 9], 0.7, [0.1, 0.9, 0.1]),
        ];
        let mirror = [
            mask(Organ::EyeL, [2, 3, 5], 0.7, [1.0, 0.6, 0.4]),
            mask(Organ::LensL, [7, 3, 4], 0.6, [0.7, 0.7, 0.7]),
            mask(Organ::Trachea, [1, 1, 1], 0.5, [0.6, 0.7, 0.8]),
        ];
        let both = merged(&masks, &mirror);
        let organs: Vec<Organ> = both.iter().map(|mask| mask.organ).collect();
        assert!(organs.is_sorted() && organs.len() == 4, "{organs:?}");
        let of = |organ| both.iter().find(|mask| mask.organ == organ).unwrap();
        let eye = of(Organ::EyeL);
        assert_eq!(eye.region, VoxelBox { start: [2, 3, 4], end: [3, 4, 8] });
        let means = [0.1, 0.9, 0.6, 0.2];
        assert!(eye.probability.iter().zip(means).all(|(p, mean)| (p - mean).abs() < 1e-6), "{eye:?}");
        assert!((eye.detection_probability - 0.8).abs() < 1e-6);
        assert_eq!(*of(Organ::LensL), mirror[1]);
        assert_eq!((of(Organ::Larynx), of(Organ::Trachea)), (&masks[2], &mirror[2]));
    }
}
