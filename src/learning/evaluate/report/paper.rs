//! What the paper reports, of the organs whose rows are at hand.
//!
//! Source: Tang et al. 2019, data set 1: DSC in percent and 95 % Hausdorff distance in mm.

use crate::vocabulary::organ::Organ;

/// Whose figures a row holds, in its order.
pub(super) const COLUMNS: [&str; 4] = ["MAS", "AnatomyNet", "Ua-Net", "human"];

/// A row of each of the two tables.
pub(super) struct PaperRow {
    pub(super) organ: Organ,
    /// Percent.
    pub(super) dice: [f64; 4],
    /// Millimetres.
    pub(super) hd95_mm: [f64; 4],
}

const fn row(organ: Organ, dice: [f64; 4], hd95_mm: [f64; 4]) -> PaperRow {
    PaperRow { organ, dice, hd95_mm }
}

pub(super) const ROWS: [PaperRow; 5] = [
    row(Organ::BrachialPlexus, [30.38, 50.41, 56.15, 33.03], [30.73, 37.97, 18.27, 43.20]),
    row(Organ::BrainStem, [82.25, 82.63, 86.25, 83.25], [6.62, 5.30, 4.75, 5.04]),
    row(Organ::ConstrictorNaris, [66.38, 73.68, 75.46, 62.34], [9.49, 8.14, 5.71, 12.92]),
    row(Organ::EarL, [70.38, 76.68, 77.28, 43.57], [9.81, 25.88, 5.04, 11.08]),
    row(Organ::EarR, [70.03, 78.77, 78.64, 39.71], [9.01, 23.28, 4.67, 13.44]),
];
