//! One series, several destinations: each gets its own form, once, over a restart; one that breaks a rule gets none.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oarlock::pipeline::rtstruct::NotFound;
use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::{Contourer, Formatted, MadeStructureSet, Service};
use oarlock::settings::destinations::{DestinationSettings, FormatChoice};
use serde_json::json;

use crate::wire::{LIMIT, RTSTRUCT, Wire, ct, data_set, files, part10, service, wait_for};

fn id(format: &str) -> String {
    FormatChoice::named(format).unwrap().resolved(NotFound::LeaveOut).id()
}

fn structure_set(uid: &str) -> Vec<u8> {
    part10(RTSTRUCT, uid, &data_set(RTSTRUCT, "1.2.81", uid, 0.0, 3))
}

/// A generic set, one for Eclipse, and one for RayStation that breaks a rule.
fn contourer(calls: &Arc<AtomicUsize>) -> Option<Contourer> {
    let calls = Arc::clone(calls);
    Some(Box::new(move |_: &CompleteSeries| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        let eclipse = Ok(structure_set(&format!("1.2.90.{call}")));
        let raystation = Err("the structure set breaks 1 rules and is not sent: a rule".to_owned());
        Ok(MadeStructureSet {
            part10: structure_set(&format!("1.2.80.{call}")),
            formatted: vec![
                Formatted { format: id("eclipse"), part10: eclipse },
                Formatted { format: id("raystation"), part10: raystation },
            ],
            organs: Vec::new(),
        })
    }))
}

fn running(ours: &Path, folders: [&Path; 3], calls: &Arc<AtomicUsize>) -> Service {
    let to = |name: &str, folder: &Path, format: &str| -> DestinationSettings {
        serde_json::from_value(json!({"name": name, "folder": folder, "format": format})).unwrap()
    };
    service(ours, contourer(calls), |s| {
        s.series.quiet_time_s = 0.3;
        s.http = Some(([127, 0, 0, 1], 0).into());
        s.destinations = vec![
            to("archive", folders[0], "generic"),
            to("tps", folders[1], "eclipse"),
            to("other", folders[2], "raystation"),
        ];
    })
}

fn metrics(address: SocketAddr) -> String {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    write!(socket, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

fn names(folder: &Path) -> Vec<String> {
    files(folder, "dcm").iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn each_destination_gets_its_own_form_once_and_one_that_breaks_a_rule_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, archive, tps, other] = ["ours", "archive", "tps", "other"].map(|name| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    let calls = Arc::default();
    let folders = [&*archive, &*tps, &*other];
    let first = running(&ours, folders, &calls);
    let mut wire = Wire::associated(first.address());
    assert_eq!(wire.store("1.2.60", &ct("1.2.50", "1.2.60")), 0);
    wait_for("both files", || (names(&archive).len() == 1 && names(&tps).len() == 1).then_some(()));
    wait_for("the held one on record", || {
        metrics(first.http_address().unwrap()).contains("oarlock_deliveries_failed 1").then_some(())
    });
    first.stop();
    // The record of the series is gone, as after a crash before it was written: nothing is made or sent again.
    std::fs::remove_dir_all(ours.join("jobs")).unwrap();
    let second = running(&ours, folders, &calls);
    let done = wait_for("the series again", || {
        let text = metrics(second.http_address().unwrap());
        text.contains("oarlock_series_contoured_total 1").then_some(text)
    });
    second.stop();
    assert!(done.contains("oarlock_deliveries_failed 1"), "{done}");
    assert_eq!(calls.load(Ordering::SeqCst), 1, "contoured again");
    assert_eq!(names(&archive), ["oarlock-1.2.80.1.dcm"]);
    assert_eq!(names(&tps), ["oarlock-1.2.90.1.dcm"]);
    assert_eq!(names(&other), Vec::<String>::new());
}
