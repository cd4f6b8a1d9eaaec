//! The gate before sending: rules that planning systems enforce and validators do not know.

use std::collections::{BTreeMap, BTreeSet};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::encode::Encoding;
use super::naming::LONGEST_NAME;
use super::structure_set::NOT_FOUND_REMARK;
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::space::PatientPoint;

/// A contour lies this close to its image plane, mm: coordinates are rounded to 0.0001 mm, three of them.
const PLANE_TOLERANCE_MM: f64 = 2e-4;

/// Longest value of a VR with a 16-bit length field (PS3.5 7.1.2).
const LONGEST_EXPLICIT_VALUE: usize = 65534;

/// Attributes that must have a value (type 1) at top level.
const TYPE_1: [Tag; 8] = [
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::MODALITY,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::FRAME_OF_REFERENCE_UID,
    tags::STRUCTURE_SET_LABEL,
    tags::APPROVAL_STATUS,
];

/// Attributes that must be there, empty or not (type 2).
const TYPE_2: [Tag; 15] = [
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::MANUFACTURER,
    tags::OPERATORS_NAME,
    tags::SERIES_NUMBER,
    tags::POSITION_REFERENCE_INDICATOR,
    tags::STRUCTURE_SET_DATE,
    tags::STRUCTURE_SET_TIME,
];

/// Every broken rule of a structure set that refers to `series`, one sentence each; empty means it may go.
#[must_use]
pub fn check(object: &InMemDicomObject, series: &CtSeries, encoding: Encoding) -> Vec<String> {
    let mut gate = Gate { broken: Vec::new() };
    let top = Attributes::new(object, "this structure set");
    for tag in TYPE_1 {
        gate.rule(top.optional_text(tag).is_some(), || format!("{tag} has no value"));
    }
    for tag in TYPE_2 {
        gate.rule(top.has(tag), || format!("{tag} is missing"));
    }
    gate.identity(&top, series);
    gate.references(&top, series);
    let numbers = gate.rois(&top, series);
    gate.contours(&top, series, &numbers, encoding);
    gate.observations(&top, &numbers);
    gate.broken
}

struct Gate {
    broken: Vec<String>,
}

fn items<'a>(attributes: &Attributes<'a>, tag: Tag) -> Vec<Attributes<'a>> {
    attributes.items(tag).unwrap_or_default()
}

