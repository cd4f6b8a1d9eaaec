//! What the nodes of a cluster tell each other: who is alive, who receives what, what arrived where.
//!
//! What holds: an instance whose sender was told "success" is in the bucket, and either its arrival is noted here, or its
//! node has a row in `receivers`. So when a node dies, the series of its rows are looked at again by others, and nothing
//! that was acknowledged stays unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::{Any, AssertSqlSafe, Transaction};

use super::places::place;
use super::series::{complete, receiving};
use super::{Engine, NewVersion, Store, StoreError, cell, failed};
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// What a sign of life brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Whether the others still took us for alive.
    pub was_alive: bool,
    /// The database's clock, ms since 1970.
    pub clock_ms: i64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeEntry {
    /// Its name.
    pub node: String,
    /// Version of its program.
    pub program: String,
    /// Since when it works, ms since 1970.
    pub started_ms: i64,
    /// It counts as alive until then, ms since 1970.
    pub alive_until_ms: i64,
}

/// Instances that arrived at a node, as they are noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrivals {
    /// Number of the row.
    pub id: i64,
    /// Their series.
    pub series: SeriesInstanceUid,
    /// The instances, as whoever noted them wrote them.
    pub instances: String,
}

impl Store {
    /// A node is alive.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pulse(
        &self,
        node: &str,
        program: &str,
        alive_until_ms: i64,
        now_ms: i64,
    ) -> Result<Pulse, StoreError> {
        let renewed = sqlx::query("UPDATE nodes SET alive_until_ms = $2 WHERE node = $1")
            .bind(node.to_owned())
            .bind(alive_until_ms)
            .execute(self.pool())
            .await
            .map_err(failed("giving a sign of life"))?;
        let was_alive = renewed.rows_affected() > 0;
        if !was_alive {
            sqlx::query(
                "INSERT INTO nodes (node, program, started_ms, alive_until_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (node) DO UPDATE SET alive_until_ms = excluded.alive_until_ms",
            )
            .bind(node.to_owned())
            .bind(program.to_owned())
            .bind(now_ms)
            .bind(alive_until_ms)
            .execute(self.pool())
            .await
            .map_err(failed("giving a sign of life"))?;
        }
        let clock = match self.engine {
            Engine::Sqlite => "SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000 AS clock_ms",
            Engine::Postgres => {
                "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS clock_ms"
            }
        };
        let row = sqlx::query(clock).fetch_one(self.pool()).await.map_err(failed("asking for its clock"))?;
        Ok(Pulse { was_alive, clock_ms: cell(&row, "clock_ms")? })
    }

    /// Writes, reads and takes back a row, as a node does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn probe(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO nodes (node, program, started_ms, alive_until_ms) VALUES ('probe', '', 0, 0)",
        )
        .execute(&mut *tx)
        .await
        .map_err(failed("trying to write"))?;
        sqlx::query("SELECT node FROM nodes WHERE node = 'probe'")
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("trying to read"))?;
        tx.rollback().await.map_err(failed("taking back"))
    }

    /// The nodes, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes(&self) -> Result<Vec<NodeEntry>, StoreError> {
        let rows = sqlx::query("SELECT node, program, started_ms, alive_until_ms FROM nodes ORDER BY node")
            .fetch_all(self.pool())
            .await
            .map_err(failed("reading the nodes"))?;
        let entry = |row| {
            Ok(NodeEntry {
                node: cell(row, "node")?,
                program: cell(row, "program")?,
                started_ms: cell(row, "started_ms")?,
                alive_until_ms: cell(row, "alive_until_ms")?,
            })
        };
        rows.iter().map(entry).collect()
    }

    /// A node may from now on hold instances of a series that nobody else has been told of. `false`: what was kept of it
    /// is being removed just now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn announce(
        &self,
        series: &SeriesInstanceUid,
        calling_ae_title: &str,
        (node, mark): (&str, i64),
        at_ms: i64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        // Waits for whoever begins a removal at this moment.
        receiving(&mut tx, series, calling_ae_title, at_ms).await?;
        let row = sqlx::query("SELECT removing_until_ms FROM series WHERE series = $1")
            .bind(series.as_str().to_owned())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("reading a series"))?;
        if cell::<Option<i64>>(&row, "removing_until_ms")?.is_some_and(|until_ms| until_ms >= at_ms) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO receivers (series, node, mark) VALUES ($1, $2, $3) ON CONFLICT (series, node) DO UPDATE \
             SET mark = CASE WHEN receivers.mark > excluded.mark THEN receivers.mark ELSE excluded.mark END",
        )
        .bind(series.as_str().to_owned())
        .bind(node.to_owned())
        .bind(mark)
        .execute(&mut *tx)
        .await
        .map_err(failed("announcing a series"))?;
        tx.commit().await.map_err(failed("committing"))?;
        Ok(true)
    }

    /// Begins to remove what was kept of a series, if nothing of it is coming in at any node and nobody else does. Until
    /// then nothing of it is taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin_removal(&self, series: &str, until_ms: i64, now_ms: i64) -> Result<bool, StoreError> {
        let begun = sqlx::query(
            "UPDATE series SET removing_until_ms = $2 WHERE series = $1 AND state = 'complete' \
             AND (removing_until_ms IS NULL OR removing_until_ms < $3) \
             AND NOT EXISTS (SELECT 1 FROM receivers r WHERE r.series = $1)",
        )
        .bind(series.to_owned())
        .bind(until_ms)
        .bind(now_ms)
        .execute(self.pool())
        .await
        .map_err(failed("beginning a removal"))?;
        Ok(begun.rows_affected() > 0)
    }

    /// The removal is over; the series may come again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_removal(&self, series: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE series SET removing_until_ms = NULL WHERE series = $1")
            .bind(series.to_owned())
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(failed("ending a removal"))
    }

    /// A node holds nothing of these series any more that is not noted; an announcement that was made anew since stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn withdraw(
        &self,
        node: &str,
        announced: &[(SeriesInstanceUid, i64)],
    ) -> Result<(), StoreError> {
        for (series, mark) in announced {
            sqlx::query("DELETE FROM receivers WHERE series = $1 AND node = $2 AND mark = $3")
                .bind(series.as_str().to_owned())
                .bind(node.to_owned())
                .bind(*mark)
                .execute(self.pool())
                .await
                .map_err(failed("withdrawing an announcement"))?;
        }
        Ok(())
    }

    /// Notes what arrived at a node: one row for each series, all in one transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_arrivals(
        &self,
        node: &str,
        arrived: &BTreeMap<SeriesInstanceUid, String>,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for (series, instances) in arrived {
            // Holds the row, so that the series is not completed without these.
            sqlx::query("UPDATE series SET last_ms = $2 WHERE series = $1")
                .bind(series.as_str().to_owned())
                .bind(at_ms)
                .execute(&mut *tx)
                .await
                .map_err(failed("noting arrivals"))?;
            receiving(&mut tx, series, "", at_ms).await?;
            sqlx::query("INSERT INTO arrivals (series, node, at_ms, instances) VALUES ($1, $2, $3, $4)")
                .bind(series.as_str().to_owned())
                .bind(node.to_owned())
                .bind(at_ms)
                .bind(instances.clone())
                .execute(&mut *tx)
                .await
                .map_err(failed("noting arrivals"))?;
        }
        tx.commit().await.map_err(failed("committing"))
    }

    /// Takes the series that are coming in and that nobody else waits for, keeps those that are ours, and gives all, each
    /// with the number of instances for which its sender has asked for commitment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn gather(
        &self,
        node: &str,
        until_ms: i64,
        now_ms: i64,
    ) -> Result<BTreeMap<SeriesInstanceUid, Option<u32>>, StoreError> {
        let half_ms = now_ms.saturating_add(until_ms.saturating_sub(now_ms) / 2);
        sqlx::query(
            "UPDATE series SET gatherer = $1, gather_until_ms = $2 WHERE state = 'receiving' AND (gatherer IS NULL \
             OR gather_until_ms < $3 OR (gatherer = $1 AND gather_until_ms < $4))",
        )
        .bind(node.to_owned())
        .bind(until_ms)
        .bind(now_ms)
        .bind(half_ms)
        .execute(self.pool())
        .await
        .map_err(failed("taking series"))?;
        let rows =
            sqlx::query("SELECT series, committed FROM series WHERE state = 'receiving' AND gatherer = $1")
                .bind(node.to_owned())
                .fetch_all(self.pool())
                .await
                .map_err(failed("reading the series"))?;
        let gathered = |row| {
            let committed = cell::<Option<i64>>(row, "committed")?.and_then(|n| u32::try_from(n).ok());
            Ok((series_of(cell(row, "series")?)?, committed))
        };
        rows.iter().map(gathered).collect()
    }

    /// Numbers of what arrived of the series that a node waits for, by series.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn arrival_ids(
        &self,
        node: &str,
    ) -> Result<BTreeMap<SeriesInstanceUid, BTreeSet<i64>>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.id, a.series FROM arrivals a JOIN series s ON s.series = a.series \
             WHERE s.gatherer = $1 AND s.state = 'receiving'",
        )
        .bind(node.to_owned())
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading arrivals"))?;
        let mut ids: BTreeMap<_, BTreeSet<i64>> = BTreeMap::new();
        for row in &rows {
            ids.entry(series_of(cell(row, "series")?)?).or_default().insert(cell(row, "id")?);
        }
        Ok(ids)
    }

    /// Arrivals by their numbers, in that order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn arrivals(&self, ids: &[i64]) -> Result<Vec<Arrivals>, StoreError> {
        let mut arrivals = Vec::new();
        for ids in ids.chunks(500) {
            let list: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let sql = format!(
                "SELECT id, series, instances FROM arrivals WHERE id IN ({}) ORDER BY id",
                list.join(", ")
            );
            let rows = sqlx::query(AssertSqlSafe(sql))
                .fetch_all(self.pool())
                .await
                .map_err(failed("reading arrivals"))?;
            for row in &rows {
                let series = series_of(cell(row, "series")?)?;
                arrivals.push(Arrivals { id: cell(row, "id")?, series, instances: cell(row, "instances")? });
            }
        }
        Ok(arrivals)
    }

    /// The same as [`Store::complete`], if the series still is this node's to complete and nothing arrived but what it
    /// has seen; `None` otherwise.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn complete_gathered(
        &self,
        new: &NewVersion<'_>,
        (node, seen): (&str, &BTreeSet<i64>),
        at_ms: i64,
    ) -> Result<Option<u32>, StoreError> {
        let mut tx = self.begin().await?;
        let sql =
            format!("SELECT gatherer, state FROM series WHERE series = $1{}", self.for_update_waiting());
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(new.series.as_str().to_owned())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("reading a series"))?;
        let Some(row) = row else { return Ok(None) };
        let (gatherer, state): (Option<String>, String) = (cell(&row, "gatherer")?, cell(&row, "state")?);
        if gatherer.as_deref() != Some(node)
            || state != "receiving"
            || ids_of(&mut tx, new.series).await? != *seen
        {
            return Ok(None);
        }
        let version = complete(&mut tx, new, at_ms).await?;
        let instances: Vec<SopInstanceUid> =
            new.instances.iter().map(|instance| instance.sop_instance_uid.clone()).collect();
        place(&mut tx, new.series, &instances).await?;
        for sql in [
            "DELETE FROM arrivals WHERE series = $1",
            "UPDATE series SET gatherer = NULL, gather_until_ms = NULL, committed = NULL WHERE series = $1",
        ] {
            sqlx::query(sql)
                .bind(new.series.as_str().to_owned())
                .execute(&mut *tx)
                .await
                .map_err(failed("completing a series"))?;
        }
        tx.commit().await.map_err(failed("committing"))?;
        Ok(Some(version))
    }

    /// Removes the nodes whose time has run out, and has every series looked at again of which they may hold what nobody
    /// was told of. Gives their names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bury(&self, now_ms: i64) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT node FROM nodes WHERE alive_until_ms < $1 ORDER BY node")
            .bind(now_ms)
            .fetch_all(self.pool())
            .await
            .map_err(failed("reading the nodes"))?;
        let mut buried = Vec::new();
        for row in &rows {
            let node: String = cell(row, "node")?;
            let mut tx = self.begin().await?;
            let removed = sqlx::query("DELETE FROM nodes WHERE node = $1 AND alive_until_ms < $2")
                .bind(node.clone())
                .bind(now_ms)
                .execute(&mut *tx)
                .await
                .map_err(failed("removing a node"))?;
            if removed.rows_affected() == 0 {
                continue;
            }
            self.leave_in(&mut tx, &node, now_ms, true).await?;
            tx.commit().await.map_err(failed("committing"))?;
            buried.push(node);
        }
        Ok(buried)
    }

    /// A node ends in order: it holds nothing that is not noted, and others may go on at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave(&self, node: &str, now_ms: i64) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM nodes WHERE node = $1")
            .bind(node.to_owned())
            .execute(&mut *tx)
            .await
            .map_err(failed("removing a node"))?;
        self.leave_in(&mut tx, node, now_ms, false).await?;
        tx.commit().await.map_err(failed("committing"))
    }

    async fn leave_in(
        &self,
        tx: &mut Transaction<'static, Any>,
        node: &str,
        now_ms: i64,
        may_hold_something: bool,
    ) -> Result<(), StoreError> {
        let rows = sqlx::query("SELECT series FROM receivers WHERE node = $1 ORDER BY series")
            .bind(node.to_owned())
            .fetch_all(&mut **tx)
            .await
            .map_err(failed("reading announcements"))?;
        for row in rows.iter().filter(|_| may_hold_something) {
            receiving(tx, &series_of(cell(row, "series")?)?, "", now_ms).await?;
        }
        for sql in [
            "DELETE FROM receivers WHERE node = $1",
            "UPDATE series SET gatherer = NULL, gather_until_ms = NULL WHERE gatherer = $1",
        ] {
            sqlx::query(sql)
                .bind(node.to_owned())
                .execute(&mut **tx)
                .await
                .map_err(failed("taking over from a node"))?;
        }
        Ok(())
    }

    /// Has a series looked at again, whatever is known of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn look_again(&self, series: &SeriesInstanceUid, now_ms: i64) -> Result<(), StoreError> {
        self.receiving(series, "", now_ms).await
    }

    /// Gives back the deliveries that a node has in hand: it sends nothing any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_deliveries_of(&self, node: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE deliveries SET lease_owner = NULL, lease_until_ms = NULL WHERE lease_owner = $1")
            .bind(node.to_owned())
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(failed("giving leases back"))
    }
}

async fn ids_of(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
) -> Result<BTreeSet<i64>, StoreError> {
    let rows = sqlx::query("SELECT id FROM arrivals WHERE series = $1")
        .bind(series.as_str().to_owned())
        .fetch_all(&mut **tx)
        .await
        .map_err(failed("reading arrivals"))?;
    rows.iter().map(|row| cell(row, "id")).collect()
}

fn series_of(text: String) -> Result<SeriesInstanceUid, StoreError> {
    SeriesInstanceUid::parse(&text)
        .map_err(|_no_uid| StoreError::Foreign { what: "a Series Instance UID", found: text })
}
