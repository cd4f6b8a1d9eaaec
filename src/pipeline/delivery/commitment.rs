//! Storage commitment, the part that asks (PS3.4 J): after an instance is stored, whether the peer answers for keeping
//! it. The report comes on the same association or, to our Store SCP, on one of the peer's.
//!
//! And the other way round: our report to a peer that has asked us.

use std::time::Duration;

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use tokio::time::{Instant, timeout_at};

use super::scu::{self, Kind, Scu, ScuError, ScuTimeouts};
use crate::pipeline::ingest::CommitmentReport;
use crate::pipeline::ingest::budget::Budget;
use crate::pipeline::ingest::commitment::{Expected, Report};
use crate::pipeline::ingest::pdu::kind;
use crate::pipeline::ingest::receiver::{DataSet, Message, Receiver};
use crate::pipeline::tls::TlsClient;
use crate::vocabulary::dicom::dimse::{self, Request, STORAGE_COMMITMENT};
use crate::vocabulary::dicom::{AeTitle, Peer, SopClassUid, SopInstanceUid, TransferSyntaxUid};

/// The longest report: an instance's lines are some hundred bytes.
const LONGEST_REPORT: usize = 1 << 20;

/// What became of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Commitment {
    /// The peer answers for the instance.
    Committed,
    /// It does not keep it.
    Refused {
        /// Failure Reason (0008,1197).
        reason: Option<u16>,
    },
    /// It does not offer the service, or refuses the request; in words.
    NotOffered(String),
    /// No report in time.
    NoAnswer,
}

/// What an association must propose to ask for commitment.
pub(super) fn kind_to_propose() -> Option<Kind> {
    Some(Kind {
        sop_class_uid: SopClassUid::parse(STORAGE_COMMITMENT).ok()?,
        transfer_syntax_uid: TransferSyntaxUid::parse(uids::IMPLICIT_VR_LITTLE_ENDIAN).ok()?,
    })
}

impl Scu {
    /// Asks for the commitment of an instance just stored, and waits for the report.
    ///
    /// # Errors
    /// [`ScuError`] where the question could not be put.
    pub(super) async fn commit(
        &mut self,
        class: &SopClassUid,
        instance: &SopInstanceUid,
        wait: Duration,
    ) -> Result<Commitment, ScuError> {
        let context = self.context_for(STORAGE_COMMITMENT);
        let Some((context, syntax)) = context else {
            return Ok(Commitment::NotOffered("it accepts no such presentation context".to_owned()));
        };
        let transaction = format!("2.25.{}", uuid::Uuid::new_v4().as_u128());
        let question = question(&transaction, class, instance, &syntax)?;
        let mut expected = Expected::begin(&transaction);
        let answer = self.ask(context, &question).await?;
        if answer.status != 0 {
            return Ok(Commitment::NotOffered(format!("it answers with status {:04X}H", answer.status)));
        }
        let deadline = Instant::now() + wait;
        let mut receiver = Receiver::new(vec![context], LONGEST_REPORT, Budget::new(2 * LONGEST_REPORT));
        let mut is_open = true;
        loop {
            tokio::select! {
                report = timeout_at(deadline, &mut expected.report) => {
                    let report = report.ok().and_then(Result::ok);
                    return Ok(report.map_or(Commitment::NoAnswer, |report| judge(&report, instance)));
                }
                messages = self.next_messages(&mut receiver, wait), if is_open => match messages {
                    Some(messages) => {
                        for message in messages {
                            if let Some(report) = self.report(message, &syntax, &transaction).await {
                                return Ok(judge(&report, instance));
                            }
                        }
                    }
                    // The peer has ended the association, or broke it off: the report comes to our Store SCP.
                    None => is_open = false,
                },
            }
        }
    }

    /// Messages that the peer begins; `None` where no more come.
    async fn next_messages(&mut self, receiver: &mut Receiver, wait: Duration) -> Option<Vec<Message>> {
        let (kind, range) = self.stream.next(wait).await.ok()?;
        if kind == kind::P_DATA {
            return receiver.take(self.stream.body(range)).ok();
        }
        if kind == kind::RELEASE_RQ {
            drop(self.stream.send_short(kind::RELEASE_RP, [0; 4], self.timeouts.answer).await);
        }
        None
    }

