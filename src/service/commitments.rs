//! Reports on storage commitment over associations of ours: each is tried until its peer has taken it, or it is too old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::reload::Live;
use super::store::{millis, now_ms};
use super::{retry_policy, scu_timeouts};
use crate::pipeline::delivery::{ScuError, ScuTimeouts, report_commitment};
use crate::pipeline::ingest::{PledgeError, Pledges, Waiting};
use crate::pipeline::tls::{TlsClient, TlsError};
use crate::settings::ServiceSettings;
use crate::settings::service::ReportToSettings;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::{AeTitle, TransactionUid};

/// How often it is looked what is due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// From the question to the first attempt: its answer is on its way yet, over another association.
const AFTER_THE_ANSWER: Duration = Duration::from_millis(500);

/// Peers that are called at a time.
const AT_A_TIME: usize = 8;

/// What reports.
pub(super) struct Reporter {
    pub(super) pledges: Arc<Pledges>,
    pub(super) live: watch::Receiver<Arc<Live>>,
}

/// How it stands with a report.
#[derive(Debug, Clone, Copy)]
struct Stand {
    is_on_its_way: bool,
    failed_attempts: u32,
    not_before: Instant,
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

type Attempt = (TransactionUid, Result<(), ReportError>);

impl Reporter {
    /// Reports until `stop` turns true. What is on its way then is reported again after the next start.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut stands: BTreeMap<TransactionUid, Stand> = BTreeMap::new();
        let mut attempts: JoinSet<Attempt> = JoinSet::new();
        while !*stop.borrow() {
            let live = Arc::clone(&self.live.borrow());
            let settings = &live.settings;
            self.begin(settings, &mut stands, &mut attempts);
            tokio::select! {
                Some(ended) = attempts.join_next() => match ended {
                    Ok((uid, outcome)) => self.end(settings, &mut stands, &uid, outcome),
                    Err(panic) => {
                        tracing::error!(%panic, "a report on storage commitment failed; please report this");
                    }
                },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Begins what is due, and gives up what is too old.
    fn begin(
        &self,
        settings: &ServiceSettings,
        stands: &mut BTreeMap<TransactionUid, Stand>,
        attempts: &mut JoinSet<Attempt>,
    ) {
        let waiting = self.pledges.all();
        stands.retain(|uid, _| waiting.contains_key(uid));
        let give_up_after_ms = millis(retry_policy(settings).give_up_after);
        for (uid, Waiting { calling_ae_title: calling, asked_ms, since }) in waiting {
            let not_before = since + AFTER_THE_ANSWER;
            let fresh = Stand { is_on_its_way: false, failed_attempts: 0, not_before };
            let stand = stands.entry(uid.clone()).or_insert(fresh);
            if stand.is_on_its_way {
                continue;
            }
            if now_ms().saturating_sub(asked_ms) >= give_up_after_ms {
                tracing::error!(%calling, "the report of a storage commitment was never taken and is given up");
                self.pledges.forget(&uid);
                continue;
            }
            let to = settings.commitment.report_to.iter().find(|to| to.ae_title == calling);
            let is_due = stand.not_before <= Instant::now() && attempts.len() < AT_A_TIME;
            let Some(to) = to.filter(|_| is_due) else { continue };
            stand.is_on_its_way = true;
            let (pledges, to) = (Arc::clone(&self.pledges), to.clone());
            let (ours, timeouts) = (settings.ae_title.clone(), scu_timeouts(settings));
            attempts.spawn(async move {
                let outcome = attempt(pledges, &uid, &to, (&ours, timeouts)).await;
                (uid, outcome)
            });
        }
    }

    fn end(
        &self,
        settings: &ServiceSettings,
        stands: &mut BTreeMap<TransactionUid, Stand>,
        uid: &TransactionUid,
        outcome: Result<(), ReportError>,
    ) {
        match (outcome, stands.get_mut(uid)) {
            (Ok(()), _) => self.pledges.forget(uid),
            (Err(error), Some(stand)) => {
                stand.is_on_its_way = false;
                stand.failed_attempts += 1;
                let wait = retry_policy(settings).wait(stand.failed_attempts, rand::random());
                stand.not_before = Instant::now() + wait;
                tracing::warn!(
                    attempts = stand.failed_attempts,
                    retry_in_s = wait.as_secs_f64(),
                    error = with_causes(&error),
                    "a storage commitment is not reported yet"
                );
            }
            (Err(_), None) => {}
        }
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
    let (_, report) = made.map_err(ReportError::Pledge)?;
    let tls = to.tls.as_ref().map(|tls| TlsClient::load(&tls.files())).transpose();
    let tls = tls.map_err(ReportError::Tls)?;
    report_commitment((&to.peer, tls.as_ref()), ours, timeouts, &report).await.map_err(ReportError::Scu)?;
    let (n_kept, n_failed) = report.counts();
    tracing::info!(peer = %to.peer, n_kept, n_failed, "storage commitment is reported");
    Ok(())
}
