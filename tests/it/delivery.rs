//! Sending to real peers, and to peers that are not there.

use std::collections::BTreeSet;

use oarlock::pipeline::delivery::{Kind, Scu, ScuError, ScuTimeouts, Stored, kind_of};

use crate::support::{self, free_port, start};
use crate::wire::{CT, LIMIT, RTSTRUCT, ct, data_set, files, part10, service, wait_for};

fn send(port: u16, objects: &[Vec<u8>]) -> Vec<Result<Stored, ScuError>> {
    let peer = format!("ANY@127.0.0.1:{port}").parse().unwrap();
    let kinds: BTreeSet<Kind> = objects.iter().map(|o| kind_of(o).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let timeouts = ScuTimeouts { connect: LIMIT, answer: LIMIT };
        let mut scu = Scu::open(&peer, &"TEST".parse().unwrap(), &kinds, timeouts).await.unwrap();
        let mut outcomes = Vec::new();
        for object in objects {
            outcomes.push(scu.store(object).await);
        }
        scu.release().await;
        outcomes
    })
}

fn structure_set(uid: &str) -> Vec<u8> {
    part10(RTSTRUCT, uid, &data_set(RTSTRUCT, "1.2.51", uid, 0.0, 3))
}

#[test]
fn dcmtk_takes_what_we_have_and_a_plain_data_set_is_rewritten_for_it() {
    let Some(storescp) = support::peer("delivery", "storescp") else { return };
    for (option, syntax) in [("+xe", "1.2.840.10008.1.2.1"), ("+xi", "1.2.840.10008.1.2")] {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let out = folder.path().display().to_string();
        let peer = start(&storescp, &[option, "-fe", ".dcm", "-od", &out, &port.to_string()], port);
        let objects = [structure_set("1.2.80"), part10(CT, "1.2.60", &ct("1.2.50", "1.2.60"))];
        assert!(send(port, &objects).iter().all(Result::is_ok), "{option}");
        let stored = wait_for("both files", || Some(files(folder.path(), "dcm")).filter(|f| f.len() == 2));
        for path in stored {
            let object = dicom_object::open_file(path).unwrap();
            assert_eq!(object.meta().transfer_syntax().trim_end_matches('\0'), syntax, "{option}");
            assert_eq!(object.element_by_name("PatientID").unwrap().to_str().unwrap(), "TEST");
            assert_eq!(
                object.element_by_name("ImagePositionPatient").unwrap().to_multi_float64().unwrap()[..2],
                [-31.0, 7.5]
            );
        }
        drop(peer);
    }
}

#[test]
fn orthanc_takes_a_structure_set() {
    let Some(orthanc) = support::peer("delivery", "Orthanc") else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let settings = serde_json::json!({
        "DicomPort": port, "HttpServerEnabled": false, "DicomAlwaysAllowStore": true, "DicomAlwaysAllowEcho": true,
        "StorageDirectory": folder.path(), "IndexDirectory": folder.path(), "Plugins": [],
    });
    let path = folder.path().join("orthanc.json");
    std::fs::write(&path, settings.to_string()).unwrap();
    let peer = start(&orthanc, &[&path.display().to_string()], port);
    let outcomes = send(port, &[structure_set("1.2.80")]);
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    drop(peer);
}

#[test]
fn no_accepted_context_and_a_refusal_are_errors_that_do_not_pass_by_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let mr = "1.2.840.10008.5.1.4.1.1.4";
    let objects = [
        part10(mr, "1.2.90", &data_set(mr, "1.2.51", "1.2.90", 0.0, 3)),
        part10(CT, "1.2.91", &ct("1.2.50", "1.2.60")),
        part10(CT, "1.2.60", &ct("1.2.50", "1.2.60")),
    ];
    let outcomes = send(service.address().port(), &objects);
    assert!(
        matches!(&outcomes[0], Err(e @ ScuError::NoContext { .. }) if e.is_permanent()),
        "{:?}",
        outcomes[0]
    );
    assert!(matches!(&outcomes[1], Err(e @ ScuError::Refused { status: 0xA900, .. }) if e.is_permanent()));
    assert_eq!(outcomes[2].as_ref().unwrap().sop_instance_uid.as_str(), "1.2.60", "the association went on");
    service.stop();
}
