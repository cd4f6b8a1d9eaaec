//! One thread that owns the network and takes jobs from the queue.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::clock;
use super::failure::{ContourFailure, Remedy};
use super::journal::OrganRecord;
use super::outbox::Outbox;
use super::queue::{End, Job, Queue};
use super::store::{NewDelivery, Store, StoreError, millis, now_ms};
use crate::pipeline::delivery::{Destination, Notice, NoticeKind, Notices, replace};
use crate::pipeline::ingest::Spool;
use crate::pipeline::series::CompleteSeries;
use crate::vocabulary::causes::with_causes;

/// A structure set as it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeStructureSet {
    /// The RTSTRUCT in the default format, Part 10.
    pub part10: Vec<u8>,
    /// The same in every other format that a destination wants.
    pub formatted: Vec<Formatted>,
    /// What became of each organ.
    pub organs: Vec<OrganRecord>,
}

/// A structure set in the format of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formatted {
    /// Which; see [`crate::pipeline::rtstruct::Format::id`].
    pub format: String,
    /// The RTSTRUCT, Part 10; or why it must not go out in this format.
    pub part10: Result<Vec<u8>, String>,
}

/// A destination, and what it gets.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) to: Destination,
    /// Id of its format, `None` for the default one.
    pub(super) format: Option<String>,
}

/// Turns a complete series into an RTSTRUCT. It belongs to one thread from its first call on.
pub type Contourer = Box<dyn FnMut(&CompleteSeries) -> Result<MadeStructureSet, ContourFailure> + Send>;

/// Waits between the attempts at a series that failed by the machine's fault; then it waits for the next start.
const RETRY_AFTER: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// A job belongs to its node for this long after the node was last heard of.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// How long new jobs of other processes wait to be seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the worker has done since its start.
#[derive(Debug, Default)]
pub(super) struct WorkCounters {
    pub(super) contoured: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// The worker's belongings.
pub(super) struct Worker {
    pub(super) contourer: Contourer,
    pub(super) store: Arc<Store>,
    pub(super) spool: Arc<Spool>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) outlets: Vec<Outlet>,
    pub(super) notices: Notices,
    /// The data folder; results lie under it.
    pub(super) folder: PathBuf,
    pub(super) counters: Arc<WorkCounters>,
    /// Names this process among the nodes.
    pub(super) node: String,
    /// Told when a job may be there.
    pub(super) wake: Arc<Notify>,
    pub(super) runtime: Handle,
}

/// A structure set that is durable below the data folder, and where it goes.
struct Finished {
    result: String,
    organs: Vec<OrganRecord>,
    deliveries: Vec<NewDelivery>,
}

impl Worker {
    /// Works until `stop` turns true; the series in hand is finished.
    pub(super) fn run(mut self, stop: &watch::Receiver<bool>) {
        let mut is_in_trouble = false;
        while !*stop.borrow() {
            let runtime = self.runtime.clone();
            let taken = runtime.block_on(self.queue().take(clock()));
            let wait = match taken {
                Ok(Some(job)) => {
                    is_in_trouble = false;
                    self.work(&job, stop);
                    continue;
                }
                Ok(None) => LOOK_AGAIN,
                Err(error) => {
                    // Once for each time that the database goes away.
                    if !std::mem::replace(&mut is_in_trouble, true) {
                        tracing::error!(error = with_causes(&error), "no jobs can be taken; tried on");
                    }
                    LOOK_AGAIN * 5
                }
            };
            runtime.block_on(self.idle(wait, stop));
        }
    }

