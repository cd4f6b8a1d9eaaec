//! Storage commitment as an association sees it: the question, and the report where it goes over the same association.

use std::sync::Arc;

use super::{Answer, Talk, TalkError};
use crate::pipeline::ingest::receiver::DataSet;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::TransactionUid;
use crate::vocabulary::dicom::dimse::{self, ActionRequest, ActionStatus, Response, STORAGE_COMMITMENT};

impl Talk {
    /// Takes an N-ACTION: its question is durable before it is answered with success.
    pub(super) async fn action(&mut self, action: &ActionRequest, context: u8, data_set: DataSet) -> Answer {
        let context = self.accepted.contexts.iter().find(|c| c.id == context);
        let Some(context) = context.filter(|c| c.abstract_syntax == STORAGE_COMMITMENT) else {
            return Answer { command: action.refuse(), to_report: None };
        };
        let (calling, syntax) = (self.accepted.calling.clone(), context.transfer_syntax.clone());
        let taken = match (action.require_commitment(), data_set) {
            (Err(status), _) => Err(status),
            (Ok(()), DataSet::Whole(bytes, _share)) => {
                let (pledges, calling) = (Arc::clone(&self.shared.options.pledges), calling.clone());
                let work = move || pledges.take(&calling, bytes, &syntax);
                tokio::task::spawn_blocking(work).await.unwrap_or(Err(ActionStatus::ProcessingFailure))
            }
            (Ok(()), DataSet::TooLong | DataSet::NoRoom) => Err(ActionStatus::ResourceLimitation),
            (Ok(()), DataSet::Absent) => Err(ActionStatus::InvalidArgument),
        };
        match taken {
            Ok(transaction) => {
                tracing::info!(%calling, "storage commitment is asked for");
                let is_called_back = self.shared.options.pledges.is_called_back(&calling);
                let command = action.respond(ActionStatus::Success);
                Answer { command, to_report: (!is_called_back).then_some(transaction) }
            }
            Err(status) => {
                let code = format!("{:04X}H", status.code());
                tracing::warn!(%calling, status = code, "a question about storage commitment is refused");
                Answer { command: action.respond(status), to_report: None }
            }
        }
    }

    /// Reports over this association; the peer's answer comes to [`Talk::reported`].
    pub(super) async fn report(&mut self, context: u8, transaction: TransactionUid) -> Result<(), TalkError> {
        let Some(syntax) = self.accepted.contexts.iter().find(|c| c.id == context) else { return Ok(()) };
        let (pledges, syntax) = (Arc::clone(&self.shared.options.pledges), syntax.transfer_syntax.clone());
        let asked = transaction.clone();
        let work = move || {
            let report = pledges.report(&asked)?;
            Ok::<_, super::super::PledgeError>((report.event_type(), report.encode(&syntax)))
        };
        let (event_type, data_set) = match tokio::task::spawn_blocking(work).await {
            Ok(Ok((event_type, Some(data_set)))) => (event_type, data_set),
            Ok(Err(error)) => {
                tracing::error!(error = with_causes(&error), "a storage commitment cannot be reported");
                return Ok(());
            }
            Ok(Ok((_, None))) | Err(_) => {
                tracing::error!("a storage commitment cannot be reported; please report this");
                return Ok(());
            }
        };
        self.message_id = self.message_id.wrapping_add(1).max(1);
        let command = dimse::commitment_report(self.message_id, event_type);
        self.reports.insert(self.message_id, transaction);
        let (max_body, limit) = (self.accepted.max_body, self.time.idle);
        let sent = self.stream.send_message(context, (&command, &data_set), max_body, limit).await;
        sent.map_err(TalkError::Pdu)
    }

    /// Takes the peer's answer to a report.
    pub(super) async fn reported(&mut self, answer: &Response) {
        let Some(transaction) = self.reports.remove(&answer.message_id) else {
            tracing::debug!("an answer to no report of ours");
            return;
        };
        let calling = &self.accepted.calling;
        if answer.status == 0 {
            tracing::info!(%calling, "storage commitment is reported");
        } else {
            let status = format!("{:04X}H", answer.status);
            tracing::warn!(%calling, status, "the report of a storage commitment is refused; it is not sent again");
        }
        let pledges = Arc::clone(&self.shared.options.pledges);
        drop(tokio::task::spawn_blocking(move || pledges.forget(&transaction)).await);
    }

    /// Says that reports were not taken, at the end of the association.
    pub(super) fn miss_reports(&self) {
        if !self.reports.is_empty() {
            let (calling, n_reports) = (&self.accepted.calling, self.reports.len());
            tracing::warn!(%calling, n_reports,
                "the peer asked for storage commitment and did not wait for the report: name it under commitment.report_to");
        }
    }
}
