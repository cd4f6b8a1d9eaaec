//! Where things are: points, grids, boxes and masks, with the frame in the type.

mod grid;
mod mask;
mod pieces;
mod point;
mod region;

pub use grid::{Grid, InvalidGrid};
pub use mask::RegionMask;
pub use pieces::{Piece, pieces};
pub use point::{PatientPoint, PatientVector, VoxelIndex, VoxelPoint};
pub use region::VoxelBox;
