//! What keeps the pipeline running: it wires the rooms, and ends them in order.
//!
//! Under the data folder: `incoming`, `instances` and `quarantine` (see `pipeline::ingest`), `results` (structure
//! sets), `commitments` (questions that peers are owed a report on), `outbox` (objects that still have to go),
//! `oarlock.sqlite3` (series, jobs, deliveries, history; see [`store`]), `lock` (one service at a time).
//!
//! What is on disk is the truth about what was received and made; the database is the truth about what is to be done
//! with it. At the start the two are compared, and what the database does not know is gathered again.
//!
//! With `store` in the settings several nodes share a PostgreSQL and a bucket instead (see `cluster`); under the data
//! folder of a node then lie `work`, for instances that it fetches, and `lock`.

pub mod audit;
mod cluster;
mod commitments;
mod error;
pub mod failure;
mod from_settings;
mod gather;
mod http;
mod journal;
pub mod mint;
mod outbox;
pub mod quarantine;
pub mod queue;
mod reload;
mod retention;
mod shared_retention;
mod sharing;
pub mod store;
mod worker;

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};

pub use cluster::{RecoverError, bucket_reader, objects_of, place, recover};
pub use error::ServiceError;
pub use failure::{ContourFailure, Remedy};
pub use from_settings::{scu_timeouts, tls_server};
pub use journal::OrganRecord;
pub use outbox::{AddError, Outbox, Told};
pub use reload::{Reloaded, Reloader};
pub use worker::{Contourer, Formatted, MadeStructureSet};

use crate::pipeline::delivery::{Notices, OutboxFolder};
use crate::pipeline::ingest::{Announcer, Listener, ListenerOptions, Pledges, Spool, StoredInstance};
use crate::pipeline::objects::Objects;
use crate::settings::load_rules;
use crate::settings::service::{ServiceSettings, seconds};
use crate::vocabulary::causes::with_causes;
use audit::{AuditEvent, AuditTrail, AuditWriter};
use cluster::{LEAVING, Ledger, leave, member};
use from_settings::{called_back, door, listener_options, outlets, patience, retry_policy, spool_limits};
use gather::Gatherer;
use http::Shown;
use queue::{Now, Queue};
use reload::Live;
use sharing::SharedQuestions;
use store::Store;
use worker::{WorkCounters, Worker};

/// Instances between the associations and the gathering.
const ARRIVALS: usize = 1_024;

/// A job belongs to the one node of a data folder for this long after it was last heard of.
const LEASE: Duration = Duration::from_secs(60);

/// This process among the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Names it, and no other, not even an earlier one of this machine.
    pub node: String,
    /// What it has in hand belongs to it for this long after it was last heard of.
    pub lease: Duration,
}

/// A running service; dropping it without [`Service::stop`] leaves its threads to the end of the process.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    http: Option<SocketAddr>,
    /// Ends the work, then the listening, then the rest.
    stop: Stops,
    drain: Duration,
    grace: Duration,
    runtime: Runtime,
    listener: tokio::task::JoinHandle<()>,
    threads: Vec<JoinHandle<()>>,
    store: Arc<Store>,
    member: Member,
    ledger: Option<Arc<Ledger>>,
    reloader: Arc<Reloader>,
    audit: AuditTrail,
    audit_writer: AuditWriter,
    _lock: File,
}

/// Each turns true once, in this order.
#[derive(Debug)]
struct Stops {
    is_stopping: Arc<AtomicBool>,
    work: watch::Sender<bool>,
    listening: watch::Sender<bool>,
    rest: watch::Sender<bool>,
}

/// Runs the service until `shutdown` is ready, then stops it. `started` is told where it listens.
///
/// # Errors
/// [`ServiceError`] when it cannot start.
pub fn run(
    settings: &ServiceSettings,
    contourer: Option<Contourer>,
    shutdown: impl Future<Output = ()>,
    started: impl FnOnce(&Service),
) -> Result<(), ServiceError> {
    let service = Service::start(settings, contourer)?;
    service.runtime.block_on(async {
        tokio::select! {
            biased;
            () = shutdown => {}
            () = async { started(&service); std::future::pending().await } => {}
        }
    });
    service.stop();
    Ok(())
}

