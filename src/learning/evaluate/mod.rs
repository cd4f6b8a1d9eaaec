//! Overlap and surface distances between truth and prediction.
//!
//! Comes in: two masks on one grid. Goes out: [`Comparison`]; over many cases, [`Summary`].

mod comparison;
mod distance_field;
mod doubt;
mod held_out;
mod overlap;
mod summary;
mod surface_distance;

pub use comparison::{Comparison, compare};
pub use doubt::{BAD_DICE, Band, DoubtReport, Judged, TooFewRows, calibrate};
pub use held_out::{HeldOut, HeldOutError, TruthCase};
pub use overlap::dice;
pub use summary::{Spread, Summary};
pub use surface_distance::{SurfaceDistances, surface_distances};
