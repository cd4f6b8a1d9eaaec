//! One thread that owns the network and takes jobs from the queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::failure::{ContourFailure, Remedy};
use super::journal::OrganRecord;
use super::outbox::Outbox;
use super::queue::{End, Job, Queue};
use super::store::{NewDelivery, Store, StoreError, millis, now_ms};
use super::{Member, clock};
use crate::pipeline::delivery::{Destination, Notice, NoticeKind, Notices};
use crate::pipeline::ingest::Spool;
use crate::pipeline::objects::{Kept, ObjectError, Objects};
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
    /// Where `results` lie.
    pub(super) objects: Objects,
    /// Folder for instances that are fetched for a job.
    pub(super) working: PathBuf,
    pub(super) counters: Arc<WorkCounters>,
    pub(super) member: Member,
    /// Told when a job may be there.
    pub(super) wake: Arc<Notify>,
    pub(super) runtime: Handle,
}

/// A structure set that is durable, and where it goes.
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
        Queue::new(&self.store, &self.member.node, self.member.lease)
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
        let renewing = self.runtime.spawn(renew(Arc::clone(&self.store), self.member.clone(), job.clone()));
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
                    (Remedy::Retry, _) if !self.objects.answers() => {
                        tracing::warn!(series = %uid, version, reason, "the object store is away; given back");
                        let ended = self.end(job, &End::GivenBack(&reason), stop);
                        self.runtime.block_on(self.idle(LOOK_AGAIN * 5, stop));
                        ended
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
        let made = match kept(&self.objects, &result).map_err(ContourFailure::retry)? {
            Some(made) => made,
            None => {
                let made = self.make(job)?;
                match keep(&self.objects, &made, &result).map_err(ContourFailure::retry)? {
                    Kept::New => made,
                    // Another node was at it too, and was first.
                    Kept::Before => kept(&self.objects, &result)
                        .map_err(ContourFailure::retry)?
                        .ok_or_else(|| ContourFailure::retry(ObjectError::Absent(result.clone())))?,
                }
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

    /// Contours the series; what was fetched for it is removed again.
    fn make(&mut self, job: &Job) -> Result<MadeStructureSet, ContourFailure> {
        std::fs::create_dir_all(&self.working).map_err(ContourFailure::retry)?;
        let folder = tempfile::tempdir_in(&self.working).map_err(ContourFailure::retry)?;
        let instances = self.spool.instances(&job.series, &job.instances, folder.path());
        let series = CompleteSeries {
            series_instance_uid: job.series.clone(),
            version: job.version,
            instances: instances.map_err(ContourFailure::retry)?,
            choice: job.choice.clone(),
        };
        (self.contourer)(&series)
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
fn kept(objects: &Objects, result: &str) -> Result<Option<MadeStructureSet>, ObjectError> {
    let (folder, stem) = parts_of(result);
    let Some(part10) = objects.get(result)? else { return Ok(None) };
    let organs = objects.get(&format!("{folder}/{stem}.json"))?;
    let organs = organs.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let mut formatted = Vec::new();
    for name in objects.list(folder)?.objects {
        let parts: Vec<&str> = name.split('.').collect();
        let [of, format, kind @ ("dcm" | "held")] = parts[..] else { continue };
        if of == stem {
            let name = format!("{folder}/{name}");
            let bytes = objects.get(&name)?.ok_or(ObjectError::Absent(name))?;
            let reason = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let part10 = if kind == "dcm" { Ok(bytes) } else { Err(reason(bytes)) };
            formatted.push(Formatted { format: format.to_owned(), part10 });
        }
    }
    Ok(Some(MadeStructureSet { part10, formatted, organs }))
}

/// Keeps everything beside the result, then the result: of two nodes at the same job the first one's counts.
fn keep(objects: &Objects, made: &MadeStructureSet, result: &str) -> Result<Kept, ObjectError> {
    let json = serde_json::to_vec_pretty(&made.organs).expect("numbers, texts and lists become JSON");
    let (folder, stem) = parts_of(result);
    let put = |rest: &str, bytes: &[u8]| objects.put(&format!("{folder}/{stem}.{rest}"), bytes);
    put("json", &json)?;
    for Formatted { format, part10 } in &made.formatted {
        match part10 {
            Ok(bytes) => put(&format!("{format}.dcm"), bytes)?,
            Err(reason) => put(&format!("{format}.held"), reason.as_bytes())?,
        }
    }
    objects.put_new(result, &[&made.part10])
}

/// The folder of a result, and its name without the ending.
fn parts_of(result: &str) -> (&str, &str) {
    let (folder, name) = result.rsplit_once('/').unwrap_or(("", result));
    (folder, name.strip_suffix(".dcm").unwrap_or(name))
}

/// Renews the lease of a job until it is aborted or the job is not ours any more.
async fn renew(store: Arc<Store>, member: Member, job: Job) {
    let Member { node, lease } = member;
    loop {
        tokio::time::sleep(lease / 4).await;
        let renewed: Result<bool, StoreError> = Queue::new(&store, &node, lease).renew(&job, now_ms()).await;
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
