//! Events as XML documents by the schema of PS3.15 A.5.1, with the codes of A.5.3 (CID 400 to 405 of PS3.16).

use std::collections::BTreeMap;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::pipeline::ingest::StudyOf;
use crate::vocabulary::dicom::{AeTitle, SopClassUid};

/// Something that an audit trail keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEvent {
    /// Application Activity: the service runs from now on.
    Started,
    /// Application Activity: the service ends.
    Stopped,
    /// Begin Transferring DICOM Instances: we are about to send.
    Sending {
        /// To whom.
        to: Node,
        /// Which study, whose.
        study: StudyOf,
        /// How many of which SOP class.
        n_instances: BTreeMap<SopClassUid, u64>,
    },
    /// DICOM Instances Transferred: to us, or by us.
    Transferred {
        /// Who sent.
        from: Node,
        /// Who received.
        to: Node,
        /// Which study, whose.
        study: StudyOf,
        /// How many of which SOP class.
        n_instances: BTreeMap<SopClassUid, u64>,
        /// How it went.
        outcome: Outcome,
    },
    /// Security Alert: somebody may not talk to us.
    TurnedAway {
        /// Who, as far as known.
        who: Node,
        /// Why.
        reason: String,
    },
}

/// An application entity somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its AE title, where it said one.
    pub ae_title: Option<AeTitle>,
    /// Address or host name; `None` for this machine.
    pub address: Option<String>,
}

/// How something went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Success,
    /// It failed, and why.
    Failure(String),
}

/// What stands in the trail of a patient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Patients {
    /// Nothing.
    None,
    /// A hash of the Patient ID under this key.
    Hashed(Vec<u8>),
    /// Patient ID and name.
    Clear,
}

/// Who writes the trail, and how.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) ae_title: AeTitle,
    pub(super) patients: Patients,
}

/// A code: value, scheme, meaning.
type Code = (&'static str, &'static str, &'static str);

const APPLICATION_ACTIVITY: Code = ("110100", "DCM", "Application Activity");
const BEGIN_TRANSFERRING: Code = ("110102", "DCM", "Begin Transferring DICOM Instances");
const INSTANCES_TRANSFERRED: Code = ("110104", "DCM", "DICOM Instances Transferred");
const SECURITY_ALERT: Code = ("110113", "DCM", "Security Alert");
const APPLICATION_START: Code = ("110120", "DCM", "Application Start");
const APPLICATION_STOP: Code = ("110121", "DCM", "Application Stop");
const NODE_AUTHENTICATION: Code = ("110126", "DCM", "Node Authentication");
const APPLICATION: Code = ("110150", "DCM", "Application");
const DESTINATION: Code = ("110152", "DCM", "Destination Role ID");
const SOURCE: Code = ("110153", "DCM", "Source Role ID");
const STUDY: Code = ("110180", "DCM", "Study Instance UID");
const NODE_ID: Code = ("110182", "DCM", "Node ID");
const PATIENT_NUMBER: Code = ("2", "RFC-3881", "Patient Number");

/// What kind of event it is.
struct Head<'a> {
    id: Code,
    /// C create, R read, E execute.
    action: &'static str,
    kind: Option<Code>,
    failure: Option<&'a str>,
}

impl Source {
    /// The document, without an XML declaration and on one line.
    pub(super) fn message(&self, now: OffsetDateTime, event: &AuditEvent) -> String {
        let mut xml = Xml::new();
        xml.open("AuditMessage", &[]);
        let head = match event {
            AuditEvent::Started => {
                Head { id: APPLICATION_ACTIVITY, action: "E", kind: Some(APPLICATION_START), failure: None }
            }
            AuditEvent::Stopped => {
                Head { id: APPLICATION_ACTIVITY, action: "E", kind: Some(APPLICATION_STOP), failure: None }
            }
            AuditEvent::Sending { .. } => {
                Head { id: BEGIN_TRANSFERRING, action: "E", kind: None, failure: None }
            }
            AuditEvent::Transferred { from, outcome, .. } => Head {
                id: INSTANCES_TRANSFERRED,
                action: if from.address.is_some() { "C" } else { "R" },
                kind: None,
                failure: match outcome {
                    Outcome::Success => None,
                    Outcome::Failure(reason) => Some(reason),
                },
            },
            AuditEvent::TurnedAway { reason, .. } => Head {
                id: SECURITY_ALERT,
                action: "E",
                kind: Some(NODE_AUTHENTICATION),
                failure: Some(reason),
            },
        };
        xml.event_identification(now, &head);
        let ours = Node { ae_title: Some(self.ae_title.clone()), address: None };
        match event {
            AuditEvent::Started | AuditEvent::Stopped => xml.participant(&ours, Some(APPLICATION), false),
            AuditEvent::Sending { to, .. } => {
                xml.participant(&ours, Some(SOURCE), true);
                xml.participant(to, Some(DESTINATION), false);
            }
            AuditEvent::Transferred { from, to, .. } => {
                xml.participant(from, Some(SOURCE), true);
                xml.participant(to, Some(DESTINATION), false);
            }
            AuditEvent::TurnedAway { who, .. } => {
                xml.participant(&ours, None, true);
                xml.participant(who, None, false);
            }
        }
        xml.source(&self.ae_title);
        match event {
            AuditEvent::Sending { study, n_instances, .. }
            | AuditEvent::Transferred { study, n_instances, .. } => {
                xml.study(study, n_instances);
                self.patient(&mut xml, study);
            }
            AuditEvent::TurnedAway { who, .. } => xml.node(who),
            AuditEvent::Started | AuditEvent::Stopped => {}
        }
        xml.close("AuditMessage");
        xml.finish()
    }

