//! One node among several: its signs of life, what it tells the others of what arrives, and what it takes over from those
//! that died.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::gather::is_ct;
use super::queue::Queue;
use super::store::{FILE_NAME, Place, Store, StoreError, millis, now_ms};
use super::{Member, ServiceError, audit};
use crate::pipeline::ingest::{Announced, Announcer, Clue, Spool, SpoolError, SpoolLimits, StoredInstance};
use crate::pipeline::objects::{ObjectError, Objects};
use crate::pipeline::series::fingerprint_of;
use crate::settings::service::{ServiceSettings, seconds};
use crate::settings::store::StoreSettings;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::{SeriesInstanceUid, SopClassUid, SopInstanceUid};

/// Between two notes of what arrived, and between two looks at what others noted.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Quiet times in a cluster are not shorter: notes of arrivals take a tick to be written and one to be seen.
pub(super) const SHORTEST_QUIET: Duration = Duration::from_secs(2);

/// An association waits so long for the database when a series is announced.
const ANNOUNCING: Duration = Duration::from_secs(10);

/// An announcement is withdrawn when nothing has arrived for this long.
const IDLE: Duration = Duration::from_secs(10);

/// How often the bucket is asked whether it is there.
const LOOK: Duration = Duration::from_secs(5);

/// An arrival as it is noted for whoever gathers the series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrival {
    class: String,
    instance: String,
    calling: Option<String>,
    study: Option<String>,
    position_mm: Option<f64>,
    n_related: Option<u32>,
    is_localizer: bool,
}

impl Arrival {
    fn of(stored: &StoredInstance) -> Self {
        let clue = &stored.clue;
        Self {
            class: stored.sop_class_uid.to_string(),
            instance: stored.sop_instance_uid.to_string(),
            calling: clue.calling_ae_title.as_ref().map(ToString::to_string),
            study: clue.study_instance_uid.as_ref().map(ToString::to_string),
            position_mm: clue.position_mm,
            n_related: clue.n_related,
            is_localizer: clue.is_localizer,
        }
    }

    /// `None` where a text is no identifier, as only a hand in the database makes it.
    pub(super) fn stored(self, series: &SeriesInstanceUid) -> Option<StoredInstance> {
        Some(StoredInstance {
            path: format!("instances/{series}/{}.dcm", self.instance).into(),
            sop_class_uid: SopClassUid::parse(&self.class).ok()?,
            sop_instance_uid: SopInstanceUid::parse(&self.instance).ok()?,
            series_instance_uid: series.clone(),
            clue: Clue {
                calling_ae_title: self.calling.and_then(|title| title.parse().ok()),
                study_instance_uid: self.study.and_then(|uid| uid.parse().ok()),
                position_mm: self.position_mm,
                n_related: self.n_related,
                is_localizer: self.is_localizer,
            },
        })
    }
}

/// What this node has acknowledged and the others have not been told yet.
#[derive(Debug)]
pub(super) struct Ledger {
    store: Arc<Store>,
    member: Member,
    runtime: Handle,
    books: Mutex<Books>,
    /// Whoever notes: what is noted leaves the books by its count, so one at a time.
    noting: tokio::sync::Mutex<()>,
    marks: AtomicI64,
    /// How far the database's clock is from ours, ms.
    skew_ms: AtomicI64,
}

#[derive(Debug, Default)]
struct Books {
    announced: BTreeMap<SeriesInstanceUid, Entry>,
    /// The others take us for alive at least until then.
    alive_until: Option<Instant>,
    is_closed: bool,
}

#[derive(Debug)]
struct Entry {
    mark: i64,
    /// Whether the others still know of it.
    is_valid: bool,
    unnoted: Vec<Arrival>,
    last: Instant,
}

impl Ledger {
    pub(super) fn new(store: Arc<Store>, member: Member, runtime: Handle) -> Self {
        let (marks, skew_ms) = (AtomicI64::new(0), AtomicI64::new(0));
        Self { store, member, runtime, books: Mutex::default(), noting: Default::default(), marks, skew_ms }
    }

