//! Which tensor of a published checkpoint is which of ours.

use std::path::Path;

use serde::Deserialize;

use super::SettingsError;

/// The table that is shipped, for the published network.
const PUBLISHED: &str = include_str!("../../config/published-uanet.yaml");

/// Names of a checkpoint and ours; see config/published-uanet.yaml.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameTable {
    /// Key of the state dict in the saved dictionary.
    pub state: String,
    /// Convolutions with a batch norm behind them.
    pub normalised: Vec<WithNorm>,
    /// Convolutions with a local contrast norm behind them.
    pub contrast: Vec<WithNorm>,
    /// Weight and bias as they are.
    pub plain: Vec<Plain>,
    /// The organs' own filters.
    pub organs: Plain,
    /// What no forward pass reads.
    pub unused: Vec<Unused>,
}

/// A convolution and its norm.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithNorm {
    /// Their convolution.
    pub conv: String,
    /// Their norm.
    pub norm: String,
    /// Our name of both.
    pub ours: String,
}

/// A layer with weight and bias.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// Their name.
    pub theirs: String,
    /// Our name.
    pub ours: String,
}

/// Tensors that are left alone, by beginning or end of their names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unused {
    /// How their names begin.
    pub begins: Option<String>,
    /// How their names end.
    pub ends: Option<String>,
    /// Why.
    pub why: String,
}

impl Unused {
    /// Whether a name is meant; an entry with neither beginning nor end means none.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        let begins = self.begins.as_ref().is_none_or(|begins| name.starts_with(begins.as_str()));
        let ends = self.ends.as_ref().is_none_or(|ends| name.ends_with(ends.as_str()));
        (self.begins.is_some() || self.ends.is_some()) && begins && ends
    }
}

impl NameTable {
    /// The table of the published network.
    ///
    /// # Panics
    /// Never: the file is part of the program, and a test reads it.
    #[must_use]
    pub fn published() -> Self {
        serde_yaml::from_str(PUBLISHED).expect("the shipped table is read by a test")
    }

    /// A table of one's own.
    ///
    /// # Errors
    /// [`SettingsError`] where it cannot be read or is no such table.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        serde_yaml::from_str(&text).map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })
    }
}
