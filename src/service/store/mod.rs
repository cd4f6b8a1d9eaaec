//! What the service knows: series, versions, jobs, deliveries, history, in SQLite or PostgreSQL.
//!
//! Comes in: what happened, and when (the time is an argument). Goes out: rows, checked. Instances and structure sets
//! stay files; this room holds what is to be done with them, and can be made anew from them.
//!
//! One SQL text serves both engines. A state changes only by [`Store`]'s own functions, each of which is one
//! transaction that writes the history too.

mod commitments;
mod deliveries;
mod history;
mod nodes;
mod places;
mod series;
mod states;
mod view;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, AssertSqlSafe, ConnectOptions, Connection, Row, SqlSafeStr, Transaction};

pub use commitments::{DueQuestion, NewQuestion};
pub(super) use deliveries::add_delivery;
pub use deliveries::{Delivery, NewDelivery};
pub use history::HistoryEntry;
pub(super) use history::{Event, note};
pub use nodes::{Arrivals, NodeEntry, Pulse};
pub use series::{Known, NewVersion};
pub use states::{DeliveryState, IllegalMove, JobState, SeriesState};
pub(crate) use states::{State, require_legal};
pub use view::{JobDetail, JobFilter, JobSummary, VersionDetail};

use crate::pipeline::tls::is_refusal;

/// Name of the SQLite file under the data folder.
pub const FILE_NAME: &str = "oarlock.sqlite3";

/// Number, name and text of each migration, in order. A text that is out in the world is never changed.
///
/// A text only adds: nodes of the version before go on while it is applied. docs/operating.md has the rule.
pub(crate) const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "begin", include_str!("migrations/0001_begin.sql")),
    (2, "removed", include_str!("migrations/0002_removed.sql")),
    (3, "nodes", include_str!("migrations/0003_nodes.sql")),
    (4, "commitments", include_str!("migrations/0004_commitments.sql")),
];

/// Connections at a time: the worker, the gathering, each destination and the web page hold one for a moment each; of a
/// cluster's node also whoever announces a series.
const CONNECTIONS: u32 = 4;
const CONNECTIONS_OF_A_NODE: u32 = 10;

/// For a connection, and for another writer to finish.
const BUSY: Duration = Duration::from_secs(10);

/// Why the database does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error(
        "the database {place} cannot be opened: is the folder ours? If the file is damaged, move it away (with its -wal \
         and -shm) and start again: it is made anew from the instances and results"
    )]
    Open {
        /// Which.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The server, or the way to it.
    #[error(
        "the database {place} cannot be reached: does the server run, and are its address, user, password and database right?"
    )]
    Reach {
        /// Which, without the password.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// No TLS with the server, or with somebody else in its place.
    #[error(
        "no TLS with the database {place}: does it speak TLS (ssl = on), is the authority that signed its certificate \
         named (store.postgres.ca_file, in a URL sslrootcert), and is the certificate for this host?"
    )]
    Tls {
        /// Which, without the password.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// There is none.
    #[error("there is no {path}: no service has worked in this folder; name it with --data-dir or --config")]
    Absent {
        /// Where it would be.
        path: PathBuf,
    },
    /// Its tables cannot be brought up to date.
    #[error("the tables of {place} cannot be brought up to date: is it of a newer version of this program?")]
    Migrate {
        /// Which.
        place: String,
        /// Why.
        #[source]
        source: MigrateError,
    },
    /// Its tables have changed in a way that this program does not know.
    #[error(
        "the tables of {place} need a newer version of this program: they want migration {oldest}, this one knows {known}; \
         update it"
    )]
    Newer {
        /// Which.
        place: String,
        /// What a program must know.
        oldest: i64,
        /// What this one knows.
        known: i64,
    },
    /// A statement failed.
    #[error("the database failed while {operation}: is the disk full, or the server gone?")]
    Query {
        /// What we did.
        operation: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Our own mistake.
    #[error("a state that cannot be")]
    Move(#[source] IllegalMove),
    /// A row that is not ours.
    #[error("the database holds {found:?} as {what}: was it changed by hand?")]
    Foreign {
        /// What it should be.
        what: &'static str,
        /// What is there.
        found: String,
    },
}

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL URL.
    Server(String),
}

impl fmt::Display for Place {
    /// Without the password of a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => {
                let shown = url::Url::parse(url).ok().and_then(|mut url| {
                    url.set_password(None).ok()?;
                    url.set_query(None);
                    Some(url.to_string())
                });
                f.write_str(shown.as_deref().unwrap_or("of a URL that is none"))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    pool: AnyPool,
    engine: Engine,
}

