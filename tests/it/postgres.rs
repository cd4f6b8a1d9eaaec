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

use crate::support::{Process, everything_must_be_here, free_port};
use crate::wire::{LIMIT, wait_for};

const LEASE: Duration = Duration::from_secs(60);

fn at(ms: i64) -> Now {
    Now { ms, minute_of_day: 0 }
}

/// Ended by SIGQUIT, so that it leaves no shared memory behind.
struct Server(Process);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.0.0.id().to_string();
        if Command::new("kill").args(["-QUIT", &pid]).status().is_ok_and(|status| status.success()) {
            drop(self.0.0.wait());
        }
    }
}

/// A server of this test's own, as the user `postgres` where we are root; `None` with a visible line where there is none.
fn server(folder: &Path) -> Option<(Server, Place)> {
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
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if is_root {
        let open = |path: &Path, mode: &str| {
            assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success())
        };
        open(folder, "755");
        assert!(Command::new("chown").arg("postgres").arg(&data).status().unwrap().success());
    }
    let command = |program: &str| {
        let program: PathBuf = programs.join(program);
        if !is_root {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    };
    let made = command("initdb").args(["-A", "trust", "-U", "oarlock", "-D"]).arg(&data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = free_port();
    let mut run = command("postgres");
    run.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
    let process = Server(Process(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
    let place = Place::Server(format!("postgres://oarlock@127.0.0.1:{port}/postgres"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    wait_for("PostgreSQL", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        let opened = runtime.block_on(async { tokio::time::timeout(LIMIT, Store::open(&place)).await });
        opened.ok()?.ok().map(drop)
    });
    Some((process, place))
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
    let Some((_server, place)) = server(folder.path()) else { return };
    life(&place);
}

/// Three nodes, each with a store of its own, take the jobs of one database. One of them dies with a job in hand; another
/// one wakes up after its job was taken over. Every job ends once, with one delivery.
#[test]
fn three_nodes_share_the_jobs_of_one_server_and_each_ends_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_server, place)) = server(folder.path()) else { return };
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
    let Some((_server, Place::Server(url))) = server(folder.path()) else { return };
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
    let door = Door::before(port);
    let place = Place::Server(url.replace(&port.to_string(), &door.port.to_string()));
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
