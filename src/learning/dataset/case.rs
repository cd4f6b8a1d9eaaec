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
        OrganSet::from_bits(self.organs.rows().into_iter().fold(0, |bits, row| bits | union(row)))
    }

    /// The smallest box that holds every organ; empty, at the first voxel, where there is none.
    #[must_use]
    pub fn organ_region(&self) -> VoxelBox {
        VoxelBox::around(self.organs.view(), |row| {
            if union(row) == 0 {
                return None;
            }
            let inside = |bits: &u32| *bits != 0;
            Some([row.iter().position(inside)?, row.iter().rposition(inside)?])
        })
    }
}

/// The bits of a row together; of a contiguous one many at a time.
pub(super) fn union(row: ArrayView1<'_, u32>) -> u32 {
    match row.to_slice() {
        Some(row) => row.iter().fold(0, |bits, voxel| bits | voxel),
        None => row.iter().fold(0, |bits, voxel| bits | voxel),
    }
}
