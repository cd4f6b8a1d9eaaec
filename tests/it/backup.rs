//! A backup that is taken while the service works, by the commands of docs/operating.md, and what is restored from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use oarlock::service::store::DeliveryState;
use serde_json::json;

use crate::process::Running;
use crate::support::{self, stored};
use crate::wire::{Wire, ct, files, service, wait_for};

/// The block of shell in docs/operating.md that takes a backup.
fn commands() -> String {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md")).unwrap();
    let section = page.split("## Back up and restore").nth(1).unwrap();
    section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// Sends series of three slices until told to stop.
fn send_on(sender: usize, address: SocketAddr, stop: &AtomicBool) -> Vec<String> {
    let mut sent = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let series = format!("1.2.95.{sender}.{}", sent.len());
        let mut wire = Wire::associated(address);
        for n in 0..3 {
            let uid = format!("{series}.{n}");
            assert_eq!(wire.store(&uid, &ct(&series, &uid)), 0);
        }
        sent.push(series);
        thread::sleep(Duration::from_millis(30));
    }
    sent
}

/// How many structure sets of each series a destination has.
fn there(folder: &Path) -> BTreeMap<String, usize> {
    let mut there = BTreeMap::new();
    for file in files(&folder.join("instances"), "dcm") {
        let version = file.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        *there.entry(version.rsplit_once('.').unwrap().0.to_owned()).or_default() += 1;
    }
    there
}

/// Sends a while, takes the backup in the middle of it, ends the service by SIGKILL, and starts another one on the backup.
#[test]
fn what_is_restored_from_a_backup_has_lost_nothing_and_delivers_nothing_twice() {
    let Some(_sqlite) = support::peer("backup", "sqlite3") else { return };
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (ours.path().join("data"), ours.path().join("restored"));
    std::fs::create_dir(&from).unwrap();
    let destination = service(theirs.path(), None, |_| {});
    let settings = json!({"destinations": [{"peer": format!("TPS@{}", destination.address())}]});
    let running = Running::start(&from, settings.clone(), &[]);
    let (address, stop) = (running.address, Arc::new(AtomicBool::new(false)));
    let senders = [0, 1].map(|sender| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || send_on(sender, address, &stop))
    });
    wait_for("deliveries to be under way", || (there(theirs.path()).len() >= 10).then_some(()));

    let delivered_before = there(theirs.path());
    let received_before = files(&from.join("instances"), "dcm");
    let script = commands();
    let taken =
        Command::new("sh").args(["-euc", &script]).env("FROM", &from).env("TO", &to).output().unwrap();
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    // What the service moves away meanwhile, cp misses, and says so.
    let harmless = |line: &&str| line.contains("No such file or directory");
    assert!(said.lines().filter(|line| !harmless(line)).count() == 0, "{said}");
    stop.store(true, Ordering::SeqCst);
    senders.into_iter().for_each(|sender| drop(sender.join().unwrap()));
    drop(running);

    for path in &received_before {
        let copy = to.join(path.strip_prefix(&from).unwrap());
        assert!(std::fs::read(&copy).is_ok_and(|bytes| bytes == std::fs::read(path).unwrap()), "{copy:?}");
    }
    let known = stored(&to, async |store| store.deliveries(None).await.unwrap());
    assert!(known.len() >= delivered_before.len(), "the copy of the database is older than the backup");
    let restored = Running::start(&to, settings, &[]);
    let series: Vec<String> = std::fs::read_dir(to.join("instances"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    wait_for("every series that was restored", || {
        let there = there(theirs.path());
        let deliveries = stored(&to, async |store| store.deliveries(None).await.unwrap());
        let done = deliveries.iter().all(|d| d.state == DeliveryState::Delivered);
        (done && series.iter().all(|series| there.contains_key(series))).then_some(())
    });
    let after = there(theirs.path());
    let twice: Vec<_> = delivered_before.keys().filter(|series| after[*series] != 1).collect();
    assert!(twice.is_empty(), "delivered before the backup and again: {twice:?}");
    assert!(series.len() > delivered_before.len(), "nothing was under way: the test shows nothing");
    drop(restored);
    destination.stop();
}

/// The store of the backup does not know yet what the outbox beside it says was delivered.
#[test]
fn a_delivery_that_is_newer_than_the_database_is_not_made_again() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = ours.path().join("data");
    std::fs::create_dir(&from).unwrap();
    let port = support::free_port();
    let settings = json!({"destinations": [{"peer": format!("TPS@127.0.0.1:{port}")}]});
    let running = Running::start(&from, settings.clone(), &[]);
    let mut wire = Wire::associated(running.address);
    assert_eq!(wire.store("1.2.60", &ct("1.2.50", "1.2.60")), 0);
    drop(wire);
    wait_for("an attempt", || {
        stored(&from, async |store| store.deliveries(None).await.unwrap())
            .iter()
            .any(|d| d.attempts > 0)
            .then_some(())
    });
    drop(running);
    let older = ["oarlock.sqlite3", "oarlock.sqlite3-wal", "oarlock.sqlite3-shm"];
    for name in older {
        drop(std::fs::copy(from.join(name), ours.path().join(name)));
    }
    let destination = service(theirs.path(), None, |s| s.listen.port = port);
    let running = Running::start(&from, settings.clone(), &[]);
    wait_for("the delivery", || (files(&from.join("outbox/delivered"), "dcm").len() == 1).then_some(()));
    drop(running);
    for name in older {
        drop(std::fs::remove_file(from.join(name)));
        drop(std::fs::copy(ours.path().join(name), from.join(name)));
    }
    // Sent again it would be seen: the destination has forgotten it.
    destination.stop();
    std::fs::remove_dir_all(theirs.path().join("instances")).unwrap();
    let destination = service(theirs.path(), None, |s| s.listen.port = port);
    let running = Running::start(&from, settings, &[]);
    wait_for("the record", || {
        let deliveries = stored(&from, async |store| store.deliveries(None).await.unwrap());
        deliveries.iter().all(|d| d.state == DeliveryState::Delivered).then_some(())
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(files(&theirs.path().join("instances"), "dcm").len(), 0, "it was delivered twice");
    drop(running);
    destination.stop();
}
