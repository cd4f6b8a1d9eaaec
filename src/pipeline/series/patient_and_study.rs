//! What a structure set takes over from its images: patient and study, byte for byte.

use dicom_core::header::Header;
use dicom_core::value::Value;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use crate::vocabulary::dicom::instance::{Instance, InstanceError};

/// Attributes of the modules General Study and Patient Study (PS3.3 C.7.2.1, C.7.2.2) outside of group 0010,
/// de-identification (Patient module, group 0012) and what makes the text readable. Group 0010 is taken whole: Patient, Patient Study.
const STUDY_ATTRIBUTES: [Tag; 25] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::REFERRING_PHYSICIAN_IDENTIFICATION_SEQUENCE,
    tags::CONSULTING_PHYSICIAN_NAME,
    tags::TIMEZONE_OFFSET_FROM_UTC,
    tags::STUDY_DESCRIPTION,
    tags::PROCEDURE_CODE_SEQUENCE,
    tags::PHYSICIANS_OF_RECORD,
    tags::PHYSICIANS_OF_RECORD_IDENTIFICATION_SEQUENCE,
    tags::NAME_OF_PHYSICIANS_READING_STUDY,
    tags::ADMITTING_DIAGNOSES_DESCRIPTION,
    tags::ADMITTING_DIAGNOSES_CODE_SEQUENCE,
    tags::REFERENCED_STUDY_SEQUENCE,
    tags::PATIENT_IDENTITY_REMOVED,
    tags::DEIDENTIFICATION_METHOD,
    tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
    tags::STUDY_INSTANCE_UID,
    tags::STUDY_ID,
    tags::REQUESTING_SERVICE,
    tags::ADMISSION_ID,
    tags::SERVICE_EPISODE_ID,
];

/// Copies every patient- and study-level attribute. Text that is not plain ASCII becomes its bytes, so that no
/// character set, known or not, can change it on the way.
pub(super) fn patient_and_study(instance: &Instance) -> Result<InMemDicomObject, InstanceError> {
    let data_set = instance.data_set_of_bytes(|tag| tag.0 == 0x0010 || STUDY_ATTRIBUTES.contains(&tag))?;
    Ok(faithful(&data_set))
}

/// Nesting is bounded by the structure check at the door.
fn faithful(data_set: &InMemDicomObject) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(data_set.iter().map(faithful_element))
}

fn faithful_element(element: &InMemElement) -> InMemElement {
    let (tag, vr) = (element.tag(), element.vr());
    match element.value() {
        Value::Sequence(sequence) => {
            let items: Vec<_> = sequence.items().iter().map(faithful).collect();
            DataElement::new(tag, VR::SQ, Value::from(dicom_core::value::DataSetSequence::from(items)))
        }
        Value::Primitive(value @ (PrimitiveValue::Str(_) | PrimitiveValue::Strs(_))) => {
            let text = value.to_raw_str();
            if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
                return element.clone();
            }
            // Every character stands for the byte of its number.
            let mut bytes: Vec<u8> = text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
            if bytes.len() % 2 == 1 {
                bytes.push(b' ');
            }
            DataElement::new(tag, vr, PrimitiveValue::U8(bytes.into()))
        }
        _ => element.clone(),
    }
}
