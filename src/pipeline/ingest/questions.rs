//! Where questions about storage commitment lie until their report is taken: files of this node, or what several nodes
//! share.
//!
//! ```text
//! commitments/TRANSACTION-UID.json   asked, and the report has not been taken yet
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::spool::{SpoolError, make_folder, sync_folder, write_durably};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::{AeTitle, SopClassUid, SopInstanceUid, TransactionUid};

/// From the question to the first report over an association of ours: its answer is on its way yet, over another one.
pub const AFTER_THE_ANSWER: Duration = Duration::from_millis(500);

/// An instance that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(super) class: SopClassUid,
    pub(super) instance: SopInstanceUid,
}

/// A question that was answered with success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pledge {
    /// Names the question and its report.
    pub transaction_uid: TransactionUid,
    /// Who asked.
    pub calling_ae_title: AeTitle,
    /// When, ms since 1970.
    pub asked_ms: i64,
    pub(super) references: Vec<Reference>,
}

/// How it is kept.
#[derive(Serialize, Deserialize)]
struct Written {
    calling_ae_title: String,
    asked_ms: i64,
    /// SOP Class UID and SOP Instance UID.
    references: Vec<(String, String)>,
}

impl Pledge {
    /// As JSON.
    ///
    /// # Panics
    /// Never: texts and a number have a JSON form.
    #[must_use]
    pub fn written(&self) -> String {
        let text = |r: &Reference| (r.class.to_string(), r.instance.to_string());
        let written = Written {
            calling_ae_title: self.calling_ae_title.to_string(),
            asked_ms: self.asked_ms,
            references: self.references.iter().map(text).collect(),
        };
        serde_json::to_string(&written).expect("texts and a number have a JSON form")
    }

    /// From JSON; `None` for what [`Pledge::written`] never wrote.
    #[must_use]
    pub fn parse(transaction_uid: &TransactionUid, json: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(json).ok()?;
        let reference = |(class, instance): &(String, String)| {
            Some(Reference { class: class.parse().ok()?, instance: instance.parse().ok()? })
        };
        Some(Self {
            transaction_uid: transaction_uid.clone(),
            calling_ae_title: written.calling_ae_title.parse().ok()?,
            asked_ms: written.asked_ms,
            references: written.references.iter().map(reference).collect::<Option<_>>()?,
        })
    }
}

/// A question that nobody reports on just now, and whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub transaction_uid: TransactionUid,
    /// Who asked.
    pub calling_ae_title: AeTitle,
    /// When, ms since 1970.
    pub asked_ms: i64,
    /// How often its report was not taken.
    pub failed_attempts: u32,
}