    /// Answers a message, and gives the report of our transaction where it is that.
    async fn report(
        &mut self,
        message: Message,
        syntax: &TransferSyntaxUid,
        transaction: &str,
    ) -> Option<Report> {
        let Request::Other(request) = message.request else { return None };
        let report = match (request.is_event_report(), message.data_set) {
            (true, DataSet::Whole(bytes, _share)) => Report::parse(&bytes, syntax),
            _ => None,
        };
        let is_ours = report.as_ref().is_some_and(|report| report.transaction_uid == transaction);
        let answer = if is_ours { request.accept_event_report() } else { request.refuse() };
        drop(self.stream.send_command(message.context, &answer, self.timeouts.answer).await);
        report.filter(|_| is_ours)
    }
}

/// Reports to a peer that has asked for storage commitment, over an association of ours (PS3.4 J.3.3).
///
/// # Errors
/// [`ScuError`].
pub async fn report_commitment(
    (peer, tls): (&Peer, Option<&TlsClient>),
    calling: &AeTitle,
    timeouts: ScuTimeouts,
    report: &CommitmentReport,
) -> Result<(), ScuError> {
    let syntaxes = [uids::IMPLICIT_VR_LITTLE_ENDIAN, uids::EXPLICIT_VR_LITTLE_ENDIAN];
    let proposed = syntaxes.map(|syntax| (STORAGE_COMMITMENT.to_owned(), syntax.to_owned()));
    let mut scu = Scu::associate(peer, calling, (&proposed, Some(STORAGE_COMMITMENT)), timeouts, tls).await?;
    let encoded = scu
        .context_for(STORAGE_COMMITMENT)
        .and_then(|(context, syntax)| Some((context, report.encode(&syntax)?)));
    let Some((context, data_set)) = encoded else {
        let (class, transfer_syntax) = (STORAGE_COMMITMENT.to_owned(), syntaxes[0].to_owned());
        return Err(ScuError::NoContext { peer: peer.clone(), class, transfer_syntax });
    };
    let command = dimse::commitment_report(1, report.event_type());
    let sent = scu.stream.send_message(context, (&command, &data_set), scu.max_body, timeouts.answer).await;
    sent.map_err(|source| scu.broken(source))?;
    let answer = scu.answer(context).await?;
    scu.release().await;
    if answer.status == 0 { Ok(()) } else { Err(scu::refused(peer, answer)) }
}

fn judge(report: &Report, instance: &SopInstanceUid) -> Commitment {
    let failed = report.failed.iter().find(|(uid, _)| uid == instance.as_str());
    match failed {
        Some((_, reason)) => Commitment::Refused { reason: *reason },
        None if report.kept.iter().any(|uid| uid == instance.as_str()) => Commitment::Committed,
        None => Commitment::Refused { reason: None },
    }
}

/// The data set of N-ACTION (PS3.4 J.3.2.1.1).
fn question(
    transaction: &str,
    class: &SopClassUid,
    instance: &SopInstanceUid,
    syntax: &TransferSyntaxUid,
) -> Result<Vec<u8>, ScuError> {
    let uid = |tag, value: &str| DataElement::new(tag, VR::UI, PrimitiveValue::from(value));
    let item = InMemDicomObject::from_element_iter([
        uid(tags::REFERENCED_SOP_CLASS_UID, class.as_str()),
        uid(tags::REFERENCED_SOP_INSTANCE_UID, instance.as_str()),
    ]);
    let object = InMemDicomObject::from_element_iter([
        uid(tags::TRANSACTION_UID, transaction),
        DataElement::new(tags::REFERENCED_SOP_SEQUENCE, VR::SQ, DataSetSequence::from(vec![item])),
    ]);
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| ScuError::Transcode(syntax.to_string(), error);
    let Some(into) = TransferSyntaxRegistry.get(syntax.as_str()) else {
        return Err(failed("not in the registry of transfer syntaxes".into()));
    };
    let mut bytes = Vec::new();
    object.write_dataset_with_ts(&mut bytes, into).map_err(|error| failed(error.into()))?;
    Ok(bytes)
}

impl Scu {
    /// Sends N-ACTION with this data set and gives its answer.
    async fn ask(&mut self, context: u8, question: &[u8]) -> Result<dimse::Response, ScuError> {
        self.message_id = self.message_id.wrapping_add(1).max(1);
        let command = dimse::commitment_request(self.message_id);
        let sent = self
            .stream
            .send_message(context, (&command, question), self.max_body, self.timeouts.answer)
            .await;
        sent.map_err(|source| self.broken(source))?;
        self.answer(context).await
    }
}
