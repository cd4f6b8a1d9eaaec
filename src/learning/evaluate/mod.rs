//! How near a prediction comes to the truth, and what a report says about it.
//!
//! Comes in: two masks on one grid. Goes out: [`Comparison`]; over many cases, [`Summary`] and [`report`].
//! Every definition stands in `docs/evaluation.md`.

mod added_path;
mod bootstrap;
mod border;
mod comparison;
mod doubt;
mod held_out;
mod measure;
mod nearest;
mod overlap;
pub mod report;
mod summary;
mod surface_dice;
mod surface_distance;
mod surfel;

pub use added_path::AddedPath;
pub use bootstrap::{RESAMPLES, SEED};
pub use comparison::{Comparison, Outcome, compare};
pub use doubt::{BAD_DICE, Band, DoubtReport, Judged, TooFewRows, calibrate};
pub use held_out::{HeldOut, HeldOutError, TruthCase};
pub use measure::Measure;
pub use overlap::dice;
pub use summary::{Estimate, Spread, Summary, mean_over_organs};
pub use surface_dice::TOLERANCES_MM;
pub use surface_distance::SurfaceDistances;
