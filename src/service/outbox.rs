//! What still has to go goes: one loop for each destination, until it is stored or given up.

use std::error::Error;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Member;
use super::audit::{AuditTrail, Outcome};
use super::store::{Delivery, DeliveryState, NewDelivery, Store, StoreError, millis, now_ms};
use crate::pipeline::delivery::{
    DeliveryError, Destination, Notice, NoticeKind, Notices, OutboxError, OutboxFolder, RetryPolicy,
    ScuTimeouts,
};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::AeTitle;

/// How long new deliveries of other processes, as of `oarlock jobs resend`, wait to be seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who hears of deliveries.
#[derive(Debug, Clone)]
pub struct Told {
    /// Pagers.
    pub notices: Notices,
    /// The audit trail.
    pub audit: AuditTrail,
}

/// The outbox of a node.
#[derive(Debug)]
pub struct Outbox {
    store: Arc<Store>,
    folder: OutboxFolder,
    /// When to try again, and how long a peer may take.
    patience: Mutex<(RetryPolicy, ScuTimeouts)>,
    calling: AeTitle,
    member: Member,
    told: Told,
    came: Notify,
}

/// Why something cannot be put into the outbox.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The object cannot be kept.
    #[error("the object cannot be kept")]
    Object(#[source] OutboxError),
    /// The delivery cannot be noted.
    #[error("the delivery cannot be noted")]
    Store(#[source] StoreError),
}

impl Outbox {
    /// An outbox over a store and a folder of objects.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        folder: OutboxFolder,
        calling: AeTitle,
        policy: RetryPolicy,
        timeouts: ScuTimeouts,
        member: Member,
        told: Told,
    ) -> Self {
        let patience = Mutex::new((policy, timeouts));
        Self { store, folder, patience, calling, member, told, came: Notify::new() }
    }

    /// From now on deliveries are tried like this.
    pub fn follow(&self, policy: RetryPolicy, timeouts: ScuTimeouts) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = (policy, timeouts);
        self.announce();
    }

    fn patience(&self) -> (RetryPolicy, ScuTimeouts) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an object for a destination, durably, and gives the row that makes a delivery of it: for a transaction of
    /// the caller's.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(
        &self,
        delivery: &str,
        destination: &impl Display,
        part10: &[u8],
        of: Option<(String, u32)>,
    ) -> Result<NewDelivery, OutboxError> {
        let destination = destination.to_string();
        self.folder.keep(delivery, &destination, part10)?;
        let state = match self.folder.is_delivered(delivery, &destination)? {
            true => DeliveryState::Delivered,
            false => DeliveryState::Pending,
        };
        Ok(NewDelivery { delivery: delivery.to_owned(), destination, state, reason: None, of })
    }

    /// The row of a delivery that must not go out, and why. There is no object: what breaks a rule is not kept to be sent.
    pub fn hold(
        &self,
        delivery: &str,
        destination: &impl Display,
        reason: &str,
        of: Option<(String, u32)>,
    ) -> NewDelivery {
        tracing::error!(%destination, key = delivery, reason, "held back; see `oarlock jobs show`");
        self.tell(NoticeKind::Failure, (delivery, &destination.to_string()), &format!("held back: {reason}"));
        NewDelivery {
            delivery: delivery.to_owned(),
            destination: destination.to_string(),
            state: DeliveryState::Held,
            reason: Some(reason.to_owned()),
            of,
        }
    }

    fn tell(&self, kind: NoticeKind, (key, destination): (&str, &str), text: &str) {
        let (subject, destination) = (key.to_owned(), Some(destination.to_owned()));
        self.told.notices.put(Notice { kind, subject, destination, text: text.to_owned() });
    }

    /// Puts an object into the outbox: kept and noted. The same key for the same destination again changes nothing.
    ///
    /// # Errors
    /// [`AddError`].
    pub async fn add(
        &self,
        delivery: &str,
        destination: &impl Display,
        part10: &[u8],
    ) -> Result<(), AddError> {
        let new = self.keep(delivery, destination, part10, None).map_err(AddError::Object)?;
        self.store.add_delivery(&new, now_ms()).await.map_err(AddError::Store)?;
        self.announce();
        Ok(())
    }

    /// New deliveries are noted.
    pub fn announce(&self) {
        self.came.notify_waiters();
    }

    /// Makes disk and store agree at the start: what an earlier process delivered just before it ended is noted on disk, and
    /// what lies there as delivered is noted in a store that is older, as one from a backup.
    ///
    /// # Errors
    /// [`AddError`].
    pub async fn settle_delivered(&self) -> Result<(), AddError> {
        if self.folder.holds_any().map_err(AddError::Object)? {
            for delivery in self.store.deliveries(None).await.map_err(AddError::Store)? {
                if delivery.state == DeliveryState::Delivered {
                    self.folder
                        .settle(&delivery.delivery, &delivery.destination)
                        .map_err(AddError::Object)?;
                }
            }
        }
        for delivery in self.store.never_delivered().await.map_err(AddError::Store)? {
            let is_delivered = self.folder.is_delivered(&delivery.delivery, &delivery.destination);
            if is_delivered.map_err(AddError::Object)? {
                self.note_delivered(&delivery).await?;
            }
        }
        Ok(())
    }

    async fn note_delivered(&self, delivery: &Delivery) -> Result<(), AddError> {
        let now = now_ms();
        let after = Delivery { state: DeliveryState::Delivered, delivered_ms: Some(now), ..delivery.clone() };
        let cause = "the outbox on disk says that it was delivered";
        self.store.after_attempt(&after, cause, now).await.map(drop).map_err(AddError::Store)
    }

    /// Delivers to one destination until `stop` turns true; then what is in hand is finished.
    ///
    /// Runs on a thread of its own, since it reads and moves files between the messages.
    pub async fn run(self: Arc<Self>, destination: Destination, mut stop: watch::Receiver<bool>) {
        let name = destination.to_string();
        while !*stop.borrow() {
            let came = self.came.notified();
            // Longer than its peer may take, so that nobody else sends it meanwhile.
            let (policy, timeouts) = self.patience();
            let peer = timeouts.connect + timeouts.answer * 3 + destination.waits();
            let Member { node, lease } = &self.member;
            let due = self.store.take_due(&name, node, *lease + peer, policy.longest, now_ms()).await;
            let wait = match due {
                Ok(Some(delivery)) => {
                    self.attempt(&destination, delivery, &stop).await;
                    continue;
                }
                Ok(None) => policy.first.clamp(Duration::from_millis(10), LOOK_AGAIN),
                Err(error) => {
                    tracing::error!(%destination, error = &error as &dyn Error, "the outbox is in trouble");
                    LOOK_AGAIN * 5
                }
            };
            tokio::select! {
                () = came => {}
                () = tokio::time::sleep(wait) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn attempt(&self, destination: &Destination, mut delivery: Delivery, stop: &watch::Receiver<bool>) {
        let (key, to) = (delivery.delivery.clone(), delivery.destination.clone());
        let (policy, timeouts) = self.patience();
        let outcome = match self.folder.read(&key, &to) {
            Ok(part10) => {
                let transfer = self.told.audit.sending(destination, &part10);
                let outcome = destination.deliver(&self.calling, timeouts, &part10).await;
                let outcome = outcome.map_err(Failure::Destination);
                let reason = outcome.as_ref().err().map(Failure::reason);
                self.told.audit.sent(transfer, reason.map_or(Outcome::Success, Outcome::Failure));
                outcome
            }
            Err(error) => Err(Failure::Object(error)),
        };
        delivery.attempts += 1;
        let (attempts, now) = (delivery.attempts, now_ms());
        let cause = match outcome {
            Ok(receipt) => {
                delivery.state = DeliveryState::Delivered;
                delivery.delivered_ms = Some(now);
                delivery.last_error = None;
                delivery.warning = receipt.warning;
                match &delivery.warning {
                    None => {
                        tracing::info!(%destination, key, attempts, "delivered");
                        format!("attempt {attempts}: the peer has it")
                    }
                    Some(warning) => {
                        tracing::warn!(%destination, key, attempts, warning, "delivered with a warning");
                        format!("attempt {attempts}: the peer has it, with a warning: {warning}")
                    }
                }
            }
            Err(failure) => {
                let reason = failure.reason();
                let is_too_old = now.saturating_sub(delivery.since_ms) >= millis(policy.give_up_after);
                if failure.is_permanent() || is_too_old {
                    delivery.state = DeliveryState::Failed;
                    tracing::error!(%destination, key, attempts, reason,
                        "not delivered and given up; `oarlock jobs resend` tries again");
                } else {
                    let wait = policy.wait(attempts, rand::random());
                    delivery.next_attempt_ms = now.saturating_add(millis(wait));
                    tracing::warn!(%destination, key, attempts, reason, retry_in_s = wait.as_secs_f64(),
                        "not delivered yet");
                }
                delivery.last_error = Some(reason.clone());
                format!("attempt {attempts}: {reason}")
            }
        };
        let is_noted = self.note(&delivery, &cause, stop).await;
        match delivery.state {
            DeliveryState::Delivered => {
                let text = delivery.warning.as_deref().unwrap_or("delivered");
                self.tell(NoticeKind::Delivery, (&key, &to), text);
            }
            DeliveryState::Failed => {
                self.tell(
                    NoticeKind::Failure,
                    (&key, &to),
                    delivery.last_error.as_deref().unwrap_or_default(),
                );
            }
            _ => {}
        }
        if is_noted
            && delivery.state == DeliveryState::Delivered
            && let Err(error) = self.folder.settle(&key, &to)
        {
            tracing::error!(%destination, key, error = &error as &dyn Error, "delivered, but not moved on disk");
        }
    }

    /// Writes what became of an attempt, however long the database is away: otherwise it would be sent twice.
    async fn note(&self, delivery: &Delivery, cause: &str, stop: &watch::Receiver<bool>) -> bool {
        loop {
            match self.store.after_attempt(delivery, cause, now_ms()).await {
                Ok(noted) => return noted,
                Err(error) => {
                    tracing::error!(
                        key = delivery.delivery,
                        error = &error as &dyn Error,
                        "the outcome of a delivery cannot be noted yet"
                    );
                    let mut stop = stop.clone();
                    let stopped = stop.wait_for(|stop| *stop);
                    if tokio::time::timeout(LOOK_AGAIN, stopped).await.is_ok() {
                        return false;
                    }
                }
            }
        }
    }
}

/// Why an attempt failed.
enum Failure {
    Destination(DeliveryError),
    Object(OutboxError),
}

impl Failure {
    fn reason(&self) -> String {
        match self {
            Self::Destination(error) => with_causes(error),
            Self::Object(error) => with_causes(error),
        }
    }

    /// Waiting does not help; a disk that does not read may come back, an object that was held back may not.
    fn is_permanent(&self) -> bool {
        match self {
            Self::Destination(error) => error.is_permanent(),
            Self::Object(error) => matches!(error, OutboxError::Absent(_)),
        }
    }
}
