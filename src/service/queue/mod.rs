//! Jobs: taken under a lease, given back, ended; one version of a series is one job.
//!
//! A job belongs to the node that took it until its lease ends; the node renews it while it works. When a node dies
//! its lease runs out and the next one that looks takes the job. Whoever ends a job must still own it, so a node that
//! was slow, paused or cut off changes nothing: its result is dropped. What a job ends with and what that starts (its
//! deliveries) are one transaction.

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Transaction};

use super::OrganRecord;
use super::store::{
    Event, JobState, NewDelivery, State, Store, StoreError, add_delivery, cell, failed, json_of, millis,
    note, number_of, require_legal,
};
use crate::pipeline::series::{Choice, Priority};
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// A job that was begun so often without an end has ended the process each time, or it fails at every start.
pub const MOST_ATTEMPTS: u32 = 8;

/// Nothing but an off-peak job waits longer than this, ms: one whose time lies further ahead waits for a clock that was
/// set back since.
const LONGEST_WAIT_MS: i64 = 600_000;

/// When it is: by the clock, and where in the local day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// ms since 1970.
    pub ms: i64,
    /// Minute of the local day, 0..1440.
    pub minute_of_day: u16,
}

/// A job in hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which series.
    pub series: SeriesInstanceUid,
    /// Which version of it.
    pub version: u32,
    /// Which instances that is.
    pub fingerprint: String,
    /// SOP Instance UIDs.
    pub instances: Vec<SopInstanceUid>,
    /// What is to be done.
    pub choice: Choice,
    /// The how manieth attempt this is, from 1.
    pub attempt: u32,
    owner: String,
}

