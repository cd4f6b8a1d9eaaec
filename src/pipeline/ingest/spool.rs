//! Instances on disk: written, synced, renamed; then the sender may be told "success".
//!
//! Layout under the data folder, every name ours or a checked UID:
//!
//! ```text
//! incoming/N.part                              being written; nobody was told success; removed at start
//! incoming/N.removed                           a series that is being removed
//! instances/SERIES-UID/SOP-INSTANCE-UID.dcm    durable
//! quarantine/SOP-INSTANCE-UID.N.dcm and .txt   refused for its content, with the reason
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::data_set::{self, DataSetError, Keep, Outline};
use super::known::Known;
use super::part10::{self, Part10Error};
use super::shared::Shared;
use super::stored::{Clue, StoredInstance};
use crate::pipeline::objects::ObjectError;
use crate::platform;
use crate::vocabulary::dicom::dimse::StoreStatus;
use crate::vocabulary::dicom::{AeTitle, SeriesInstanceUid, SopClassUid, SopInstanceUid, TransferSyntaxUid};

/// The names of a series that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    /// Which.
    pub series_instance_uid: SeriesInstanceUid,
    /// Its instances, of whatever class.
    pub sop_instance_uids: BTreeSet<SopInstanceUid>,
}

/// An instance as it came over an association.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    /// What the command names.
    pub(crate) sop_class_uid: &'a SopClassUid,
    /// What the command names.
    pub(crate) sop_instance_uid: &'a SopInstanceUid,
    /// Of the presentation context.
    pub(crate) transfer_syntax_uid: &'a TransferSyntaxUid,
    /// Who sent it.
    pub(crate) calling_ae_title: &'a AeTitle,
    /// The bytes.
    pub(crate) data_set: &'a [u8],
}

/// What became of an accepted instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is new.
    New(StoredInstance),
    /// It was here already, with the same image.
    Again,
}

/// Why an instance is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The data set cannot be read.
    #[error("the data set is refused")]
    DataSet(#[source] DataSetError),
    /// An identifier inside the data set is no UID.
    #[error("{keyword} in the data set is no UID")]
    Uid {
        /// DICOM keyword.
        keyword: &'static str,
        /// Why.
        #[source]
        source: crate::vocabulary::dicom::InvalidUid,
    },
    /// The data set is another instance, or of another class, than the command says.
    #[error("{keyword} in the data set is {found:?}, the command says {wanted}")]
    Mismatch {
        /// DICOM keyword.
        keyword: &'static str,
        /// In the command.
        wanted: String,
        /// In the data set.
        found: String,
    },
    /// Known with another image.
    #[error("SOP Instance UID known with other content; quarantined")]
    OtherContent,
    /// The bucket.
    #[error("the instances in the bucket cannot be used")]
    Object(#[source] ObjectError),
    /// Nobody would know of its series.
    #[error(
        "the series cannot be announced to the other nodes, so that its instances would be forgotten with this one: {0}"
    )]
    Unannounced(String),
    /// Instances of a series are being written, so it is not removed now.
    #[error("instances of the series are being written: it is looked at again")]
    Busy,
    /// The disk is nearly full.
    #[error("{free_mb} MB are free, {wanted_mb} MB must stay free: make room in {folder}")]
    DiskFull {
        /// Free now, MB.
        free_mb: u64,
        /// The setting, MB.
        wanted_mb: u64,
        /// The data folder.
        folder: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{operation} {path} failed")]
    Io {
        /// What we did.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stored file is not ours any more.
    #[error("{path} is in the data folder but cannot be read: move it away")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Part10Error,
    },
}

impl SpoolError {
    /// What the sender is told.
    pub(crate) fn status(&self) -> StoreStatus {
        match self {
            Self::DataSet(_) | Self::Uid { .. } => StoreStatus::CannotUnderstand,
            Self::Mismatch { .. } => StoreStatus::DataSetMismatch,
            Self::OtherContent => StoreStatus::OtherContent,
            Self::Object(_)
            | Self::Unannounced(_)
            | Self::Busy
            | Self::DiskFull { .. }
            | Self::Io { .. }
            | Self::Foreign { .. } => StoreStatus::OutOfResources,
        }
    }
}

/// The spool's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// What must stay free on the disk, MB (10^6 bytes).
    pub min_free_mb: u64,
    /// What must be free for a series to begin, MB (10^6 bytes); never less than `min_free_mb`.
    pub new_series_free_mb: u64,
    /// What a deflated data set may expand to, bytes.
    pub max_inflated_bytes: u64,
}

