//! What keeps the pipeline running: it wires the rooms, and ends them in order.
//!
//! Under the data folder: `incoming`, `instances` and `quarantine` (see `pipeline::ingest`), `results` (structure
//! sets), `jobs` (what became of each series), `outbox` (what still has to go), `lock` (one service at a time).

pub mod failure;
mod http;
mod journal;
pub mod mint;
mod worker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

pub use failure::{ContourFailure, Remedy};
pub use journal::OrganRecord;
pub use worker::{Contourer, Formatted, MadeStructureSet};

use crate::pipeline::delivery::{Destination, Notices, Outbox, OutboxError, RetryPolicy, ScuTimeouts};
use crate::pipeline::ingest::{
    Caller, Callers, Listener, ListenerOptions, Spool, SpoolError, SpoolLimits, StorageClasses,
    StoredInstance,
};
use crate::pipeline::rtstruct::Format;
use crate::pipeline::series::{CompleteSeries, Gathering};
use crate::settings::service::{CalledAeTitle, DestinationSettings, ServiceSettings, StorageClass, seconds};
use http::Shown;
use journal::Journal;
use worker::{Outlet, WorkCounters, Worker};

/// Instances between the associations and the gathering.
const ARRIVALS: usize = 1_024;

/// SOP classes that become a series to contour: CT Image, Enhanced CT, Legacy Converted Enhanced CT.
const CT_CLASSES: [&str; 3] =
    ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The data folder.
    #[error("the data folder {folder} cannot be used: check that it exists and belongs to this user")]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two services would spoil each other's state.
    #[error("another service works in {folder}: stop it, or choose another folder with --data-dir")]
    Locked {
        /// Which.
        folder: PathBuf,
    },
    /// The received instances.
    #[error("the received instances cannot be read back")]
    Spool(#[source] SpoolError),
    /// The outbox.
    #[error("the outbox cannot be opened")]
    Outbox(#[source] OutboxError),
    /// The port.
    #[error("{address} cannot be listened on: is something else there already, or is the port below 1024?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Threads.
    #[error("the system gives no threads")]
    Threads(#[source] io::Error),
}

/// A running service; dropping it without [`Service::stop`] leaves its threads to the end of the process.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    http: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    grace: Duration,
    runtime: Runtime,
    listener: tokio::task::JoinHandle<()>,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
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
    started(&service);
    service.runtime.block_on(shutdown);
    service.stop();
    Ok(())
}

impl Service {
    /// Replays what is on disk, then listens. Without a contourer, instances are only kept.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot start.
    pub fn start(settings: &ServiceSettings, contourer: Option<Contourer>) -> Result<Self, ServiceError> {
        let folder = settings.data_folder();
        let lock = lock(&folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServiceError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let (spool, stored) = Spool::open(&folder, spool_limits(settings)).map_err(ServiceError::Spool)?;
        let webhooks = settings.notifications.webhooks.clone();
        let told = Notices::start(webhooks, settings.ae_title.to_string(), scu_timeouts(settings));
        let (notices, telling) = told.map_err(ServiceError::Threads)?;
        let outbox = outbox(settings, &folder, notices.clone())?;
        let journal = Journal::open(&folder.join("jobs"));
        let journal = journal.map_err(|source| ServiceError::Folder { folder: folder.clone(), source })?;
        let gathering = replay(stored, &journal, seconds(settings.series.quiet_time_s));
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let bound = runtime.block_on(bind(settings, Arc::new(spool), arrivals))?;

        let work = Arc::new(WorkCounters::default());
        let mut threads: Vec<_> = telling.into_iter().collect();
        for destination in &settings.destinations {
            threads.push(delivery_thread(&outbox, destination.to.clone(), stopped.clone())?);
        }
        let (queue, queued) = mpsc::channel(settings.network.queue_length);
        if let Some(contourer) = contourer {
            let worker = Worker {
                contourer,
                outbox: Arc::clone(&outbox),
                outlets: outlets(settings),
                journal: Arc::new(journal),
                notices,
                results: folder.join("results"),
                counters: Arc::clone(&work),
            };
            let (stopped, handle) = (stopped.clone(), runtime.handle().clone());
            threads.push(thread("contouring", move || worker.run(queued, &stopped, &handle))?);
            runtime.spawn(gather(gathering, arrived, queue));
        } else {
            runtime.spawn(forget(arrived));
        }
        let shown = Arc::new(Shown { ingest: bound.listener.counters(), work, outbox });
        if let Some(socket) = bound.http {
            runtime.spawn(http::serve(socket, shown, stopped.clone()));
        }
        let listener = runtime.spawn(bound.listener.serve(stopped));
        let grace = seconds(settings.stop_grace_s);
        let (address, http) = (bound.address, bound.http_address);
        Ok(Self { address, http, stop, grace, runtime, listener, threads, _lock: lock })
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

    /// Ends in order: the instances, the delivery and the series in hand are finished within the grace time; what
    /// is not is done after the next start.
    pub fn stop(self) {
        let deadline = Instant::now() + self.grace;
        self.stop.send_replace(true);
        let in_time =
            self.runtime.block_on(async { tokio::time::timeout(self.grace, self.listener).await.is_ok() });
        if !in_time {
            tracing::warn!("associations were cut off");
        }
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if !thread.is_finished() {
                tracing::warn!(
                    thread = thread.thread().name(),
                    "not finished in time; done after the next start"
                );
            } else if thread.join().is_err() {
                tracing::error!("a thread ended by a fault of ours; please report this");
            }
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
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
    spool: Arc<Spool>,
    arrivals: mpsc::Sender<StoredInstance>,
) -> Result<Bound, ServiceError> {
    let address = SocketAddr::new(settings.listen.address, settings.listen.port);
    let failed = |address| move |source| ServiceError::Bind { address, source };
    let listener = Listener::bind(address, listener_options(settings), spool, arrivals)
        .await
        .map_err(failed(address))?;
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

fn spool_limits(settings: &ServiceSettings) -> SpoolLimits {
    let max_bytes = u64::try_from(max_instance_bytes(settings)).unwrap_or(u64::MAX);
    SpoolLimits { min_free_mb: settings.listen.min_free_mb, max_inflated_bytes: max_bytes }
}

fn max_instance_bytes(settings: &ServiceSettings) -> usize {
    settings.listen.max_instance_mb.saturating_mul(1_000_000)
}

fn listener_options(settings: &ServiceSettings) -> ListenerOptions {
    let listen = &settings.listen;
    let callers = listen.callers.iter().map(|c| Caller { ae_title: c.ae_title.clone(), address: c.address });
    let uids = listen.storage_classes.iter().filter_map(|class| match class {
        StorageClass::Any => None,
        StorageClass::Uid(uid) => Some(uid.clone()),
    });
    ListenerOptions {
        called: (listen.called_ae_title == CalledAeTitle::Own).then(|| settings.ae_title.clone()),
        callers: if listen.callers.is_empty() { Callers::Any } else { Callers::Listed(callers.collect()) },
        storage_classes: if listen.storage_classes.contains(&StorageClass::Any) {
            StorageClasses::Any
        } else {
            StorageClasses::Listed(uids.collect())
        },
        max_associations: listen.max_associations,
        max_instance_bytes: max_instance_bytes(settings),
        idle_timeout: seconds(listen.idle_timeout_s),
    }
}

fn outbox(settings: &ServiceSettings, folder: &Path, notices: Notices) -> Result<Arc<Outbox>, ServiceError> {
    let delivery = &settings.delivery;
    let policy = RetryPolicy {
        first: seconds(delivery.first_retry_s),
        longest: seconds(delivery.longest_retry_s),
        give_up_after: seconds(delivery.give_up_after_h * 3_600.0),
    };
    let timeouts = scu_timeouts(settings);
    let outbox = Outbox::open(&folder.join("outbox"), settings.ae_title.clone(), policy, timeouts, notices);
    Ok(Arc::new(outbox.map_err(ServiceError::Outbox)?))
}

/// How long peers may take, by the settings.
#[must_use]
pub fn scu_timeouts(settings: &ServiceSettings) -> ScuTimeouts {
    let delivery = &settings.delivery;
    ScuTimeouts { connect: seconds(delivery.connect_timeout_s), answer: seconds(delivery.answer_timeout_s) }
}

/// What is on disk: finished series wait for late instances, all others run through their quiet time again.
fn replay(stored: Vec<StoredInstance>, journal: &Journal, quiet_time: Duration) -> Gathering {
    let mut gathering = Gathering::new(quiet_time);
    let mut series = BTreeMap::<_, Vec<StoredInstance>>::new();
    for instance in stored.into_iter().filter(is_ct) {
        series.entry(instance.series_instance_uid.clone()).or_default().push(instance);
    }
    for (uid, mut instances) in series {
        instances.sort_by(|a, b| a.sop_instance_uid.cmp(&b.sop_instance_uid));
        let record = journal.read(&uid);
        let version = record.as_ref().map_or(0, |r| r.version);
        let complete = CompleteSeries { series_instance_uid: uid, version, instances };
        match record {
            Some(record) if record.is_final() && record.fingerprint == complete.fingerprint() => {
                gathering.restore(complete);
            }
            // A failed version is done again under its own number.
            Some(record) if record.fingerprint == complete.fingerprint() => {
                gathering.restore_growing(version.saturating_sub(1), complete.instances, Instant::now());
            }
            _ => gathering.restore_growing(version, complete.instances, Instant::now()),
        }
    }
    gathering
}

fn is_ct(instance: &StoredInstance) -> bool {
    CT_CLASSES.contains(&instance.sop_class_uid.as_str())
}

/// Gathers series and hands them to the worker as its queue has room; what has none waits on disk.
async fn gather(
    mut gathering: Gathering,
    mut arrived: mpsc::Receiver<StoredInstance>,
    queue: mpsc::Sender<CompleteSeries>,
) {
    loop {
        while let Ok(place) = queue.try_reserve() {
            match gathering.take_complete(Instant::now()) {
                Some(series) => {
                    let (uid, n_instances) = (&series.series_instance_uid, series.instances.len());
                    tracing::info!(series = %uid, version = series.version, n_instances, "series complete");
                    place.send(series);
                }
                None => break,
            }
        }
        // With a full queue something may be overdue; then look again in a moment.
        let soon = Instant::now() + Duration::from_millis(20);
        let wake = gathering.next_complete().map_or(soon + Duration::from_secs(3_600), |next| next.max(soon));
        tokio::select! {
            instance = arrived.recv() => match instance {
                Some(instance) if is_ct(&instance) => gathering.receive(instance, Instant::now()),
                Some(_kept_only) => {}
                None => return,
            },
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

/// Without a contourer nothing is gathered; the instances are on disk.
async fn forget(mut arrived: mpsc::Receiver<StoredInstance>) {
    while arrived.recv().await.is_some() {}
}

fn outlets(settings: &ServiceSettings) -> Vec<Outlet> {
    let outlet = |d: &DestinationSettings| {
        let format = settings.format_of(d);
        Outlet { to: d.to.clone(), format: (format != Format::default()).then(|| format.id()) }
    };
    settings.destinations.iter().map(outlet).collect()
}

fn delivery_thread(
    outbox: &Arc<Outbox>,
    destination: Destination,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, ServiceError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServiceError::Threads)?;
    let outbox = Arc::clone(outbox);
    thread("delivery", move || runtime.block_on(outbox.run(destination, stop)))
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServiceError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ServiceError::Threads)
}
