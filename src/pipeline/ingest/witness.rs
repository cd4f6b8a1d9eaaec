//! What the listener tells whoever keeps the audit trail.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::data_set::{self, Keep};
use super::part10;
use crate::vocabulary::dicom::{AeTitle, SopClassUid};

/// Something that an audit trail has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngestEvent {
    /// An association ended on which instances of a study were stored.
    Received {
        /// Who sent them.
        calling: AeTitle,
        /// From where.
        address: IpAddr,
        /// Which study, whose.
        study: StudyOf,
        /// How many of which SOP class.
        n_instances: BTreeMap<SopClassUid, u64>,
    },
    /// Somebody was turned away.
    TurnedAway {
        /// From where.
        address: IpAddr,
        /// As whom, where it said so.
        calling: Option<AeTitle>,
        /// Why.
        reason: String,
    },
}

/// A study and its patient, as an instance says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StudyOf {
    /// Study Instance UID (0020,000D).
    pub study_instance_uid: String,
    /// Patient ID (0010,0020).
    pub patient_id: String,
    /// Patient's Name (0010,0010).
    pub patient_name: String,
}

/// Is told of each event; must not block.
pub struct Witness(Box<dyn Fn(IngestEvent) + Send + Sync>);

impl Witness {
    /// One who does this with each event.
    pub fn new(tell: impl Fn(IngestEvent) + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }

    pub(super) fn tell(&self, event: IngestEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

/// Which study, whose; of a data set that was found sound.
pub(super) fn study_of(data_set: &[u8], transfer_syntax: &str) -> Option<StudyOf> {
    let outline = data_set::outline(data_set, transfer_syntax, u64::MAX, Keep::Values).ok()?;
    let text = |tag| outline.text(tag).into_owned();
    Some(StudyOf {
        study_instance_uid: text(data_set::STUDY_INSTANCE_UID),
        patient_id: text(data_set::PATIENT_ID),
        patient_name: text(data_set::PATIENT_NAME),
    })
}

/// The same of a Part 10 file, with its SOP class.
pub(crate) fn study_of_file(part10: &[u8]) -> Option<(StudyOf, SopClassUid)> {
    let file = part10::split(part10).ok()?;
    Some((study_of(file.data_set, file.transfer_syntax_uid.as_str())?, file.sop_class_uid))
}
