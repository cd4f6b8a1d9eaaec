//! C-ECHO and C-STORE to one peer.
//!
//! What is stored goes out as it is; only between the two uncompressed little endian transfer syntaxes is a data set
//! rewritten when the peer takes nothing else.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use dicom_core::header::Header;
use dicom_core::value::Value;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::uids;
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use dicom_ul::Pdu;
use dicom_ul::pdu::{
    AssociationRJ, AssociationRJResult, AssociationRQ, PresentationContextProposed,
    PresentationContextResultReason, RequestorRoles, UserVariableItem,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::pipeline::ingest::association::APPLICATION_CONTEXT;
use crate::pipeline::ingest::data_set::{self, DataSetError, Keep};
use crate::pipeline::ingest::part10::{self, Part10Error};
use crate::pipeline::ingest::pdu::{COMMAND, LAST, MAX_P_DATA, PduError, PduStream, kind};
use crate::pipeline::ingest::receiver::{FragmentError, split_fragment};
use crate::pipeline::tls::{Socket, TlsClient, is_refusal};
use crate::vocabulary::dicom::dimse::{self, InvalidCommand, Response, VERIFICATION};
use crate::vocabulary::dicom::{
    AeTitle, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, Peer, SopClassUid, SopInstanceUid,
    TransferSyntaxUid,
};

/// How long a peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScuTimeouts {
    /// To take our connection.
    pub connect: Duration,
    /// To answer a request, after all of it is sent; an archive that writes to tape is slow.
    pub answer: Duration,
}

impl Default for ScuTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), answer: Duration::from_secs(60) }
    }
}

/// Why nothing was delivered.
#[derive(Debug, thiserror::Error)]
pub enum ScuError {
    /// No connection.
    #[error("{peer} cannot be reached: is the address right, does it run, does a firewall stand between?")]
    Unreachable {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS handshake.
    #[error(
        "no TLS handshake with {peer}: does it speak TLS on this port, and do both believe each other's certificate?"
    )]
    Tls {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A-ASSOCIATE-RJ.
    #[error("{peer} rejects the association: {reason}")]
    Rejected {
        /// Who.
        peer: Peer,
        /// In words.
        reason: String,
        /// Whether the peer calls it permanent.
        permanent: bool,
    },
    /// It answered with something that is no answer.
    #[error("{peer} answered with a PDU of type {kind:02X}H instead of what was due")]
    Unexpected {
        /// Who.
        peer: Peer,
        /// PDU type.
        kind: u8,
    },
    /// The connection failed in the middle.
    #[error("the association with {peer} broke")]
    Pdu {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: PduError,
    },
    /// No presentation context for what we have.
    #[error(
        "{peer} accepts neither {transfer_syntax} nor anything it can be rewritten to for SOP class {class}: enable it there"
    )]
    NoContext {
        /// Who.
        peer: Peer,
        /// What.
        class: String,
        /// How it is stored.
        transfer_syntax: String,
    },
    /// A status other than success or warning.
    #[error("{peer} refuses with status {status:04X}H {comment:?}")]
    Refused {
        /// Who.
        peer: Peer,
        /// Status (0000,0900).
        status: u16,
        /// Error Comment (0000,0902).
        comment: String,
        /// A7xx or 0110H: may pass later.
        may_pass_later: bool,
    },
    /// Stored, but the peer does not answer for keeping it.
    #[error("{peer} took the instance and does not commit itself to keep it{}", reason.map_or_else(String::new, |r| format!(" (reason {r:04X}H)")))]
    NotCommitted {
        /// Who.
        peer: Peer,
        /// Failure Reason (0008,1197).
        reason: Option<u16>,
    },
    /// The answer cannot be read.
    #[error("the answer of {peer} cannot be read")]
    Answer {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: InvalidCommand,
    },
    /// The answer's fragments are broken.
    #[error("the answer of {peer} cannot be put together")]
    Fragments {
        /// Who.
        peer: Peer,
        /// Why.
        #[source]
        source: FragmentError,
    },
    /// The file is no Part 10 file.
    #[error("the file cannot be sent")]
    File(#[source] Part10Error),
    /// The data set is broken.
    #[error("the data set cannot be sent")]
    DataSet(#[source] DataSetError),
    /// The data set cannot be rewritten.
    #[error("the data set cannot be rewritten to {0}")]
    Transcode(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than an association can hold.
    #[error("{0} kinds of instances are more than one association can propose (128): send fewer at a time")]
    TooManyContexts(usize),
}

impl ScuError {
    /// Whether trying again is of no use until a person has changed something in the object or the peer.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NoContext { .. } | Self::File(_) | Self::DataSet(_) | Self::Transcode(..) => true,
            Self::TooManyContexts(_) => true,
            Self::Refused { may_pass_later, .. } => !may_pass_later,
            // Processing failure and want of resources may pass, and so may an instance that is not there yet.
            Self::NotCommitted { reason, .. } => {
                reason.is_some_and(|r| !matches!(r, 0x0110 | 0x0112 | 0x0213 | 0xA700..=0xA7FF))
            }
            // A peer that does not know us yet often does a day later, so even a permanent reject is tried again.
            Self::Rejected { .. } => false,
            Self::Unreachable { .. } | Self::Tls { .. } => false,
            Self::Unexpected { .. } | Self::Pdu { .. } => false,
            Self::Answer { .. } | Self::Fragments { .. } => false,
        }
    }
}

