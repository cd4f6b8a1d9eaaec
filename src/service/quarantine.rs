//! Instances that were not taken, for a person to decide.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cluster::bucket_reader;
use super::store::{NewVersion, Store, StoreError, now_ms};
use crate::pipeline::ingest::{Spool, SpoolError, StoredInstance, series_of_file};
use crate::pipeline::objects::{ObjectError, Objects};
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
    /// An object.
    #[error("the quarantine cannot be used")]
    Object(#[source] ObjectError),
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

/// The instances in quarantine.
#[derive(Debug)]
pub struct Quarantine {
    objects: Objects,
    /// The data folder, where they do not lie in a bucket.
    data: Option<PathBuf>,
}

impl Quarantine {
    /// The quarantine of a data folder.
    #[must_use]
    pub fn of(data_folder: &Path) -> Self {
        Self { objects: Objects::in_folder(data_folder), data: Some(data_folder.to_owned()) }
    }

    /// The quarantine of a bucket.
    #[must_use]
    pub fn of_bucket(objects: Objects) -> Self {
        Self { objects, data: None }
    }

    /// What is there, by name.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn list(&self) -> Result<Vec<Quarantined>, QuarantineError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let reason = self.objects.get(&place_of(&name, "txt")).map_err(QuarantineError::Object)?;
            found.push(Quarantined {
                sop_instance_uid: uid_of(&name).to_owned(),
                n_bytes: u64::try_from(self.read(&place_of(&name, "dcm"))?.len()).unwrap_or(u64::MAX),
                reason: String::from_utf8_lossy(&reason.unwrap_or_default()).trim_end().to_owned(),
                name,
            });
        }
        Ok(found)
    }

    /// Removes an instance for good.
    ///
    /// # Errors
    /// [`QuarantineError`].
    pub fn drop_one(&self, name: &str) -> Result<(), QuarantineError> {
        self.require(name)?;
        let removed = ["dcm", "txt"].map(|ending| self.objects.remove(&place_of(name, ending)));
        removed.into_iter().collect::<Result<(), _>>().map_err(QuarantineError::Object)
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
        self.require(name)?;
        let (aside, reason) = (place_of(name, "dcm"), place_of(name, "txt"));
        let released = self.read(&aside)?;
        let (series, kept) = self.kept(uid_of(name), &released)?;
        let replaced = self.read(&kept)?;
        let why = "it was stored until a person released the other instance of its UID\n";
        for (name, bytes) in [(&kept, &released[..]), (&aside, &replaced), (&reason, why.as_bytes())] {
            self.objects.put(name, bytes).map_err(QuarantineError::Object)?;
        }
        let instances = self.instances(&series).map_err(QuarantineError::Spool)?;
        let fingerprint = fingerprint_of(instances.iter().map(|i| &i.sop_instance_uid));
        let new = NewVersion {
            series: &series,
            instances: &instances,
            fingerprint: &fingerprint,
            choice: &Choice::default(),
            why: "a person released an instance from quarantine",
            at_least: 1,
            not_before_ms: now_ms(),
        };
        let version = store.changed(&new, now_ms()).await.map_err(QuarantineError::Store)?;
        Ok((series, version))
    }

    /// The names, sorted.
    fn names(&self) -> Result<Vec<String>, QuarantineError> {
        let listed = self.objects.list("quarantine").map_err(QuarantineError::Object)?;
        Ok(listed.objects.iter().filter_map(|name| name.strip_suffix(".dcm")).map(str::to_owned).collect())
    }

    /// A name that is there; nothing else becomes the name of an object.
    fn require(&self, name: &str) -> Result<(), QuarantineError> {
        let absent = || QuarantineError::Absent { name: name.to_owned() };
        self.names()?.iter().any(|known| known == name).then_some(()).ok_or_else(absent)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, QuarantineError> {
        let got = self.objects.get(name).map_err(QuarantineError::Object)?;
        got.ok_or_else(|| QuarantineError::Object(ObjectError::Absent(name.to_owned())))
    }

    /// The instance that was kept under this UID: in the series that the other one names, or in whichever it is.
    fn kept(&self, uid: &str, other: &[u8]) -> Result<(SeriesInstanceUid, String), QuarantineError> {
        let nothing = || QuarantineError::NothingKept { uid: uid.to_owned() };
        let uid = SopInstanceUid::parse(uid).map_err(|_no_uid| nothing())?;
        let mut series: Vec<SeriesInstanceUid> = series_of_file(other).into_iter().collect();
        if self.data.is_some() {
            let listed = self.objects.list("instances").map_err(QuarantineError::Object)?;
            series.extend(listed.folders.iter().filter_map(|name| SeriesInstanceUid::parse(name).ok()));
        }
        for series in series {
            let name = format!("instances/{series}/{uid}.dcm");
            if self.objects.exists(&name).map_err(QuarantineError::Object)? {
                return Ok((series, name));
            }
        }
        Err(nothing())
    }

    fn instances(&self, series: &SeriesInstanceUid) -> Result<Vec<StoredInstance>, SpoolError> {
        match &self.data {
            Some(folder) => Spool::stored_series(folder, series, MAX_INFLATED_BYTES),
            None => bucket_reader(self.objects.clone()).series(series),
        }
    }
}

fn place_of(name: &str, ending: &str) -> String {
    format!("quarantine/{name}.{ending}")
}

/// `UID.NUMBER`
fn uid_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(uid, _)| uid)
}
