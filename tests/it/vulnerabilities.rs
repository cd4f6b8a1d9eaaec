//! What broke others (docs/security.md lists the cases), a test for each class with its input.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use oarlock::pipeline::volume::hu_of_frame;
use oarlock::vocabulary::dicom::instance::{InstanceLimits, parse_instance, read_instance};
use proptest::prelude::*;

use crate::support::shared_data;
use crate::wire::{
    CT, LIMIT, Request, Wire, all_files, ct, data_set, echoes, element, files, part10, pdu, service, store,
};

/// DCMTK CVE-2022-2119, CVE-2022-2120, CVE-2026-50003, CVE-2026-52868; pynetdicom CVE-2026-56445.
#[test]
fn no_word_of_a_peer_becomes_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let service = service(&data, None, |_| {});
    let long = format!("1.{}", "2".repeat(63));
    let bad =
        ["../../x", "/etc/x", "..", ".", "1.2\\x", "1.2\0x", "", "C:\\x", "1.2/3", "1..2", "%2e%2e", &long];
    for uid in bad {
        let mut wire = Wire::associated(service.address());
        let status = wire.store(uid, &ct("1.2.50", "1.2.60"));
        assert!([0xC000, 0xA900].contains(&status), "SOP Instance UID {uid:?}: {status:04X}");
        let status = wire.store("1.2.60", &ct(uid, "1.2.60"));
        assert_eq!(status, 0xC000, "Series Instance UID {uid:?}");
    }
    for calling in ["..", "../../x", "/", "~"] {
        let mut wire = Wire::connect(service.address());
        wire.send(&Request { calling, ..Request::default() }.bytes());
        assert_eq!(wire.next().unwrap().0, 2, "{calling}");
        let patient = element(0x10, 0x20, "LO", b"../../../tmp/x");
        let whole = ct("1.2.50", "1.2.61");
        let at = whole.windows(4).position(|w| w == [0x10, 0, 0x20, 0]).unwrap();
        assert_eq!(wire.store("1.2.61", &[&whole[..at], &patient, &whole[at + 12..]].concat()), 0);
    }
    service.stop();
    let beside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside, ["data"], "something lies beside the data folder");
    let stored = files(&data, "dcm");
    assert_eq!(stored, [data.join("instances/1.2.50/1.2.61.dcm")]);
}

/// CVE-2019-11687: what lies in the preamble is not kept, so no stored file is also a program or a picture.
#[test]
fn a_preamble_that_is_a_program_does_not_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let service = service(&data, None, |_| {});
    for (k, magic) in
        [&b"MZ\x90\0"[..], b"\x7FELF", b"\xCF\xFA\xED\xFE", b"II*\0", b"#!/bin/sh\n"].iter().enumerate()
    {
        let uid = format!("1.2.6{k}");
        let mut file = part10(CT, &uid, &ct("1.2.50", &uid));
        file[..magic.len()].copy_from_slice(magic);
        let path = folder.path().join("polyglot.dcm");
        std::fs::write(&path, &file).unwrap();
        let peer = format!("ANY@{}", service.address());
        let sent = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .args(["send", &path.display().to_string(), "--to", &peer])
            .output()
            .unwrap();
        assert!(sent.status.success(), "{sent:?}");
        let stored = std::fs::read(data.join(format!("instances/1.2.50/{uid}.dcm"))).unwrap();
        assert!(stored.starts_with(&[0; 128]), "{magic:?} was kept");
    }
    service.stop();
}

fn head(tag: [u8; 4], vr: &[u8; 2], length: u32) -> Vec<u8> {
    [&tag[..], vr, &[0, 0], &length.to_le_bytes()].concat()
}

const SEQUENCE: [u8; 4] = [0x40, 0, 0x30, 0xA7];
const PIXELS: [u8; 4] = [0xE0, 0x7F, 0x10, 0];
const ITEM: [u8; 8] = [0xFE, 0xFF, 0x00, 0xE0, 0, 0, 0, 0];
const OPEN_ITEM: [u8; 8] = [0xFE, 0xFF, 0x00, 0xE0, 255, 255, 255, 255];
const ITEM_END: [u8; 8] = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0];
const SEQUENCE_END: [u8; 8] = [0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];

/// A CT data set with something before its pixels.
fn with(part: &[u8]) -> Vec<u8> {
    let whole = ct("1.2.50", "1.2.60");
    let at = whole.windows(4).position(|w| w == PIXELS).unwrap();
    [&whole[..at], part, &whole[at..]].concat()
}

