//! What a structure set says, before any tag.

use serde::Deserialize;
use time::OffsetDateTime;

use super::naming::fit_names;
use crate::pipeline::contours::{HoleForm, RoiContours};
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

/// One region of interest to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Roi {
    /// Name wanted; [`StructureSet::describe`] makes it fit.
    pub name: String,
    /// Our organ, where it is one.
    pub organ: Option<Organ>,
    /// ROI Display Color: red, green, blue.
    pub color: [u8; 3],
    /// What it is, for RT ROI Identification Code Sequence.
    pub code: Option<CodedConcept>,
    /// Its side, as a modifier of `code`.
    pub laterality: Option<CodedConcept>,
    /// Where it is; empty means not found.
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
    /// How holes were written: decides Contour Geometric Type.
    pub holes: HoleForm,
    /// What becomes of organs that were not found.
    pub not_found: NotFound,
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

/// A structure set ready to be encoded: names fit, what was not found is named.
#[derive(Debug, Clone)]
pub struct StructureSet {
    pub(super) series: CtSeries,
    pub(super) rois: Vec<Roi>,
    pub(super) description: Description,
    pub(super) identity: Identity,
    missing: Vec<String>,
    notes: Vec<String>,
}

impl StructureSet {
    /// Says what is to be written: ROIs without contours are left out or written empty, and named in the description;
    /// names are cut to 16 characters, unique whatever their case, and every change is a note.
    #[must_use]
    pub fn describe(series: &CtSeries, rois: Vec<Roi>, description: Description, identity: Identity) -> Self {
        let is_found = |roi: &Roi| !roi.contours.contours.is_empty();
        let missing: Vec<String> =
            rois.iter().filter(|roi| !is_found(roi)).map(|roi| roi.name.clone()).collect();
        let written = |roi: &Roi| is_found(roi) || description.not_found == NotFound::EmptyRoi;
        let written: Vec<Roi> = rois.into_iter().filter(written).collect();
        let wanted: Vec<&str> = written.iter().map(|roi| roi.name.as_str()).collect();
        let (names, mut notes) = fit_names(&wanted);
        let rois: Vec<Roi> = written.into_iter().zip(names).map(|(roi, name)| Roi { name, ..roi }).collect();
        if !missing.is_empty() {
            let what = match description.not_found {
                NotFound::LeaveOut => "left out, nothing found",
                NotFound::EmptyRoi => "without contours, nothing found",
            };
            notes.push(format!("{what}: {}", missing.join(", ")));
        }
        Self { series: series.clone(), rois, description, identity, missing, notes }
    }

    /// What was changed or left out, one sentence each, for the person who asked.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The ROIs that will be written, under the names that will be written.
    #[must_use]
    pub fn rois(&self) -> &[Roi] {
        &self.rois
    }

    /// Structure Set Description (ST, 1024 characters): warning, origin, what is missing, what needs a look.
    pub(super) fn text(&self) -> String {
        let mut text =
            format!("Research, not for clinical use. Made by Oarlock {}", env!("CARGO_PKG_VERSION"));
        match &self.description.origin {
            Origin::Model { name, fingerprint, provider } => {
                text += &format!(" with model {name} ({fingerprint}) on {provider}.");
            }
            Origin::Masks { source } => text += &format!(" from masks: {source}."),
        }
        if !self.missing.is_empty() {
            text += &format!(" Not found: {}.", self.missing.join(", "));
        }
        let doubtful: Vec<&str> =
            self.rois.iter().filter(|roi| needs_a_look(roi)).map(|roi| roi.name.as_str()).collect();
        if !doubtful.is_empty() {
            text += &format!(" Check first: {}.", doubtful.join(", "));
        }
        ascii(&text, 1024)
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

fn needs_a_look(roi: &Roi) -> bool {
    roi.remark.is_some() && !roi.contours.contours.is_empty()
}

/// At most so many characters of the default character set, without the backslash that separates values.
fn ascii(text: &str, longest: usize) -> String {
    let allowed = |c: char| if c.is_ascii_graphic() && c != '\\' || c == ' ' { c } else { '_' };
    text.chars().map(allowed).take(longest).collect()
}