/// The received instances: in a folder of this node, or in a bucket that it shares with others.
#[derive(Debug)]
pub struct Spool {
    pub(super) folder: PathBuf,
    pub(super) limits: SpoolLimits,
    /// The bucket, where it is one; then nothing below is in use but the claims.
    pub(super) shared: Option<Shared>,
    index: Mutex<Index>,
    free_again: Condvar,
    counter: AtomicU64,
    /// Bytes that are being written.
    bytes_in_hand: AtomicU64,
}

/// Bytes that count as used while they are written.
struct InHand<'a> {
    spool: &'a Spool,
    n_bytes: u64,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.spool.bytes_in_hand.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Index {
    known: Known,
    in_hand: BTreeMap<SopInstanceUid, SeriesInstanceUid>,
}

impl Spool {
    /// Opens or makes the folder and replays it: the names of what is durable are given back, what is not is removed.
    /// No instance is opened, so that years of them start in seconds.
    ///
    /// # Errors
    /// [`SpoolError`] when the folder cannot be made, read or written.
    pub fn open(folder: &Path, limits: SpoolLimits) -> Result<(Self, Vec<OnDisk>), SpoolError> {
        for name in ["incoming", "instances", "quarantine"] {
            make_folder(&folder.join(name))?;
        }
        for path in list(&folder.join("incoming"))? {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(io_error("removing", &path))?;
        }
        let (mut stored, mut known) = (Vec::new(), Known::default());
        for path in list(&folder.join("instances"))? {
            let Some(series_instance_uid) = uid_of_name(path.file_name(), SeriesInstanceUid::parse) else {
                tracing::warn!(path = %path.display(), "not one of our folders; left alone");
                continue;
            };
            let mut sop_instance_uids = BTreeSet::new();
            for path in list(&path)? {
                match uid_of_name(path.file_stem(), SopInstanceUid::parse) {
                    Some(uid) => {
                        known.insert(&uid, &series_instance_uid);
                        sop_instance_uids.insert(uid);
                    }
                    None => tracing::warn!(path = %path.display(), "not one of our files; left alone"),
                }
            }
            stored.push(OnDisk { series_instance_uid, sop_instance_uids });
        }
        let index = Mutex::new(Index { known, in_hand: BTreeMap::new() });
        let spool = Self { index, ..Self::empty(folder, limits, None) };
        Ok((spool, stored))
    }

    pub(super) fn empty(folder: &Path, limits: SpoolLimits, shared: Option<Shared>) -> Self {
        Self {
            folder: folder.to_owned(),
            limits,
            shared,
            index: Mutex::default(),
            free_again: Condvar::new(),
            counter: AtomicU64::new(0),
            bytes_in_hand: AtomicU64::new(0),
        }
    }

    /// Checks an instance and makes it durable. Blocks; belongs on a thread that may.
    pub(crate) fn store(&self, incoming: &Incoming<'_>) -> Result<Stored, SpoolError> {
        let outline = self.outline(incoming, Keep::Values)?;
        let series_instance_uid = SeriesInstanceUid::parse(&outline.text(data_set::SERIES_INSTANCE_UID))
            .map_err(|source| SpoolError::Uid { keyword: "SeriesInstanceUID", source })?;
        if let Some(shared) = &self.shared {
            let _claim = self.claim(incoming.sop_instance_uid, &series_instance_uid);
            let clue = Clue::of(&outline, Some(incoming.calling_ae_title.clone()));
            return self.store_shared(shared, incoming, series_instance_uid, clue);
        }
        let series = self.folder.join("instances").join(series_instance_uid.as_str());
        let _written_soon = self.require_free_space(incoming.data_set.len(), series.is_dir())?;
        let claim = self.claim(incoming.sop_instance_uid, &series_instance_uid);
        if let Some(known) = &claim.known {
            return self.compare(incoming, known);
        }
        let path = path_of(&self.folder, &series_instance_uid, incoming.sop_instance_uid);
        let header = part10::header(incoming);
        let temporary = self.folder.join("incoming").join(format!("{}.part", self.next_number()));
        let written = write_durably(&temporary, &[&header, incoming.data_set])
            .and_then(|()| make_folder(&series))
            .and_then(|()| fs::rename(&temporary, &path).map_err(io_error("renaming", &temporary)))
            .and_then(|()| sync_folder(&series));
        if let Err(error) = written {
            drop(fs::remove_file(&temporary));
            return Err(error);
        }
        claim.keep(&series_instance_uid);
        Ok(Stored::New(StoredInstance {
            path,
            sop_class_uid: incoming.sop_class_uid.clone(),
            sop_instance_uid: incoming.sop_instance_uid.clone(),
            series_instance_uid,
            clue: Clue::of(&outline, Some(incoming.calling_ae_title.clone())),
        }))
    }

