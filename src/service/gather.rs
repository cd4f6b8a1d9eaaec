//! From instances to versions: what arrived is gathered, and what is complete gets its job in the store.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{Notify, mpsc, watch};

use super::reload::Live;
use super::store::{NewVersion, Store, StoreError, now_ms};
use super::{patience, scu_timeouts};
use crate::pipeline::delivery::count_instances;
use crate::pipeline::ingest::{OnDisk, SeriesHint, Spool, StoredInstance};
use crate::pipeline::series::{Choice, Gathered, Gathering, Question, Subject, fingerprint_of};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::instance::InstanceError;
use crate::vocabulary::dicom::{AeTitle, SeriesInstanceUid};

/// SOP classes that become a series to contour: CT Image, Enhanced CT, Legacy Converted Enhanced CT.
const CT_CLASSES: [&str; 3] =
    ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];

/// How soon a database that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What gathers.
pub(super) struct Gatherer {
    pub(super) store: Arc<Store>,
    pub(super) spool: Arc<Spool>,
    /// Folder of finished structure sets.
    pub(super) results: PathBuf,
    /// Ours, to ask with.
    pub(super) ae_title: AeTitle,
    /// Told when a job is there.
    pub(super) wake: Arc<Notify>,
    /// What is in force: how long series are waited for, whose archives are asked, and the rules.
    pub(super) live: watch::Receiver<Arc<Live>>,
}

/// Questions that may be on their way at a time; more wait.
const QUESTIONS: usize = 16;

impl Gatherer {
    /// What is on disk, compared with the store: series whose instances are those of their last version are done with,
    /// or have a job; all others run through their quiet time again. Only those are opened.
    pub(super) async fn replay(&self, stored: Vec<OnDisk>) -> Result<Gathering, StoreError> {
        let known = self.store.known().await?;
        let mut gathering = Gathering::new(patience(&self.live.borrow().settings));
        self.follow(&mut gathering);
        for OnDisk { series_instance_uid: uid, sop_instance_uids } in stored {
            let is_known = |fingerprint: &str| {
                known.get(uid.as_str()).is_some_and(|known| known.fingerprint == fingerprint)
            };
            if is_known(&fingerprint_of(&sop_instance_uids)) {
                continue;
            }
            // Not all of a series need be CT.
            let Some(instances) = self.on_disk(&uid).await.filter(|instances| !instances.is_empty()) else {
                continue;
            };
            if !is_known(&fingerprint_of(instances.iter().map(|i| &i.sop_instance_uid))) {
                gathering.receive(instances, Instant::now());
                self.store.receiving(&uid, "", now_ms()).await?;
            }
        }
        Ok(gathering)
    }

