//! One CT series: gathered, sorted along its normal, checked for a regular grid and one frame of reference.
//!
//! Comes in: instances. Goes out: [`CtSeries`], whose slice k is plane k of its grid.

mod ct_series;
mod error;
mod found;
mod gathering;
mod patient_and_study;
mod regular;
mod selection;
mod slice;

pub use ct_series::{CtSeries, CtSlice};
pub use error::{Aside, AsideReason, Cause, SeriesError, SeriesSummary};
pub use found::{CandidateSeries, FoundSeries};
pub use gathering::{CompleteSeries, Gathered, Gathering, Patience, Question, fingerprint_of};
pub use selection::{
    Answer, Choice, Condition, Explained, InvalidCondition, InvalidWindow, Operator, PassedOver, Priority,
    Rule, Rules, Subject, Test, Window, Written,
};
