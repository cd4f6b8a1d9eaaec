//! Which attributes must be there, with a value or without, by the modules of the RT Structure Set IOD (PS3.3 A.19.3).

use dicom_core::Tag;
use dicom_core::header::Header;
use dicom_core::value::Value;
use dicom_dictionary_std::tags;

use crate::vocabulary::dicom::attribute::{Attribute, Attributes};

/// Attributes of a data set or of each item of a sequence.
struct Level {
    /// With a value (type 1).
    type_1: &'static [Tag],
    /// There, empty or not (type 2).
    type_2: &'static [Tag],
    /// Sequences that must be there and have items (type 1), and what their items must have.
    sequences_1: &'static [(Tag, &'static Level)],
    /// Sequences that may be missing (type 3), but have items where they are there.
    sequences_3: &'static [(Tag, &'static Level)],
}

const NOTHING: Level = Level { type_1: &[], type_2: &[], sequences_1: &[], sequences_3: &[] };

/// Patient, General Study, RT Series, General Equipment, Frame of Reference, Structure Set, ROI Contour, RT ROI
/// Observations, Approval, SOP Common.
const TOP: Level = Level {
    type_1: &[
        tags::SOP_CLASS_UID,
        tags::SOP_INSTANCE_UID,
        tags::MODALITY,
        tags::STUDY_INSTANCE_UID,
        tags::SERIES_INSTANCE_UID,
        tags::FRAME_OF_REFERENCE_UID,
        tags::STRUCTURE_SET_LABEL,
        tags::APPROVAL_STATUS,
    ],
    type_2: &[
        tags::PATIENT_NAME,
        tags::PATIENT_ID,
        tags::PATIENT_BIRTH_DATE,
        tags::PATIENT_SEX,
        tags::STUDY_DATE,
        tags::STUDY_TIME,
        tags::STUDY_ID,
        tags::ACCESSION_NUMBER,
        tags::REFERRING_PHYSICIAN_NAME,
        tags::SERIES_NUMBER,
        tags::OPERATORS_NAME,
        tags::MANUFACTURER,
        tags::POSITION_REFERENCE_INDICATOR,
        tags::STRUCTURE_SET_DATE,
        tags::STRUCTURE_SET_TIME,
    ],
    sequences_1: &[
        (tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE, &REFERENCED_FRAME),
        (tags::STRUCTURE_SET_ROI_SEQUENCE, &STRUCTURE_SET_ROI),
        (tags::ROI_CONTOUR_SEQUENCE, &ROI_CONTOUR),
        (tags::RTROI_OBSERVATIONS_SEQUENCE, &OBSERVATION),
    ],
    sequences_3: &[],
};

/// Type 3 by the standard, but planning systems need it whole.
const REFERENCED_FRAME: Level = Level {
    type_1: &[tags::FRAME_OF_REFERENCE_UID],
    sequences_1: &[(tags::RT_REFERENCED_STUDY_SEQUENCE, &REFERENCED_STUDY)],
    ..NOTHING
};

const REFERENCED_STUDY: Level = Level {
    type_1: &[tags::REFERENCED_SOP_CLASS_UID, tags::REFERENCED_SOP_INSTANCE_UID],
    sequences_1: &[(tags::RT_REFERENCED_SERIES_SEQUENCE, &REFERENCED_SERIES)],
    ..NOTHING
};

const REFERENCED_SERIES: Level = Level {
    type_1: &[tags::SERIES_INSTANCE_UID],
    sequences_1: &[(tags::CONTOUR_IMAGE_SEQUENCE, &IMAGE)],
    ..NOTHING
};

const IMAGE: Level =
    Level { type_1: &[tags::REFERENCED_SOP_CLASS_UID, tags::REFERENCED_SOP_INSTANCE_UID], ..NOTHING };

/// ROI Name is type 2 by the standard; without a name a dosimetrist cannot use it.
const STRUCTURE_SET_ROI: Level = Level {
    type_1: &[tags::ROI_NUMBER, tags::REFERENCED_FRAME_OF_REFERENCE_UID, tags::ROI_NAME],
    type_2: &[tags::ROI_GENERATION_ALGORITHM],
    ..NOTHING
};

const ROI_CONTOUR: Level = Level {
    type_1: &[tags::REFERENCED_ROI_NUMBER],
    sequences_3: &[(tags::CONTOUR_SEQUENCE, &CONTOUR)],
    ..NOTHING
};

