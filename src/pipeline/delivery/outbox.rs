//! What still has to go: one JSON and one .dcm per delivery on disk, tried until it is stored or given up.
//!
//! A delivery is `pending`, `delivered` or `failed`; its JSON says which, with the number of attempts and the last
//! error. The .dcm of a delivered one is removed.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::destination::Destination;
use super::scu::ScuTimeouts;
use super::webhook::{Notice, NoticeKind, Notices};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::AeTitle;

/// Why the outbox cannot keep something.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Reading or writing failed.
    #[error("{operation} {path} failed: is the disk full, or the folder not ours?")]
    Io {
        /// What we did.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A JSON file that is not ours.
    #[error("{path} is no record of a delivery: move it away")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// When to try again, and when not any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Before the second attempt.
    pub first: Duration,
    /// At most between two attempts.
    pub longest: Duration,
    /// After this long it is failed.
    pub give_up_after: Duration,
}

impl RetryPolicy {
    /// Before the attempt after `attempts` failed ones. `draw` in 0..1 spreads it over the upper half, so that
    /// several destinations behind one broken line do not all come back at once.
    #[must_use]
    pub fn wait(&self, attempts: u32, draw: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1).min(20));
        self.first.saturating_mul(doubled).min(self.longest).mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It still has to go.
    Pending,
    /// The peer has it.
    Delivered,
    /// Given up; the reason is in `last_error`.
    Failed,
}

/// The JSON of a delivery. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Names the object across restarts; with the destination it names the files.
    pub key: String,
    /// `AET@HOST:PORT`.
    pub destination: String,
    /// How it stands.
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// When it came in, s.
    pub created_s: u64,
    /// Not before, s.
    pub next_attempt_s: u64,
    /// When the peer took it, s.
    pub delivered_s: Option<u64>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// What the peer warned of when it took it.
    #[serde(default)]
    pub warning: Option<String>,
}

/// The folder of deliveries.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    policy: RetryPolicy,
    timeouts: ScuTimeouts,
    calling: AeTitle,
    notices: Notices,
    came: Notify,
}

impl Outbox {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(
        folder: &Path,
        calling: AeTitle,
        policy: RetryPolicy,
        timeouts: ScuTimeouts,
        notices: Notices,
    ) -> Result<Self, OutboxError> {
        fs::create_dir_all(folder).map_err(io_error("creating", folder))?;
        Ok(Self { folder: folder.to_owned(), policy, timeouts, calling, notices, came: Notify::new() })
    }

