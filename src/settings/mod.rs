//! YAML to checked values; the only place that knows YAML.

pub mod audit;
mod checkpoint_names;
mod dataset_map;
pub mod destinations;
mod doubt;
mod formats;
mod manifest;
mod notifications;
mod organs;
mod rules;
pub mod service;
pub mod store;
mod synthetic;
mod templates;
pub mod tls;
mod train;
mod yaml;

use std::path::PathBuf;

use crate::pipeline::anatomy::CalibrationError;

pub use checkpoint_names::{NameTable, OrganFilters, Plain, Unused, WithNorm};
pub use dataset_map::{DatasetMap, FilePattern, Join, Pair};
pub use doubt::{calibration_of_text, text_of_calibration};
pub use manifest::{CLOSE_UP, DoorEntry, GraphEntry, Manifest, ModelEntry};
pub(crate) use organs::plain;
pub use organs::{OrganEntry, StructureTemplate};
pub use rules::{InvalidRule, load_rules};
pub use service::ServiceSettings;
pub use synthetic::Synthetic;
pub use templates::{Template, USUAL_TEMPLATE, is_shipped};
pub use train::{
    Augment, DatasetSource, Heads, NormStatistics, Optimizer, Precision, Rhythm, Sources, TrainRecipe,
};

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Missing or unreadable.
    #[error("cannot read the settings {path}: check the path and its permissions")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A map of names that is neither shipped nor a file.
    #[error("there is no map {}: name a file, or one of those that are shipped: {shipped}", path.display())]
    NoMap {
        /// What was asked for.
        path: PathBuf,
        /// The shipped ones.
        shipped: String,
        /// Why it is no file.
        #[source]
        source: std::io::Error,
    },
    /// A structure template that is neither shipped nor a file.
    #[error(
        "there is no structure template {name}: name a file, or one of those that are shipped: {shipped}"
    )]
    NoTemplate {
        /// What was asked for.
        name: String,
        /// The shipped ones.
        shipped: String,
        /// Why it is no file.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML, an unknown key, or a value of another type.
    #[error("{path} is not as the example in config/ shows: correct the line that is named")]
    Yaml {
        /// Which file.
        path: PathBuf,
        /// Line and reason.
        #[source]
        source: serde_yaml::Error,
    },
    /// A calibration that is none.
    #[error("{path} is no calibration")]
    Calibration {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<CalibrationError>,
    },
    /// A rule that cannot be.
    #[error("the rules in {path} cannot be used")]
    Rule {
        /// Which file.
        path: PathBuf,
        /// Which rule, and why.
        #[source]
        source: Box<InvalidRule>,
    },
    /// A value that is not allowed.
    #[error("{path}: {key} is {found}, allowed: {allowed}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is there.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}
