//! One function per module of the RT Structure Set IOD (PS3.3 A.19.3), named after it.

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use time::macros::format_description;

use super::structure_set::{CodedConcept, Origin};
use super::written::{Written, WrittenContour, WrittenRoi};
use crate::pipeline::series::CtSlice;

/// RT Structure Set Storage (PS3.4 B.5).
pub const RT_STRUCTURE_SET_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.481.3";

/// Detached Study Management: the class that planning systems name for the study of the images.
const DETACHED_STUDY_MANAGEMENT: &str = "1.2.840.10008.3.1.2.3.1";

/// Type 2 attributes of the modules Patient and General Study: there, even if the CT has none.
const PATIENT_AND_STUDY_TYPE_2: [(Tag, VR); 9] = [
    (tags::PATIENT_NAME, VR::PN),
    (tags::PATIENT_ID, VR::LO),
    (tags::PATIENT_BIRTH_DATE, VR::DA),
    (tags::PATIENT_SEX, VR::CS),
    (tags::STUDY_DATE, VR::DA),
    (tags::STUDY_TIME, VR::TM),
    (tags::STUDY_ID, VR::SH),
    (tags::ACCESSION_NUMBER, VR::SH),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
];

/// Patient and General Study (C.7.1.1, C.7.2.1): the CT's own, byte for byte, with Patient Study.
pub(super) fn patient_and_general_study(set: &Written<'_>) -> InMemDicomObject {
    let mut object = set.copied.clone();
    for (tag, vr) in PATIENT_AND_STUDY_TYPE_2 {
        if object.get(tag).is_none() {
            object.put(DataElement::new(tag, vr, PrimitiveValue::Empty));
        }
    }
    if let Some(code) = set.characters.to_write() {
        object.put(text(tags::SPECIFIC_CHARACTER_SET, VR::CS, code));
    }
    object.put(text(tags::STUDY_INSTANCE_UID, VR::UI, set.series.study_instance_uid.as_str()));
    object
}

/// RT Series (C.8.8.1).
pub(super) fn rt_series(set: &Written<'_>) -> Vec<InMemElement> {
    let (date, time) = date_and_time(set);
    vec![
        text(tags::MODALITY, VR::CS, "RTSTRUCT"),
        text(tags::SERIES_INSTANCE_UID, VR::UI, set.identity.series_instance_uid.as_str()),
        text(tags::SERIES_NUMBER, VR::IS, "1"),
        text(tags::SERIES_DATE, VR::DA, &date),
        text(tags::SERIES_TIME, VR::TM, &time),
        text(tags::SERIES_DESCRIPTION, VR::LO, &set.series_description),
        empty(tags::OPERATORS_NAME, VR::PN),
    ]
}

/// General Equipment (C.7.5.1).
pub(super) fn general_equipment() -> Vec<InMemElement> {
    vec![
        text(tags::MANUFACTURER, VR::LO, "Oarlock"),
        text(tags::MANUFACTURER_MODEL_NAME, VR::LO, "oarlock"),
        text(tags::SOFTWARE_VERSIONS, VR::LO, env!("CARGO_PKG_VERSION")),
    ]
}

/// Frame of Reference (C.7.4.1): the CT's.
pub(super) fn frame_of_reference(set: &Written<'_>) -> Vec<InMemElement> {
    vec![
        text(tags::FRAME_OF_REFERENCE_UID, VR::UI, set.series.frame_of_reference_uid.as_str()),
        empty(tags::POSITION_REFERENCE_INDICATOR, VR::LO),
    ]
}

/// Structure Set (C.8.8.5).
pub(super) fn structure_set(set: &Written<'_>) -> Vec<InMemElement> {
    let (date, time) = date_and_time(set);
    vec![
        our_text(set, tags::STRUCTURE_SET_LABEL, VR::SH, &set.label),
        our_text(set, tags::STRUCTURE_SET_DESCRIPTION, VR::ST, &set.description),
        text(tags::STRUCTURE_SET_DATE, VR::DA, &date),
        text(tags::STRUCTURE_SET_TIME, VR::TM, &time),
        sequence(tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE, vec![referenced_frame(set)]),
        sequence(
            tags::STRUCTURE_SET_ROI_SEQUENCE,
            numbered(&set.rois).map(|(number, roi)| structure_set_roi(set, &number, roi)).collect(),
        ),
    ]
}

fn referenced_frame(set: &Written<'_>) -> InMemDicomObject {
    let series = item([
        text(tags::SERIES_INSTANCE_UID, VR::UI, set.series.series_instance_uid.as_str()),
        sequence(tags::CONTOUR_IMAGE_SEQUENCE, set.series.slices.iter().map(contour_image).collect()),
    ]);
    let study = item([
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, DETACHED_STUDY_MANAGEMENT),
        text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, set.series.study_instance_uid.as_str()),
        sequence(tags::RT_REFERENCED_SERIES_SEQUENCE, vec![series]),
    ]);
    item([
        text(tags::FRAME_OF_REFERENCE_UID, VR::UI, set.series.frame_of_reference_uid.as_str()),
        sequence(tags::RT_REFERENCED_STUDY_SEQUENCE, vec![study]),
    ])
}

fn contour_image(slice: &CtSlice) -> InMemDicomObject {
    let mut image = item([
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, slice.sop_class_uid.as_str()),
        text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, slice.sop_instance_uid.as_str()),
    ]);
    if let Some(frame) = slice.frame {
        image.put(text(tags::REFERENCED_FRAME_NUMBER, VR::IS, &(frame + 1).to_string()));
    }
    image
}

