//! Series and their versions.

use std::collections::BTreeMap;

use sqlx::{Any, AssertSqlSafe, Transaction};

use super::{
    Event, JobState, SeriesState, State, Store, StoreError, cell, failed, note, number_of, require_legal,
};
use super::{state_of, states};
use crate::pipeline::ingest::StoredInstance;
use crate::pipeline::series::Choice;
use crate::vocabulary::dicom::SeriesInstanceUid;

/// A version that is complete.
#[derive(Debug, Clone)]
pub struct NewVersion<'a> {
    /// Series Instance UID.
    pub series: &'a SeriesInstanceUid,
    /// All its instances.
    pub instances: &'a [StoredInstance],
    /// See `fingerprint_of`.
    pub fingerprint: &'a str,
    /// What is to be done with it.
    pub choice: &'a Choice,
    /// Why it counts as complete.
    pub why: &'a str,
    /// A number that results on disk already bear; the version's is not lower.
    pub at_least: u32,
    /// Not before, ms since 1970.
    pub not_before_ms: i64,
}

/// What is known of the last version of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub version: u32,
    /// Which instances it holds.
    pub fingerprint: String,
    /// How its job stands.
    pub state: JobState,
}

impl Store {
    /// Instances of a series have begun to come in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receiving(
        &self,
        series: &SeriesInstanceUid,
        calling_ae_title: &str,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        receiving(&mut tx, series, calling_ae_title, at_ms).await?;
        tx.commit().await.map_err(failed("committing"))
    }

    /// A series is complete: a new version with its job. The same instances as those of the last version are no news,
    /// so what is said twice happens once. Older versions that still wait are superseded.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn complete(&self, new: &NewVersion<'_>, at_ms: i64) -> Result<u32, StoreError> {
        let mut tx = self.begin().await?;
        let version = complete(&mut tx, new, at_ms).await?;
        tx.commit().await.map_err(failed("committing"))?;
        Ok(version)
    }

    /// A new version of the same instances, one of which has other content now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn changed(&self, new: &NewVersion<'_>, at_ms: i64) -> Result<u32, StoreError> {
        let mut tx = self.begin().await?;
        let before = latest(&mut tx, new.series).await?.map_or(0, |(version, _)| version);
        receiving(&mut tx, new.series, "", at_ms).await?;
        let version = add_version(&mut tx, new, before, at_ms).await?;
        let n = i64::try_from(new.instances.len()).unwrap_or(i64::MAX);
        move_series(&mut tx, new.series, SeriesState::Complete, n, at_ms, new.why).await?;
        tx.commit().await.map_err(failed("committing"))?;
        Ok(version)
    }

    /// The last version of every series, and of those without one nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn known(&self) -> Result<BTreeMap<String, Known>, StoreError> {
        let rows = sqlx::query(
            "SELECT v.series, v.version, v.fingerprint, j.state FROM versions v \
             JOIN jobs j ON j.series = v.series AND j.version = v.version \
             WHERE v.version = (SELECT MAX(w.version) FROM versions w WHERE w.series = v.series)",
        )
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading the versions"))?;
        let known = |row| {
            let known = Known {
                version: number_of(row, "version")?,
                fingerprint: cell(row, "fingerprint")?,
                state: state_of(row, "state")?,
            };
            Ok((cell(row, "series")?, known))
        };
        rows.iter().map(known).collect()
    }
}