/// What a job ended with.
#[derive(Debug, Clone, PartialEq)]
pub enum End<'a> {
    /// The structure set is durable at `result`, below the data folder.
    Contoured {
        /// Where.
        result: &'a str,
        /// What became of each organ.
        organs: &'a [OrganRecord],
        /// Where it goes.
        deliveries: &'a [NewDelivery],
    },
    /// The series is the cause.
    Refused(&'a str),
    /// The machine is the cause, and it was tried often enough.
    Failed(&'a str),
    /// The machine is the cause; it is tried again.
    Again {
        /// Why.
        reason: &'a str,
        /// Not before, ms since 1970.
        not_before_ms: i64,
    },
    /// Not begun, as when the service stops; it does not count as an attempt.
    GivenBack(&'a str),
}

/// The queue of one node.
#[derive(Debug)]
pub struct Queue<'a> {
    store: &'a Store,
    node: &'a str,
    lease: Duration,
}

impl<'a> Queue<'a> {
    /// `node` names this process and no other, not even an earlier one of this machine.
    #[must_use]
    pub fn new(store: &'a Store, node: &'a str, lease: Duration) -> Self {
        Self { store, node, lease }
    }

    /// Takes the job that is due first: by priority, then by age. Jobs of dead nodes are due again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take(&self, now: Now) -> Result<Option<Job>, StoreError> {
        loop {
            if !self.is_anything_due(now).await? {
                return Ok(None);
            }
            let mut tx = self.store.begin().await?;
            self.take_over(&mut tx, now).await?;
            let row = sqlx::query(AssertSqlSafe(format!(
                "SELECT j.series, j.version, j.attempts, v.fingerprint, v.instances, v.choice FROM jobs j \
                 JOIN versions v ON v.series = j.series AND v.version = j.version \
                 WHERE j.state = 'waiting' AND (j.not_before_ms <= $1 OR (j.priority < 2 AND j.not_before_ms > $2)) \
                 ORDER BY j.priority, j.created_ms, j.series, j.version LIMIT 1{}",
                self.store.for_update()
            )))
            .bind(now.ms)
            .bind(now.ms.saturating_add(LONGEST_WAIT_MS))
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("looking for a job"))?;
            let Some(row) = row else {
                tx.commit().await.map_err(failed("committing"))?;
                return Ok(None);
            };
            let taken = self.begin_or_put_off(&mut tx, &row, now).await?;
            tx.commit().await.map_err(failed("committing"))?;
            if taken.is_some() {
                return Ok(taken);
            }
        }
    }

    async fn is_anything_due(&self, now: Now) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT series FROM jobs WHERE (state = 'waiting' AND (not_before_ms <= $1 OR (priority < 2 AND \
             not_before_ms > $2))) OR (state = 'working' AND (lease_until_ms < $1 OR lease_until_ms > $3)) LIMIT 1",
        )
        .bind(now.ms)
        .bind(now.ms.saturating_add(LONGEST_WAIT_MS))
        .bind(self.no_lease_ms(now))
        .fetch_optional(self.store.pool())
        .await
        .map_err(failed("looking for a job"))?;
        Ok(row.is_some())
    }

    /// No lease that was given by this clock ends after this: the clock was set back since. Its owner, where it lives, has
    /// it right again with its next renewal.
    fn no_lease_ms(&self, now: Now) -> i64 {
        now.ms.saturating_add(millis(self.lease).saturating_mul(2))
    }

    async fn take_over(&self, tx: &mut Transaction<'static, Any>, now: Now) -> Result<(), StoreError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT series, version, lease_owner FROM jobs WHERE state = 'working' AND \
             (lease_until_ms < $1 OR lease_until_ms > $2){}",
            self.store.for_update()
        )))
        .bind(now.ms)
        .bind(self.no_lease_ms(now))
        .fetch_all(&mut **tx)
        .await
        .map_err(failed("looking for leases that ran out"))?;
        for row in &rows {
            let owner: String = cell(row, "lease_owner")?;
            let cause = format!("the lease of {owner} ran out");
            let series: String = cell(row, "series")?;
            let job = (series.as_str(), cell(row, "version")?);
            let change = Change { to: JobState::Waiting, reason: Some(&cause), not_before_ms: Some(now.ms) };
            move_job(tx, job, JobState::Working, None, &change, now.ms).await?;
        }
        Ok(())
    }

    /// Begins the job of a row; one that is not to be worked at now is put off or ended, and gives `None`.
    async fn begin_or_put_off(
        &self,
        tx: &mut Transaction<'static, Any>,
        row: &AnyRow,
        now: Now,
    ) -> Result<Option<Job>, StoreError> {
        let series: String = cell(row, "series")?;
        let version = number_of(row, "version")?;
        let attempts = number_of(row, "attempts")?;
        let choice: Choice = json_of(&cell::<String>(row, "choice")?, "a choice")?;
        let key = (series.as_str(), i64::from(version));
        if attempts >= MOST_ATTEMPTS {
            let cause = format!(
                "it was begun {attempts} times and never ended: it ends the process (memory?), or fails at each start; \
                 `oarlock jobs retry` tries again"
            );
            let change = Change { to: JobState::Failed, reason: Some(&cause), not_before_ms: None };
            move_job(tx, key, JobState::Waiting, None, &change, now.ms).await?;
            return Ok(None);
        }
        let wait_minutes = match (choice.priority, choice.window) {
            (Priority::OffPeak, Some(window)) => window.opens_in_minutes(now.minute_of_day),
            _ => 0,
        };
        if wait_minutes > 0 {
            let not_before_ms = now.ms.saturating_add(i64::from(wait_minutes) * 60_000);
            let change = Change { to: JobState::Waiting, reason: None, not_before_ms: Some(not_before_ms) };
            move_job(tx, key, JobState::Waiting, None, &change, now.ms).await?;
            return Ok(None);
        }
        require_legal(Some(JobState::Waiting), JobState::Working).map_err(StoreError::Move)?;
        sqlx::query(
            "UPDATE jobs SET was = state, state = 'working', attempts = attempts + 1, lease_owner = $3, \
             lease_until_ms = $4, changed_ms = $5 WHERE series = $1 AND version = $2 AND state = 'waiting'",
        )
        .bind(series.clone())
        .bind(i64::from(version))
        .bind(self.node.to_owned())
        .bind(now.ms.saturating_add(millis(self.lease)))
        .bind(now.ms)
        .execute(&mut **tx)
        .await
        .map_err(failed("taking a job"))?;
        let cause = format!("attempt {} by {}", attempts + 1, self.node);
        note(tx, now.ms, job_event(key, JobState::Waiting, JobState::Working, &cause)).await?;
        let instances: Option<String> = cell(row, "instances")?;
        Ok(Some(Job {
            series: SeriesInstanceUid::parse(&series).map_err(|_no_uid| StoreError::Foreign {
                what: "a Series Instance UID",
                found: series.clone(),
            })?,
            version,
            fingerprint: cell(row, "fingerprint")?,
            instances: instances_of(&instances.unwrap_or_default())?,
            choice,
            attempt: attempts + 1,
            owner: self.node.to_owned(),
        }))
    }

    /// Keeps a job for another lease. `false`: it is not ours any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew(&self, job: &Job, now_ms: i64) -> Result<bool, StoreError> {
        let renewed = sqlx::query(
            "UPDATE jobs SET lease_until_ms = $5 WHERE series = $1 AND version = $2 AND state = 'working' \
             AND lease_owner = $3 AND attempts = $4",
        )
        .bind(job.series.as_str().to_owned())
        .bind(i64::from(job.version))
        .bind(job.owner.clone())
        .bind(i64::from(job.attempt))
        .bind(now_ms.saturating_add(millis(self.lease)))
        .execute(self.store.pool())
        .await
        .map_err(failed("renewing a lease"))?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Ends a job, with what follows from it, at once. `false`: it is not ours any more, and nothing was changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end(&self, job: &Job, end: &End<'_>, now_ms: i64) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let (to, reason, not_before_ms) = match end {
            End::Contoured { .. } => (JobState::Contoured, None, None),
            End::Refused(reason) => (JobState::Refused, Some(*reason), None),
            End::Failed(reason) => (JobState::Failed, Some(*reason), None),
            End::Again { reason, not_before_ms } => (JobState::Waiting, Some(*reason), Some(*not_before_ms)),
            End::GivenBack(reason) => (JobState::Waiting, Some(*reason), Some(now_ms)),
        };
        let key = (job.series.as_str(), i64::from(job.version));
        let change = Change { to, reason, not_before_ms };
        if !move_job(&mut tx, key, JobState::Working, Some(job), &change, now_ms).await? {
            return Ok(false);
        }
        match end {
            End::Contoured { result, organs, deliveries } => {
                keep_result(&mut tx, job, result, organs).await?;
                for delivery in *deliveries {
                    add_delivery(&mut tx, delivery, now_ms).await?;
                }
            }
            End::GivenBack(_) => count_one_attempt_less(&mut tx, key).await?,
            End::Refused(_) | End::Failed(_) | End::Again { .. } => {}
        }
        tx.commit().await.map_err(failed("committing"))?;
        Ok(true)
    }

    /// Gives back whatever is in work: for the start of the only node, whose earlier process is dead.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_all(&self, now_ms: i64) -> Result<u32, StoreError> {
        self.move_all(JobState::Working, "the service ended while it was in work", now_ms).await
    }

    /// Gives back what this node has in work, as when it stops; that does not count as an attempt.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_own(&self, now_ms: i64) -> Result<u32, StoreError> {
        let mut tx = self.store.begin().await?;
        let rows = sqlx::query(
            "SELECT series, version FROM jobs WHERE state = 'working' AND lease_owner = $1 ORDER BY series, version",
        )
        .bind(self.node.to_owned())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("looking for jobs"))?;
        let mut n = 0;
        for row in &rows {
            let series: String = cell(row, "series")?;
            let (series, version) = (series.as_str(), cell::<i64>(row, "version")?);
            let cause = Some("its node stops");
            let change = Change { to: JobState::Waiting, reason: cause, not_before_ms: Some(now_ms) };
            if move_job(&mut tx, (series, version), JobState::Working, None, &change, now_ms).await? {
                count_one_attempt_less(&mut tx, (series, version)).await?;
                n += 1;
            }
        }
        tx.commit().await.map_err(failed("committing"))?;
        Ok(n)
    }

    /// Lets everything that failed by the machine's fault be tried once more, as at a start.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn retry_failed(&self, now_ms: i64) -> Result<u32, StoreError> {
        self.move_all(JobState::Failed, "tried again at the start", now_ms).await
    }

    async fn move_all(&self, was: JobState, cause: &str, now_ms: i64) -> Result<u32, StoreError> {
        let mut tx = self.store.begin().await?;
        let rows = sqlx::query("SELECT series, version FROM jobs WHERE state = $1 AND attempts < $2")
            .bind(was.word())
            .bind(i64::from(MOST_ATTEMPTS) + i64::from(was == JobState::Working))
            .fetch_all(&mut *tx)
            .await
            .map_err(failed("looking for jobs"))?;
        let mut n = 0;
        for row in &rows {
            let series: String = cell(row, "series")?;
            let key = (series.as_str(), cell(row, "version")?);
            let change = Change { to: JobState::Waiting, reason: Some(cause), not_before_ms: Some(now_ms) };
            n += u32::from(move_job(&mut tx, key, was, None, &change, now_ms).await?);
        }
        tx.commit().await.map_err(failed("committing"))?;
        Ok(n)
    }
}

