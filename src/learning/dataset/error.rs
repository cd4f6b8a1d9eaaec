//! Why a case cannot be used.

use std::path::PathBuf;

/// What is wrong with a case or a folder of cases.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: check that the data folder is complete and readable")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not NIfTI, or broken.
    #[error("{path} is no readable NIfTI-1 volume: fetch it again")]
    Nifti {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: nifti::NiftiError,
    },
    /// A file of a data set of ours.
    #[error("{} is damaged: import the case again", path.display())]
    Stored {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::convert::ConvertError,
    },
    /// The content breaks the layout.
    #[error("{path}: expected {wanted}, found {found}: leave this case out or correct it")]
    Layout {
        /// Which file.
        path: PathBuf,
        /// What the layout asks for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// Nothing to train on.
    #[error("{path} lists no patient: name a folder with a manifest.csv of at least one patient")]
    Empty {
        /// Which manifest.
        path: PathBuf,
    },
}