impl Store {
    /// Series with which nothing is left to do, the one that changed last at the end: complete, no job waits or failed
    /// by the machine's fault, every delivery is with its peer, and not removed since.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finished(&self, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.series, s.last_ms FROM series s WHERE s.state = 'complete' \
             AND (s.removed_ms IS NULL OR s.removed_ms < s.last_ms) \
             AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.series = s.series \
                AND (j.state IN ('waiting', 'working', 'failed'))) \
             AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.series = s.series AND d.state <> 'delivered') \
             ORDER BY s.last_ms, s.series LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading the series"))?;
        rows.iter().map(|row| Ok((cell(row, "series")?, cell(row, "last_ms")?))).collect()
    }

    /// What was received and made of a series is about to be removed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn removed(&self, series: &str, at_ms: i64, cause: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE series SET removed_ms = $2 WHERE series = $1 AND state = 'complete'")
            .bind(series.to_owned())
            .bind(at_ms)
            .execute(&mut *tx)
            .await
            .map_err(failed("noting a removal"))?;
        let event = Event {
            subject: "series",
            series: Some(series),
            version: None,
            destination: None,
            was: SeriesState::Complete.word(),
            became: "removed",
            cause,
        };
        note(&mut tx, at_ms, event).await?;
        tx.commit().await.map_err(failed("committing"))
    }
}

/// See [`Store::complete`].
pub(super) async fn complete(
    tx: &mut Transaction<'static, Any>,
    new: &NewVersion<'_>,
    at_ms: i64,
) -> Result<u32, StoreError> {
    let version = match latest(tx, new.series).await? {
        Some((version, fingerprint)) if fingerprint == new.fingerprint => version,
        before => add_version(tx, new, before.map_or(0, |(version, _)| version), at_ms).await?,
    };
    let n = i64::try_from(new.instances.len()).unwrap_or(i64::MAX);
    move_series(tx, new.series, SeriesState::Complete, n, at_ms, new.why).await?;
    Ok(version)
}

pub(super) async fn receiving(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
    calling_ae_title: &str,
    at_ms: i64,
) -> Result<(), StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO series (series, was, state, calling_ae_title, n_instances, first_ms, last_ms) \
         VALUES ($1, 'new', 'receiving', $2, 0, $3, $3) ON CONFLICT (series) DO NOTHING",
    )
    .bind(series.as_str().to_owned())
    .bind(calling_ae_title.to_owned())
    .bind(at_ms)
    .execute(&mut **tx)
    .await
    .map_err(failed("adding a series"))?;
    if inserted.rows_affected() > 0 {
        return series_event(tx, series, at_ms, "new", SeriesState::Receiving, "the first instance is here")
            .await;
    }
    let moved = sqlx::query(
        "UPDATE series SET was = state, state = 'receiving', last_ms = $2 WHERE series = $1 AND state = 'complete'",
    )
    .bind(series.as_str().to_owned())
    .bind(at_ms)
    .execute(&mut **tx)
    .await
    .map_err(failed("moving a series"))?;
    if moved.rows_affected() > 0 {
        series_event(tx, series, at_ms, "complete", SeriesState::Receiving, "late instances are coming")
            .await?;
    }
    Ok(())
}

async fn move_series(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
    to: SeriesState,
    n_instances: i64,
    at_ms: i64,
    why: &str,
) -> Result<(), StoreError> {
    // One that nobody announced, as after the loss of the database.
    receiving_if_absent(tx, series, at_ms).await?;
    states::require_legal(Some(SeriesState::Receiving), to).map_err(StoreError::Move)?;
    let moved = sqlx::query(
        "UPDATE series SET was = state, state = $2, n_instances = $3, last_ms = $4 \
         WHERE series = $1 AND state = 'receiving'",
    )
    .bind(series.as_str().to_owned())
    .bind(to.word())
    .bind(n_instances)
    .bind(at_ms)
    .execute(&mut **tx)
    .await
    .map_err(failed("moving a series"))?;
    if moved.rows_affected() > 0 {
        series_event(tx, series, at_ms, "receiving", to, why).await?;
    }
    Ok(())
}

async fn receiving_if_absent(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
    at_ms: i64,
) -> Result<(), StoreError> {
    let found = sqlx::query("SELECT state FROM series WHERE series = $1")
        .bind(series.as_str().to_owned())
        .fetch_optional(&mut **tx)
        .await
        .map_err(failed("reading a series"))?;
    if found.is_none() { receiving(tx, series, "", at_ms).await } else { Ok(()) }
}