impl Service {
    /// Replays what is on disk, then listens. Without a contourer, instances are only kept.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot start.
    pub fn start(settings: &ServiceSettings, contourer: Option<Contourer>) -> Result<Self, ServiceError> {
        let rules = load_rules(settings).map_err(ServiceError::Rules)?;
        let folder = settings.data_folder();
        let lock = lock(&folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServiceError::Threads)?;
        let (work_stop, work_stopped) = watch::channel(false);
        let (listening_stop, listening_stopped) = watch::channel(false);
        let (rest_stop, rest_stopped) = watch::channel(false);
        let member = member(settings);
        let shared = settings.store.as_ref().map(objects_of).transpose()?;
        if let (Some(objects), Some(store)) = (&shared, &settings.store) {
            let failed = |source| ServiceError::Objects { place: store.s3.to_string(), source };
            objects.probe(&member.node).map_err(failed)?;
        }
        let place = place(settings)?;
        let store = Arc::new(runtime.block_on(Store::open(&place)).map_err(ServiceError::Store)?);
        let of_nodes = shared
            .as_ref()
            .map(|_| Arc::new(Ledger::new(Arc::clone(&store), member.clone(), runtime.handle().clone())));
        if let Some(ledger) = &of_nodes {
            runtime.block_on(ledger.pulse()).map_err(ServiceError::Store)?;
        }
        let (spool, stored) = match (&shared, &of_nodes) {
            (Some(objects), Some(ledger)) => {
                let ledger = Arc::clone(ledger);
                let announcer = Announcer::new(move |stored| ledger.take(stored));
                (Spool::shared(&folder, spool_limits(settings), objects.clone(), announcer), Vec::new())
            }
            _ => Spool::open(&folder, spool_limits(settings)).map_err(ServiceError::Spool)?,
        };
        let spool = Arc::new(spool);
        let objects = shared.clone().unwrap_or_else(|| Objects::in_folder(&folder));
        let working = folder.join("work");
        clear(&working).map_err(|source| ServiceError::Folder { folder: working.clone(), source })?;
        let (pledges, hinted) = match shared {
            Some(_) => {
                let (store, node, runtime) =
                    (Arc::clone(&store), member.node.clone(), runtime.handle().clone());
                let questions = SharedQuestions { store, node, runtime };
                let finder = questions.finder();
                Pledges::shared(Arc::new(questions), Arc::clone(&spool), finder)
            }
            None => Pledges::open(&folder, Arc::clone(&spool)).map_err(ServiceError::Pledges)?,
        };
        let pledges = Arc::new(pledges);
        pledges.call_back(called_back(settings));
        let in_force = Live { settings: settings.clone(), rules: rules.map(Arc::new) };
        let (live, living) = watch::channel(Arc::new(in_force));
        let (door, doors) = watch::channel(Arc::new(door(settings)));
        let listeners = settings.notifications.listeners();
        let told = Notices::start(listeners, settings.ae_title.as_str(), scu_timeouts(settings));
        let (notices, telling) = told.map_err(ServiceError::Threads)?;
        let (audit, audit_writer) =
            AuditTrail::start(&settings.audit, &settings.ae_title, &folder).map_err(ServiceError::Audit)?;
        let told = Told { notices: notices.clone(), audit: audit.clone() };
        let outbox = outbox(settings, (&folder, shared.as_ref()), member.clone(), &store, told)?;
        let names: Vec<String> = settings.destinations.iter().map(|d| d.to.name.clone()).collect();
        runtime.block_on(resume(&store, &outbox, (&member, shared.is_none()), &names))?;
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let tls = tls_server(settings).map_err(ServiceError::Tls)?.map(Arc::new);
        let bound = runtime.block_on(bind(
            settings,
            listener_options(settings, tls.clone(), doors, (&pledges, &audit)),
            Arc::clone(&spool),
            arrivals,
        ))?;
        audit.tell(AuditEvent::Started);

        if let Some(objects) = &shared {
            let (live, store, objects) = (living.clone(), Arc::clone(&store), objects.clone());
            let retention = shared_retention::SharedRetention { live, store, objects };
            runtime.spawn(retention.run(work_stopped.clone()));
        } else {
            let retention = retention::Retention {
                live: living.clone(),
                store: Arc::clone(&store),
                spool: Arc::clone(&spool),
                folder: folder.clone(),
            };
            runtime.spawn(retention.run(work_stopped.clone()));
        }
        let reporter = commitments::Reporter {
            pledges: Arc::clone(&pledges),
            live: living.clone(),
            lease: member.lease,
        };
        runtime.spawn(reporter.run(work_stopped.clone()));
        let bucket_answers = Arc::new(AtomicBool::new(true));
        if let Some(objects) = &shared {
            let answers = Arc::clone(&bucket_answers);
            runtime.spawn(cluster::watch_bucket(objects.clone(), answers, rest_stopped.clone()));
        }
        if let Some(ledger) = &of_nodes {
            runtime.spawn(cluster::live(Arc::clone(ledger), rest_stopped.clone()));
        }
        let work = Arc::new(WorkCounters::default());
        let mut threads = Vec::from(telling);
        let reloader = Arc::new(Reloader {
            live,
            door,
            pledges,
            outbox: Arc::downgrade(&outbox),
            audience: notices.audience(),
            tls,
        });
        for destination in &settings.destinations {
            let (outbox, destination, stop) =
                (Arc::clone(&outbox), destination.to.clone(), work_stopped.clone());
            let handle = runtime.handle().clone();
            threads.push(thread("delivery", move || handle.block_on(outbox.run(destination, stop)))?);
        }
        let has_model = contourer.is_some();
        if let Some(contourer) = contourer {
            let wake = Arc::new(Notify::new());
            let gatherer = Gatherer {
                store: Arc::clone(&store),
                spool: Arc::clone(&spool),
                results: objects.below("results"),
                working: working.clone(),
                ae_title: settings.ae_title.clone(),
                wake: Arc::clone(&wake),
                live: living,
            };
            let gathering = runtime.block_on(gatherer.replay(stored)).map_err(ServiceError::Store)?;
            let worker = Worker {
                contourer,
                store: Arc::clone(&store),
                spool,
                outbox,
                outlets: outlets(settings),
                notices,
                objects,
                working,
                counters: Arc::clone(&work),
                member: member.clone(),
                wake,
                runtime: runtime.handle().clone(),
            };
            let stopped = work_stopped.clone();
            threads.push(thread("contouring", move || worker.run(&stopped))?);
            if shared.is_some() {
                runtime.spawn(gatherer.run_among(member.clone(), work_stopped));
                runtime.spawn(forget(arrived));
                runtime.spawn(sharing::pass_hints_on(Arc::clone(&store), hinted));
            } else {
                runtime.spawn(gatherer.run(gathering, arrived, hinted));
            }
        } else {
            runtime.spawn(forget(arrived));
        }
        let is_stopping = Arc::new(AtomicBool::new(false));
        let shown = Arc::new(Shown {
            ingest: bound.listener.counters(),
            work,
            store: Arc::clone(&store),
            folder: settings.data_folder(),
            min_free_mb: shared.is_none().then_some(settings.listen.min_free_mb),
            has_model,
            is_stopping: Arc::clone(&is_stopping),
            bucket_answers,
            ledger: of_nodes.clone(),
            audit_lost: audit.lost(),
        });
        if let Some(socket) = bound.http {
            runtime.spawn(http::serve(socket, shown, rest_stopped));
        }
        let listener = runtime.spawn(bound.listener.serve(listening_stopped));
        let (drain, grace) = (seconds(settings.stop_drain_s), seconds(settings.stop_grace_s));
        let (address, http) = (bound.address, bound.http_address);
        Ok(Self {
            address,
            http,
            stop: Stops { is_stopping, work: work_stop, listening: listening_stop, rest: rest_stop },
            drain,
            grace,
            runtime,
            listener,
            threads,
            store,
            member,
            ledger: of_nodes,
            reloader,
            audit,
            audit_writer,
            _lock: lock,
        })
    }

