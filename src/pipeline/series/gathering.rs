//! When a series is complete: nothing new for a quiet time. The time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::pipeline::ingest::StoredInstance;
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// A series that nothing was added to for the quiet time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteSeries {
    /// Which.
    pub series_instance_uid: SeriesInstanceUid,
    /// 1 the first time, one more each time that instances came late.
    pub version: u32,
    /// All its instances, in order of SOP Instance UID.
    pub instances: Vec<StoredInstance>,
}

impl CompleteSeries {
    /// SHA-256 over the SOP Instance UIDs, in hexadecimal: which instances this version holds.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for instance in &self.instances {
            hash.update(instance.sop_instance_uid.as_str());
            hash.update(b"\n");
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The series that are coming in, and those that came.
#[derive(Debug)]
pub struct Gathering {
    quiet_time: Duration,
    series: BTreeMap<SeriesInstanceUid, Series>,
}

#[derive(Debug, Default)]
struct Series {
    instances: BTreeMap<SopInstanceUid, StoredInstance>,
    /// How often it was complete.
    version: u32,
    /// When it last grew; `None` while nothing is new.
    grew: Option<Instant>,
}

impl Gathering {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(quiet_time: Duration) -> Self {
        Self { quiet_time, series: BTreeMap::new() }
    }

    /// Takes an instance. One that is here already changes nothing; one for a complete series begins a new version.
    pub fn receive(&mut self, instance: StoredInstance, now: Instant) {
        let series = self.series.entry(instance.series_instance_uid.clone()).or_default();
        if series.instances.insert(instance.sop_instance_uid.clone(), instance).is_none() {
            series.grew = Some(now);
        }
    }

    /// Takes back what an earlier run had finished: it is not complete again until something new comes.
    pub fn restore(&mut self, finished: CompleteSeries) {
        let instances = finished.instances.into_iter().map(|i| (i.sop_instance_uid.clone(), i)).collect();
        let series = Series { instances, version: finished.version, grew: None };
        self.series.insert(finished.series_instance_uid, series);
    }

    /// Takes back a series that had grown when the earlier run ended: `versions_before` were complete.
    pub fn restore_growing(&mut self, versions_before: u32, instances: Vec<StoredInstance>, now: Instant) {
        for instance in instances {
            let series = self.series.entry(instance.series_instance_uid.clone()).or_default();
            series.version = versions_before;
            series.grew = Some(now);
            series.instances.insert(instance.sop_instance_uid.clone(), instance);
        }
    }

    /// The series that was quiet for longest, if its quiet time is over. It counts as complete from here on.
    pub fn take_complete(&mut self, now: Instant) -> Option<CompleteSeries> {
        let (uid, series) = self
            .series
            .iter_mut()
            .filter(|(_, s)| {
                s.grew.is_some_and(|grew| now.saturating_duration_since(grew) >= self.quiet_time)
            })
            .min_by_key(|(_, s)| s.grew)?;
        series.grew = None;
        series.version += 1;
        Some(CompleteSeries {
            series_instance_uid: uid.clone(),
            version: series.version,
            instances: series.instances.values().cloned().collect(),
        })
    }

    /// When the next series will be complete if nothing more comes.
    #[must_use]
    pub fn next_complete(&self) -> Option<Instant> {
        self.series.values().filter_map(|s| s.grew).min().map(|grew| grew + self.quiet_time)
    }

    /// How many series are still growing.
    #[must_use]
    pub fn n_growing(&self) -> usize {
        self.series.values().filter(|s| s.grew.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::dicom::SopClassUid;

    fn instance(series: &str, uid: &str) -> StoredInstance {
        StoredInstance {
            path: format!("/x/{uid}").into(),
            sop_class_uid: SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
            sop_instance_uid: SopInstanceUid::parse(uid).unwrap(),
            series_instance_uid: SeriesInstanceUid::parse(series).unwrap(),
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn quiet_time_runs_from_the_last_new_instance_of_each_series() {
        let start = Instant::now();
        let mut gathering = Gathering::new(seconds(10));
        gathering.receive(instance("1.7", "1.1"), start);
        gathering.receive(instance("1.8", "1.3"), start + seconds(2));
        gathering.receive(instance("1.7", "1.2"), start + seconds(6));
        gathering.receive(instance("1.7", "1.2"), start + seconds(15));
        assert_eq!(gathering.take_complete(start + seconds(11)), None);
        assert_eq!(gathering.next_complete(), Some(start + seconds(12)));
        let first = gathering.take_complete(start + seconds(17)).unwrap();
        assert_eq!((first.series_instance_uid.as_str(), first.instances.len()), ("1.8", 1));
        let second = gathering.take_complete(start + seconds(17)).unwrap();
        assert_eq!((second.series_instance_uid.as_str(), second.instances.len()), ("1.7", 2));
        assert_eq!(gathering.take_complete(start + seconds(99)), None);
    }

    #[test]
    fn a_late_instance_makes_a_new_version_with_all_instances() {
        let start = Instant::now();
        let mut gathering = Gathering::new(seconds(10));
        gathering.receive(instance("1.7", "1.2"), start);
        let first = gathering.take_complete(start + seconds(10)).unwrap();
        gathering.receive(instance("1.7", "1.1"), start + seconds(20));
        let second = gathering.take_complete(start + seconds(30)).unwrap();
        assert_eq!((first.version, second.version, second.instances.len()), (1, 2, 2));
        assert_ne!(first.fingerprint(), second.fingerprint());
        let mut after_restart = Gathering::new(seconds(10));
        after_restart.restore(second.clone());
        after_restart.receive(instance("1.7", "1.1"), start);
        assert_eq!(after_restart.take_complete(start + seconds(60)), None);
        after_restart.receive(instance("1.7", "1.9"), start);
        assert_eq!(after_restart.take_complete(start + seconds(60)).unwrap().version, 3);
    }
}
