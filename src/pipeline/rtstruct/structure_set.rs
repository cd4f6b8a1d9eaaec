//! What a structure set says, before any tag.

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

/// A structure set ready to be encoded: names fit, empty ROIs are named and not written.
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
    /// Says what is to be written: ROIs without contours are left out and named in the description, names are cut
    /// to 16 characters, unique whatever their case, and every change is a note.
    #[must_use]
    pub fn describe(series: &CtSeries, rois: Vec<Roi>, description: Description, identity: Identity) -> Self {
        let (found, missing): (Vec<Roi>, Vec<Roi>) =
            rois.into_iter().partition(|roi| !roi.contours.contours.is_empty());
        let wanted: Vec<&str> = found.iter().map(|roi| roi.name.as_str()).collect();
        let (names, mut notes) = fit_names(&wanted);
        let rois = found.into_iter().zip(names).map(|(roi, name)| Roi { name, ..roi }).collect();
        let missing: Vec<String> = missing.into_iter().map(|roi| roi.name).collect();
        if !missing.is_empty() {
            notes.push(format!("left out, nothing found: {}", missing.join(", ")));
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

    /// Structure Set Description (ST, 1024 characters): warning, origin, what is missing.
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
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' }).take(1024).collect()
    }

    /// ROI Generation Description (LO, 64 characters).
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
        let text = format!("Research, not for clinical use: {origin}");
        text.chars()
            .map(|c| if c.is_ascii_graphic() && c != '\\' || c == ' ' { c } else { '_' })
            .take(64)
            .collect()
    }
}