impl Gate {
    fn rule(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(sentence());
        }
    }

    fn identity(&mut self, top: &Attributes<'_>, series: &CtSeries) {
        let is = |tag, wanted: &str| top.optional_text(tag).as_deref() == Some(wanted);
        let label = top.optional_text(tags::STRUCTURE_SET_LABEL).unwrap_or_default();
        self.rule(label.chars().count() <= LONGEST_NAME, || format!("label {label:?} is over 16 characters"));
        self.rule(is(tags::STUDY_INSTANCE_UID, series.study_instance_uid.as_str()), || {
            "the study is not that of the CT".to_owned()
        });
        self.rule(is(tags::FRAME_OF_REFERENCE_UID, series.frame_of_reference_uid.as_str()), || {
            "the frame of reference is not that of the CT".to_owned()
        });
        self.rule(!is(tags::SERIES_INSTANCE_UID, series.series_instance_uid.as_str()), || {
            "Series Instance UID is that of the CT".to_owned()
        });
        let sop = top.optional_text(tags::SOP_INSTANCE_UID).unwrap_or_default();
        let taken = series.slices.iter().any(|slice| slice.sop_instance_uid.as_str() == sop);
        self.rule(!taken, || "SOP Instance UID is that of an image".to_owned());
    }

    fn references(&mut self, top: &Attributes<'_>, series: &CtSeries) {
        let frames = items(top, tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE);
        self.rule(frames.len() == 1, || format!("{} referenced frames of reference", frames.len()));
        let studies: Vec<_> =
            frames.iter().flat_map(|frame| items(frame, tags::RT_REFERENCED_STUDY_SEQUENCE)).collect();
        let found: Vec<_> =
            studies.iter().flat_map(|study| items(study, tags::RT_REFERENCED_SERIES_SEQUENCE)).collect();
        let same = |list: &[Attributes<'_>], tag, wanted: &str| {
            list.len() == 1 && list[0].optional_text(tag).as_deref() == Some(wanted)
        };
        let (frame, study, ct) = (
            series.frame_of_reference_uid.as_str(),
            series.study_instance_uid.as_str(),
            series.series_instance_uid.as_str(),
        );
        self.rule(same(&frames, tags::FRAME_OF_REFERENCE_UID, frame), || "wrong referenced frame".to_owned());
        self.rule(same(&studies, tags::REFERENCED_SOP_INSTANCE_UID, study), || "wrong study item".to_owned());
        self.rule(same(&found, tags::SERIES_INSTANCE_UID, ct), || "wrong series item".to_owned());
        let images: BTreeSet<String> = found
            .iter()
            .flat_map(|series| items(series, tags::CONTOUR_IMAGE_SEQUENCE))
            .filter_map(|image| image.optional_text(tags::REFERENCED_SOP_INSTANCE_UID))
            .collect();
        let all = series.slices.iter().all(|slice| images.contains(slice.sop_instance_uid.as_str()));
        self.rule(all, || "not every image of the series is referenced".to_owned());
    }

    /// Names and numbers; gives the numbers back.
    fn rois(&mut self, top: &Attributes<'_>, series: &CtSeries) -> BTreeSet<i64> {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        for roi in items(top, tags::STRUCTURE_SET_ROI_SEQUENCE) {
            let number = roi.integer(tags::ROI_NUMBER).unwrap_or(0);
            let name = roi.optional_text(tags::ROI_NAME).unwrap_or_default();
            self.rule(number >= 1 && numbers.insert(number), || {
                format!("ROI Number {number} is not new or < 1")
            });
            self.rule(!name.is_empty(), || format!("ROI {number} has no name"));
            self.rule(name.chars().count() <= LONGEST_NAME, || {
                format!("ROI name {name:?} is over 16 characters")
            });
            let lower = name.to_ascii_lowercase();
            self.rule(names.insert(lower), || format!("ROI name {name:?} is there twice"));
            let frame = roi.optional_text(tags::REFERENCED_FRAME_OF_REFERENCE_UID);
            self.rule(frame.as_deref() == Some(series.frame_of_reference_uid.as_str()), || {
                format!("ROI {number} is in another frame of reference")
            });
        }
        numbers
    }

    fn contours(
        &mut self,
        top: &Attributes<'_>,
        series: &CtSeries,
        numbers: &BTreeSet<i64>,
        encoding: Encoding,
    ) {
        let mut planes: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        for (plane, slice) in series.slices.iter().enumerate() {
            planes.insert((slice.sop_instance_uid.as_str(), slice.frame.unwrap_or(0)), plane);
        }
        let said_empty: BTreeSet<i64> = items(top, tags::STRUCTURE_SET_ROI_SEQUENCE)
            .iter()
            .filter(|roi| {
                let remark = roi.optional_text(tags::ROI_DESCRIPTION).unwrap_or_default();
                remark.starts_with(NOT_FOUND_REMARK)
            })
            .filter_map(|roi| roi.integer(tags::ROI_NUMBER).ok())
            .collect();
        let mut seen = BTreeSet::new();
        for roi in items(top, tags::ROI_CONTOUR_SEQUENCE) {
            let number = roi.integer(tags::REFERENCED_ROI_NUMBER).unwrap_or(0);
            self.rule(numbers.contains(&number), || format!("contours for ROI {number}, which is not there"));
            self.rule(seen.insert(number), || format!("contours of ROI {number} are there twice"));
            let contours = items(&roi, tags::CONTOUR_SEQUENCE);
            let empty = !roi.has(tags::CONTOUR_SEQUENCE);
            self.rule(empty == said_empty.contains(&number) && empty == contours.is_empty(), || {
                format!("ROI {number} has no contours and does not say so, or has some and says so")
            });
            for (index, contour) in contours.iter().enumerate() {
                if let Err(sentence) = check_contour(contour, series, &planes, encoding) {
                    self.broken.push(format!("contour {} of ROI {number}: {sentence}", index + 1));
                }
            }
        }
        self.rule(seen == *numbers, || "an ROI has no item in ROI Contour Sequence".to_owned());
    }

    fn observations(&mut self, top: &Attributes<'_>, numbers: &BTreeSet<i64>) {
        let items = items(top, tags::RTROI_OBSERVATIONS_SEQUENCE);
        let all = |tag| items.iter().filter_map(|item| item.integer(tag).ok()).collect::<BTreeSet<i64>>();
        self.rule(all(tags::REFERENCED_ROI_NUMBER) == *numbers, || {
            "observations and ROIs do not match one to one".to_owned()
        });
        let unique = all(tags::OBSERVATION_NUMBER).len() == items.len();
        self.rule(unique && items.len() == numbers.len(), || "Observation Number is there twice".to_owned());
        let typed = items.iter().all(|i| i.has(tags::RTROI_INTERPRETED_TYPE) && i.has(tags::ROI_INTERPRETER));
        self.rule(typed, || "an observation lacks interpreted type or interpreter".to_owned());
    }
}

