//! The Store SCP as peers meet it, good ones and bad ones.

use std::net::TcpStream;
use std::process::Command;

use oarlock::settings::service::{CalledAeTitle, CallerSettings};

use crate::support;
use crate::wire::{
    CT, EXPLICIT, Request, Wire, ct, data_set, echoes, files, item, pdu, pdv, service, store, store_command,
};

/// What must come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// A-ABORT.
    Abort,
    /// A-ASSOCIATE-RJ with result, source, reason.
    Reject([u8; 3]),
    /// A C-STORE-RSP with this status.
    Status(u16),
}

#[test]
fn a_fault_ends_its_own_association_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let request = |change: fn(&mut Request)| {
        let mut request = Request::default();
        change(&mut request);
        request.bytes()
    };
    let too_long_item = pdu(1, &[&Request::default().bytes()[6..74], &[0x10, 0, 0xFF, 0xFF, b'1']].concat());
    let whole = ct("1.2.50", "1.2.60");
    let before_association: [(&str, Vec<u8>, Answer); 13] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Answer::Abort),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], Answer::Abort),
        ("PDU of 4 GB", vec![1, 0, 255, 255, 255, 255, 0, 1], Answer::Abort),
        ("P-DATA first", pdu(4, &pdv(1, 3, b"xx")), Answer::Abort),
        ("A-RELEASE first", pdu(5, &[0; 4]), Answer::Abort),
        ("no presentation context", request(|r| r.contexts.clear()), Answer::Abort),
        ("even context id", request(|r| r.contexts[0].0 = 2), Answer::Abort),
        ("one id twice", request(|r| r.contexts = vec![(1, CT, EXPLICIT); 2]), Answer::Abort),
        ("item beyond its PDU", too_long_item, Answer::Abort),
        ("protocol version 0", request(|r| r.protocol_version = 0), Answer::Reject([1, 2, 2])),
        ("application context", request(|r| r.application_context = "1.2.3"), Answer::Reject([1, 1, 2])),
        ("blank calling AE title", request(|r| r.calling = ""), Answer::Reject([1, 1, 3])),
        ("blank called AE title", request(|r| r.called = ""), Answer::Reject([1, 1, 7])),
    ];
    let inside: [(&str, Vec<u8>, Answer); 14] = [
        ("second A-ASSOCIATE-RQ", Request::default().bytes(), Answer::Abort),
        ("unknown context", pdu(4, &pdv(5, 3, &store_command("1.2.60"))), Answer::Abort),
        ("PDV beyond its PDU", pdu(4, &[0, 0, 255, 255, 1, 3]), Answer::Abort),
        ("PDU of 4 GB inside", vec![4, 0, 255, 255, 255, 255, 0, 1], Answer::Abort),
        ("PDU above the maximum", pdu(4, &vec![0; 600_000]), Answer::Abort),
        ("unknown PDU type", pdu(0x42, &[0; 4]), Answer::Abort),
        ("data set without a command", pdu(4, &pdv(1, 2, &whole)), Answer::Abort),
        ("garbage as a command", pdu(4, &pdv(1, 3, &[0xFF; 40])), Answer::Abort),
        ("cut in half", store("1.2.60", &whole[..whole.len() / 2]), Answer::Status(0xC000)),
        ("cut in a header", store("1.2.60", &[&whole[..], &[0, 1, 2]].concat()), Answer::Status(0xC000)),
        ("path as UID", store("../../../x", &whole), Answer::Status(0xC000)),
        ("another UID than the command's", store("1.2.61", &whole), Answer::Status(0xA900)),
        ("50 000 nested sequences", store("1.2.60", &nested(50_000)), Answer::Status(0xC000)),
        (
            "40 kB of item headers",
            store("1.2.60", &[0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0].repeat(5_000)),
            Answer::Status(0xC000),
        ),
    ];
    let all = before_association.into_iter().map(|c| (false, c)).chain(inside.into_iter().map(|c| (true, c)));
    for (is_inside, (name, bytes, expected)) in all {
        let mut wire =
            if is_inside { Wire::associated(service.address()) } else { Wire::connect(service.address()) };
        wire.send(&bytes);
        let answer = match (expected, wire.next()) {
            (Answer::Status(_), Some((4, body))) => {
                let at = body.windows(8).position(|w| w == [0, 0, 0, 9, 2, 0, 0, 0]).expect("no status");
                Answer::Status(u16::from_le_bytes([body[at + 8], body[at + 9]]))
            }
            (_, Some((7, _))) => Answer::Abort,
            (_, Some((3, body))) => Answer::Reject([body[1], body[2], body[3]]),
            (_, other) => panic!("{name}: {other:?}"),
        };
        assert_eq!(answer, expected, "{name}");
        assert!(echoes(service.address()), "{name}: no C-ECHO afterwards");
    }
    service.stop();
    assert_eq!(files(folder.path(), "dcm"), Vec::<std::path::PathBuf>::new(), "something broken was stored");
    assert_eq!(files(folder.path(), "part").len(), 0);
}

fn nested(n: usize) -> Vec<u8> {
    let open =
        [0x40, 0, 0x30, 0xA7, b'S', b'Q', 0, 0, 255, 255, 255, 255, 0xFE, 0xFF, 0, 0xE0, 255, 255, 255, 255];
    [ct("1.2.50", "1.2.60"), open.repeat(n)].concat()
}

