//! Dice similarity.

use ndarray::{ArrayView3, s};

use crate::vocabulary::space::{RegionMask, VoxelBox};

/// Dice similarity coefficient `2 |A and B| / (|A| + |B|)`, 0..=1; `None` where both masks are empty.
///
/// Source: Dice 1945; Tang et al. 2019, Methods. Both masks count voxels of the same grid.
#[must_use]
pub fn dice(a: &RegionMask, b: &RegionMask) -> Option<f64> {
    let total = a.n_voxels() + b.n_voxels();
    (total > 0).then(|| 2.0 * common(a, b) as f64 / total as f64)
}

/// Voxels in both.
fn common(a: &RegionMask, b: &RegionMask) -> usize {
    let region = VoxelBox {
        start: std::array::from_fn(|axis| a.region.start[axis].max(b.region.start[axis])),
        end: std::array::from_fn(|axis| a.region.end[axis].min(b.region.end[axis])),
    };
    if region.is_empty() {
        return 0;
    }
    part(a, region).iter().zip(part(b, region)).filter(|(a, b)| **a && **b).count()
}

/// The voxels of a mask in a box inside its region.
fn part(mask: &RegionMask, region: VoxelBox) -> ArrayView3<'_, bool> {
    let from = mask.region.start;
    let [z, y, x] = [0, 1, 2].map(|axis| region.start[axis] - from[axis]..region.end[axis] - from[axis]);
    mask.voxels.slice(s![z, y, x])
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    fn brick(start: [usize; 3], shape: [usize; 3]) -> RegionMask {
        let end = std::array::from_fn(|axis| start[axis] + shape[axis]);
        RegionMask { region: VoxelBox { start, end }, voxels: Array3::from_elem(shape, true) }
    }

    /// 2 x 3 x 4 = 24 voxels, moved by (1, 1, 2): 1 x 2 x 2 = 4 in common; 2 * 4 / 48.
    #[test]
    fn bricks_overlap_as_counted_by_hand() {
        let (a, b) = (brick([1, 2, 3], [2, 3, 4]), brick([2, 3, 5], [2, 3, 4]));
        assert!((dice(&a, &b).unwrap() - 8.0 / 48.0).abs() < 1e-15);
        assert!((dice(&a, &a).unwrap() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn empty_masks_are_told_apart() {
        let empty = brick([0; 3], [0; 3]);
        assert_eq!(dice(&empty, &empty), None);
        assert_eq!(dice(&empty, &brick([1, 2, 3], [2, 3, 4])), Some(0.0));
        assert_eq!(dice(&brick([0, 0, 0], [1, 1, 1]), &brick([5, 0, 0], [1, 1, 1])), Some(0.0));
    }
}
