//! Three nodes as processes over one PostgreSQL and one bucket: killed at random, taken over, restarted one after the
//! other, and with database and object store away.
//!
//! More kills: `OARLOCK_CLUSTER_KILLS=200 cargo test --test it nodes_that_are_killed -- --nocapture`. Another lease for the
//! takeover: `OARLOCK_LEASE_S=60 cargo test --test it taken_over -- --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::quarantine::Quarantine;
use oarlock::service::store::{DeliveryState, JobDetail, JobState, SeriesState, Store};
use oarlock::service::{ContourFailure, Contourer, MadeStructureSet, Service, objects_of, run};
use oarlock::settings::ServiceSettings;
use oarlock::vocabulary::dicom::SopInstanceUid;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::postgres::Server;
use crate::support::{Process, all_jobs, everything_must_be_here, free_ports};
use crate::wire::{
    CT, RTSTRUCT, Wire, assert_each_once, data_set, echoes, element, files, part10, service, store,
    wait_within,
};

/// Tells this test binary, started once more, to be a node: its file of settings.
const BE_A_NODE: &str = "OARLOCK_TEST_NODE";
/// How long its contouring takes, ms.
const CONTOURING: &str = "OARLOCK_TEST_CONTOURING_MS";
/// How long the structure sets are that it makes, bytes.
const RESULT: &str = "OARLOCK_TEST_RESULT_BYTES";
pub(crate) const LONG: Duration = Duration::from_secs(120);
const SLICES: std::ops::RangeInclusive<usize> = 4..=7;

/// Takes a moment, reads every instance, and mints a new SOP Instance UID each time it is asked.
fn contourer() -> Contourer {
    let takes = std::env::var(CONTOURING).map(|ms| Duration::from_millis(ms.parse().unwrap()));
    let n_bytes = std::env::var(RESULT).map_or(0, |n| n.parse().unwrap());
    Box::new(move |series: &CompleteSeries| {
        let random = Duration::from_millis(rand::random_range(0..60));
        std::thread::sleep(*takes.as_ref().unwrap_or(&random));
        for instance in &series.instances {
            std::fs::read(&instance.path).map_err(ContourFailure::refuse)?;
        }
        let uid = format!("2.25.{}", uuid::Uuid::new_v4().as_u128());
        let of = format!("{}.{}", series.series_instance_uid, series.version);
        let filler = element(0x7FE0, 0x10, "OW", &vec![3; n_bytes]);
        let part10 = match n_bytes {
            0 => part10(RTSTRUCT, &uid, &data_set(RTSTRUCT, &of, &uid, 0.0, 3)),
            _ => part10(RTSTRUCT, &uid, &[named(RTSTRUCT, &of, &uid), filler].concat()),
        };
        Ok(MadeStructureSet { part10, formatted: Vec::new(), organs: Vec::new() })
    })
}

/// The identifiers of a data set alone.
pub(crate) fn named(class: &str, series: &str, uid: &str) -> Vec<u8> {
    let whole = data_set(class, series, uid, 0.0, 0);
    whole[..whole.len() - 12 - 154].to_vec()
}

/// The node of [`BE_A_NODE`], which ends in order at SIGTERM; nothing where this is an ordinary run of the tests.
#[test]
fn the_node_of_the_cluster_test() {
    let Ok(path) = std::env::var(BE_A_NODE) else { return };
    let settings = ServiceSettings::load(Path::new(&path)).unwrap();
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).unwrap().recv().await;
    };
    run(&settings, Some(contourer()), terminated, |_| {}).unwrap();
}

/// An S3 server over a folder.
pub(crate) struct Bucket {
    pub(crate) process: Process,
    program: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Bucket {
    pub(crate) fn start(folder: &Path) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/s3/bin/s3s-fs");
        if !program.is_file() {
            assert!(!everything_must_be_here(), "cluster: s3s-fs is not installed; run tests/peers/install");
            eprintln!("SKIPPED cluster: s3s-fs is not installed (tests/peers/install)");
            return None;
        }
        let folder = folder.join("s3");
        std::fs::create_dir_all(folder.join("oarlock")).unwrap();
        let [port] = free_ports();
        let bucket = Self { process: serve(&program, &folder, port), program, folder, port };
        bucket.wait();
        Some(bucket)
    }

