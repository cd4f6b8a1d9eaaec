//! Ua-Net at work: proposals, refinement, mask heads.
//!
//! Comes in: `NetworkInput`. Goes out: at most one [`OrganMask`] per organ. The line: the trunk's maps, [`proposals`],
//! [`roi_pool`], [`refinement`], and a mask head in the box of each detection. Boxes are [`NetworkBox`]es.

pub mod anchors;
pub mod box_coding;
mod mask_head;
mod network_box;
pub mod proposals;
pub mod refinement;
pub mod roi_pool;
mod segment;
pub mod suppression;

use ndarray::Array3;

pub(crate) use mask_head::crop;
pub use mask_head::mask_box;
pub use network_box::NetworkBox;
pub use segment::{ModelGraphs, Network, NetworkError, Trace};

use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

/// A voxel is organ from this probability on.
pub const MASK_THRESHOLD: f32 = 0.5;

/// One organ found: its probabilities inside a box of the network grid.
#[derive(Debug, Clone, PartialEq)]
pub struct OrganMask {
    /// Which organ.
    pub organ: Organ,
    /// Probability that the classifier gave the box, 0..=1.
    pub detection_probability: f32,
    /// The box, in voxels of the network grid.
    pub region: VoxelBox,
    /// Probability that a voxel is organ, 0..=1, axes `(z, y, x)`, shape of `region`.
    pub probability: Array3<f32>,
}

/// A number of the preset as the network computes with it.
#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}
