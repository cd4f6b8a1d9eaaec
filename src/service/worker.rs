//! One thread that owns the network; complete series wait before it in a bounded queue.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::failure::{ContourFailure, Remedy};
use super::journal::{Journal, OrganRecord, Outcome, Record};
use crate::pipeline::delivery::{Destination, Notice, NoticeKind, Notices, Outbox, OutboxError, replace};
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
    pub(super) outbox: Arc<Outbox>,
    pub(super) outlets: Vec<Outlet>,
    pub(super) journal: Arc<Journal>,
    pub(super) notices: Notices,
    /// Folder of finished structure sets.
    pub(super) results: PathBuf,
    pub(super) counters: Arc<WorkCounters>,
}

impl Worker {
    /// Works until the queue is closed or `stop` turns true; the series in hand is finished.
    pub(super) fn run(
        mut self,
        mut queue: mpsc::Receiver<CompleteSeries>,
        stop: &watch::Receiver<bool>,
        runtime: &Handle,
    ) {
        while let Some(series) = queue.blocking_recv() {
            if *stop.borrow() {
                return;
            }
            let Some((outcome, organs)) = self.outcome(&series, stop, runtime) else { return };
            let (uid, version) = (&series.series_instance_uid, series.version);
            match &outcome {
                Outcome::Contoured => {
                    self.counters.contoured.fetch_add(1, Ordering::Relaxed);
                    let named = |wanted: fn(&OrganRecord) -> bool| {
                        let names: Vec<&str> =
                            organs.iter().filter(|o| wanted(o)).map(|o| o.roi_name.as_str()).collect();
                        names.join(", ")
                    };
                    let check = named(|organ| organ.found && !organ.check.is_empty());
                    let not_found = named(|organ| !organ.found);
                    let n_instances = series.instances.len();
                    tracing::info!(series = %uid, version, n_instances, check, not_found, "series contoured");
                }
                Outcome::Refused(reason) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(series = %uid, version, reason, "series refused");
                }
                Outcome::Failed(reason) => {
                    self.counters.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(series = %uid, version, reason, "series failed; tried again at the next start");
                }
            }
            self.tell(uid.as_str(), &outcome, &organs);
            if let Err(error) = self.journal.write(&Record::of(&series, outcome, organs)) {
                let error: &dyn std::error::Error = &error;
                tracing::error!(series = %uid, error, "the outcome could not be recorded; the series is done again");
            }
        }
    }

    /// Tells of what a person should look at.
    fn tell(&self, series: &str, outcome: &Outcome, organs: &[OrganRecord]) {
        let doubtful: Vec<&str> = organs
            .iter()
            .filter(|organ| organ.found && !organ.check.is_empty())
            .map(|organ| organ.roi_name.as_str())
            .collect();
        let (kind, text) = match outcome {
            Outcome::Contoured if doubtful.is_empty() => return,
            Outcome::Contoured => (NoticeKind::Doubt, format!("check first: {}", doubtful.join(", "))),
            Outcome::Refused(reason) => (NoticeKind::Failure, format!("refused: {reason}")),
            Outcome::Failed(reason) => (NoticeKind::Failure, format!("failed: {reason}")),
        };
        self.notices.put(Notice { kind, subject: series.to_owned(), destination: None, text });
    }

    /// `None`: asked to stop between two attempts.
    fn outcome(
        &mut self,
        series: &CompleteSeries,
        stop: &watch::Receiver<bool>,
        runtime: &Handle,
    ) -> Option<(Outcome, Vec<OrganRecord>)> {
        let mut waits = RETRY_AFTER.iter();
        loop {
            let failure = match self.contour(series) {
                Ok(organs) => return Some((Outcome::Contoured, organs)),
                Err(failure) => failure,
            };
            let reason = with_causes(&failure);
            let wait = match (failure.remedy, waits.next()) {
                (Remedy::Refuse, _) => return Some((Outcome::Refused(reason), Vec::new())),
                (Remedy::Retry, None) => return Some((Outcome::Failed(reason), Vec::new())),
                (Remedy::Retry, Some(wait)) => *wait,
            };
            tracing::warn!(series = %series.series_instance_uid, reason, retry_in_s = wait.as_secs(), "series failed");
            let mut stop = stop.clone();
            let stopped = runtime
                .block_on(async { tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_ok() });
            if stopped {
                return None;
            }
        }
    }

    /// Contours unless an earlier run did, keeps the result, and puts it into the outbox. Each step is durable and
    /// done once, so a stop between two of them loses and doubles nothing.
    ///
    /// Beside a result `vN-….dcm` lie `vN-….json` with what became of each organ and, for each other format,
    /// `vN-….FORMAT.dcm` or the reason in `vN-….FORMAT.held`; the result itself is written last.
    fn contour(&mut self, series: &CompleteSeries) -> Result<Vec<OrganRecord>, ContourFailure> {
        let fingerprint = series.fingerprint();
        let stem = format!("v{}-{}", series.version, fingerprint.get(..16).unwrap_or_default());
        let folder = self.results.join(series.series_instance_uid.as_str());
        let made = match kept(&folder, &stem)? {
            Some(made) => made,
            None => {
                let made = (self.contourer)(series)?;
                fs::create_dir_all(&folder).map_err(ContourFailure::retry)?;
                keep(&made, &folder, &stem)?;
                made
            }
        };
        let key = format!("{} v{} {fingerprint}", series.series_instance_uid, series.version);
        for Outlet { to, format } in &self.outlets {
            let added = match made.in_format(format.as_deref()) {
                Ok(part10) => self.outbox.add(&key, to, part10),
                Err(reason) => self.outbox.hold(&key, to, reason),
            };
            added.map_err(|error: OutboxError| ContourFailure::retry(error))?;
        }
        Ok(made.organs)
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

/// What an earlier run has made.
fn kept(folder: &Path, stem: &str) -> Result<Option<MadeStructureSet>, ContourFailure> {
    let path = folder.join(format!("{stem}.dcm"));
    if !path.exists() {
        return Ok(None);
    }
    let part10 = fs::read(&path).map_err(ContourFailure::retry)?;
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

fn keep(made: &MadeStructureSet, folder: &Path, stem: &str) -> Result<(), ContourFailure> {
    let json = serde_json::to_vec_pretty(&made.organs).map_err(ContourFailure::retry)?;
    let put = |name: String, bytes: &[u8]| replace(&folder.join(name), bytes).map_err(ContourFailure::retry);
    put(format!("{stem}.json"), &json)?;
    for Formatted { format, part10 } in &made.formatted {
        match part10 {
            Ok(bytes) => put(format!("{stem}.{format}.dcm"), bytes)?,
            Err(reason) => put(format!("{stem}.{format}.held"), reason.as_bytes())?,
        }
    }
    put(format!("{stem}.dcm"), &made.part10)
}