    fn stop(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = serve(&self.program, &self.folder, self.port);
        self.wait();
    }

    fn wait(&self) {
        wait_within(LONG, "the S3 server", || TcpStream::connect(("127.0.0.1", self.port)).ok().map(drop));
    }

    /// The folder of what nodes keep.
    pub(crate) fn objects(&self) -> PathBuf {
        self.folder.join("oarlock/site")
    }
}

fn serve(program: &Path, folder: &Path, port: u16) -> Process {
    let keys = ["--access-key", "AKIA", "--secret-key", "s3cret"];
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]).args(keys).arg(folder);
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// One node: its settings and its process.
pub(crate) struct Node {
    settings: PathBuf,
    pub(crate) address: SocketAddr,
    http: SocketAddr,
    environment: Vec<(&'static str, String)>,
    pub(crate) process: Option<Process>,
}

impl Node {
    fn start(&mut self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cluster::the_node_of_the_cluster_test", "--nocapture"]);
        command.env(BE_A_NODE, &self.settings).envs(self.environment.clone());
        // Its log lies beside its settings, for whoever looks into a failure.
        let mut log = std::fs::OpenOptions::new();
        let log = log.create(true).append(true).open(self.settings.with_extension("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Process(command.spawn().unwrap()));
    }

    fn wait(&self) {
        let mut said = String::new();
        let started = Instant::now();
        while started.elapsed() < LONG {
            said = self.ready();
            if said.starts_with("HTTP/1.1 200") {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the node is not ready: {said}");
    }

    fn is_ready(&self) -> bool {
        self.ready().starts_with("HTTP/1.1 200")
    }

    /// What `/ready` answers; nothing where nobody does.
    fn ready(&self) -> String {
        let asked = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.http, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /ready HTTP/1.1\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        asked().unwrap_or_default()
    }

    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.0.kill().unwrap();
        process.0.wait().unwrap();
    }

    /// Asks it to end, and waits.
    fn terminate(&mut self) {
        let mut process = self.process.take().unwrap();
        let child: &mut Child = &mut process.0;
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let status = wait_within(LONG, "the end of a node", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    destinations: Vec<(Service, tempfile::TempDir)>,
    pub(crate) bucket: Bucket,
    pub(crate) database: Server,
    folder: tempfile::TempDir,
}

/// What a cluster is made of.
pub(crate) struct Plan {
    pub(crate) n_nodes: usize,
    pub(crate) lease_s: f64,
    pub(crate) quiet_time_s: f64,
    pub(crate) contouring_ms: Option<u64>,
    pub(crate) keep_days: Option<f64>,
    pub(crate) result_bytes: usize,
    /// Destinations of the test's own; two services without.
    pub(crate) peers: Option<Vec<String>>,
    /// Whether the server logs every statement.
    pub(crate) log_statements: bool,
    /// Lines of settings besides.
    pub(crate) settings: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            n_nodes: 3,
            lease_s: 2.0,
            quiet_time_s: 2.0,
            contouring_ms: None,
            keep_days: None,
            result_bytes: 0,
            peers: None,
            log_statements: false,
            settings: String::new(),
        }
    }
}

/// What the nodes said last, where a test failed.
impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = std::fs::read_to_string(node.settings.with_extension("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(25).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                eprintln!("{}:\n{}", node.settings.display(), last.join("\n"));
            }
        }
    }
}

impl Cluster {
    /// `None` with a visible line where something is not installed.
    pub(crate) fn start(plan: &Plan) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (bucket, mut database) = (Bucket::start(folder.path())?, Server::start(folder.path())?);
        if plan.log_statements {
            database.sql("ALTER SYSTEM SET logging_collector = on");
            database.sql("ALTER SYSTEM SET log_statement = 'all'");
            database.stop();
            database.start_again();
        }
        let destinations: Vec<_> = (0..if plan.peers.is_some() { 0 } else { 2 })
            .map(|_| {
                let folder = tempfile::tempdir().unwrap();
                (service(folder.path(), None, |_| {}), folder)
            })
            .collect();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let url = file("url", &database.url());
        let (access, secret) = (file("access", "AKIA\n"), file("secret", "s3cret\n"));
        let ours = || destinations.iter().map(|(to, _)| format!("TPS@{}", to.address())).collect();
        let peers: Vec<String> = plan.peers.clone().unwrap_or_else(ours);
        let peers: Vec<_> = peers.iter().map(|peer| format!("{{peer: {peer}}}")).collect();
        let mut environment = vec![(RESULT, plan.result_bytes.to_string())];
        environment.extend(plan.contouring_ms.map(|ms| (CONTOURING, ms.to_string())));
        let (lease_s, quiet_time_s) = (plan.lease_s, plan.quiet_time_s);
        let keep = plan.keep_days.map_or(String::new(), |days| format!("retention: {{keep_days: {days}}}\n"));
        let ports = free_ports::<6>();
        let mut nodes: Vec<Node> = (0..plan.n_nodes)
            .map(|n| {
                let (port, http) = (ports[2 * n], ports[2 * n + 1]);
                let text = format!(
                    "data_dir: {0}/node{n}\nhttp: 127.0.0.1:{http}\nstop_drain_s: 1.5\nstop_grace_s: 10\n\
                     listen: {{port: {port}, min_free_mb: 1}}\nseries: {{quiet_time_s: {quiet_time_s}, incomplete_wait_s: 2.5}}\n\
                     store:\n  lease_s: {lease_s}\n  postgres: {{url_file: {url}}}\n  s3: {{endpoint: 'http://127.0.0.1:{1}', \
                     bucket: oarlock, prefix: site, access_key_file: {access}, secret_key_file: {secret}}}\n\
                     delivery: {{connect_timeout_s: 1, answer_timeout_s: 1, first_retry_s: 0.05, longest_retry_s: 0.2}}\n\
                     destinations: [{2}]\n{keep}{3}",
                    folder.path().display(),
                    bucket.port,
                    peers.join(", "),
                    plan.settings
                );
                Node {
                    settings: file(&format!("node{n}.yaml"), &text).into(),
                    address: ([127, 0, 0, 1], port).into(),
                    http: ([127, 0, 0, 1], http).into(),
                    environment: environment.clone(),
                    process: None,
                }
            })
            .collect();
        nodes.iter_mut().for_each(Node::start);
        nodes.iter().for_each(Node::wait);
        Some(Self { nodes, destinations, bucket, database, folder })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    pub(crate) fn stored<T>(&self, ask: impl AsyncFnOnce(&Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(&self.database.place()).await.unwrap();
            let answer = ask(&store).await;
            store.close().await;
            answer
        })
    }