    /// Keeps a Part 10 file for a destination. Durable on return. The same key for the same destination again
    /// changes nothing: what was kept first goes.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn add(&self, key: &str, destination: &impl Display, part10: &[u8]) -> Result<(), OutboxError> {
        let delivery = Delivery {
            key: key.to_owned(),
            destination: destination.to_string(),
            state: DeliveryState::Pending,
            attempts: 0,
            created_s: now_s(),
            next_attempt_s: now_s(),
            delivered_s: None,
            last_error: None,
            warning: None,
        };
        if self.json(&delivery).exists() {
            return Ok(());
        }
        replace(&self.dcm(&delivery), part10)?;
        self.write(&delivery)?;
        self.came.notify_waiters();
        Ok(())
    }

    /// Records that this key must not go to the destination, and why. Durable on return. What is known of the key there
    /// already stays.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn hold(&self, key: &str, destination: &impl Display, reason: &str) -> Result<(), OutboxError> {
        let delivery = Delivery {
            key: key.to_owned(),
            destination: destination.to_string(),
            state: DeliveryState::Failed,
            attempts: 0,
            created_s: now_s(),
            next_attempt_s: now_s(),
            delivered_s: None,
            last_error: Some(format!("held back: {reason}")),
            warning: None,
        };
        if self.json(&delivery).exists() {
            return Ok(());
        }
        self.write(&delivery)?;
        tracing::error!(%destination, key, reason, "held back; see the outbox in docs/operating.md");
        self.tell(NoticeKind::Failure, &delivery, &format!("held back: {reason}"));
        Ok(())
    }

    /// Whether this key is kept, delivered or failed for the destination.
    #[must_use]
    pub fn knows(&self, key: &str, destination: &impl Display) -> bool {
        self.folder.join(stem(key, &destination.to_string())).with_added_extension("json").exists()
    }

    /// All deliveries, oldest first.
    ///
    /// # Errors
    /// Where the folder or a record cannot be read.
    pub fn deliveries(&self) -> Result<Vec<Delivery>, OutboxError> {
        let mut deliveries = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io_error("reading", &self.folder))? {
            let path = entry.map_err(io_error("reading", &self.folder))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let bytes = fs::read(&path).map_err(io_error("reading", &path))?;
                deliveries.push(
                    serde_json::from_slice(&bytes).map_err(|source| OutboxError::Record { path, source })?,
                );
            }
        }
        deliveries.sort_by(|a: &Delivery, b| (a.created_s, &a.key).cmp(&(b.created_s, &b.key)));
        Ok(deliveries)
    }

    /// Delivers to one destination until `stop` turns true; then what is in hand is finished.
    ///
    /// Runs on a thread of its own, since it reads and writes files between the messages.
    pub async fn run(self: Arc<Self>, destination: Destination, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let came = self.came.notified();
            let wait = match self.deliver_due(&destination, &stop).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(%destination, error = &error as &dyn std::error::Error, "the outbox is in trouble");
                    self.policy.longest
                }
            };
            tokio::select! {
                () = came => {}
                () = tokio::time::sleep(wait) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Tries everything that is due and says how long nothing more is.
    async fn deliver_due(
        &self,
        destination: &Destination,
        stop: &watch::Receiver<bool>,
    ) -> Result<Duration, OutboxError> {
        let name = destination.to_string();
        for delivery in self.deliveries()? {
            let is_due = delivery.state == DeliveryState::Pending && delivery.next_attempt_s <= now_s();
            if delivery.destination == name && is_due && !*stop.borrow() {
                self.attempt(destination, delivery).await?;
            }
        }
        let pending = self.deliveries()?;
        let pending = pending.iter().filter(|d| d.destination == name && d.state == DeliveryState::Pending);
        let next = pending.map(|d| d.next_attempt_s).min();
        // Times are whole seconds, so what is due this second has been tried a moment ago.
        let wait = next.map_or(IDLE, |at| Duration::from_secs(at.saturating_sub(now_s())));
        Ok(wait.clamp(Duration::from_millis(200), IDLE))
    }

    async fn attempt(&self, destination: &Destination, mut delivery: Delivery) -> Result<(), OutboxError> {
        let path = self.dcm(&delivery);
        let part10 = fs::read(&path).map_err(io_error("reading", &path))?;
        delivery.attempts += 1;
        let (key, attempts) = (delivery.key.clone(), delivery.attempts);
        match destination.deliver(&self.calling, self.timeouts, &part10).await {
            Ok(receipt) => {
                delivery.state = DeliveryState::Delivered;
                delivery.delivered_s = Some(now_s());
                delivery.last_error = None;
                delivery.warning = receipt.warning;
                self.write(&delivery)?;
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
                self.tell(
                    NoticeKind::Delivery,
                    &delivery,
                    delivery.warning.as_deref().unwrap_or("delivered"),
                );
                match &delivery.warning {
                    None => tracing::info!(%destination, key, attempts, "delivered"),
                    Some(warning) => {
                        tracing::warn!(%destination, key, attempts, warning, "delivered with a warning");
                    }
                }
            }
            Err(error) => {
                let too_old =
                    now_s().saturating_sub(delivery.created_s) >= self.policy.give_up_after.as_secs();
                delivery.last_error = Some(with_causes(&error));
                if error.is_permanent() || too_old {
                    delivery.state = DeliveryState::Failed;
                    self.tell(
                        NoticeKind::Failure,
                        &delivery,
                        delivery.last_error.as_deref().unwrap_or_default(),
                    );
                    tracing::error!(%destination, key, attempts, error = &error as &dyn std::error::Error,
                        "not delivered and given up; see the outbox in docs/operating.md");
                } else {
                    let wait = self.policy.wait(attempts, rand::random());
                    delivery.next_attempt_s = now_s().saturating_add(wait.as_secs());
                    tracing::warn!(%destination, key, attempts, error = &error as &dyn std::error::Error,
                        retry_in_s = wait.as_secs_f64(), "not delivered yet");
                }
                self.write(&delivery)?;
            }
        }
        Ok(())
    }

    fn tell(&self, kind: NoticeKind, delivery: &Delivery, text: &str) {
        self.notices.put(Notice {
            kind,
            subject: delivery.key.clone(),
            destination: Some(delivery.destination.clone()),
            text: text.to_owned(),
        });
    }

    fn write(&self, delivery: &Delivery) -> Result<(), OutboxError> {
        let path = self.json(delivery);
        let record = serde_json::to_vec_pretty(delivery)
            .map_err(|source| OutboxError::Record { path: path.clone(), source })?;
        replace(&path, &record)
    }

    fn json(&self, delivery: &Delivery) -> PathBuf {
        self.folder.join(stem(&delivery.key, &delivery.destination)).with_added_extension("json")
    }

    fn dcm(&self, delivery: &Delivery) -> PathBuf {
        self.folder.join(stem(&delivery.key, &delivery.destination)).with_added_extension("dcm")
    }
}