/// What an instance needs of the peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Its class.
    pub sop_class_uid: SopClassUid,
    /// How it is stored.
    pub transfer_syntax_uid: TransferSyntaxUid,
}

/// What a Part 10 file holds, or why it is none.
///
/// # Errors
/// [`ScuError::File`] when it is no Part 10 file.
pub fn kind_of(part10: &[u8]) -> Result<Kind, ScuError> {
    let file = part10::split(part10).map_err(ScuError::File)?;
    Ok(Kind { sop_class_uid: file.sop_class_uid, transfer_syntax_uid: file.transfer_syntax_uid })
}

/// An instance that a peer has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub sop_instance_uid: SopInstanceUid,
    /// The status and comment of a warning, where there was one.
    pub warning: Option<String>,
}

/// An open association as SCU.
#[derive(Debug)]
pub struct Scu {
    pub(super) peer: Peer,
    pub(super) stream: PduStream,
    pub(super) timeouts: ScuTimeouts,
    pub(super) max_body: u32,
    contexts: Vec<Accepted>,
    pub(super) message_id: u16,
}

#[derive(Debug)]
struct Accepted {
    id: u8,
    abstract_syntax: String,
    transfer_syntax: String,
}

/// Asks the peer whether it answers.
///
/// # Errors
/// [`ScuError`].
pub async fn echo(peer: &Peer, calling: &AeTitle, timeouts: ScuTimeouts) -> Result<(), ScuError> {
    echo_with(peer, calling, timeouts, None).await
}

/// As [`echo`], over TLS where one is given.
///
/// # Errors
/// [`ScuError`].
pub async fn echo_with(
    peer: &Peer,
    calling: &AeTitle,
    timeouts: ScuTimeouts,
    tls: Option<&TlsClient>,
) -> Result<(), ScuError> {
    let proposed = [(VERIFICATION.to_owned(), uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned())];
    let mut scu = Scu::associate(peer, calling, (&proposed, None), timeouts, tls).await?;
    let context = scu.contexts.first().map(|c| c.id).ok_or_else(|| ScuError::NoContext {
        peer: peer.clone(),
        class: VERIFICATION.to_owned(),
        transfer_syntax: uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned(),
    })?;
    let sent = scu.stream.send_command(context, &dimse::echo_request(1), timeouts.answer).await;
    sent.map_err(|source| scu.broken(source))?;
    let answer = scu.answer(context).await?;
    scu.release().await;
    if answer.status == 0 { Ok(()) } else { Err(refused(peer, answer)) }
}

impl Scu {
    /// Opens an association for these kinds of instances.
    ///
    /// # Errors
    /// [`ScuError`]; that a kind was not accepted shows when it is stored.
    pub async fn open(
        peer: &Peer,
        calling: &AeTitle,
        kinds: &BTreeSet<Kind>,
        timeouts: ScuTimeouts,
    ) -> Result<Self, ScuError> {
        Self::open_with(peer, calling, kinds, timeouts, None).await
    }