    pub(crate) fn jobs(&self) -> Vec<JobDetail> {
        self.stored(all_jobs)
    }

    /// Waits until every acknowledged series is contoured with all its instances and delivered; then nothing may be
    /// missing in the bucket, and each structure set is once at each destination.
    fn require_everything_once(&self, acknowledged: &Acknowledged) -> String {
        let expected = acknowledged.lock().unwrap().clone();
        let settled = |job: &JobDetail| {
            let last = job.versions.last().unwrap();
            let whole = usize::try_from(last.job.n_instances).unwrap() == expected[&job.series].len();
            let delivered = last.deliveries.iter().filter(|d| d.state == DeliveryState::Delivered).count();
            whole && last.job.state == JobState::Contoured && delivered == self.destinations.len()
        };
        let started = Instant::now();
        let jobs = loop {
            let jobs = self.jobs();
            let open: Vec<_> = jobs.iter().filter(|job| !settled(job)).collect();
            if jobs.len() == expected.len() && open.is_empty() {
                break jobs;
            }
            if started.elapsed() > LONG {
                let missing: Vec<_> =
                    expected.keys().filter(|uid| !jobs.iter().any(|job| job.series == **uid)).collect();
                panic!("logs in {:?}; never known: {missing:?}; open: {open:#?}", self.folder.path());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        for (series, instances) in &expected {
            for (uid, bytes) in instances {
                let path = self.bucket.objects().join("instances").join(series).join(format!("{uid}.dcm"));
                let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert!(file.ends_with(bytes), "{uid} is not what was sent");
            }
        }
        let versions: BTreeSet<String> = jobs
            .iter()
            .flat_map(|job| job.versions.iter().map(|v| (&job.series, v)))
            .filter(|(_, version)| version.job.state == JobState::Contoured)
            .map(|(series, version)| format!("{series}.{}", version.job.version))
            .collect();
        for (_, folder) in &self.destinations {
            assert_each_once(folder.path(), &versions, &folder.path().display().to_string());
        }
        let n_instances: usize = expected.values().map(BTreeMap::len).sum();
        format!(
            "{} series of {n_instances} instances, {} versions, nothing lost, nothing twice",
            expected.len(),
            versions.len()
        )
    }
}

/// Instances that were answered with success, with their data sets, by series.
type Acknowledged = Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>;

pub(crate) fn slices(series: &str, n: usize) -> Vec<(String, Vec<u8>)> {
    let slice = |k: usize| {
        let uid = format!("{series}.{k}");
        let bytes = data_set(CT, series, &uid, 2.5 * k as f64, u8::try_from(1 + k % 250).unwrap());
        (uid, bytes)
    };
    (0..n).map(slice).collect()
}

/// Sends series after series, each instance to whichever node takes it, until told to stop; what was not acknowledged is
/// sent again.
fn send_anywhere(number: usize, addresses: &[SocketAddr], acknowledged: &Acknowledged, stop: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(number as u64);
    for count in 0.. {
        let series = format!("1.2.91.{number}.{count}");
        let mut left = slices(&series, random.random_range(SLICES));
        while let Some((uid, bytes)) = left.last() {
            let address = addresses[random.random_range(0..addresses.len())];
            let Some(mut wire) = Wire::try_associated(address) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            wire.send(&store(uid, bytes));
            match wire.try_status() {
                Some(0) => {
                    let (uid, bytes) = left.pop().unwrap();
                    acknowledged.lock().unwrap().entry(series.clone()).or_default().insert(uid, bytes);
                }
                // Out of resources: the database or the object store is away.
                Some(0xA700) => std::thread::sleep(Duration::from_millis(50)),
                Some(status) => panic!("{uid}: {status:04X}"),
                None => {}
            }
        }
        if stop.load(Ordering::SeqCst) {
            return;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(50..300)));
    }
}

struct Senders {
    acknowledged: Arc<Acknowledged>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Senders {
    fn start(n: usize, addresses: &[SocketAddr]) -> Self {
        let (acknowledged, stop) = (Arc::new(Acknowledged::default()), Arc::new(AtomicBool::new(false)));
        let threads = (0..n)
            .map(|number| {
                let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
                let addresses = addresses.to_vec();
                std::thread::spawn(move || send_anywhere(number, &addresses, &acknowledged, &stop))
            })
            .collect();
        Self { acknowledged, stop, threads }
    }

    fn finish(self) -> Arc<Acknowledged> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|sender| sender.join().unwrap());
        self.acknowledged
    }

