//! What was received and made is removed when it is old or the disk's share is used up; never what is still to be done.
//!
//! The record stays: `oarlock jobs show` knows a series whose files are gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::reload::Live;
use super::store::{Store, StoreError, now_ms};
use crate::pipeline::delivery::{OutboxError, OutboxFolder};
use crate::pipeline::ingest::{Spool, SpoolError};
use crate::settings::service::RetentionSettings;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::SeriesInstanceUid;

const HOUR: Duration = Duration::from_secs(3_600);

/// Series that one sweep looks at, the oldest; the rest is for the next.
const AT_A_TIME: u32 = 1_000;

/// Why a series was not removed; it is looked at again.
#[derive(Debug, thiserror::Error)]
enum RetentionError {
    #[error("the store")]
    Store(#[source] StoreError),
    #[error("the instances")]
    Spool(#[source] SpoolError),
    #[error("a delivered structure set")]
    Outbox(#[source] OutboxError),
    #[error("{path}")]
    Io { path: PathBuf, source: io::Error },
}

/// What removes.
pub(super) struct Retention {
    pub(super) live: watch::Receiver<Arc<Live>>,
    pub(super) store: Arc<Store>,
    pub(super) spool: Arc<Spool>,
    pub(super) folder: PathBuf,
}

impl Retention {
    /// Looks once an hour, and more often where days are short, until `stop` turns true.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let limits = self.live.borrow_and_update().settings.retention;
            let days = limits.keep_days.unwrap_or(f64::INFINITY);
            let pause = Duration::try_from_secs_f64(days * 3_600.0)
                .map_or(HOUR, |each| each.clamp(Duration::from_secs(1), HOUR));
            if limits != RetentionSettings::default()
                && let Err(error) = self.sweep(limits).await
            {
                tracing::warn!(error = with_causes(&error), "not all that is old was removed; tried on");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.live.changed() => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn sweep(&self, limits: RetentionSettings) -> Result<(), RetentionError> {
        let mut held = match limits.max_gb {
            Some(_) => bytes_below(&self.folder)?,
            None => 0,
        };
        #[expect(clippy::cast_possible_truncation, reason = "a rounding to whole bytes and ms is meant")]
        let most = limits.max_gb.map_or(i64::MAX, |gb| (gb * 1e9) as i64);
        #[expect(clippy::cast_possible_truncation, reason = "a rounding to whole bytes and ms is meant")]
        let oldest = limits.keep_days.map_or(i64::MIN, |days| now_ms() - (days * 86_400_000.0) as i64);
        for (series, last_ms) in self.store.finished(AT_A_TIME).await.map_err(RetentionError::Store)? {
            let cause = if last_ms < oldest {
                "older than retention.keep_days"
            } else if held > most {
                "the data folder holds more than retention.max_gb"
            } else {
                break;
            };
            held -= self.remove(&series, cause).await?;
        }
        Ok(())
    }

    /// Removes the files of a series and says how many bytes they had. Instances go first: a crash in between leaves a series
    /// that is looked at again, not files that nobody looks at.
    async fn remove(&self, series: &str, cause: &str) -> Result<i64, RetentionError> {
        let Ok(uid) = SeriesInstanceUid::parse(series) else { return Ok(0) };
        let job = self.store.job(series).await.map_err(RetentionError::Store)?;
        let results = self.folder.join("results").join(uid.as_str());
        let freed =
            bytes_below(&self.folder.join("instances").join(uid.as_str()))? + 2 * bytes_below(&results)?;
        self.spool.remove_series(&uid).map_err(RetentionError::Spool)?;
        let outbox = OutboxFolder::open(&self.folder.join("outbox")).map_err(RetentionError::Outbox)?;
        for delivery in job.into_iter().flat_map(|job| job.versions).flat_map(|version| version.deliveries) {
            outbox.forget(&delivery.delivery, &delivery.destination).map_err(RetentionError::Outbox)?;
        }
        if results.is_dir() {
            let failed = |source| RetentionError::Io { path: results.clone(), source };
            fs::remove_dir_all(&results).map_err(failed)?;
        }
        self.store.removed(series, now_ms(), cause).await.map_err(RetentionError::Store)?;
        tracing::info!(%series, cause, "removed");
        Ok(freed)
    }
}

/// Bytes of all files below a folder; none where there is none.
fn bytes_below(folder: &Path) -> Result<i64, RetentionError> {
    let mut sum = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(RetentionError::Io { path: folder, source }),
        };
        for entry in entries.flatten() {
            // What another thread has just moved away does not count.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                folders.push(entry.path());
            } else {
                sum += i64::try_from(about.len()).unwrap_or(i64::MAX / 2);
            }
        }
    }
    Ok(sum)
}
