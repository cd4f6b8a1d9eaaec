//! The service from the first instance to the delivered structure set, and over a restart.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::store::{Delivery, DeliveryState, JobDetail, JobState};
use oarlock::service::{ContourFailure, Contourer, MadeStructureSet, OrganRecord, Service, ServiceError};
use oarlock::settings::ServiceSettings;
use oarlock::settings::service::DestinationSettings;
use oarlock::vocabulary::dicom::Peer;

use crate::support::stored;
use crate::wire::{RTSTRUCT, Wire, ct, data_set, files, part10, service, wait_for};

/// Writes a "structure set" whose UID says how many instances it saw and how often it was asked.
pub(crate) fn contourer(calls: &Arc<AtomicUsize>) -> Option<Contourer> {
    let calls = Arc::clone(calls);
    Some(Box::new(move |series: &CompleteSeries| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        let uid = format!("1.2.80.{}.{call}", series.instances.len());
        let part10 = part10(RTSTRUCT, &uid, &data_set(RTSTRUCT, "1.2.81", &uid, 0.0, 3));
        let eye = OrganRecord {
            roi_name: "Eye_L".to_owned(),
            found: true,
            volume_cm3: 21.5,
            detection_probability: Some(0.75),
            expected_dsc: Some(0.5),
            check: vec!["volume 21.50 cm3, usual 4 to 13".to_owned()],
            findings: Vec::new(),
        };
        Ok(MadeStructureSet { part10, formatted: Vec::new(), organs: vec![eye] })
    }))
}

/// Waits little, and delivers to `destination`.
pub(crate) fn quick(folder: &Path, contourer: Option<Contourer>, destination: SocketAddr) -> Service {
    service(folder, contourer, |s| {
        s.series.quiet_time_s = 0.3;
        s.delivery.first_retry_s = 0.05;
        s.delivery.longest_retry_s = 0.2;
        s.destinations =
            vec![DestinationSettings::from(format!("TPS@{destination}").parse::<Peer>().unwrap())];
    })
}

pub(crate) fn send(service: &Service, uids: &[&str]) {
    let mut wire = Wire::associated(service.address());
    for uid in uids {
        assert_eq!(wire.store(uid, &ct("1.2.50", uid)), 0);
    }
}

pub(crate) fn delivered(folder: &Path, n: usize) -> Vec<String> {
    wait_for("delivery", || {
        let names: Vec<_> = files(&folder.join("instances"), "dcm")
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        (names.len() == n).then_some(names)
    })
}

pub(crate) fn job(folder: &Path, series: &str) -> Option<JobDetail> {
    stored(folder, async |store| store.job(series).await.unwrap())
}

fn deliveries(folder: &Path) -> Vec<Delivery> {
    stored(folder, async |store| store.deliveries(None).await.unwrap())
}

/// Waits until every delivery of the folder is noted as delivered.
pub(crate) fn all_delivered(folder: &Path, n: usize) {
    wait_for("the record of the delivery", || {
        let deliveries = deliveries(folder);
        let done = deliveries.iter().filter(|d| d.state == DeliveryState::Delivered).count();
        (done == n && deliveries.len() == n).then_some(())
    });
}

#[test]
fn a_series_goes_in_and_a_structure_set_comes_out_and_late_instances_make_another() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let calls = Arc::default();
    let running = quick(ours.path(), contourer(&calls), destination.address());
    send(&running, &["1.2.60", "1.2.61"]);
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.2.1"]);
    send(&running, &["1.2.61"]);
    send(&running, &["1.2.62"]);
    assert_eq!(delivered(theirs.path(), 2), ["1.2.80.2.1", "1.2.80.3.2"]);
    running.stop();
    let job = job(ours.path(), "1.2.50").unwrap();
    let states: Vec<_> =
        job.versions.iter().map(|v| (v.job.version, v.job.state, v.job.n_instances)).collect();
    assert_eq!(states, [(1, JobState::Contoured, 2), (2, JobState::Contoured, 3)]);
    assert_eq!(job.versions[1].organs[0].check, ["volume 21.50 cm3, usual 4 to 13"]);
    assert_eq!(job.calling_ae_title, "TEST");
    let words: Vec<_> = job.history.iter().map(|h| format!("{} {}", h.subject, h.became)).collect();
    assert_eq!(
        words[..5],
        ["series receiving", "jobs waiting", "series complete", "jobs working", "jobs contoured"]
    );
    destination.stop();
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the instance that came twice was no news");
}

