//! What is done about an error: the one place that decides.

use std::error::Error;

/// What is done about a series that could not be contoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The series itself is the cause: it is recorded with the reason and left until it changes.
    Refuse,
    /// The machine is the cause (memory, a missing library or model): tried again, and after the next start.
    Retry,
}

/// Why a series has no structure set.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct ContourFailure {
    /// What is done about it.
    pub remedy: Remedy,
    /// Why.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl ContourFailure {
    /// The series is the cause.
    pub fn refuse(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { remedy: Remedy::Refuse, cause: cause.into() }
    }

    /// The machine is the cause.
    pub fn retry(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { remedy: Remedy::Retry, cause: cause.into() }
    }
}
