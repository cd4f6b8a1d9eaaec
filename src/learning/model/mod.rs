//! Stored models: graphs, weights, manifest, card.
//!
//! A folder of models is a `manifest.yaml` with the files it names. Goes out: [`StoredModel`], whose graphs have the
//! hashes that the manifest states.

mod from_weights;
pub mod import;
mod registry;
mod shipped;
mod store;
pub mod verify;

pub use registry::{ModelListing, ModelRegistry, StoredGraph, StoredModel};
pub use store::{NewGraph, NewModel};

use std::path::PathBuf;

use crate::settings::SettingsError;

/// Why a model cannot be used or stored.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No such name.
    #[error("no model {name} in {searched}; known: {known}: choose one of these, or train it")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        searched: String,
        /// What there is.
        known: String,
    },
    /// The manifest is wrong.
    #[error(
        "the manifest of the models in {folder} cannot be used: put the shipped one back, or train again"
    )]
    Manifest {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: SettingsError,
    },
    /// The calibration is wrong.
    #[error(
        "{name}.doubt.yaml beside the model {name} cannot be used: remove it, or make it again with oarlock evaluate \
         --calibrate"
    )]
    Calibration {
        /// Which model.
        name: String,
        /// Why.
        #[source]
        source: Box<SettingsError>,
    },
    /// A file is missing or unwritable.
    #[error("cannot {operation} {path}: check that it is there, the permissions and the free space")]
    File {
        /// Which operation.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not the bytes that were stored.
    #[error(
        "{file} of model {name} has SHA-256 {found}, the manifest says {stated}: the file was changed or damaged, \
         put back the folder as it was delivered"
    )]
    Hash {
        /// Which model.
        name: String,
        /// Which file.
        file: String,
        /// SHA-256 of the bytes.
        found: String,
        /// SHA-256 in the manifest.
        stated: String,
    },
}
