//! From instances to versions: what arrived is gathered, and what is complete gets its job in the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{Notify, mpsc, watch};

use super::cluster::{Arrival, TICK, Trouble};
use super::reload::Live;
use super::store::{NewVersion, Store, StoreError, millis, now_ms};
use super::{Member, patience, scu_timeouts};
use crate::pipeline::delivery::count_instances;
use crate::pipeline::ingest::{OnDisk, SeriesHint, Spool, SpoolError, StoredInstance};
use crate::pipeline::objects::Objects;
use crate::pipeline::series::{Choice, Gathered, Gathering, Question, Subject, fingerprint_of};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::{AeTitle, SeriesInstanceUid, SopInstanceUid};

/// SOP classes that become a series to contour: CT Image, Enhanced CT, Legacy Converted Enhanced CT.
const CT_CLASSES: [&str; 3] =
    ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];

/// How soon a database that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What gathers.
pub(super) struct Gatherer {
    pub(super) store: Arc<Store>,
    pub(super) spool: Arc<Spool>,
    /// Finished structure sets.
    pub(super) results: Objects,
    /// Folder for instances that are fetched for the rules.
    pub(super) working: PathBuf,
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
        let mut instances = gathered.instances.clone();
        let series = &gathered.series_instance_uid;
        let (spool, uid, working) = (Arc::clone(&self.spool), series.clone(), self.working.clone());
        let asked = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&working)?;
            let fetched = tempfile::tempdir_in(&working)?;
            if spool.is_shared() {
                instances = spool.instances(&uid, &first_middle_last(&instances), fetched.path())?;
            }
            let paths: Vec<PathBuf> = instances.into_iter().map(|instance| instance.path).collect();
            let subject = Subject::of_series(&paths, calling.as_ref().map(|title| title.as_str()))?;
            Ok::<_, Box<dyn Error + Send + Sync>>(subject.map(|subject| rules.explain(&subject).choice))
        });
        match asked.await {
            Ok(Ok(choice)) => choice.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%series, error = with_causes(&*error), "the rules cannot look at this series");
                Choice::default()
            }
            Err(panic) => {
                tracing::error!(%series, %panic, "the rules failed at this series; please report this");
                Choice::default()
            }
        }
    }

    async fn write(&self, gathered: &Gathered, choice: &Choice) -> Result<(), StoreError> {
        let fingerprint = fingerprint_of(gathered.instances.iter().map(|i| &i.sop_instance_uid));
        let number = self.number_by_results(&gathered.series_instance_uid, &fingerprint).await;
        let new = new_version(gathered, choice, &fingerprint, number);
        let version = self.store.complete(&new, now_ms()).await?;
        self.completed(gathered, choice, version);
        Ok(())
    }

    fn completed(&self, gathered: &Gathered, choice: &Choice, version: u32) {
        let (series, n_instances) = (&gathered.series_instance_uid, gathered.instances.len());
        let (rule, is_passed_over) = (choice.rule.as_deref(), choice.passed_over.is_some());
        tracing::info!(%series, version, n_instances, why = gathered.why, rule, is_passed_over, "series complete");
        self.wake.notify_one();
    }

    /// The number that a version has by the results that are kept, where the store does not know it: that of its own
    /// result, else one more than the last. 1 without results.
    async fn number_by_results(&self, series: &SeriesInstanceUid, fingerprint: &str) -> u32 {
        let (results, folder) = (self.results.clone(), series.to_string());
        let listed = tokio::task::spawn_blocking(move || results.list(&folder)).await;
        let listed = listed.ok().and_then(Result::ok).unwrap_or_default();
        let results: Vec<_> = listed.objects.iter().filter_map(|name| numbered_result(name)).collect();
        let own = results.iter().filter(|(_, mark)| fingerprint.starts_with(mark)).map(|(n, _)| *n).max();
        own.unwrap_or_else(|| results.iter().map(|(n, _)| *n).max().map_or(1, |last| last.saturating_add(1)))
    }
}

/// A series that this node waits for, among several nodes.
#[derive(Debug)]
struct Watched {
    /// Numbers of the arrivals that were looked at.
    seen: BTreeSet<i64>,
    /// Since when nothing is known of its instances.
    since: Instant,
}

