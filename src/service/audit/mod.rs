//! The audit trail (PS3.15 A.5): who sent and received what of whom, and who was turned away.
//!
//! Comes in: events, from anywhere, without waiting. Goes out: one RFC 5424 message per event, to a file, to a syslog
//! receiver, or to both. It is the one place where a patient may be named, and by default even there not in the clear.

mod message;
mod sending;
mod syslog;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

pub use message::{AuditEvent, Node, Outcome};
pub use sending::Transfer;

use crate::pipeline::ingest::{IngestEvent, Witness};
use crate::pipeline::tls::{TlsClient, TlsError};
use crate::platform;
use crate::settings::audit::{AuditSettings, PatientsInAudit, SyslogTransport};
use crate::vocabulary::dicom::AeTitle;
use message::{Patients, Source};
pub(super) use syslog::host_name;
use syslog::{Syslog, frame};

/// Events that wait for a slow disk or receiver; what comes beyond is counted as lost, since no service may hang on
/// its own bookkeeping.
const WAITING: usize = 8_192;

/// For what waits when the service stops.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why there is no audit trail, and so no service.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file.
    #[error("{path} cannot be opened for the audit trail: does its folder exist and belong to this user?")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS to the receiver.
    #[error("TLS to the syslog receiver cannot be set up as audit.tls says")]
    Tls(#[source] TlsError),
    /// The thread.
    #[error("the system gives no thread for the audit trail")]
    Thread(#[source] io::Error),
}

/// Takes events from everywhere; a clone is another hand on the same trail.
#[derive(Debug, Clone)]
pub struct AuditTrail {
    events: Option<SyncSender<AuditEvent>>,
    lost: Arc<AtomicU64>,
    ours: Node,
}

/// The thread that writes; it ends after [`AuditEvent::Stopped`].
#[derive(Debug)]
pub struct AuditWriter(Option<JoinHandle<()>>);

impl AuditTrail {
    /// Opens what the settings name; without a target, events are dropped. `folder` keeps the key of hashed patients.
    ///
    /// # Errors
    /// [`AuditError`]: a trail that is asked for and cannot be kept stops the start.
    pub fn start(
        settings: &AuditSettings,
        ae_title: &AeTitle,
        folder: &Path,
    ) -> Result<(Self, AuditWriter), AuditError> {
        let lost = Arc::default();
        let ours = Node { ae_title: Some(ae_title.clone()), address: None };
        if settings.file.is_none() && settings.syslog.is_none() {
            return Ok((Self { events: None, lost, ours }, AuditWriter(None)));
        }
        let file = settings.file.as_deref().map(AuditFile::open).transpose()?;
        let tls = match &settings.syslog {
            Some(receiver) if receiver.transport == SyslogTransport::Tls => {
                Some(TlsClient::load(&settings.tls.files()).map_err(AuditError::Tls)?)
            }
            _ => None,
        };
        let syslog = settings.syslog.clone().map(|receiver| Syslog::new(receiver, tls));
        let source = Source { ae_title: ae_title.clone(), patients: patients(settings.patients, folder)? };
        let (events, waiting) = sync_channel(WAITING);
        let targets = Targets { file, syslog, source, lost: Arc::clone(&lost) };
        let writer = std::thread::Builder::new().name("audit".to_owned());
        let writer = writer.spawn(move || targets.write(&waiting)).map_err(AuditError::Thread)?;
        Ok((Self { events: Some(events), lost, ours }, AuditWriter(Some(writer))))
    }

    /// Puts an event into the trail. Never waits.
    pub fn tell(&self, event: AuditEvent) {
        let Some(events) = &self.events else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = events.try_send(event)
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!("the audit trail loses events: its disk or its receiver is too slow");
        }
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.events.is_some()
    }

    /// Events that could not be kept or sent since the start.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// What the listener tells; `None` where nothing is kept, so that it need not look for patients.
    #[must_use]
    pub fn witness(&self) -> Option<Witness> {
        self.is_kept().then(|| {
            let trail = self.clone();
            Witness::new(move |event| trail.tell(trail.event_of(event)))
        })
    }

    fn event_of(&self, event: IngestEvent) -> AuditEvent {
        match event {
            IngestEvent::Received { calling, address, study, n_instances } => AuditEvent::Transferred {
                from: Node { ae_title: Some(calling), address: Some(address.to_string()) },
                to: self.ours.clone(),
                study,
                n_instances,
                outcome: Outcome::Success,
            },
            IngestEvent::TurnedAway { address, calling, reason } => AuditEvent::TurnedAway {
                who: Node { ae_title: calling, address: Some(address.to_string()) },
                reason,
            },
        }
    }
}