fn check_contour(
    contour: &Attributes<'_>,
    series: &CtSeries,
    planes: &BTreeMap<(&str, usize), usize>,
    encoding: Encoding,
) -> Result<(), String> {
    let geometric_type = contour.optional_text(tags::CONTOUR_GEOMETRIC_TYPE).unwrap_or_default();
    if !matches!(geometric_type.as_str(), "CLOSED_PLANAR" | "CLOSEDPLANAR_XOR") {
        return Err(format!("geometric type {geometric_type:?}"));
    }
    let image = contour.item(tags::CONTOUR_IMAGE_SEQUENCE).map_err(|_absent| "names no image".to_owned())?;
    let uid = image.optional_text(tags::REFERENCED_SOP_INSTANCE_UID).unwrap_or_default();
    let frame = image.integer(tags::REFERENCED_FRAME_NUMBER).unwrap_or(1);
    let frame = usize::try_from(frame - 1).unwrap_or(usize::MAX);
    let Some(plane) = planes.get(&(uid.as_str(), frame)) else {
        return Err("names an image that is not in the series".to_owned());
    };
    let element = contour.data_set().get(tags::CONTOUR_DATA);
    let Some(text) = element.and_then(|e| e.to_str().ok()) else { return Err("has no points".to_owned()) };
    if encoding == Encoding::Explicit && text.len() > LONGEST_EXPLICIT_VALUE {
        return Err(format!("{} bytes of Contour Data do not fit explicit VR", text.len()));
    }
    let mut coordinates = Vec::new();
    for value in text.trim_end_matches([' ', '\0']).split('\\') {
        match value.parse::<f64>() {
            Ok(number) if value.len() <= 16 && number.is_finite() => coordinates.push(number),
            _ => return Err(format!("{value:?} is no DS of at most 16 characters")),
        }
    }
    let (points, rest) = coordinates.as_chunks::<3>();
    let said = contour.integer(tags::NUMBER_OF_CONTOUR_POINTS).unwrap_or(-1);
    if !rest.is_empty() || usize::try_from(said) != Ok(points.len()) || points.len() < 3 {
        return Err(format!(
            "{said} points said, {} coordinates there; at least 3 points",
            coordinates.len()
        ));
    }
    on_plane(points, *plane, series)
}

/// Every point on the plane of the image and inside its pixels.
#[expect(clippy::cast_precision_loss, reason = "rows and columns of an image")]
fn on_plane(points: &[[f64; 3]], plane: usize, series: &CtSeries) -> Result<(), String> {
    let [_, n_rows, n_columns] = series.grid.shape().map(|n| n as f64);
    let spacing = series.grid.spacing_mm();
    for [x, y, z] in points {
        let v = series.grid.voxel_from_patient(PatientPoint::lps_mm(*x, *y, *z));
        let off_mm = (v.z - plane as f64).abs() * spacing[0];
        if off_mm > PLANE_TOLERANCE_MM {
            return Err(format!("a point lies {off_mm:.4} mm off the plane of its image"));
        }
        let (slack_y, slack_x) = (PLANE_TOLERANCE_MM / spacing[1], PLANE_TOLERANCE_MM / spacing[2]);
        let inside = |value: f64, count: f64, slack: f64| value > -0.5 - slack && value < count - 0.5 + slack;
        if !(inside(v.y, n_rows, slack_y) && inside(v.x, n_columns, slack_x)) {
            return Err(format!("a point lies outside the image (row {:.2}, column {:.2})", v.y, v.x));
        }
    }
    Ok(())
}
