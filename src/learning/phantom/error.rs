//! Why a phantom cannot be made.

use std::path::PathBuf;

/// What is wrong with what was asked for, or with the disk.
#[derive(Debug, thiserror::Error)]
pub enum PhantomError {
    /// Not one of the eight codes of PS3.3 C.7.3.1.1.2 for a patient on a table.
    #[error("patient position {found:?} is unknown: give one of HFS, HFP, HFDL, HFDR, FFS, FFP, FFDL, FFDR")]
    Position {
        /// What was given.
        found: String,
    },
    /// Numbers that make no scan.
    #[error("{what} is {found}, wanted {wanted}")]
    Geometry {
        /// Which number.
        what: &'static str,
        /// What was given.
        found: String,
        /// What is possible.
        wanted: &'static str,
    },
    /// No encoder.
    #[error("CT cannot be written as {uid}: choose one of {}", super::WRITABLE_TRANSFER_SYNTAXES.join(", "))]
    TransferSyntax {
        /// What was asked for.
        uid: String,
    },
    /// The atlas is not there or has another form.
    #[error("the atlas file {path} cannot be used: {reason}")]
    Atlas {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A folder that must be empty holds something: its files would mix with ours in one series.
    #[error("{path} is not empty: name a new folder, so that no other series mixes with the phantom")]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// A data set could not be encoded.
    #[error("an instance of the phantom could not be encoded; please report this")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk.
    #[error("cannot write {path}: check free space and permissions")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