    fn patient(&self, xml: &mut Xml, study: &StudyOf) {
        let (id, name) = match &self.patients {
            Patients::None => return,
            Patients::Clear => (study.patient_id.clone(), study.patient_name.as_str()),
            Patients::Hashed(key) => {
                let hash =
                    Sha256::new().chain_update(key).chain_update(study.patient_id.as_bytes()).finalize();
                (hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect(), "")
            }
        };
        xml.open(
            "ParticipantObjectIdentification",
            &[
                ("ParticipantObjectID", &id),
                ("ParticipantObjectTypeCode", "1"),
                ("ParticipantObjectTypeCodeRole", "1"),
            ],
        );
        xml.code("ParticipantObjectIDTypeCode", PATIENT_NUMBER);
        xml.text("ParticipantObjectName", name);
        xml.close("ParticipantObjectIdentification");
    }
}

/// A document that grows; writing to memory cannot fail.
struct Xml(Writer<Vec<u8>>);

impl Xml {
    fn new() -> Self {
        Self(Writer::new(Vec::new()))
    }

    fn write(&mut self, event: Event<'_>) {
        self.0.write_event(event).expect("memory takes what it is given");
    }

    fn start<'a>(name: &'a str, attributes: &[(&str, &str)]) -> BytesStart<'a> {
        let mut start = BytesStart::new(name);
        for (key, value) in attributes {
            start.push_attribute((*key, printable(value).as_str()));
        }
        start
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Start(Self::start(name, attributes)));
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Empty(Self::start(name, attributes)));
    }

    fn close(&mut self, name: &str) {
        self.write(Event::End(BytesEnd::new(name)));
    }

    fn text(&mut self, name: &str, text: &str) {
        self.open(name, &[]);
        self.write(Event::Text(BytesText::new(&printable(text))));
        self.close(name);
    }

    fn code(&mut self, name: &str, (value, scheme, meaning): Code) {
        self.empty(name, &[("csd-code", value), ("codeSystemName", scheme), ("originalText", meaning)]);
    }

    fn event_identification(&mut self, now: OffsetDateTime, head: &Head<'_>) {
        let time = now.format(&Rfc3339).unwrap_or_default();
        let outcome = if head.failure.is_some() { "4" } else { "0" };
        self.open(
            "EventIdentification",
            &[("EventActionCode", head.action), ("EventDateTime", &time), ("EventOutcomeIndicator", outcome)],
        );
        self.code("EventID", head.id);
        if let Some(kind) = head.kind {
            self.code("EventTypeCode", kind);
        }
        if let Some(failure) = head.failure {
            self.text("EventOutcomeDescription", failure);
        }
        self.close("EventIdentification");
    }

    fn participant(&mut self, node: &Node, role: Option<Code>, is_requestor: bool) {
        let title = node.ae_title.as_ref().map(AeTitle::as_str);
        let alternative = title.map(|title| format!("AETITLES={title}"));
        let user = match (title, &node.address) {
            (Some(title), _) => title.to_owned(),
            (None, address) => address.clone().unwrap_or_default(),
        };
        let requestor = if is_requestor { "true" } else { "false" };
        let mut attributes = vec![("UserID", user.as_str()), ("UserIsRequestor", requestor)];
        attributes.extend(alternative.as_deref().map(|titles| ("AlternativeUserID", titles)));
        if let Some(address) = &node.address {
            let kind = if address.parse::<std::net::IpAddr>().is_ok() { "2" } else { "1" };
            attributes
                .extend([("NetworkAccessPointID", address.as_str()), ("NetworkAccessPointTypeCode", kind)]);
        }
        self.open("ActiveParticipant", &attributes);
        if let Some(role) = role {
            self.code("RoleIDCode", role);
        }
        self.close("ActiveParticipant");
    }

    /// 4: an application server process.
    fn source(&mut self, ae_title: &AeTitle) {
        self.open("AuditSourceIdentification", &[("AuditSourceID", ae_title.as_str())]);
        self.empty("AuditSourceTypeCode", &[("csd-code", "4")]);
        self.close("AuditSourceIdentification");
    }

    fn study(&mut self, study: &StudyOf, n_instances: &BTreeMap<SopClassUid, u64>) {
        self.open(
            "ParticipantObjectIdentification",
            &[
                ("ParticipantObjectID", &study.study_instance_uid),
                ("ParticipantObjectTypeCode", "2"),
                ("ParticipantObjectTypeCodeRole", "3"),
            ],
        );
        self.code("ParticipantObjectIDTypeCode", STUDY);
        self.text("ParticipantObjectName", "");
        self.open("ParticipantObjectDescription", &[]);
        for (class, n) in n_instances {
            self.empty("SOPClass", &[("UID", class.as_str()), ("NumberOfInstances", &n.to_string())]);
        }
        self.close("ParticipantObjectDescription");
        self.close("ParticipantObjectIdentification");
    }

    fn node(&mut self, node: &Node) {
        self.open(
            "ParticipantObjectIdentification",
            &[
                ("ParticipantObjectID", node.address.as_deref().unwrap_or_default()),
                ("ParticipantObjectTypeCode", "2"),
                ("ParticipantObjectTypeCodeRole", "13"),
            ],
        );
        self.code("ParticipantObjectIDTypeCode", NODE_ID);
        self.text("ParticipantObjectName", node.ae_title.as_ref().map_or("", AeTitle::as_str));
        self.close("ParticipantObjectIdentification");
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.0.into_inner()).into_owned()
    }
}

/// What XML 1.0 can hold, on one line.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{FFFE}' | '\u{FFFF}' => '\u{FFFD}',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}
