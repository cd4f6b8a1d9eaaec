//! What a structure set says, before any tag.

use serde::Deserialize;
use time::OffsetDateTime;

use crate::pipeline::contours::RoiContours;
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};
use crate::vocabulary::organ::Organ;

/// A coded concept (PS3.3 8.8), such as SCT 7771000 Left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodedConcept {
    /// Code Value (0008,0100).
    pub value: String,
    /// Coding Scheme Designator (0008,0102).
    pub scheme: String,
    /// Code Meaning (0008,0104), at most 64 characters.
    pub meaning: String,
}

/// What an ROI is to a planning system (RT ROI Interpreted Type, PS3.3 C.8.8.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InterpretedType {
    /// An organ.
    #[default]
    Organ,
    /// The patient's outline.
    External,
    /// Where dose is to be kept low, such as a planning organ at risk volume.
    Avoidance,
    /// A cavity, such as the oral cavity's air.
    Cavity,
    /// A volume that steers the optimisation or the evaluation.
    Control,
    /// A region of dose.
    DoseRegion,
    /// Couch and the like.
    Support,
    /// Mask and the like.
    Fixation,
}

impl InterpretedType {
    /// The defined term.
    #[must_use]
    pub fn term(self) -> &'static str {
        match self {
            Self::Organ => "ORGAN",
            Self::External => "EXTERNAL",
            Self::Avoidance => "AVOIDANCE",
            Self::Cavity => "CAVITY",
            Self::Control => "CONTROL",
            Self::DoseRegion => "DOSE_REGION",
            Self::Support => "SUPPORT",
            Self::Fixation => "FIXATION",
        }
    }
}

/// One region of interest to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Roi {
    /// Name wanted; each destination's [`super::Format`] makes it fit.
    pub name: String,
    /// Our organ, where it is one.
    pub organ: Option<Organ>,
    /// ROI Display Color: red, green, blue.
    pub color: [u8; 3],
    /// What it is to a planning system.
    pub interpreted_type: InterpretedType,
    /// What it is, for RT ROI Identification Code Sequence.
    pub code: Option<CodedConcept>,
    /// Its side, as a modifier of `code`.
    pub laterality: Option<CodedConcept>,
    /// Where it is, holes as rings of their own ([`crate::pipeline::contours::HoleForm::Xor`]); empty means not found.
    pub contours: RoiContours,
    /// Why a person should look at it, or why it is not there; `None`: nothing stands out.
    pub remark: Option<String>,
}

/// What becomes of an organ that was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotFound {
    /// It is left out and named in the Structure Set Description.
    #[default]
    LeaveOut,
    /// It is an ROI without contours that says so, and is named too.
    EmptyRoi,
}

/// How the contours came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A model drew them.
    Model {
        /// Name in the registry.
        name: String,
        /// SHA-256 of its graphs, as the registry gives it.
        fingerprint: String,
        /// Execution provider that ran: CPU or CUDA.
        provider: String,
    },
    /// Masks of another tool, converted.
    Masks {
        /// What was converted, without a path.
        source: String,
    },
}

/// What the writer of a structure set decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Structure Set Label, at most 16 characters; a longer one is cut.
    pub label: String,
    /// How the contours came to be.
    pub origin: Origin,
}

/// New identity of a structure set: the same on a retry, another for another result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Series Instance UID of the new series.
    pub series_instance_uid: SeriesInstanceUid,
    /// SOP Instance UID of the structure set.
    pub sop_instance_uid: SopInstanceUid,
    /// When it was made, local time.
    pub made: OffsetDateTime,
}

impl Identity {
    /// A new identity from a source of random bits, made at this time.
    #[must_use]
    pub fn mint(mut bits: impl FnMut() -> u128, made: OffsetDateTime) -> Self {
        Self {
            series_instance_uid: SeriesInstanceUid::mint(bits()),
            sop_instance_uid: SopInstanceUid::mint(bits()),
            made,
        }
    }
}

/// How the remark of an ROI without contours begins; the gate lets no other empty ROI pass.
pub(super) const NOT_FOUND_REMARK: &str = "not found";

/// A structure set before it is written in any form.
#[derive(Debug, Clone)]
pub struct StructureSet {
    pub(super) series: CtSeries,
    pub(super) rois: Vec<Roi>,
    pub(super) description: Description,
    pub(super) identity: Identity,
    /// Specific Character Set of names where the CT has none; see [`StructureSet::in_character_set`].
    pub(super) character_set: Option<String>,
}