#[test]
fn those_who_stall_or_vanish_hinder_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |s| s.listen.max_associations = 8);
    let address = service.address();
    for _ in 0..50 {
        drop(TcpStream::connect(address).unwrap());
    }
    let idle: Vec<_> = (0..64).map(|_| Wire::connect(address)).collect();
    let mut half = Wire::connect(address);
    half.send(&Request::default().bytes()[..40]);
    assert!(echoes(address), "64 idle connections");
    let mut stalled: Vec<_> = (0..8).map(|_| Wire::associated(address)).collect();
    for (k, wire) in stalled.iter_mut().enumerate() {
        let message = store(&format!("1.2.7{k}"), &ct("1.2.50", &format!("1.2.7{k}")));
        wire.send(&message[..message.len() - 20]);
    }
    let mut ninth = Wire::connect(address);
    ninth.send(&Request::default().bytes());
    assert_eq!(ninth.next(), Some((3, vec![0, 2, 3, 2])), "beyond the cap: rejected transient");
    assert!(echoes(address), "a C-ECHO at the cap");
    drop((stalled, idle, half));
    let mut wire = crate::wire::wait_for("a free place", || {
        let mut wire = Wire::connect(address);
        wire.send(&Request::default().bytes());
        wire.next().is_some_and(|(kind, _)| kind == 2).then_some(wire)
    });
    assert_eq!(wire.store("1.2.60", &ct("1.2.50", "1.2.60")), 0);
    service.stop();
    assert_eq!(files(folder.path(), "dcm").len(), 1, "half an instance was kept");
}

#[test]
fn what_is_stored_is_what_was_sent_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let mut wire = Wire::associated(service.address());
    let sent = ct("1.2.50", "1.2.60");
    assert_eq!(wire.store("1.2.60", &sent), 0x0000);
    let path = folder.path().join("instances/1.2.50/1.2.60.dcm");
    let stored = std::fs::read(&path).unwrap();
    assert!(stored.ends_with(&sent), "the data set is not byte for byte as sent");
    assert!(stored.starts_with(&[0; 128]) && &stored[128..132] == b"DICM");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(wire.store("1.2.60", &sent), 0x0000, "again");
    assert_eq!(wire.store("1.2.60", &data_set(CT, "1.2.50", "1.2.60", 2.5, 8)), 0xC111, "other pixels");
    assert_eq!(wire.store("1.2.60", &data_set(CT, "1.2.50", "1.2.60", 3.0, 7)), 0xC111, "other place");
    service.stop();
    assert_eq!(files(&folder.path().join("instances"), "dcm"), std::slice::from_ref(&path));
    assert_eq!(std::fs::read(&path).unwrap(), stored, "the first one was changed");
    assert_eq!(files(&folder.path().join("quarantine"), "dcm").len(), 2);
    let reason = std::fs::read_to_string(&files(&folder.path().join("quarantine"), "txt")[0]).unwrap();
    assert!(reason.contains("other pixels"), "{reason}");
}

#[test]
fn only_listed_callers_and_our_own_title_when_so_set() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |s| {
        s.listen.called_ae_title = CalledAeTitle::Own;
        let other = Some("10.9.8.0/24".parse().unwrap());
        let caller = |title: &str, address| CallerSettings { ae_title: title.parse().unwrap(), address };
        s.listen.callers = vec![caller("TEST", None), caller("FAR", other)];
    });
    for (called, calling, expected) in [
        ("OARLOCK", "TEST", None),
        ("OARLOCK", "OTHER", Some([1, 1, 3])),
        ("OARLOCK", "FAR", Some([1, 1, 3])),
        ("ELSE", "TEST", Some([1, 1, 7])),
    ] {
        let mut wire = Wire::connect(service.address());
        wire.send(&Request { called, calling, ..Request::default() }.bytes());
        let (kind, body) = wire.next().unwrap();
        assert_eq!((kind == 3).then(|| [body[1], body[2], body[3]]), expected, "{called} from {calling}");
    }
    service.stop();
}

#[test]
fn contexts_are_answered_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let mut wire = Wire::connect(service.address());
    let contexts = vec![
        (3, "1.2.840.10008.5.1.4.1.1.4", EXPLICIT),
        (7, CT, "1.2.840.10008.1.2.4.94"),
        (9, CT, "1.2.840.10008.1.2.4.90"),
    ];
    wire.send(&Request { contexts, ..Request::default() }.bytes());
    let (kind, body) = wire.next().unwrap();
    assert_eq!(kind, 2);
    // PS3.8 9.3.3.2: MR is not in the default list (3), JPIP is no way to send pixels (4), JPEG 2000 is taken (0).
    for (id, result) in [(3, 3), (7, 4), (9, 0)] {
        let at = body.windows(2).position(|w| w == [0x21, 0]).unwrap();
        let found = (at..body.len() - 8).find(|at| body[*at..].starts_with(&[0x21, 0]) && body[at + 4] == id);
        assert_eq!(body[found.unwrap() + 6], result, "context {id}");
    }
    let max_length = item(0x51, &131_072_u32.to_be_bytes());
    assert!(body.windows(max_length.len()).any(|w| w == max_length), "the maximum length is not 131072");
    service.stop();
}

#[test]
fn dcmtk_stores_a_real_series() {
    let (Some(data), Some(storescu)) = (support::shared_data("ingest"), support::peer("ingest", "storescu"))
    else {
        return;
    };
    let mut source = files(&data.join("ct-head-ge-tilt"), "dcm");
    source.truncate(20);
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let port = service.address().port().to_string();
    let status = Command::new(storescu).args(["127.0.0.1", &port]).args(&source).status().unwrap();
    assert!(status.success());
    service.stop();
    let stored = files(&folder.path().join("instances"), "dcm");
    assert_eq!(stored.len(), source.len());
    let object = dicom_object::open_file(&stored[0]).unwrap();
    assert_eq!(object.meta().media_storage_sop_class_uid().trim_end_matches('\0'), CT);
}
