//! C-ECHO, C-STORE and storage commitment commands as typed requests, responses and statuses (PS3.7 9.3, 10.3, annexes C and E).
//!
//! A command set is always implicit VR little endian (PS3.7 6.3.1).

use super::{InvalidUid, SopClassUid, SopInstanceUid};

/// Verification SOP class (PS3.4 A.4).
pub const VERIFICATION: &str = "1.2.840.10008.1.1";

/// Storage Commitment Push Model SOP class (PS3.4 J.3).
pub const STORAGE_COMMITMENT: &str = "1.2.840.10008.1.20.1";

/// Its well-known SOP Instance (PS3.4 J.3.5).
const STORAGE_COMMITMENT_INSTANCE: &str = "1.2.840.10008.1.20.1.1";

const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
const REQUESTED_SOP_CLASS_UID: u16 = 0x0003;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_BEING_RESPONDED_TO: u16 = 0x0120;
const PRIORITY: u16 = 0x0700;
const COMMAND_DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const ERROR_COMMENT: u16 = 0x0902;
const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
const REQUESTED_SOP_INSTANCE_UID: u16 = 0x1001;
const EVENT_TYPE_ID: u16 = 0x1002;
const ACTION_TYPE_ID: u16 = 0x1008;

const C_STORE_RQ: u16 = 0x0001;
const C_ECHO_RQ: u16 = 0x0030;
const N_EVENT_REPORT_RQ: u16 = 0x0100;
const N_ACTION_RQ: u16 = 0x0130;
const RESPONSE: u16 = 0x8000;
/// Action Type ID of a question about storage commitment (PS3.4 J.3.2).
const REQUEST_COMMITMENT: u16 = 1;
const NO_DATA_SET: u16 = 0x0101;
const DATA_SET_FOLLOWS: u16 = 0x0000;

/// Why bytes are no command set that can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// An element reaches beyond the bytes, or belongs to another group.
    #[error(
        "the command set breaks off or leaves group 0000 at byte {at}; the sender's DIMSE encoding is wrong"
    )]
    Malformed {
        /// Where.
        at: usize,
    },
    /// A required element is not there, or not of its length.
    #[error("the command set lacks {keyword} (0000,{element:04X}); the sender's DIMSE encoding is wrong")]
    Missing {
        /// DICOM keyword.
        keyword: &'static str,
        /// Element number.
        element: u16,
    },
}

/// A request from a peer, or its answer to the one that we put to whoever calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// C-ECHO-RQ.
    Echo(EchoRequest),
    /// C-STORE-RQ; a data set follows.
    Store(StoreRequest),
    /// N-ACTION-RQ.
    Action(ActionRequest),
    /// N-EVENT-REPORT-RSP.
    Reported(ReportResponse),
    /// Any other DIMSE request.
    Other(OtherRequest),
}

/// C-ECHO-RQ (PS3.7 9.3.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EchoRequest {
    message_id: u16,
}

/// C-STORE-RQ (PS3.7 9.3.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRequest {
    message_id: u16,
    /// Affected SOP Class UID (0000,0002).
    pub sop_class_uid: Result<SopClassUid, InvalidUid>,
    /// Affected SOP Instance UID (0000,1000).
    pub sop_instance_uid: Result<SopInstanceUid, InvalidUid>,
}

/// N-ACTION-RQ (PS3.7 10.3.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRequest {
    message_id: u16,
    data_set_follows: bool,
    sop_class_uid: String,
    sop_instance_uid: String,
    action_type: u16,
}

/// N-EVENT-REPORT-RSP (PS3.7 10.3.1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportResponse {
    /// What it says.
    pub response: Response,
    data_set_follows: bool,
}

