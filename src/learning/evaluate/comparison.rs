//! One organ, truth against prediction.

use super::{SurfaceDistances, dice, surface_distances};
use crate::vocabulary::space::{Grid, RegionMask};

/// What is said about one organ of one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Dice similarity, 0..=1; `None` where both masks are empty.
    pub dice: Option<f64>,
    /// Distances of the borders; `None` where one mask is empty.
    pub distances: Option<SurfaceDistances>,
    /// Volume of the truth, mm3.
    pub truth_mm3: f64,
    /// Volume of the prediction, mm3.
    pub predicted_mm3: f64,
}

/// Compares two masks on this grid.
#[must_use]
pub fn compare(truth: &RegionMask, predicted: &RegionMask, grid: &Grid) -> Comparison {
    let volume_mm3 = |mask: &RegionMask| mask.n_voxels() as f64 * grid.voxel_volume_mm3();
    Comparison {
        dice: dice(truth, predicted),
        distances: surface_distances(truth, predicted, grid.spacing_mm()),
        truth_mm3: volume_mm3(truth),
        predicted_mm3: volume_mm3(predicted),
    }
}
