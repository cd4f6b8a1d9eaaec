//! To Part 10 bytes.

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use sha2::{Digest, Sha256};

use super::conformance;
use super::error::RtstructError;
use super::format::Format;
use super::modules::{self, RT_STRUCTURE_SET_STORAGE};
use super::structure_set::StructureSet;
use super::written::Written;
use crate::vocabulary::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SopInstanceUid};

/// A structure set as a Part 10 file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedStructureSet {
    /// Preamble, file meta information and data set.
    pub bytes: Vec<u8>,
    /// Its SOP Instance UID.
    pub sop_instance_uid: SopInstanceUid,
    /// What was changed or left out, one sentence each, for the person who asked.
    pub notes: Vec<String>,
}

/// Transfer syntaxes that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Implicit VR Little Endian: the default, without a limit on Contour Data.
    #[default]
    Implicit,
    /// Explicit VR Little Endian: only where all Contour Data fits 65534 bytes (PS3.5 7.1.2).
    Explicit,
}

impl StructureSet {
    /// The bytes in the form of a destination, after the gate of [`conformance::check`].
    ///
    /// The default form carries the identity's SOP Instance UID, and so does any that says the same. Another carries one
    /// that is made from that and from what it says, so that equal objects have equal UIDs, over restarts too, and
    /// different ones never share one.
    ///
    /// # Errors
    /// [`RtstructError::NotConformant`] with every rule that is broken: our bug, or a series we should have refused.
    /// [`RtstructError::Characters`] for names that the CT's character set cannot hold.
    pub fn encode(&self, format: &Format) -> Result<EncodedStructureSet, RtstructError> {
        let written = Written::of(self, format).map_err(RtstructError::Characters)?;
        let mut object = data_set(&written);
        let mut sop_instance_uid = self.identity.sop_instance_uid.clone();
        let said = implicit(&object)?;
        if *format != Format::default() && said != self.said_by_default()? {
            sop_instance_uid = derived(&sop_instance_uid, &said);
            let uid = PrimitiveValue::from(sop_instance_uid.as_str());
            object.put(DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, uid));
        }
        let syntax = match format.encoding {
            Encoding::Implicit => uids::IMPLICIT_VR_LITTLE_ENDIAN,
            Encoding::Explicit => uids::EXPLICIT_VR_LITTLE_ENDIAN,
        };
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(RT_STRUCTURE_SET_STORAGE)
            .media_storage_sop_instance_uid(sop_instance_uid.as_str())
            .transfer_syntax(syntax)
            .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
            .implementation_version_name(IMPLEMENTATION_VERSION_NAME);
        let file = object.with_meta(meta).map_err(failed)?;
        let mut bytes = Vec::new();
        file.write_all(&mut bytes).map_err(failed)?;
        let broken = conformance::check(&bytes, &self.series, format);
        if !broken.is_empty() {
            return Err(RtstructError::NotConformant { broken });
        }
        Ok(EncodedStructureSet { bytes, sop_instance_uid, notes: written.notes })
    }
}

impl StructureSet {
    /// What the default form says; nothing where it cannot be written.
    fn said_by_default(&self) -> Result<Vec<u8>, RtstructError> {
        match Written::of(self, &Format::default()) {
            Ok(written) => implicit(&data_set(&written)),
            Err(_unwritable) => Ok(Vec::new()),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> RtstructError {
    RtstructError::Write { reason: error.to_string() }
}

/// What an object says, as bytes: two data sets with sequences are never equal as values.
fn implicit(object: &InMemDicomObject) -> Result<Vec<u8>, RtstructError> {
    let mut bytes = Vec::new();
    let syntax = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
    object.write_dataset_with_ts(&mut bytes, &syntax).map_err(failed)?;
    Ok(bytes)
}

/// A UID for what an object says: UUID version 8 (RFC 9562) of its hash, under 2.25 (PS3.5 B.2). The object still holds
/// the UID that it is derived from.
fn derived(from: &SopInstanceUid, said: &[u8]) -> SopInstanceUid {
    let mut hash = Sha256::new();
    hash.update(from.as_str());
    hash.update([0]);
    hash.update(said);
    let hash = hash.finalize();
    let mut uuid: [u8; 16] = hash.first_chunk().copied().unwrap_or_default();
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    SopInstanceUid::mint(u128::from_be_bytes(uuid))
}

fn data_set(set: &Written<'_>) -> InMemDicomObject {
    let mut object = modules::patient_and_general_study(set);
    let elements = [
        modules::rt_series(set),
        modules::general_equipment(),
        modules::frame_of_reference(set),
        modules::structure_set(set),
        modules::roi_contour(set),
        modules::rt_roi_observations(set),
        modules::approval(),
        modules::sop_common(set),
    ];
    for element in elements.into_iter().flatten() {
        object.put(element);
    }
    object
}