/// What an N-ACTION-RSP says to a question about storage commitment (PS3.7 annex C, PS3.4 J.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionStatus {
    /// 0000H: the question is durable, and will be answered by a report.
    Success,
    /// 0110H: the question could not be kept; it may be put again.
    ProcessingFailure,
    /// 0112H: not the well-known instance.
    NoSuchInstance,
    /// 0115H: the data set holds no question that can be read.
    InvalidArgument,
    /// 0118H: another class.
    NoSuchClass,
    /// 0123H: another action.
    NoSuchAction,
    /// 0131H: another question under this Transaction UID waits for its report.
    DuplicateTransaction,
    /// 0213H: more than we take.
    ResourceLimitation,
}

impl ActionStatus {
    /// The value of Status (0000,0900).
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Success => 0x0000,
            Self::ProcessingFailure => 0x0110,
            Self::NoSuchInstance => 0x0112,
            Self::InvalidArgument => 0x0115,
            Self::NoSuchClass => 0x0118,
            Self::NoSuchAction => 0x0123,
            Self::DuplicateTransaction => 0x0131,
            Self::ResourceLimitation => 0x0213,
        }
    }
}

/// A request for a service that we do not offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherRequest {
    message_id: u16,
    /// Command Field (0000,0100).
    pub command_field: u16,
    /// Whether a data set follows.
    pub data_set_follows: bool,
}

/// What a C-STORE-RSP says (PS3.4 B.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreStatus {
    /// 0000H: the instance is durable.
    Success,
    /// A700H: no room now; the sender may try again later.
    OutOfResources,
    /// A900H: the data set is not the instance that the command names.
    DataSetMismatch,
    /// C000H: the data set cannot be read.
    CannotUnderstand,
    /// C111H: the SOP Instance UID is known with other content.
    OtherContent,
    /// 0122H: not a storage class of this presentation context.
    SopClassNotSupported,
}

impl StoreStatus {
    /// The value of Status (0000,0900).
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Success => 0x0000,
            Self::OutOfResources => 0xA700,
            Self::DataSetMismatch => 0xA900,
            Self::CannotUnderstand => 0xC000,
            Self::OtherContent => 0xC111,
            Self::SopClassNotSupported => 0x0122,
        }
    }
}

impl Request {
    /// Reads a command set as it stands in the command fragments of a message.
    ///
    /// # Errors
    /// [`InvalidCommand`] when it cannot be answered: malformed, without Command Field or Message ID.
    pub fn parse(command_set: &[u8]) -> Result<Self, InvalidCommand> {
        let elements = Elements::read(command_set)?;
        let command_field = elements.number(COMMAND_FIELD, "CommandField")?;
        let data_set_follows = elements.number(COMMAND_DATA_SET_TYPE, "CommandDataSetType")? != NO_DATA_SET;
        if command_field == N_EVENT_REPORT_RQ | RESPONSE {
            let response = Response::parse(command_set)?;
            return Ok(Self::Reported(ReportResponse { response, data_set_follows }));
        }
        let message_id = elements.number(MESSAGE_ID, "MessageID")?;
        Ok(match command_field {
            N_ACTION_RQ => Self::Action(ActionRequest {
                message_id,
                data_set_follows,
                sop_class_uid: elements.uid(REQUESTED_SOP_CLASS_UID),
                sop_instance_uid: elements.uid(REQUESTED_SOP_INSTANCE_UID),
                action_type: elements.number(ACTION_TYPE_ID, "ActionTypeID").unwrap_or(0),
            }),
            C_ECHO_RQ if !data_set_follows => Self::Echo(EchoRequest { message_id }),
            C_STORE_RQ if data_set_follows => Self::Store(StoreRequest {
                message_id,
                sop_class_uid: SopClassUid::parse(&elements.text(AFFECTED_SOP_CLASS_UID)),
                sop_instance_uid: SopInstanceUid::parse(&elements.text(AFFECTED_SOP_INSTANCE_UID)),
            }),
            _ => Self::Other(OtherRequest { message_id, command_field, data_set_follows }),
        })
    }