impl Store {
    /// Opens or makes it and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be opened, or is newer than this program.
    pub async fn open(place: &Place) -> Result<Self, StoreError> {
        let store = Self::connect(place).await?;
        store.require_known(place).await?;
        let migrate = |source| StoreError::Migrate { place: place.to_string(), source };
        store.migrator().run(&store.pool).await.map_err(migrate)?;
        Ok(store)
    }

    /// Migrations of newer programs do not matter as long as they only add.
    async fn require_known(&self, place: &Place) -> Result<(), StoreError> {
        let tables = match self.engine {
            Engine::Sqlite => "SELECT COUNT(*) AS n FROM sqlite_master WHERE name = 'compatibility'",
            Engine::Postgres => {
                "SELECT COUNT(*) AS n FROM information_schema.tables WHERE table_name = 'compatibility' \
                 AND table_schema = current_schema()"
            }
        };
        let looked =
            sqlx::query(tables).fetch_one(&self.pool).await.map_err(failed("looking at its tables"))?;
        if cell::<i64>(&looked, "n")? == 0 {
            return Ok(());
        }
        let row = sqlx::query("SELECT MAX(oldest) AS oldest FROM compatibility")
            .fetch_one(&self.pool)
            .await
            .map_err(failed("looking at its tables"))?;
        let (oldest, known) = (cell::<i64>(&row, "oldest")?, MIGRATIONS[MIGRATIONS.len() - 1].0);
        if oldest <= known {
            return Ok(());
        }
        Err(StoreError::Newer { place: place.to_string(), oldest, known })
    }

    /// Opens the one that a service made.
    ///
    /// # Errors
    /// [`StoreError`] where there is none, or it cannot be opened.
    pub async fn open_existing(place: &Place) -> Result<Self, StoreError> {
        if let Place::File(path) = place
            && !path.is_file()
        {
            return Err(StoreError::Absent { path: path.clone() });
        }
        Self::open(place).await
    }

    async fn connect(place: &Place) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let failed = |source| match place {
            Place::File(_) => StoreError::Open { place: place.to_string(), source },
            Place::Server(_) if matches!(source, sqlx::Error::Tls(_)) || is_refusal(&source) => {
                StoreError::Tls { place: place.to_string(), source }
            }
            Place::Server(_) => StoreError::Reach { place: place.to_string(), source },
        };
        let (engine, connections, url) = match place {
            Place::File(path) => (Engine::Sqlite, CONNECTIONS, sqlite_url(path)),
            Place::Server(url) => (Engine::Postgres, CONNECTIONS_OF_A_NODE, url.clone()),
        };
        if let Place::File(path) = place {
            make_private(path).map_err(|source| failed(sqlx::Error::Io(source)))?;
        }
        let options = AnyConnectOptions::from_str(&url).map_err(failed)?.disable_statement_logging();
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(BUSY)
            // SQLite ends a transaction by itself when the disk is full or fails; sqlx counts it on, and no other could
            // begin on that connection.
            .before_acquire(|connection, _| {
                let is_usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(is_usable) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if engine == Engine::Sqlite {
                        for statement in SQLITE_BEGINNING {
                            sqlx::query(statement).execute(&mut *connection).await?;
                        }
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await
            .map_err(failed)?;
        Ok(Self { pool, engine })
    }

    fn migrator(&self) -> Migrator {
        let identity = match self.engine {
            Engine::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
            Engine::Postgres => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        };
        let migrations = MIGRATIONS.iter().map(|(number, name, sql)| {
            let sql = AssertSqlSafe(sql.replace("{identity}", identity)).into_sql_str();
            Migration::new(*number, (*name).into(), MigrationType::Simple, sql, false)
        });
        let mut migrator = Migrator::with_migrations(migrations.collect());
        migrator.set_ignore_missing(true);
        migrator
    }

    /// A transaction that may write: SQLite takes its one writer's place at once, so it cannot fail half way.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let begin = match self.engine {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN",
        };
        self.pool.begin_with(begin).await.map_err(failed("beginning"))
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// What a `SELECT` of rows that will be changed ends with, so that several nodes take different ones.
    pub(super) fn for_update(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite => "",
            Engine::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// The same where another node's turn is waited for.
    pub(super) fn for_update_waiting(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite => "",
            Engine::Postgres => " FOR UPDATE",
        }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`StoreError::Query`] where it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop).map_err(failed("asking it"))
    }

    /// Writes what is left to write, and lets go of the file or the server.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Durable before a commit returns (`FULL`), readers beside one writer (`WAL`), little memory (1 MB per connection). On a