    fn n_acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().values().map(BTreeMap::len).sum()
    }
}

#[test]
fn nodes_that_are_killed_anywhere_lose_nothing_and_deliver_nothing_twice() {
    let kills: usize = std::env::var("OARLOCK_CLUSTER_KILLS").map_or(5, |n| n.parse().unwrap());
    let Some(mut cluster) = Cluster::start(&Plan::default()) else { return };
    let senders = Senders::start(3, &cluster.addresses());
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(random.random_range(100..900)));
        let node = &mut cluster.nodes[random.random_range(0..3)];
        node.kill();
        std::thread::sleep(Duration::from_millis(random.random_range(0..600)));
        node.start();
    }
    // The last one that is killed stays away, right after it has acknowledged a series that no other node has heard of.
    let addresses = cluster.addresses();
    cluster.nodes[0].wait();
    let mut wire = Wire::associated(addresses[0]);
    for (uid, bytes) in slices("1.2.95", 5) {
        assert_eq!(wire.store(&uid, &bytes), 0);
        senders.acknowledged.lock().unwrap().entry("1.2.95".to_owned()).or_default().insert(uid, bytes);
    }
    cluster.nodes[0].kill();
    wait_within(LONG, "two nodes", || (echoes(addresses[1]) && echoes(addresses[2])).then_some(()));
    let acknowledged = senders.finish();
    eprintln!("{} kills: {}", kills + 1, cluster.require_everything_once(&acknowledged));
}

