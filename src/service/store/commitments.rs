//! Questions about storage commitment that several nodes share: asked at any, reported by any, by one at a time.

use sqlx::any::AnyRow;

use super::{Store, StoreError, cell, failed, number_of};
use crate::vocabulary::dicom::{AeTitle, TransactionUid};

/// A question, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewQuestion<'a> {
    /// Names it.
    pub transaction_uid: &'a TransactionUid,
    /// Who asked.
    pub calling_ae_title: &'a AeTitle,
    /// When, ms since 1970.
    pub asked_ms: i64,
    /// What, as JSON.
    pub question: String,
    /// No node reports before, ms since 1970.
    pub not_before_ms: i64,
}

/// A question that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueQuestion {
    /// Names it.
    pub transaction_uid: String,
    /// Who asked.
    pub calling_ae_title: String,
    /// When, ms since 1970.
    pub asked_ms: i64,
    /// How often its report was not taken.
    pub failed_attempts: u32,
}

impl Store {
    /// Keeps a question; `false` where there is one of its Transaction UID.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_question(&self, new: &NewQuestion<'_>) -> Result<bool, StoreError> {
        let kept = sqlx::query(
            "INSERT INTO commitments (transaction_uid, calling_ae_title, asked_ms, question, failed_attempts, \
             not_before_ms) VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT (transaction_uid) DO NOTHING",
        )
        .bind(new.transaction_uid.as_str().to_owned())
        .bind(new.calling_ae_title.as_str().to_owned())
        .bind(new.asked_ms)
        .bind(new.question.clone())
        .bind(new.not_before_ms)
        .execute(self.pool())
        .await
        .map_err(failed("keeping a question about storage commitment"))?;
        Ok(kept.rows_affected() > 0)
    }

    /// A question as JSON; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn question(&self, transaction_uid: &TransactionUid) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT question FROM commitments WHERE transaction_uid = $1")
            .bind(transaction_uid.as_str().to_owned())
            .fetch_optional(self.pool())
            .await
            .map_err(failed("reading a question about storage commitment"))?;
        row.map(|row| cell(&row, "question")).transpose()
    }

    /// How many questions there are, and how many of them this one asked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_questions(&self, calling: &AeTitle) -> Result<(u32, u32), StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n, COUNT(CASE WHEN calling_ae_title = $1 THEN 1 END) AS of_one FROM commitments",
        )
        .bind(calling.as_str().to_owned())
        .fetch_one(self.pool())
        .await
        .map_err(failed("counting the questions about storage commitment"))?;
        Ok((number_of(&row, "n")?, number_of(&row, "of_one")?))
    }

    /// Questions whose time has come and that no node reports on, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn due_questions(&self, now_ms: i64) -> Result<Vec<DueQuestion>, StoreError> {
        let rows = sqlx::query(
            "SELECT transaction_uid, calling_ae_title, asked_ms, failed_attempts FROM commitments \
             WHERE not_before_ms <= $1 AND (lease_until_ms IS NULL OR lease_until_ms < $1) \
             ORDER BY not_before_ms, transaction_uid",
        )
        .bind(now_ms)
        .fetch_all(self.pool())
        .await
        .map_err(failed("reading the questions about storage commitment"))?;
        let due = |row: &AnyRow| {
            Ok(DueQuestion {
                transaction_uid: cell(row, "transaction_uid")?,
                calling_ae_title: cell(row, "calling_ae_title")?,
                asked_ms: cell(row, "asked_ms")?,
                failed_attempts: number_of(row, "failed_attempts")?,
            })
        };
        rows.iter().map(due).collect()
    }

    /// A node reports on a question until then; `false`: another one does, or it is not due any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_question(
        &self,
        transaction_uid: &TransactionUid,
        (node, until_ms): (&str, i64),
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let claimed = sqlx::query(
            "UPDATE commitments SET lease_owner = $2, lease_until_ms = $3 WHERE transaction_uid = $1 \
             AND not_before_ms <= $4 AND (lease_until_ms IS NULL OR lease_until_ms < $4)",
        )
        .bind(transaction_uid.as_str().to_owned())
        .bind(node.to_owned())
        .bind(until_ms)
        .bind(now_ms)
        .execute(self.pool())
        .await
        .map_err(failed("taking a question about storage commitment"))?;
        Ok(claimed.rows_affected() > 0)
    }

    /// The report was not taken: any node may try again then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_back_question(
        &self,
        transaction_uid: &TransactionUid,
        node: &str,
        not_before_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE commitments SET lease_owner = NULL, lease_until_ms = NULL, not_before_ms = $3, \
             failed_attempts = failed_attempts + 1 WHERE transaction_uid = $1 AND lease_owner = $2",
        )
        .bind(transaction_uid.as_str().to_owned())
        .bind(node.to_owned())
        .bind(not_before_ms)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(failed("giving a question about storage commitment back"))
    }

    /// Forgets a question; `false` where another node has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_question(&self, transaction_uid: &TransactionUid) -> Result<bool, StoreError> {
        let forgotten = sqlx::query("DELETE FROM commitments WHERE transaction_uid = $1")
            .bind(transaction_uid.as_str().to_owned())
            .execute(self.pool())
            .await
            .map_err(failed("forgetting a question about storage commitment"))?;
        Ok(forgotten.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fresh;
    use super::*;

    #[tokio::test]
    async fn of_two_nodes_one_reports_and_the_other_takes_over_after_the_lease() {
        let (_folder, store) = fresh().await;
        let uid: TransactionUid = "1.2.9001".parse().unwrap();
        let calling = "CT1".parse().unwrap();
        let new = NewQuestion {
            transaction_uid: &uid,
            calling_ae_title: &calling,
            asked_ms: 1_000,
            question: "{}".to_owned(),
            not_before_ms: 1_500,
        };
        assert!(store.keep_question(&new).await.unwrap());
        assert!(!store.keep_question(&new).await.unwrap(), "one of this UID");
        assert_eq!(store.count_questions(&calling).await.unwrap(), (1, 1));
        assert_eq!(store.count_questions(&"CT2".parse().unwrap()).await.unwrap(), (1, 0));
        assert!(store.due_questions(1_499).await.unwrap().is_empty());
        assert_eq!(store.due_questions(1_500).await.unwrap()[0].transaction_uid, "1.2.9001");
        assert!(store.claim_question(&uid, ("a", 3_000), 1_500).await.unwrap());
        assert!(!store.claim_question(&uid, ("b", 3_000), 1_600).await.unwrap());
        assert!(store.due_questions(3_000).await.unwrap().is_empty());
        assert!(store.claim_question(&uid, ("b", 5_000), 3_001).await.unwrap(), "a is dead");
        store.put_back_question(&uid, "a", 9_000).await.unwrap();
        assert!(store.due_questions(4_000).await.unwrap().is_empty(), "a has nothing to give back");
        store.put_back_question(&uid, "b", 9_000).await.unwrap();
        assert!(!store.claim_question(&uid, ("a", 9_000), 8_999).await.unwrap(), "too early");
        assert_eq!(store.due_questions(9_000).await.unwrap()[0].failed_attempts, 1);
        assert_eq!(store.question(&uid).await.unwrap().as_deref(), Some("{}"));
        assert!(store.forget_question(&uid).await.unwrap() && !store.forget_question(&uid).await.unwrap());
        assert_eq!(store.question(&uid).await.unwrap(), None);
    }
}
