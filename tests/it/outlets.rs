//! One series, several destinations: each gets its own form, once, over a restart; one that breaks a rule gets none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use hmac::{Hmac, Mac};
use oarlock::pipeline::rtstruct::NotFound;
use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::{Contourer, Formatted, MadeStructureSet, Service};
use oarlock::settings::destinations::{DestinationSettings, FormatChoice};
use serde_json::json;
use sha2::Sha256;

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

fn running(ours: &Path, folders: [&Path; 3], calls: &Arc<AtomicUsize>, pager: u16) -> Service {
    let to = |name: &str, folder: &Path, format: &str| -> DestinationSettings {
        serde_json::from_value(json!({"name": name, "folder": folder, "format": format})).unwrap()
    };
    service(ours, contourer(calls), |s| {
        s.series.quiet_time_s = 0.3;
        s.http = Some(([127, 0, 0, 1], 0).into());
        s.notifications = serde_json::from_value(json!({"webhooks": [{
            "url": format!("http://127.0.0.1:{pager}/notices"), "on": ["failure", "delivery", "doubt"],
            "secret_file": ours.with_file_name("secret"),
        }]}))
        .unwrap();
        s.destinations = vec![
            to("archive", folders[0], "generic"),
            to("tps", folders[1], "eclipse"),
            to("other", folders[2], "raystation"),
        ];
    })
}

/// Takes notices, checks their signatures and gives kind, destination and text of each.
fn pager() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = channel();
    drop(std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let n = socket.read(&mut part).unwrap();
                request.extend_from_slice(&part[..n]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if Some(body.len()) == length {
                    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(b"key of the pager").unwrap();
                    mac.update(body.as_bytes());
                    let code: String =
                        mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
                    assert!(
                        head.to_lowercase().contains(&format!("x-oarlock-signature: sha256={code}")),
                        "{head}"
                    );
                    break body.to_owned();
                }
            };
            socket
                .write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            let notice: serde_json::Value = serde_json::from_str(&body).unwrap();
            let word = |key: &str| notice[key].as_str().unwrap().to_owned();
            assert!(word("subject").starts_with("1.2.50 v1 ") && !body.contains("TEST"), "{body}");
            if sender.send(format!("{} {}: {}", word("kind"), word("destination"), word("text"))).is_err() {
                return;
            }
        }
    }));
    (port, receiver)
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
    std::fs::write(folder.path().join("secret"), "key of the pager\n").unwrap();
    let (pager, notices) = pager();
    let first = running(&ours, folders, &calls, pager);
    let mut wire = Wire::associated(first.address());
    assert_eq!(wire.store("1.2.60", &ct("1.2.50", "1.2.60")), 0);
    wait_for("both files", || (names(&archive).len() == 1 && names(&tps).len() == 1).then_some(()));
    wait_for("the held one on record", || {
        metrics(first.http_address().unwrap()).contains("oarlock_deliveries_held 1").then_some(())
    });
    first.stop();
    let mut told: Vec<String> = (0..3).map(|_| notices.recv_timeout(LIMIT).unwrap()).collect();
    told.sort();
    let held = "failure other: held back: the structure set breaks 1 rules and is not sent: a rule";
    assert_eq!(told, ["delivery archive: delivered", "delivery tps: delivered", held]);
    // The database is gone: what is on disk is the truth, so nothing is made or sent again.
    for file in std::fs::read_dir(&ours).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().unwrap().to_string_lossy().contains("sqlite") {
            std::fs::remove_file(file).unwrap();
        }
    }
    let second = running(&ours, folders, &calls, pager);
    wait_for("the series again", || {
        let text = metrics(second.http_address().unwrap());
        let is_done =
            ["oarlock_deliveries_held 1", "oarlock_deliveries_delivered 2"].iter().all(|w| text.contains(w));
        is_done.then_some(())
    });
    second.stop();
    assert_eq!(calls.load(Ordering::SeqCst), 1, "contoured again");
    assert_eq!(notices.try_iter().collect::<Vec<_>>(), [held]);
    assert_eq!(names(&archive), ["oarlock-1.2.80.1.dcm"]);
    assert_eq!(names(&tps), ["oarlock-1.2.90.1.dcm"]);
    assert_eq!(names(&other), Vec::<String>::new());
}
