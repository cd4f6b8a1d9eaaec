//! Storage commitment on several nodes: its questions and where the instances lie, in the database that they share.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::store::{NewQuestion, Store, StoreError, millis, now_ms};
use crate::pipeline::ingest::{
    AFTER_THE_ANSWER, Due, Finder, Pledge, PledgeError, Questions, SeriesHint, Whereabouts,
};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::{AeTitle, SopInstanceUid, TransactionUid};

/// For one answer of the database.
const ANSWER: Duration = Duration::from_secs(10);

/// Series that are coming in and looked at for one question; of more, what is not found is reported as not known.
const MOST_COMING_IN: u32 = 1_000;

/// The database, asked from threads that may wait.
#[derive(Debug, Clone)]
pub(super) struct SharedQuestions {
    pub(super) store: Arc<Store>,
    pub(super) node: String,
    pub(super) runtime: Handle,
}

impl SharedQuestions {
    fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, PledgeError> {
        match self.runtime.block_on(async { timeout(ANSWER, question).await }) {
            Ok(answer) => answer.map_err(|error| PledgeError::Shared(error.into())),
            Err(elapsed) => Err(PledgeError::Shared(elapsed.into())),
        }
    }

    /// Says where instances may lie.
    pub(super) fn finder(&self) -> Finder {
        let this = self.clone();
        Finder::new(move |instances| this.find(instances))
    }

    fn find(
        &self,
        instances: &BTreeSet<SopInstanceUid>,
    ) -> Result<Whereabouts, Box<dyn Error + Send + Sync>> {
        let found = self.runtime.block_on(timeout(ANSWER, async {
            // First what is coming in: what is complete a moment later is noted then.
            let coming_in = self.store.coming_in(MOST_COMING_IN + 1).await?;
            let noted = self.store.places(instances).await?;
            let is_all = u32::try_from(coming_in.len()).is_ok_and(|n| n <= MOST_COMING_IN);
            Ok::<_, StoreError>(Whereabouts { noted, coming_in, is_all })
        }));
        Ok(found??)
    }
}

impl Questions for SharedQuestions {
    fn keep(&self, pledge: &Pledge) -> Result<bool, PledgeError> {
        let new = NewQuestion {
            transaction_uid: &pledge.transaction_uid,
            calling_ae_title: &pledge.calling_ae_title,
            asked_ms: pledge.asked_ms,
            question: pledge.written(),
            not_before_ms: now_ms().saturating_add(millis(AFTER_THE_ANSWER)),
        };
        self.ask(self.store.keep_question(&new))
    }

    fn read(&self, transaction_uid: &TransactionUid) -> Result<Option<Pledge>, PledgeError> {
        let Some(text) = self.ask(self.store.question(transaction_uid))? else { return Ok(None) };
        let foreign =
            || StoreError::Foreign { what: "a question about storage commitment", found: text.clone() };
        let pledge = Pledge::parse(transaction_uid, text.as_bytes());
        pledge.ok_or_else(|| PledgeError::Shared(foreign().into())).map(Some)
    }

    fn count(&self, calling: &AeTitle) -> Result<(usize, usize), PledgeError> {
        let (n, n_of_one) = self.ask(self.store.count_questions(calling))?;
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Ok((count(n), count(n_of_one)))
    }

    fn due(&self) -> Result<Vec<Due>, PledgeError> {
        let due = self.ask(self.store.due_questions(now_ms()))?;
        // A UID or title that is none comes only from a hand in the database.
        let due = due.into_iter().filter_map(|due| {
            Some(Due {
                transaction_uid: due.transaction_uid.parse().ok()?,
                calling_ae_title: due.calling_ae_title.parse().ok()?,
                asked_ms: due.asked_ms,
                failed_attempts: due.failed_attempts,
            })
        });
        Ok(due.collect())
    }

    fn claim(&self, transaction_uid: &TransactionUid, lease: Duration) -> Result<bool, PledgeError> {
        let now = now_ms();
        let until_ms = now.saturating_add(millis(lease));
        self.ask(self.store.claim_question(transaction_uid, (&self.node, until_ms), now))
    }

    fn put_back(&self, transaction_uid: &TransactionUid, wait: Duration) -> Result<(), PledgeError> {
        let not_before_ms = now_ms().saturating_add(millis(wait));
        self.ask(self.store.put_back_question(transaction_uid, &self.node, not_before_ms))
    }

    fn forget(&self, transaction_uid: &TransactionUid) -> Result<bool, PledgeError> {
        self.ask(self.store.forget_question(transaction_uid))
    }
}

/// Tells whichever node gathers a series that its sender says it is whole.
pub(super) async fn pass_hints_on(store: Arc<Store>, mut hinted: mpsc::Receiver<SeriesHint>) {
    while let Some(hint) = hinted.recv().await {
        let noted = timeout(ANSWER, store.committed(&hint.series_instance_uid, hint.n_instances)).await;
        // The series waits out its quiet time then.
        match noted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "a hint that a series is whole was lost")
            }
            Err(_elapsed) => {
                tracing::warn!("a hint that a series is whole was lost: the database does not answer")
            }
        }
    }
}