const CONTOUR: Level = Level {
    type_1: &[tags::CONTOUR_GEOMETRIC_TYPE, tags::NUMBER_OF_CONTOUR_POINTS, tags::CONTOUR_DATA],
    sequences_1: &[(tags::CONTOUR_IMAGE_SEQUENCE, &IMAGE)],
    ..NOTHING
};

const OBSERVATION: Level = Level {
    type_1: &[tags::OBSERVATION_NUMBER, tags::REFERENCED_ROI_NUMBER],
    type_2: &[tags::RTROI_INTERPRETED_TYPE, tags::ROI_INTERPRETER],
    sequences_3: &[(tags::RTROI_IDENTIFICATION_CODE_SEQUENCE, &CODE)],
    ..NOTHING
};

const CODE: Level = Level {
    type_1: &[tags::CODE_VALUE, tags::CODING_SCHEME_DESIGNATOR, tags::CODE_MEANING],
    sequences_3: &[(tags::SEGMENTED_PROPERTY_TYPE_MODIFIER_CODE_SEQUENCE, &MODIFIER)],
    ..NOTHING
};

const MODIFIER: Level =
    Level { type_1: &[tags::CODE_VALUE, tags::CODING_SCHEME_DESIGNATOR, tags::CODE_MEANING], ..NOTHING };

/// Attributes with enumerated values, and what we may write of them.
const ENUMERATED: [(Tag, &[&str]); 6] = [
    (tags::MODALITY, &["RTSTRUCT"]),
    (tags::APPROVAL_STATUS, &["UNAPPROVED"]),
    (tags::CONTOUR_GEOMETRIC_TYPE, &["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"]),
    (tags::ROI_GENERATION_ALGORITHM, &["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", ""]),
    (
        tags::RTROI_INTERPRETED_TYPE,
        &[
            "ORGAN",
            "EXTERNAL",
            "AVOIDANCE",
            "CAVITY",
            "CONTROL",
            "DOSE_REGION",
            "SUPPORT",
            "FIXATION",
            "PTV",
            "CTV",
            "GTV",
            "",
        ],
    ),
    (tags::SOP_CLASS_UID, &[super::super::modules::RT_STRUCTURE_SET_STORAGE]),
];

/// Every attribute that should be there and is not, or has a value that its list does not have.
pub(super) fn check(top: &Attributes<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    check_level(top, &TOP, "", &mut broken);
    enumerated(top, "", &mut broken);
    broken
}

fn check_level(found: &Attributes<'_>, level: &Level, place: &str, broken: &mut Vec<String>) {
    for tag in level.type_1 {
        if found.optional_text(*tag).is_none() {
            broken.push(format!("{place}{} has no value", Attribute(*tag)));
        }
    }
    for tag in level.type_2 {
        if !found.has(*tag) {
            broken.push(format!("{place}{} is missing", Attribute(*tag)));
        }
    }
    for (tag, inner) in level.sequences_1 {
        if found.items(*tag).is_err() {
            broken.push(format!("{place}{} has no items", Attribute(*tag)));
        }
        check_items(found, *tag, inner, place, broken);
    }
    for (tag, inner) in level.sequences_3 {
        if found.has(*tag) && found.items(*tag).is_err() {
            broken.push(format!("{place}{} is there without items", Attribute(*tag)));
        }
        check_items(found, *tag, inner, place, broken);
    }
}

fn check_items(found: &Attributes<'_>, tag: Tag, level: &Level, place: &str, broken: &mut Vec<String>) {
    for (n, item) in found.items(tag).unwrap_or_default().iter().enumerate() {
        check_level(item, level, &format!("{place}{} item {}: ", Attribute(tag), n + 1), broken);
    }
}

fn enumerated(found: &Attributes<'_>, place: &str, broken: &mut Vec<String>) {
    for element in found.data_set() {
        let tag = element.tag();
        if let Some((_, allowed)) = ENUMERATED.iter().find(|(of, _)| *of == tag) {
            let value = found.optional_text(tag).unwrap_or_default();
            if !allowed.contains(&value.as_str()) {
                broken.push(format!("{place}{} is {value:?}, which is not on its list", Attribute(tag)));
            }
        }
        if matches!(element.value(), Value::Sequence(_)) {
            for (n, item) in found.items(tag).unwrap_or_default().iter().enumerate() {
                enumerated(item, &format!("{place}{} item {}: ", Attribute(tag), n + 1), broken);
            }
        }
    }
}