    /// Whether a data set follows the command.
    #[must_use]
    pub fn data_set_follows(&self) -> bool {
        match self {
            Self::Echo(_) => false,
            Self::Store(_) => true,
            Self::Action(action) => action.data_set_follows,
            Self::Reported(answer) => answer.data_set_follows,
            Self::Other(other) => other.data_set_follows,
        }
    }
}

impl EchoRequest {
    /// C-ECHO-RSP with status 0000H.
    #[must_use]
    pub fn respond(&self) -> Vec<u8> {
        Writer::default()
            .text(AFFECTED_SOP_CLASS_UID, VERIFICATION, 0)
            .number(COMMAND_FIELD, C_ECHO_RQ | RESPONSE)
            .number(MESSAGE_ID_BEING_RESPONDED_TO, self.message_id)
            .number(COMMAND_DATA_SET_TYPE, NO_DATA_SET)
            .number(STATUS, 0)
            .finish()
    }
}

impl StoreRequest {
    /// C-STORE-RSP; `comment` becomes Error Comment (0000,0902), cut to its 64 characters.
    #[must_use]
    pub fn respond(&self, status: StoreStatus, comment: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        if let Ok(class) = &self.sop_class_uid {
            writer = writer.text(AFFECTED_SOP_CLASS_UID, class.as_str(), 0);
        }
        writer = writer
            .number(COMMAND_FIELD, C_STORE_RQ | RESPONSE)
            .number(MESSAGE_ID_BEING_RESPONDED_TO, self.message_id)
            .number(COMMAND_DATA_SET_TYPE, NO_DATA_SET)
            .number(STATUS, status.code());
        if !comment.is_empty() {
            let comment: String =
                comment.chars().filter(|c| (' '..='~').contains(c) && *c != '\\').take(64).collect();
            writer = writer.text(ERROR_COMMENT, &comment, b' ');
        }
        if let Ok(instance) = &self.sop_instance_uid {
            writer = writer.text(AFFECTED_SOP_INSTANCE_UID, instance.as_str(), 0);
        }
        writer.finish()
    }
}

impl ActionRequest {
    /// Why it asks for no storage commitment (PS3.4 J.3.2), if it does not.
    ///
    /// # Errors
    /// The status of the answer.
    pub fn require_commitment(&self) -> Result<(), ActionStatus> {
        if self.sop_class_uid != STORAGE_COMMITMENT {
            return Err(ActionStatus::NoSuchClass);
        }
        if self.sop_instance_uid != STORAGE_COMMITMENT_INSTANCE {
            return Err(ActionStatus::NoSuchInstance);
        }
        if self.action_type != REQUEST_COMMITMENT {
            return Err(ActionStatus::NoSuchAction);
        }
        if self.data_set_follows { Ok(()) } else { Err(ActionStatus::InvalidArgument) }
    }

    /// N-ACTION-RSP.
    #[must_use]
    pub fn respond(&self, status: ActionStatus) -> Vec<u8> {
        Writer::default()
            .text(AFFECTED_SOP_CLASS_UID, STORAGE_COMMITMENT, 0)
            .number(COMMAND_FIELD, N_ACTION_RQ | RESPONSE)
            .number(MESSAGE_ID_BEING_RESPONDED_TO, self.message_id)
            .number(COMMAND_DATA_SET_TYPE, NO_DATA_SET)
            .number(STATUS, status.code())
            .text(AFFECTED_SOP_INSTANCE_UID, STORAGE_COMMITMENT_INSTANCE, 0)
            .number(ACTION_TYPE_ID, REQUEST_COMMITMENT)
            .finish()
    }

    /// The response with status 0211H, unrecognized operation.
    #[must_use]
    pub fn refuse(&self) -> Vec<u8> {
        let (message_id, data_set_follows) = (self.message_id, self.data_set_follows);
        OtherRequest { message_id, command_field: N_ACTION_RQ, data_set_follows }.refuse()
    }
}