/// disk that is read-only for a while SQLite opens a connection that never writes again; the last two statements refuse it.
const SQLITE_BEGINNING: [&str; 7] = [
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 10000",
    "PRAGMA cache_size = -1000",
    "BEGIN IMMEDIATE",
    "ROLLBACK",
];

fn sqlite_url(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let url = url::Url::from_file_path(&absolute).map(|url| url.path().to_owned()).unwrap_or_default();
    format!("sqlite://{url}?mode=rwc")
}

/// Makes the file of mode 0600 before SQLite makes it of another.
fn make_private(path: &Path) -> std::io::Result<()> {
    crate::platform::private_file().create(true).append(true).open(path).map(drop)
}

pub(super) fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { operation, source }
}

pub(super) fn cell<'r, T>(row: &'r AnyRow, name: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Any> + sqlx::Type<Any>,
{
    row.try_get(name).map_err(failed("reading a row"))
}

pub(super) fn state_of<S: State>(row: &AnyRow, name: &'static str) -> Result<S, StoreError> {
    let word: String = cell(row, name)?;
    S::of_word(&word).ok_or(StoreError::Foreign { what: "a state", found: word })
}

pub(super) fn json_of<T: serde::de::DeserializeOwned>(
    text: &str,
    what: &'static str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Foreign { what, found: error.to_string() })
}

/// A count or number of a version; the constraints of the program keep them small and not negative.
pub(super) fn number_of(row: &AnyRow, name: &'static str) -> Result<u32, StoreError> {
    let number: i64 = cell(row, name)?;
    u32::try_from(number)
        .map_err(|_negative| StoreError::Foreign { what: "a number", found: number.to_string() })
}

/// The clock, ms since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A duration as the store counts it.
#[must_use]
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
pub(in crate::service) mod tests {
    use super::*;

    /// A store in memory's place: a file in a folder that goes with the test.
    pub(in crate::service) async fn fresh() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Place::File(folder.path().join("a b%20c.sqlite3"))).await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn it_opens_again_with_what_it_held_and_keeps_its_file_private() {
        let (folder, store) = fresh().await;
        sqlx::query("INSERT INTO series (series, was, state, calling_ae_title, n_instances, first_ms, last_ms) VALUES ('1.2', 'new', 'receiving', 'CT', 1, 5, 5)")
            .execute(store.pool())
            .await
            .unwrap();
        store.close().await;
        let path = folder.path().join("a b%20c.sqlite3");
        assert_eq!(crate::platform::mode_of(&std::fs::metadata(&path).unwrap()), 0o600);
        let store = Store::open_existing(&Place::File(path)).await.unwrap();
        let row = sqlx::query("SELECT COUNT(*) AS n FROM series").fetch_one(store.pool()).await.unwrap();
        assert_eq!(number_of(&row, "n").unwrap(), 1);
        let mode = sqlx::query("PRAGMA journal_mode").fetch_one(store.pool()).await.unwrap();
        assert_eq!(mode.try_get::<String, _>(0).unwrap(), "wal");
        let synchronous = sqlx::query("PRAGMA synchronous").fetch_one(store.pool()).await.unwrap();
        assert_eq!(synchronous.try_get::<i64, _>(0).unwrap(), 2);
    }

    #[tokio::test]
    async fn an_illegal_move_breaks_a_constraint() {
        let (_folder, store) = fresh().await;
        let run = async |sql: &'static str| sqlx::query(sql).execute(store.pool()).await;
        run("INSERT INTO series (series, was, state, calling_ae_title, n_instances, first_ms, last_ms) VALUES ('1.2', 'new', 'receiving', 'CT', 1, 5, 5)").await.unwrap();
        let error =
            run("INSERT INTO series (series, was, state, calling_ae_title, n_instances, first_ms, last_ms) VALUES ('1.3', 'new', 'complete', 'CT', 1, 5, 5)").await.unwrap_err();
        assert!(error.to_string().contains("series_moves"), "{error}");
        run("UPDATE series SET was = state, state = 'complete'").await.unwrap();
        let error = run("UPDATE series SET was = state, state = 'complete'").await.unwrap_err();
        assert!(error.to_string().contains("series_moves"), "{error}");
    }

    #[tokio::test]
    async fn none_is_an_error_with_a_remedy() {
        let error = Store::open_existing(&Place::File("/nowhere/x.sqlite3".into())).await.unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_password_is_not_shown() {
        let place = Place::Server("postgres://me:secret@db:5432/oarlock?sslmode=require".to_owned());
        assert_eq!(place.to_string(), "postgres://me@db:5432/oarlock");
    }
}
