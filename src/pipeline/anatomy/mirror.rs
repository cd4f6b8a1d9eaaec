//! The patient in the mirror: a network that knows anatomy answers alike.

use ndarray::s;

use crate::pipeline::network::OrganMask;
use crate::pipeline::volume::NetworkInput;

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

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::vocabulary::organ::Organ;
    use crate::vocabulary::space::{Grid, PatientPoint, VoxelBox};

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
}
