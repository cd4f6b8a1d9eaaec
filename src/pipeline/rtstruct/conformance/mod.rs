//! The gate before sending: what dciodvfy and dcentvfy find, and what planning systems enforce and validators do not
//! know. It reads the very bytes that would go.

mod against_ct;
mod attributes;
mod contours;
pub(super) mod values;

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemElement;

use super::characters::CharacterSet;
use super::encode::Encoding;
use super::format::Format;
use super::modules::RT_STRUCTURE_SET_STORAGE;
use super::naming::LONGEST_NAME;
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::dicom::instance::{InstanceLimits, parse_instance};

/// More broken rules than this say nothing new.
const MOST_SENTENCES: usize = 50;

/// Every broken rule of a Part 10 structure set that refers to `series` and is written in `format`, one sentence each;
/// empty means it may go.
#[must_use]
pub fn check(part10: &[u8], series: &CtSeries, format: &Format) -> Vec<String> {
    let instance = match parse_instance(part10.to_vec(), InstanceLimits::default()) {
        Ok(instance) => instance,
        Err(error) => return vec![format!("it cannot be read back: {error}")],
    };
    let object = match instance.data_set_of_bytes(|_| true) {
        Ok(object) => object,
        Err(error) => return vec![format!("its data set cannot be read back: {error}")],
    };
    let characters = CharacterSet::of(&object, None);
    let top = Attributes::new(&object, "this structure set");
    let mut gate = Gate { broken: attributes::check(&top) };
    let is_copied = |element: &InMemElement| {
        use dicom_core::header::Header;
        series.patient_and_study.get(element.tag()).is_some()
    };
    gate.broken.extend(values::check(&object, &characters, &is_copied));
    gate.broken.extend(against_ct::check(&top, series));
    let syntax = match format.encoding {
        Encoding::Implicit => uids::IMPLICIT_VR_LITTLE_ENDIAN,
        Encoding::Explicit => uids::EXPLICIT_VR_LITTLE_ENDIAN,
    };
    gate.rule(instance.transfer_syntax_uid().as_str() == syntax, || {
        "its transfer syntax is not the format's".to_owned()
    });
    gate.rule(instance.media_storage_sop_class() == Some(RT_STRUCTURE_SET_STORAGE), || {
        "its file meta information names another SOP class".to_owned()
    });
    gate.meta_uid(part10, &top);
    let label = top.optional_text(tags::STRUCTURE_SET_LABEL).unwrap_or_default();
    let label = characters.text(&dicom_core::PrimitiveValue::from(label));
    gate.rule(label.chars().count() <= LONGEST_NAME, || format!("label {label:?} is over 16 characters"));
    let numbers = gate.rois(&top, series, format, &characters);
    gate.contours(&top, series, &numbers, format);
    gate.observations(&top, &numbers);
    let n_more = gate.broken.len().saturating_sub(MOST_SENTENCES);
    gate.broken.truncate(MOST_SENTENCES);
    if n_more > 0 {
        gate.broken.push(format!("and {n_more} more"));
    }
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

    /// Media Storage SOP Instance UID is that of the data set: peers are told the one and store the other.
    fn meta_uid(&mut self, part10: &[u8], top: &Attributes<'_>) {
        let meta = dicom_object::FileMetaTable::from_reader(part10.get(128..).unwrap_or_default());
        let uid = top.optional_text(tags::SOP_INSTANCE_UID);
        let agrees = meta.is_ok_and(|meta| {
            uid.as_deref() == Some(meta.media_storage_sop_instance_uid.trim_end_matches(['\0', ' ']))
        });
        self.rule(agrees, || "its file meta information names another instance".to_owned());
    }
}
