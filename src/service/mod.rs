//! What keeps the pipeline running: it wires the rooms, and ends them in order.
//!
//! Under the data folder: `incoming`, `instances` and `quarantine` (see `pipeline::ingest`), `results` (structure
//! sets), `commitments` (questions that peers are owed a report on), `outbox` (objects that still have to go),
//! `oarlock.sqlite3` (series, jobs, deliveries, history; see [`store`]), `lock` (one service at a time).
//!
//! What is on disk is the truth about what was received and made; the database is the truth about what is to be done
//! with it. At the start the two are compared, and what the database does not know is gathered again.

pub mod audit;
mod commitments;
pub mod failure;
mod gather;
mod http;
mod journal;
pub mod mint;
mod outbox;
pub mod quarantine;
pub mod queue;
mod reload;
mod retention;
pub mod store;
mod worker;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};

pub use failure::{ContourFailure, Remedy};
pub use journal::OrganRecord;
pub use outbox::{AddError, Outbox, Told};
pub use reload::{Reloaded, Reloader};
pub use worker::{Contourer, Formatted, MadeStructureSet};

use crate::pipeline::delivery::{Notices, OutboxError, OutboxFolder, RetryPolicy, ScuTimeouts};
use crate::pipeline::ingest::{
    Caller, Callers, Door, Listener, ListenerLimits, ListenerOptions, PledgeError, Pledges, Spool,
    SpoolError, SpoolLimits, StorageClasses, StoredInstance,
};
use crate::pipeline::rtstruct::Format;
use crate::pipeline::series::Patience;
use crate::pipeline::tls::{ClientCertificates, TlsError, TlsServer, TlsServerFiles};
use crate::settings::service::{
    self as settings_of, CalledAeTitle, DestinationSettings, ServiceSettings, StorageClass, seconds,
};
use crate::settings::{SettingsError, load_rules};
use crate::vocabulary::dicom::AeTitle;
use audit::{AuditError, AuditEvent, AuditTrail, AuditWriter};
use gather::Gatherer;
use http::Shown;
use queue::{Now, Queue};
use reload::Live;
use store::{Place, Store, StoreError};
use worker::{Outlet, WorkCounters, Worker};