/// How long a destination without work sleeps at most.
const IDLE: Duration = Duration::from_secs(60);

/// A file name that no key or destination can bend: their SHA-256.
fn stem(key: &str, destination: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(format!("{key}\n{destination}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Puts a file of mode 0600 in place at once, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), OutboxError> {
    let temporary = path.with_added_extension("part");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_all()));
    written.map_err(io_error("writing", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("renaming", &temporary))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("syncing", folder))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutboxError {
    let path = path.to_owned();
    move |source| OutboxError::Io { operation, path, source }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::dicom::Peer;

    fn policy() -> RetryPolicy {
        let seconds = Duration::from_secs;
        RetryPolicy { first: seconds(10), longest: seconds(300), give_up_after: seconds(9_999) }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_spread_over_the_upper_half() {
        let waits: Vec<u64> = (1..=7).map(|n| policy().wait(n, 1.0).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(policy().wait(3, 0.0), Duration::from_secs(20));
        assert_eq!(policy().wait(u32::MAX, 0.5), Duration::from_secs(225));
    }

    #[test]
    fn the_first_object_under_a_key_stays_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            Outbox::open(
                folder.path(),
                "US".parse().unwrap(),
                policy(),
                ScuTimeouts::default(),
                Notices::default(),
            )
            .unwrap()
        };
        let (pacs, tps): (Peer, Peer) = ("PACS@h:104".parse().unwrap(), "TPS@h:104".parse().unwrap());
        open().add("../../1.2.3 v1", &pacs, b"first").unwrap();
        open().add("../../1.2.3 v1", &pacs, b"second").unwrap();
        open().add("../../1.2.3 v1", &tps, b"third").unwrap();
        let outbox = open();
        let deliveries = outbox.deliveries().unwrap();
        assert_eq!(deliveries.len(), 2);
        let to_pacs = deliveries.iter().find(|d| d.destination == "PACS@h:104").unwrap();
        assert_eq!(fs::read(outbox.dcm(to_pacs)).unwrap(), b"first");
        assert_eq!(outbox.dcm(to_pacs).parent(), Some(folder.path()));
        assert!(outbox.knows("../../1.2.3 v1", &pacs) && !outbox.knows("1.2.3 v2", &pacs));
    }
}