impl Store {
    /// Has a job done again on a person's word, its attempts counted anew. `Err` is the state in which that cannot be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn retry(
        &self,
        series: &str,
        version: i64,
        now_ms: i64,
    ) -> Result<Result<(), JobState>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query("SELECT state FROM jobs WHERE series = $1 AND version = $2")
            .bind(series.to_owned())
            .bind(version)
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("reading a job"))?;
        let was: JobState = super::store::state_of(&row, "state")?;
        if !matches!(was, JobState::Failed | JobState::Refused | JobState::PassedOver) {
            return Ok(Err(was));
        }
        let change = Change {
            to: JobState::Waiting,
            reason: Some("a person asked for it"),
            not_before_ms: Some(now_ms),
        };
        move_job(&mut tx, (series, version), was, None, &change, now_ms).await?;
        sqlx::query("UPDATE jobs SET attempts = 0, reason = NULL WHERE series = $1 AND version = $2")
            .bind(series.to_owned())
            .bind(version)
            .execute(&mut *tx)
            .await
            .map_err(failed("moving a job"))?;
        tx.commit().await.map_err(failed("committing"))?;
        Ok(Ok(()))
    }
}

/// What [`move_job`] changes besides the lease, which ends with every move out of work.
struct Change<'a> {
    to: JobState,
    reason: Option<&'a str>,
    not_before_ms: Option<i64>,
}

