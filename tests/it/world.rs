//! A disk that turns read-only, is full, or drags; a clock that jumps; a destination that is dead for a day. The service
//! is a process whose calls to the system go through `world.c`, so that nothing of this takes rights or time.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use oarlock::service::store::{Delivery, DeliveryState};
use serde_json::{Value, json};

use crate::process::Running;
use crate::support::{self, free_port, stored};
use crate::wire::{Wire, ct, echoes, files, service, wait_for};

struct World {
    folder: tempfile::TempDir,
    preloaded: PathBuf,
}

impl World {
    /// `None` with a visible line where there is no C compiler.
    fn new() -> Option<Self> {
        let compiler = support::peer("world", "cc")?;
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/world.c");
        let preloaded = folder.path().join("world.so");
        let compiled = Command::new(compiler)
            .args(["-shared", "-fPIC", "-o"])
            .args([&preloaded, &source])
            .arg("-ldl")
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let world = Self { folder, preloaded };
        world.is("fine");
        Some(world)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// How it is from now on; see `world.c` for the words.
    fn is(&self, words: &str) {
        // At once: a word is never read by half.
        let (at, beside) = (self.folder.path().join("world"), self.folder.path().join("world.new"));
        std::fs::write(&beside, words).unwrap();
        std::fs::rename(&beside, &at).unwrap();
    }

    fn start(&self, settings: Value) -> Running {
        std::fs::create_dir_all(self.data()).unwrap();
        // The log lies beside the data, on the same disk.
        let (world, data) = (self.folder.path().join("world"), self.data());
        let environment: [(&str, &OsStr); 3] = [
            ("LD_PRELOAD", self.preloaded.as_os_str()),
            ("OARLOCK_TEST_WORLD", world.as_os_str()),
            ("OARLOCK_TEST_DISK", data.as_os_str()),
        ];
        Running::start(&self.data(), settings, &environment)
    }

    fn deliveries(&self) -> Vec<Delivery> {
        stored(&self.data(), async |store| store.deliveries(None).await.unwrap())
    }
}

/// Sends three slices of a series and gives the statuses.
fn send(address: SocketAddr, series: &str) -> Vec<u16> {
    let mut wire = Wire::associated(address);
    (0..3)
        .map(|n| {
            let uid = format!("{series}.{n}");
            wire.store(&uid, &ct(series, &uid))
        })
        .collect()
}

/// Series whose structure set a destination has, as version 1; each once.
fn there(folder: &Path) -> BTreeSet<String> {
    let found = files(&folder.join("instances"), "dcm");
    let series: BTreeSet<String> = found
        .iter()
        .map(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(series.len(), found.len(), "a structure set was delivered twice");
    series
}

fn wait_for_series(folder: &Path, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|series| format!("{series}.1")).collect();
    wait_for("the structure sets", || (there(folder) == expected).then_some(()));
}

fn echoes_soon(address: SocketAddr) {
    let asked = Instant::now();
    assert!(echoes(address));
    assert!(asked.elapsed() < Duration::from_secs(1), "a C-ECHO took {:?}", asked.elapsed());
}

#[test]
fn a_disk_that_turns_read_only_is_full_or_drags_loses_nothing_and_holds_up_no_echo() {
    let Some(world) = World::new() else { return };
    let theirs = tempfile::tempdir().unwrap();
    let destination = service(theirs.path(), None, |_| {});
    let peer = format!("TPS@{}", destination.address());
    let running = world.start(json!({
        "destinations": [{"peer": peer}],
        "series": {"quiet_time_s": 1.5, "incomplete_wait_s": 1.5},
    }));
    let address = running.address;
    let mut expected = Vec::new();
    for (before, after, words) in [("1.2.31", "1.2.32", "readonly"), ("1.2.41", "1.2.42", "full")] {
        assert_eq!(send(address, before), [0; 3]);
        // In its quiet time: it becomes complete, contoured and delivered on a disk that takes nothing.
        world.is(words);
        assert_eq!(send(address, after), [0xA700; 3], "{words}");
        echoes_soon(address);
        std::thread::sleep(Duration::from_millis(2_500));
        assert_eq!(send(address, after), [0xA700; 3], "{words}");
        echoes_soon(address);
        world.is("fine");
        assert_eq!(send(address, after), [0; 3], "{words} no more");
        expected.extend([before, after]);
        wait_for_series(theirs.path(), &expected);
    }
    world.is("slow 150");
    let senders =
        ["1.2.51", "1.2.52", "1.2.53"].map(|series| std::thread::spawn(move || send(address, series)));
    while senders.iter().any(|sender| !sender.is_finished()) {
        echoes_soon(address);
    }
    senders.into_iter().for_each(|sender| assert_eq!(sender.join().unwrap(), [0; 3]));
    expected.extend(["1.2.51", "1.2.52", "1.2.53"]);
    wait_for_series(theirs.path(), &expected);
    world.is("fine");
    wait_for("the records", || {
        let deliveries = world.deliveries();
        let done = deliveries.iter().all(|d| d.state == DeliveryState::Delivered);
        (done && deliveries.len() == expected.len()).then_some(())
    });
    for series in expected {
        for n in 0..3 {
            let uid = format!("{series}.{n}");
            let path = world.data().join("instances").join(series).join(format!("{uid}.dcm"));
            assert!(std::fs::read(&path).unwrap().ends_with(&ct(series, &uid)), "{uid}");
        }
    }
    let log = running.log();
    assert!(!log.contains("please report this") && !log.contains("panicked"), "{log}");
    destination.stop();
}

/// A disk of 3 MB with nothing kept free, where the test may make one.
#[test]
fn a_disk_that_is_full_in_mid_write_keeps_what_was_acknowledged_and_goes_on_when_there_is_room() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(ours.path());
        command.output().is_ok_and(|done| done.status.success())
    };
    if !mount("size=3m") {
        eprintln!("SKIPPED world: no file system can be mounted here (not root)");
        return;
    }
    let _mounted = Mounted(ours.path().to_owned());
    let destination = service(theirs.path(), None, |_| {});
    let data = ours.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let port = free_port();
    let running = Running::start(
        &data,
        json!({
            "destinations": [{"peer": format!("TPS@{}", destination.address())}],
            "listen": {"port": port, "min_free_mb": 0},
        }),
        &[],
    );
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for n in 0..160 {
        let series = format!("1.2.8{}", n / 16);
        let (uid, bytes) = crate::soak::slice(&series, n % 16);
        match Wire::associated(address).store(&uid, &bytes) {
            0 => taken.push((series, uid, bytes)),
            status => {
                assert_eq!(status, 0xA700, "{uid}");
                refused.push((series, uid, bytes));
            }
        }
    }
    assert!(taken.len() > 16 && refused.len() > 16, "{} taken, {} refused", taken.len(), refused.len());
    echoes_soon(address);
    std::thread::sleep(Duration::from_secs(1));
    echoes_soon(address);
    assert!(mount("remount,size=64m"));
    for (series, uid, bytes) in refused {
        assert_eq!(Wire::associated(address).store(&uid, &bytes), 0, "{uid}");
        taken.push((series, uid, bytes));
    }
    wait_for("the structure set of every series", || {
        let there: BTreeSet<String> = there(theirs.path())
            .iter()
            .map(|version| version.rsplit_once('.').unwrap().0.to_owned())
            .collect();
        (there.len() == 10).then_some(())
    });
    for (series, uid, bytes) in &taken {
        let path = data.join("instances").join(series).join(format!("{uid}.dcm"));
        assert!(std::fs::read(&path).unwrap().ends_with(bytes), "{uid}");
    }
    drop(running);
    destination.stop();
}

