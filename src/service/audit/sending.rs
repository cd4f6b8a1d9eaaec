//! What we send: told when it begins, and how it ended.

use std::collections::BTreeMap;

use super::{AuditEvent, AuditTrail, Node, Outcome};
use crate::pipeline::delivery::{Destination, Way};
use crate::pipeline::ingest::{StudyOf, study_of_file};
use crate::vocabulary::dicom::{Peer, SopClassUid};

/// A transfer that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    to: Node,
    study: StudyOf,
    n_instances: BTreeMap<SopClassUid, u64>,
}

impl From<&Peer> for Node {
    fn from(peer: &Peer) -> Self {
        let host = peer.host.trim_start_matches('[').trim_end_matches(']');
        Self { ae_title: Some(peer.ae_title.clone()), address: Some(host.to_owned()) }
    }
}

impl From<&Destination> for Node {
    fn from(destination: &Destination) -> Self {
        match &destination.way {
            Way::Store { peer, .. } => peer.into(),
            Way::Stow(service) => Self { ae_title: None, address: service.url.host_str().map(str::to_owned) },
            Way::Folder(folder) => Self { ae_title: None, address: Some(folder.display().to_string()) },
        }
    }
}

impl AuditTrail {
    /// A Part 10 file is about to be sent. `None` where no trail is kept, or the file says nothing of a study.
    #[must_use]
    pub fn sending(&self, to: impl Into<Node>, part10: &[u8]) -> Option<Transfer> {
        let (study, class) = self.is_kept().then(|| study_of_file(part10)).flatten()?;
        let transfer = Transfer { to: to.into(), study, n_instances: BTreeMap::from([(class, 1)]) };
        let Transfer { to, study, n_instances } = transfer.clone();
        self.tell(AuditEvent::Sending { to, study, n_instances });
        Some(transfer)
    }

    /// How a transfer ended.
    pub fn sent(&self, transfer: Option<Transfer>, outcome: Outcome) {
        let Some(Transfer { to, study, n_instances }) = transfer else { return };
        let from = self.ours.clone();
        self.tell(AuditEvent::Transferred { from, to, study, n_instances, outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::audit::{AuditSettings, PatientsInAudit};

    /// A Part 10 file of a study, as short as can be.
    fn file() -> Vec<u8> {
        let element = |tag: [u8; 4], vr: &[u8; 2], value: &[u8]| {
            let length = u16::try_from(value.len()).unwrap().to_le_bytes();
            [&tag[..], vr, &length, value].concat()
        };
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        bytes.extend(element([2, 0, 2, 0], b"UI", b"1.2.3\0"));
        bytes.extend(element([2, 0, 3, 0], b"UI", b"1.2.4\0"));
        bytes.extend(element([2, 0, 0x10, 0], b"UI", b"1.2.840.10008.1.2.1\0"));
        bytes.extend(element([0x10, 0, 0x20, 0], b"LO", b"ID42"));
        bytes.extend(element([0x20, 0, 0x0D, 0], b"UI", b"1.2.5\0"));
        bytes
    }

    #[test]
    fn a_transfer_is_told_twice_and_its_failure_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let settings = AuditSettings {
            file: Some(path.clone()),
            patients: PatientsInAudit::Clear,
            ..AuditSettings::default()
        };
        let (trail, writer) =
            AuditTrail::start(&settings, &"OARLOCK".parse().unwrap(), folder.path()).unwrap();
        let peer: Peer = "TPS@tps.example:104".parse().unwrap();
        let transfer = trail.sending(&peer, &file());
        assert!(transfer.is_some() && trail.sending(&peer, b"no file").is_none());
        trail.sent(transfer, Outcome::Failure("refused & closed".to_owned()));
        trail.tell(AuditEvent::Stopped);
        writer.finish();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (line, words) in lines.iter().zip([
            &["110102", "110153", "UserID=\"TPS\"", "tps.example", "1.2.5", "ID42"][..],
            &[
                "110104",
                "EventActionCode=\"R\"",
                "EventOutcomeIndicator=\"4\"",
                "refused &amp; closed",
                "ID42",
            ],
        ]) {
            assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
        }
    }

    #[test]
    fn without_a_target_nothing_is_read_or_told() {
        let folder = tempfile::tempdir().unwrap();
        let ours = "OARLOCK".parse().unwrap();
        let (trail, writer) = AuditTrail::start(&AuditSettings::default(), &ours, folder.path()).unwrap();
        let peer: Peer = "TPS@tps.example:104".parse().unwrap();
        assert_eq!(trail.sending(&peer, &file()), None);
        assert!(trail.witness().is_none());
        writer.finish();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
