//! Instances that were not taken, for a person to decide.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::store::{NewVersion, Store, StoreError, now_ms};
use crate::pipeline::delivery::{OutboxError, replace};
use crate::pipeline::ingest::{Spool, SpoolError, StoredInstance};
use crate::pipeline::series::{Choice, fingerprint_of};
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// What was stored has passed the service's own limit.
const MAX_INFLATED_BYTES: u64 = 1 << 32;

/// Why an instance cannot be released or dropped.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// No such name.
    #[error("there is no {name} in quarantine: `oarlock jobs quarantine list` prints the names")]
    Absent {
        /// What was asked for.
        name: String,
    },
    /// A file.
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
    /// A file that should be put in place.
    #[error("the instance cannot be put in place")]
    Replace(#[source] OutboxError),
    /// The spool.
    #[error("the instances of the series cannot be read")]
    Spool(#[source] SpoolError),
    /// The store.
    #[error("the new version cannot be noted")]
    Store(#[source] StoreError),
    /// No instance of that UID was kept.
    #[error("no instance {uid} is stored, so there is none to replace: send it again")]
    NothingKept {
        /// Which.
        uid: String,
    },
}

/// An instance in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Names it to `release` and `drop`.
    pub name: String,
    /// Its SOP Instance UID.
    pub sop_instance_uid: String,
    /// Bytes.
    pub n_bytes: u64,
    /// Why it is here.
    pub reason: String,
}

/// The folder of instances in quarantine.
#[derive(Debug)]
pub struct Quarantine {
    data: PathBuf,
}

impl Quarantine {
    /// The quarantine of a data folder.
    #[must_use]
    pub fn of(data_folder: &Path) -> Self {
        Self { data: data_folder.to_owned() }
    }

    /// What is there, by name.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Quarantined>, QuarantineError> {
        let folder = self.folder();
        let mut found = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(source) => return Err(QuarantineError::Io { operation: "reading", path: folder, source }),
        };
        for entry in entries {
            let path = entry.map_err(io_error("reading", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != "dcm") {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let reason = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
            found.push(Quarantined {
                sop_instance_uid: uid_of(&name).to_owned(),
                n_bytes: fs::metadata(&path).map_err(io_error("reading", &path))?.len(),
                reason: reason.trim_end().to_owned(),
                name,
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes an instance for good.
    ///
    /// # Errors
    /// [`QuarantineError`].
    pub fn drop_one(&self, name: &str) -> Result<(), QuarantineError> {
        let path = self.require(name)?;
        fs::remove_file(&path).map_err(io_error("removing", &path))?;
        let reason = path.with_extension("txt");
        match fs::remove_file(&reason) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(QuarantineError::Io { operation: "removing", path: reason, source })
            }
            _ => Ok(()),
        }
    }

    /// Puts an instance in the place of the one that was kept, which takes its place here, and makes a new version of
    /// its series. Gives the series and the version.
    ///
    /// # Errors
    /// [`QuarantineError`].
    pub async fn release(
        &self,
        name: &str,
        store: &Store,
    ) -> Result<(SeriesInstanceUid, u32), QuarantineError> {
        let path = self.require(name)?;
        let kept = self.kept(uid_of(name))?;
        let (released, replaced) = (read(&path)?, read(&kept.path)?);
        replace(&kept.path, &released).map_err(QuarantineError::Replace)?;
        replace(&path, &replaced).map_err(QuarantineError::Replace)?;
        let reason = path.with_extension("txt");
        let why = "it was stored until a person released the other instance of its UID\n";
        replace(&reason, why.as_bytes()).map_err(QuarantineError::Replace)?;
        let instances = Spool::stored_series(&self.data, &kept.series_instance_uid, MAX_INFLATED_BYTES)
            .map_err(QuarantineError::Spool)?;
        let fingerprint = fingerprint_of(instances.iter().map(|i| &i.sop_instance_uid));
        let new = NewVersion {
            series: &kept.series_instance_uid,
            instances: &instances,
            fingerprint: &fingerprint,
            choice: &Choice::default(),
            why: "a person released an instance from quarantine",
            at_least: 1,
            not_before_ms: now_ms(),
        };
        let version = store.changed(&new, now_ms()).await.map_err(QuarantineError::Store)?;
        Ok((kept.series_instance_uid, version))
    }

    fn folder(&self) -> PathBuf {
        self.data.join("quarantine")
    }

    /// The path of a name that is there; nothing else becomes a path.
    fn require(&self, name: &str) -> Result<PathBuf, QuarantineError> {
        let is_there = self.list()?.iter().any(|q| q.name == name);
        let absent = || QuarantineError::Absent { name: name.to_owned() };
        is_there.then(|| self.folder().join(format!("{name}.dcm"))).ok_or_else(absent)
    }

    fn kept(&self, uid: &str) -> Result<StoredInstance, QuarantineError> {
        let nothing = || QuarantineError::NothingKept { uid: uid.to_owned() };
        let uid = SopInstanceUid::parse(uid).map_err(|_no_uid| nothing())?;
        let folder = self.data.join("instances");
        for entry in fs::read_dir(&folder).map_err(io_error("reading", &folder))? {
            let series = entry.map_err(io_error("reading", &folder))?.file_name();
            let Ok(series) = SeriesInstanceUid::parse(&series.to_string_lossy()) else { continue };
            if let Ok(kept) = Spool::stored_instance(&self.data, &series, &uid) {
                return Ok(kept);
            }
        }
        Err(nothing())
    }
}

/// `UID.NUMBER`
fn uid_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(uid, _)| uid)
}

fn read(path: &Path) -> Result<Vec<u8>, QuarantineError> {
    fs::read(path).map_err(io_error("reading", path))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QuarantineError {
    let path = path.to_owned();
    move |source| QuarantineError::Io { operation, path, source }
}