/// Unmounted with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// An hour ahead, then an hour behind where it was: neither quiet time nor retries wait for the clock, and nothing is
/// delivered twice or given up.
#[test]
fn a_clock_that_jumps_holds_nothing_up() {
    let Some(world) = World::new() else { return };
    let theirs = tempfile::tempdir().unwrap();
    let port = free_port();
    let running = world.start(json!({
        "destinations": [{"peer": format!("TPS@127.0.0.1:{port}")}],
        "retention": {"keep_days": 1},
    }));
    let mut expected = Vec::new();
    for (words, series) in [("fine", "1.2.61"), ("clock 3600", "1.2.62"), ("clock -3600", "1.2.63")] {
        world.is(words);
        assert_eq!(send(running.address, series), [0; 3]);
        expected.push(series);
        wait_for("an attempt at the delivery", || {
            let deliveries = world.deliveries();
            let tried =
                deliveries.iter().filter(|d| d.attempts > 0 && d.state == DeliveryState::Pending).count();
            (tried == expected.len()).then_some(())
        });
    }
    let destination = service(theirs.path(), None, |s| s.listen.port = port);
    wait_for_series(theirs.path(), &expected);
    wait_for("the records", || {
        world.deliveries().iter().all(|d| d.state == DeliveryState::Delivered).then_some(())
    });
    assert_eq!(files(&world.data().join("instances"), "dcm").len(), 9, "retention believed the clock");
    destination.stop();
}

/// The usual back-off, a day and a quarter in some seconds: one destination is back after a day and has its structure set
/// once, the other one never is and is given up.
#[test]
fn a_destination_that_is_dead_for_a_day_gets_its_structure_set_once() {
    let Some(world) = World::new() else { return };
    let theirs = tempfile::tempdir().unwrap();
    let [back, dead] = support::free_ports();
    let running = world.start(json!({
        "destinations": [
            {"name": "back", "peer": format!("TPS@127.0.0.1:{back}")},
            {"name": "dead", "peer": format!("TPS@127.0.0.1:{dead}")},
        ],
        "delivery": {"first_retry_s": 10, "longest_retry_s": 900, "give_up_after_h": 30},
    }));
    let to = |name: &str| world.deliveries().into_iter().find(|d| d.destination == name);
    assert_eq!(send(running.address, "1.2.71"), [0; 3]);
    for hour in (0..24).step_by(3) {
        world.is(&format!("clock {}", hour * 3_600));
        let attempts = hour / 3 + 1;
        for name in ["back", "dead"] {
            wait_for("the next attempt", || to(name).filter(|d| d.attempts >= attempts));
            assert_eq!(to(name).unwrap().state, DeliveryState::Pending);
        }
    }
    assert!(to("back").unwrap().attempts <= 10, "{:?}", to("back"));
    let destination = service(theirs.path(), None, |s| s.listen.port = back);
    world.is(&format!("clock {}", 24 * 3_600));
    wait_for("the delivery", || to("back").filter(|d| d.state == DeliveryState::Delivered));
    wait_for_series(theirs.path(), &["1.2.71"]);
    assert_eq!(to("dead").unwrap().state, DeliveryState::Pending);
    world.is(&format!("clock {}", 31 * 3_600));
    let given_up = wait_for("the end", || to("dead").filter(|d| d.state == DeliveryState::Failed));
    assert!(given_up.last_error.unwrap().contains("cannot be reached"));
    wait_for_series(theirs.path(), &["1.2.71"]);
    destination.stop();
}
