//! The process is killed at random points of receiving, gathering, contouring and delivering. No instance that was
//! acknowledged is lost, and no structure set is missing or made twice.
//!
//! `OARLOCK_CRASHES=2000` runs the long form.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock::pipeline::delivery::{Scu, ScuTimeouts, kind_of};
use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::store::{DeliveryState, JobFilter, JobState};
use oarlock::service::{Contourer, MadeStructureSet};
use oarlock::settings::service::Destination;
use rand::{RngExt, SeedableRng};

use crate::support::{Process, stored};
use crate::wire::{CT, LIMIT, RTSTRUCT, data_set, files, part10, service, wait_for};

/// Kills in the form that runs with the other tests.
const CRASHES: u32 = 40;

/// Instances of each series.
const N_INSTANCES: usize = 6;

/// A structure set of its own each time that it is asked, so that one made twice shows.
fn contourer() -> Contourer {
    Box::new(|series: &CompleteSeries| {
        // Long enough to be killed in the middle.
        std::thread::sleep(Duration::from_millis(15));
        let uid = format!("2.25.{}", rand::random::<u64>());
        let plan = format!("{}.9", series.series_instance_uid);
        let part10 = part10(RTSTRUCT, &uid, &data_set(RTSTRUCT, &plan, &uid, 0.0, 3));
        Ok(MadeStructureSet { part10, organs: Vec::new() })
    })
}

/// Not a test of its own: the process that [`nothing_is_lost_and_nothing_is_made_twice`] kills.
#[test]
#[ignore = "started by the test below"]
fn the_process_that_is_killed() {
    let (Some(folder), Some(destination)) =
        (std::env::var_os("OARLOCK_CRASH_FOLDER"), std::env::var_os("OARLOCK_CRASH_DESTINATION"))
    else {
        return;
    };
    let peer = format!("TPS@{}", destination.to_str().unwrap());
    let running = service(Path::new(&folder), Some(contourer()), |s| {
        s.series.quiet_time_s = 0.1;
        s.delivery.first_retry_s = 0.02;
        s.delivery.longest_retry_s = 0.1;
        s.destinations = vec![Destination { peer: peer.parse().unwrap() }];
    });
    writeln!(std::io::stdout(), "\nlistening {}", running.address()).unwrap();
    loop {
        std::thread::park();
    }
}

fn start(folder: &Path, destination: SocketAddr) -> (Process, SocketAddr) {
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::the_process_that_is_killed", "--ignored", "--nocapture"])
        .env("OARLOCK_CRASH_FOLDER", folder)
        .env("OARLOCK_CRASH_DESTINATION", destination.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.into_iter().find_map(|line| line.strip_prefix("listening ")?.parse().ok());
    (Process(child), address.expect("the child did not start"))
}

/// Sends what is not acknowledged yet until the other side is gone; gives what was acknowledged.
fn send(address: SocketAddr, due: &[(String, String)]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let object = |(series, uid): &(String, String)| part10(CT, uid, &data_set(CT, series, uid, 2.5, 7));
        let Some(first) = due.first() else { return Vec::new() };
        let kinds = BTreeSet::from([kind_of(&object(first)).unwrap()]);
        let peer = format!("ANY@{address}").parse().unwrap();
        let timeouts = ScuTimeouts { connect: LIMIT, answer: LIMIT };
        let mut acknowledged = Vec::new();
        let Ok(mut scu) = Scu::open(&peer, &"TEST".parse().unwrap(), &kinds, timeouts).await else {
            return acknowledged;
        };
        for one in due {
            match scu.store(&object(one)).await {
                Ok(_) => acknowledged.push(one.1.clone()),
                Err(_gone) => return acknowledged,
            }
        }
        scu.release().await;
        acknowledged
    })
}

#[test]
fn nothing_is_lost_and_nothing_is_made_twice() {
    let n_crashes = std::env::var("OARLOCK_CRASHES").map_or(CRASHES, |n| n.parse().unwrap());
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let mut draw = rand_pcg::Pcg64Mcg::seed_from_u64(7);
    let mut acknowledged = BTreeSet::new();
    let mut all = Vec::new();
    for crash in 0..n_crashes {
        let series = format!("1.2.{}", 1_000 + crash);
        all.extend((0..N_INSTANCES).map(|n| (series.clone(), format!("{series}.{n}"))));
        let (child, address) = start(ours.path(), destination.address());
        let child = Arc::new(Mutex::new(child));
        let killed = Arc::clone(&child);
        let after = Duration::from_millis(draw.random_range(1..350));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            killed.lock().unwrap().0.kill().unwrap();
        });
        let due: Vec<_> = all.iter().filter(|(_, uid)| !acknowledged.contains(uid)).cloned().collect();
        acknowledged.extend(send(address, &due));
        killer.join().unwrap();
        drop(child);
        let on_disk: BTreeSet<String> = files(&ours.path().join("instances"), "dcm")
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let lost: Vec<_> = acknowledged.difference(&on_disk).collect();
        assert!(lost.is_empty(), "crash {crash}: acknowledged and lost: {lost:?}");
    }
    let (child, address) = start(ours.path(), destination.address());
    let due: Vec<_> = all.iter().filter(|(_, uid)| !acknowledged.contains(uid)).cloned().collect();
    assert_eq!(send(address, &due).len(), due.len());
    let versions = wait_for("every series to be contoured and delivered", || {
        let every = JobFilter { states: Vec::new(), limit: u32::MAX };
        let jobs = stored(ours.path(), async |store| store.jobs(&every).await.unwrap());
        let mut last = BTreeMap::new();
        for job in &jobs {
            let n: &mut i64 = last.entry(job.series.clone()).or_default();
            *n = (*n).max(job.n_instances);
        }
        let is_whole = last.len() == usize::try_from(n_crashes).unwrap()
            && last.values().all(|n| *n == i64::try_from(N_INSTANCES).unwrap());
        let is_done = jobs.iter().all(|job| match job.state {
            JobState::Contoured => job.n_delivered == 1 && job.n_deliveries == 1,
            state => state == JobState::Superseded,
        });
        (is_whole && is_done).then_some(jobs)
    });
    drop(child);
    let made = versions.iter().filter(|job| job.state == JobState::Contoured).count();
    let delivered = files(&theirs.path().join("instances"), "dcm").len();
    assert_eq!(delivered, made, "structure sets at the destination, versions contoured");
    let deliveries = stored(ours.path(), async |store| store.deliveries(None).await.unwrap());
    assert!(deliveries.len() == made && deliveries.iter().all(|d| d.state == DeliveryState::Delivered));
    assert!(files(&theirs.path().join("quarantine"), "dcm").is_empty());
    assert!(files(&ours.path().join("incoming"), "part").is_empty());
    let attempts: u32 = deliveries.iter().map(|d| d.attempts).sum();
    eprintln!("{n_crashes} kills: {} instances, {made} structure sets, {attempts} attempts noted", all.len());
    destination.stop();
}