fn opened(n: usize) -> Vec<u8> {
    let open = [&head(SEQUENCE, b"SQ", u32::MAX)[..], &OPEN_ITEM].concat();
    let close = [ITEM_END, SEQUENCE_END].concat();
    [open.repeat(n), close.repeat(n)].concat()
}

fn measured(n: usize) -> Vec<u8> {
    (0..n).fold(Vec::new(), |inner, _| {
        let length = u32::try_from(inner.len()).unwrap();
        let item = [&ITEM[..4], &length.to_le_bytes(), &inner].concat();
        [head(SEQUENCE, b"SQ", length + 8), item].concat()
    })
}

/// Orthanc CVE-2026-5437; Enet4/dicom-rs#828 items 004 and 083, #547, #626; DCMTK CVE-2022-2121; fo-dicom/fo-dicom#2114;
/// pydicom/pydicom#2330. Each is refused with C000H within a second, and a C-ECHO is answered afterwards.
#[test]
fn lengths_that_lie_stray_delimiters_and_nests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an element of 2^32-2 bytes", with(&head([9, 0, 1, 0], b"OB", u32::MAX - 1))),
        ("pixel data of 4 GB in 1 kB", [ct("1.2.50", "1.2.60"), head(PIXELS, b"OB", 0xFFFF_FFF0)].concat()),
        ("a sequence longer than the rest", with(&head(SEQUENCE, b"SQ", 4_000))),
        (
            "an item longer than its sequence",
            with(&[&head(SEQUENCE, b"SQ", 8)[..], &ITEM[..4], &[200, 0, 0, 0]].concat()),
        ),
        ("undefined length on text", with(&head([9, 0, 1, 0], b"UT", u32::MAX))),
        ("an item outside of a sequence", with(&ITEM)),
        ("an item's end outside of a sequence", with(&ITEM_END)),
        ("a sequence's end outside of one", with(&SEQUENCE_END)),
        ("two ends", with(&[opened(1), ITEM_END.to_vec(), SEQUENCE_END.to_vec()].concat())),
        (
            "an element where an item is due",
            with(&[head(SEQUENCE, b"SQ", 10), element(8, 0x60, "CS", b"CT")].concat()),
        ),
        (
            "fragments without an end",
            [ct("1.2.50", "1.2.60"), head(PIXELS, b"OB", u32::MAX), ITEM.to_vec()].concat(),
        ),
        ("300 nested, open", with(&opened(300))),
        ("300 nested, measured", with(&measured(300))),
        ("2 000 nested, open", with(&opened(2_000))),
        ("2 000 nested, measured", with(&measured(2_000))),
        ("50 000 nested, open", with(&opened(50_000))),
        ("10 000 nested, measured", with(&measured(10_000))),
    ];
    for (name, bytes) in cases {
        let mut wire = Wire::associated(service.address());
        let started = Instant::now();
        assert_eq!(wire.store("1.2.60", &bytes), 0xC000, "{name}");
        assert!(started.elapsed() < Duration::from_secs(1), "{name}: {:?}", started.elapsed());
        assert!(echoes(service.address()), "{name}");
        let file = folder.path().join("case.dcm");
        std::fs::write(&file, part10(CT, "1.2.60", &bytes)).unwrap();
        assert!(read_instance(&file, InstanceLimits::default()).is_err(), "{name}, from a file");
    }
    let mut wire = Wire::associated(service.address());
    let inside = [
        &head(SEQUENCE, b"SQ", u32::MAX)[..],
        &OPEN_ITEM,
        &head(PIXELS, b"OW", 2),
        &[1, 2],
        &ITEM_END,
        &SEQUENCE_END,
    ];
    assert_eq!(
        wire.store("1.2.60", &with(&inside.concat())),
        0,
        "pixel data inside a sequence, as icons have it"
    );
    service.stop();
}

/// Orthanc CVE-2026-5437: the group length of the file meta information, too short, too long, absurd.
#[test]
fn a_meta_group_length_that_lies_moves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meta.dcm");
    let whole = part10(CT, "1.2.60", &ct("1.2.50", "1.2.60"));
    for length in [0_u32, 4, 1_000, 1 << 20, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[140..144].copy_from_slice(&length.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        if let Ok(instance) = read_instance(&file, InstanceLimits::default()) {
            let data_set = instance.data_set().unwrap();
            assert_eq!(data_set.element_by_name("PatientID").unwrap().to_str().unwrap(), "TEST", "{length}");
        }
    }
}

/// Elements by their number in group 0028.
type Module = Vec<(u16, Vec<u8>)>;