    /// All instances of a series that are on disk, each with its clue read anew; in order of SOP Instance UID.
    ///
    /// # Errors
    /// [`SpoolError`] where one cannot be read.
    pub fn series(&self, series: &SeriesInstanceUid) -> Result<Vec<StoredInstance>, SpoolError> {
        if let Some(shared) = &self.shared {
            return shared.read(series, &shared.uids(series)?, self.limits.max_inflated_bytes);
        }
        Self::stored_series(&self.folder, series, self.limits.max_inflated_bytes)
    }

    /// Removes the instances of a series; sent again, they are new. One that comes at this very moment is either kept or
    /// refused as out of resources, never told stored and removed.
    ///
    /// # Errors
    /// [`SpoolError`] where the disk refuses.
    pub fn remove_series(&self, series: &SeriesInstanceUid) -> Result<(), SpoolError> {
        let folder = self.folder.join("instances").join(series.as_str());
        let aside = self.folder.join("incoming").join(format!("{}.removed", self.next_number()));
        let mut index = self.lock();
        if !folder.is_dir() {
            return Ok(());
        }
        if index.in_hand.values().any(|growing| growing == series) {
            return Err(SpoolError::Busy);
        }
        fs::rename(&folder, &aside).map_err(io_error("moving", &folder))?;
        index.known.remove(series);
        drop(index);
        sync_folder(&self.folder.join("instances"))?;
        fs::remove_dir_all(&aside).map_err(io_error("removing", &aside))
    }

    /// Instances as files: those of this node, or fetched from the bucket into `folder`.
    ///
    /// # Errors
    /// [`SpoolError`] where one is not there or cannot be read.
    pub fn instances(
        &self,
        series: &SeriesInstanceUid,
        instances: &[SopInstanceUid],
        folder: &Path,
    ) -> Result<Vec<StoredInstance>, SpoolError> {
        if let Some(shared) = &self.shared {
            return shared.fetch(series, instances, folder);
        }
        instances.iter().map(|uid| Self::stored_instance(&self.folder, series, uid)).collect()
    }

    /// The series of an instance that is durable.
    pub(super) fn series_of(&self, instance: &SopInstanceUid) -> Option<SeriesInstanceUid> {
        self.lock().known.series_of(instance).cloned()
    }