impl AuditWriter {
    /// Waits until all is written, after [`AuditEvent::Stopped`] was told; not for ever, as a receiver may hang.
    pub fn finish(self) {
        let Some(writer) = self.0 else { return };
        let deadline = Instant::now() + LAST_WORDS;
        while !writer.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !writer.is_finished() {
            tracing::error!("the end of the audit trail could not be written in time");
        } else if writer.join().is_err() {
            tracing::error!("the audit trail ended by a fault of ours; please report this");
        }
    }
}

struct Targets {
    file: Option<AuditFile>,
    syslog: Option<Syslog>,
    source: Source,
    lost: Arc<AtomicU64>,
}

impl Targets {
    fn write(mut self, events: &Receiver<AuditEvent>) {
        let mut is_broken = false;
        while let Ok(event) = events.recv() {
            let now = time::OffsetDateTime::now_utc();
            let frame = frame(now, &self.source.message(now, &event));
            let written = self.file.as_mut().map_or(Ok(()), |file| file.write(&frame));
            let sent = self.syslog.as_mut().map_or(Ok(()), |syslog| syslog.send(&frame));
            match written.and(sent) {
                Ok(()) if is_broken => {
                    is_broken = false;
                    tracing::info!("the audit trail is kept again");
                }
                Ok(()) => {}
                Err(error) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut is_broken, true) {
                        tracing::error!(%error, "the audit trail cannot be kept; events are lost until it can");
                    }
                }
            }
            if event == AuditEvent::Stopped {
                return;
            }
        }
    }
}

/// A file that the system may move away while it is written; then a new one is begun under its name.
struct AuditFile {
    path: PathBuf,
    file: File,
}

impl AuditFile {
    fn open(path: &Path) -> Result<Self, AuditError> {
        let file = append_to(path).map_err(|source| AuditError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn write(&mut self, frame: &str) -> io::Result<()> {
        let ours = self.file.metadata()?;
        if !std::fs::metadata(&self.path).is_ok_and(|there| platform::is_same_file(&there, &ours)) {
            self.file = append_to(&self.path)?;
        }
        self.file.write_all(&[frame.as_bytes(), b"\n"].concat())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    platform::private_file().create(true).append(true).open(path)
}

fn patients(choice: PatientsInAudit, folder: &Path) -> Result<Patients, AuditError> {
    Ok(match choice {
        PatientsInAudit::None => Patients::None,
        PatientsInAudit::Clear => Patients::Clear,
        PatientsInAudit::Hashed => Patients::Hashed(hash_key(&folder.join("audit.key"))?),
    })
}

/// The key of this installation, made at the first start: without it, a short Patient ID could be found by trying.
fn hash_key(path: &Path) -> Result<Vec<u8>, AuditError> {
    let failed = |source| AuditError::File { path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(key) if key.len() >= 32 => return Ok(key),
        Ok(_cut) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let key = Sha256::new()
        .chain_update(uuid::Uuid::new_v4().as_bytes())
        .chain_update(uuid::Uuid::new_v4().as_bytes())
        .chain_update(uuid::Uuid::new_v4().as_bytes())
        .finalize();
    let mut file =
        platform::private_file().create(true).write(true).truncate(true).open(path).map_err(failed)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key.to_vec())
}