    /// As [`Scu::open`], over TLS where one is given.
    ///
    /// # Errors
    /// [`ScuError`].
    pub async fn open_with(
        peer: &Peer,
        calling: &AeTitle,
        kinds: &BTreeSet<Kind>,
        timeouts: ScuTimeouts,
        tls: Option<&TlsClient>,
    ) -> Result<Self, ScuError> {
        let mut proposed = BTreeSet::new();
        for kind in kinds {
            let stored = kind.transfer_syntax_uid.as_str();
            let syntaxes = if is_plain(stored) { PLAIN.to_vec() } else { vec![stored] };
            proposed.extend(syntaxes.into_iter().map(|s| (kind.sop_class_uid.to_string(), s.to_owned())));
        }
        let proposed: Vec<_> = proposed.into_iter().collect();
        Self::associate(peer, calling, (&proposed, None), timeouts, tls).await
    }

    /// Opens an association for pairs of abstract and transfer syntax; of `as_scp` we are the SCP (PS3.7 D.3.3.4).
    pub(super) async fn associate(
        peer: &Peer,
        calling: &AeTitle,
        (proposed, as_scp): (&[(String, String)], Option<&str>),
        timeouts: ScuTimeouts,
        tls: Option<&TlsClient>,
    ) -> Result<Self, ScuError> {
        if proposed.len() > 128 {
            return Err(ScuError::TooManyContexts(proposed.len()));
        }
        let unreachable = |source| ScuError::Unreachable { peer: peer.clone(), source };
        let host = peer.host.trim_start_matches('[').trim_end_matches(']');
        let socket = match timeout(timeouts.connect, TcpStream::connect((host, peer.port))).await {
            Ok(connected) => connected.map_err(unreachable)?,
            Err(_elapsed) => return Err(unreachable(io::ErrorKind::TimedOut.into())),
        };
        let socket = match tls {
            None => Socket::from(socket),
            Some(tls) => match timeout(timeouts.connect, tls.connect(host, socket)).await {
                Ok(Ok(socket)) => socket,
                Ok(Err(source)) => return Err(ScuError::Tls { peer: peer.clone(), source }),
                Err(_elapsed) => {
                    return Err(ScuError::Tls { peer: peer.clone(), source: io::ErrorKind::TimedOut.into() });
                }
            },
        };
        let broken = |source| match source {
            // In TLS 1.3 a peer refuses our certificate when we take the handshake for done.
            PduError::Socket(source) if is_refusal(&source) => ScuError::Tls { peer: peer.clone(), source },
            source => ScuError::Pdu { peer: peer.clone(), source },
        };
        let mut stream = PduStream::new(socket).map_err(broken)?;
        let request = Pdu::AssociationRQ(request(peer, calling, proposed, as_scp));
        stream.send(&request, timeouts.answer).await.map_err(broken)?;
        let (kind, range) = stream.next(timeouts.answer).await.map_err(broken)?;
        let answer = match stream.negotiation(range).map_err(broken)? {
            Some(Pdu::AssociationAC(answer)) => answer,
            Some(Pdu::AssociationRJ(reject)) => return Err(rejected(peer, &reject)),
            _ => return Err(ScuError::Unexpected { peer: peer.clone(), kind }),
        };
        let max_body = answer.user_variables.iter().find_map(|item| match item {
            UserVariableItem::MaxLength(length) => Some(*length),
            _ => None,
        });
        let accepted = answer
            .presentation_contexts
            .iter()
            .filter(|c| c.reason == PresentationContextResultReason::Acceptance);
        let contexts = accepted
            .filter_map(|c| {
                let (abstract_syntax, transfer_syntax) = proposed.get(usize::from(c.id / 2)).cloned()?;
                Some(Accepted { id: c.id, abstract_syntax, transfer_syntax })
            })
            .collect();
        let max_body = max_body.unwrap_or(0);
        Ok(Self { peer: peer.clone(), stream, timeouts, max_body, contexts, message_id: 0 })
    }

