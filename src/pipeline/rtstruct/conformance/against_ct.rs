//! What a structure set and its CT must say alike: patient, study, frame of reference, images.

use std::collections::BTreeSet;

use dicom_core::Tag;
use dicom_core::value::Value;
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;

use super::items;
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::attribute::{Attribute, Attributes};

/// What must be the CT's, byte for byte, there or not.
const SAME_AS_CT: [Tag; 10] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
    tags::ISSUER_OF_PATIENT_ID,
];

/// Classes whose frames a reference must name.
const MULTI_FRAME: [&str; 2] =
    [uids::ENHANCED_CT_IMAGE_STORAGE, uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE];

/// Every disagreement, one sentence each.
pub(super) fn check(top: &Attributes<'_>, series: &CtSeries) -> Vec<String> {
    let mut broken = Vec::new();
    for tag in SAME_AS_CT {
        let (theirs, ours) = (bytes(&series.patient_and_study, tag), bytes(top.data_set(), tag));
        // ASCII bytes mean the same in any set, so a CT without one may have been given one.
        let given_a_set = tag == tags::SPECIFIC_CHARACTER_SET && theirs.is_empty();
        if theirs != ours && !given_a_set {
            broken.push(format!("{} is not that of the CT", Attribute(tag)));
        }
    }
    identity(top, series, &mut broken);
    references(top, series, &mut broken);
    broken
}

/// The bytes of a value without padding; nothing where there is none. Text that came as bytes, a character for each,
/// and text that is held as bytes are the same here.
fn bytes(object: &InMemDicomObject, tag: Tag) -> Vec<u8> {
    let Some(Value::Primitive(value)) = object.get(tag).map(|element| element.value()) else {
        return Vec::new();
    };
    let mut bytes = match value {
        dicom_core::PrimitiveValue::U8(bytes) => bytes.to_vec(),
        text => text.to_raw_str().chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect(),
    };
    while bytes.last().is_some_and(|byte| matches!(byte, b' ' | 0)) {
        bytes.pop();
    }
    bytes
}

fn identity(top: &Attributes<'_>, series: &CtSeries, broken: &mut Vec<String>) {
    let mut rule = |holds: bool, sentence: &str| {
        if !holds {
            broken.push(sentence.to_owned());
        }
    };
    let is = |tag, wanted: &str| top.optional_text(tag).as_deref() == Some(wanted);
    rule(
        is(tags::STUDY_INSTANCE_UID, series.study_instance_uid.as_str()),
        "StudyInstanceUID is not that of the CT",
    );
    rule(
        is(tags::FRAME_OF_REFERENCE_UID, series.frame_of_reference_uid.as_str()),
        "the frame of reference is not that of the CT",
    );
    rule(
        !is(tags::SERIES_INSTANCE_UID, series.series_instance_uid.as_str()),
        "SeriesInstanceUID is that of the CT",
    );
    let uid = top.optional_text(tags::SOP_INSTANCE_UID).unwrap_or_default();
    let is_an_image = series.slices.iter().any(|slice| slice.sop_instance_uid.as_str() == uid);
    rule(!is_an_image, "SOPInstanceUID is that of an image");
}

fn references(top: &Attributes<'_>, series: &CtSeries, broken: &mut Vec<String>) {
    let frames = items(top, tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE);
    let studies: Vec<_> =
        frames.iter().flat_map(|frame| items(frame, tags::RT_REFERENCED_STUDY_SEQUENCE)).collect();
    let found: Vec<_> =
        studies.iter().flat_map(|study| items(study, tags::RT_REFERENCED_SERIES_SEQUENCE)).collect();
    let only = |list: &[Attributes<'_>], tag, wanted: &str| {
        list.len() == 1 && list[0].optional_text(tag).as_deref() == Some(wanted)
    };
    for (holds, sentence) in [
        (
            only(&frames, tags::FRAME_OF_REFERENCE_UID, series.frame_of_reference_uid.as_str()),
            "the referenced frame of reference is not the CT's alone",
        ),
        (
            only(&studies, tags::REFERENCED_SOP_INSTANCE_UID, series.study_instance_uid.as_str()),
            "the referenced study is not the CT's alone",
        ),
        (
            only(&found, tags::SERIES_INSTANCE_UID, series.series_instance_uid.as_str()),
            "the referenced series is not the CT's alone",
        ),
    ] {
        if !holds {
            broken.push(sentence.to_owned());
        }
    }
    let images: Vec<_> =
        found.iter().flat_map(|series| items(series, tags::CONTOUR_IMAGE_SEQUENCE)).collect();
    let mut named = BTreeSet::new();
    for image in &images {
        match image_of(image, series) {
            Ok(plane) => {
                if !named.insert(plane) {
                    broken.push("an image is referenced twice".to_owned());
                }
            }
            Err(sentence) => broken.push(format!("a referenced image {sentence}")),
        }
    }
    let missing = (0..series.slices.len()).filter(|plane| !named.contains(plane)).count();
    if missing > 0 {
        broken.push(format!("{missing} images of the series are not referenced"));
    }
}

/// The plane of the series that an item of Contour Image Sequence names.
pub(super) fn image_of(image: &Attributes<'_>, series: &CtSeries) -> Result<usize, String> {
    let uid = image.optional_text(tags::REFERENCED_SOP_INSTANCE_UID).unwrap_or_default();
    let class = image.optional_text(tags::REFERENCED_SOP_CLASS_UID).unwrap_or_default();
    let frame = image.integer(tags::REFERENCED_FRAME_NUMBER).ok();
    let frame = frame.map(|number| usize::try_from(number - 1).unwrap_or(usize::MAX));
    if MULTI_FRAME.contains(&class.as_str()) && frame.is_none() {
        return Err("has frames, and ReferencedFrameNumber names none".to_owned());
    }
    let plane = series.slices.iter().position(|slice| {
        slice.sop_instance_uid.as_str() == uid && slice.frame.is_none_or(|f| Some(f) == frame)
    });
    let plane = plane.ok_or_else(|| "is not in the series".to_owned())?;
    if series.slices[plane].sop_class_uid.as_str() == class {
        Ok(plane)
    } else {
        Err("has another SOP class than that".to_owned())
    }
}
