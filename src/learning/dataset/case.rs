//! One patient as annotated.

use ndarray::Array3;

use super::OrganSet;
use crate::vocabulary::space::Grid;

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
        OrganSet::from_bits(self.organs.iter().fold(0, |bits, voxel| bits | voxel))
    }
}
