//! Ua-Net at work: proposals, refinement, mask heads.
//!
//! Comes in: `NetworkInput`. Goes out: at most one [`OrganMask`] per organ.

use ndarray::Array3;

use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

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
