//! Which tensor of a published checkpoint is which of ours.

use std::path::Path;

use serde::Deserialize;

use super::{SettingsError, StructureTemplate};
use crate::vocabulary::organ::Organ;

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
    /// The organs' own filters, and which organs there are.
    pub organs: OrganFilters,
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

/// A filter of its own for each organ; `{class}` in the name stands for its number, from one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrganFilters {
    /// Their name, with `{class}`.
    pub theirs: String,
    /// Our name of all.
    pub ours: String,
    /// The organs in the order of the checkpoint's classes, from class one; without it the 28 in ours.
    #[serde(default)]
    pub classes: Vec<String>,
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

    /// The organs in the order of the checkpoint's classes, from class one.
    ///
    /// # Errors
    /// Says which name is none of the 28 organs (names and synonyms of config/organs.yaml count), or stands twice.
    pub fn classes(&self) -> Result<Vec<Organ>, String> {
        if self.organs.classes.is_empty() {
            return Ok(Organ::ALL.to_vec());
        }
        let names = StructureTemplate::shipped().map_err(|error| error.to_string())?;
        let mut classes = Vec::new();
        for name in &self.organs.classes {
            let organ = names.organ_named(name).map(|entry| entry.organ);
            let organ = organ.ok_or_else(|| format!("{name} is none of the 28 organs"))?;
            if classes.contains(&organ) {
                return Err(format!("{name} stands twice"));
            }
            classes.push(organ);
        }
        Ok(classes)
    }

    /// A table of one's own.
    ///
    /// # Errors
    /// [`SettingsError`] where it cannot be read or is no such table.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        super::yaml::from_str(&text).map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organs_of_a_table_are_found_by_any_of_their_names() {
        let mut table = NameTable::published();
        assert_eq!(table.classes().unwrap(), Organ::ALL);
        table.organs.classes = ["Mandible", "parotid_LT", "Brainstem"].map(str::to_owned).to_vec();
        assert_eq!(table.classes().unwrap(), [Organ::Mandible, Organ::ParotidL, Organ::BrainStem]);
        table.organs.classes.push("Brain stem".to_owned());
        assert!(table.classes().unwrap_err().contains("Brain stem stands twice"));
        table.organs.classes[1] = "Nose".to_owned();
        assert!(table.classes().unwrap_err().contains("Nose"));
    }
}
