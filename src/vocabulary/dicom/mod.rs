//! DICOM's own words as types: identifiers, titles, attributes, messages.

mod ae_title;
pub mod attribute;
pub mod dimse;
pub mod instance;
pub mod structure;
mod uid;

pub use ae_title::{AeTitle, InvalidAeTitle, InvalidPeer, Peer};
pub use uid::{
    FrameOfReferenceUid, InvalidUid, SeriesInstanceUid, SopClassUid, SopInstanceUid, StudyInstanceUid,
    TransactionUid, TransferSyntaxUid,
};

/// Implementation Class UID (0002,0012): names this implementation in files and associations (PS3.7 D.3.3.2).
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.201097929096726133495458057943607656988";

/// Implementation Version Name (0002,0013), at most 16 characters.
pub const IMPLEMENTATION_VERSION_NAME: &str = concat!("OARLOCK_", env!("CARGO_PKG_VERSION"));