    /// The SOP class of an instance that is durable, as its file says; `None` where it is not here.
    pub(super) fn class_of(&self, instance: &SopInstanceUid) -> Result<Option<SopClassUid>, SpoolError> {
        let Some(series) = self.series_of(instance) else { return Ok(None) };
        match Self::stored_instance(&self.folder, &series, instance) {
            Ok(stored) => Ok(Some(stored.sop_class_uid)),
            Err(SpoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same as [`Spool::series`], of a data folder that another process may work in.
    ///
    /// # Errors
    /// [`SpoolError`] where one cannot be read.
    pub fn stored_series(
        folder: &Path,
        series: &SeriesInstanceUid,
        max_inflated_bytes: u64,
    ) -> Result<Vec<StoredInstance>, SpoolError> {
        let folder = folder.join("instances").join(series.as_str());
        let mut instances = Vec::new();
        for path in if folder.is_dir() { list(&folder)? } else { Vec::new() } {
            let Some(mut instance) = replayed(&path)? else { continue };
            let bytes = fs::read(&path).map_err(io_error("reading", &path))?;
            let foreign = |source| SpoolError::Foreign { path: path.clone(), source };
            let file = part10::split(&bytes).map_err(foreign)?;
            if let Some(clue) = Clue::of_file(file, max_inflated_bytes) {
                instance.clue = clue;
            }
            instances.push(instance);
        }
        instances.sort_by(|a, b| a.sop_instance_uid.cmp(&b.sop_instance_uid));
        Ok(instances)
    }

    /// The same as [`Spool::instance`], of a data folder that another process may work in.
    ///
    /// # Errors
    /// [`SpoolError`] where it is not there or cannot be read.
    pub fn stored_instance(
        folder: &Path,
        series: &SeriesInstanceUid,
        instance: &SopInstanceUid,
    ) -> Result<StoredInstance, SpoolError> {
        let path = path_of(folder, series, instance);
        let absent = || io_error("finding", &path)(io::ErrorKind::NotFound.into());
        replayed(&path)?.ok_or_else(absent)
    }

    fn outline(&self, incoming: &Incoming<'_>, keep: Keep) -> Result<Outline, SpoolError> {
        let syntax = incoming.transfer_syntax_uid.as_str();
        let outline = data_set::outline(incoming.data_set, syntax, self.limits.max_inflated_bytes, keep)
            .map_err(SpoolError::DataSet)?;
        let named = [
            ("SOPClassUID", data_set::SOP_CLASS_UID, incoming.sop_class_uid.as_str()),
            ("SOPInstanceUID", data_set::SOP_INSTANCE_UID, incoming.sop_instance_uid.as_str()),
        ];
        for (keyword, tag, wanted) in named {
            let found = outline.text(tag);
            if found != wanted {
                let found: String = found.chars().take(64).collect();
                return Err(SpoolError::Mismatch { keyword, wanted: wanted.to_owned(), found });
            }
        }
        Ok(outline)
    }

    /// The same UID again: the same image is one instance, another one goes to quarantine.
    fn compare(&self, incoming: &Incoming<'_>, known: &Path) -> Result<Stored, SpoolError> {
        let bytes = fs::read(known).map_err(io_error("reading", known))?;
        if self.is_same(incoming, &bytes, known)? {
            return Ok(Stored::Again);
        }
        let name = format!("{}.{}", incoming.sop_instance_uid, self.next_number());
        let path = self.folder.join("quarantine").join(name);
        let reason = reason_of(incoming, &known.display().to_string());
        write_durably(&path.with_added_extension("dcm"), &[&part10::header(incoming), incoming.data_set])?;
        write_durably(&path.with_added_extension("txt"), &[reason.as_bytes()])?;
        sync_folder(&self.folder.join("quarantine"))?;
        Err(SpoolError::OtherContent)
    }

    /// Whether an instance is the same as one that was kept as a file.
    pub(super) fn is_same(
        &self,
        incoming: &Incoming<'_>,
        kept: &[u8],
        path: &Path,
    ) -> Result<bool, SpoolError> {
        let foreign = |source| SpoolError::Foreign { path: path.to_owned(), source };
        let file = part10::split(kept).map_err(foreign)?;
        if file.transfer_syntax_uid == *incoming.transfer_syntax_uid && file.data_set == incoming.data_set {
            return Ok(true);
        }
        let syntax = file.transfer_syntax_uid.as_str();
        let before = data_set::outline(file.data_set, syntax, self.limits.max_inflated_bytes, Keep::Pixels)
            .map_err(SpoolError::DataSet)?;
        Ok(self.outline(incoming, Keep::Pixels)?.is_same_image(&before))
    }

    /// Counts these bytes as used until the answer is dropped, so that several writers together do not go below the
    /// mark. A series of which nothing is here yet must leave more.
    fn require_free_space(&self, n_bytes: usize, is_begun: bool) -> Result<InHand<'_>, SpoolError> {
        let n_bytes = u64::try_from(n_bytes).unwrap_or(u64::MAX);
        let in_hand = InHand { spool: self, n_bytes };
        let all_bytes = self.bytes_in_hand.fetch_add(n_bytes, Ordering::Relaxed).saturating_add(n_bytes);
        let free_mb = free_mb(&self.folder).map_err(io_error("measuring", &self.folder))?;
        let SpoolLimits { min_free_mb, new_series_free_mb, .. } = self.limits;
        let wanted_mb = if is_begun { min_free_mb } else { min_free_mb.max(new_series_free_mb) };
        let left_mb = free_mb.saturating_sub(all_bytes / 1_000_000);
        if left_mb >= wanted_mb {
            return Ok(in_hand);
        }
        Err(SpoolError::DiskFull { free_mb: left_mb, wanted_mb, folder: self.folder.clone() })
    }

    /// Numbers that no file of an earlier run bears: they begin at the time in nanoseconds.
    pub(super) fn next_number(&self) -> u64 {
        let since_1970 =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let previous = self.counter.fetch_max(now, Ordering::Relaxed);
        if previous < now { now } else { self.counter.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// Waits until nobody else writes this UID, then claims it.
    fn claim<'a>(&'a self, uid: &'a SopInstanceUid, series: &SeriesInstanceUid) -> Claim<'a> {
        let mut index = self.lock();
        while index.in_hand.contains_key(uid) {
            index = self.free_again.wait(index).unwrap_or_else(PoisonError::into_inner);
        }
        index.in_hand.insert(uid.clone(), series.clone());
        let path = |series: &SeriesInstanceUid| path_of(&self.folder, series, uid);
        let known = index.known.series_of(uid).map(path);
        Claim { spool: self, uid, known }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to write one SOP Instance UID, given back when dropped.
struct Claim<'a> {
    spool: &'a Spool,
    uid: &'a SopInstanceUid,
    known: Option<PathBuf>,
}

impl Claim<'_> {
    fn keep(&self, series: &SeriesInstanceUid) {
        self.spool.lock().known.insert(self.uid, series);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.spool.lock().in_hand.remove(self.uid);
        self.spool.free_again.notify_all();
    }
}

/// Free space for us on the disk of this folder, MB (10^6 bytes).
///
/// # Errors
/// Where the folder cannot be looked at.
pub fn free_mb(folder: &Path) -> io::Result<u64> {
    platform::free_bytes(folder).map(|bytes| bytes / 1_000_000)
}

/// Why an instance is in quarantine.
pub(super) fn reason_of(incoming: &Incoming<'_>, kept: &str) -> String {
    format!(
        "the SOP Instance UID is known with other pixels, geometry, patient or transfer syntax; the first one was kept: \
         {kept}\nsent by {}\n",
        incoming.calling_ae_title
    )
}

/// Where an instance lies; every part of the name is ours or a checked UID.
fn path_of(folder: &Path, series: &SeriesInstanceUid, instance: &SopInstanceUid) -> PathBuf {
    folder.join("instances").join(series.as_str()).join(format!("{instance}.dcm"))
}

pub(super) fn uid_of_name<U, E>(
    name: Option<&std::ffi::OsStr>,
    parse: impl Fn(&str) -> Result<U, E>,
) -> Option<U> {
    name.and_then(std::ffi::OsStr::to_str).and_then(|name| parse(name).ok())
}

fn replayed(path: &Path) -> Result<Option<StoredInstance>, SpoolError> {
    let foreign = |source| SpoolError::Foreign { path: path.to_owned(), source };
    let series = uid_of_name(path.parent().and_then(Path::file_name), SeriesInstanceUid::parse);
    let instance = uid_of_name(path.file_stem(), SopInstanceUid::parse);
    let (Some(series_instance_uid), Some(sop_instance_uid)) = (series, instance) else {
        tracing::warn!(path = %path.display(), "not one of our files; left alone");
        return Ok(None);
    };
    let mut head = Vec::new();
    let file = File::open(path).map_err(io_error("opening", path))?;
    io::Read::read_to_end(&mut io::Read::take(file, 4_096), &mut head).map_err(io_error("reading", path))?;
    let file = part10::split(&head).map_err(foreign)?;
    let clue = Clue { calling_ae_title: file.source_ae_title.clone(), ..Clue::default() };
    let (path, sop_class_uid) = (path.to_owned(), file.sop_class_uid);
    Ok(Some(StoredInstance { path, sop_class_uid, sop_instance_uid, series_instance_uid, clue }))
}

/// Writes a new file of mode 0600 and returns when the disk has it.
pub(crate) fn write_durably(path: &Path, parts: &[&[u8]]) -> Result<(), SpoolError> {
    let mut file = platform::private_file()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(io_error("creating", path))?;
    for part in parts {
        file.write_all(part).map_err(io_error("writing", path))?;
    }
    file.sync_data().map_err(io_error("syncing", path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), SpoolError> {
    platform::sync_folder(path).map_err(io_error("syncing", path))
}

/// Makes a folder of mode 0700 and its name durable; one that is there already is fine.
pub(crate) fn make_folder(path: &Path) -> Result<(), SpoolError> {
    if path.is_dir() {
        return Ok(());
    }
    platform::make_private_folder(path).map_err(io_error("creating", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// The paths in a folder, sorted, so that nothing depends on the disk's order.
fn list(folder: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let entries = fs::read_dir(folder).map_err(io_error("reading", folder))?;
    let mut paths: Vec<_> = entries
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(io_error("reading", folder))?;
    paths.sort();
    Ok(paths)
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { operation, path, source }
}
