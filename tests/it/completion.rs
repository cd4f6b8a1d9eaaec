//! When a series is complete, over real sockets; `pipeline::series` has the cases with the time as an argument.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use oarlock::pipeline::delivery::{Scu, ScuTimeouts, count_instances, kind_of};
use oarlock::settings::service::AskSettings;
use oarlock::vocabulary::dicom::{AeTitle, Peer, SeriesInstanceUid, StudyInstanceUid};

use crate::service::{contourer, job};
use crate::support::{self, Process, free_port, start};
use crate::wire::{CT, LIMIT, Wire, data_set, part10, service, wait_for};

fn orthanc(folder: &Path) -> Option<(Process, Peer)> {
    let orthanc = support::peer("completion", "Orthanc")?;
    let port = free_port();
    let settings = serde_json::json!({
        "DicomPort": port, "HttpServerEnabled": false, "DicomAlwaysAllowStore": true, "DicomAlwaysAllowEcho": true,
        "DicomAlwaysAllowFind": true, "DicomCheckCalledAet": false, "StorageDirectory": folder,
        "IndexDirectory": folder, "Plugins": [],
    });
    let path = folder.join("orthanc.json");
    std::fs::write(&path, settings.to_string()).unwrap();
    let process = start(&orthanc, &[&path.display().to_string()], port);
    Some((process, format!("ORTHANC@127.0.0.1:{port}").parse().unwrap()))
}

fn slice(series: &str, n: usize) -> (String, Vec<u8>) {
    let uid = format!("{series}.{n}");
    let bytes = data_set(CT, series, &uid, 2.5 * n as f64, 7);
    (uid, bytes)
}

/// Sends slices of a series, as whom the test always calls.
fn send(wire: &mut Wire, series: &str, slices: &[usize]) {
    for n in slices {
        let (uid, bytes) = slice(series, *n);
        assert_eq!(wire.store(&uid, &bytes), 0);
    }
}

#[test]
fn the_archive_of_the_sender_says_how_many_instances_are_due() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_orthanc, archive)) = orthanc(folder.path()) else { return };
    let us: AeTitle = "TEST".parse().unwrap();
    let timeouts = ScuTimeouts { connect: LIMIT, answer: LIMIT };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let objects: Vec<_> = ["1.2.51", "1.2.52"]
            .iter()
            .flat_map(|series| (1..=3).map(|n| slice(series, n)))
            .map(|(uid, bytes)| part10(CT, &uid, &bytes))
            .collect();
        let kinds = BTreeSet::from([kind_of(&objects[0]).unwrap()]);
        let mut scu = Scu::open(&archive, &us, &kinds, timeouts).await.unwrap();
        for object in &objects {
            scu.store(object).await.unwrap();
        }
        scu.release().await;
        let study = StudyInstanceUid::parse("1.2.777").unwrap();
        for (series, n) in [("1.2.51", Some(3)), ("1.2.99", None)] {
            let series = SeriesInstanceUid::parse(series).unwrap();
            assert_eq!(
                count_instances(&archive, &us, (&study, &series), timeouts).await.unwrap(),
                n,
                "{series}"
            );
        }
    });
    let ours = tempfile::tempdir().unwrap();
    let running = service(ours.path(), contourer(&Arc::default()), |s| {
        s.series.quiet_time_s = 0.3;
        s.series.incomplete_wait_s = 600.0;
        s.series.ask = vec![AskSettings { ae_title: us.clone(), peer: archive.clone() }];
    });
    let mut wire = Wire::associated(running.address());
    send(&mut wire, "1.2.52", &[1, 2]);
    send(&mut wire, "1.2.51", &[1, 2, 3]);
    let why = |series: &str| {
        let history = job(ours.path(), series)?.history;
        history.into_iter().find(|h| h.became == "complete").map(|h| h.cause)
    };
    let whole = wait_for("the series that is whole", || why("1.2.51"));
    assert_eq!(whole, "all of its 3 instances are here");
    assert_eq!(why("1.2.52"), None, "one is missing");
    send(&mut wire, "1.2.52", &[3]);
    let whole = wait_for("the series that became whole", || why("1.2.52"));
    assert_eq!(whole, "all of its 3 instances are here");
    assert_eq!(job(ours.path(), "1.2.52").unwrap().versions[0].job.n_instances, 3);
    running.stop();
}

/// Instances of one series over several associations at a time are one series.
#[test]
fn a_series_over_several_associations_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let running = service(folder.path(), contourer(&Arc::default()), |s| s.series.quiet_time_s = 0.5);
    let address = running.address();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            std::thread::spawn(move || {
                let mut wire = Wire::associated(address);
                send(&mut wire, "1.2.51", &[sender, sender + 4, sender + 8]);
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let versions =
        wait_for("the series", || Some(job(folder.path(), "1.2.51")?.versions).filter(|v| !v.is_empty()));
    assert_eq!((versions.len(), versions[0].job.n_instances), (1, 12));
    running.stop();
}
