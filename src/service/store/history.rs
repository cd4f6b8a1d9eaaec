//! What happened to a series, in order.

use serde::Serialize;
use sqlx::{Any, Row, Transaction};

use super::{Store, StoreError, cell, failed};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// When, ms since 1970.
    pub at_ms: i64,
    /// `series`, `jobs` or `deliveries`.
    pub subject: String,
    /// Which version, where it is of one.
    pub version: Option<i64>,
    /// Which destination, for a delivery.
    pub destination: Option<String>,
    /// The state before; `new` at first.
    pub was: String,
    /// The state after.
    pub became: String,
    /// Why.
    pub cause: String,
}

/// What [`note`] writes.
#[derive(Debug, Clone, Copy)]
pub(in crate::service) struct Event<'a> {
    pub(in crate::service) subject: &'static str,
    pub(in crate::service) series: Option<&'a str>,
    pub(in crate::service) version: Option<i64>,
    pub(in crate::service) destination: Option<&'a str>,
    pub(in crate::service) was: &'static str,
    pub(in crate::service) became: &'static str,
    pub(in crate::service) cause: &'a str,
}

/// Writes a line of history in the transaction of the move.
pub(in crate::service) async fn note(
    tx: &mut Transaction<'static, Any>,
    at_ms: i64,
    event: Event<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO history (at_ms, subject, series, version, destination, was, became, cause) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(at_ms)
    .bind(event.subject)
    .bind(event.series.map(str::to_owned))
    .bind(event.version)
    .bind(event.destination.map(str::to_owned))
    .bind(event.was)
    .bind(event.became)
    .bind(event.cause.to_owned())
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(failed("writing the history"))
}

impl Store {
    /// The last `limit` things that happened to a series, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn history(&self, series: &str, limit: u32) -> Result<Vec<HistoryEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT at_ms, subject, version, destination, was, became, cause FROM history WHERE series = $1 \
             ORDER BY id DESC LIMIT $2",
        )
        .bind(series.to_owned())
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading the history"))?;
        let entry = |row: &sqlx::any::AnyRow| {
            Ok(HistoryEntry {
                at_ms: cell(row, "at_ms")?,
                subject: cell(row, "subject")?,
                version: row.try_get("version").map_err(failed("reading the history"))?,
                destination: cell(row, "destination")?,
                was: cell(row, "was")?,
                became: cell(row, "became")?,
                cause: cell(row, "cause")?,
            })
        };
        rows.iter().rev().map(entry).collect()
    }
}