#[test]
fn the_job_of_a_dead_node_is_taken_over_within_its_lease_and_five_seconds() {
    let lease_s: f64 = std::env::var("OARLOCK_LEASE_S").map_or(2.0, |s| s.parse().unwrap());
    let Some(mut cluster) = Cluster::start(&Plan { lease_s, contouring_ms: Some(1_500), ..Plan::default() })
    else {
        return;
    };
    let mut wire = Wire::associated(cluster.nodes[0].address);
    for (uid, bytes) in slices("1.2.92", 3) {
        assert_eq!(wire.store(&uid, &bytes), 0);
    }
    let owner = |job: &JobDetail| job.versions[0].lease_owner.clone();
    let first = wait_within(LONG, "the job", || cluster.jobs().first().and_then(owner));
    let process = |node: &&mut Node| first.contains(&format!("-{}-", node.process.as_ref().unwrap().0.id()));
    cluster.nodes.iter_mut().find(process).expect("the name of a node has its process").kill();
    let killed = Instant::now();
    let second = wait_within(LONG, "the takeover", || {
        cluster.jobs().first().and_then(owner).filter(|owner| *owner != first)
    });
    let took = killed.elapsed();
    eprintln!(
        "lease {lease_s} s: {second} took the job of {first} over {:.2} s after its death",
        took.as_secs_f64()
    );
    assert!(took <= Duration::from_secs_f64(lease_s + 5.0), "{took:?}");
    let contoured = |job: &JobDetail| job.versions[0].job.state == JobState::Contoured;
    wait_within(LONG, "the structure set", || cluster.jobs().first().is_some_and(contoured).then_some(()));
}

/// A late instance is acknowledged without asking the database, since its node has announced the series; the node dies
/// before it tells anybody. The others find it by the announcement.
#[test]
fn a_late_instance_that_only_a_dead_node_knew_of_is_found() {
    let Some(mut cluster) = Cluster::start(&Plan::default()) else { return };
    let (series, acknowledged) = ("1.2.95", Acknowledged::default());
    let mut wire = Wire::associated(cluster.nodes[0].address);
    for (k, (uid, bytes)) in slices(series, 4).into_iter().enumerate() {
        if k == 3 {
            let is_complete = |job: &JobDetail| job.state == SeriesState::Complete;
            wait_within(LONG, "the first version", || {
                cluster.jobs().first().is_some_and(is_complete).then_some(())
            });
        }
        assert_eq!(wire.store(&uid, &bytes), 0);
        acknowledged.lock().unwrap().entry(series.to_owned()).or_default().insert(uid, bytes);
    }
    cluster.nodes[0].kill();
    eprintln!("{}", cluster.require_everything_once(&acknowledged));
}

/// A node that is paused for longer than its lease is taken for dead. When it wakes it tells the others again before it
/// acknowledges anything, so that what it has is found when it dies at once.
#[test]
fn a_node_that_slept_through_its_lease_announces_anew_before_it_acknowledges() {
    let Some(mut cluster) = Cluster::start(&Plan::default()) else { return };
    let (series, acknowledged) = ("1.2.97", Acknowledged::default());
    let mut wire = Wire::associated(cluster.nodes[0].address);
    let process = cluster.nodes[0].process.as_ref().unwrap().0.id().to_string();
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
    for (k, (uid, bytes)) in slices(series, 6).into_iter().enumerate() {
        if k == 3 {
            signal("-STOP");
            let alive = |cluster: &Cluster| cluster.stored(async |store| store.nodes().await.unwrap().len());
            wait_within(LONG, "the burial", || (alive(&cluster) == 2).then_some(()));
            signal("-CONT");
        }
        // At first it may still hear that it is dead.
        wait_within(LONG, "an instance is taken", || match wire.store(&uid, &bytes) {
            0 => Some(()),
            status => {
                assert_eq!(status, 0xA700);
                None
            }
        });
        acknowledged.lock().unwrap().entry(series.to_owned()).or_default().insert(uid, bytes);
    }
    cluster.nodes[0].kill();
    eprintln!("{}", cluster.require_everything_once(&acknowledged));
}

