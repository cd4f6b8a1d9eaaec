//! When a series is complete. The time is an argument.
//!
//! Nothing new for a quiet time, counted over all associations. Longer where something is known to be missing: its
//! positions leave a gap, or it has fewer instances than it says. At once where it has as many as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::selection::Choice;
use crate::pipeline::ingest::StoredInstance;
use crate::vocabulary::dicom::{AeTitle, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid};

/// A version of a series that is to be contoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteSeries {
    /// Which.
    pub series_instance_uid: SeriesInstanceUid,
    /// 1 the first time, one more each time that instances came late.
    pub version: u32,
    /// All its instances, in order of SOP Instance UID.
    pub instances: Vec<StoredInstance>,
    /// What is to be done with it.
    pub choice: Choice,
}

/// SHA-256 over the SOP Instance UIDs in their order, in hexadecimal: which instances a version holds.
#[must_use]
pub fn fingerprint_of<'a>(uids: impl IntoIterator<Item = &'a SopInstanceUid>) -> String {
    let mut hash = Sha256::new();
    for uid in uids {
        hash.update(uid.as_str());
        hash.update(b"\n");
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long a series is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Nothing new for this long: complete.
    pub quiet: Duration,
    /// The same where something is known to be missing; not less than `quiet`.
    pub incomplete: Duration,
    /// For the archive of its sender to say how many instances it has.
    pub answer: Duration,
}

/// What the archive of a sender is asked: how many instances a series has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sent it.
    pub calling_ae_title: AeTitle,
    /// Its study.
    pub study_instance_uid: StudyInstanceUid,
    /// Which series.
    pub series_instance_uid: SeriesInstanceUid,
}

/// A series that came to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// Which.
    pub series_instance_uid: SeriesInstanceUid,
    /// All its instances, in order of SOP Instance UID.
    pub instances: Vec<StoredInstance>,
    /// Why it counts as complete, in words.
    pub why: String,
}

/// The series that are coming in.
#[derive(Debug)]
pub struct Gathering {
    patience: Patience,
    /// Senders whose archive can be asked.
    askable: BTreeSet<AeTitle>,
    growing: BTreeMap<SeriesInstanceUid, Growing>,
}

#[derive(Debug)]
struct Growing {
    instances: BTreeMap<SopInstanceUid, StoredInstance>,
    /// When it last grew.
    grew: Instant,
    /// How many instances its own instances say that it has.
    said: Option<u32>,
    /// How many instances the archive of its sender has said that it has.
    told: Option<u32>,
    /// For how many instances its sender has asked for storage commitment.
    committed: Option<u32>,
    asked: Asked,
    /// What was seen when somebody looked, until it changes.
    looked: Option<Wholeness>,
}

/// Whether the archive of the sender was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It cannot be, or need not be.
    Never,
    /// It is to be, when the series is quiet.
    NotYet,
    /// It was, then.
    Since(Instant),
}