    fn queue(&self) -> Queue<'_> {
        Queue::new(&self.store, &self.node, LEASE)
    }

    async fn idle(&self, wait: Duration, stop: &watch::Receiver<bool>) {
        let mut stop = stop.clone();
        tokio::select! {
            () = self.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    fn work(&mut self, job: &Job, stop: &watch::Receiver<bool>) {
        let renewing = self.runtime.spawn(renew(Arc::clone(&self.store), self.node.clone(), job.clone()));
        let outcome = self.contour(job);
        let (uid, version, n_instances) = (&job.series, job.version, job.instances.len());
        let ended = match &outcome {
            Ok(finished) => {
                let Finished { result, organs, deliveries } = finished;
                let named = |wanted: fn(&OrganRecord) -> bool| {
                    let names: Vec<&str> =
                        organs.iter().filter(|o| wanted(o)).map(|o| o.roi_name.as_str()).collect();
                    names.join(", ")
                };
                let check = named(|organ| organ.found && !organ.check.is_empty());
                let not_found = named(|organ| !organ.found);
                if !check.is_empty() {
                    self.tell(NoticeKind::Doubt, uid.as_str(), format!("check first: {check}"));
                }
                let ended = self.end(job, &End::Contoured { result, organs, deliveries }, stop);
                tracing::info!(series = %uid, version, n_instances, check, not_found, "series contoured");
                self.counters.contoured.fetch_add(1, Ordering::Relaxed);
                self.outbox.announce();
                ended
            }
            Err(failure) => {
                let reason = with_causes(failure);
                let attempt = usize::try_from(job.attempt).unwrap_or(usize::MAX);
                match (failure.remedy, RETRY_AFTER.get(attempt.saturating_sub(1))) {
                    (Remedy::Refuse, _) => {
                        self.counters.refused.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(series = %uid, version, reason, "series refused");
                        self.tell(NoticeKind::Failure, uid.as_str(), format!("refused: {reason}"));
                        self.end(job, &End::Refused(&reason), stop)
                    }
                    (Remedy::Retry, Some(wait)) => {
                        let retry_in_s = wait.as_secs();
                        tracing::warn!(series = %uid, version, reason, retry_in_s, "series failed");
                        let not_before_ms = now_ms().saturating_add(millis(*wait));
                        self.end(job, &End::Again { reason: &reason, not_before_ms }, stop)
                    }
                    (Remedy::Retry, None) => {
                        self.counters.failed.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(series = %uid, version, reason, "series failed; tried again at the next start");
                        self.tell(NoticeKind::Failure, uid.as_str(), format!("failed: {reason}"));
                        self.end(job, &End::Failed(&reason), stop)
                    }
                }
            }
        };
        renewing.abort();
        if !ended {
            tracing::warn!(series = %uid, version, "the job was not ours any more, or the service stopped; what was made is dropped or found again");
        }
    }

    fn tell(&self, kind: NoticeKind, series: &str, text: String) {
        self.notices.put(Notice { kind, subject: series.to_owned(), destination: None, text });
    }

    /// Writes the end of a job, however long the database is away.
    fn end(&self, job: &Job, end: &End<'_>, stop: &watch::Receiver<bool>) -> bool {
        loop {
            let ended = self.runtime.block_on(self.queue().end(job, end, now_ms()));
            match ended {
                Ok(ended) => return ended,
                Err(error) => {
                    tracing::error!(series = %job.series, error = with_causes(&error), "the end of a job cannot be written yet");
                    if *stop.borrow() {
                        return false;
                    }
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        }
    }

    /// Contours unless an earlier attempt did, and keeps the result and an object for each destination. Each step is
    /// durable and done once; the deliveries begin with the end of the job.
    ///
    /// Beside a result `vN-….dcm` lie `vN-….json` with what became of each organ and, for each other format,
    /// `vN-….FORMAT.dcm` or the reason in `vN-….FORMAT.held`; the result itself is written last.
    fn contour(&mut self, job: &Job) -> Result<Finished, ContourFailure> {
        let result = format!(
            "results/{}/v{}-{}.dcm",
            job.series,
            job.version,
            job.fingerprint.get(..16).unwrap_or_default()
        );
        let path = self.folder.join(&result);
        let made = match kept(&path)? {
            Some(made) => made,
            None => {
                let series = self.series(job)?;
                let made = (self.contourer)(&series)?;
                keep(&made, &path)?;
                made
            }
        };
        let key = format!("{} v{} {}", job.series, job.version, job.fingerprint);
        let of = || Some((job.series.to_string(), job.version));
        let delivery = |Outlet { to, format }: &Outlet| match made.in_format(format.as_deref()) {
            Ok(part10) => self.outbox.keep(&key, to, part10, of()).map_err(ContourFailure::retry),
            Err(reason) => Ok(self.outbox.hold(&key, to, reason, of())),
        };
        let deliveries = self.outlets_of(job).map(delivery).collect::<Result<_, _>>()?;
        Ok(Finished { result, organs: made.organs, deliveries })
    }

    fn outlets_of(&self, job: &Job) -> impl Iterator<Item = &Outlet> {
        let (is_dry_run, wanted) = (job.choice.dry_run, job.choice.destinations.clone());
        self.outlets.iter().filter(move |outlet| {
            let named = |wanted: &Vec<String>| wanted.contains(&outlet.to.name);
            !is_dry_run && wanted.as_ref().is_none_or(named)
        })
    }

    fn series(&self, job: &Job) -> Result<CompleteSeries, ContourFailure> {
        let instance = |uid| self.spool.instance(&job.series, uid).map_err(ContourFailure::retry);
        Ok(CompleteSeries {
            series_instance_uid: job.series.clone(),
            version: job.version,
            instances: job.instances.iter().map(instance).collect::<Result<_, _>>()?,
            choice: job.choice.clone(),
        })
    }
}

impl MadeStructureSet {
    /// What a destination gets, or why it gets nothing.
    fn in_format(&self, format: Option<&str>) -> Result<&[u8], &str> {
        let Some(format) = format else { return Ok(&self.part10) };
        let made = self.formatted.iter().find(|made| made.format == format);
        let made =
            made.ok_or("it was made before this destination had this format: send the series again")?;
        made.part10.as_deref().map_err(String::as_str)
    }
}

/// What an earlier attempt has made.
fn kept(path: &Path) -> Result<Option<MadeStructureSet>, ContourFailure> {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
        return Ok(None);
    };
    if !path.exists() {
        return Ok(None);
    }
    let part10 = fs::read(path).map_err(ContourFailure::retry)?;
    let organs = fs::read(path.with_extension("json")).ok();
    let organs = organs.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let mut formatted = Vec::new();
    for entry in fs::read_dir(folder).map_err(ContourFailure::retry)? {
        let path = entry.map_err(ContourFailure::retry)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let parts: Vec<&str> = name.split('.').collect();
        let [of, format, kind @ ("dcm" | "held")] = parts[..] else { continue };
        if of == stem {
            let bytes = fs::read(&path).map_err(ContourFailure::retry)?;
            let reason = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let part10 = if kind == "dcm" { Ok(bytes) } else { Err(reason(bytes)) };
            formatted.push(Formatted { format: format.to_owned(), part10 });
        }
    }
    Ok(Some(MadeStructureSet { part10, formatted, organs }))
}

fn keep(made: &MadeStructureSet, path: &Path) -> Result<(), ContourFailure> {
    let json = serde_json::to_vec_pretty(&made.organs).map_err(ContourFailure::retry)?;
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(ContourFailure::retry)?;
    let put = |path: &Path, bytes: &[u8]| replace(path, bytes).map_err(ContourFailure::retry);
    put(&path.with_extension("json"), &json)?;
    for Formatted { format, part10 } in &made.formatted {
        match part10 {
            Ok(bytes) => put(&path.with_extension(format!("{format}.dcm")), bytes)?,
            Err(reason) => put(&path.with_extension(format!("{format}.held")), reason.as_bytes())?,
        }
    }
    put(path, &made.part10)
}

/// Renews the lease of a job until it is aborted or the job is not ours any more.
async fn renew(store: Arc<Store>, node: String, job: Job) {
    loop {
        tokio::time::sleep(LEASE / 4).await;
        let renewed: Result<bool, StoreError> = Queue::new(&store, &node, LEASE).renew(&job, now_ms()).await;
        match renewed {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(series = %job.series, version = job.version, "another node has taken this job over");
                return;
            }
            Err(error) => {
                tracing::warn!(series = %job.series, error = with_causes(&error), "a lease cannot be renewed");
            }
        }
    }
}
