//! DICOM's own words as types: identifiers, titles, attributes, messages.

mod ae_title;
pub mod attribute;
pub mod dimse;
pub mod structure;
mod uid;

pub use ae_title::{AeTitle, InvalidAeTitle, InvalidPeer, Peer};
pub use uid::{
    FrameOfReferenceUid, InvalidUid, SeriesInstanceUid, SopClassUid, SopInstanceUid, StudyInstanceUid,
    TransferSyntaxUid,
};