impl Gathering {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, askable: BTreeSet::new(), growing: BTreeMap::new() }
    }

    /// Series of these senders are not complete by quiet time alone: their archives are asked first.
    #[must_use]
    pub fn asking(self, senders: impl IntoIterator<Item = AeTitle>) -> Self {
        Self { askable: senders.into_iter().collect(), ..self }
    }

    /// From now on series are waited for like this, and these senders are asked about.
    pub fn follow(&mut self, patience: Patience, senders: impl IntoIterator<Item = AeTitle>) {
        self.patience = patience;
        self.askable = senders.into_iter().collect();
    }

    /// Whether instances of a series are coming in.
    #[must_use]
    pub fn is_growing(&self, series: &SeriesInstanceUid) -> bool {
        self.growing.contains_key(series)
    }

    /// Takes instances. Those that are here already change nothing.
    pub fn receive(&mut self, instances: impl IntoIterator<Item = StoredInstance>, now: Instant) {
        for instance in instances {
            let is_askable =
                instance.clue.calling_ae_title.as_ref().is_some_and(|t| self.askable.contains(t));
            let asked = if is_askable { Asked::NotYet } else { Asked::Never };
            let fresh = || Growing::new(now, asked);
            let growing = self.growing.entry(instance.series_instance_uid.clone()).or_insert_with(fresh);
            growing.said = growing.said.max(instance.clue.n_related);
            if growing.instances.insert(instance.sop_instance_uid.clone(), instance).is_none() {
                growing.grew = now;
                growing.looked = None;
            }
        }
    }

    /// Lets go of a series; somebody else waits for it.
    pub fn forget(&mut self, series: &SeriesInstanceUid) {
        self.growing.remove(series);
    }

    /// What is to be asked now, if something is. The answer goes to [`Gathering::answer`].
    pub fn take_question(&mut self, now: Instant) -> Option<Question> {
        for (uid, growing) in &mut self.growing {
            if growing.asked != Asked::NotYet || growing.grew + self.patience.quiet > now {
                continue;
            }
            let clues = || growing.instances.values().map(|instance| &instance.clue);
            let calling = clues().find_map(|clue| clue.calling_ae_title.clone());
            let study = clues().find_map(|clue| clue.study_instance_uid.clone());
            growing.asked = Asked::Never;
            if let (Some(calling_ae_title), Some(study_instance_uid)) = (calling, study) {
                growing.asked = Asked::Since(now);
                let series_instance_uid = uid.clone();
                return Some(Question { calling_ae_title, study_instance_uid, series_instance_uid });
            }
        }
        None
    }

    /// How many instances a series has, as the archive of its sender says; `None` where it does not.
    pub fn answer(&mut self, series: &SeriesInstanceUid, n_instances: Option<u32>) {
        if let Some(growing) = self.growing.get_mut(series) {
            growing.asked = Asked::Never;
            growing.told = n_instances.or(growing.told);
            growing.looked = None;
        }
    }

    /// A sender asked for the storage commitment of so many instances of a series, all of which are here: where that is all
    /// that is here, it says that the series is whole. It says nothing where more have come.
    pub fn committed(&mut self, series: &SeriesInstanceUid, n_instances: u32) {
        if let Some(growing) = self.growing.get_mut(series)
            && growing.n_instances() == n_instances
        {
            growing.committed = Some(n_instances);
            growing.looked = None;
        }
    }

    /// The series that was due first, if one is. It is not kept any more.
    pub fn take_complete(&mut self, now: Instant) -> Option<Gathered> {
        loop {
            let asked = self.growing.iter().filter(|(_, growing)| !growing.is_to_be_asked());
            let due = asked.map(|(uid, growing)| (growing.due(self.patience), uid));
            let (at, uid) = due.min()?;
            if at > now {
                return None;
            }
            let uid = uid.clone();
            let growing = self.growing.get_mut(&uid)?;
            let Some(wholeness) = &growing.looked else {
                growing.looked = Some(growing.wholeness());
                continue;
            };
            let why = wholeness.why(self.patience);
            let instances = self.growing.remove(&uid)?.instances.into_values().collect();
            return Some(Gathered { series_instance_uid: uid, instances, why });
        }
    }

    /// When to look again, if nothing more comes: no series is complete, or is to be asked about, before.
    #[must_use]
    pub fn next_complete(&self) -> Option<Instant> {
        self.growing.values().map(|growing| growing.due(self.patience)).min()
    }

    /// How many series are still growing.
    #[must_use]
    pub fn n_growing(&self) -> usize {
        self.growing.len()
    }
}

/// What is known about a series' being whole.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wholeness {
    /// As many instances as it has, and no gap.
    Whole(u32),
    /// Nobody says how many it has.
    Unknown,
    /// Something is missing, in words.
    Missing(String),
}

impl Wholeness {
    fn why(&self, patience: Patience) -> String {
        let waited_s = patience.incomplete.max(patience.quiet).as_secs_f64();
        match self {
            Self::Whole(n) => format!("all of its {n} instances are here"),
            Self::Unknown => format!("nothing new for {} s", patience.quiet.as_secs_f64()),
            Self::Missing(what) => format!("nothing new for {waited_s} s, though {what}"),
        }
    }
}