async fn series_event(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
    at_ms: i64,
    was: &'static str,
    became: SeriesState,
    cause: &str,
) -> Result<(), StoreError> {
    let event = Event {
        subject: "series",
        series: Some(series.as_str()),
        version: None,
        destination: None,
        was,
        became: became.word(),
        cause,
    };
    note(tx, at_ms, event).await
}

async fn latest(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
) -> Result<Option<(u32, String)>, StoreError> {
    let row = sqlx::query(
        "SELECT version, fingerprint FROM versions WHERE series = $1 ORDER BY version DESC LIMIT 1",
    )
    .bind(series.as_str().to_owned())
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed("reading the versions"))?;
    row.map(|row| Ok((number_of(&row, "version")?, cell(&row, "fingerprint")?))).transpose()
}

async fn add_version(
    tx: &mut Transaction<'static, Any>,
    new: &NewVersion<'_>,
    before: u32,
    at_ms: i64,
) -> Result<u32, StoreError> {
    let version = before.saturating_add(1).max(new.at_least);
    receiving_if_absent(tx, new.series, at_ms).await?;
    supersede(tx, new.series, version, at_ms).await?;
    let state = if new.choice.passed_over.is_some() { JobState::PassedOver } else { JobState::Waiting };
    require_legal(None, state).map_err(StoreError::Move)?;
    let lines: Vec<String> =
        new.instances.iter().map(|i| format!("{} {}", i.sop_class_uid, i.sop_instance_uid)).collect();
    let choice = serde_json::to_string(new.choice)
        .map_err(|error| StoreError::Foreign { what: "a choice", found: error.to_string() })?;
    sqlx::query(
        "INSERT INTO versions (series, version, fingerprint, n_instances, instances, choice, completed_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.series.as_str().to_owned())
    .bind(i64::from(version))
    .bind(new.fingerprint.to_owned())
    .bind(i64::try_from(new.instances.len()).unwrap_or(i64::MAX))
    .bind(lines.join("\n"))
    .bind(choice)
    .bind(at_ms)
    .execute(&mut **tx)
    .await
    .map_err(failed("adding a version"))?;
    sqlx::query(
        "INSERT INTO jobs (series, version, was, state, priority, not_before_ms, attempts, reason, created_ms, \
         changed_ms) VALUES ($1, $2, 'new', $3, $4, $5, 0, $6, $7, $7)",
    )
    .bind(new.series.as_str().to_owned())
    .bind(i64::from(version))
    .bind(state.word())
    .bind(new.choice.priority.rank())
    .bind(new.not_before_ms)
    .bind(new.choice.passed_over.clone())
    .bind(at_ms)
    .execute(&mut **tx)
    .await
    .map_err(failed("adding a job"))?;
    let event = Event {
        subject: "jobs",
        series: Some(new.series.as_str()),
        version: Some(i64::from(version)),
        destination: None,
        was: "new",
        became: state.word(),
        cause: new.choice.passed_over.as_deref().unwrap_or(new.why),
    };
    note(tx, at_ms, event).await?;
    Ok(version)
}

/// Older versions that nobody works at yet need no work any more.
async fn supersede(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
    by: u32,
    at_ms: i64,
) -> Result<(), StoreError> {
    for was in [JobState::Waiting, JobState::Failed] {
        require_legal(Some(was), JobState::Superseded).map_err(StoreError::Move)?;
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE jobs SET was = state, state = 'superseded', changed_ms = $2 WHERE series = $1 AND state = '{}' \
             RETURNING version",
            was.word()
        )))
        .bind(series.as_str().to_owned())
        .bind(at_ms)
        .fetch_all(&mut **tx)
        .await
        .map_err(failed("superseding jobs"))?;
        for row in &rows {
            let cause = format!("version {by} is here");
            let event = Event {
                subject: "jobs",
                series: Some(series.as_str()),
                version: Some(cell(row, "version")?),
                destination: None,
                was: was.word(),
                became: JobState::Superseded.word(),
                cause: &cause,
            };
            note(tx, at_ms, event).await?;
        }
    }
    Ok(())
}
