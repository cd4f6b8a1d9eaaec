//! What can go wrong with a structure set.

use std::path::PathBuf;

use crate::vocabulary::dicom::attribute::AttributeError;
use crate::vocabulary::dicom::instance::InstanceError;

/// Why a structure set could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RtstructError {
    /// The gate before sending found broken rules.
    #[error("the structure set breaks {} rules and is not sent: {}", broken.len(), broken.join("; "))]
    NotConformant {
        /// One sentence per broken rule.
        broken: Vec<String>,
    },
    /// A name that the CT's character set cannot hold.
    #[error("the structure set is not written")]
    Characters(#[source] super::characters::Unwritable),
    /// The encoder refused.
    #[error("the structure set could not be encoded: {reason}")]
    Write {
        /// What dicom-object says.
        reason: String,
    },
    /// The file is no readable DICOM instance.
    #[error("{} cannot be read as DICOM", path.display())]
    Instance {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: InstanceError,
    },
    /// Another kind of object.
    #[error("wanted an RT Structure Set (Modality RTSTRUCT), found {found} in {}", path.display())]
    NotAStructureSet {
        /// Which file.
        path: PathBuf,
        /// What Modality says.
        found: String,
    },
    /// An attribute that we need is not there.
    #[error("the structure set {} lacks what is needed", path.display())]
    Attribute {
        /// Which file.
        path: PathBuf,
        /// Which attribute.
        #[source]
        source: AttributeError,
    },
}