    /// Where it listens for DICOM: with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for HTTP.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Takes settings over that are read again.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Ends in order. `/ready` says no at once, and no new work is begun; associations are still taken for the drain time,
    /// so that a balancer can look elsewhere. The instances, the delivery and the series in hand are finished within the
    /// grace time; what is not is done after the next start, or by another node.
    pub fn stop(self) {
        self.stop.is_stopping.store(true, Ordering::Relaxed);
        self.stop.work.send_replace(true);
        let drained = Instant::now() + self.drain;
        let deadline = drained + self.grace;
        self.runtime.block_on(async { tokio::time::sleep_until(drained.into()).await });
        self.stop.listening.send_replace(true);
        let in_time =
            self.runtime.block_on(async { tokio::time::timeout(self.grace, self.listener).await.is_ok() });
        if !in_time {
            tracing::warn!("associations were cut off");
        }
        let mut is_idle = true;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if !thread.is_finished() {
                is_idle = false;
                tracing::warn!(
                    thread = thread.thread().name(),
                    "not finished in time; done after the next start, or by another node"
                );
            } else if thread.join().is_err() {
                tracing::error!("a thread ended by a fault of ours; please report this");
            }
        }
        if let Some(ledger) = &self.ledger {
            ledger.close();
            let left = leave(&self.store, &self.member, ledger, is_idle);
            let left = async { tokio::time::timeout(LEAVING, left).await };
            match self.runtime.block_on(left) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = with_causes(&error), "the other nodes take over after a lease");
                }
                Err(_elapsed) => {
                    tracing::warn!("the database does not answer; the other nodes take over after a lease")
                }
            }
        }
        self.stop.rest.send_replace(true);
        let closing =
            async { tokio::time::timeout(Duration::from_secs(2), self.store.close()).await.is_ok() };
        if !self.runtime.block_on(closing) {
            tracing::warn!("the database was still in use; nothing is lost");
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.audit.tell(AuditEvent::Stopped);
        self.audit_writer.finish();
    }
}

