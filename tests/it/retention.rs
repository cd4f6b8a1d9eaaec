//! What is old is removed when nothing is left to do with it, and only then.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use oarlock::service::store::{DeliveryState, JobState};
use oarlock::settings::ServiceSettings;
use oarlock::settings::service::DestinationSettings;
use oarlock::vocabulary::dicom::Peer;

use crate::service::{all_delivered, contourer, delivered, job, send};
use crate::support::stored;
use crate::wire::{Wire, all_files, ct, data_set, files, service, wait_for};

fn quick(s: &mut ServiceSettings, destination: std::net::SocketAddr) {
    s.series.quiet_time_s = 0.1;
    s.delivery.first_retry_s = 0.05;
    s.delivery.longest_retry_s = 0.2;
    let peer: Peer = format!("TPS@{destination}").parse().unwrap();
    s.destinations = vec![DestinationSettings::from(peer)];
}

#[test]
fn a_finished_series_is_removed_by_age_its_record_stays_and_the_same_again_is_not_done_again() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let calls = Arc::new(AtomicUsize::new(0));
    let running = service(ours.path(), contourer(&calls), |s| {
        quick(s, destination.address());
        s.retention.keep_days = Some(2.0 / 86_400.0);
    });
    send(&running, &["1.2.60", "1.2.61"]);
    delivered(theirs.path(), 1);
    all_delivered(ours.path(), 1);
    wait_for("the removal", || all_files(&ours.path().join("instances")).is_empty().then_some(()));
    wait_for("the note", || {
        let history = job(ours.path(), "1.2.50").unwrap().history;
        history.iter().any(|h| h.became == "removed" && h.cause.contains("keep_days")).then_some(())
    });
    for folder in ["results", "outbox", "incoming"] {
        assert_eq!(all_files(&ours.path().join(folder)), Vec::<std::path::PathBuf>::new(), "{folder}");
    }
    send(&running, &["1.2.60", "1.2.61"]);
    wait_for("the second removal", || {
        let history = job(ours.path(), "1.2.50").unwrap().history;
        (history.iter().filter(|h| h.became == "removed").count() == 2).then_some(())
    });
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1, "contoured again");
    let resent = std::process::Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["jobs", "resend", "1.2.50", "--data-dir"])
        .arg(ours.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&resent.stderr).into_owned();
    assert!(resent.status.code() == Some(1) && said.contains("its files were removed"), "{said}");
    let job = job(ours.path(), "1.2.50").unwrap();
    assert_eq!(job.versions.iter().map(|v| v.job.state).collect::<Vec<_>>(), [JobState::Contoured]);
    running.stop();
    destination.stop();
}

/// The disk's share is far exceeded from the first instance on, but nothing of this is with its destination.
#[test]
fn what_is_unsent_stays_whatever_the_limits_say() {
    let ours = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = service(ours.path(), contourer(&Arc::default()), |s| {
        quick(s, nobody);
        s.retention.keep_days = Some(1e-9);
        s.retention.max_gb = Some(1e-9);
    });
    send(&running, &["1.2.60"]);
    wait_for("a failed attempt", || {
        let all = stored(ours.path(), async |store| store.deliveries(None).await.unwrap());
        all.iter().any(|d| d.attempts >= 2 && d.state == DeliveryState::Pending).then_some(())
    });
    let mut wire = Wire::associated(running.address());
    assert_eq!(wire.store("1.2.60", &ct("1.2.50", "1.2.60")), 0);
    assert_eq!(wire.store("1.2.60", &data_set(crate::wire::CT, "1.2.50", "1.2.60", 2.5, 9)), 0xC111);
    let attempts = || {
        let all = stored(ours.path(), async |store| store.deliveries(None).await.unwrap());
        all.iter().map(|d| d.attempts).sum::<u32>()
    };
    // Sweeps come once a second, attempts at most each 0.2 s.
    let before = attempts();
    wait_for("twelve attempts more", || (attempts() > before + 12).then_some(()));
    assert_eq!(files(&ours.path().join("instances"), "dcm").len(), 1);
    assert_eq!(files(&ours.path().join("results"), "dcm").len(), 1);
    assert_eq!(files(&ours.path().join("outbox"), "dcm").len(), 1);
    running.stop();
}

#[test]
fn the_oldest_go_first_when_the_share_of_the_disk_is_used_up() {
    let ours = tempfile::tempdir().unwrap();
    let running = service(ours.path(), contourer(&Arc::default()), |s| {
        s.series.quiet_time_s = 0.1;
        s.retention.max_gb = Some(8e-3);
        s.retention.keep_days = Some(1.0);
    });
    let big = |series: &str, uid: &str| {
        let mut bytes = ct(series, uid);
        bytes.truncate(bytes.len() - 154 - 12);
        bytes.extend([0xE0, 0x7F, 0x10, 0x00]);
        bytes.extend(b"OW\0\0");
        bytes.extend(3_000_000_u32.to_le_bytes());
        bytes.extend(vec![7; 3_000_000]);
        bytes
    };
    for n in 0..3 {
        let (series, uid) = (format!("1.2.5{n}"), format!("1.2.5{n}.1"));
        let mut wire = Wire::associated(running.address());
        assert_eq!(wire.store(&uid, &big(&series, &uid)), 0);
        wait_for("the series", || {
            job(ours.path(), &series)?.versions.pop().filter(|v| v.job.state == JobState::Contoured)
        });
    }
    running.stop();
    let before = files(&ours.path().join("instances"), "dcm").len();
    let running = service(ours.path(), contourer(&Arc::default()), |s| s.retention.max_gb = Some(8e-3));
    wait_for("the removal of the first", || (!ours.path().join("instances/1.2.50").exists()).then_some(()));
    assert_eq!(before, 3);
    assert!(ours.path().join("instances/1.2.52").exists(), "the newest stays");
    running.stop();
}
