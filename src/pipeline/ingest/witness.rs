//! What the listener tells whoever keeps the audit trail.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

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