/// Moves a job if it still is where it was, and still `holder`'s. `false`: it was not.
async fn move_job(
    tx: &mut Transaction<'static, Any>,
    (series, version): (&str, i64),
    was: JobState,
    holder: Option<&Job>,
    change: &Change<'_>,
    now_ms: i64,
) -> Result<bool, StoreError> {
    require_legal(Some(was), change.to).map_err(StoreError::Move)?;
    let held = if holder.is_some() { "AND lease_owner = $8 AND attempts = $9" } else { "" };
    let sql = format!(
        "UPDATE jobs SET was = state, state = $3, reason = $4, not_before_ms = COALESCE($5, not_before_ms), \
         lease_owner = NULL, lease_until_ms = NULL, changed_ms = $6 \
         WHERE series = $1 AND version = $2 AND state = $7 {held}"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(series.to_owned())
        .bind(version)
        .bind(change.to.word())
        .bind(change.reason.map(str::to_owned))
        .bind(change.not_before_ms)
        .bind(now_ms)
        .bind(was.word());
    if let Some(job) = holder {
        query = query.bind(job.owner.clone()).bind(i64::from(job.attempt));
    }
    let moved = query.execute(&mut **tx).await.map_err(failed("moving a job"))?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    let cause = match (change.reason, change.to) {
        (Some(reason), _) => reason,
        (None, JobState::Waiting) => "outside its window",
        (None, _) => "done",
    };
    note(tx, now_ms, job_event((series, version), was, change.to, cause)).await?;
    if !matches!(change.to, JobState::Waiting | JobState::Working) {
        forget_instances(tx, (series, version), change.to).await?;
    }
    Ok(true)
}

/// The list of instances is needed as long as the job may be done again.
async fn forget_instances(
    tx: &mut Transaction<'static, Any>,
    (series, version): (&str, i64),
    state: JobState,
) -> Result<(), StoreError> {
    if state != JobState::Contoured {
        return Ok(());
    }
    sqlx::query("UPDATE versions SET instances = NULL WHERE series = $1 AND version = $2")
        .bind(series.to_owned())
        .bind(version)
        .execute(&mut **tx)
        .await
        .map(drop)
        .map_err(failed("changing a version"))
}

async fn keep_result(
    tx: &mut Transaction<'static, Any>,
    job: &Job,
    result: &str,
    organs: &[OrganRecord],
) -> Result<(), StoreError> {
    let json = serde_json::to_string(organs)
        .map_err(|error| StoreError::Foreign { what: "organs", found: error.to_string() })?;
    sqlx::query("UPDATE versions SET result = $3, organs = $4 WHERE series = $1 AND version = $2")
        .bind(job.series.as_str().to_owned())
        .bind(i64::from(job.version))
        .bind(result.to_owned())
        .bind(json)
        .execute(&mut **tx)
        .await
        .map(drop)
        .map_err(failed("keeping a result"))
}

async fn count_one_attempt_less(
    tx: &mut Transaction<'static, Any>,
    (series, version): (&str, i64),
) -> Result<(), StoreError> {
    sqlx::query("UPDATE jobs SET attempts = attempts - 1 WHERE series = $1 AND version = $2")
        .bind(series.to_owned())
        .bind(version)
        .execute(&mut **tx)
        .await
        .map(drop)
        .map_err(failed("giving a job back"))
}

fn job_event<'a>(
    (series, version): (&'a str, i64),
    was: JobState,
    to: JobState,
    cause: &'a str,
) -> Event<'a> {
    Event {
        subject: "jobs",
        series: Some(series),
        version: Some(version),
        destination: None,
        was: was.word(),
        became: to.word(),
        cause,
    }
}

/// `CLASS UID` on each line.
fn instances_of(lines: &str) -> Result<Vec<SopInstanceUid>, StoreError> {
    let uid = |line: &str| {
        let uid = line.split_once(' ').and_then(|(_, uid)| SopInstanceUid::parse(uid).ok());
        uid.ok_or_else(|| StoreError::Foreign { what: "an instance", found: line.to_owned() })
    };
    lines.lines().map(uid).collect()
}

#[cfg(test)]
mod tests;
