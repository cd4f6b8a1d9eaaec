//! Surface DSC: the part of both surfaces that lies within a tolerance of the other.
//!
//! Source: Nikolov et al. 2021, Clinically applicable segmentation of head and neck anatomy for radiotherapy. A piece
//! of surface sits at a corner between eight voxels, has the area of [`super::surfel`], and its distance is that to the
//! nearest corner with a piece of the other surface.

use super::border::Padded;
use super::nearest::nearest_mm;
use super::surfel::surfel_areas_mm2;

/// Tolerances at which the surface DSC is given, mm.
pub const TOLERANCES_MM: [f64; 3] = [1.0, 2.0, 3.0];

/// Two lengths that differ by less are the same: far below any spacing, far above rounding, mm.
const ROUNDING_MM: f64 = 1e-9;

/// Surface DSC at each of [`TOLERANCES_MM`], 0..=1; 0 where one mask is empty, `None` where both are.
pub(super) fn surface_dice(a: &Padded, b: &Padded, spacing_mm: [f64; 3]) -> Option<[f64; 3]> {
    let areas = surfel_areas_mm2(spacing_mm);
    let ((corners_a, codes_a), (corners_b, codes_b)) = (a.corners(), b.corners());
    let (mut whole, mut within) = (0.0, [0.0; 3]);
    for (from, codes, to) in [(&corners_a, codes_a, &corners_b), (&corners_b, codes_b, &corners_a)] {
        for (distance_mm, code) in nearest_mm(from, to, spacing_mm).into_iter().zip(codes) {
            let area = areas[usize::from(code)];
            whole += area;
            for (sum, tolerance_mm) in within.iter_mut().zip(TOLERANCES_MM) {
                if distance_mm <= tolerance_mm + ROUNDING_MM {
                    *sum += area;
                }
            }
        }
    }
    (whole > 0.0).then(|| within.map(|area| area / whole))
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::vocabulary::space::{RegionMask, VoxelBox};

    fn voxel(x: usize) -> Padded {
        let region = VoxelBox { start: [4, 2, x], end: [5, 3, x + 1] };
        Padded::of(&RegionMask { region, voxels: Array3::from_elem([1; 3], true) })
    }

    /// A voxel of 3 x 3 x 1.5 mm and the same one 1.5 mm along x: half of the corners meet, the others lie 1.5 mm off.
    #[test]
    fn a_voxel_beside_itself() {
        let found = surface_dice(&voxel(5), &voxel(6), [3.0, 3.0, 1.5]).unwrap();
        for (found, wanted) in found.into_iter().zip([0.5, 1.0, 1.0]) {
            assert!((found - wanted).abs() < 1e-12, "{found}");
        }
    }

    #[test]
    fn empty_masks_are_told_apart() {
        let region = VoxelBox { start: [0; 3], end: [0; 3] };
        let empty = Padded::of(&RegionMask { region, voxels: Array3::from_elem([0; 3], false) });
        assert_eq!(surface_dice(&empty, &empty, [1.0; 3]), None);
        assert_eq!(surface_dice(&empty, &voxel(3), [1.0; 3]), Some([0.0; 3]));
        assert_eq!(surface_dice(&voxel(3), &empty, [1.0; 3]), Some([0.0; 3]));
    }
}