impl Growing {
    fn new(now: Instant, asked: Asked) -> Self {
        Self {
            instances: BTreeMap::new(),
            grew: now,
            said: None,
            told: None,
            committed: None,
            asked,
            looked: None,
        }
    }

    /// Not complete before, as far as was looked: to look is not worth the time at each instance that comes.
    fn due(&self, patience: Patience) -> Instant {
        let incomplete = self.grew + patience.incomplete.max(patience.quiet);
        let at_rest = match (&self.looked, self.expected()) {
            (Some(Wholeness::Whole(_)), _) => return self.grew,
            (Some(Wholeness::Missing(_)), _) => incomplete,
            (None, Some(expected)) if self.n_instances() >= expected => return self.grew,
            (None, Some(_)) => incomplete,
            (Some(Wholeness::Unknown) | None, _) => self.grew + patience.quiet,
        };
        match self.asked {
            Asked::Never => at_rest,
            Asked::NotYet => self.grew + patience.quiet,
            Asked::Since(then) => at_rest.max(then + patience.answer),
        }
    }

    fn is_to_be_asked(&self) -> bool {
        let may_be_whole = match &self.looked {
            Some(wholeness) => matches!(wholeness, Wholeness::Whole(_)),
            None => self.expected().is_some_and(|expected| self.n_instances() >= expected),
        };
        self.asked == Asked::NotYet && !may_be_whole
    }

    fn n_instances(&self) -> u32 {
        u32::try_from(self.instances.len()).unwrap_or(u32::MAX)
    }

    fn expected(&self) -> Option<u32> {
        self.told.or(self.said.max(self.committed))
    }

    fn wholeness(&self) -> Wholeness {
        let (n, expected) = (self.n_instances(), self.expected());
        if let Some(expected) = expected.filter(|expected| n < *expected) {
            return Wholeness::Missing(format!("{n} of {expected} instances are here"));
        }
        if let Some(gap) = self.gap() {
            return Wholeness::Missing(gap);
        }
        expected.map_or(Wholeness::Unknown, Wholeness::Whole)
    }

    /// A hole between the slices. Where an instance has no position of its own nobody can tell.
    fn gap(&self) -> Option<String> {
        let clues = self.instances.values().map(|instance| &instance.clue);
        let positions: Option<Vec<f64>> = clues.filter(|c| !c.is_localizer).map(|c| c.position_mm).collect();
        let mut positions = positions?;
        positions.sort_by(f64::total_cmp);
        let mut steps: Vec<f64> = positions.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // Slices in the same place, as of two reconstructions in one series, say nothing about gaps.
        steps.retain(|step| *step > SAME_PLACE_MM);
        let mut sorted = steps.clone();
        sorted.sort_by(f64::total_cmp);
        let usual_mm = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
        let widest_mm = *sorted.last()?;
        (steps.len() >= FEWEST_STEPS && widest_mm > GAP * usual_mm).then(|| {
            format!("slices {widest_mm:.2} mm apart leave a gap, the others lie {usual_mm:.2} mm apart")
        })
    }
}

/// Slices nearer than this lie in the same place.
const SAME_PLACE_MM: f64 = 0.01;

/// A step this many times the usual one is a gap: a missing slice makes it 2.
const GAP: f64 = 1.5;