fn structure_set_roi(set: &Written<'_>, number: &str, roi: &WrittenRoi<'_>) -> InMemDicomObject {
    let algorithm = match set.origin {
        Origin::Model { .. } => "AUTOMATIC",
        Origin::Masks { .. } => "",
    };
    let mut item = item([
        text(tags::ROI_NUMBER, VR::IS, number),
        text(tags::REFERENCED_FRAME_OF_REFERENCE_UID, VR::UI, set.series.frame_of_reference_uid.as_str()),
        our_text(set, tags::ROI_NAME, VR::LO, &roi.name),
        text(tags::ROI_GENERATION_ALGORITHM, VR::CS, algorithm),
        text(tags::ROI_GENERATION_DESCRIPTION, VR::LO, &roi.generation),
    ]);
    if let Some(remark) = &roi.remark {
        item.put(text(tags::ROI_DESCRIPTION, VR::ST, remark));
    }
    item
}

/// ROI Contour (C.8.8.6).
pub(super) fn roi_contour(set: &Written<'_>) -> Vec<InMemElement> {
    let items = numbered(&set.rois).map(|(number, roi)| {
        let color = roi.color.map(|c| c.to_string()).join("\\");
        let mut item = item([
            text(tags::ROI_DISPLAY_COLOR, VR::IS, &color),
            text(tags::REFERENCED_ROI_NUMBER, VR::IS, &number),
        ]);
        let contours: Vec<_> =
            roi.contours.iter().enumerate().map(|(i, c)| contour(set, roi, i + 1, c)).collect();
        // Contour Sequence is type 3 and has at least one item where it is there.
        if !contours.is_empty() {
            item.put(sequence(tags::CONTOUR_SEQUENCE, contours));
        }
        item
    });
    vec![sequence(tags::ROI_CONTOUR_SEQUENCE, items.collect())]
}

fn contour(
    set: &Written<'_>,
    roi: &WrittenRoi<'_>,
    number: usize,
    contour: &WrittenContour,
) -> InMemDicomObject {
    let image = set.series.slices.get(contour.slice).map(contour_image);
    item([
        sequence(tags::CONTOUR_IMAGE_SEQUENCE, image.into_iter().collect()),
        text(tags::CONTOUR_GEOMETRIC_TYPE, VR::CS, roi.geometric_type),
        text(tags::NUMBER_OF_CONTOUR_POINTS, VR::IS, &contour.n_points.to_string()),
        text(tags::CONTOUR_NUMBER, VR::IS, &number.to_string()),
        text(tags::CONTOUR_DATA, VR::DS, &contour.data),
    ])
}

/// RT ROI Observations (C.8.8.8).
pub(super) fn rt_roi_observations(set: &Written<'_>) -> Vec<InMemElement> {
    let items = numbered(&set.rois).map(|(number, roi)| {
        let mut observation = item([
            text(tags::OBSERVATION_NUMBER, VR::IS, &number),
            text(tags::REFERENCED_ROI_NUMBER, VR::IS, &number),
            text(tags::RTROI_INTERPRETED_TYPE, VR::CS, roi.interpreted_type.term()),
            empty(tags::ROI_INTERPRETER, VR::PN),
        ]);
        if let Some(code) = &roi.code {
            let mut concept = coded(set, code);
            if let Some(side) = &roi.laterality {
                let side = vec![coded(set, side)];
                concept.put(sequence(tags::SEGMENTED_PROPERTY_TYPE_MODIFIER_CODE_SEQUENCE, side));
            }
            observation.put(sequence(tags::RTROI_IDENTIFICATION_CODE_SEQUENCE, vec![concept]));
        }
        observation
    });
    vec![sequence(tags::RTROI_OBSERVATIONS_SEQUENCE, items.collect())]
}

fn coded(set: &Written<'_>, code: &CodedConcept) -> InMemDicomObject {
    let meaning: String = code.meaning.chars().take(64).collect();
    item([
        text(tags::CODE_VALUE, VR::SH, &code.value),
        text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, &code.scheme),
        our_text(set, tags::CODE_MEANING, VR::LO, &meaning),
    ])
}

/// Approval (C.8.8.16).
pub(super) fn approval() -> Vec<InMemElement> {
    vec![text(tags::APPROVAL_STATUS, VR::CS, "UNAPPROVED")]
}

/// SOP Common (C.12.1); Specific Character Set came with the patient, or was put there.
pub(super) fn sop_common(set: &Written<'_>) -> Vec<InMemElement> {
    let (date, time) = date_and_time(set);
    vec![
        text(tags::SOP_CLASS_UID, VR::UI, RT_STRUCTURE_SET_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, set.identity.sop_instance_uid.as_str()),
        text(tags::INSTANCE_CREATION_DATE, VR::DA, &date),
        text(tags::INSTANCE_CREATION_TIME, VR::TM, &time),
    ]
}

fn date_and_time(set: &Written<'_>) -> (String, String) {
    let made = set.identity.made;
    let date = made.format(format_description!("[year][month][day]"));
    let time = made.format(format_description!("[hour][minute][second]"));
    (date.unwrap_or_default(), time.unwrap_or_default())
}

/// ROIs with their numbers, from 1.
fn numbered<'r, 'a>(rois: &'r [WrittenRoi<'a>]) -> impl Iterator<Item = (String, &'r WrittenRoi<'a>)> {
    rois.iter().enumerate().map(|(i, roi)| ((i + 1).to_string(), roi))
}

fn item(elements: impl IntoIterator<Item = InMemElement>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(elements)
}

fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

/// A text of the site's, in the CT's character set.
fn our_text(set: &Written<'_>, tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, set.characters.value(value))
}

fn empty(tag: Tag, vr: VR) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::Empty)
}
