//! To Part 10 bytes.

use dicom_dictionary_std::uids;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use super::conformance;
use super::error::RtstructError;
use super::modules::{self, RT_STRUCTURE_SET_STORAGE};
use super::structure_set::StructureSet;
use crate::vocabulary::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SopInstanceUid};

/// A structure set as a Part 10 file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedStructureSet {
    /// Preamble, file meta information and data set.
    pub bytes: Vec<u8>,
    /// Its SOP Instance UID.
    pub sop_instance_uid: SopInstanceUid,
}

/// Transfer syntaxes that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Implicit VR Little Endian: the default, without a limit on Contour Data.
    #[default]
    Implicit,
    /// Explicit VR Little Endian: only where all Contour Data fits 65534 bytes (PS3.5 7.1.2).
    Explicit,
}

impl StructureSet {
    /// The bytes in Implicit VR Little Endian, after the gate of [`conformance::check`].
    ///
    /// # Errors
    /// [`RtstructError::NotConformant`] with every rule that is broken; our bug or a series we should have refused.
    pub fn encode(&self) -> Result<EncodedStructureSet, RtstructError> {
        self.encode_as(Encoding::Implicit)
    }

    /// As [`StructureSet::encode`], in the transfer syntax asked for.
    ///
    /// # Errors
    /// As [`StructureSet::encode`]; long Contour Data in Explicit VR is a broken rule.
    pub fn encode_as(&self, encoding: Encoding) -> Result<EncodedStructureSet, RtstructError> {
        let object = self.data_set();
        let broken = conformance::check(&object, &self.series, encoding);
        if !broken.is_empty() {
            return Err(RtstructError::NotConformant { broken });
        }
        let syntax = match encoding {
            Encoding::Implicit => uids::IMPLICIT_VR_LITTLE_ENDIAN,
            Encoding::Explicit => uids::EXPLICIT_VR_LITTLE_ENDIAN,
        };
        let failed = |reason: String| RtstructError::Write { reason };
        let sop_instance_uid = self.identity.sop_instance_uid.clone();
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(RT_STRUCTURE_SET_STORAGE)
            .media_storage_sop_instance_uid(sop_instance_uid.as_str())
            .transfer_syntax(syntax)
            .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
            .implementation_version_name(IMPLEMENTATION_VERSION_NAME);
        let file = object.with_meta(meta).map_err(|e| failed(e.to_string()))?;
        let mut bytes = Vec::new();
        file.write_all(&mut bytes).map_err(|e| failed(e.to_string()))?;
        Ok(EncodedStructureSet { bytes, sop_instance_uid })
    }

    fn data_set(&self) -> InMemDicomObject {
        let mut object = modules::patient_and_general_study(self);
        let elements = [
            modules::rt_series(self),
            modules::general_equipment(),
            modules::frame_of_reference(self),
            modules::structure_set(self),
            modules::roi_contour(self),
            modules::rt_roi_observations(self),
            modules::approval(),
            modules::sop_common(self),
        ];
        for element in elements.into_iter().flatten() {
            object.put(element);
        }
        object
    }
}