impl OtherRequest {
    /// The response with status 0211H, unrecognized operation.
    #[must_use]
    pub fn refuse(&self) -> Vec<u8> {
        Writer::default()
            .number(COMMAND_FIELD, self.command_field | RESPONSE)
            .number(MESSAGE_ID_BEING_RESPONDED_TO, self.message_id)
            .number(COMMAND_DATA_SET_TYPE, NO_DATA_SET)
            .number(STATUS, 0x0211)
            .finish()
    }
}

impl OtherRequest {
    /// Whether it is an N-EVENT-REPORT (PS3.7 10.3.1), such as the report of a storage commitment.
    #[must_use]
    pub fn is_event_report(&self) -> bool {
        self.command_field == N_EVENT_REPORT_RQ && self.data_set_follows
    }

    /// N-EVENT-REPORT-RSP with status 0000H, for a storage commitment.
    #[must_use]
    pub fn accept_event_report(&self) -> Vec<u8> {
        Writer::default()
            .text(AFFECTED_SOP_CLASS_UID, STORAGE_COMMITMENT, 0)
            .number(COMMAND_FIELD, N_EVENT_REPORT_RQ | RESPONSE)
            .number(MESSAGE_ID_BEING_RESPONDED_TO, self.message_id)
            .number(COMMAND_DATA_SET_TYPE, NO_DATA_SET)
            .number(STATUS, 0)
            .text(AFFECTED_SOP_INSTANCE_UID, STORAGE_COMMITMENT_INSTANCE, 0)
            .finish()
    }
}

/// N-ACTION-RQ that asks for storage commitment (PS3.4 J.3.2), as bytes; the data set with the question follows.
#[must_use]
pub fn commitment_request(message_id: u16) -> Vec<u8> {
    Writer::default()
        .text(REQUESTED_SOP_CLASS_UID, STORAGE_COMMITMENT, 0)
        .number(COMMAND_FIELD, N_ACTION_RQ)
        .number(MESSAGE_ID, message_id)
        .number(COMMAND_DATA_SET_TYPE, DATA_SET_FOLLOWS)
        .text(REQUESTED_SOP_INSTANCE_UID, STORAGE_COMMITMENT_INSTANCE, 0)
        .number(ACTION_TYPE_ID, REQUEST_COMMITMENT)
        .finish()
}

/// N-EVENT-REPORT-RQ of a storage commitment (PS3.4 J.3.3), as bytes; the data set with the report follows. Event type 1
/// says that all is kept, 2 that something is not.
#[must_use]
pub fn commitment_report(message_id: u16, event_type: u16) -> Vec<u8> {
    Writer::default()
        .text(AFFECTED_SOP_CLASS_UID, STORAGE_COMMITMENT, 0)
        .number(COMMAND_FIELD, N_EVENT_REPORT_RQ)
        .number(MESSAGE_ID, message_id)
        .number(COMMAND_DATA_SET_TYPE, DATA_SET_FOLLOWS)
        .text(AFFECTED_SOP_INSTANCE_UID, STORAGE_COMMITMENT_INSTANCE, 0)
        .number(EVENT_TYPE_ID, event_type)
        .finish()
}

/// C-ECHO-RQ as bytes.
#[must_use]
pub fn echo_request(message_id: u16) -> Vec<u8> {
    Writer::default()
        .text(AFFECTED_SOP_CLASS_UID, VERIFICATION, 0)
        .number(COMMAND_FIELD, C_ECHO_RQ)
        .number(MESSAGE_ID, message_id)
        .number(COMMAND_DATA_SET_TYPE, NO_DATA_SET)
        .finish()
}

/// C-STORE-RQ of medium priority as bytes.
#[must_use]
pub fn store_request(message_id: u16, class: &SopClassUid, instance: &SopInstanceUid) -> Vec<u8> {
    Writer::default()
        .text(AFFECTED_SOP_CLASS_UID, class.as_str(), 0)
        .number(COMMAND_FIELD, C_STORE_RQ)
        .number(MESSAGE_ID, message_id)
        .number(PRIORITY, 0)
        .number(COMMAND_DATA_SET_TYPE, DATA_SET_FOLLOWS)
        .text(AFFECTED_SOP_INSTANCE_UID, instance.as_str(), 0)
        .finish()
}

