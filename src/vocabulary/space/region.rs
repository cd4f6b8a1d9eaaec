//! Boxes of whole voxels.

use ndarray::{ArrayView1, ArrayView3};

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

    /// The smallest box that holds the marked voxels of a whole grid, `span` giving the first and last of a row of x; empty,
    /// at the first voxel, where none is marked.
    pub(crate) fn around<V>(
        voxels: ArrayView3<'_, V>,
        span: impl Fn(ArrayView1<'_, V>) -> Option<[usize; 2]>,
    ) -> Self {
        let (mut start, mut end) = ([usize::MAX; 3], [0; 3]);
        for (z, plane) in voxels.outer_iter().enumerate() {
            for (y, row) in plane.outer_iter().enumerate() {
                let Some(x) = span(row) else { continue };
                for (axis, [low, high]) in [[z, z], [y, y], x].into_iter().enumerate() {
                    start[axis] = start[axis].min(low);
                    end[axis] = end[axis].max(high + 1);
                }
            }
        }
        Self { start: if end == [0; 3] { end } else { start }, end }
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
