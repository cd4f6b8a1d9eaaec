//! Reports on storage commitment over associations of ours: each is tried until its peer has taken it, or it is too old.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cluster::Trouble;
use super::reload::Live;
use super::store::{millis, now_ms};
use super::{retry_policy, scu_timeouts};
use crate::pipeline::delivery::{ScuError, ScuTimeouts, report_commitment};
use crate::pipeline::ingest::{Due, PledgeError, Pledges, Questions};
use crate::pipeline::tls::{TlsClient, TlsError};
use crate::settings::ServiceSettings;
use crate::settings::service::ReportToSettings;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::{AeTitle, TransactionUid};

/// How often it is looked what is due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Peers that are called at a time.
const AT_A_TIME: usize = 8;

/// What reports.
pub(super) struct Reporter {
    pub(super) pledges: Arc<Pledges>,
    pub(super) live: watch::Receiver<Arc<Live>>,
    /// Of several nodes one reports on a question for so long and for what its peer may take.
    pub(super) lease: Duration,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("the report could not be made")]
    Pledge(#[source] PledgeError),
    #[error("TLS cannot be set up as commitment.report_to says")]
    Tls(#[source] TlsError),
    #[error("the report was not taken")]
    Scu(#[source] ScuError),
    #[error("the report was interrupted")]
    Interrupted,
}

type Attempt = (Due, Result<(), ReportError>);

impl Reporter {
    /// Reports until `stop` turns true. What is on its way then is reported again, by another node or after the next
    /// start.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut attempts: JoinSet<Attempt> = JoinSet::new();
        let mut on_their_way = BTreeSet::new();
        let mut trouble = Trouble::default();
        while !*stop.borrow() {
            let live = Arc::clone(&self.live.borrow());
            let begun = self.begin(&live.settings, &mut on_their_way, &mut attempts).await;
            let begun = begun.map_err(|error| with_causes(&error));
            trouble.tell(begun, "storage commitments cannot be reported; tried on");
            tokio::select! {
                Some(ended) = attempts.join_next() => match ended {
                    Ok((due, outcome)) => {
                        on_their_way.remove(&due.transaction_uid);
                        self.end(&live.settings, due, outcome).await;
                    }
                    Err(panic) => {
                        tracing::error!(%panic, "a report on storage commitment failed; please report this");
                    }
                },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        attempts.shutdown().await;
        for uid in on_their_way {
            self.put_back(uid, Duration::ZERO).await;
        }
    }

    /// Begins what is due, and gives up what is too old.
    async fn begin(
        &self,
        settings: &ServiceSettings,
        on_their_way: &mut BTreeSet<TransactionUid>,
        attempts: &mut JoinSet<Attempt>,
    ) -> Result<(), PledgeError> {
        let give_up_after_ms = millis(retry_policy(settings).give_up_after);
        for due in self.ask(|questions| questions.due()).await? {
            let (uid, calling) = (due.transaction_uid.clone(), &due.calling_ae_title);
            if on_their_way.contains(&uid) {
                continue;
            }
            if now_ms().saturating_sub(due.asked_ms) >= give_up_after_ms {
                if self.ask(move |questions| questions.forget(&uid)).await? {
                    tracing::error!(%calling, "the report of a storage commitment was never taken and is given up");
                }
                continue;
            }
            let to = settings.commitment.report_to.iter().find(|to| to.ae_title == *calling);
            let Some(to) = to.filter(|_| attempts.len() < AT_A_TIME).cloned() else { continue };
            let timeouts = scu_timeouts(settings);
            let lease = self.lease + timeouts.connect + timeouts.answer * 3;
            let claimed = uid.clone();
            if !self.ask(move |questions| questions.claim(&claimed, lease)).await? {
                continue;
            }
            on_their_way.insert(uid);
            let (pledges, ours) = (Arc::clone(&self.pledges), settings.ae_title.clone());
            attempts.spawn(async move {
                // Not beyond the lease: then another node reports.
                let attempt = attempt(pledges, &due.transaction_uid, &to, (&ours, timeouts));
                let outcome = tokio::time::timeout(lease, attempt).await;
                (due, outcome.unwrap_or(Err(ReportError::Interrupted)))
            });
        }
        Ok(())
    }

    async fn end(&self, settings: &ServiceSettings, due: Due, outcome: Result<(), ReportError>) {
        let Due { transaction_uid: uid, failed_attempts, .. } = due;
        match outcome {
            Ok(()) => {
                let pledges = Arc::clone(&self.pledges);
                drop(tokio::task::spawn_blocking(move || pledges.forget(&uid)).await);
            }
            Err(ReportError::Pledge(PledgeError::Gone)) => {}
            Err(error) => {
                let attempts = failed_attempts.saturating_add(1);
                let wait = retry_policy(settings).wait(attempts, rand::random());
                self.put_back(uid, wait).await;
                tracing::warn!(
                    attempts,
                    retry_in_s = wait.as_secs_f64(),
                    error = with_causes(&error),
                    "a storage commitment is not reported yet"
                );
            }
        }
    }

    async fn put_back(&self, uid: TransactionUid, wait: Duration) {
        if let Err(error) = self.ask(move |questions| questions.put_back(&uid, wait)).await {
            tracing::warn!(error = with_causes(&error), "a storage commitment is reported after its lease");
        }
    }

    /// Asks on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Questions) -> Result<T, PledgeError> + Send + 'static,
    ) -> Result<T, PledgeError> {
        let questions = self.pledges.questions();
        let asked = tokio::task::spawn_blocking(move || ask(&*questions)).await;
        asked.unwrap_or_else(|panicked_or_stopped| Err(PledgeError::Shared(panicked_or_stopped.into())))
    }
}

async fn attempt(
    pledges: Arc<Pledges>,
    uid: &TransactionUid,
    to: &ReportToSettings,
    (ours, timeouts): (&AeTitle, ScuTimeouts),
) -> Result<(), ReportError> {
    let asked = uid.clone();
    let made = tokio::task::spawn_blocking(move || pledges.report(&asked)).await;
    let made = made.map_err(|_panicked_or_stopped| ReportError::Interrupted)?;
    let report = made.map_err(ReportError::Pledge)?;
    let tls = to.tls.as_ref().map(|tls| TlsClient::load(&tls.files())).transpose();
    let tls = tls.map_err(ReportError::Tls)?;
    report_commitment((&to.peer, tls.as_ref()), ours, timeouts, &report).await.map_err(ReportError::Scu)?;
    let (n_kept, n_failed) = report.counts();
    tracing::info!(peer = %to.peer, n_kept, n_failed, "storage commitment is reported");
    Ok(())
}
