//! An instance that was kept, and what it says about its series.

use std::path::PathBuf;

use super::data_set::{self, Keep, Outline};
use super::part10;
use crate::vocabulary::dicom::{AeTitle, SeriesInstanceUid, SopClassUid, SopInstanceUid, StudyInstanceUid};

/// An instance that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInstance {
    /// The Part 10 file, or its name in a bucket; the data set in it is byte for byte what was sent.
    pub path: PathBuf,
    /// SOP Class UID (0008,0016).
    pub sop_class_uid: SopClassUid,
    /// SOP Instance UID (0008,0018).
    pub sop_instance_uid: SopInstanceUid,
    /// Series Instance UID (0020,000E).
    pub series_instance_uid: SeriesInstanceUid,
    /// What it says about its series.
    pub clue: Clue,
}

/// What an instance says about its series: who sends it, and whether it is whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clue {
    /// Who sent it.
    pub calling_ae_title: Option<AeTitle>,
    /// Study Instance UID (0020,000D).
    pub study_instance_uid: Option<StudyInstanceUid>,
    /// Image Position along the normal of Image Orientation, mm.
    pub position_mm: Option<f64>,
    /// Number of Series Related Instances (0020,1209).
    pub n_related: Option<u32>,
    /// Whether Image Type (0008,0008) says so; it lies in a plane of its own.
    pub is_localizer: bool,
}

/// Bit for bit, so that a clue can be compared like the rest of an instance.
impl Eq for Clue {}

impl Clue {
    /// One that cannot be read any more is for the contouring to refuse, with the reason.
    pub(super) fn of_file(file: part10::Part10<'_>, max_inflated_bytes: u64) -> Option<Self> {
        let syntax = file.transfer_syntax_uid.as_str();
        let outline = data_set::outline(file.data_set, syntax, max_inflated_bytes, Keep::Values).ok()?;
        Some(Self::of(&outline, file.source_ae_title))
    }

    pub(super) fn of(outline: &Outline, calling_ae_title: Option<AeTitle>) -> Self {
        let numbers = |tag| -> Option<Vec<f64>> {
            outline
                .text(tag)
                .split('\\')
                .map(|n| n.trim().parse().ok().filter(|n: &f64| n.is_finite()))
                .collect()
        };
        let along_normal = |position: &[f64], orientation: &[f64]| {
            let ([px, py, pz], [rx, ry, rz, cx, cy, cz]) = (position, orientation) else { return None };
            let normal = [ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx];
            Some(px * normal[0] + py * normal[1] + pz * normal[2])
        };
        let position = numbers(data_set::IMAGE_POSITION);
        let orientation = numbers(data_set::IMAGE_ORIENTATION);
        Self {
            calling_ae_title,
            study_instance_uid: outline.text(data_set::STUDY_INSTANCE_UID).parse().ok(),
            position_mm: position.zip(orientation).and_then(|(p, o)| along_normal(&p, &o)),
            n_related: outline.text(data_set::NUMBER_OF_SERIES_RELATED_INSTANCES).trim().parse().ok(),
            is_localizer: outline
                .text(data_set::IMAGE_TYPE)
                .split('\\')
                .any(|value| value.trim() == "LOCALIZER"),
        }
    }
}
