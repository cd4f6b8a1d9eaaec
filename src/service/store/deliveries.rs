//! What still has to go, what went, and what was given up.

use std::time::Duration;

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Transaction};

use super::millis;
use super::{
    DeliveryState, Event, State, Store, StoreError, cell, failed, note, number_of, require_legal, state_of,
};

/// A delivery. Times are ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Names the object across restarts; with the destination it names the file.
    pub delivery: String,
    /// `AET@HOST:PORT`.
    pub destination: String,
    /// Series Instance UID, where it came from one.
    pub series: Option<String>,
    /// Its version.
    pub version: Option<i64>,
    /// How it stands.
    pub state: DeliveryState,
    /// Attempts since it was last asked for.
    pub attempts: u32,
    /// When it came in.
    pub created_ms: i64,
    /// Since when it is tried.
    pub since_ms: i64,
    /// Not before.
    pub next_attempt_ms: i64,
    /// When the peer took it.
    pub delivered_ms: Option<i64>,
    /// Why the last attempt failed, or why it is held back.
    pub last_error: Option<String>,
    /// What the peer warned of when it took it.
    pub warning: Option<String>,
}

/// What is put into the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// Names the object.
    pub delivery: String,
    /// `AET@HOST:PORT`.
    pub destination: String,
    /// Pending, held, or delivered where the disk says that it was.
    pub state: DeliveryState,
    /// Why it is held.
    pub reason: Option<String>,
    /// Series Instance UID and version.
    pub of: Option<(String, u32)>,
}

const COLUMNS: &str = "delivery, destination, series, version, state, attempts, created_ms, since_ms, next_attempt_ms, \
                       delivered_ms, last_error, warning";

fn delivery_of(row: &AnyRow) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        delivery: cell(row, "delivery")?,
        destination: cell(row, "destination")?,
        series: cell(row, "series")?,
        version: cell(row, "version")?,
        state: state_of(row, "state")?,
        attempts: number_of(row, "attempts")?,
        created_ms: cell(row, "created_ms")?,
        since_ms: cell(row, "since_ms")?,
        next_attempt_ms: cell(row, "next_attempt_ms")?,
        delivered_ms: cell(row, "delivered_ms")?,
        last_error: cell(row, "last_error")?,
        warning: cell(row, "warning")?,
    })
}

/// Adds a delivery in a transaction of the caller's; one that is there already stays as it is.
pub(in crate::service) async fn add_delivery(
    tx: &mut Transaction<'static, Any>,
    new: &NewDelivery,
    at_ms: i64,
) -> Result<(), StoreError> {
    require_legal(None, new.state).map_err(StoreError::Move)?;
    let delivered_ms = (new.state == DeliveryState::Delivered).then_some(at_ms);
    let inserted = sqlx::query(
        "INSERT INTO deliveries (delivery, destination, series, version, was, state, attempts, created_ms, since_ms, \
         next_attempt_ms, delivered_ms, last_error) VALUES ($1, $2, $3, $4, 'new', $5, 0, $6, $6, $6, $7, $8) \
         ON CONFLICT (delivery, destination) DO NOTHING",
    )
    .bind(new.delivery.clone())
    .bind(new.destination.clone())
    .bind(new.of.as_ref().map(|(series, _)| series.clone()))
    .bind(new.of.as_ref().map(|(_, version)| i64::from(*version)))
    .bind(new.state.word())
    .bind(at_ms)
    .bind(delivered_ms)
    .bind(new.reason.clone())
    .execute(&mut **tx)
    .await
    .map_err(failed("adding a delivery"))?;
    if inserted.rows_affected() == 0 {
        return Ok(());
    }
    let cause = match new.state {
        DeliveryState::Held => new.reason.as_deref().unwrap_or("held back"),
        DeliveryState::Delivered => "the outbox on disk says that it was delivered",
        _ => "the structure set is made",
    };
    let event = Event {
        subject: "deliveries",
        series: new.of.as_ref().map(|(series, _)| series.as_str()),
        version: new.of.as_ref().map(|(_, version)| i64::from(*version)),
        destination: Some(&new.destination),
        was: "new",
        became: new.state.word(),
        cause,
    };
    note(tx, at_ms, event).await
}