/// Orthanc CVE-2026-5442 to 5445; Enet4/dicom-rs#828 item 085: what is said of pixels and what is there.
#[test]
fn pixel_modules_that_lie_are_refused() {
    let short = |number, value: u16| element(0x28, number, "US", &value.to_le_bytes());
    let module = |change: &dyn Fn(&mut Module)| {
        let mut elements = vec![
            (0x02, short(0x02, 1)),
            (0x04, element(0x28, 0x04, "CS", b"MONOCHROME2 ")),
            (0x08, element(0x28, 0x08, "IS", b"1 ")),
            (0x10, short(0x10, 6)),
            (0x11, short(0x11, 5)),
            (0x100, short(0x100, 16)),
            (0x101, short(0x101, 16)),
            (0x102, short(0x102, 15)),
            (0x103, short(0x103, 1)),
            (0x1052, element(0x28, 0x1052, "DS", b"0 ")),
            (0x1053, element(0x28, 0x1053, "DS", b"1 ")),
        ];
        change(&mut elements);
        let elements: Vec<u8> = elements.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let data_set = [
            element(8, 0x16, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
            elements,
            head(PIXELS, b"OW", 60),
            vec![7; 60],
        ];
        let bytes = part10(CT, "1.2.60", &data_set.concat());
        let instance = parse_instance(bytes, InstanceLimits::default()).unwrap();
        hu_of_frame(&instance, 0, "case").map(|hu| hu.dim())
    };
    assert_eq!(module(&|_| {}).unwrap(), (6, 5));
    let set = |number: u16, bytes: Vec<u8>| {
        move |elements: &mut Module| {
            elements.iter_mut().find(|(n, _)| *n == number).unwrap().1 = bytes.clone();
        }
    };
    for (name, number, bytes) in [
        ("65535 rows", 0x10, short(0x10, 65_535)),
        ("no rows", 0x10, short(0x10, 0)),
        ("one row too many", 0x10, short(0x10, 7)),
        ("rows as UL", 0x10, element(0x28, 0x10, "UL", &0x7FFF_FFFF_u32.to_le_bytes())),
        ("2^31-1 frames", 0x08, element(0x28, 0x08, "IS", b"2147483647")),
        ("1 bit", 0x100, short(0x100, 1)),
        ("64 bits", 0x100, short(0x100, 64)),
        ("more bits stored than allocated", 0x101, short(0x101, 17)),
        ("high bit beyond", 0x102, short(0x102, 200)),
        ("3 samples", 0x02, short(0x02, 3)),
    ] {
        let outcome = module(&set(number, bytes));
        // Frames beyond the first may be promised: only the first is asked for here, and it is there.
        assert!(
            outcome.is_err() || (name == "2^31-1 frames" && outcome.as_ref().is_ok_and(|d| *d == (6, 5))),
            "{name}: {outcome:?}"
        );
    }
}

/// Orthanc CVE-2026-5438 and 5439: deflated data that grows without end.
#[test]
fn a_decompression_bomb_is_refused_over_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |s| s.listen.max_instance_mb = 8);
    let mut deflated = Vec::new();
    flate2::read::DeflateEncoder::new(std::io::repeat(0).take(200_000_000), flate2::Compression::fast())
        .read_to_end(&mut deflated)
        .unwrap();
    let mut wire = Wire::connect(service.address());
    let contexts = vec![(1, CT, "1.2.840.10008.1.2.1.99")];
    wire.send(&Request { contexts, ..Request::default() }.bytes());
    assert_eq!(wire.next().unwrap().0, 2);
    let started = Instant::now();
    assert_eq!(wire.store("1.2.60", &deflated), 0xC000, "{} bytes that become 200 MB", deflated.len());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    service.stop();
}

/// Orthanc CVE-2026-5440: bodies are not read at all, however long they say they are.
#[test]
fn the_web_page_reads_no_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |s| s.http = Some(([127, 0, 0, 1], 0).into()));
    let address = service.http_address().unwrap();
    let ask = |request: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        drop(socket.write_all(request));
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    };
    let started = Instant::now();
    for request in [
        &b"POST /health HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\nxxxx"[..],
        b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nxxxx",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"GET /health/../../etc/passwd HTTP/1.1\r\n\r\n",
    ] {
        let answer = ask(request);
        assert!(answer.starts_with("HTTP/1.1 404") || answer.is_empty(), "{answer}");
    }
    drop(ask(&[b"GET /".to_vec(), vec![b'x'; 100_000]].concat()));
    assert!(ask(b"GET /health HTTP/1.1\r\n\r\n").ends_with("ok\n"));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    service.stop();
}

