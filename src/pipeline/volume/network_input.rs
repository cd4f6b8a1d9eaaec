//! What the network sees, and where that lies in the patient.

use ndarray::Array3;

use crate::vocabulary::space::Grid;

/// The network's input: `2 (hu + 1024) / 4100 - 1`, axes `(z, y, x)`, sides multiples of 16 (padded with -1),
/// and the grid it lies on, which is the way back to the patient.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkInput {
    /// Normalised values.
    pub tensor: Array3<f32>,
    /// The network grid, padding included; its shape is the tensor's.
    pub grid: Grid,
}