/// What a peer answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Message ID Being Responded To (0000,0120).
    pub message_id: u16,
    /// Status (0000,0900).
    pub status: u16,
    /// Error Comment (0000,0902), empty where absent.
    pub comment: String,
}

impl Response {
    /// Reads a response's command set.
    ///
    /// # Errors
    /// [`InvalidCommand`] when it is malformed, no response, or lacks message ID or status.
    pub fn parse(command_set: &[u8]) -> Result<Self, InvalidCommand> {
        let elements = Elements::read(command_set)?;
        if elements.number(COMMAND_FIELD, "CommandField")? & RESPONSE == 0 {
            return Err(InvalidCommand::Missing { keyword: "CommandField", element: COMMAND_FIELD });
        }
        Ok(Self {
            message_id: elements.number(MESSAGE_ID_BEING_RESPONDED_TO, "MessageIDBeingRespondedTo")?,
            status: elements.number(STATUS, "Status")?,
            comment: elements.text(ERROR_COMMENT).trim().to_owned(),
        })
    }

    /// Success, or stored with a warning (PS3.7 C.2, C.3: 0001H, 0107H, 0116H, Bxxx).
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self.status, 0x0000 | 0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF)
    }

    /// Refused for want of resources (A7xx) or processing failure (0110H): worth another try.
    #[must_use]
    pub fn may_pass_later(&self) -> bool {
        matches!(self.status, 0x0110 | 0xA700..=0xA7FF)
    }
}

/// The elements of a command set.
struct Elements<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Elements<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, InvalidCommand> {
        let mut elements = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let malformed = InvalidCommand::Malformed { at };
            let Some(([g0, g1, e0, e1, l0, l1, l2, l3], rest)) = bytes[at..].split_first_chunk::<8>() else {
                return Err(malformed);
            };
            let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
            let value = usize::try_from(length).ok().and_then(|length| rest.get(..length));
            let (Some(value), [0, 0]) = (value, [*g0, *g1]) else { return Err(malformed) };
            elements.push((u16::from_le_bytes([*e0, *e1]), value));
            at += 8 + value.len();
        }
        Ok(Self(elements))
    }

    fn value(&self, element: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(number, _)| *number == element).map(|(_, value)| *value)
    }

    fn number(&self, element: u16, keyword: &'static str) -> Result<u16, InvalidCommand> {
        let bytes = self.value(element).and_then(|value| <[u8; 2]>::try_from(value).ok());
        bytes.map(u16::from_le_bytes).ok_or(InvalidCommand::Missing { keyword, element })
    }

    fn text(&self, element: u16) -> String {
        String::from_utf8_lossy(self.value(element).unwrap_or_default()).into_owned()
    }

    /// Without its padding.
    fn uid(&self, element: u16) -> String {
        self.text(element).trim_end_matches(['\0', ' ']).to_owned()
    }
}