/// What is finished goes when it is old, what is sent again comes back and is not contoured again.
#[test]
fn a_finished_series_is_removed_from_the_bucket_and_may_come_again() {
    let Some(cluster) = Cluster::start(&Plan { keep_days: Some(0.000_04), ..Plan::default() }) else {
        return;
    };
    let (series, addresses) = ("1.2.98", cluster.addresses());
    let send = |to: usize| {
        let mut wire = Wire::associated(addresses[to]);
        for (uid, bytes) in slices(series, 3) {
            assert_eq!(wire.store(&uid, &bytes), 0);
        }
    };
    send(0);
    let folder = |name: &str| files(&cluster.bucket.objects().join(name), "dcm");
    let removed = || {
        cluster
            .jobs()
            .first()
            .is_some_and(|job| job.history.last().is_some_and(|entry| entry.became == "removed"))
    };
    wait_within(LONG, "the removal", || removed().then_some(()));
    for name in ["instances", "results", "outbox"] {
        assert_eq!(folder(name), Vec::<PathBuf>::new(), "{name}");
    }
    send(1);
    assert_eq!(folder("instances").len(), 3);
    wait_within(LONG, "the second time", || {
        let job = cluster.jobs().into_iter().next()?;
        let is_done = job.state == SeriesState::Complete && job.versions.len() == 1;
        (is_done && job.history.iter().filter(|entry| entry.became == "receiving").count() == 2).then_some(())
    });
    for (_, folder) in &cluster.destinations {
        assert_eq!(files(&folder.path().join("instances"), "dcm").len(), 1);
    }
}

/// Without the object store or the database nothing new is acknowledged that would be lost; when they are back everything
/// goes on by itself.
#[test]
fn an_object_store_or_a_database_that_goes_away_and_comes_back_loses_nothing() {
    let Some(mut cluster) = Cluster::start(&Plan { lease_s: 3.0, ..Plan::default() }) else { return };
    let senders = Senders::start(2, &cluster.addresses());
    let pause = |s: f64| std::thread::sleep(Duration::from_secs_f64(s));
    pause(1.0);
    cluster.bucket.stop();
    pause(1.5);
    let without_bucket = senders.n_acknowledged();
    pause(1.0);
    assert_eq!(senders.n_acknowledged(), without_bucket, "acknowledged without the object store");
    cluster.bucket.start_again();
    wait_within(LONG, "instances are taken again", || {
        (senders.n_acknowledged() > without_bucket).then_some(())
    });
    pause(1.0);
    cluster.database.stop();
    pause(4.0);
    let without_database = senders.n_acknowledged();
    pause(1.0);
    assert_eq!(senders.n_acknowledged(), without_database, "acknowledged although nobody else could know");
    assert!(cluster.nodes.iter().all(|node| !node.is_ready()), "ready without a database");
    cluster.database.start_again();
    wait_within(LONG, "instances are taken again", || {
        (senders.n_acknowledged() > without_database).then_some(())
    });
    let acknowledged = senders.finish();
    eprintln!("{}", cluster.require_everything_once(&acknowledged));
}