impl Store {
    /// Puts something into the outbox on its own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_delivery(&self, new: &NewDelivery, at_ms: i64) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        add_delivery(&mut tx, new, at_ms).await?;
        tx.commit().await.map_err(failed("committing"))
    }

    /// The deliveries of a version, or all, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries(&self, of: Option<(&str, i64)>) -> Result<Vec<Delivery>, StoreError> {
        let filter = if of.is_some() { "WHERE series = $1 AND version = $2" } else { "" };
        let sql =
            format!("SELECT {COLUMNS} FROM deliveries {filter} ORDER BY created_ms, delivery, destination");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        if let Some((series, version)) = of {
            query = query.bind(series.to_owned()).bind(version);
        }
        let rows = query.fetch_all(self.pool()).await.map_err(failed("reading the deliveries"))?;
        rows.iter().map(delivery_of).collect()
    }

    /// Deliveries that still have to go and of which nothing says that they went before, as those that a person has sent
    /// again did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn never_delivered(&self) -> Result<Vec<Delivery>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS} FROM deliveries WHERE state = 'pending' AND delivered_ms IS NULL");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(self.pool()).await;
        rows.map_err(failed("reading the deliveries"))?.iter().map(delivery_of).collect()
    }

    /// How many deliveries are in each state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delivery_counts(&self) -> Result<Vec<(DeliveryState, u64)>, StoreError> {
        super::view::counts(self, "SELECT state, COUNT(*) AS n FROM deliveries GROUP BY state").await
    }

    /// Takes the delivery to a destination that is due first, under a lease, so that no other node tries it too.
    ///
    /// One whose next attempt lies further ahead than any wait is due too: the clock was set back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_due(
        &self,
        destination: &str,
        owner: &str,
        lease: Duration,
        longest_wait: Duration,
        now_ms: i64,
    ) -> Result<Option<Delivery>, StoreError> {
        const DUE: &str = "destination = $1 AND state = 'pending' AND (next_attempt_ms <= $2 OR next_attempt_ms > $3) \
                           AND (lease_until_ms IS NULL OR lease_until_ms < $2)";
        let far_ms = now_ms.saturating_add(millis(longest_wait).saturating_mul(2)).saturating_add(1_000);
        let peek = sqlx::query(AssertSqlSafe(format!("SELECT delivery FROM deliveries WHERE {DUE} LIMIT 1")))
            .bind(destination.to_owned())
            .bind(now_ms)
            .bind(far_ms)
            .fetch_optional(self.pool())
            .await
            .map_err(failed("looking for deliveries"))?;
        if peek.is_none() {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM deliveries WHERE {DUE} ORDER BY created_ms, delivery LIMIT 1{}",
            self.for_update()
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(destination.to_owned())
            .bind(now_ms)
            .bind(far_ms)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("looking for deliveries"))?;
        let Some(row) = row else { return Ok(None) };
        let delivery = delivery_of(&row)?;
        sqlx::query(
            "UPDATE deliveries SET lease_owner = $3, lease_until_ms = $4 WHERE delivery = $1 AND destination = $2",
        )
        .bind(delivery.delivery.clone())
        .bind(destination.to_owned())
        .bind(owner.to_owned())
        .bind(now_ms.saturating_add(millis(lease)))
        .execute(&mut *tx)
        .await
        .map_err(failed("taking a delivery"))?;
        tx.commit().await.map_err(failed("committing"))?;
        Ok(Some(delivery))
    }

    /// Writes what became of an attempt and gives the lease back. `false`: somebody else had moved it meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn after_attempt(&self, after: &Delivery, cause: &str, at_ms: i64) -> Result<bool, StoreError> {
        require_legal(Some(DeliveryState::Pending), after.state).map_err(StoreError::Move)?;
        let mut tx = self.begin().await?;
        let moved = sqlx::query(
            "UPDATE deliveries SET was = state, state = $3, attempts = $4, next_attempt_ms = $5, delivered_ms = $6, \
             last_error = $7, warning = $8, lease_owner = NULL, lease_until_ms = NULL \
             WHERE delivery = $1 AND destination = $2 AND state = 'pending'",
        )
        .bind(after.delivery.clone())
        .bind(after.destination.clone())
        .bind(after.state.word())
        .bind(i64::from(after.attempts))
        .bind(after.next_attempt_ms)
        .bind(after.delivered_ms)
        .bind(after.last_error.clone())
        .bind(after.warning.clone())
        .execute(&mut *tx)
        .await
        .map_err(failed("moving a delivery"))?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        note(&mut tx, at_ms, event_of(after, DeliveryState::Pending, cause)).await?;
        tx.commit().await.map_err(failed("committing"))?;
        Ok(true)
    }

    /// Sends deliveries of a version again, or all that failed; gives how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resend(
        &self,
        series: &str,
        version: i64,
        destination: Option<&str>,
        cause: &str,
        at_ms: i64,
    ) -> Result<usize, StoreError> {
        let deliveries = self.deliveries(Some((series, version))).await?;
        let mut n = 0;
        for before in deliveries {
            let wanted = destination.is_none_or(|name| name == before.destination);
            if !wanted || before.state == DeliveryState::Pending {
                continue;
            }
            require_legal(Some(before.state), DeliveryState::Pending).map_err(StoreError::Move)?;
            let mut tx = self.begin().await?;
            let moved = sqlx::query(
                "UPDATE deliveries SET was = state, state = 'pending', attempts = 0, since_ms = $4, \
                 next_attempt_ms = $4, last_error = NULL WHERE delivery = $1 AND destination = $2 AND state = $3",
            )
            .bind(before.delivery.clone())
            .bind(before.destination.clone())
            .bind(before.state.word())
            .bind(at_ms)
            .execute(&mut *tx)
            .await
            .map_err(failed("moving a delivery"))?;
            if moved.rows_affected() > 0 {
                let after = Delivery { state: DeliveryState::Pending, ..before.clone() };
                note(&mut tx, at_ms, event_of(&after, before.state, cause)).await?;
                tx.commit().await.map_err(failed("committing"))?;
                n += 1;
            }
        }
        Ok(n)
    }

    /// Destinations for which deliveries wait but that are none of these, with how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pending_elsewhere(
        &self,
        destinations: &[impl ToString],
    ) -> Result<Vec<(String, u32)>, StoreError> {
        let known: Vec<String> = destinations.iter().map(ToString::to_string).collect();
        let rows = sqlx::query(
            "SELECT destination, COUNT(*) AS n FROM deliveries WHERE state = 'pending' GROUP BY destination \
             ORDER BY destination",
        )
        .fetch_all(self.pool())
        .await
        .map_err(failed("counting deliveries"))?;
        let mut elsewhere = Vec::new();
        for row in &rows {
            let destination: String = cell(row, "destination")?;
            if !known.contains(&destination) {
                elsewhere.push((destination, number_of(row, "n")?));
            }
        }
        Ok(elsewhere)
    }

    /// Gives back every lease on deliveries: nobody else works here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_deliveries(&self) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET lease_owner = NULL, lease_until_ms = NULL WHERE lease_owner IS NOT NULL",
        )
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(failed("giving leases back"))
    }
}

fn event_of<'a>(after: &'a Delivery, was: DeliveryState, cause: &'a str) -> Event<'a> {
    Event {
        subject: "deliveries",
        series: after.series.as_deref(),
        version: after.version,
        destination: Some(&after.destination),
        was: was.word(),
        became: after.state.word(),
        cause,
    }
}
