//! The voxels of one structure, kept only where they are.

use ndarray::{Array3, ArrayView3, s};

use super::VoxelBox;

/// A binary mask on some grid, stored inside a box of it: voxel `(z, y, x)` of the grid is
/// `voxels[[z - start_z, y - start_y, x - start_x]]`, and everything outside the box is not in the mask.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionMask {
    /// The part of the grid that `voxels` covers.
    pub region: VoxelBox,
    /// Membership, axes `(z, y, x)`, shape of `region`.
    pub voxels: Array3<bool>,
}

impl RegionMask {
    /// Cuts a whole-grid mask down to the box of its voxels; an empty mask has an empty region.
    #[must_use]
    pub fn from_whole(whole: ArrayView3<'_, bool>) -> Self {
        let region = VoxelBox::around(whole, |row| {
            let first = row.iter().position(|inside| *inside)?;
            Some([first, row.iter().rposition(|inside| *inside).unwrap_or(first)])
        });
        let VoxelBox { start, end } = region;
        let voxels = whole.slice(s![start[0]..end[0], start[1]..end[1], start[2]..end[2]]).to_owned();
        Self { region, voxels }
    }

    /// The mask on a whole grid of this shape.
    ///
    /// # Panics
    /// If the region reaches beyond the shape: it would belong to another grid.
    #[must_use]
    pub fn to_whole(&self, shape: [usize; 3]) -> Array3<bool> {
        let mut whole = Array3::from_elem(shape, false);
        let VoxelBox { start, end } = self.region;
        whole.slice_mut(s![start[0]..end[0], start[1]..end[1], start[2]..end[2]]).assign(&self.voxels);
        whole
    }

    /// Whether a voxel of the grid is in the mask.
    #[must_use]
    pub fn contains(&self, voxel: [usize; 3]) -> bool {
        let local =
            std::array::from_fn::<usize, 3, _>(|axis| voxel[axis].wrapping_sub(self.region.start[axis]));
        self.voxels.get(local).copied().unwrap_or(false)
    }

    /// Number of voxels in the mask.
    #[must_use]
    pub fn n_voxels(&self) -> usize {
        self.voxels.iter().filter(|inside| **inside).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_down_and_spreading_out_is_the_same_mask() {
        let mut whole = Array3::from_elem([5, 7, 11], false);
        for voxel in [[1, 2, 3], [3, 6, 4]] {
            whole[voxel] = true;
        }
        let mask = RegionMask::from_whole(whole.view());
        assert_eq!(mask.region, VoxelBox { start: [1, 2, 3], end: [4, 7, 5] });
        assert_eq!(mask.to_whole([5, 7, 11]), whole);
        assert!(mask.contains([3, 6, 4]) && !mask.contains([3, 6, 3]) && !mask.contains([0, 2, 3]));
        assert_eq!(RegionMask::from_whole(Array3::from_elem([2, 3, 4], false).view()).n_voxels(), 0);
    }
}