/// Instances between the associations and the gathering.
const ARRIVALS: usize = 1_024;

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
    /// Settings that were read again.
    #[error("the settings cannot be used")]
    Settings(#[source] SettingsError),
    /// The rules of selection.
    #[error("the rules cannot be used")]
    Rules(#[source] SettingsError),
    /// The received instances.
    #[error("the received instances cannot be read back")]
    Spool(#[source] SpoolError),
    /// The questions about storage commitment.
    #[error("what peers were promised a report on cannot be read back")]
    Pledges(#[source] PledgeError),
    /// The outbox.
    #[error("the outbox cannot be opened")]
    Outbox(#[source] OutboxError),
    /// What an earlier process left in the outbox.
    #[error("the outbox cannot be taken over from the earlier run")]
    Settle(#[source] AddError),
    /// The database.
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
    /// The port.
    #[error("{address} cannot be listened on: is something else there already, or is the port below 1024?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The audit trail.
    #[error("the audit trail cannot be kept")]
    Audit(#[source] AuditError),
    /// Certificates and keys.
    #[error("TLS cannot be set up as listen.tls says")]
    Tls(#[source] TlsError),
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
    store: Arc<Store>,
    reloader: Arc<Reloader>,
    audit: AuditTrail,
    audit_writer: AuditWriter,
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
        let rules = load_rules(settings).map_err(ServiceError::Rules)?;
        let folder = settings.data_folder();
        let lock = lock(&folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServiceError::Threads)?;
        let (stop, stopped) = watch::channel(false);
        let node = format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
        let place = Place::File(folder.join(store::FILE_NAME));
        let store = Arc::new(runtime.block_on(Store::open(&place)).map_err(ServiceError::Store)?);
        let (spool, stored) = Spool::open(&folder, spool_limits(settings)).map_err(ServiceError::Spool)?;
        let spool = Arc::new(spool);
        let (pledges, hinted) = Pledges::open(&folder, Arc::clone(&spool)).map_err(ServiceError::Pledges)?;
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
        let outbox = outbox(settings, (&folder, &node), &store, told)?;
        let names: Vec<String> = settings.destinations.iter().map(|d| d.to.name.clone()).collect();
        runtime.block_on(resume(&store, &outbox, &node, &names))?;
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let tls = tls_server(settings).map_err(ServiceError::Tls)?.map(Arc::new);
        let bound = runtime.block_on(bind(
            settings,
            listener_options(settings, tls.clone(), doors, (&pledges, &audit)),
            Arc::clone(&spool),
            arrivals,
        ))?;
        audit.tell(AuditEvent::Started);

        let retention = retention::Retention {
            live: living.clone(),
            store: Arc::clone(&store),
            spool: Arc::clone(&spool),
            folder: folder.clone(),
        };
        runtime.spawn(retention.run(stopped.clone()));
        let reporter = commitments::Reporter { pledges: Arc::clone(&pledges), live: living.clone() };
        runtime.spawn(reporter.run(stopped.clone()));
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
            let (outbox, destination, stop) = (Arc::clone(&outbox), destination.to.clone(), stopped.clone());
            let handle = runtime.handle().clone();
            threads.push(thread("delivery", move || handle.block_on(outbox.run(destination, stop)))?);
        }
        if let Some(contourer) = contourer {
            let wake = Arc::new(Notify::new());
            let gatherer = Gatherer {
                store: Arc::clone(&store),
                spool: Arc::clone(&spool),
                results: folder.join("results"),
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
                folder,
                counters: Arc::clone(&work),
                node,
                wake,
                runtime: runtime.handle().clone(),
            };
            let stopped = stopped.clone();
            threads.push(thread("contouring", move || worker.run(&stopped))?);
            runtime.spawn(gatherer.run(gathering, arrived, hinted));
        } else {
            runtime.spawn(forget(arrived));
        }
        let shown = Arc::new(Shown {
            ingest: bound.listener.counters(),
            work,
            store: Arc::clone(&store),
            folder: settings.data_folder(),
            audit_lost: audit.lost(),
        });
        if let Some(socket) = bound.http {
            runtime.spawn(http::serve(socket, shown, stopped.clone()));
        }
        let listener = runtime.spawn(bound.listener.serve(stopped));
        let grace = seconds(settings.stop_grace_s);
        let (address, http) = (bound.address, bound.http_address);
        Ok(Self {
            address,
            http,
            stop,
            grace,
            runtime,
            listener,
            threads,
            store,
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

fn spool_limits(settings: &ServiceSettings) -> SpoolLimits {
    let max_bytes = u64::try_from(max_instance_bytes(settings)).unwrap_or(u64::MAX);
    let min_free_mb = settings.listen.min_free_mb;
    SpoolLimits {
        min_free_mb,
        new_series_free_mb: settings.listen.new_series_free_mb.unwrap_or(min_free_mb.saturating_mul(2)),
        max_inflated_bytes: max_bytes,
    }
}

fn max_instance_bytes(settings: &ServiceSettings) -> usize {
    settings.listen.max_instance_mb.saturating_mul(1_000_000)
}

/// TLS of the Store SCP as the settings say, its files read.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub fn tls_server(settings: &ServiceSettings) -> Result<Option<TlsServer>, TlsError> {
    let Some(tls) = &settings.listen.tls else { return Ok(None) };
    let authorities = tls.client_authorities.clone().unwrap_or_default();
    let client_certificates = match tls.client_certificates {
        settings_of::ClientCertificates::Required => ClientCertificates::Required(authorities),
        settings_of::ClientCertificates::Optional => ClientCertificates::Optional(authorities),
        settings_of::ClientCertificates::Off => ClientCertificates::Off,
    };
    let (certificate, key) = (tls.certificate.clone(), tls.key.clone());
    TlsServer::load(TlsServerFiles { certificate, key, client_certificates }).map(Some)
}

fn listener_options(
    settings: &ServiceSettings,
    tls: Option<Arc<TlsServer>>,
    door: watch::Receiver<Arc<Door>>,
    (pledges, audit): (&Arc<Pledges>, &AuditTrail),
) -> ListenerOptions {
    let listen = &settings.listen;
    ListenerOptions {
        tls,
        door,
        witness: audit.witness(),
        pledges: Arc::clone(pledges),
        limits: ListenerLimits {
            max_associations: listen.max_associations,
            max_associations_per_caller: listen.max_associations_per_caller,
            max_connections_per_address: listen.max_connections_per_address,
            max_instance_bytes: max_instance_bytes(settings),
            max_in_hand_bytes: listen.max_in_hand_mb.saturating_mul(1_000_000),
            request_timeout: seconds(listen.request_timeout_s),
            idle_timeout: seconds(listen.idle_timeout_s),
            message_timeout: seconds(listen.message_timeout_s),
            association_timeout: seconds(listen.association_timeout_s),
        },
    }
}

/// Who comes in, as the settings say.
fn door(settings: &ServiceSettings) -> Door {
    let listen = &settings.listen;
    let callers = listen.callers.iter().map(|c| Caller { ae_title: c.ae_title.clone(), network: c.address });
    let uids = listen.storage_classes.iter().filter_map(|class| match class {
        StorageClass::Any => None,
        StorageClass::Uid(uid) => Some(uid.clone()),
    });
    Door {
        called: (listen.called_ae_title == CalledAeTitle::Own).then(|| settings.ae_title.clone()),
        callers: if listen.callers.is_empty() { Callers::Any } else { Callers::Listed(callers.collect()) },
        storage_classes: if listen.storage_classes.contains(&StorageClass::Any) {
            StorageClasses::Any
        } else {
            StorageClasses::Listed(uids.collect())
        },
    }
}

fn outbox(
    settings: &ServiceSettings,
    (folder, node): (&Path, &str),
    store: &Arc<Store>,
    told: Told,
) -> Result<Arc<Outbox>, ServiceError> {
    let policy = retry_policy(settings);
    let objects = OutboxFolder::open(&folder.join("outbox")).map_err(ServiceError::Outbox)?;
    take_over(folder, &objects)?;
    let (calling, timeouts) = (settings.ae_title.clone(), scu_timeouts(settings));
    let (store, node) = (Arc::clone(store), node.to_owned());
    Ok(Arc::new(Outbox::new(store, objects, calling, policy, timeouts, node, told)))
}

/// When what was not delivered is tried again, and when not any more.
fn retry_policy(settings: &ServiceSettings) -> RetryPolicy {
    let delivery = &settings.delivery;
    RetryPolicy {
        first: seconds(delivery.first_retry_s),
        longest: seconds(delivery.longest_retry_s),
        give_up_after: seconds(delivery.give_up_after_h * 3_600.0),
    }
}

/// Who gets the report of a storage commitment over an association of ours.
fn called_back(settings: &ServiceSettings) -> BTreeSet<AeTitle> {
    settings.commitment.report_to.iter().map(|to| to.ae_title.clone()).collect()
}

fn outlets(settings: &ServiceSettings) -> Vec<Outlet> {
    let outlet = |d: &DestinationSettings| {
        let format = settings.format_of(d);
        Outlet { to: d.to.clone(), format: (format != Format::default()).then(|| format.id()) }
    };
    settings.destinations.iter().map(outlet).collect()
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

/// What the earlier process of this folder left: its leases, and what it delivered last.
async fn resume(
    store: &Store,
    outbox: &Outbox,
    node: &str,
    destinations: &[String],
) -> Result<(), ServiceError> {
    let (queue, now) = (Queue::new(store, node, worker::LEASE), store::now_ms());
    let released = queue.release_all(now).await.map_err(ServiceError::Store)?;
    let retried = queue.retry_failed(now).await.map_err(ServiceError::Store)?;
    if released + retried > 0 {
        tracing::info!(in_work = released, failed = retried, "jobs of the earlier run are done again");
    }
    store.release_deliveries().await.map_err(ServiceError::Store)?;
    let elsewhere = store.pending_elsewhere(destinations).await.map_err(ServiceError::Store)?;
    for (destination, n_deliveries) in elsewhere {
        tracing::warn!(
            destination,
            n_deliveries,
            "deliveries wait for a destination that the settings do not name"
        );
    }
    outbox.settle_delivered().await.map_err(ServiceError::Settle)
}

fn patience(settings: &ServiceSettings) -> Patience {
    Patience {
        quiet: seconds(settings.series.quiet_time_s),
        incomplete: seconds(settings.series.incomplete_wait_s),
        answer: seconds(settings.delivery.connect_timeout_s + settings.delivery.answer_timeout_s),
    }
}

/// The time, and where it is in the local day (UTC where the system does not know its zone).
fn clock() -> Now {
    let local = mint::Mint::from_world().now();
    Now { ms: store::now_ms(), minute_of_day: u16::from(local.hour()) * 60 + u16::from(local.minute()) }
}

/// How long peers may take, by the settings.
#[must_use]
pub fn scu_timeouts(settings: &ServiceSettings) -> ScuTimeouts {
    let delivery = &settings.delivery;
    ScuTimeouts { connect: seconds(delivery.connect_timeout_s), answer: seconds(delivery.answer_timeout_s) }
}

/// Without a contourer nothing is gathered; the instances are on disk.
async fn forget(mut arrived: mpsc::Receiver<StoredInstance>) {
    while arrived.recv().await.is_some() {}
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServiceError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ServiceError::Threads)
}
