//! In which series an instance may lie that several nodes keep in a bucket.
//!
//! What holds: an instance whose sender was told "success" has a row here, or its series is one of [`Store::coming_in`].
//! CT instances get theirs with the version of their series, all others when they are kept. A row too many does no harm,
//! since the bucket is asked.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use sqlx::{Any, AssertSqlSafe, Transaction};

use super::{Store, StoreError, cell, failed};
use crate::vocabulary::dicom::{SeriesInstanceUid, SopInstanceUid};

/// Rows in one statement.
const AT_A_TIME: usize = 500;

impl Store {
    /// Notes where instances lie.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn place(
        &self,
        series: &SeriesInstanceUid,
        instances: &[SopInstanceUid],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        place(&mut tx, series, instances).await?;
        tx.commit().await.map_err(failed("committing"))
    }

    /// In which series each of these instances may lie; none for one that is not noted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn places(
        &self,
        instances: &BTreeSet<SopInstanceUid>,
    ) -> Result<BTreeMap<SopInstanceUid, BTreeSet<SeriesInstanceUid>>, StoreError> {
        let mut places: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let numbered: BTreeMap<i64, &SopInstanceUid> =
            instances.iter().map(|uid| (number(uid.as_str()), uid)).collect();
        let numbers: Vec<String> = numbered.keys().map(ToString::to_string).collect();
        for numbers in numbers.chunks(AT_A_TIME) {
            let sql = format!(
                "SELECT p.instance, s.series FROM places p JOIN place_series s ON s.number = p.series \
                 WHERE p.instance IN ({})",
                numbers.join(", ")
            );
            let rows = sqlx::query(AssertSqlSafe(sql))
                .fetch_all(self.pool())
                .await
                .map_err(failed("looking instances up"))?;
            for row in &rows {
                let (instance, series): (i64, String) = (cell(row, "instance")?, cell(row, "series")?);
                if let (Some(uid), Ok(series)) = (numbered.get(&instance), series.parse()) {
                    places.entry((*uid).clone()).or_default().insert(series);
                }
            }
        }
        Ok(places)
    }

    /// Series that are coming in, the latest first, as many as the limit at most: what lies in the bucket of them need
    /// not be noted yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn coming_in(&self, limit: u32) -> Result<Vec<SeriesInstanceUid>, StoreError> {
        let rows = sqlx::query(
            "SELECT series, last_ms FROM series WHERE state = 'receiving' UNION \
             SELECT s.series, s.last_ms FROM series s JOIN receivers r ON r.series = s.series \
             ORDER BY last_ms DESC, series LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading what is coming in"))?;
        let uid = |row| {
            let text: String = cell(row, "series")?;
            text.parse().map_err(|_no_uid| StoreError::Foreign { what: "a Series Instance UID", found: text })
        };
        rows.iter().map(uid).collect()
    }

    /// Instances of a series are removed, all that there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unplace(
        &self,
        series: &SeriesInstanceUid,
        instances: &[SopInstanceUid],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let numbers: Vec<String> = instances.iter().map(|uid| number(uid.as_str()).to_string()).collect();
        for numbers in numbers.chunks(AT_A_TIME) {
            let sql =
                format!("DELETE FROM places WHERE series = $1 AND instance IN ({})", numbers.join(", "));
            sqlx::query(AssertSqlSafe(sql))
                .bind(number(series.as_str()))
                .execute(&mut *tx)
                .await
                .map_err(failed("forgetting instances"))?;
        }
        sqlx::query("DELETE FROM place_series WHERE number = $1")
            .bind(number(series.as_str()))
            .execute(&mut *tx)
            .await
            .map_err(failed("forgetting instances"))?;
        tx.commit().await.map_err(failed("committing"))
    }

    /// A sender asked for the commitment of so many instances of a series, all of which are here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn committed(&self, series: &SeriesInstanceUid, n_instances: u32) -> Result<(), StoreError> {
        sqlx::query("UPDATE series SET committed = $2 WHERE series = $1 AND state = 'receiving'")
            .bind(series.as_str().to_owned())
            .bind(i64::from(n_instances))
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(failed("noting a storage commitment"))
    }
}

/// Those that are noted already stay.
pub(super) async fn place(
    tx: &mut Transaction<'static, Any>,
    series: &SeriesInstanceUid,
    instances: &[SopInstanceUid],
) -> Result<(), StoreError> {
    let of = number(series.as_str());
    sqlx::query("INSERT INTO place_series (number, series) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(of)
        .bind(series.as_str().to_owned())
        .execute(&mut **tx)
        .await
        .map_err(failed("noting where instances lie"))?;
    let rows: Vec<String> = instances.iter().map(|uid| format!("({}, {of})", number(uid.as_str()))).collect();
    for rows in rows.chunks(AT_A_TIME) {
        let rows = rows.join(", ");
        let sql = format!("INSERT INTO places (instance, series) VALUES {rows} ON CONFLICT DO NOTHING");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut **tx)
            .await
            .map_err(failed("noting where instances lie"))?;
    }
    Ok(())
}

/// The first eight bytes of the SHA-256. Two UIDs with one number are told apart by the bucket.
fn number(uid: &str) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(uid)[..8]);
    i64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::super::tests::fresh;
    use super::*;

    #[tokio::test]
    async fn an_instance_is_found_in_every_series_in_which_it_was_noted_until_it_is_removed() {
        let (_folder, store) = fresh().await;
        let series = |n: u32| SeriesInstanceUid::parse(&format!("1.7.{n}")).unwrap();
        let uids: Vec<_> = (0..1_200).map(|n| SopInstanceUid::parse(&format!("1.2.{n}")).unwrap()).collect();
        store.place(&series(1), &uids[..1_100]).await.unwrap();
        store.place(&series(1), &uids[..1_100]).await.unwrap();
        store.place(&series(2), &uids[5..6]).await.unwrap();
        let places = store.places(&uids.iter().cloned().collect()).await.unwrap();
        assert_eq!(places.len(), 1_100);
        assert_eq!(places[&uids[5]], [series(1), series(2)].into());
        assert_eq!(places[&uids[1_099]], [series(1)].into());
        store.unplace(&series(1), &uids[..1_100]).await.unwrap();
        let places = store.places(&uids.iter().cloned().collect()).await.unwrap();
        assert_eq!(places, [(uids[5].clone(), [series(2)].into())].into());
    }

    #[tokio::test]
    async fn the_series_that_came_last_is_the_first_of_those_that_are_coming_in() {
        let (_folder, store) = fresh().await;
        let series = |n: i64| SeriesInstanceUid::parse(&format!("1.7.{n}")).unwrap();
        for n in 1..4 {
            store.receiving(&series(n), "CT1", n).await.unwrap();
        }
        assert_eq!(store.coming_in(2).await.unwrap(), [series(3), series(2)]);
        store.announce(&series(2), "CT1", ("a", 1), 2).await.unwrap();
        assert_eq!(store.coming_in(9).await.unwrap(), [series(3), series(2), series(1)], "each once");
    }
}