/// Why a question is not kept or a report not made.
#[derive(Debug, thiserror::Error)]
pub enum PledgeError {
    /// The disk, or the bucket.
    #[error("what storage commitment is asked for cannot be kept or looked up")]
    Spool(#[source] SpoolError),
    /// A file of ours is gone or damaged.
    #[error(
        "{path} cannot be read: remove it, and have the storage commitment that it is named after asked for again"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database that several nodes share.
    #[error("the database does not keep or give what storage commitment needs: does the server run?")]
    Shared(#[source] Box<dyn Error + Send + Sync>),
    /// There is none any more.
    #[error("the question was reported on meanwhile, by another node or over another association")]
    Gone,
}

/// Where questions lie. Everything here may block.
pub trait Questions: fmt::Debug + Send + Sync {
    /// Keeps one, durably; `false` where there is one of its Transaction UID.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn keep(&self, pledge: &Pledge) -> Result<bool, PledgeError>;

    /// One that is kept; `None` where there is none.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn read(&self, transaction_uid: &TransactionUid) -> Result<Option<Pledge>, PledgeError>;

    /// How many are kept, and how many of them this one asked.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn count(&self, calling: &AeTitle) -> Result<(usize, usize), PledgeError>;

    /// Those that are due.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn due(&self) -> Result<Vec<Due>, PledgeError>;

    /// Takes one to report on it; nobody else does for so long. `false`: somebody does already.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn claim(&self, transaction_uid: &TransactionUid, lease: Duration) -> Result<bool, PledgeError>;

    /// The report on one that was claimed was not taken: it is due again then.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn put_back(&self, transaction_uid: &TransactionUid, wait: Duration) -> Result<(), PledgeError>;

    /// Forgets one; `false` where somebody else has.
    ///
    /// # Errors
    /// [`PledgeError`].
    fn forget(&self, transaction_uid: &TransactionUid) -> Result<bool, PledgeError>;
}

/// Questions as files of this node.
#[derive(Debug)]
pub(super) struct QuestionFolder {
    folder: PathBuf,
    waiting: Mutex<BTreeMap<TransactionUid, Waiting>>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) calling_ae_title: AeTitle,
    asked_ms: i64,
    failed_attempts: u32,
    not_before: Instant,
    is_claimed: bool,
}

impl Waiting {
    pub(super) fn new(calling_ae_title: AeTitle, asked_ms: i64) -> Self {
        let not_before = Instant::now() + AFTER_THE_ANSWER;
        Self { calling_ae_title, asked_ms, failed_attempts: 0, not_before, is_claimed: false }
    }
}

impl QuestionFolder {
    /// Opens or makes the folder, and takes over what an earlier process had not reported.
    pub(super) fn open(data_folder: &Path) -> Result<Self, PledgeError> {
        let folder = data_folder.join("commitments");
        make_folder(&folder).map_err(PledgeError::Spool)?;
        let failed = |source| {
            PledgeError::Spool(SpoolError::Io { operation: "reading", path: folder.clone(), source })
        };
        let mut waiting = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let uid = path.file_stem().and_then(|stem| stem.to_str()).and_then(|uid| uid.parse().ok());
            match (path.extension().and_then(|extension| extension.to_str()), uid) {
                (Some("json"), Some(uid)) => match read(&folder, &uid) {
                    Ok(pledge) => {
                        waiting.insert(uid, Waiting::new(pledge.calling_ae_title, pledge.asked_ms));
                    }
                    Err(error) => tracing::error!(error = with_causes(&error), "left alone"),
                },
                // Nobody was told success.
                (Some("part"), _) => drop(fs::remove_file(&path)),
                _ => tracing::warn!(path = %path.display(), "not one of our files; left alone"),
            }
        }
        Ok(Self { folder, waiting: Mutex::new(waiting) })
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, BTreeMap<TransactionUid, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Questions for QuestionFolder {
    fn keep(&self, pledge: &Pledge) -> Result<bool, PledgeError> {
        if self.waiting().contains_key(&pledge.transaction_uid) {
            return Ok(false);
        }
        write(&self.folder, pledge).map_err(PledgeError::Spool)?;
        let waiting = Waiting::new(pledge.calling_ae_title.clone(), pledge.asked_ms);
        self.waiting().insert(pledge.transaction_uid.clone(), waiting);
        Ok(true)
    }

    fn read(&self, transaction_uid: &TransactionUid) -> Result<Option<Pledge>, PledgeError> {
        if !self.waiting().contains_key(transaction_uid) {
            return Ok(None);
        }
        read(&self.folder, transaction_uid).map(Some)
    }

    fn count(&self, calling: &AeTitle) -> Result<(usize, usize), PledgeError> {
        let waiting = self.waiting();
        let of_one = waiting.values().filter(|waiting| waiting.calling_ae_title == *calling).count();
        Ok((waiting.len(), of_one))
    }

    fn due(&self) -> Result<Vec<Due>, PledgeError> {
        let (waiting, now) = (self.waiting(), Instant::now());
        let due = waiting.iter().filter(|(_, waiting)| !waiting.is_claimed && waiting.not_before <= now);
        let due = due.map(|(uid, waiting)| Due {
            transaction_uid: uid.clone(),
            calling_ae_title: waiting.calling_ae_title.clone(),
            asked_ms: waiting.asked_ms,
            failed_attempts: waiting.failed_attempts,
        });
        Ok(due.collect())
    }

    fn claim(&self, transaction_uid: &TransactionUid, _lease: Duration) -> Result<bool, PledgeError> {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.get_mut(transaction_uid) else { return Ok(false) };
        Ok(!std::mem::replace(&mut waiting.is_claimed, true))
    }

    fn put_back(&self, transaction_uid: &TransactionUid, wait: Duration) -> Result<(), PledgeError> {
        if let Some(waiting) = self.waiting().get_mut(transaction_uid) {
            waiting.is_claimed = false;
            waiting.failed_attempts += 1;
            waiting.not_before = Instant::now() + wait;
        }
        Ok(())
    }

    fn forget(&self, transaction_uid: &TransactionUid) -> Result<bool, PledgeError> {
        let path = path_of(&self.folder, transaction_uid);
        let removed = fs::remove_file(&path);
        let was_waiting = self.waiting().remove(transaction_uid).is_some();
        let failed = |source| PledgeError::Spool(SpoolError::Io { operation: "removing", path, source });
        removed.map(|()| was_waiting).map_err(failed)
    }
}

/// Every part of the name is ours or a checked UID.
fn path_of(folder: &Path, transaction_uid: &TransactionUid) -> PathBuf {
    folder.join(format!("{transaction_uid}.json"))
}

fn read(folder: &Path, transaction_uid: &TransactionUid) -> Result<Pledge, PledgeError> {
    let path = path_of(folder, transaction_uid);
    let foreign = |source| PledgeError::Foreign { path: path.clone(), source };
    let json = fs::read(&path).map_err(foreign)?;
    Pledge::parse(transaction_uid, &json).ok_or_else(|| foreign(io::ErrorKind::InvalidData.into()))
}

fn write(folder: &Path, pledge: &Pledge) -> Result<(), SpoolError> {
    let path = path_of(folder, &pledge.transaction_uid);
    let temporary = path.with_extension("part");
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| SpoolError::Io { operation, path, source }
    };
    if temporary.exists() {
        fs::remove_file(&temporary).map_err(failed("removing", &temporary))?;
    }
    write_durably(&temporary, &[pledge.written().as_bytes()])?;
    fs::rename(&temporary, &path).map_err(failed("renaming", &temporary))?;
    sync_folder(folder)
}