    /// Notes an instance before its sender is told; the first of a series is announced in the database first. Blocks.
    pub(super) fn take(&self, stored: &StoredInstance) -> Result<Announced, String> {
        if !is_ct(stored) {
            return self.place(stored);
        }
        if self.hold(stored, None)? {
            return Ok(Announced::Before);
        }
        let mark = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        let calling = stored.clue.calling_ae_title.as_ref().map_or("", |title| title.as_str());
        let announced = self.runtime.block_on(timeout(ANNOUNCING, async {
            if !self.is_alive() {
                self.pulse().await?;
            }
            let of = (self.member.node.as_str(), mark);
            self.store.announce(&stored.series_instance_uid, calling, of, now_ms()).await
        }));
        match announced {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err("what was kept of it is being removed".to_owned()),
            Ok(Err(error)) => return Err(with_causes(&error)),
            Err(_elapsed) => return Err("the database does not answer".to_owned()),
        }
        if self.hold(stored, Some(mark))? {
            return Ok(Announced::Now);
        }
        Err("the others take this node for dead; send it again".to_owned())
    }

    /// Notes where an instance lies that nobody gathers; one that is gathered is noted with its series.
    fn place(&self, stored: &StoredInstance) -> Result<Announced, String> {
        let instance = [stored.sop_instance_uid.clone()];
        let placing = self.store.place(&stored.series_instance_uid, &instance);
        match self.runtime.block_on(async { timeout(ANNOUNCING, placing).await }) {
            Ok(Ok(())) => Ok(Announced::Before),
            Ok(Err(error)) => Err(with_causes(&error)),
            Err(_elapsed) => Err("the database does not answer".to_owned()),
        }
    }

    /// Keeps an instance to be noted, if its series is announced and we are alive; `false` if not.
    fn hold(&self, stored: &StoredInstance, mark: Option<i64>) -> Result<bool, String> {
        let now = Instant::now();
        let mut books = self.books();
        if books.is_closed {
            return Err("this node stops; send it again".to_owned());
        }
        if books.alive_until.is_none_or(|until| until <= now) {
            return Ok(false);
        }
        let series = &stored.series_instance_uid;
        if let Some(mark) = mark {
            let fresh = || Entry { mark, is_valid: true, unnoted: Vec::new(), last: now };
            let announced = books.announced.entry(series.clone()).or_insert_with(fresh);
            (announced.mark, announced.is_valid) = (announced.mark.max(mark), true);
        }
        let Some(announced) = books.announced.get_mut(series).filter(|known| known.is_valid) else {
            return Ok(false);
        };
        announced.unnoted.push(Arrival::of(stored));
        announced.last = now;
        Ok(true)
    }

    /// Whether the others take us for alive.
    pub(super) fn is_alive(&self) -> bool {
        self.books().alive_until.is_some_and(|until| until > Instant::now())
    }

    /// How far the database's clock is from ours.
    pub(super) fn skew(&self) -> Duration {
        Duration::from_millis(self.skew_ms.load(Ordering::Relaxed).unsigned_abs())
    }

    /// How far clocks may differ: leases are counted by each node's own.
    pub(super) fn most_skew(&self) -> Duration {
        self.member.lease / 4
    }

    /// Gives a sign of life. It counts for three quarters of the lease here, so that clocks may differ by one.
    pub(super) async fn pulse(&self) -> Result<(), StoreError> {
        let (begun, begun_ms) = (Instant::now(), now_ms());
        let Member { node, lease } = &self.member;
        let until_ms = begun_ms.saturating_add(millis(*lease));
        let pulse = self.store.pulse(node, env!("CARGO_PKG_VERSION"), until_ms, begun_ms).await?;
        let ended_ms = now_ms();
        let between_ms = begun_ms.midpoint(ended_ms);
        self.skew_ms.store(pulse.clock_ms.saturating_sub(between_ms), Ordering::Relaxed);
        let mut books = self.books();
        if !pulse.was_alive {
            // Whatever was announced is taken over by others: it is announced anew before anything more is acknowledged.
            books.announced.values_mut().for_each(|announced| announced.is_valid = false);
        }
        books.alive_until = Some(begun + *lease * 3 / 4);
        Ok(())
    }

    /// Writes down what has arrived; what cannot be written stays. Withdraws what has long been noted.
    pub(super) async fn note(&self) -> Result<(), StoreError> {
        let _alone = self.noting.lock().await;
        let (mut lines, mut counts) = (BTreeMap::new(), BTreeMap::new());
        for (series, announced) in &self.books().announced {
            if !announced.unnoted.is_empty() {
                let json = serde_json::to_string(&announced.unnoted).expect("texts and numbers become JSON");
                lines.insert(series.clone(), json);
                counts.insert(series.clone(), announced.unnoted.len());
            }
        }
        if !lines.is_empty() {
            // Whoever gives up waiting for this forgets nothing: noted twice is noted.
            self.store.note_arrivals(&self.member.node, &lines, now_ms()).await?;
            let mut books = self.books();
            for (series, n) in counts {
                // Nothing but this function removes from a series, or a series, and it runs alone.
                if let Some(announced) = books.announced.get_mut(&series) {
                    announced.unnoted.drain(..n);
                }
            }
        }
        let mut done = Vec::new();
        self.books().announced.retain(|series, announced| {
            let is_done = announced.unnoted.is_empty() && announced.last.elapsed() > IDLE;
            if is_done {
                done.push((series.clone(), announced.mark));
            }
            !is_done
        });
        self.store.withdraw(&self.member.node, &done).await
    }