impl StructureSet {
    /// Says what is to be written, found or not. How names, holes and what was not found leave is each destination's
    /// format.
    #[must_use]
    pub fn describe(series: &CtSeries, rois: Vec<Roi>, description: Description, identity: Identity) -> Self {
        Self { series: series.clone(), rois, description, identity, character_set: None }
    }

    /// Names in this Specific Character Set where the CT has none of its own and no text that is not ASCII.
    #[must_use]
    pub fn in_character_set(self, character_set: Option<String>) -> Self {
        Self { character_set, ..self }
    }

    /// The ROIs, found or not, under the names that are wanted.
    #[must_use]
    pub fn rois(&self) -> &[Roi] {
        &self.rois
    }

    /// Structure Set Description (ST, 1024 characters): the site's sentence, warning, origin, what is missing, what needs a look.
    pub(super) fn text(&self, of_site: Option<&str>, doubtful: &[&str]) -> String {
        let mut text = of_site.map_or_else(String::new, |sentence| format!("{sentence} "));
        text += &format!("Research, not for clinical use. Made by Oarlock {}", env!("CARGO_PKG_VERSION"));
        match &self.description.origin {
            Origin::Model { name, fingerprint, provider } => {
                text += &format!(" with model {name} ({fingerprint}) on {provider}.");
            }
            Origin::Masks { source } => text += &format!(" from masks: {source}."),
        }
        let is_missing = |roi: &&Roi| roi.contours.contours.is_empty();
        let missing: Vec<&str> = self.rois.iter().filter(is_missing).map(|roi| roi.name.as_str()).collect();
        if !missing.is_empty() {
            text += &format!(" Not found: {}.", missing.join(", "));
        }
        if !doubtful.is_empty() {
            text += &format!(" Check first: {}.", doubtful.join(", "));
        }
        one_line(&text, 1024)
    }

    /// ROI Description (ST, 1024 characters): why to look, or that nothing was found; `None` where there is nothing to
    /// say. (ROI Observation Label and Description are retired.)
    pub(super) fn remark(roi: &Roi) -> Option<String> {
        let remark = roi.remark.as_deref();
        let text = match (roi.contours.contours.is_empty(), remark) {
            (true, None) => NOT_FOUND_REMARK.to_owned(),
            (true, Some(remark)) => format!("{NOT_FOUND_REMARK}: {remark}"),
            (false, None) => return None,
            (false, Some(remark)) => format!("check: {remark}"),
        };
        Some(ascii(&text, 1024))
    }

    /// ROI Generation Description (LO, 64 characters) of an ROI: [`Self::generation_text`], with a word in front where it needs a look.
    pub(super) fn generation_text_of(&self, roi: &Roi) -> String {
        let text = self.generation_text();
        if needs_a_look(roi) { ascii(&format!("CHECK. {text}"), 64) } else { text }
    }

    /// Series Description (LO, 64 characters): the warning and what made the contours.
    pub(super) fn generation_text(&self) -> String {
        let origin = match &self.description.origin {
            Origin::Model { name, fingerprint, provider } => {
                let short: String = fingerprint.chars().take(8).collect();
                let name: String = name.chars().take(10).collect();
                let provider: String = provider.chars().take(6).collect();
                format!("{name} {short} {provider}")
            }
            Origin::Masks { .. } => "converted masks".to_owned(),
        };
        ascii(&format!("Research, not for clinical use: {origin}"), 64)
    }
}

pub(super) fn needs_a_look(roi: &Roi) -> bool {
    roi.remark.is_some() && !roi.contours.contours.is_empty()
}

/// At most so many characters without control characters and the backslash that separates values.
fn one_line(text: &str, longest: usize) -> String {
    let allowed = |c: char| if c.is_control() || c == '\\' { '_' } else { c };
    text.chars().map(allowed).take(longest).collect()
}

/// At most so many characters of the default character set, without the backslash that separates values.
fn ascii(text: &str, longest: usize) -> String {
    let allowed = |c: char| if c.is_ascii_graphic() && c != '\\' || c == ' ' { c } else { '_' };
    text.chars().map(allowed).take(longest).collect()
}
