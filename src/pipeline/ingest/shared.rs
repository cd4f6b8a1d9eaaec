//! Instances in a bucket that several nodes share: kept there and announced to the others, then the sender may be told
//! "success".
//!
//! ```text
//! instances/SERIES-UID/SOP-INSTANCE-UID.dcm    as it came
//! quarantine/SOP-INSTANCE-UID.N.dcm and .txt   refused for its content, with the reason
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::data_set::{self, Keep};
use super::part10;
use super::spool::{Incoming, Spool, SpoolError, SpoolLimits, Stored, reason_of, uid_of_name};
use super::stored::{Clue, StoredInstance};
use crate::pipeline::objects::{Kept, ObjectError, Objects};
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// Requests that are under way at a time when a series is fetched.
const AT_A_TIME: usize = 8;

/// Tells the other nodes that instances of a series come in here, before the sender is told that one is kept. Blocks.
pub struct Announcer(Box<Tell>);

type Tell = dyn Fn(&StoredInstance) -> Result<Announced, String> + Send + Sync;

/// Since when the other nodes know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// Since before the instance was kept.
    Before,
    /// Only now: until then the series could be removed.
    Now,
}

impl Announcer {
    /// One who does this; where it fails, says why.
    pub fn new(tell: impl Fn(&StoredInstance) -> Result<Announced, String> + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Announcer")
    }
}

/// The bucket, and who is told.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) objects: Objects,
    announcer: Announcer,
}

impl Spool {
    /// Over a bucket. `folder` is only named in messages.
    #[must_use]
    pub fn shared(folder: &Path, limits: SpoolLimits, objects: Objects, announcer: Announcer) -> Self {
        Self::empty(folder, limits, Some(Shared { objects, announcer }))
    }

    /// Whether the instances lie in a bucket.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The names of the instances of a series in the bucket; none without a bucket.
    ///
    /// # Errors
    /// [`SpoolError`] where the bucket does not say.
    pub fn shared_uids(&self, series: &SeriesInstanceUid) -> Result<Vec<SopInstanceUid>, SpoolError> {
        self.shared.as_ref().map_or(Ok(Vec::new()), |shared| shared.uids(series))
    }

    /// Instances in the bucket, each with its clue read anew; none without a bucket.
    ///
    /// # Errors
    /// [`SpoolError`] where one cannot be read.
    pub fn shared_instances(
        &self,
        series: &SeriesInstanceUid,
        instances: &[SopInstanceUid],
    ) -> Result<Vec<StoredInstance>, SpoolError> {
        let limit = self.limits.max_inflated_bytes;
        self.shared.as_ref().map_or(Ok(Vec::new()), |shared| shared.read(series, instances, limit))
    }

    pub(super) fn store_shared(
        &self,
        shared: &Shared,
        incoming: &Incoming<'_>,
        series_instance_uid: SeriesInstanceUid,
        clue: Clue,
    ) -> Result<Stored, SpoolError> {
        let name = name_of(&series_instance_uid, incoming.sop_instance_uid);
        let header = part10::header(incoming);
        let kept =
            shared.objects.put_new(&name, &[&header, incoming.data_set]).map_err(SpoolError::Object)?;
        if kept == Kept::Before {
            let before = shared.get(&name)?;
            if !self.is_same(incoming, &before, Path::new(&name))? {
                let aside = format!("quarantine/{}.{}", incoming.sop_instance_uid, self.next_number());
                let put = |ending: &str, parts: &[&[u8]]| {
                    let name = format!("{aside}.{ending}");
                    shared.objects.put_new(&name, parts).map_err(SpoolError::Object)
                };
                put("txt", &[reason_of(incoming, &name).as_bytes()])?;
                put("dcm", &[&header, incoming.data_set])?;
                return Err(SpoolError::OtherContent);
            }
        }
        let stored = StoredInstance {
            path: PathBuf::from(&name),
            sop_class_uid: incoming.sop_class_uid.clone(),
            sop_instance_uid: incoming.sop_instance_uid.clone(),
            series_instance_uid,
            clue,
        };
        // One that was there before may be of a node that ended before it could announce it.
        let announced = (shared.announcer.0)(&stored).map_err(SpoolError::Unannounced)?;
        // Between the two it may have been removed with an old series; from now on it is not.
        if announced == Announced::Now && !shared.objects.exists(&name).map_err(SpoolError::Object)? {
            shared.objects.put_new(&name, &[&header, incoming.data_set]).map_err(SpoolError::Object)?;
        }
        Ok(if kept == Kept::New { Stored::New(stored) } else { Stored::Again })
    }
}

