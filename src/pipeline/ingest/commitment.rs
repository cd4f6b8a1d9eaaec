//! Storage commitment, the part that listens: reports that come over an association of the peer's (PS3.4 J).
//!
//! Whoever has asked a peer for commitment waits here under the transaction's UID. A report that nobody waits for any
//! more, since it is late or a restart lies between, is told in the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dicom_dictionary_std::tags;
use tokio::sync::oneshot;

use crate::vocabulary::dicom::TransferSyntaxUid;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::dicom::dimse::OtherRequest;
use crate::vocabulary::dicom::instance::{InstanceLimits, parse_data_set};

/// What a peer says about a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// Transaction UID (0008,1195).
    pub(crate) transaction_uid: String,
    /// SOP Instance UIDs that it keeps.
    pub(crate) kept: Vec<String>,
    /// SOP Instance UIDs that it does not keep, and Failure Reason (0008,1197).
    pub(crate) failed: Vec<(String, Option<u16>)>,
}

/// Who waits for which transaction. One for the process: a transaction UID is unique in the world.
static WAITING: Mutex<BTreeMap<String, oneshot::Sender<Report>>> = Mutex::new(BTreeMap::new());

/// Waits for the report of a transaction; dropping it waits no more.
#[derive(Debug)]
pub(crate) struct Expected {
    transaction_uid: String,
    /// Gets the report.
    pub(crate) report: oneshot::Receiver<Report>,
}

impl Expected {
    /// Begins to wait, before the peer is asked.
    pub(crate) fn begin(transaction_uid: &str) -> Self {
        let (sender, report) = oneshot::channel();
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(transaction_uid.to_owned(), sender);
        Self { transaction_uid: transaction_uid.to_owned(), report }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.transaction_uid);
    }
}

/// Takes an N-EVENT-REPORT that came over an association of the peer's, and gives the answer.
pub(super) fn take(request: &OtherRequest, data_set: &[u8], transfer_syntax: &TransferSyntaxUid) -> Vec<u8> {
    match Report::parse(data_set, transfer_syntax) {
        Some(report) => {
            // A late report is taken as well: the peer has done its part.
            report.arrive();
            request.accept_event_report()
        }
        None => request.refuse(),
    }
}

impl Report {
    /// Reads the data set of an N-EVENT-REPORT; `None` for what is none.
    pub(crate) fn parse(data_set: &[u8], transfer_syntax: &TransferSyntaxUid) -> Option<Self> {
        let instance =
            parse_data_set(data_set.to_vec(), transfer_syntax.clone(), InstanceLimits::default()).ok()?;
        let object = instance.data_set().ok()?;
        let top = Attributes::new(&object, "storage commitment report");
        let uids = |tag| {
            let items = top.items(tag).unwrap_or_default();
            let of = |item: Attributes<'_>| {
                let uid = item.optional_text(tags::REFERENCED_SOP_INSTANCE_UID)?;
                Some((uid, item.unsigned_short(tags::FAILURE_REASON).ok()))
            };
            items.into_iter().filter_map(of).collect::<Vec<_>>()
        };
        Some(Self {
            transaction_uid: top.optional_text(tags::TRANSACTION_UID)?,
            kept: uids(tags::REFERENCED_SOP_SEQUENCE).into_iter().map(|(uid, _)| uid).collect(),
            failed: uids(tags::FAILED_SOP_SEQUENCE),
        })
    }

    /// Gives a report to whoever waits for it; `false` where nobody does.
    pub(crate) fn arrive(self) -> bool {
        let waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.transaction_uid);
        match waiting {
            Some(waiting) => waiting.send(self).is_ok(),
            None => {
                let (n_kept, n_failed) = (self.kept.len(), self.failed.len());
                tracing::warn!(n_kept, n_failed, "a storage commitment came that nobody waits for any more");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reaches_the_one_who_waits_and_only_while_he_does() {
        let report =
            |uid: &str| Report { transaction_uid: uid.to_owned(), kept: Vec::new(), failed: Vec::new() };
        let mut expected = Expected::begin("1.2.7001");
        assert!(!report("1.2.7002").arrive());
        assert!(report("1.2.7001").arrive());
        assert_eq!(expected.report.try_recv().unwrap(), report("1.2.7001"));
        let late = Expected::begin("1.2.7003");
        drop(late);
        assert!(!report("1.2.7003").arrive());
    }

    #[test]
    fn what_is_no_report_is_none() {
        let syntax: TransferSyntaxUid = "1.2.840.10008.1.2".parse().unwrap();
        assert_eq!(Report::parse(b"", &syntax), None);
        assert_eq!(Report::parse(&[0xFF; 40], &syntax), None);
    }
}