/// Writes elements in ascending order; `finish` puts the group length before them.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn element(mut self, element: u16, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).expect("UIDs and comments are shorter than 4 GB");
        self.0.extend([0, 0]);
        self.0.extend(element.to_le_bytes());
        self.0.extend(length.to_le_bytes());
        self.0.extend(value);
        self
    }

    fn number(self, element: u16, value: u16) -> Self {
        self.element(element, &value.to_le_bytes())
    }

    fn text(self, element: u16, text: &str, padding: u8) -> Self {
        let mut value = text.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            value.push(padding);
        }
        self.element(element, &value)
    }

    fn finish(self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a command set is shorter than 4 GB");
        let mut bytes = Self::default().element(0, &length.to_le_bytes()).0;
        bytes.extend(self.0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ct_request() -> Vec<u8> {
        let class = SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap();
        store_request(0x1234, &class, &SopInstanceUid::parse("1.2.3.45").unwrap())
    }

    #[test]
    fn a_store_request_comes_back_as_it_went_and_its_answer_carries_its_number() {
        let Request::Store(request) = Request::parse(&ct_request()).unwrap() else { panic!("no C-STORE") };
        assert_eq!(request.sop_instance_uid.as_ref().unwrap().as_str(), "1.2.3.45");
        let answer = Response::parse(&request.respond(StoreStatus::DataSetMismatch, "no\nsuch")).unwrap();
        assert_eq!(answer, Response { message_id: 0x1234, status: 0xA900, comment: "nosuch".to_owned() });
        assert!(!answer.is_stored() && !answer.may_pass_later());
    }

    #[test]
    fn a_question_about_commitment_is_known_by_its_class_instance_and_action() {
        let parse = |bytes: &[u8]| match Request::parse(bytes).unwrap() {
            Request::Action(action) => action,
            other => panic!("{other:?}"),
        };
        let asked = commitment_request(7);
        let action = parse(&asked);
        assert_eq!(action.require_commitment(), Ok(()));
        let answer = Response::parse(&action.respond(ActionStatus::ResourceLimitation)).unwrap();
        assert_eq!((answer.message_id, answer.status), (7, 0x0213));
        assert_eq!(Response::parse(&action.refuse()).unwrap().status, 0x0211);
        let with = |change: fn(&mut ActionRequest)| {
            let mut action = parse(&asked);
            change(&mut action);
            action.require_commitment().unwrap_err()
        };
        assert_eq!(with(|a| a.sop_class_uid = "1.2".to_owned()), ActionStatus::NoSuchClass);
        assert_eq!(with(|a| a.sop_instance_uid.clear()), ActionStatus::NoSuchInstance);
        assert_eq!(with(|a| a.action_type = 2), ActionStatus::NoSuchAction);
        assert_eq!(with(|a| a.data_set_follows = false), ActionStatus::InvalidArgument);
    }

    #[test]
    fn a_report_and_its_answer_come_back_as_they_went() {
        let Request::Other(report) = Request::parse(&commitment_report(5, 2)).unwrap() else {
            panic!("no report");
        };
        assert!(report.is_event_report());
        let Request::Reported(answer) = Request::parse(&report.accept_event_report()).unwrap() else {
            panic!("no answer");
        };
        assert_eq!((answer.response.message_id, answer.response.status), (5, 0));
    }

    /// PS3.7 E.1: group length first, then ascending elements, each 4-byte tag, 4-byte length, value.
    #[test]
    fn an_echo_request_has_these_bytes() {
        let mut expected = vec![0, 0, 0, 0, 4, 0, 0, 0, 56, 0, 0, 0, 0, 0, 2, 0, 18, 0, 0, 0];
        expected.extend(b"1.2.840.10008.1.1\0");
        expected.extend([0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0, 0, 0, 0x10, 1, 2, 0, 0, 0, 7, 0]);
        expected.extend([0, 0, 0, 8, 2, 0, 0, 0, 1, 1]);
        assert_eq!(echo_request(7), expected);
    }

    #[test]
    fn broken_command_sets_are_refused_and_bad_uids_are_kept_for_the_answer() {
        let good = ct_request();
        for cut in 1..good.len() {
            drop(Request::parse(&good[..cut]));
        }
        assert!(Request::parse(&good[..good.len() - 1]).is_err());
        assert!(matches!(Request::parse(&[]), Err(InvalidCommand::Missing { keyword: "CommandField", .. })));
        let evil = String::from_utf8_lossy(&good).replace("1.2.3.45", "../../..");
        let Ok(Request::Store(request)) = Request::parse(evil.as_bytes()) else { panic!("no C-STORE") };
        assert_eq!(request.sop_instance_uid, Err(InvalidUid::Syntax));
    }
}
