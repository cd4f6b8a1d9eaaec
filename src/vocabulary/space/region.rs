//! Boxes of whole voxels.

/// A box of voxels `(z, y, x)`, half-open: `start` is inside, `end` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VoxelBox {
    /// First voxel on each axis.
    pub start: [usize; 3],
    /// One past the last voxel on each axis.
    pub end: [usize; 3],
}

impl VoxelBox {
    /// The box that covers a whole grid of this shape.
    #[must_use]
    pub fn whole(shape: [usize; 3]) -> Self {
        Self { start: [0; 3], end: shape }
    }

    /// Voxels on each axis; zero where the box is empty or inverted.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.end[axis].saturating_sub(self.start[axis]))
    }

    /// Whether it holds no voxel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }
}