#[test]
fn a_destination_that_is_down_gets_its_structure_set_when_it_is_up_even_after_a_restart() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let calls = Arc::default();
    let running = quick(ours.path(), contourer(&calls), address);
    send(&running, &["1.2.60"]);
    let attempts = |n: u32| {
        wait_for("attempts", || {
            let delivery = deliveries(ours.path()).pop()?;
            (delivery.attempts >= n && delivery.last_error.is_some()).then_some(())
        });
    };
    attempts(2);
    running.stop();
    let running = quick(ours.path(), contourer(&calls), address);
    attempts(3);
    let destination = service(theirs.path(), None, |s| s.listen.port = address.port());
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.1.1"]);
    all_delivered(ours.path(), 1);
    wait_for("the move of what was delivered", || {
        let moved = files(&ours.path().join("outbox/delivered"), "dcm").len() == 1;
        (moved && files(&ours.path().join("outbox"), "dcm").len() == 1).then_some(())
    });
    running.stop();
    destination.stop();
    assert_eq!(calls.load(Ordering::SeqCst), 1, "contoured again after the restart");
}

#[test]
fn what_was_received_before_a_restart_is_contoured_after_it() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let running = service(ours.path(), None, |_| {});
    send(&running, &["1.2.60", "1.2.61", "1.2.62"]);
    running.stop();
    std::fs::write(ours.path().join("incoming/17.part"), b"half an instance").unwrap();
    let running = quick(ours.path(), contourer(&Arc::default()), destination.address());
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.3.1"]);
    assert_eq!(files(ours.path(), "part").len(), 0);
    running.stop();
    destination.stop();
}

#[test]
fn a_series_that_is_refused_keeps_its_reason_and_stops_nothing() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let mut good = contourer(&Arc::default()).unwrap();
    let picky: Contourer = Box::new(move |series| match series.series_instance_uid.as_str() {
        "1.2.50" => Err(ContourFailure::refuse("slices 3 and 5 lie 5.00 mm apart")),
        _ => good(series),
    });
    let running = quick(ours.path(), Some(picky), destination.address());
    send(&running, &["1.2.60"]);
    let refused = wait_for("the record", || {
        let version = job(ours.path(), "1.2.50")?.versions.pop()?;
        (version.job.state == JobState::Refused).then_some(version)
    });
    assert_eq!(refused.job.reason.as_deref(), Some("slices 3 and 5 lie 5.00 mm apart"));
    let mut wire = Wire::associated(running.address());
    assert_eq!(wire.store("1.2.70", &ct("1.2.55", "1.2.70")), 0);
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.1.1"]);
    running.stop();
    destination.stop();
}

/// Nothing that was acknowledged is lost, and nothing goes twice, when the database is gone or older than the files.
#[test]
fn a_lost_or_older_database_is_made_good_from_the_files() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let calls = Arc::default();
    let start = || quick(ours.path(), contourer(&calls), destination.address());
    let databases = || -> Vec<_> {
        let names = ["oarlock.sqlite3", "oarlock.sqlite3-wal", "oarlock.sqlite3-shm"];
        names.iter().map(|name| ours.path().join(name)).filter(|path| path.exists()).collect()
    };
    let running = start();
    send(&running, &["1.2.60", "1.2.61"]);
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.2.1"]);
    all_delivered(ours.path(), 1);
    running.stop();
    let backup = std::fs::read(ours.path().join("oarlock.sqlite3")).unwrap();
    let running = start();
    send(&running, &["1.2.62"]);
    assert_eq!(delivered(theirs.path(), 2), ["1.2.80.2.1", "1.2.80.3.2"]);
    all_delivered(ours.path(), 2);
    running.stop();
    for database in [None, Some(backup)] {
        databases().into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
        if let Some(bytes) = database {
            std::fs::write(ours.path().join("oarlock.sqlite3"), bytes).unwrap();
        }
        let running = start();
        wait_for("the second version", || {
            let version = job(ours.path(), "1.2.50")?.versions.pop()?;
            let is_done = version.job.state == JobState::Contoured && version.deliveries.len() == 1;
            (version.job.version == 2 && is_done).then_some(())
        });
        running.stop();
        let again = deliveries(ours.path());
        assert!(again.iter().all(|d| d.state == DeliveryState::Delivered && d.attempts <= 1), "{again:?}");
    }
    destination.stop();
    assert_eq!(calls.load(Ordering::SeqCst), 2, "contoured again");
    let received = files(&theirs.path().join("instances"), "dcm");
    assert_eq!(received.len(), 2);
}