    /// Stores one Part 10 file; the status of a warning counts as stored.
    ///
    /// # Errors
    /// [`ScuError`]; after [`ScuError::Refused`], [`ScuError::NoContext`] and the errors about the file itself the
    /// association goes on.
    pub async fn store(&mut self, part10: &[u8]) -> Result<Stored, ScuError> {
        let file = part10::split(part10).map_err(ScuError::File)?;
        let class = file.sop_class_uid.as_str();
        let stored = file.transfer_syntax_uid.as_str();
        let choices = if is_plain(stored) { [stored, PLAIN[0], PLAIN[1]] } else { [stored; 3] };
        let context = choices.iter().find_map(|syntax| {
            self.contexts.iter().find(|c| c.abstract_syntax == class && c.transfer_syntax == **syntax)
        });
        let Some(context) = context else {
            return Err(ScuError::NoContext {
                peer: self.peer.clone(),
                class: class.to_owned(),
                transfer_syntax: stored.to_owned(),
            });
        };
        let id = context.id;
        let data_set = if context.transfer_syntax == stored {
            Cow::Borrowed(file.data_set)
        } else {
            Cow::Owned(rewrite(file.data_set, stored, &context.transfer_syntax)?)
        };
        self.message_id = self.message_id.wrapping_add(1).max(1);
        let command = dimse::store_request(self.message_id, &file.sop_class_uid, &file.sop_instance_uid);
        let sent =
            self.stream.send_message(id, (&command, &data_set), self.max_body, self.timeouts.answer).await;
        sent.map_err(|source| self.broken(source))?;
        let answer = self.answer(id).await?;
        if !answer.is_stored() {
            return Err(refused(&self.peer, answer));
        }
        let warning = (answer.status != 0).then(|| {
            let colon = if answer.comment.is_empty() { "" } else { ": " };
            format!("status {:04X}H{colon}{}", answer.status, answer.comment)
        });
        Ok(Stored { sop_instance_uid: file.sop_instance_uid, warning })
    }

    /// Ends the association in order; a peer that is gone already is no error.
    pub async fn release(mut self) {
        let limit = Duration::from_secs(5);
        if self.stream.send_short(kind::RELEASE_RQ, [0; 4], limit).await.is_ok() {
            match self.stream.next(limit).await {
                Ok((kind::RELEASE_RP, _)) => self.stream.close().await,
                other => tracing::debug!(?other, "no answer to the release"),
            }
        }
    }

    /// The context of a class, and its transfer syntax, where the peer has accepted one.
    pub(super) fn context_for(&self, class: &str) -> Option<(u8, TransferSyntaxUid)> {
        let context = self.contexts.iter().find(|c| c.abstract_syntax == class)?;
        Some((context.id, TransferSyntaxUid::parse(&context.transfer_syntax).ok()?))
    }

    /// The response to the request just sent.
    pub(super) async fn answer(&mut self, context: u8) -> Result<Response, ScuError> {
        let mut command = Vec::new();
        loop {
            let (kind, range) = match self.stream.next(self.timeouts.answer).await {
                Ok(next) => next,
                Err(source) => return Err(self.broken(source)),
            };
            if kind != kind::P_DATA {
                return Err(ScuError::Unexpected { peer: self.peer.clone(), kind });
            }
            let mut body = self.stream.body(range);
            while !body.is_empty() {
                let fragment;
                (fragment, body) = split_fragment(body).map_err(|source| self.fragments(source))?;
                if fragment.context != context || fragment.control & COMMAND == 0 || command.len() > 16_384 {
                    return Err(self.fragments(FragmentError::OutOfOrder));
                }
                command.extend_from_slice(fragment.bytes);
                if fragment.control & LAST != 0 {
                    let peer = self.peer.clone();
                    return Response::parse(&command).map_err(|source| ScuError::Answer { peer, source });
                }
            }
        }
    }

    pub(super) fn broken(&self, source: PduError) -> ScuError {
        ScuError::Pdu { peer: self.peer.clone(), source }
    }

    fn fragments(&self, source: FragmentError) -> ScuError {
        ScuError::Fragments { peer: self.peer.clone(), source }
    }
}

/// The two that differ in nothing but how they are written. Implicit first: a structure set's Contour Data may be
/// longer than explicit VR can say (PS3.5 7.1.2).
const PLAIN: [&str; 2] = [uids::IMPLICIT_VR_LITTLE_ENDIAN, uids::EXPLICIT_VR_LITTLE_ENDIAN];

fn is_plain(syntax: &str) -> bool {
    PLAIN.contains(&syntax)
}