/// Removes what a process left that was killed.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

struct Bound {
    listener: Listener,
    address: SocketAddr,
    http: Option<TcpListener>,
    http_address: Option<SocketAddr>,
}

async fn bind(
    settings: &ServiceSettings,
    options: ListenerOptions,
    spool: Arc<Spool>,
    arrivals: mpsc::Sender<StoredInstance>,
) -> Result<Bound, ServiceError> {
    let address = SocketAddr::new(settings.listen.address, settings.listen.port);
    let failed = |address| move |source| ServiceError::Bind { address, source };
    let listener = Listener::bind(address, options, spool, arrivals).await.map_err(failed(address))?;
    let address = listener.local_address().map_err(failed(address))?;
    let mut bound = Bound { listener, address, http: None, http_address: None };
    if let Some(http) = settings.http {
        let socket = TcpListener::bind(http).await.map_err(failed(http))?;
        bound.http_address = Some(socket.local_addr().map_err(failed(http))?);
        bound.http = Some(socket);
    }
    Ok(bound)
}

fn lock(folder: &Path) -> Result<File, ServiceError> {
    let failed = |source| ServiceError::Folder { folder: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    let file = File::create(folder.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ServiceError::Locked { folder: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn outbox(
    settings: &ServiceSettings,
    (folder, shared): (&Path, Option<&Objects>),
    member: Member,
    store: &Arc<Store>,
    told: Told,
) -> Result<Arc<Outbox>, ServiceError> {
    let policy = retry_policy(settings);
    let objects = match shared {
        Some(objects) => OutboxFolder::over(objects.below("outbox")),
        None => {
            let objects = OutboxFolder::open(&folder.join("outbox")).map_err(ServiceError::Outbox)?;
            take_over(folder, &objects)?;
            objects
        }
    };
    let (calling, timeouts) = (settings.ae_title.clone(), scu_timeouts(settings));
    Ok(Arc::new(Outbox::new(Arc::clone(store), objects, calling, policy, timeouts, member, told)))
}

/// What a version without a database delivered is noted as the new one does; the rest of its records is replayed from
/// instances and results.
fn take_over(folder: &Path, objects: &OutboxFolder) -> Result<(), ServiceError> {
    let adopt = |key: &str, destination: &str| {
        // SERIES vN FINGERPRINT
        let parts: Vec<&str> = key.split(' ').collect();
        let [series, version, fingerprint] = parts[..] else { return Ok(()) };
        let name = format!("{version}-{}.dcm", fingerprint.get(..16).unwrap_or_default());
        let result = folder.join("results").join(series).join(name);
        objects.adopt_delivered(key, destination, &result).map_err(io::Error::other)
    };
    let failed = |source| ServiceError::Folder { folder: folder.to_owned(), source };
    let n = journal::take_over_outbox(&folder.join("outbox"), adopt).map_err(failed)?;
    if n > 0 {
        tracing::info!(n_deliveries = n, "records of a version without a database were taken over");
    }
    Ok(())
}

/// What the earlier process of this folder left: its leases, and what it delivered last. Of several nodes each keeps its
/// own; what a node that died had in hand is taken over when its lease has run out.
async fn resume(
    store: &Store,
    outbox: &Outbox,
    (member, is_alone): (&Member, bool),
    destinations: &[String],
) -> Result<(), ServiceError> {
    let (queue, now) = (Queue::new(store, &member.node, member.lease), store::now_ms());
    let mut released = 0;
    if is_alone {
        released = queue.release_all(now).await.map_err(ServiceError::Store)?;
        store.release_deliveries().await.map_err(ServiceError::Store)?;
    }
    let retried = queue.retry_failed(now).await.map_err(ServiceError::Store)?;
    if released + retried > 0 {
        tracing::info!(in_work = released, failed = retried, "jobs of the earlier run are done again");
    }
    let elsewhere = store.pending_elsewhere(destinations).await.map_err(ServiceError::Store)?;
    for (destination, n_deliveries) in elsewhere {
        tracing::warn!(
            destination,
            n_deliveries,
            "deliveries wait for a destination that the settings do not name"
        );
    }
    match is_alone {
        true => outbox.settle_delivered().await.map_err(ServiceError::Settle),
        false => Ok(()),
    }
}

/// The time, and where it is in the local day (UTC where the system does not know its zone).
fn clock() -> Now {
    let local = mint::Mint::from_world().now();
    Now { ms: store::now_ms(), minute_of_day: u16::from(local.hour()) * 60 + u16::from(local.minute()) }
}

/// Without a contourer nothing is gathered; the instances are on disk.
async fn forget(mut arrived: mpsc::Receiver<StoredInstance>) {
    while arrived.recv().await.is_some() {}
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServiceError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ServiceError::Threads)
}
