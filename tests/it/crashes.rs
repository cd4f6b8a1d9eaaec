//! The service as a process that is killed (SIGKILL) again and again, wherever it is, under load from several senders.
//!
//! `cargo test` kills it 40 times. More: `OARLOCK_CRASHES=2000 cargo test --test it killed -- --nocapture`, which prints
//! what each kill hit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::store::{Delivery, DeliveryState, JobDetail, JobState};
use oarlock::service::{Contourer, MadeStructureSet};
use oarlock::settings::service::DestinationSettings;
use oarlock::vocabulary::dicom::Peer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Process, all_jobs, free_port, stored};
use crate::wire::{
    CT, RTSTRUCT, Wire, assert_each_once, data_set, echoes, files, part10, service, store, wait_within,
};

/// Tells this test binary, started once more, to be the service: folder, port and destinations.
const BE_THE_SERVICE: &str = "OARLOCK_TEST_SERVICE";
const SENDERS: usize = 4;
const SLICES: std::ops::RangeInclusive<usize> = 3..=6;
const LONG: Duration = Duration::from_secs(120);

/// Takes a moment, and mints a new SOP Instance UID each time it is asked: two structure sets of one version would show.
fn contourer() -> Contourer {
    Box::new(|series: &CompleteSeries| {
        std::thread::sleep(Duration::from_millis(rand::random_range(0..60)));
        let uid = format!("2.25.{}", uuid::Uuid::new_v4().as_u128());
        let of = format!("{}.{}", series.series_instance_uid, series.version);
        let part10 = part10(RTSTRUCT, &uid, &data_set(RTSTRUCT, &of, &uid, 0.0, 3));
        Ok(MadeStructureSet { part10, formatted: Vec::new(), organs: Vec::new() })
    })
}

/// The service of [`BE_THE_SERVICE`]; nothing where this is an ordinary run of the tests.
#[test]
fn the_service_of_the_crash_test() {
    let Ok(told) = std::env::var(BE_THE_SERVICE) else { return };
    let mut told = told.split('|');
    let folder = PathBuf::from(told.next().unwrap());
    let port = told.next().unwrap().parse().unwrap();
    let _service = service(&folder, Some(contourer()), |s| {
        s.listen.port = port;
        s.series.quiet_time_s = 0.15;
        s.series.incomplete_wait_s = 0.3;
        s.delivery.first_retry_s = 0.05;
        s.delivery.longest_retry_s = 0.2;
        s.destinations = told.map(|peer| DestinationSettings::from(peer.parse::<Peer>().unwrap())).collect();
    });
    loop {
        std::thread::park();
    }
}

fn start(folder: &Path, port: u16, destinations: &[SocketAddr]) -> Child {
    let mut told = format!("{}|{port}", folder.display());
    destinations.iter().for_each(|address| told.push_str(&format!("|TPS@{address}")));
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crashes::the_service_of_the_crash_test", "--nocapture"])
        .env(BE_THE_SERVICE, told)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Instances that were answered with success, with their data sets, by series.
type Acknowledged = Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>;

/// Sends series after series until told to stop; what was not acknowledged is sent again, as a scanner would.
fn send_series(number: usize, address: SocketAddr, acknowledged: &Acknowledged, stop: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(number as u64);
    for count in 0.. {
        let series = format!("1.2.90.{number}.{count}");
        let n_slices = random.random_range(SLICES);
        let mut left: Vec<(String, Vec<u8>)> = (0..n_slices)
            .map(|k| {
                let uid = format!("{series}.{k}");
                let pixel = u8::try_from(1 + (number * 50 + count * 7 + k) % 250).unwrap();
                let bytes = data_set(CT, &series, &uid, 2.5 * k as f64, pixel);
                (uid, bytes)
            })
            .collect();
        while !left.is_empty() {
            let Some(mut wire) = Wire::try_associated(address) else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            while let Some((uid, bytes)) = left.last() {
                wire.send(&store(uid, bytes));
                let Some(status) = wire.try_status() else { break };
                assert_eq!(status, 0, "{uid}");
                let (uid, bytes) = left.pop().unwrap();
                acknowledged.lock().unwrap().entry(series.clone()).or_default().insert(uid, bytes);
            }
        }
        if stop.load(Ordering::SeqCst) {
            return;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(20..200)));
    }
}

/// What a kill found in hand.
#[derive(Debug, Default)]
struct Hit {
    receiving: usize,
    gathering: usize,
    contouring: usize,
    delivering: usize,
    idle: usize,
}

fn deliveries(folder: &Path) -> Vec<Delivery> {
    stored(folder, async |store| store.deliveries(None).await.unwrap())
}

fn jobs(folder: &Path) -> Vec<JobDetail> {
    stored(folder, all_jobs)
}

