//! What was received and made is removed from the shared bucket when it is old; never what is still to be done.
//!
//! Every node looks. A series is removed by one of them, under a mark in the database that keeps new instances of it out
//! meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::reload::Live;
use super::store::{Store, StoreError, millis, now_ms};
use crate::pipeline::delivery::OutboxFolder;
use crate::pipeline::objects::{ObjectError, Objects};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::SeriesInstanceUid;

const HOUR: Duration = Duration::from_secs(3_600);

/// Series that one sweep looks at, the oldest.
const AT_A_TIME: u32 = 1_000;

/// For the objects of one series to be removed; the mark stands for twice as long.
const REMOVING: Duration = Duration::from_secs(300);

/// Why a series was not removed; it is looked at again.
#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error("the store")]
    Store(#[source] StoreError),
    #[error("the bucket")]
    Object(#[source] ObjectError),
    #[error("it took longer than {} s", REMOVING.as_secs())]
    TooSlow,
    #[error("a thread ended by a fault of ours; please report this")]
    Panic,
}

/// What removes.
pub(super) struct SharedRetention {
    /// What is in force: how many days are kept.
    pub(super) live: watch::Receiver<Arc<Live>>,
    pub(super) store: Arc<Store>,
    pub(super) objects: Objects,
}

impl SharedRetention {
    /// Looks once an hour, and more often where days are short, until `stop` turns true.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let keep_days = self.live.borrow_and_update().settings.retention.keep_days;
            let pause = Duration::try_from_secs_f64(keep_days.unwrap_or(f64::INFINITY) * 3_600.0)
                .map_or(HOUR, |each| each.clamp(Duration::from_secs(1), HOUR));
            if let Some(keep_days) = keep_days
                && let Err(error) = self.sweep(keep_days).await
            {
                tracing::warn!(error = with_causes(&error), "not all that is old was removed; tried on");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.live.changed() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    async fn sweep(&self, keep_days: f64) -> Result<(), RemovalError> {
        #[expect(clippy::cast_possible_truncation, reason = "a rounding to whole ms is meant")]
        let oldest = now_ms() - (keep_days * 86_400_000.0) as i64;
        for (series, last_ms) in self.store.finished(AT_A_TIME).await.map_err(RemovalError::Store)? {
            if last_ms >= oldest {
                break;
            }
            let now = now_ms();
            let until_ms = now.saturating_add(2 * millis(REMOVING));
            if self.store.begin_removal(&series, until_ms, now).await.map_err(RemovalError::Store)? {
                self.remove(&series).await?;
            }
        }
        Ok(())
    }

    /// Instances go first: an end in between leaves a series that is looked at again.
    async fn remove(&self, series: &str) -> Result<(), RemovalError> {
        let Ok(uid) = SeriesInstanceUid::parse(series) else { return Ok(()) };
        let job = self.store.job(series).await.map_err(RemovalError::Store)?;
        let versions = job.into_iter().flat_map(|job| job.versions);
        let deliveries: Vec<_> = versions.flat_map(|version| version.deliveries).collect();
        let (objects, folder) = (self.objects.clone(), format!("instances/{uid}"));
        let listed = tokio::task::spawn_blocking(move || objects.list(&folder)).await;
        let listed = listed.map_err(|_panic| RemovalError::Panic)?.map_err(RemovalError::Object)?;
        let instance = |name: &String| name.strip_suffix(".dcm")?.parse().ok();
        let instances: Vec<_> = listed.objects.iter().filter_map(instance).collect();
        // First, so that nobody is promised what goes at this moment.
        self.store.unplace(&uid, &instances).await.map_err(RemovalError::Store)?;
        let objects = self.objects.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            for folder in ["instances", "results"].map(|folder| format!("{folder}/{uid}")) {
                for name in objects.list(&folder).map_err(RemovalError::Object)?.objects {
                    if begun.elapsed() > REMOVING {
                        return Err(RemovalError::TooSlow);
                    }
                    objects.remove(&format!("{folder}/{name}")).map_err(RemovalError::Object)?;
                }
            }
            let outbox = OutboxFolder::over(objects.below("outbox"));
            for delivery in deliveries {
                outbox.forget(&delivery.delivery, &delivery.destination).map_err(RemovalError::Object)?;
            }
            Ok(())
        });
        removed.await.map_err(|_panic| RemovalError::Panic)??;
        let cause = "older than retention.keep_days";
        self.store.removed(series, now_ms(), cause).await.map_err(RemovalError::Store)?;
        self.store.end_removal(series).await.map_err(RemovalError::Store)?;
        tracing::info!(%series, cause, "removed");
        Ok(())
    }
}
