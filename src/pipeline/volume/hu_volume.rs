//! Hounsfield units on a grid.

use ndarray::Array3;

use crate::vocabulary::space::Grid;

/// A CT volume: Hounsfield units, rounded to whole ones, axes `(z, y, x)`, shape of `grid`.
#[derive(Debug, Clone, PartialEq)]
pub struct HuVolume {
    /// Hounsfield units.
    pub hu: Array3<i16>,
    /// Where the voxels lie.
    pub grid: Grid,
}
