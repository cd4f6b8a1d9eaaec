//! How a structure set is written for a destination: the same ROIs in the form that the receiver takes.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::encode::Encoding;
use super::naming::LONGEST_NAME;
use super::structure_set::NotFound;
use crate::pipeline::contours::HoleForm;

/// The form that a destination wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Longest ROI name, characters, 1..=64. Names stay unique without case when they are cut.
    pub longest_name: usize,
    /// Which characters names may have.
    pub names: Names,
    /// Which RT ROI Interpreted Types are written.
    pub types: Types,
    /// How holes are written.
    pub holes: HoleForm,
    /// What becomes of structures that were not found.
    pub not_found: NotFound,
    /// Decimals of a coordinate in mm, 1..=4, along the axes in which a slice lies. What says on which slice a point
    /// lies has four.
    pub decimals: u8,
    /// Transfer syntax.
    pub encoding: Encoding,
    /// Structure Set Label instead of the writer's; at most 16 characters.
    pub label: Option<String>,
    /// A sentence of the site in front of the Structure Set Description.
    pub description: Option<String>,
}

/// Which characters ROI names may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Names {
    /// As the template has them, in the CT's character set; what that cannot hold is refused.
    Template,
    /// ASCII; any other character becomes an underscore.
    Ascii,
}

/// Which RT ROI Interpreted Types are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Types {
    /// As the template has them.
    Template,
    /// ORGAN for everything but a body outline (EXTERNAL).
    Organ,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            longest_name: LONGEST_NAME,
            names: Names::Template,
            types: Types::Template,
            holes: HoleForm::Keyhole,
            not_found: NotFound::LeaveOut,
            decimals: 4,
            encoding: Encoding::Implicit,
            label: None,
            description: None,
        }
    }
}

impl Format {
    /// Names this form in file names: equal for equal forms, over restarts.
    #[must_use]
    pub fn id(&self) -> String {
        let hash = Sha256::digest(format!("{self:?}"));
        hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}
