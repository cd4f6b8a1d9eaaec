//! One association: who may call, with what, and what is answered.

mod pledging;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::Pdu;
use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, PresentationContextResult, PresentationContextResultReason,
    UserVariableItem,
};
use tokio::net::TcpStream;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::data_set::EXPLICIT_VR_BIG_ENDIAN;
use super::listener::{ListenerLimits, Shared, StorageClasses};
use super::pdu::{self, AbortReason, MAX_P_DATA, PduError, PduStream, kind};
use super::receiver::{DataSet, Message, Receiver};
use super::spool::{Incoming, Stored};
use super::tally;
use super::witness::{IngestEvent, StudyOf, study_of};
use crate::pipeline::tls::Socket;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::dimse::{
    OtherRequest, Request, STORAGE_COMMITMENT, StoreRequest, StoreStatus, VERIFICATION,
};
use crate::vocabulary::dicom::{
    AeTitle, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SopClassUid, TransactionUid,
    TransferSyntaxUid,
};

/// DICOM application context name (PS3.7 A.2.1).
pub(crate) const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";

/// How long a message in hand may still take once we are asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Whether a data set in this transfer syntax is taken, to be stored as sent: the four plain ones, and whatever
/// compresses pixel data inside explicit VR little endian. JPIP only refers to pixels elsewhere.
fn is_stored_as_sent(transfer_syntax: &str) -> bool {
    let jpip = [
        "1.2.840.10008.1.2.4.94",
        "1.2.840.10008.1.2.4.95",
        "1.2.840.10008.1.2.4.204",
        "1.2.840.10008.1.2.4.205",
    ];
    let plain = [
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        uids::ENCAPSULATED_UNCOMPRESSED_EXPLICIT_VR_LITTLE_ENDIAN,
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        uids::RLE_LOSSLESS,
    ];
    let is_jpeg_family =
        transfer_syntax.starts_with("1.2.840.10008.1.2.4.") && !jpip.contains(&transfer_syntax);
    is_jpeg_family || plain.contains(&transfer_syntax)
}

/// Whether data sets that are not stored may be in this transfer syntax, ours and theirs.
fn is_spoken(transfer_syntax: &str) -> bool {
    [uids::IMPLICIT_VR_LITTLE_ENDIAN, uids::EXPLICIT_VR_LITTLE_ENDIAN].contains(&transfer_syntax)
}

/// A-ASSOCIATE-RJ: result, source, reason (PS3.8 9.3.4).
type Reject = [u8; 3];
const APPLICATION_CONTEXT_NOT_SUPPORTED: Reject = [1, 1, 2];
const CALLING_NOT_RECOGNIZED: Reject = [1, 1, 3];
const CALLED_NOT_RECOGNIZED: Reject = [1, 1, 7];
const PROTOCOL_VERSION_NOT_SUPPORTED: Reject = [1, 2, 2];
const LOCAL_LIMIT_EXCEEDED: Reject = [2, 3, 2];

/// What an accepted context is for.
#[derive(Debug, Clone)]
struct Context {
    id: u8,
    abstract_syntax: String,
    transfer_syntax: TransferSyntaxUid,
}

struct Accepted {
    answer: AssociationAC,
    calling: AeTitle,
    contexts: Vec<Context>,
    /// The longest P-DATA that the peer takes; 0 for any.
    max_body: u32,
}

/// The right to an association, given back when dropped.
enum Place<'a> {
    /// One of the many, and one of its caller's.
    Usual { _of_all: SemaphorePermit<'a>, _of_caller: tally::Place<(AeTitle, IpAddr)> },
    /// One of the few for C-ECHO; it ends soon.
    Echo { _reserved: SemaphorePermit<'a> },
}

enum Refusal {
    Reject(Option<AeTitle>, Reject),
    Abort(AbortReason),
}

/// Serves one connection to its end.
pub(super) async fn serve(
    socket: TcpStream,
    address: IpAddr,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = &shared.options.limits;
    let requested_by = Instant::now() + limits.request_timeout;
    let Some(socket) = secured(socket, address, requested_by, &shared).await else { return };
    let mut stream = match PduStream::new(socket) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a connection was gone at once"),
    };
    let associated = associate(&mut stream, address, requested_by, &shared).await;
    let Some((accepted, place)) = associated else { return };
    let calling = accepted.calling.clone();
    let contexts = accepted.contexts.iter().map(|c| c.id).collect();
    let mut talk = Talk {
        receiver: Receiver::new(contexts, limits.max_instance_bytes, Arc::clone(&shared.budget)),
        stream,
        accepted,
        time: Time::new(limits, &place),
        shared: Arc::clone(&shared),
        n_stored: 0,
        address,
        studies: BTreeMap::new(),
        reports: BTreeMap::new(),
        message_id: 0,
    };
    let ended = talk.run(&mut stop).await;
    talk.bear_witness();
    talk.miss_reports();
    match ended {
        Ok(()) => tracing::info!(%calling, %address, n_stored = talk.n_stored, "association ended"),
        Err(error) => {
            shared.counters.broken.fetch_add(1, Ordering::Relaxed);
            let cause: &dyn std::error::Error = &error;
            tracing::warn!(%calling, %address, n_stored = talk.n_stored, error = cause, "association broken off");
        }
    }
}