impl Shared {
    pub(super) fn uids(&self, series: &SeriesInstanceUid) -> Result<Vec<SopInstanceUid>, SpoolError> {
        let listed = self.objects.list(&format!("instances/{series}")).map_err(SpoolError::Object)?;
        let uid = |name: &String| uid_of_name(Path::new(name).file_stem(), SopInstanceUid::parse);
        let uids: BTreeSet<_> = listed.objects.iter().filter_map(uid).collect();
        Ok(uids.into_iter().collect())
    }

    /// Each with its clue, in order of SOP Instance UID.
    pub(super) fn read(
        &self,
        series: &SeriesInstanceUid,
        instances: &[SopInstanceUid],
        max_inflated_bytes: u64,
    ) -> Result<Vec<StoredInstance>, SpoolError> {
        let read = |uid: &SopInstanceUid| {
            let name = name_of(series, uid);
            let bytes = self.get(&name)?;
            let mut instance = instance(&bytes, series, uid, name.into())?;
            if let Ok(file) = part10::split(&bytes)
                && let Some(clue) = Clue::of_file(file, max_inflated_bytes)
            {
                instance.clue = clue;
            }
            Ok(instance)
        };
        let mut read = in_parallel(instances, read)?;
        read.sort_by(|a, b| a.sop_instance_uid.cmp(&b.sop_instance_uid));
        Ok(read)
    }

    /// As files in a folder, in the order of the names.
    pub(super) fn fetch(
        &self,
        series: &SeriesInstanceUid,
        instances: &[SopInstanceUid],
        folder: &Path,
    ) -> Result<Vec<StoredInstance>, SpoolError> {
        in_parallel(instances, |uid| {
            let bytes = self.get(&name_of(series, uid))?;
            let path = folder.join(format!("{uid}.dcm"));
            let failed = |source| SpoolError::Io { operation: "writing", path: path.clone(), source };
            std::fs::write(&path, &bytes).map_err(failed)?;
            instance(&bytes, series, uid, path)
        })
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, SpoolError> {
        let got = self.objects.get(name).map_err(SpoolError::Object)?;
        let absent = || ObjectError::Absent(name.to_owned());
        got.ok_or_else(absent).map_err(SpoolError::Object)
    }
}

/// The series of a Part 10 file.
pub(crate) fn series_of_file(part10: &[u8]) -> Option<SeriesInstanceUid> {
    let file = part10::split(part10).ok()?;
    let syntax = file.transfer_syntax_uid.as_str();
    let outline = data_set::outline(file.data_set, syntax, u64::MAX, Keep::Values).ok()?;
    SeriesInstanceUid::parse(&outline.text(data_set::SERIES_INSTANCE_UID)).ok()
}

pub(super) fn name_of(series: &SeriesInstanceUid, instance: &SopInstanceUid) -> String {
    format!("instances/{series}/{instance}.dcm")
}

fn instance(
    bytes: &[u8],
    series: &SeriesInstanceUid,
    uid: &SopInstanceUid,
    path: PathBuf,
) -> Result<StoredInstance, SpoolError> {
    let file = part10::split(bytes).map_err(|source| SpoolError::Foreign { path: path.clone(), source })?;
    Ok(StoredInstance {
        sop_class_uid: file.sop_class_uid,
        sop_instance_uid: uid.clone(),
        series_instance_uid: series.clone(),
        clue: Clue { calling_ae_title: file.source_ae_title, ..Clue::default() },
        path,
    })
}

/// Does the same with each, several at a time; the results in the order of what they are of.
pub(super) fn in_parallel<T: Sync, R: Send>(
    of: &[T],
    work: impl Fn(&T) -> Result<R, SpoolError> + Sync,
) -> Result<Vec<R>, SpoolError> {
    let next = AtomicUsize::new(0);
    let one_after_the_other = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = of.get(at) else { return Ok(done) };
            done.push((at, work(one)?));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..AT_A_TIME.min(of.len())).map(|_| scope.spawn(one_after_the_other)).collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(done) => all.extend(done?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })?;
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}