/// Senders that ask `/ready` before each association, as a balancer does, are refused nothing while all nodes are
/// restarted one after the other.
#[test]
fn a_rolling_restart_under_load_refuses_nothing() {
    let Some(mut cluster) = Cluster::start(&Plan::default()) else { return };
    let acknowledged = Arc::new(Acknowledged::default());
    let (stop, n_refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let targets: Vec<(SocketAddr, SocketAddr)> =
        cluster.nodes.iter().map(|node| (node.address, node.http)).collect();
    let senders: Vec<_> = (0..3)
        .map(|number| {
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            let (n_refused, targets) = (Arc::clone(&n_refused), targets.clone());
            std::thread::spawn(move || {
                let mut next = number;
                for count in 0.. {
                    let series = format!("1.2.93.{number}.{count}");
                    for (uid, bytes) in slices(&series, 5) {
                        let address = loop {
                            next += 1;
                            let (address, http) = targets[next % targets.len()];
                            if is_ready(http) {
                                break address;
                            }
                        };
                        let status = Wire::try_associated(address).and_then(|mut wire| {
                            wire.send(&store(&uid, &bytes));
                            wire.try_status()
                        });
                        if status == Some(0) {
                            let mut acknowledged = acknowledged.lock().unwrap();
                            acknowledged.entry(series.clone()).or_default().insert(uid, bytes);
                        } else {
                            eprintln!("{uid} at {address}: {status:04X?}");
                            n_refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        })
        .collect();
    for node in &mut cluster.nodes {
        node.terminate();
        node.start();
        node.wait();
    }
    stop.store(true, Ordering::SeqCst);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert_eq!(n_refused.load(Ordering::SeqCst), 0);
    eprintln!("{}", cluster.require_everything_once(&acknowledged));
}

fn is_ready(http: SocketAddr) -> bool {
    let (settings, environment) = (PathBuf::new(), Vec::new());
    Node { settings, address: http, http, environment, process: None }.is_ready()
}

/// The same UID with other pixels at another node is found out, and the commands work on the shared database and bucket.
#[test]
fn other_content_at_another_node_goes_to_quarantine_and_the_commands_see_the_cluster() {
    let Some(cluster) = Cluster::start(&Plan::default()) else { return };
    std::thread::sleep(Duration::from_secs(6));
    cluster.nodes.iter().for_each(|node| assert!(node.is_ready(), "ready no more: {}", node.ready()));
    let series = "1.2.94";
    let mut wires: Vec<Wire> = cluster.addresses().into_iter().map(Wire::associated).collect();
    let acknowledged = Acknowledged::default();
    for (k, (uid, bytes)) in slices(series, 6).into_iter().enumerate() {
        assert_eq!(wires[k % 3].store(&uid, &bytes), 0);
        assert_eq!(wires[(k + 1) % 3].store(&uid, &bytes), 0, "the same again");
        acknowledged.lock().unwrap().entry(series.to_owned()).or_default().insert(uid, bytes);
    }
    let uid = format!("{series}.2");
    assert_eq!(wires[0].store(&uid, &data_set(CT, series, &uid, 5.0, 99)), 0xC111);
    cluster.require_everything_once(&acknowledged);
    let config = cluster.nodes[0].settings.display().to_string();
    let oarlock = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_oarlock")).args(arguments).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let (is_fine, listed) = oarlock(&["jobs", "--config", &config, "list"]);
    assert!(is_fine && listed.contains("contoured") && listed.contains("2 of 2 delivered"), "{listed}");
    let (is_fine, aside) = oarlock(&["jobs", "--config", &config, "quarantine", "list"]);
    assert!(is_fine && aside.contains(&uid) && aside.contains("sent by TEST"), "{aside}");
    let (_, checked) = oarlock(&["check", "--config", &config, "--json"]);
    for (subject, said) in [("database", "3 nodes work on it"), ("object store", "keeps what is there")] {
        let found: Vec<serde_json::Value> = serde_json::from_str(&checked).unwrap();
        let found = found.iter().find(|finding| finding["subject"] == subject).unwrap();
        assert!(found["verdict"] == "ok" && found["text"].as_str().unwrap().contains(said), "{found}");
    }
    // A database that knows nothing any more: everything is found again, and nothing goes out twice.
    cluster.database.sql(
        "DELETE FROM history; DELETE FROM deliveries; DELETE FROM jobs; DELETE FROM versions; DELETE FROM arrivals; \
         DELETE FROM receivers; DELETE FROM series; DELETE FROM places",
    );
    let (is_fine, recovered) = oarlock(&["jobs", "--config", &config, "recover"]);
    assert!(is_fine && recovered.contains(series), "{recovered}");
    let known = [SopInstanceUid::parse(&uid).unwrap()].into();
    assert_eq!(cluster.stored(async |store| store.places(&known).await.unwrap()).len(), 1);
    cluster.require_everything_once(&acknowledged);
    let settings = ServiceSettings::load(&cluster.nodes[0].settings).unwrap();
    let quarantine = Quarantine::of_bucket(objects_of(settings.store.as_ref().unwrap()).unwrap());
    let name = quarantine.list().unwrap()[0].name.clone();
    let (released, version) = cluster.stored(async |store| quarantine.release(&name, store).await.unwrap());
    assert_eq!((released.as_str(), version), (series, 2));
    let kept = cluster.bucket.objects().join(format!("instances/{series}/{uid}.dcm"));
    assert!(std::fs::read(kept).unwrap().ends_with(&[99; 154]));
}
