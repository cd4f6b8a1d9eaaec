//! Which instance lies in which series, in little memory: a hash and a number for each.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// The instances that are on disk. Years of them: no UID of an instance is kept, only half of its SHA-256, which nobody
/// finds a second UID for.
#[derive(Debug, Default)]
pub(super) struct Known {
    series_of: HashMap<[u8; 16], u32>,
    series: Vec<SeriesInstanceUid>,
    numbers: BTreeMap<SeriesInstanceUid, u32>,
}

impl Known {
    /// Notes an instance; one that is noted stays where it was.
    ///
    /// # Panics
    /// Beyond 2^32 series, which no disk holds.
    pub(super) fn insert(&mut self, instance: &SopInstanceUid, series: &SeriesInstanceUid) {
        let number = match self.numbers.get(series) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.series.len()).expect("fewer than 2^32 folders fit on a disk");
                self.series.push(series.clone());
                self.numbers.insert(series.clone(), number);
                number
            }
        };
        self.series_of.entry(mark(instance)).or_insert(number);
    }

    /// The series of an instance that is on disk.
    pub(super) fn series_of(&self, instance: &SopInstanceUid) -> Option<&SeriesInstanceUid> {
        let number = self.series_of.get(&mark(instance))?;
        self.series.get(usize::try_from(*number).ok()?)
    }
}

fn mark(instance: &SopInstanceUid) -> [u8; 16] {
    let hash = Sha256::digest(instance.as_str());
    let mut mark = [0; 16];
    mark.copy_from_slice(&hash[..16]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_found_in_the_series_where_it_was_first() {
        let (one, other) =
            (SeriesInstanceUid::parse("1.7").unwrap(), SeriesInstanceUid::parse("1.8").unwrap());
        let uid = |n: u32| SopInstanceUid::parse(&format!("1.2.{n}")).unwrap();
        let mut known = Known::default();
        (0..100).for_each(|n| known.insert(&uid(n), if n < 60 { &one } else { &other }));
        known.insert(&uid(3), &other);
        assert_eq!((known.series_of(&uid(3)), known.series_of(&uid(60))), (Some(&one), Some(&other)));
        assert_eq!(known.series_of(&uid(100)), None);
    }
}
