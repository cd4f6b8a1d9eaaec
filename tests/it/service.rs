//! The service from the first instance to the delivered structure set, and over a restart.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::{ContourFailure, Contourer, MadeStructureSet, OrganRecord, Service, ServiceError};
use oarlock::settings::ServiceSettings;
use oarlock::settings::service::DestinationSettings;
use oarlock::vocabulary::dicom::Peer;

use crate::wire::{RTSTRUCT, Wire, ct, data_set, files, part10, service, wait_for};

/// Writes a "structure set" whose UID says how many instances it saw and how often it was asked.
fn contourer(calls: &Arc<AtomicUsize>) -> Option<Contourer> {
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
fn quick(folder: &Path, contourer: Option<Contourer>, destination: SocketAddr) -> Service {
    service(folder, contourer, |s| {
        s.series.quiet_time_s = 0.3;
        s.delivery.first_retry_s = 0.05;
        s.delivery.longest_retry_s = 0.2;
        s.destinations =
            vec![DestinationSettings::from(format!("TPS@{destination}").parse::<Peer>().unwrap())];
    })
}

fn send(service: &Service, uids: &[&str]) {
    let mut wire = Wire::associated(service.address());
    for uid in uids {
        assert_eq!(wire.store(uid, &ct("1.2.50", uid)), 0);
    }
}

fn delivered(folder: &Path, n: usize) -> Vec<String> {
    wait_for("delivery", || {
        let names: Vec<_> = files(&folder.join("instances"), "dcm")
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        (names.len() == n).then_some(names)
    })
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
    let job = std::fs::read(ours.path().join("jobs/1.2.50.json")).unwrap();
    let job: serde_json::Value = serde_json::from_slice(&job).unwrap();
    assert_eq!(job["organs"][0]["check"][0], "volume 21.50 cm3, usual 4 to 13", "{job}");
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
    let attempts = |n: u64| {
        wait_for("attempts", || {
            let record = files(&ours.path().join("outbox"), "json").pop()?;
            let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
            (record["attempts"].as_u64()? >= n && record["last_error"].is_string()).then_some(())
        });
    };
    attempts(2);
    running.stop();
    let running = quick(ours.path(), contourer(&calls), address);
    attempts(3);
    let destination = service(theirs.path(), None, |s| s.listen.port = address.port());
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.1.1"]);
    wait_for("the record of the delivery", || {
        let record = std::fs::read_to_string(files(&ours.path().join("outbox"), "json").pop()?).unwrap();
        record.contains("\"delivered\"").then_some(())
    });
    wait_for("the end of what was delivered", || {
        files(&ours.path().join("outbox"), "dcm").is_empty().then_some(())
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
    let record = ours.path().join("jobs/1.2.50.json");
    let text = wait_for("the record", || std::fs::read_to_string(&record).ok());
    assert!(text.contains("refused") && text.contains("5.00 mm apart"), "{text}");
    let mut wire = Wire::associated(running.address());
    assert_eq!(wire.store("1.2.70", &ct("1.2.55", "1.2.70")), 0);
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.1.1"]);
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
