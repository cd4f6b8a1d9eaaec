//! Added path length: how much outline a person would have to draw anew.
//!
//! Source: Vaassen et al. 2020, Evaluation of measures for assessing time-saving of automatic organ-at-risk
//! segmentation in radiotherapy (no tolerance).

use super::border::Padded;

/// Outline of the truth, in the planes of the image, that the prediction's outline does not share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AddedPath {
    /// Outline voxels: those with one of four neighbours in the plane outside.
    pub voxels: usize,
    /// The voxels times the side of a square of a pixel's area, mm.
    pub length_mm: f64,
}

/// The outline of `truth` that is not in the outline of `predicted`; all of it where nothing was predicted.
pub(super) fn added_path(truth: &Padded, predicted: &Padded, spacing_mm: [f64; 3]) -> AddedPath {
    let there = predicted.outline();
    let voxels = truth.outline().iter().filter(|voxel| there.binary_search(voxel).is_err()).count();
    let [_, row_mm, column_mm] = spacing_mm;
    AddedPath { voxels, length_mm: voxels as f64 * (row_mm * column_mm).sqrt() }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::vocabulary::space::{RegionMask, VoxelBox};

    /// Two planes of 3 rows and 4 columns, outline 10 of 12. Moved by one column the outlines share three voxels of the
    /// first and the last row: 4 of 10 are added in each plane. A pixel of 0.8 x 1.25 mm has the area of one of 1 mm.
    #[test]
    fn a_brick_moved_by_a_column() {
        let brick = |x: usize| {
            let region = VoxelBox { start: [3, 5, x], end: [5, 8, x + 4] };
            Padded::of(&RegionMask { region, voxels: Array3::from_elem([2, 3, 4], true) })
        };
        let spacing = [2.5, 0.8, 1.25];
        let added = added_path(&brick(7), &brick(8), spacing);
        assert_eq!(added.voxels, 8);
        assert!((added.length_mm - 8.0).abs() < 1e-12);
        assert_eq!(added_path(&brick(7), &brick(7), spacing).voxels, 0);
        let region = VoxelBox { start: [0; 3], end: [0; 3] };
        let empty = Padded::of(&RegionMask { region, voxels: Array3::from_elem([0; 3], false) });
        assert_eq!(added_path(&brick(7), &empty, spacing).voxels, 20);
        assert_eq!(added_path(&empty, &brick(7), spacing).voxels, 0);
    }
}