/// Makes the TLS handshake where TLS is on.
async fn secured(
    socket: TcpStream,
    address: IpAddr,
    requested_by: Instant,
    shared: &Shared,
) -> Option<Socket> {
    let Some(tls) = &shared.options.tls else { return Some(socket.into()) };
    let error = match timeout_at(requested_by, tls.accept(socket)).await {
        Ok(Ok(socket)) => return Some(socket),
        Ok(Err((error, mut socket))) => {
            pdu::close(&mut socket).await;
            error
        }
        Err(_elapsed) => std::io::ErrorKind::TimedOut.into(),
    };
    shared.counters.tls_failed.fetch_add(1, Ordering::Relaxed);
    shared.turned_away(address, None, format!("no TLS handshake: {error}"));
    tracing::warn!(%address, %error, "no TLS handshake; closed");
    None
}

/// Takes the A-ASSOCIATE-RQ and answers it.
async fn associate<'a>(
    stream: &mut PduStream,
    address: IpAddr,
    requested_by: Instant,
    shared: &'a Shared,
) -> Option<(Accepted, Place<'a>)> {
    let limit = shared.options.limits.request_timeout;
    let refusal = match stream.next(requested_by.saturating_duration_since(Instant::now())).await {
        Ok((kind::ASSOCIATE_RQ, range)) => match stream.negotiation(range) {
            Ok(Some(Pdu::AssociationRQ(request))) => match admit(&request, address, shared) {
                Ok((accepted, place)) => {
                    let answer = Pdu::AssociationAC(accepted.answer.clone());
                    return stream.send(&answer, limit).await.ok().map(|()| (accepted, place));
                }
                Err(refusal) => refusal,
            },
            _ => Refusal::Abort(AbortReason::InvalidParameter),
        },
        Ok(_) => Refusal::Abort(AbortReason::UnexpectedPdu),
        Err(PduError::UnknownType(_)) => Refusal::Abort(AbortReason::UnrecognizedPdu),
        Err(PduError::TooLong { .. }) => Refusal::Abort(AbortReason::InvalidParameter),
        Err(error) => {
            tracing::debug!(%error, %address, "no association request came");
            return None;
        }
    };
    shared.counters.rejected.fetch_add(1, Ordering::Relaxed);
    match refusal {
        Refusal::Reject(calling, [result, source, reason]) => {
            let words = format!("association rejected: result {result}, source {source}, reason {reason}");
            shared.turned_away(address, calling, words);
            tracing::warn!(%address, result, source, reason, "association rejected");
            let told = stream.send_short(kind::ASSOCIATE_RJ, [0, result, source, reason], limit).await;
            if told.is_ok() {
                stream.close().await;
            }
        }
        Refusal::Abort(reason) => {
            shared.turned_away(address, None, format!("no DICOM association: {reason:?}"));
            tracing::warn!(%address, ?reason, "no DICOM association; aborted");
            stream.abort(reason).await;
        }
    }
    None
}