fn rewrite(data_set: &[u8], from: &str, to: &str) -> Result<Vec<u8>, ScuError> {
    // The reader recurses, so nesting is bounded first.
    data_set::outline(data_set, from, u64::MAX, Keep::Values).map_err(ScuError::DataSet)?;
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| ScuError::Transcode(to.to_owned(), e);
    let (Some(from), Some(into)) = (TransferSyntaxRegistry.get(from), TransferSyntaxRegistry.get(to)) else {
        return Err(failed("not in the registry of transfer syntaxes".into()));
    };
    let object = InMemDicomObject::read_dataset_with_ts(data_set, from).map_err(|e| failed(e.into()))?;
    if to != uids::IMPLICIT_VR_LITTLE_ENDIAN
        && let Some(tag) = beyond_explicit(&object)
    {
        return Err(failed(
            format!("{tag} is longer than its explicit VR can say: enable Implicit VR Little Endian there")
                .into(),
        ));
    }
    let mut rewritten = Vec::with_capacity(data_set.len() + 4_096);
    object.write_dataset_with_ts(&mut rewritten, into).map_err(|e| failed(e.into()))?;
    Ok(rewritten)
}

/// An element that explicit VR could only call UN (PS3.5 6.2.2), which planning systems refuse in Contour Data.
fn beyond_explicit(object: &InMemDicomObject) -> Option<Tag> {
    object.iter().find_map(|element| match element.value() {
        Value::Sequence(sequence) => sequence.items().iter().find_map(beyond_explicit),
        Value::Primitive(value) => {
            let is_text =
                matches!(element.vr(), VR::DS | VR::IS | VR::LO | VR::ST | VR::LT | VR::PN | VR::UI);
            (is_text && value.calculate_byte_len() > LONGEST_EXPLICIT_TEXT).then(|| element.tag())
        }
        _ => None,
    })
}

/// Longest text in explicit VR (PS3.5 7.1.2).
const LONGEST_EXPLICIT_TEXT: usize = 65_534;

fn request(
    peer: &Peer,
    calling: &AeTitle,
    proposed: &[(String, String)],
    as_scp: Option<&str>,
) -> AssociationRQ {
    let role = as_scp.map(|class| {
        let roles = RequestorRoles { scu: false, scp: true };
        UserVariableItem::ScuScpRoleSelectionSubItem(class.to_owned(), roles)
    });
    let contexts =
        (1..=255).step_by(2).zip(proposed).map(|(id, (class, syntax))| PresentationContextProposed {
            id,
            abstract_syntax: class.clone(),
            transfer_syntaxes: vec![syntax.clone()],
        });
    AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling.to_string(),
        called_ae_title: peer.ae_title.to_string(),
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: contexts.collect(),
        user_variables: vec![
            UserVariableItem::MaxLength(MAX_P_DATA),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.to_owned()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.to_owned()),
        ]
        .into_iter()
        .chain(role)
        .collect(),
    }
}

fn rejected(peer: &Peer, reject: &AssociationRJ) -> ScuError {
    let permanent = reject.result == AssociationRJResult::Permanent;
    ScuError::Rejected { peer: peer.clone(), reason: reject.source.to_string(), permanent }
}

pub(super) fn refused(peer: &Peer, answer: Response) -> ScuError {
    let may_pass_later = answer.may_pass_later();
    ScuError::Refused { peer: peer.clone(), status: answer.status, comment: answer.comment, may_pass_later }
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue};
    use dicom_dictionary_std::tags;

    use super::*;

    #[test]
    fn a_contour_that_explicit_vr_cannot_say_is_not_rewritten() {
        let contour = |n: usize| {
            let data = PrimitiveValue::from(vec!["-123.4567"; n].join("\\"));
            let object =
                InMemDicomObject::from_element_iter([DataElement::new(tags::CONTOUR_DATA, VR::DS, data)]);
            let mut bytes = Vec::new();
            let implicit = TransferSyntaxRegistry.get(PLAIN[0]).unwrap();
            object.write_dataset_with_ts(&mut bytes, implicit).unwrap();
            rewrite(&bytes, PLAIN[0], PLAIN[1])
        };
        assert!(contour(6_500).is_ok());
        let error = contour(6_600).unwrap_err();
        assert!(error.is_permanent() && crate::vocabulary::causes::with_causes(&error).contains("Implicit"));
    }
}