/// Of fewer steps nobody can say which is the usual one.
const FEWEST_STEPS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ingest::Clue;
    use crate::vocabulary::dicom::SopClassUid;

    fn instance(series: &str, uid: &str) -> StoredInstance {
        StoredInstance {
            path: format!("/x/{uid}").into(),
            sop_class_uid: SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
            sop_instance_uid: SopInstanceUid::parse(uid).unwrap(),
            series_instance_uid: SeriesInstanceUid::parse(series).unwrap(),
            clue: Clue::default(),
        }
    }

    /// A slice at a height, with what it says about the number of its series.
    fn slice(n: usize, z_mm: f64, n_related: Option<u32>) -> StoredInstance {
        let clue = Clue { position_mm: Some(z_mm), n_related, ..Clue::default() };
        StoredInstance { clue, ..instance("1.7", &format!("1.1.{n}")) }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn gathering() -> Gathering {
        Gathering::new(Patience { quiet: seconds(10), incomplete: seconds(60), answer: seconds(20) })
    }

    #[test]
    fn quiet_time_runs_from_the_last_new_instance_of_each_series() {
        let start = Instant::now();
        let mut gathering = gathering();
        gathering.receive([instance("1.7", "1.1")], start);
        gathering.receive([instance("1.8", "1.3")], start + seconds(2));
        gathering.receive([instance("1.7", "1.2")], start + seconds(6));
        gathering.receive([instance("1.7", "1.2")], start + seconds(15));
        assert_eq!(gathering.take_complete(start + seconds(11)), None);
        assert_eq!(gathering.next_complete(), Some(start + seconds(12)));
        let first = gathering.take_complete(start + seconds(17)).unwrap();
        assert_eq!((first.series_instance_uid.as_str(), first.instances.len()), ("1.8", 1));
        let second = gathering.take_complete(start + seconds(17)).unwrap();
        assert_eq!((second.series_instance_uid.as_str(), second.instances.len()), ("1.7", 2));
        assert_eq!(second.why, "nothing new for 10 s");
        assert_eq!(gathering.take_complete(start + seconds(99)), None);
        assert_eq!(gathering.n_growing(), 0);
    }

    #[test]
    fn a_gap_between_the_slices_is_waited_for_and_goes_when_the_slice_comes() {
        let start = Instant::now();
        let mut gathering = gathering();
        let heights = [0.0, 2.5, 5.0, 10.0, 12.5];
        gathering.receive(heights.iter().enumerate().map(|(n, z)| slice(n, *z, None)), start);
        assert_eq!(gathering.take_complete(start + seconds(59)), None);
        assert_eq!(gathering.next_complete(), Some(start + seconds(60)));
        gathering.receive([slice(9, 7.5, None)], start + seconds(30));
        assert_eq!(gathering.take_complete(start + seconds(40)).unwrap().why, "nothing new for 10 s");
        gathering.receive(heights.iter().enumerate().map(|(n, z)| slice(n, *z, None)), start);
        let taken = gathering.take_complete(start + seconds(60)).unwrap();
        assert!(taken.why.contains("60 s, though slices 5.00 mm apart"), "{}", taken.why);
    }

    #[test]
    fn slices_in_the_same_place_one_without_a_position_and_three_slices_say_nothing_about_gaps() {
        let start = Instant::now();
        let mut scout = slice(9, -700.0, None);
        scout.clue.is_localizer = true;
        for series in [
            vec![slice(0, 0.0, None), slice(1, 2.0, None), slice(2, 4.0, None), slice(3, 6.0, None), scout],
            vec![
                slice(0, 0.0, None),
                slice(1, 0.0, None),
                slice(2, 2.0, None),
                slice(3, 4.0, None),
                slice(4, 6.0, None),
            ],
            vec![slice(0, 0.0, None), slice(1, 2.0, None), slice(2, 9.0, None)],
            vec![
                slice(0, 0.0, None),
                slice(1, 2.0, None),
                slice(2, 4.0, None),
                slice(3, 9.0, None),
                instance("1.7", "1.5"),
            ],
            vec![instance("1.7", "1.5")],
        ] {
            let mut gathering = gathering();
            gathering.receive(series.clone(), start);
            assert_eq!(gathering.next_complete(), Some(start + seconds(10)), "{series:?}");
        }
    }

    #[test]
    fn the_number_that_a_series_says_ends_the_wait_or_draws_it_out() {
        let start = Instant::now();
        let mut gathering = gathering();
        gathering.receive([slice(0, 0.0, Some(3)), slice(1, 2.0, Some(3))], start);
        assert_eq!(gathering.next_complete(), Some(start + seconds(60)));
        gathering.receive([slice(2, 4.0, Some(3))], start + seconds(1));
        let taken = gathering.take_complete(start + seconds(1)).unwrap();
        assert_eq!((taken.instances.len(), taken.why.as_str()), (3, "all of its 3 instances are here"));
        gathering.receive([slice(0, 0.0, Some(3)), slice(1, 2.0, Some(3))], start);
        gathering.answer(&SeriesInstanceUid::parse("1.7").unwrap(), Some(2));
        assert!(gathering.take_complete(start).is_some(), "the archive knows better than the instances");
    }

    #[test]
    fn a_sender_that_asks_for_the_commitment_of_all_that_is_here_has_sent_all() {
        let start = Instant::now();
        let uid = SeriesInstanceUid::parse("1.7").unwrap();
        let with = |n: usize, said: Option<u32>| {
            let mut gathering = gathering();
            gathering.receive((0..n).map(|k| slice(k, 2.0 * k as f64, said)), start);
            gathering
        };
        let mut whole = with(5, None);
        assert_eq!(whole.take_complete(start), None);
        whole.committed(&uid, 5);
        assert_eq!(whole.take_complete(start).unwrap().why, "all of its 5 instances are here");
        let mut part = with(6, None);
        part.committed(&uid, 5);
        assert_eq!(part.take_complete(start), None, "one more is here than was asked for");
        let mut more = with(5, Some(8));
        more.committed(&uid, 5);
        assert_eq!(more.next_complete(), Some(start + seconds(60)), "its instances say that it has more");
        let mut gap = with(5, None);
        gap.receive([slice(9, 40.0, None)], start);
        gap.committed(&uid, 6);
        assert_eq!(gap.take_complete(start), None, "a gap is waited for all the same");
        gathering().committed(&uid, 5);
    }

    #[test]
    fn the_archive_of_a_sender_is_asked_when_the_series_is_quiet_and_what_it_says_counts() {
        let start = Instant::now();
        let uid = SeriesInstanceUid::parse("1.7").unwrap();
        let from = |title: &str, n: usize| {
            let mut slice = slice(n, 2.0 * n as f64, None);
            slice.clue.calling_ae_title = Some(title.parse().unwrap());
            slice.clue.study_instance_uid = Some(StudyInstanceUid::parse("1.5").unwrap());
            slice
        };
        let asking = || gathering().asking(["CT1".parse().unwrap()]);
        let mut told = asking();
        told.receive([from("CT1", 0), from("CT1", 1)], start);
        assert_eq!(told.take_question(start + seconds(9)), None);
        assert_eq!(told.take_complete(start + seconds(10)), None, "it is asked first");
        assert_eq!(told.next_complete(), Some(start + seconds(10)));
        let question = told.take_question(start + seconds(10)).unwrap();
        assert_eq!((&question.series_instance_uid, question.calling_ae_title.as_str()), (&uid, "CT1"));
        assert_eq!(told.take_question(start + seconds(11)), None, "once");
        assert_eq!(told.take_complete(start + seconds(29)), None);
        told.answer(&uid, Some(3));
        assert_eq!(told.take_complete(start + seconds(59)), None, "one is missing");
        told.receive([from("CT1", 2)], start + seconds(59));
        assert_eq!(told.take_complete(start + seconds(59)).unwrap().why, "all of its 3 instances are here");
        for answer in [Some(None), None] {
            let mut silent = asking();
            silent.receive([from("CT1", 0)], start);
            silent.take_question(start + seconds(10)).unwrap();
            if let Some(nothing) = answer {
                silent.answer(&uid, nothing);
                assert!(silent.take_complete(start + seconds(11)).is_some(), "it does not know");
            } else {
                assert!(silent.take_complete(start + seconds(30)).is_some(), "it does not answer");
            }
        }
        let mut other = asking();
        other.receive([from("CT2", 0)], start);
        assert!(
            other.take_question(start + seconds(10)).is_none()
                && other.take_complete(start + seconds(10)).is_some()
        );
    }

    #[test]
    fn the_fingerprint_is_of_the_instances() {
        let uid = |text: &str| SopInstanceUid::parse(text).unwrap();
        let (one, two) = ([uid("1.1")], [uid("1.1"), uid("1.2")]);
        assert_ne!(fingerprint_of(&one), fingerprint_of(&two));
        assert_eq!(fingerprint_of(&one).len(), 64);
    }
}