fn admit<'a>(
    request: &AssociationRQ,
    address: IpAddr,
    shared: &'a Shared,
) -> Result<(Accepted, Place<'a>), Refusal> {
    if request.protocol_version & 1 == 0 {
        return Err(Refusal::Reject(None, PROTOCOL_VERSION_NOT_SUPPORTED));
    }
    if trimmed(&request.application_context_name) != APPLICATION_CONTEXT {
        return Err(Refusal::Reject(None, APPLICATION_CONTEXT_NOT_SUPPORTED));
    }
    let Ok(calling) = request.calling_ae_title.parse::<AeTitle>() else {
        return Err(Refusal::Reject(None, CALLING_NOT_RECOGNIZED));
    };
    let reject = |why| Refusal::Reject(Some(calling.clone()), why);
    let Ok(called) = request.called_ae_title.parse() else { return Err(reject(CALLED_NOT_RECOGNIZED)) };
    let door = Arc::clone(&shared.options.door.borrow());
    if !door.callers.allow(&calling, address) {
        return Err(reject(CALLING_NOT_RECOGNIZED));
    }
    if door.called.as_ref().is_some_and(|ours| *ours != called) {
        return Err(reject(CALLED_NOT_RECOGNIZED));
    }
    let (results, contexts) = negotiate(request, &door.storage_classes)?;
    let only_echo = request.presentation_contexts.iter().all(|c| trimmed(&c.abstract_syntax) == VERIFICATION);
    let of_caller = shared.per_caller.take((calling.clone(), address));
    let place = match (shared.associations.try_acquire(), of_caller) {
        (Ok(of_all), Some(of_caller)) => Place::Usual { _of_all: of_all, _of_caller: of_caller },
        _ if only_echo => {
            let reserved = shared.echo_reserve.try_acquire();
            Place::Echo { _reserved: reserved.map_err(|_full| reject(LOCAL_LIMIT_EXCEEDED))? }
        }
        _ => return Err(reject(LOCAL_LIMIT_EXCEEDED)),
    };
    let roles = request.user_variables.iter().filter_map(commitment_roles);
    let answer = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables: [
            UserVariableItem::MaxLength(MAX_P_DATA),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.to_owned()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.to_owned()),
        ]
        .into_iter()
        .chain(roles)
        .collect(),
    };
    let max_body = request.user_variables.iter().find_map(|item| match item {
        UserVariableItem::MaxLength(length) => Some(*length),
        _ => None,
    });
    Ok((Accepted { answer, calling, contexts, max_body: max_body.unwrap_or(0) }, place))
}

/// A peer that reports on storage commitment proposes to be the SCP of it (PS3.7 D.3.3.4); it may be. Of other classes
/// nobody's roles change.
fn commitment_roles(item: &UserVariableItem) -> Option<UserVariableItem> {
    match item {
        UserVariableItem::ScuScpRoleSelectionSubItem(class, _) if trimmed(class) == STORAGE_COMMITMENT => {
            Some(item.clone())
        }
        _ => None,
    }
}

fn negotiate(
    request: &AssociationRQ,
    classes: &StorageClasses,
) -> Result<(Vec<PresentationContextResult>, Vec<Context>), Refusal> {
    let (mut results, mut contexts) = (Vec::new(), Vec::<Context>::new());
    let mut seen = [false; 256];
    for proposed in &request.presentation_contexts {
        // PS3.8 9.3.2.2: odd, and each once.
        if proposed.id % 2 == 0 || std::mem::replace(&mut seen[usize::from(proposed.id)], true) {
            return Err(Refusal::Abort(AbortReason::InvalidParameter));
        }
        let abstract_syntax = trimmed(&proposed.abstract_syntax);
        let is_taken = if abstract_syntax == STORAGE_COMMITMENT { is_spoken } else { is_stored_as_sent };
        let transfer_syntax = proposed.transfer_syntaxes.iter().map(|s| trimmed(s)).find(|s| is_taken(s));
        let transfer_syntax = transfer_syntax.and_then(|s| TransferSyntaxUid::parse(s).ok());
        let is_service = [VERIFICATION, STORAGE_COMMITMENT].contains(&abstract_syntax);
        let is_ours = is_service || classes.accept(abstract_syntax);
        let reason = match &transfer_syntax {
            _ if !is_ours => PresentationContextResultReason::AbstractSyntaxNotSupported,
            None => PresentationContextResultReason::TransferSyntaxesNotSupported,
            Some(syntax) => {
                contexts.push(Context {
                    id: proposed.id,
                    abstract_syntax: abstract_syntax.to_owned(),
                    transfer_syntax: syntax.clone(),
                });
                PresentationContextResultReason::Acceptance
            }
        };
        let transfer_syntax =
            transfer_syntax.map_or(uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned(), |s| s.to_string());
        results.push(PresentationContextResult { id: proposed.id, reason, transfer_syntax });
    }
    if results.is_empty() {
        return Err(Refusal::Abort(AbortReason::InvalidParameter));
    }
    Ok((results, contexts))
}

fn trimmed(uid: &str) -> &str {
    uid.trim_end_matches(['\0', ' '])
}

struct Talk {
    stream: PduStream,
    receiver: Receiver,
    accepted: Accepted,
    time: Time,
    shared: Arc<Shared>,
    n_stored: u64,
    address: IpAddr,
    /// What was stored, for the audit trail.
    studies: BTreeMap<StudyOf, BTreeMap<SopClassUid, u64>>,
    /// Reports on storage commitment that the peer has not answered yet, by Message ID.
    reports: BTreeMap<u16, TransactionUid>,
    /// Of the last report.
    message_id: u16,
}