/// Gathering where several nodes receive: what arrives is read in the database, and the bucket says what is there.
impl Gatherer {
    /// Gathers the series that nobody else waits for until `stop` turns true.
    pub(super) async fn run_among(self, member: Member, mut stop: watch::Receiver<bool>) {
        let mut gathering = Gathering::new(patience(&self.live.borrow().settings));
        self.follow(&mut gathering);
        let mut live = self.live.clone();
        let mut watched = BTreeMap::new();
        let (answers, mut answered) = mpsc::channel(QUESTIONS);
        let mut trouble = Trouble::default();
        while !*stop.borrow() {
            let looked = self.look(&member, &mut gathering, &mut watched).await;
            trouble.tell(looked, "series that are coming in cannot be looked at; tried on");
            while let Ok(place) = answers.clone().try_reserve_owned() {
                let Some(question) = gathering.take_question(Instant::now()) else { break };
                self.question(question, place);
            }
            tokio::select! {
                Some((series, n_instances)) = answered.recv() => gathering.answer(&series, n_instances),
                Ok(()) = live.changed() => self.follow(&mut gathering),
                () = tokio::time::sleep(TICK) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    async fn look(
        &self,
        member: &Member,
        gathering: &mut Gathering,
        watched: &mut BTreeMap<SeriesInstanceUid, Watched>,
    ) -> Result<(), String> {
        let Member { node, lease } = member;
        let failed = |error: StoreError| with_causes(&error);
        let until_ms = now_ms().saturating_add(millis(*lease));
        let ours = self.store.gather(node, until_ms, now_ms()).await.map_err(failed)?;
        watched.retain(|series, _| {
            let is_ours = ours.contains_key(series);
            if !is_ours {
                gathering.forget(series);
            }
            is_ours
        });
        if ours.is_empty() {
            return Ok(());
        }
        let ids = self.store.arrival_ids(node).await.map_err(failed)?;
        let is_new = |series: &SeriesInstanceUid, id: &i64| {
            watched.get(series).is_none_or(|watched| !watched.seen.contains(id))
        };
        let new: Vec<i64> = ids
            .iter()
            .flat_map(|(series, ids)| ids.iter().filter(|id| is_new(series, id)))
            .copied()
            .collect();
        for series in ours.keys() {
            let fresh = || Watched { seen: BTreeSet::new(), since: Instant::now() };
            watched.entry(series.clone()).or_insert_with(fresh);
        }
        for arrivals in self.store.arrivals(&new).await.map_err(failed)? {
            let series = &arrivals.series;
            if let Some(watched) = watched.get_mut(series) {
                watched.seen.insert(arrivals.id);
                let noted: Vec<Arrival> = serde_json::from_str(&arrivals.instances).unwrap_or_default();
                let noted = noted.into_iter().filter_map(|arrival| arrival.stored(series));
                gathering.receive(noted.filter(is_ct), Instant::now());
            }
        }
        if self.live.borrow().settings.commitment.completes_series {
            for (series, committed) in &ours {
                committed.iter().for_each(|n_instances| gathering.committed(series, *n_instances));
            }
        }
        // Of a node that died nobody has told what it has received.
        let quiet = patience(&self.live.borrow().settings).quiet;
        for (series, watched) in watched.iter_mut() {
            if !gathering.is_growing(series) && watched.since.elapsed() > quiet {
                watched.since = Instant::now();
                let found = self.missing(series, &BTreeSet::new()).await?;
                gathering.receive(found, Instant::now());
            }
        }
        while let Some(gathered) = gathering.take_complete(Instant::now()) {
            let series = gathered.series_instance_uid.clone();
            let known = gathered.instances.iter().map(|i| i.sop_instance_uid.clone()).collect();
            let missing = self.missing(&series, &known).await;
            let written = match &missing {
                Ok(missing) if missing.is_empty() => {
                    self.write_among(node, &gathered, watched.get(&series)).await
                }
                _ => Ok(false),
            };
            if written == Ok(true) {
                watched.remove(&series);
                continue;
            }
            // What nobody noted, what came meanwhile, or a bucket or database that is away: it is waited for again.
            gathering.receive(gathered.instances, Instant::now());
            gathering.receive(missing?, Instant::now());
            written?;
        }
        Ok(())
    }

    /// Instances in the bucket besides those that are known, read.
    async fn missing(
        &self,
        series: &SeriesInstanceUid,
        known: &BTreeSet<SopInstanceUid>,
    ) -> Result<Vec<StoredInstance>, String> {
        let (spool, uid, known) = (Arc::clone(&self.spool), series.clone(), known.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut uids = spool.shared_uids(&uid)?;
            uids.retain(|uid| !known.contains(uid));
            let instances = spool.shared_instances(&uid, &uids)?;
            Ok::<_, SpoolError>(instances.into_iter().filter(is_ct).collect())
        });
        match read.await {
            Ok(read) => read.map_err(|error| with_causes(&error)),
            Err(panic) => Err(format!("instances cannot be read; please report this: {panic}")),
        }
    }

    /// `false`: it is not ours to complete any more, or something has just arrived.
    async fn write_among(
        &self,
        node: &str,
        gathered: &Gathered,
        watched: Option<&Watched>,
    ) -> Result<bool, String> {
        let Some(watched) = watched else { return Ok(false) };
        let choice = self.choose(gathered).await;
        let fingerprint = fingerprint_of(gathered.instances.iter().map(|i| &i.sop_instance_uid));
        let number = self.number_by_results(&gathered.series_instance_uid, &fingerprint).await;
        let new = new_version(gathered, &choice, &fingerprint, number);
        let completed = self.store.complete_gathered(&new, (node, &watched.seen), now_ms()).await;
        match completed {
            Ok(Some(version)) => self.completed(gathered, &choice, version),
            Ok(None) => return Ok(false),
            Err(error) => return Err(with_causes(&error)),
        }
        Ok(true)
    }
}

fn new_version<'a>(
    gathered: &'a Gathered,
    choice: &'a Choice,
    fingerprint: &'a str,
    number: u32,
) -> NewVersion<'a> {
    NewVersion {
        series: &gathered.series_instance_uid,
        instances: &gathered.instances,
        fingerprint,
        choice,
        why: &gathered.why,
        at_least: number,
        not_before_ms: now_ms(),
    }
}

/// Those that the rules look at, in an order in which they find them again.
fn first_middle_last(instances: &[StoredInstance]) -> Vec<SopInstanceUid> {
    let places = BTreeSet::from([0, instances.len() / 2, instances.len().saturating_sub(1)]);
    places.iter().filter_map(|place| instances.get(*place)).map(|i| i.sop_instance_uid.clone()).collect()
}

/// `vN-MARK.dcm`
fn numbered_result(name: &str) -> Option<(u32, String)> {
    let (number, mark) = name.strip_prefix('v')?.strip_suffix(".dcm")?.split_once('-')?;
    (mark.len() == 16).then_some((number.parse().ok()?, mark.to_owned()))
}

pub(super) fn is_ct(instance: &StoredInstance) -> bool {
    CT_CLASSES.contains(&instance.sop_class_uid.as_str())
}