impl Hit {
    fn note(&mut self, folder: &Path, acknowledged: &Acknowledged) {
        let receiving = !files(&folder.join("incoming"), "part").is_empty();
        let details = jobs(folder);
        let gathering = details.len() < acknowledged.lock().unwrap().len();
        let contouring = details
            .iter()
            .flat_map(|job| &job.versions)
            .any(|v| matches!(v.job.state, JobState::Working | JobState::Waiting));
        let delivering = deliveries(folder).iter().any(|d| d.state == DeliveryState::Pending);
        self.receiving += usize::from(receiving);
        self.gathering += usize::from(gathering);
        self.contouring += usize::from(contouring);
        self.delivering += usize::from(delivering);
        self.idle += usize::from(!(receiving || gathering || contouring || delivering));
    }
}

/// Kills of one service in a folder of its own: what a start looks through grows with each.
const ROUND: usize = 200;

/// Every instance that was answered with success is there byte for byte; every series has a structure set of its last
/// version; each structure set is at each destination once, and what is noted as delivered is what is there.
#[test]
#[expect(clippy::print_stderr, reason = "what the kills hit")]
fn killed_anywhere_it_loses_nothing_and_delivers_nothing_twice() {
    let kills: usize = std::env::var("OARLOCK_CRASHES").map_or(40, |n| n.parse().unwrap());
    let (mut done, mut all, mut hit) = (0, Survived::default(), Hit::default());
    while done < kills {
        let more = ROUND.min(kills - done);
        let survived = round(more, done as u64, &mut hit);
        done += more;
        all.n_series += survived.n_series;
        all.n_instances += survived.n_instances;
        all.n_versions += survived.n_versions;
        eprintln!("{done} of {kills} kills: {all:?}, nothing lost, nothing twice; {hit:?}");
    }
    assert!(hit.idle < kills, "no kill hit anything");
}

/// What came through.
#[derive(Debug, Default)]
struct Survived {
    n_series: usize,
    n_instances: usize,
    n_versions: usize,
}

fn round(kills: usize, seed: u64, hit: &mut Hit) -> Survived {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let destinations: Vec<_> = theirs.iter().map(|folder| service(folder.path(), None, |_| {})).collect();
    let addresses: Vec<SocketAddr> = destinations.iter().map(|service| service.address()).collect();
    let port = free_port();
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let (acknowledged, stop) = (Arc::new(Acknowledged::default()), Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| {
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            std::thread::spawn(move || send_series(number, address, &acknowledged, &stop))
        })
        .collect();
    let mut random = StdRng::seed_from_u64(7 + seed);
    for kill in 0..kills {
        let mut process = Process(start(ours.path(), port, &addresses));
        // Now and then it does not live to listen.
        if kill % 8 != 7 {
            wait_within(LONG, "the service", || echoes(address).then_some(()));
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..450)));
        process.0.kill().unwrap();
        process.0.wait().unwrap();
        if ours.path().join("oarlock.sqlite3").exists() {
            hit.note(ours.path(), &acknowledged);
        }
    }
    stop.store(true, Ordering::SeqCst);
    let process = Process(start(ours.path(), port, &addresses));
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let expected = acknowledged.lock().unwrap().clone();
    let settled = |job: &JobDetail| {
        let last = job.versions.last().unwrap();
        let whole = usize::try_from(last.job.n_instances).unwrap() == expected[&job.series].len();
        let contoured = last.job.state == JobState::Contoured;
        whole && contoured && last.deliveries.len() == addresses.len()
    };
    // Many kills leave many series to be done.
    wait_within(LONG.max(Duration::from_secs(2) * u32::try_from(kills).unwrap()), "all series", || {
        let jobs = jobs(ours.path());
        let done = jobs.len() == expected.len() && jobs.iter().all(settled);
        let delivered = deliveries(ours.path()).iter().all(|d| d.state == DeliveryState::Delivered);
        (done && delivered).then_some(())
    });
    drop(process);

    for (series, instances) in &expected {
        for (uid, bytes) in instances {
            let path = ours.path().join("instances").join(series).join(format!("{uid}.dcm"));
            let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(file.ends_with(bytes), "{uid} is not what was sent");
        }
    }
    assert!(files(&ours.path().join("quarantine"), "dcm").is_empty());
    let versions: BTreeSet<String> = jobs(ours.path())
        .iter()
        .flat_map(|job| job.versions.iter().map(|v| (job.series.clone(), v.job.state, v.job.version)))
        .filter(|(_, state, _)| *state == JobState::Contoured)
        .map(|(series, _, version)| format!("{series}.{version}"))
        .collect();
    for (folder, address) in theirs.iter().zip(&addresses) {
        assert_each_once(folder.path(), &versions, &address.to_string());
    }
    assert_eq!(deliveries(ours.path()).len(), versions.len() * addresses.len());
    destinations.into_iter().for_each(oarlock::service::Service::stop);
    let n_instances = expected.values().map(BTreeMap::len).sum();
    Survived { n_series: expected.len(), n_instances, n_versions: versions.len() }
}