#[test]
fn an_outbox_of_a_version_without_a_database_is_taken_over() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let calls = Arc::default();
    let running = quick(ours.path(), contourer(&calls), destination.address());
    send(&running, &["1.2.60"]);
    delivered(theirs.path(), 1);
    all_delivered(ours.path(), 1);
    running.stop();
    // As such a version left it: a record and no object of what was delivered, and no database.
    let old = deliveries(ours.path()).pop().unwrap();
    let record = serde_json::json!({
        "key": old.delivery, "destination": old.destination, "state": "delivered", "attempts": 1,
        "created_s": 1, "next_attempt_s": 1, "delivered_s": 2, "last_error": null,
    });
    std::fs::remove_dir_all(ours.path().join("outbox/delivered")).unwrap();
    std::fs::write(ours.path().join("outbox/5a.json"), record.to_string()).unwrap();
    for name in ["oarlock.sqlite3", "oarlock.sqlite3-wal", "oarlock.sqlite3-shm"] {
        drop(std::fs::remove_file(ours.path().join(name)));
    }
    let running = quick(ours.path(), contourer(&calls), destination.address());
    all_delivered(ours.path(), 1);
    running.stop();
    destination.stop();
    assert_eq!(deliveries(ours.path())[0].attempts, 0, "it went twice");
    assert!(ours.path().join("outbox/before-the-database/5a.json").exists());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// A fault of the machine waits, while other series go on; the second start tries it again.
#[test]
fn a_series_that_fails_holds_up_no_other() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let mut good = contourer(&Arc::default()).unwrap();
    let weak: Contourer = Box::new(move |series| match series.series_instance_uid.as_str() {
        "1.2.50" => Err(ContourFailure::retry("no memory")),
        _ => good(series),
    });
    let running = quick(ours.path(), Some(weak), destination.address());
    send(&running, &["1.2.60"]);
    wait_for("the first attempt", || {
        let version = job(ours.path(), "1.2.50")?.versions.pop()?;
        (version.job.state == JobState::Waiting && version.job.reason.as_deref() == Some("no memory"))
            .then_some(())
    });
    let mut wire = Wire::associated(running.address());
    assert_eq!(wire.store("1.2.70", &ct("1.2.55", "1.2.70")), 0);
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.1.1"]);
    running.stop();
    destination.stop();
}

/// Instances are taken while the database fails, and everything goes on by itself when it is back.
#[test]
fn a_database_that_fails_holds_up_no_sender_and_loses_nothing() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let running = quick(ours.path(), contourer(&Arc::default()), destination.address());
    let rename = |from: &str, to: &str| {
        use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
        let url = format!("sqlite://{}", ours.path().join("oarlock.sqlite3").display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut database = SqliteConnection::connect(&url).await.unwrap();
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            sqlx::query(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
            database.close().await.unwrap();
        });
    };
    // Every statement about these now fails, as with a disk that does not read.
    rename("versions", "versions_away");
    rename("deliveries", "deliveries_away");
    let began = std::time::Instant::now();
    send(&running, &["1.2.60", "1.2.61"]);
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "a sender waited for the database");
    assert_eq!(files(&ours.path().join("instances"), "dcm").len(), 2);
    // Beyond the quiet time, so that the series is complete while nobody can note it.
    std::thread::sleep(std::time::Duration::from_millis(600));
    rename("versions_away", "versions");
    rename("deliveries_away", "deliveries");
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.2.1"]);
    all_delivered(ours.path(), 1);
    running.stop();
    destination.stop();
}

#[test]
fn one_data_folder_belongs_to_one_service() {
    let folder = tempfile::tempdir().unwrap();
    let running = service(folder.path(), None, |_| {});
    let settings = ServiceSettings { data_dir: Some(folder.path().to_owned()), ..ServiceSettings::default() };
    let second = Service::start(&settings, None);
    assert!(matches!(second, Err(ServiceError::Locked { .. })), "{second:?}");
    running.stop();
}
