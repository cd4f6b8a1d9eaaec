//! What a person asks about.

use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::{Delivery, HistoryEntry, JobState, SeriesState, State, Store, StoreError, cell, failed, json_of};
use super::{number_of, state_of};
use crate::pipeline::series::Choice;
use crate::service::OrganRecord;

/// Which jobs are listed.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only these; all without any.
    pub states: Vec<JobState>,
    /// At most so many; the newest.
    pub limit: u32,
}

/// A job on one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobSummary {
    /// Series Instance UID.
    pub series: String,
    /// Which version.
    pub version: i64,
    /// How it stands.
    pub state: JobState,
    /// How many instances it has.
    pub n_instances: i64,
    /// How often it was begun since it last waited for the first time.
    pub attempts: u32,
    /// Why it stands as it does.
    pub reason: Option<String>,
    /// When it was complete, ms since 1970.
    pub completed_ms: i64,
    /// When it last moved, ms since 1970.
    pub changed_ms: i64,
    /// Not before, ms since 1970; counts while it waits.
    pub not_before_ms: i64,
    /// Deliveries in all.
    pub n_deliveries: i64,
    /// Deliveries that a peer took.
    pub n_delivered: i64,
    /// Deliveries that were given up or held back.
    pub n_undeliverable: i64,
}

/// A version with everything about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionDetail {
    /// Its job.
    #[serde(flatten)]
    pub job: JobSummary,
    /// Which instances it holds.
    pub fingerprint: String,
    /// Which rule took it, and what that asks for.
    pub choice: Choice,
    /// Its structure set, below the data folder.
    pub result: Option<String>,
    /// What became of each organ.
    pub organs: Vec<OrganRecord>,
    /// Which node works at it.
    pub lease_owner: Option<String>,
    /// Where it goes.
    pub deliveries: Vec<Delivery>,
}

/// A series with everything about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobDetail {
    /// Series Instance UID.
    pub series: String,
    /// How it stands.
    pub state: SeriesState,
    /// Who sent its first instance; empty where that is not known.
    pub calling_ae_title: String,
    /// When the first instance came, ms since 1970.
    pub first_ms: i64,
    /// When it last changed, ms since 1970.
    pub last_ms: i64,
    /// Its versions, oldest first.
    pub versions: Vec<VersionDetail>,
    /// What happened, oldest first.
    pub history: Vec<HistoryEntry>,
}

const SUMMARY: &str = "SELECT j.series, j.version, j.state, j.attempts, j.reason, j.changed_ms, j.not_before_ms, \
    j.lease_owner, v.n_instances, v.completed_ms, v.fingerprint, v.choice, v.result, v.organs, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.series = j.series AND d.version = j.version) AS n_deliveries, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.series = j.series AND d.version = j.version \
        AND d.state = 'delivered') AS n_delivered, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.series = j.series AND d.version = j.version \
        AND d.state IN ('failed', 'held')) AS n_undeliverable \
    FROM jobs j JOIN versions v ON v.series = j.series AND v.version = j.version";

fn summary_of(row: &AnyRow) -> Result<JobSummary, StoreError> {
    Ok(JobSummary {
        series: cell(row, "series")?,
        version: cell(row, "version")?,
        state: state_of(row, "state")?,
        n_instances: cell(row, "n_instances")?,
        attempts: number_of(row, "attempts")?,
        reason: cell(row, "reason")?,
        completed_ms: cell(row, "completed_ms")?,
        changed_ms: cell(row, "changed_ms")?,
        not_before_ms: cell(row, "not_before_ms")?,
        n_deliveries: cell(row, "n_deliveries")?,
        n_delivered: cell(row, "n_delivered")?,
        n_undeliverable: cell(row, "n_undeliverable")?,
    })
}

impl Store {
    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobSummary>, StoreError> {
        let words: Vec<String> = filter.states.iter().map(|state| format!("'{}'", state.word())).collect();
        let only = if words.is_empty() {
            String::new()
        } else {
            format!(" WHERE j.state IN ({})", words.join(", "))
        };
        let sql = format!("{SUMMARY}{only} ORDER BY j.changed_ms DESC, j.series, j.version DESC LIMIT $1");
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(i64::from(filter.limit))
            .fetch_all(self.pool())
            .await
            .map_err(failed("reading the jobs"))?;
        rows.iter().map(summary_of).collect()
    }

    /// Series that are coming in: UID, who sends it, since when.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn series_receiving(&self) -> Result<Vec<(String, String, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT series, calling_ae_title, last_ms FROM series WHERE state = 'receiving' ORDER BY last_ms, series",
        )
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading the series"))?;
        rows.iter()
            .map(|row| Ok((cell(row, "series")?, cell(row, "calling_ae_title")?, cell(row, "last_ms")?)))
            .collect()
    }

    /// Everything about a series; `None` where it is not known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn job(&self, series: &str) -> Result<Option<JobDetail>, StoreError> {
        let row =
            sqlx::query("SELECT state, calling_ae_title, first_ms, last_ms FROM series WHERE series = $1")
                .bind(series.to_owned())
                .fetch_optional(self.pool())
                .await
                .map_err(failed("reading the series"))?;
        let Some(row) = row else { return Ok(None) };
        let rows = sqlx::query(AssertSqlSafe(format!("{SUMMARY} WHERE j.series = $1 ORDER BY j.version")))
            .bind(series.to_owned())
            .fetch_all(self.pool())
            .await
            .map_err(failed("reading the jobs"))?;
        let mut versions = Vec::new();
        for row in &rows {
            let job = summary_of(row)?;
            let deliveries = self.deliveries(Some((series, job.version))).await?;
            let organs: Option<String> = cell(row, "organs")?;
            versions.push(VersionDetail {
                fingerprint: cell(row, "fingerprint")?,
                choice: json_of::<Choice>(&cell::<String>(row, "choice")?, "a choice")?,
                result: cell(row, "result")?,
                organs: organs.map(|json| json_of(&json, "organs")).transpose()?.unwrap_or_default(),
                lease_owner: cell(row, "lease_owner")?,
                deliveries,
                job,
            });
        }
        Ok(Some(JobDetail {
            series: series.to_owned(),
            state: state_of(&row, "state")?,
            calling_ae_title: cell(&row, "calling_ae_title")?,
            first_ms: cell(&row, "first_ms")?,
            last_ms: cell(&row, "last_ms")?,
            versions,
            history: self.history(series, 1_000).await?,
        }))
    }

    /// How many jobs are in each state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn job_counts(&self) -> Result<Vec<(JobState, u64)>, StoreError> {
        counts(self, "SELECT state, COUNT(*) AS n FROM jobs GROUP BY state").await
    }
}

/// Counts by state; a state without rows counts 0.
pub(super) async fn counts<S: State>(store: &Store, sql: &'static str) -> Result<Vec<(S, u64)>, StoreError> {
    let rows = sqlx::query(sql).fetch_all(store.pool()).await.map_err(failed("counting"))?;
    let mut counts: Vec<(S, u64)> = S::ALL.iter().map(|state| (*state, 0)).collect();
    for row in &rows {
        let state: S = state_of(row, "state")?;
        if let Some(count) = counts.iter_mut().find(|(known, _)| *known == state) {
            count.1 = number_of(row, "n")?.into();
        }
    }
    Ok(counts)
}