    /// Gathers until nothing can arrive any more.
    pub(super) async fn run(
        self,
        mut gathering: Gathering,
        mut arrived: mpsc::Receiver<StoredInstance>,
        mut hinted: mpsc::Receiver<SeriesHint>,
    ) {
        let mut unwritten = VecDeque::new();
        let (answers, mut answered) = mpsc::channel(QUESTIONS);
        let mut live = self.live.clone();
        loop {
            while let Ok(place) = answers.clone().try_reserve_owned() {
                let Some(question) = gathering.take_question(Instant::now()) else { break };
                self.question(question, place);
            }
            while let Some(gathered) = gathering.take_complete(Instant::now()) {
                let choice = self.choose(&gathered).await;
                unwritten.push_back((gathered, choice));
            }
            while let Some((gathered, choice)) = unwritten.pop_front() {
                if let Err(error) = self.write(&gathered, &choice).await {
                    tracing::error!(
                        error = with_causes(&error),
                        "a complete series cannot be noted yet; tried on"
                    );
                    unwritten.push_front((gathered, choice));
                    break;
                }
            }
            let now = Instant::now();
            let idle = now + Duration::from_secs(3_600);
            let retry = if unwritten.is_empty() { idle } else { now + TRY_AGAIN };
            // With all questions on their way something may be overdue; then look again in a moment.
            let soon = now + Duration::from_millis(20);
            let wake = gathering.next_complete().unwrap_or(idle).min(retry).max(soon);
            tokio::select! {
                instance = arrived.recv() => match instance {
                    Some(instance) => self.receive(&mut gathering, instance).await,
                    None => return,
                },
                Ok(()) = live.changed() => self.follow(&mut gathering),
                Some(hint) = hinted.recv() => {
                    // The instances came before it, by another way.
                    for _ in 0..arrived.len() {
                        let Ok(instance) = arrived.try_recv() else { break };
                        self.receive(&mut gathering, instance).await;
                    }
                    if self.live.borrow().settings.commitment.completes_series {
                        gathering.committed(&hint.series_instance_uid, hint.n_instances);
                    }
                }
                Some((series, n_instances)) = answered.recv() => gathering.answer(&series, n_instances),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn follow(&self, gathering: &mut Gathering) {
        let settings = &self.live.borrow().settings;
        gathering.follow(patience(settings), settings.series.ask.iter().map(|ask| ask.ae_title.clone()));
    }

    /// Asks in the background; what goes wrong is no answer.
    fn question(&self, question: Question, place: OwnedPermit<(SeriesInstanceUid, Option<u32>)>) {
        let live = Arc::clone(&self.live.borrow());
        let ask = live.settings.series.ask.iter().find(|ask| ask.ae_title == question.calling_ae_title);
        let peer = ask.map(|ask| ask.peer.clone());
        let (ours, timeouts) = (self.ae_title.clone(), scu_timeouts(&live.settings));
        tokio::spawn(async move {
            let Question { study_instance_uid: study, series_instance_uid: series, .. } = question;
            let mut n_instances = None;
            if let Some(peer) = peer {
                match count_instances(&peer, &ours, (&study, &series), timeouts).await {
                    Ok(n) => {
                        tracing::info!(%series, %peer, n_instances = n, "the archive was asked");
                        n_instances = n;
                    }
                    Err(error) => {
                        tracing::warn!(%series, error = with_causes(&error), "the archive does not say how many instances");
                    }
                }
            }
            place.send((series, n_instances));
        });
    }

    /// The first instance of a series that comes to rest brings along those that came earlier.
    async fn receive(&self, gathering: &mut Gathering, instance: StoredInstance) {
        if !is_ct(&instance) {
            return;
        }
        let series = instance.series_instance_uid.clone();
        if !gathering.is_growing(&series) {
            let calling = instance.clue.calling_ae_title.as_ref().map_or("", |title| title.as_str());
            // Only for people to see: a database that is away must not hold up the associations.
            let noted =
                tokio::time::timeout(TRY_AGAIN, self.store.receiving(&series, calling, now_ms())).await;
            if !matches!(noted, Ok(Ok(()))) {
                tracing::warn!(%series, "the beginning of a series could not be noted");
            }
            let earlier = self.on_disk(&series).await.unwrap_or_default();
            gathering.receive(earlier.into_iter().filter(is_ct), Instant::now());
        }
        gathering.receive([instance], Instant::now());
    }

    async fn on_disk(&self, series: &SeriesInstanceUid) -> Option<Vec<StoredInstance>> {
        let (spool, uid) = (Arc::clone(&self.spool), series.clone());
        match tokio::task::spawn_blocking(move || spool.series(&uid)).await {
            Ok(Ok(instances)) => Some(instances.into_iter().filter(is_ct).collect()),
            Ok(Err(error)) => {
                tracing::error!(%series, error = with_causes(&error), "earlier instances cannot be read");
                None
            }
            Err(panic) => {
                tracing::error!(%series, %panic, "earlier instances cannot be read; please report this");
                None
            }
        }
    }

    /// What the rules say; a series that they cannot read is contoured, so that its fault is found there and told.
    async fn choose(&self, gathered: &Gathered) -> Choice {
        let Some(rules) = self.live.borrow().rules.clone() else { return Choice::default() };
        let calling = gathered.instances.iter().find_map(|i| i.clue.calling_ae_title.clone());
        let paths: Vec<PathBuf> = gathered.instances.iter().map(|i| i.path.clone()).collect();
        let asked = tokio::task::spawn_blocking(move || {
            let subject = Subject::of_series(&paths, calling.as_ref().map(|title| title.as_str()))?;
            Ok::<_, InstanceError>(subject.map(|subject| rules.explain(&subject).choice))
        });
        let series = &gathered.series_instance_uid;
        match asked.await {
            Ok(Ok(choice)) => choice.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%series, error = with_causes(&error), "the rules cannot look at this series");
                Choice::default()
            }
            Err(panic) => {
                tracing::error!(%series, %panic, "the rules failed at this series; please report this");
                Choice::default()
            }
        }
    }

    async fn write(&self, gathered: &Gathered, choice: &Choice) -> Result<(), StoreError> {
        let series = &gathered.series_instance_uid;
        let fingerprint = fingerprint_of(gathered.instances.iter().map(|i| &i.sop_instance_uid));
        let new = NewVersion {
            series,
            instances: &gathered.instances,
            fingerprint: &fingerprint,
            choice,
            why: &gathered.why,
            at_least: self.number_on_disk(series, &fingerprint),
            not_before_ms: now_ms(),
        };
        let version = self.store.complete(&new, now_ms()).await?;
        let n_instances = gathered.instances.len();
        let (rule, is_passed_over) = (choice.rule.as_deref(), choice.passed_over.is_some());
        tracing::info!(%series, version, n_instances, why = gathered.why, rule, is_passed_over, "series complete");
        self.wake.notify_one();
        Ok(())
    }

    /// The number that a version has by the results on disk, where the store does not know it: that of its own result,
    /// else one more than the last. 1 without results.
    fn number_on_disk(&self, series: &SeriesInstanceUid, fingerprint: &str) -> u32 {
        let results = numbered_results(&self.results.join(series.as_str()));
        let own = results.iter().filter(|(_, mark)| fingerprint.starts_with(mark)).map(|(n, _)| *n).max();
        own.unwrap_or_else(|| results.iter().map(|(n, _)| *n).max().map_or(1, |last| last.saturating_add(1)))
    }
}

/// `vN-MARK.dcm` in a folder.
fn numbered_results(folder: &Path) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (number, mark) = name.strip_prefix('v')?.strip_suffix(".dcm")?.split_once('-')?;
            (mark.len() == 16).then_some((number.parse().ok()?, mark.to_owned()))
        })
        .collect()
}

fn is_ct(instance: &StoredInstance) -> bool {
    CT_CLASSES.contains(&instance.sop_class_uid.as_str())
}
