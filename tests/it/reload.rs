//! Settings that change while the service runs.

use std::process::Command;

use oarlock::settings::ServiceSettings;
use oarlock::settings::service::{CalledAeTitle, DestinationSettings};
use oarlock::vocabulary::dicom::Peer;

use crate::faults::Served;
use crate::service::{all_delivered, contourer, delivered, job};
use crate::support::free_port;
use crate::wire::{Request, Wire, ct, echoes, service, wait_for};

#[test]
fn what_may_change_is_in_force_at_once_and_what_cannot_be_used_changes_nothing() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let port = free_port();
    let mut settings = ServiceSettings::default();
    let running = service(ours.path(), contourer(&Default::default()), |s| {
        s.series.quiet_time_s = 300.0;
        s.delivery.first_retry_s = 300.0;
        s.delivery.longest_retry_s = 300.0;
        s.destinations =
            vec![DestinationSettings::from(format!("TPS@127.0.0.1:{port}").parse::<Peer>().unwrap())];
        settings = s.clone();
    });
    let reloader = running.reloader();
    let mut wire = Wire::associated(running.address());
    assert_eq!(wire.store("1.2.60", &ct("1.2.50", "1.2.60")), 0);

    // How long a series is waited for.
    settings.series.quiet_time_s = 0.2;
    assert_eq!(reloader.reload(&settings).unwrap().taken_over, ["series"]);
    wait_for("an attempt at the delivery", || {
        let job = job(ours.path(), "1.2.50")?;
        (job.versions.first()?.deliveries.first()?.attempts > 0).then_some(())
    });

    // A file of rules that is not there: all stays, the door too.
    let mut broken = settings.clone();
    broken.rules = Some(ours.path().join("no-rules.yaml"));
    broken.listen.called_ae_title = CalledAeTitle::Own;
    assert!(reloader.reload(&broken).is_err());
    let calls_another = || {
        let mut wire = Wire::connect(running.address());
        wire.send(&Request { called: "ANOTHER", ..Request::default() }.bytes());
        wire.next().unwrap().0
    };
    assert_eq!(calls_another(), 2, "accepted");

    // Who comes in, and what waits for the next start.
    settings.listen.called_ae_title = CalledAeTitle::Own;
    settings.listen.max_associations = 7;
    settings.destinations.clear();
    let reloaded = reloader.reload(&settings).unwrap();
    assert_eq!(reloaded.taken_over, ["listen.called_ae_title"]);
    assert!(reloaded.at_the_next_start.contains(&"destinations"), "{reloaded:?}");
    assert_eq!(reloaded.at_the_next_start.len(), 2);
    assert_eq!(calls_another(), 3, "rejected");

    // When a delivery is tried again: the one that waits has its time already, a new series has not.
    let destination = service(theirs.path(), None, |s| s.listen.port = port);
    settings.delivery.longest_retry_s = 0.1;
    settings.delivery.first_retry_s = 0.05;
    assert_eq!(reloader.reload(&settings).unwrap().taken_over, ["delivery"]);
    assert_eq!(delivered(theirs.path(), 1).len(), 1);
    all_delivered(ours.path(), 1);
    let began = std::time::Instant::now();
    running.stop();
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "the reloader held the service up");
    destination.stop();
}

#[test]
fn sighup_says_what_changed_what_waits_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path(), "listen: {min_free_mb: 1}\n");
    let hang_up = |yaml: &str, said: &[&str]| {
        std::fs::write(folder.path().join("service.yaml"), yaml).unwrap();
        let pid = served.process.0.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        wait_for("the log", || {
            let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
            said.iter().all(|word| log.contains(word)).then_some(())
        });
        assert!(echoes(served.address));
    };
    hang_up("listen: {prot: 104}\n", &["those before stay in force", "unknown field `prot`"]);
    let changed = "series: {quiet_time_s: 7}\nlisten: {min_free_mb: 2}\nstop_grace_s: 5\n";
    hang_up(changed, &["taken_over=\"series\"", "stop_grace_s, listen", "after the next start only"]);
    hang_up(
        "listen: {min_free_mb: 1, callers: [{ae_title: TEST}]}\n",
        &["taken_over=\"listen.callers, series\""],
    );
}

#[test]
fn a_sighup_during_the_start_is_kept_and_ends_nothing() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let served = Served::start_and(folder.path(), "listen: {min_free_mb: 1}\n", |pid| {
            wait_for("the signal's own way", || catches(pid, 1).then_some(()));
            assert!(!folder.path().join("data").exists(), "it has begun to take instances");
            assert!(Command::new("kill").args(["-HUP", &pid.to_string()]).status().unwrap().success());
        });
        assert!(
            catches(served.process.0.id(), 15),
            "it said where it listens before it could be stopped in order"
        );
        wait_for("the log", || {
            let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
            log.contains("settings, rules and certificates are read again").then_some(())
        });
        assert!(echoes(served.address));
    }
}

/// Whether a process has its own way with a signal (Linux).
fn catches(pid: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}