/// How long what is going on may still take.
struct Time {
    idle: Duration,
    message: Duration,
    message_ends: Option<Instant>,
    association_ends: Instant,
}

impl Time {
    fn new(limits: &ListenerLimits, place: &Place<'_>) -> Self {
        let association = match place {
            Place::Usual { .. } => limits.association_timeout,
            Place::Echo { .. } => limits.request_timeout,
        };
        Self {
            idle: limits.idle_timeout,
            message: limits.message_timeout,
            message_ends: None,
            association_ends: Instant::now() + association,
        }
    }

    /// A message's time runs from its first fragment to its last.
    fn note(&mut self, receiver: &Receiver) {
        self.message_ends = match self.message_ends {
            _ if receiver.is_idle() => None,
            None => Some(Instant::now() + self.message),
            running => running,
        };
    }

    /// For the next PDU.
    fn left(&self) -> Duration {
        let ends = self.message_ends.map_or(self.association_ends, |ends| ends.min(self.association_ends));
        self.idle.min(ends.saturating_duration_since(Instant::now()))
    }
}

/// What goes back for a request.
struct Answer {
    command: Vec<u8>,
    /// The question that is then reported on.
    to_report: Option<TransactionUid>,
}

/// Why an association ended before its release.
#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error("the connection failed")]
    Pdu(#[source] PduError),
    #[error("the peer broke the protocol; aborted")]
    Fragment(#[source] super::receiver::FragmentError),
    #[error("a PDU of type {0:02X}H does not belong here; aborted")]
    Unexpected(u8),
}

impl Talk {
    async fn run(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), TalkError> {
        let idle = self.time.idle;
        loop {
            self.time.note(&self.receiver);
            let stopping = *stop.borrow();
            if stopping && self.receiver.is_idle() {
                self.stream.abort(AbortReason::UnexpectedPdu).await;
                return Ok(());
            }
            let next = tokio::select! {
                next = self.stream.next(if stopping { GRACE } else { self.time.left() }) => next,
                _ = stop.changed(), if !stopping => continue,
            };
            match next {
                Ok((kind::P_DATA, range)) => self.p_data(range).await?,
                Ok((kind::RELEASE_RQ, _)) => {
                    self.bear_witness();
                    self.stream.send_short(kind::RELEASE_RP, [0; 4], idle).await.map_err(TalkError::Pdu)?;
                    self.stream.close().await;
                    return Ok(());
                }
                Ok((kind::ABORT, _)) => return Err(TalkError::Pdu(PduError::Closed)),
                Ok((other, _)) => {
                    self.stream.abort(AbortReason::UnexpectedPdu).await;
                    return Err(TalkError::Unexpected(other));
                }
                Err(error) => {
                    let reason = match error {
                        PduError::UnknownType(_) => AbortReason::UnrecognizedPdu,
                        PduError::TooLong { .. } => AbortReason::InvalidParameter,
                        _ => AbortReason::UnexpectedPdu,
                    };
                    if !matches!(error, PduError::Closed | PduError::Socket(_)) {
                        self.stream.abort(reason).await;
                    }
                    return Err(TalkError::Pdu(error));
                }
            }
        }
    }

    /// Tells what came, study by study.
    fn bear_witness(&mut self) {
        let Some(witness) = &self.shared.options.witness else { return };
        for (study, n_instances) in std::mem::take(&mut self.studies) {
            let (calling, address) = (self.accepted.calling.clone(), self.address);
            witness.tell(IngestEvent::Received { calling, address, study, n_instances });
        }
    }

    async fn p_data(&mut self, range: std::ops::Range<usize>) -> Result<(), TalkError> {
        let messages = match self.receiver.take(self.stream.body(range)) {
            Ok(messages) => messages,
            Err(error) => {
                self.stream.abort(AbortReason::InvalidParameter).await;
                return Err(TalkError::Fragment(error));
            }
        };
        for message in messages {
            let context = message.context;
            let Some(answer) = self.answer(message).await else { continue };
            let sent = self.stream.send_command(context, &answer.command, self.time.idle).await;
            sent.map_err(TalkError::Pdu)?;
            if let Some(transaction) = answer.to_report {
                self.report(context, transaction).await?;
            }
        }
        Ok(())
    }

    /// `None` for what is an answer itself.
    async fn answer(&mut self, message: Message) -> Option<Answer> {
        let command = match message.request {
            Request::Reported(answer) => {
                self.reported(&answer.response).await;
                return None;
            }
            Request::Action(action) => {
                return Some(self.action(&action, message.context, message.data_set).await);
            }
            Request::Echo(echo) => echo.respond(),
            Request::Other(other) => self.other(&other, message.context, &message.data_set),
            Request::Store(store) => {
                let (status, comment) = self.store(&store, message.context, message.data_set).await;
                if status != StoreStatus::Success {
                    self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                    let calling = &self.accepted.calling;
                    tracing::warn!(%calling, status = format!("{:04X}H", status.code()), comment, "instance refused");
                }
                store.respond(status, &comment)
            }
        };
        Some(Answer { command, to_report: None })
    }

    fn other(&self, request: &OtherRequest, context: u8, data_set: &DataSet) -> Vec<u8> {
        let context = self.accepted.contexts.iter().find(|c| c.id == context);
        match (context, data_set) {
            (Some(context), DataSet::Whole(bytes, _share))
                if context.abstract_syntax == STORAGE_COMMITMENT && request.is_event_report() =>
            {
                super::commitment::take(request, bytes, &context.transfer_syntax)
            }
            _ => request.refuse(),
        }
    }

    async fn store(
        &mut self,
        request: &StoreRequest,
        context: u8,
        data_set: DataSet,
    ) -> (StoreStatus, String) {
        let context = self.accepted.contexts.iter().find(|c| c.id == context).cloned();
        let (Some(context), Ok(class)) = (context, &request.sop_class_uid) else {
            return (StoreStatus::CannotUnderstand, "Affected SOP Class UID is no UID".to_owned());
        };
        if context.abstract_syntax != class.as_str()
            || [VERIFICATION, STORAGE_COMMITMENT].contains(&class.as_str())
        {
            return (
                StoreStatus::SopClassNotSupported,
                "not the SOP class of this presentation context".to_owned(),
            );
        }
        let Ok(instance) = request.sop_instance_uid.clone() else {
            return (StoreStatus::CannotUnderstand, "Affected SOP Instance UID is no UID".to_owned());
        };
        let (bytes, _share) = match data_set {
            DataSet::Whole(bytes, share) => (bytes, share),
            DataSet::TooLong => {
                return (StoreStatus::OutOfResources, "instance longer than we take".to_owned());
            }
            DataSet::NoRoom => {
                return (
                    StoreStatus::OutOfResources,
                    "too much is being received; send again later".to_owned(),
                );
            }
            DataSet::Absent => return (StoreStatus::CannotUnderstand, "no data set".to_owned()),
        };
        let outcome = self.spool(class.clone(), instance, context, bytes).await;
        match outcome {
            Ok((Stored::New(stored), study)) => {
                self.n_stored += 1;
                if let Some(study) = study {
                    *self.studies.entry(study).or_default().entry(class.clone()).or_default() += 1;
                }
                self.shared.counters.stored.fetch_add(1, Ordering::Relaxed);
                // Whoever gathers has gone only when the service stops; the instance is replayed at the next start.
                if self.shared.arrived.send(stored).await.is_err() {
                    tracing::debug!("stored while stopping");
                }
                (StoreStatus::Success, String::new())
            }
            Ok((Stored::Again, _)) => (StoreStatus::Success, String::new()),
            Err((status, comment)) => (status, comment),
        }
    }

    /// Has the instance checked and written on a thread that may block.
    async fn spool(
        &mut self,
        class: SopClassUid,
        instance: crate::vocabulary::dicom::SopInstanceUid,
        context: Context,
        data_set: Vec<u8>,
    ) -> Result<(Stored, Option<StudyOf>), (StoreStatus, String)> {
        let (shared, calling) = (Arc::clone(&self.shared), self.accepted.calling.clone());
        let work = tokio::task::spawn_blocking(move || {
            let incoming = Incoming {
                sop_class_uid: &class,
                sop_instance_uid: &instance,
                transfer_syntax_uid: &context.transfer_syntax,
                calling_ae_title: &calling,
                data_set: &data_set,
            };
            let outcome = shared.spool.store(&incoming).map(|stored| {
                let is_asked = shared.options.witness.is_some();
                (stored, is_asked.then(|| study_of(&data_set, context.transfer_syntax.as_str())).flatten())
            });
            (outcome, data_set)
        });
        match work.await {
            Ok((outcome, buffer)) => {
                self.receiver.recycle(buffer);
                outcome.map_err(|error| (error.status(), with_causes(&error)))
            }
            Err(panic) => {
                tracing::error!(%panic, "checking an instance failed; it is refused, please report this");
                Err((StoreStatus::CannotUnderstand, "internal error".to_owned()))
            }
        }
    }
}
