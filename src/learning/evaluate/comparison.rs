//! One organ, truth against prediction.

use super::added_path::{AddedPath, added_path};
use super::border::Padded;
use super::overlap::dice;
use super::surface_dice::surface_dice;
use super::surface_distance::{SurfaceDistances, surface_distances};
use crate::vocabulary::space::{Grid, RegionMask};

/// What is said about one organ of one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Dice similarity, 0..=1; `None` where both masks are empty.
    pub dice: Option<f64>,
    /// Surface DSC at [`super::TOLERANCES_MM`], 0..=1; `None` where both masks are empty.
    pub surface_dice: Option<[f64; 3]>,
    /// Distances of the borders; `None` where one mask is empty.
    pub distances: Option<SurfaceDistances>,
    /// Outline of the truth that is missing in the prediction.
    pub added_path: AddedPath,
    /// Volume of the truth, mm3.
    pub truth_mm3: f64,
    /// Volume of the prediction, mm3.
    pub predicted_mm3: f64,
}

/// Which of the two masks has voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both.
    Found,
    /// Only the truth.
    Missed,
    /// Only the prediction.
    Invented,
    /// None.
    BothEmpty,
}

impl Outcome {
    /// One word for tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Missed => "missed",
            Self::Invented => "invented",
            Self::BothEmpty => "both empty",
        }
    }
}

impl Comparison {
    /// Which of the two masks has voxels.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.truth_mm3 > 0.0, self.predicted_mm3 > 0.0) {
            (true, true) => Outcome::Found,
            (true, false) => Outcome::Missed,
            (false, true) => Outcome::Invented,
            (false, false) => Outcome::BothEmpty,
        }
    }

    /// Prediction less truth, as a part of the truth: -1 where it was missed, `None` without a truth.
    #[must_use]
    pub fn volume_difference(&self) -> Option<f64> {
        (self.truth_mm3 > 0.0).then(|| (self.predicted_mm3 - self.truth_mm3) / self.truth_mm3)
    }
}

/// Compares two masks on this grid.
#[must_use]
pub fn compare(truth: &RegionMask, predicted: &RegionMask, grid: &Grid) -> Comparison {
    let volume_mm3 = |mask: &RegionMask| mask.n_voxels() as f64 * grid.voxel_volume_mm3();
    let (a, b) = (Padded::of(truth), Padded::of(predicted));
    let spacing_mm = grid.spacing_mm();
    Comparison {
        dice: dice(truth, predicted),
        surface_dice: surface_dice(&a, &b, spacing_mm),
        distances: surface_distances(&a, &b, spacing_mm),
        added_path: added_path(&a, &b, spacing_mm),
        truth_mm3: volume_mm3(truth),
        predicted_mm3: volume_mm3(predicted),
    }
}
