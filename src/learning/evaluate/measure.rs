//! What is measured, one name for tables, files and plots.

use super::Comparison;

/// A number that a comparison gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Dice similarity.
    Dice,
    /// Surface DSC at 1 mm.
    SurfaceDice1,
    /// Surface DSC at 2 mm.
    SurfaceDice2,
    /// Surface DSC at 3 mm.
    SurfaceDice3,
    /// 95 % Hausdorff distance.
    Hd95,
    /// 95 % Hausdorff distance of the outlines, as the reference implementation takes it.
    OutlineHd95,
    /// Hausdorff distance.
    Hd,
    /// Mean distance of the borders.
    MeanDistance,
    /// Added path length.
    AddedPath,
    /// Volume difference, part of the truth.
    VolumeDifference,
}

impl Measure {
    /// All of them, as tables show them.
    pub const ALL: [Self; 10] = [
        Self::Dice,
        Self::SurfaceDice1,
        Self::SurfaceDice2,
        Self::SurfaceDice3,
        Self::Hd95,
        Self::OutlineHd95,
        Self::Hd,
        Self::MeanDistance,
        Self::AddedPath,
        Self::VolumeDifference,
    ];

    /// Its value, `None` where the comparison has none.
    #[must_use]
    pub fn of(self, c: &Comparison) -> Option<f64> {
        match self {
            Self::Dice => c.dice,
            Self::SurfaceDice1 => c.surface_dice.map(|of| of[0]),
            Self::SurfaceDice2 => c.surface_dice.map(|of| of[1]),
            Self::SurfaceDice3 => c.surface_dice.map(|of| of[2]),
            Self::Hd95 => c.distances.map(|d| d.hd95_mm),
            Self::OutlineHd95 => c.distances.map(|d| d.outline_hd95_mm),
            Self::Hd => c.distances.map(|d| d.largest_mm),
            Self::MeanDistance => c.distances.map(|d| d.mean_mm),
            Self::AddedPath => Some(c.added_path.length_mm),
            Self::VolumeDifference => c.volume_difference(),
        }
    }

    /// Its name in files, with its unit.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Dice => "dice",
            Self::SurfaceDice1 => "surface_dice_1_mm",
            Self::SurfaceDice2 => "surface_dice_2_mm",
            Self::SurfaceDice3 => "surface_dice_3_mm",
            Self::Hd95 => "hd95_mm",
            Self::OutlineHd95 => "outline_hd95_mm",
            Self::Hd => "hd_mm",
            Self::MeanDistance => "mean_surface_distance_mm",
            Self::AddedPath => "added_path_mm",
            Self::VolumeDifference => "volume_difference",
        }
    }

    /// Its name for a person.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dice => "DSC",
            Self::SurfaceDice1 => "surface DSC, 1 mm",
            Self::SurfaceDice2 => "surface DSC, 2 mm",
            Self::SurfaceDice3 => "surface DSC, 3 mm",
            Self::Hd95 => "95 % HD, mm",
            Self::OutlineHd95 => "95 % HD of outlines, mm",
            Self::Hd => "HD, mm",
            Self::MeanDistance => "mean distance, mm",
            Self::AddedPath => "added path, mm",
            Self::VolumeDifference => "volume difference, part",
        }
    }

    /// Digits behind the point that mean something.
    #[must_use]
    pub fn digits(self) -> usize {
        match self {
            Self::Dice
            | Self::SurfaceDice1
            | Self::SurfaceDice2
            | Self::SurfaceDice3
            | Self::VolumeDifference => 3,
            Self::Hd95 | Self::OutlineHd95 | Self::Hd | Self::MeanDistance => 2,
            Self::AddedPath => 0,
        }
    }
}