/// PEERS.md's finding that most servers answer success: the same UID with another patient, pixels, place or class.
#[test]
fn one_uid_with_other_content_is_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let first = ct("1.2.50", "1.2.60");
    let mut wire = Wire::associated(service.address());
    assert_eq!(wire.store("1.2.60", &first), 0);
    let patient = element(0x10, 0x20, "LO", b"ELSE");
    let at = first.windows(4).position(|w| w == [0x10, 0, 0x20, 0]).unwrap();
    let other_patient = [&first[..at], &patient, &first[at + 12..]].concat();
    let others = [
        ("patient", other_patient),
        ("pixels", data_set(CT, "1.2.50", "1.2.60", 2.5, 9)),
        ("place", data_set(CT, "1.2.50", "1.2.60", 5.0, 7)),
        ("series", ct("1.2.51", "1.2.60")),
    ];
    for (name, other) in &others {
        assert_eq!(wire.store("1.2.60", other), 0xC111, "other {name}");
    }
    let class = data_set("1.2.840.10008.5.1.4.1.1.4", "1.2.50", "1.2.60", 2.5, 7);
    assert_eq!(wire.store("1.2.60", &class), 0xA900, "another class than the context's");
    service.stop();
    assert_eq!(files(&folder.path().join("instances"), "dcm").len(), 1);
    assert!(std::fs::read(&files(&folder.path().join("instances"), "dcm")[0]).unwrap().ends_with(&first));
    assert_eq!(files(&folder.path().join("quarantine"), "dcm").len(), others.len());
}

/// Abort in each state of an association.
#[test]
fn an_abort_in_any_state_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |_| {});
    let abort = pdu(7, &[0; 4]);
    let message = store("1.2.60", &ct("1.2.50", "1.2.60"));
    Wire::connect(service.address()).send(&abort);
    for sent in [0, 1, 6, 20, 80, message.len() - 12] {
        let mut wire = Wire::associated(service.address());
        wire.send(&message[..sent]);
        wire.send(&abort);
    }
    assert!(echoes(service.address()));
    service.stop();
    assert_eq!(files(folder.path(), "dcm").len() + files(folder.path(), "part").len(), 0);
}

/// MicroDicom, OpenJPEG and others: streams of every codec, changed; real ones from the shared data.
fn encoded() -> Vec<(String, Vec<u8>)> {
    let Some(data) = shared_data("codecs") else { return Vec::new() };
    let mut found = std::collections::BTreeMap::new();
    for path in all_files(&data.join("ct-body-siemens-j2k-totalsegmentator"))
        .into_iter()
        .chain(all_files(&data.join("tricky")))
    {
        let Ok(instance) = read_instance(&path, InstanceLimits::default()) else { continue };
        let syntax = instance.transfer_syntax_uid().to_string();
        let is_small = std::fs::metadata(&path).unwrap().len() < 700_000;
        if is_small && hu_of_frame(&instance, 0, "probe").is_ok() {
            found.entry(syntax).or_insert_with(|| std::fs::read(&path).unwrap());
        }
    }
    found
        .into_iter()
        .filter(|(syntax, _)| syntax.starts_with("1.2.840.10008.1.2.4.") || syntax.ends_with(".5"))
        .collect()
}

static ENCODED: std::sync::LazyLock<Vec<(String, Vec<u8>)>> = std::sync::LazyLock::new(encoded);

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_pixel_stream_is_decoded_or_refused_in_time(
        changes in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..20),
        cut in prop::option::of(0.3..1.0_f64),
        near_start in any::<bool>(),
    ) {
        for (syntax, file) in ENCODED.iter() {
            let mut bytes = file.clone();
            let pixels = bytes.windows(4).rposition(|w| w == PIXELS).unwrap() + 12;
            // Headers of the stream are where decoders decide how much to take.
            let span = if near_start { 400.min(bytes.len() - pixels) } else { bytes.len() - pixels };
            for (at, byte) in &changes {
                bytes[pixels + (at * span as f64) as usize] = *byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(pixels + ((bytes.len() - pixels) as f64 * cut) as usize);
            }
            let started = Instant::now();
            if let Ok(instance) = parse_instance(bytes, InstanceLimits::default()) {
                drop(hu_of_frame(&instance, 0, "changed"));
            }
            prop_assert!(started.elapsed() < Duration::from_secs(10), "{syntax}: {:?}", started.elapsed());
        }
    }
}

#[test]
fn there_are_streams_to_change() {
    let syntaxes: Vec<&str> = ENCODED.iter().map(|(syntax, _)| syntax.as_str()).collect();
    assert!(syntaxes.len() >= 3 || shared_data("codecs").is_none(), "{syntaxes:?}");
}