    /// Nothing is acknowledged any more.
    pub(super) fn close(&self) {
        self.books().is_closed = true;
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives signs of life, notes arrivals and buries the dead until `stop` turns true.
pub(super) async fn live(ledger: Arc<Ledger>, mut stop: watch::Receiver<bool>) {
    let lease = ledger.member.lease;
    let (mut pulsed, mut looked) = (Instant::now(), Instant::now());
    let mut trouble = Trouble::default();
    while !*stop.borrow() {
        let mut outcome = Ok(());
        if pulsed.elapsed() >= lease / 4 {
            pulsed = Instant::now();
            outcome = within(lease / 2, ledger.pulse()).await;
            if ledger.skew() > ledger.most_skew() {
                let skew_s = ledger.skew().as_secs_f64();
                tracing::error!(
                    skew_s,
                    "the clocks of this node and of the database differ: leases need clocks that agree"
                );
            }
        }
        if looked.elapsed() >= (lease / 8).clamp(TICK, LOOK) {
            looked = Instant::now();
            let buried = within(lease / 2, ledger.store.bury(now_ms())).await;
            outcome = outcome.and(buried.map(|nodes| {
                for node in nodes {
                    tracing::warn!(node, "a node is dead; what it had in hand is taken over");
                }
            }));
        }
        outcome = outcome.and(within(ANNOUNCING, ledger.note()).await);
        trouble.tell(outcome, "the other nodes cannot be told of what arrives here; tried on");
        tokio::select! {
            () = tokio::time::sleep(TICK.min(lease / 8)) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Says what is wrong once, and once that it is over.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    is_told: bool,
}

impl Trouble {
    pub(super) fn tell(&mut self, outcome: Result<(), String>, what: &'static str) {
        match outcome {
            Ok(()) if self.is_told => {
                self.is_told = false;
                tracing::info!("the database is there again");
            }
            Err(error) if !self.is_told => {
                self.is_told = true;
                tracing::error!(error, "{what}");
            }
            _ => {}
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(|error| with_causes(&error)),
        Err(_elapsed) => Err("the database does not answer".to_owned()),
    }
}

/// Asks the bucket again and again whether it is there, until `stop` turns true.
pub(super) async fn watch_bucket(
    objects: Objects,
    answers: Arc<AtomicBool>,
    mut stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let asked = objects.clone();
        let is_there = tokio::task::spawn_blocking(move || asked.answers()).await.unwrap_or(false);
        if answers.swap(is_there, Ordering::Relaxed) != is_there {
            match is_there {
                true => tracing::info!("the object store is there again"),
                false => {
                    tracing::error!("the object store does not answer: instances are refused until it does")
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// For the database, when a node ends.
pub(super) const LEAVING: Duration = Duration::from_secs(5);

/// Tells the others everything, and gives them what is in hand at once.
pub(super) async fn leave(
    store: &Store,
    member: &Member,
    ledger: &Ledger,
    is_idle: bool,
) -> Result<(), StoreError> {
    ledger.note().await?;
    let released = Queue::new(store, &member.node, member.lease).release_own(now_ms()).await?;
    if released > 0 {
        tracing::info!(n_jobs = released, "jobs in work are given to the other nodes");
    }
    // A delivery that is still being made stays ours for its lease, so that nobody makes it twice.
    if is_idle {
        store.release_deliveries_of(&member.node).await?;
    }
    store.leave(&member.node, now_ms()).await
}

/// This process: of a cluster, named so that a person knows the machine.
pub(super) fn member(settings: &ServiceSettings) -> Member {
    let node = format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
    match &settings.store {
        Some(store) => {
            Member { node: format!("{}-{node}", audit::host_name()), lease: seconds(store.lease_s) }
        }
        None => Member { node, lease: super::LEASE },
    }
}

/// Where the database of these settings is.
///
/// # Errors
/// [`ServiceError::Address`].
pub fn place(settings: &ServiceSettings) -> Result<Place, ServiceError> {
    match &settings.store {
        Some(store) => store.postgres.url().map(Place::Server).map_err(ServiceError::Address),
        None => Ok(Place::File(settings.data_folder().join(FILE_NAME))),
    }
}

/// The instances of a bucket, to be read alone.
#[must_use]
pub fn bucket_reader(objects: Objects) -> Spool {
    let limits =
        SpoolLimits { min_free_mb: 0, new_series_free_mb: 0, max_inflated_bytes: MAX_INFLATED_BYTES };
    let nobody = Announcer::new(|_| Err("nothing is stored from here".to_owned()));
    Spool::shared(Path::new("the bucket"), limits, objects, nobody)
}

/// What was stored has passed the service's own limit.
const MAX_INFLATED_BYTES: u64 = 1 << 32;

/// Why a bucket cannot be compared with the database.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The database.
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
    /// The bucket.
    #[error("the bucket cannot be listed")]
    Object(#[source] ObjectError),
    /// An instance.
    #[error("the instances in the bucket cannot be read")]
    Spool(#[source] SpoolError),
}

/// Has the nodes look again at every CT series in the bucket whose instances are not those of its last version; gives
/// which. Notes where every instance lies.
///
/// # Errors
/// [`RecoverError`].
pub async fn recover(
    store: &Store,
    objects: &Objects,
    now_ms: i64,
) -> Result<Vec<SeriesInstanceUid>, RecoverError> {
    let known = store.known().await.map_err(RecoverError::Store)?;
    let bucket = bucket_reader(objects.clone());
    let mut found = Vec::new();
    for folder in objects.list("instances").map_err(RecoverError::Object)?.folders {
        let Ok(series) = SeriesInstanceUid::parse(&folder) else { continue };
        let uids = bucket.shared_uids(&series).map_err(RecoverError::Spool)?;
        store.place(&series, &uids).await.map_err(RecoverError::Store)?;
        let fingerprint = fingerprint_of(&uids);
        if known.get(series.as_str()).is_some_and(|known| known.fingerprint == fingerprint) {
            continue;
        }
        let first = bucket.shared_instances(&series, uids.get(..1).unwrap_or_default());
        if first.map_err(RecoverError::Spool)?.iter().any(is_ct) {
            store.look_again(&series, now_ms).await.map_err(RecoverError::Store)?;
            found.push(series);
        }
    }
    Ok(found)
}

/// The objects that the nodes share.
///
/// # Errors
/// [`ServiceError`] where its keys or settings cannot be used.
pub fn objects_of(store: &StoreSettings) -> Result<Objects, ServiceError> {
    let access = store.s3.access().map_err(ServiceError::Keys)?;
    Objects::in_bucket(&access).map_err(ServiceError::Bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that stops notes while its signs of life still do.
    #[test]
    fn arrivals_noted_twice_at_once_are_noted_once_and_the_books_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let place = Place::File(folder.path().join(FILE_NAME));
        let _entered = runtime.enter();
        let store = Arc::new(runtime.block_on(Store::open(&place)).unwrap());
        let member = Member { node: "n".to_owned(), lease: Duration::from_secs(60) };
        let ledger = Ledger::new(Arc::clone(&store), member, runtime.handle().clone());
        let series = SeriesInstanceUid::parse("1.2.3").unwrap();
        let n_instances = 7;
        for number in 0..n_instances {
            let stored = StoredInstance {
                path: "unused".into(),
                sop_class_uid: SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
                sop_instance_uid: SopInstanceUid::parse(&format!("1.2.3.{number}")).unwrap(),
                series_instance_uid: series.clone(),
                clue: Clue::default(),
            };
            ledger.take(&stored).unwrap();
        }
        let (first, second) = runtime.block_on(async { tokio::join!(ledger.note(), ledger.note()) });
        first.and(second).unwrap();
        assert!(ledger.books().announced[&series].unnoted.is_empty());
        let noted = runtime.block_on(async {
            store.gather("n", now_ms() + 60_000, now_ms()).await.unwrap();
            let ids = store.arrival_ids("n").await.unwrap();
            store.arrivals(&ids[&series].iter().copied().collect::<Vec<_>>()).await.unwrap()
        });
        let [noted] = &noted[..] else { panic!("{noted:?}") };
        let noted: Vec<Arrival> = serde_json::from_str(&noted.instances).unwrap();
        assert_eq!(noted.len(), n_instances);
    }
}
