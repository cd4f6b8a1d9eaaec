//! In which series an instance in the bucket lies, and of which class it is, by its SOP Instance UID alone.
//!
//! Comes in: what the nodes have noted. Goes out: what the bucket holds at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;

use super::part10;
use super::questions::PledgeError;
use super::shared::{Shared, in_parallel, name_of};
use super::spool::SpoolError;
use crate::vocabulary::dicom::{SeriesInstanceUid, SopClassUid, SopInstanceUid};

/// Preamble and file meta information are shorter, bytes.
const FILE_META: u64 = 4_096;

/// What the nodes have noted of instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whereabouts {
    /// In which series an instance may lie.
    pub noted: BTreeMap<SopInstanceUid, BTreeSet<SeriesInstanceUid>>,
    /// Series whose instances are not all noted, since they are coming in.
    pub coming_in: Vec<SeriesInstanceUid>,
    /// Whether these are all that are coming in.
    pub is_all: bool,
}

/// Says what is noted of instances. Blocks.
pub struct Finder(Box<Find>);

type Find =
    dyn Fn(&BTreeSet<SopInstanceUid>) -> Result<Whereabouts, Box<dyn Error + Send + Sync>> + Send + Sync;

impl Finder {
    /// One who does this; where it fails, says why. What is coming in must be asked for before what is noted, so that
    /// what is noted in between is not missed.
    pub fn new(
        find: impl Fn(&BTreeSet<SopInstanceUid>) -> Result<Whereabouts, Box<dyn Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Box::new(find))
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finder")
    }
}

/// What the bucket holds of the instances that were asked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Series and class; `None` where the object is no Part 10 file.
    pub(super) places: BTreeMap<SopInstanceUid, Vec<(SeriesInstanceUid, Option<SopClassUid>)>>,
    /// Whether what is not found is not there.
    pub(super) is_all: bool,
}

impl Shared {
    /// Asks the bucket for each of these instances.
    pub(super) fn find(
        &self,
        finder: &Finder,
        instances: &BTreeSet<SopInstanceUid>,
    ) -> Result<Found, PledgeError> {
        let known = (finder.0)(instances).map_err(PledgeError::Shared)?;
        let mut found = Found { is_all: known.is_all, ..Found::default() };
        let pairs = |(instance, series): (&SopInstanceUid, &BTreeSet<SeriesInstanceUid>)| {
            series.iter().map(|series| (series.clone(), instance.clone())).collect::<Vec<_>>()
        };
        let noted: Vec<_> = known.noted.iter().flat_map(pairs).collect();
        self.read_classes(&noted, &mut found).map_err(PledgeError::Spool)?;
        let mut left: BTreeSet<_> = instances.iter().filter(|uid| !found.places.contains_key(uid)).collect();
        for some in known.coming_in.chunks(16) {
            if left.is_empty() {
                break;
            }
            let listed = in_parallel(some, |series| self.uids(series)).map_err(PledgeError::Spool)?;
            let mut new = Vec::new();
            for (series, uids) in some.iter().zip(listed) {
                let asked = uids.into_iter().filter(|uid| left.contains(uid));
                new.extend(asked.map(|uid| (series.clone(), uid)));
            }
            self.read_classes(&new, &mut found).map_err(PledgeError::Spool)?;
            left.retain(|uid| !found.places.contains_key(uid));
        }
        Ok(found)
    }

    fn read_classes(
        &self,
        places: &[(SeriesInstanceUid, SopInstanceUid)],
        found: &mut Found,
    ) -> Result<(), SpoolError> {
        let read = in_parallel(places, |(series, instance)| {
            let begun = self.objects.get_first(&name_of(series, instance), FILE_META);
            let begun = begun.map_err(SpoolError::Object)?;
            Ok(begun.map(|bytes| part10::split(&bytes).ok().map(|file| file.sop_class_uid)))
        })?;
        for ((series, instance), class) in places.iter().zip(read) {
            if let Some(class) = class {
                found.places.entry(instance.clone()).or_default().push((series.clone(), class));
            }
        }
        Ok(())
    }
}
