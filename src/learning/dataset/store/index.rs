//! The index of a data set: `dataset.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::OrganSet;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, InvalidGrid, PatientPoint};

/// The form of index and files.
pub(super) const FORMAT: &str = "oarlock-dataset-1";

/// What a case is for; all cases of a patient are for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To train on.
    Train,
    /// To choose the checkpoint.
    Validation,
    /// To measure the finished model, once.
    Test,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// Which patients are for what, and how that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRule {
    /// Seed of the draw.
    pub seed: u64,
    /// Part of the patients that choose the checkpoint.
    pub validation: f64,
    /// Part of the patients that measure the model.
    pub test: f64,
}

impl Default for SplitRule {
    fn default() -> Self {
        Self { seed: 1, validation: 0.1, test: 0.2 }
    }
}

/// All that is known of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub(super) format: String,
    /// Licences and sources, for model cards; cases name them by place.
    pub notices: Vec<String>,
    /// How the patients were drawn.
    pub split: SplitRule,
    /// The cases, in order of id.
    pub cases: Vec<CaseEntry>,
}

/// A case in the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseEntry {
    /// Its folder below `cases`: letters, digits, `-`, `_`.
    pub id: String,
    /// Whose it is: a number, or the name of the case.
    pub patient: String,
    /// What it is for; `None` between an import that was cut off and the next.
    pub part: Option<Part>,
    /// The layout that it came in.
    pub layout: String,
    /// Place of its licence among the notices.
    pub notice: Option<usize>,
    /// Voxels `(z, y, x)`.
    pub shape: [usize; 3],
    /// Spacing `(z, y, x)`, mm.
    pub spacing_mm: [f64; 3],
    /// Centre of voxel (0, 0, 0): x, y, z, LPS, mm. The axes run to superior, posterior and left.
    pub origin_mm: [f64; 3],
    /// The annotated organs, by key.
    pub organs: BTreeMap<String, OrganEntry>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// SHA-256 of `image.nii`.
    pub image_sha256: String,
    /// SHA-256 of `organs.nii.gz`.
    pub organs_sha256: String,
}

/// An annotated organ of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrganEntry {
    /// Volume, cm3.
    pub cm3: f64,
    /// Structures that it was made of.
    pub from: Vec<String>,
    /// Why the drawing is doubted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// Whether it counts as not annotated because of a doubt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub set_aside: bool,
}

impl CaseEntry {
    /// Where its voxels lie.
    ///
    /// # Errors
    /// [`InvalidGrid`] where somebody changed the numbers.
    pub fn grid(&self) -> Result<Grid, InvalidGrid> {
        let [x, y, z] = self.origin_mm;
        Grid::axial(self.shape, self.spacing_mm, PatientPoint::lps_mm(x, y, z))
    }

    /// Organs that somebody drew.
    #[must_use]
    pub fn drawn(&self) -> OrganSet {
        self.set_of(|_| true)
    }

    /// Organs that were drawn and are believed.
    #[must_use]
    pub fn believed(&self) -> OrganSet {
        self.set_of(|organ| !organ.set_aside)
    }

    fn set_of(&self, wanted: impl Fn(&OrganEntry) -> bool) -> OrganSet {
        let organs = self.organs.iter().filter(|(_, entry)| wanted(entry));
        let organs = organs.filter_map(|(key, _)| Organ::from_key(key));
        organs.fold(OrganSet::EMPTY, |set, organ| set.union(OrganSet::of(organ)))
    }

    /// What is wrong with the entry itself.
    pub(super) fn objection(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.id.is_empty() || !self.id.chars().all(plain) {
            return Some(format!("the id {:?} of a case", self.id));
        }
        if let Some(key) = self.organs.keys().find(|key| Organ::from_key(key).is_none()) {
            return Some(format!("the organ {key:?} of {}", self.id));
        }
        self.grid().err().map(|error| format!("the grid of {} ({error})", self.id))
    }
}
