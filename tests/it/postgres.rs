//! The store and the queue on PostgreSQL as on SQLite: the same scenario on both, and three nodes at once.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oarlock::pipeline::ingest::{Clue, StoredInstance};
use oarlock::pipeline::series::{Choice, fingerprint_of};
use oarlock::service::queue::{End, Now, Queue};
use oarlock::service::store::{
    Delivery, DeliveryState, JobFilter, JobState, NewDelivery, NewVersion, Place, SeriesState, Store,
};
use oarlock::vocabulary::dicom::{SeriesInstanceUid, SopClassUid, SopInstanceUid};

use crate::pki::{Issued, chmod};
use crate::support::{Process, everything_must_be_here, free_port};
use crate::wire::{LIMIT, wait_for};

const LEASE: Duration = Duration::from_secs(60);

fn at(ms: i64) -> Now {
    Now { ms, minute_of_day: 0 }
}

/// A server of a test's own, as the user `postgres` where we are root. Ended by SIGQUIT, so that it leaves no shared
/// memory behind.
pub(crate) struct Server {
    process: Process,
    programs: PathBuf,
    data: PathBuf,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// Starts one with its data in `folder`; `None` with a visible line where PostgreSQL is not installed.
    pub(crate) fn start(folder: &Path) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut programs = std::env::split_paths(&path).chain(debian.map(|entry| entry.path().join("bin")));
        let Some(programs) = programs.find(|folder| folder.join("initdb").is_file()) else {
            assert!(!everything_must_be_here(), "postgres: not installed; run tests/peers/install");
            eprintln!("SKIPPED postgres: PostgreSQL is not installed (tests/peers/install)");
            return None;
        };
        let data = folder.join("postgres");
        std::fs::create_dir(&data).unwrap();
        if is_root() {
            let open = |path: &Path, mode: &str| {
                assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success())
            };
            open(folder, "755");
            assert!(Command::new("chown").arg("postgres").arg(&data).status().unwrap().success());
        }
        let mut initdb = command(&programs.join("initdb"));
        let made = initdb.args(["-A", "trust", "-U", "oarlock", "-D"]).arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let server = Self { process: run(&programs, &data, port), programs, data, port };
        server.wait();
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://oarlock@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn place(&self) -> Place {
        Place::Server(self.url())
    }

    /// Ends it as a crash does.
    pub(crate) fn stop(&mut self) {
        let pid = self.process.0.id().to_string();
        let is_running = self.process.0.try_wait().is_ok_and(|ended| ended.is_none());
        if is_running && Command::new("kill").args(["-QUIT", &pid]).status().is_ok_and(|s| s.success()) {
            drop(self.process.0.wait());
        }
    }

    pub(crate) fn start_again(&mut self) {
        self.process = run(&self.programs, &self.data, self.port);
        self.wait();
    }

    /// From now on with TLS, under this certificate.
    pub(crate) fn speak_tls(&mut self, issued: &Issued) {
        for (from, name) in [(&issued.certificate, "server.crt"), (&issued.key, "server.key")] {
            let to = self.data.join(name);
            std::fs::copy(from, &to).unwrap();
            chmod(&to, 0o600);
            if is_root() {
                assert!(Command::new("chown").arg("postgres").arg(&to).status().unwrap().success());
            }
        }
        self.sql("ALTER SYSTEM SET ssl = on");
        self.stop();
        self.start_again();
    }

    fn wait(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        wait_for("PostgreSQL", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            let place = self.place();
            let opened = runtime.block_on(async { tokio::time::timeout(LIMIT, Store::open(&place)).await });
            opened.ok()?.ok().map(drop)
        });
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.0.id()
    }

    /// What it has logged, where it collects that.
    pub(crate) fn log(&self) -> String {
        let files = std::fs::read_dir(self.data.join("log")).into_iter().flatten().flatten();
        files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// Runs statements as a person would.
    pub(crate) fn sql(&self, sql: &str) {
        drop(self.ask(sql));
    }

    /// What a statement gives, without heads.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let beside = self.programs.join("psql");
        let mut psql = command(if beside.is_file() { &beside } else { Path::new("psql") });
        let done = psql.args(["-v", "ON_ERROR_STOP=1", "-Atc", sql, &self.url()]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

fn command(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

fn run(programs: &Path, data: &Path, port: u16) -> Process {
    let mut run = command(&programs.join("postgres"));
    run.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
    Process(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn instances(series: &str, n: usize) -> Vec<StoredInstance> {
    let instance = |n| StoredInstance {
        path: "/x".into(),
        sop_class_uid: SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
        sop_instance_uid: SopInstanceUid::parse(&format!("{series}.{n}")).unwrap(),
        series_instance_uid: SeriesInstanceUid::parse(series).unwrap(),
        clue: Clue::default(),
    };
    (0..n).map(instance).collect()
}

async fn complete(store: &Store, series: &str, n: usize, choice: &Choice, at_ms: i64) -> u32 {
    let instances = instances(series, n);
    let fingerprint = fingerprint_of(instances.iter().map(|i| &i.sop_instance_uid));
    let new = NewVersion {
        series: &SeriesInstanceUid::parse(series).unwrap(),
        instances: &instances,
        fingerprint: &fingerprint,
        choice,
        why: "test",
        at_least: 1,
        not_before_ms: at_ms,
    };
    store.complete(&new, at_ms).await.unwrap()
}

fn delivery(series: &str, version: u32) -> NewDelivery {
    NewDelivery {
        delivery: format!("{series} v{version}"),
        destination: "TPS@h:104".to_owned(),
        state: DeliveryState::Pending,
        reason: None,
        of: Some((series.to_owned(), version)),
    }
}

/// Everything that a series goes through, on whatever engine.
async fn a_life(store: &Store) {
    let series = SeriesInstanceUid::parse("1.2.7").unwrap();
    store.receiving(&series, "CT1", 1).await.unwrap();
    assert_eq!(complete(store, "1.2.7", 2, &Choice::default(), 2).await, 1);
    let passed = Choice { passed_over: Some("a localizer".to_owned()), ..Choice::default() };
    assert_eq!(complete(store, "1.2.8", 1, &passed, 3).await, 1);
    assert_eq!(store.known().await.unwrap().len(), 2);
    let queue = Queue::new(store, "a", LEASE);
    let job = queue.take(at(10)).await.unwrap().unwrap();
    assert!(queue.end(&job, &End::Again { reason: "no memory", not_before_ms: 20 }, 11).await.unwrap());
    assert_eq!(queue.take(at(19)).await.unwrap(), None);
    let job = queue.take(at(20)).await.unwrap().unwrap();
    assert!(queue.renew(&job, 21).await.unwrap());
    let deliveries = [delivery("1.2.7", 1)];
    let end = End::Contoured { result: "results/x.dcm", organs: &[], deliveries: &deliveries };
    assert!(queue.end(&job, &end, 22).await.unwrap());
    assert!(!queue.end(&job, &end, 23).await.unwrap());
    let take = async |now_ms| store.take_due("TPS@h:104", "a", LEASE, LEASE, now_ms).await.unwrap();
    let taken = take(30).await.unwrap();
    let later =
        Delivery { attempts: 1, next_attempt_ms: 40, last_error: Some("down".to_owned()), ..taken.clone() };
    assert!(store.after_attempt(&later, "down", 31).await.unwrap());
    assert_eq!(take(39).await, None);
    let taken = take(40).await.unwrap();
    let there = Delivery { state: DeliveryState::Delivered, delivered_ms: Some(41), attempts: 2, ..taken };
    assert!(store.after_attempt(&there, "there", 41).await.unwrap());
    assert_eq!(store.resend("1.2.7", 1, None, "asked", 50).await.unwrap(), 1);
    assert_eq!(complete(store, "1.2.7", 3, &Choice::default(), 60).await, 2);
    assert_eq!(store.retry("1.2.8", 1, 61).await.unwrap(), Ok(()));
    let detail = store.job("1.2.7").await.unwrap().unwrap();
    let states: Vec<_> =
        detail.versions.iter().map(|v| (v.job.version, v.job.state, v.job.n_deliveries)).collect();
    assert_eq!(states, [(1, JobState::Contoured, 1), (2, JobState::Waiting, 0)]);
    assert_eq!((detail.state, detail.calling_ae_title.as_str()), (SeriesState::Complete, "CT1"));
    assert_eq!(detail.history.len(), 12, "{:#?}", detail.history);
    let failed = JobFilter { states: vec![JobState::Failed], limit: 10 };
    assert_eq!(store.jobs(&failed).await.unwrap(), []);
    assert!(store.job_counts().await.unwrap().contains(&(JobState::Waiting, 2)));
    assert!(store.delivery_counts().await.unwrap().contains(&(DeliveryState::Pending, 1)));
    assert_eq!(store.series_receiving().await.unwrap(), []);
    store.release_deliveries().await.unwrap();
    assert_eq!(queue.release_all(70).await.unwrap(), 0);
}

#[test]
fn a_series_lives_the_same_life_on_both_engines() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let life = |place: &Place| {
        runtime.block_on(async {
            let store = Store::open(place).await.unwrap();
            a_life(&store).await;
            store.close().await;
            Store::open_existing(place).await.unwrap().close().await;
        });
    };
    life(&Place::File(folder.path().join("x.sqlite3")));
    let Some(server) = Server::start(folder.path()) else { return };
    life(&server.place());
}

/// Three nodes, each with a store of its own, take the jobs of one database. One of them dies with a job in hand; another
/// one wakes up after its job was taken over. Every job ends once, with one delivery.
#[test]
fn three_nodes_share_the_jobs_of_one_server_and_each_ends_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(folder.path()) else { return };
    let place = server.place();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // All at once, so that three bring the tables up to date at the same time.
        let open = || Store::open(&place);
        let (a, b, c) = tokio::try_join!(open(), open(), open()).unwrap();
        for n in 0..40 {
            complete(&a, &format!("1.2.{n}"), 2, &Choice::default(), n).await;
        }
        let (dead, slow) = (Queue::new(&b, "dead", LEASE), Queue::new(&b, "slow", LEASE));
        let died_with = dead.take(at(100)).await.unwrap().unwrap();
        let slow_job = slow.take(at(100)).await.unwrap().unwrap();
        assert_ne!(died_with.series, slow_job.series);
        let stores = [a, b, c].map(Arc::new);
        let mut nodes = Vec::new();
        for (n, store) in stores.iter().enumerate() {
            let store = Arc::clone(store);
            nodes.push(tokio::spawn(async move {
                let name = format!("node {n}");
                let queue = Queue::new(&store, &name, LEASE);
                let mut ended = 0;
                // One minute later the leases have run out.
                while let Some(job) = queue.take(at(60_101)).await.unwrap() {
                    let deliveries = [delivery(job.series.as_str(), job.version)];
                    let end = End::Contoured { result: "r", organs: &[], deliveries: &deliveries };
                    assert!(queue.end(&job, &end, 60_102).await.unwrap());
                    ended += 1;
                }
                ended
            }));
        }
        let mut ended = 0;
        for node in nodes {
            ended += node.await.unwrap();
        }
        assert_eq!(ended, 40);
        let late = Queue::new(&stores[1], "slow", LEASE);
        let deliveries = [NewDelivery { delivery: "late".to_owned(), ..delivery("1.2.1", 1) }];
        let end = End::Contoured { result: "late", organs: &[], deliveries: &deliveries };
        assert!(!late.end(&slow_job, &end, 60_200).await.unwrap(), "it was taken over");
        let mut per_series = BTreeMap::new();
        for delivery in stores[0].deliveries(None).await.unwrap() {
            *per_series.entry(delivery.series.unwrap()).or_insert(0) += 1;
        }
        assert!(per_series.len() == 40 && per_series.values().all(|n| *n == 1), "{per_series:?}");
        for store in stores {
            store.close().await;
        }
    });
}

/// A newer program brings its tables while nodes of this version work; they go on, and start again. One that changes what
/// they rely on says so, and they refuse.
#[test]
fn an_old_node_works_on_while_a_migration_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(folder.path()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let old = Arc::new(runtime.block_on(Store::open(&server.place())).unwrap());
    let (working, stop) = (Arc::clone(&old), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let work = runtime.spawn(async move {
        let queue = Queue::new(&working, "old", LEASE);
        let mut n = 0;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            complete(&working, &format!("1.2.{n}"), 2, &Choice::default(), n).await;
            let job = queue.take(at(n)).await.unwrap().unwrap();
            let deliveries = [delivery(job.series.as_str(), job.version)];
            let end = End::Contoured { result: "r", organs: &[], deliveries: &deliveries };
            assert!(queue.end(&job, &end, n).await.unwrap());
            let taken = working.take_due("TPS@h:104", "old", LEASE, LEASE, n).await.unwrap().unwrap();
            let there = Delivery { state: DeliveryState::Delivered, delivered_ms: Some(n), ..taken };
            assert!(working.after_attempt(&there, "there", n).await.unwrap());
        }
        n
    });
    let applied = |number: u32, sql: &str| {
        server.sql(&format!(
            "BEGIN; {sql}; INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES ({number}, 'of a newer program', TRUE, '\\x00', 0); COMMIT"
        ));
    };
    // One table at a time, as every migration does (decision 14).
    applied(9001, "ALTER TABLE jobs ADD COLUMN shade TEXT");
    applied(9002, "ALTER TABLE series ADD COLUMN shade BIGINT");
    applied(9003, "CREATE TABLE shades (shade TEXT); CREATE INDEX jobs_shade ON jobs (shade)");
    stop.store(true, Ordering::Relaxed);
    let n = runtime.block_on(work).unwrap();
    assert!(n > 1, "nothing was done meanwhile");
    runtime.block_on(async {
        old.close().await;
        Store::open(&server.place()).await.unwrap().close().await;
        server.sql("UPDATE compatibility SET oldest = 9004");
        let error = Store::open(&server.place()).await.unwrap_err().to_string();
        assert!(error.contains("need a newer version") && error.contains("9004"), "{error}");
    });
}

/// Stands before a server; while it is shut, nobody is let through and whoever was is cut off.
struct Door {
    port: u16,
    is_shut: Arc<AtomicBool>,
}

impl Door {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, is_shut) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let shut = Arc::clone(&is_shut);
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                if shut.load(Ordering::SeqCst) {
                    continue;
                }
                let called = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let ways = [(caller.try_clone().unwrap(), called.try_clone().unwrap()), (called, caller)];
                for (from, to) in ways {
                    let shut = Arc::clone(&shut);
                    std::thread::spawn(move || pass_on(from, to, &shut));
                }
            }
        });
        Self { port, is_shut }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_shut: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 8_192];
    while !is_shut.load(Ordering::SeqCst) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => drop(to.write_all(&buffer[..n])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

/// A job is in hand when the server goes; it ends once, when the server is back, over the same store.
#[test]
fn a_server_that_goes_and_comes_back_costs_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(folder.path()) else { return };
    let door = Door::before(server.port);
    let place = Place::Server(server.url().replace(&server.port.to_string(), &door.port.to_string()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&place).await.unwrap();
        complete(&store, "1.2.1", 2, &Choice::default(), 0).await;
        complete(&store, "1.2.2", 2, &Choice::default(), 1).await;
        let queue = Queue::new(&store, "a", LEASE);
        let job = queue.take(at(10)).await.unwrap().unwrap();
        door.is_shut.store(true, Ordering::SeqCst);
        let deliveries = [delivery(job.series.as_str(), 1)];
        let end = End::Contoured { result: "x", organs: &[], deliveries: &deliveries };
        assert!(tokio::time::timeout(LIMIT, queue.end(&job, &end, 11)).await.unwrap().is_err());
        assert!(tokio::time::timeout(LIMIT, store.ping()).await.unwrap().is_err());
        door.is_shut.store(false, Ordering::SeqCst);
        assert!(tokio::time::timeout(LIMIT, queue.end(&job, &end, 12)).await.unwrap().unwrap());
        assert!(!queue.end(&job, &end, 13).await.unwrap(), "it ends once");
        assert_eq!(store.deliveries(None).await.unwrap().len(), 1);
        assert_eq!(queue.take(at(14)).await.unwrap().unwrap().series.as_str(), "1.2.2");
        store.close().await;
    });
}
