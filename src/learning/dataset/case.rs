//! One patient as annotated.

use ndarray::{Array3, ArrayView1};

use super::OrganSet;
use crate::vocabulary::space::{Grid, VoxelBox};

/// CT and masks of one patient, only over slices that have CT.
///
/// An organ outside `annotated` may be anywhere in the volume: its absence from `organs` says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What messages call it.
    pub name: String,
    /// Hounsfield units, axes `(z, y, x)`, shape of `grid`; -1024 outside the patient.
    pub hu: Array3<i16>,
    /// Per voxel the bits of an [`OrganSet`], axes and shape of `hu`.
    pub organs: Array3<u32>,
    /// Organs that somebody looked for and drew.
    pub annotated: OrganSet,
    /// Where the voxels lie; axial, x to the left, y to posterior, z to superior.
    pub grid: Grid,
}

impl Case {
    /// The set of organs with at least one voxel.
    #[must_use]
    pub fn present(&self) -> OrganSet {
        OrganSet::from_bits(self.organs.rows().into_iter().fold(0, |bits, row| bits | any(row)))
    }

    /// The smallest box that holds every organ; empty, at the first voxel, where there is none.
    #[must_use]
    pub fn organ_region(&self) -> VoxelBox {
        let (mut start, mut end) = ([usize::MAX; 3], [0; 3]);
        for (z, plane) in self.organs.outer_iter().enumerate() {
            for (y, row) in plane.outer_iter().enumerate().filter(|(_, row)| any(*row) != 0) {
                let inside = |bits: &u32| *bits != 0;
                let first = row.iter().position(inside).unwrap_or(0);
                let last = row.iter().rposition(inside).unwrap_or(0);
                for (axis, [low, high]) in [[z, z], [y, y], [first, last]].into_iter().enumerate() {
                    start[axis] = start[axis].min(low);
                    end[axis] = end[axis].max(high + 1);
                }
            }
        }
        VoxelBox { start: if end == [0; 3] { end } else { start }, end }
    }
}

/// The bits of a row together; of a contiguous one many at a time.
fn any(row: ArrayView1<'_, u32>) -> u32 {
    match row.to_slice() {
        Some(row) => row.iter().fold(0, |bits, voxel| bits | voxel),
        None => row.iter().fold(0, |bits, voxel| bits | voxel),
    }
}
