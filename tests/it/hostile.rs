//! Changed bytes at every door: conversations, data sets, structure sets, settings. Whatever comes, there is an answer,
//! soon, and the next one is served.
//!
//! `PROPTEST_CASES=100000 cargo test --test it hostile` searches longer; what it finds is added to `tests/seeds/`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use oarlock::pipeline::rtstruct;
use oarlock::pipeline::series::CtSeries;
use oarlock::service::Service;
use oarlock::settings::{ServiceSettings, StructureTemplate, TrainRecipe};
use oarlock::vocabulary::dicom::instance::{InstanceLimits, read_instance};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

use crate::wire::{RTSTRUCT, Request, Wire, ct, echoes, element, files, part10, pdu, pdv, service, store};

/// Cases of each property: some seconds in all.
const CASES: u32 = 150;

fn bounded(cases: u32) -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/seeds/hostile.txt");
    // PROPTEST_CASES wins over what is written here.
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { cases };
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(seeds)),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    /// Four bytes that could be a length.
    Length(Index, u32),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// A part again, somewhere else.
    Copy(Index, Index, u8),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let length = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(u32::MAX - 1),
        Just(0xFFFE_E000),
        Just(0xE00D_FFFE),
        Just(0x7FFF_FFFF),
        any::<u32>()
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (any::<Index>(), length).prop_map(|(at, length)| Change::Length(at, length)),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, b)| Change::Insert(at, b)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, n)| Change::Remove(at, n)),
        2 => (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(a, b, n)| Change::Copy(a, b, n)),
        1 => any::<Index>().prop_map(Change::Cut),
    ]
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes.iter().filter(|_| !bytes.is_empty()).cloned().collect::<Vec<_>>() {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        match change {
            Change::Set(at, byte) => bytes[at.index(len)] = byte,
            Change::Length(at, length) => {
                let at = at.index(len);
                let end = (at + 4).min(len);
                bytes[at..end].copy_from_slice(&length.to_le_bytes()[..end - at]);
            }
            Change::Insert(at, more) => drop(bytes.splice(at.index(len)..at.index(len), more)),
            Change::Remove(at, n) => {
                let at = at.index(len);
                drop(bytes.drain(at..(at + usize::from(n)).min(len)));
            }
            Change::Copy(from, to, n) => {
                let from = from.index(len);
                let part = bytes[from..(from + usize::from(n)).min(len)].to_vec();
                drop(bytes.splice(to.index(len)..to.index(len), part));
            }
            Change::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// One service for all cases; its folder lasts as long as the process.
struct Target {
    address: SocketAddr,
    folder: tempfile::TempDir,
    _service: Service,
}

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |s| {
        s.listen.request_timeout_s = 1.0;
        s.listen.idle_timeout_s = 1.0;
        s.listen.max_connections_per_address = 1_000;
        s.listen.max_instance_mb = 4;
        s.listen.max_in_hand_mb = 64;
    });
    Target { address: service.address(), folder, _service: service }
});

/// What the listener may say: accepted, rejected, data, release answered, aborted.
const ANSWERS: [u8; 5] = [2, 3, 4, 6, 7];

proptest! {
    #![proptest_config(bounded(CASES))]

    #[test]
    fn a_changed_conversation_ends_and_the_next_one_is_served(changes in changes(), sends_all in any::<bool>()) {
        let conversation =
            [Request::default().bytes(), store("1.2.60", &ct("1.2.50", "1.2.60")), pdu(5, &[0; 4])].concat();
        let mut wire = Wire::connect(TARGET.address);
        wire.send(&changed(conversation, &changes));
        if sends_all {
            wire.end_of_sending();
        }
        let started = Instant::now();
        while let Some((kind, _)) = wire.next() {
            prop_assert!(ANSWERS.contains(&kind), "PDU type {kind}");
        }
        prop_assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        prop_assert!(echoes(TARGET.address));
    }

    #[test]
    fn a_changed_data_set_is_stored_whole_or_refused(changes in changes(), fragment in 1_usize..400) {
        let data_set = changed(nested(), &changes);
        let mut wire = Wire::associated(TARGET.address);
        let mut message = pdu(4, &pdv(1, 3, &crate::wire::store_command("1.2.70")));
        let parts = data_set.chunks(fragment).count().max(1);
        let mut rest = data_set.chunks(fragment);
        for k in 1..=parts {
            let part = rest.next().unwrap_or_default();
            message.extend(pdu(4, &pdv(1, if k == parts { 2 } else { 0 }, part)));
        }
        wire.send(&message);
        let status = wire.status();
        prop_assert!([0, 0xA700, 0xA900, 0xC000, 0xC111].contains(&status), "{status:04X}");
        for path in files(TARGET.folder.path(), "dcm") {
            if path.file_stem().is_some_and(|name| name.to_string_lossy().starts_with("1.2.70")) {
                // Whatever was let in is read to its end, or refused, by those who come later.
                if let Ok(instance) = read_instance(&path, InstanceLimits::default()) {
                    drop(instance.data_set());
                }
                drop(CtSeries::from_folder(path.parent().unwrap()));
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_changed_structure_set_is_read_or_refused(changes in changes()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rtss.dcm");
        std::fs::write(&path, changed(part10(RTSTRUCT, "1.2.80", &structure_set()), &changes)).unwrap();
        if let Ok(set) = rtstruct::read(&path) {
            for roi in &set.rois {
                prop_assert!(roi.rings.iter().all(|ring| ring.len() >= 3));
            }
        }
    }

    #[test]
    fn changed_settings_are_taken_or_refused(changes in changes(), which in 0_usize..3) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let name = ["service.yaml", "organs.yaml", "train.yaml"][which];
        let text = std::fs::read(root.join("config").join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, changed(text, &changes)).unwrap();
        let started = Instant::now();
        load(which, &path);
        prop_assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

fn load(which: usize, path: &Path) {
    match which {
        0 => drop(ServiceSettings::load(path)),
        1 => drop(StructureTemplate::read(path)),
        _ => drop(TrainRecipe::read(path)),
    }
}

#[test]
fn an_unchanged_structure_set_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rtss.dcm");
    std::fs::write(&path, part10(RTSTRUCT, "1.2.80", &structure_set())).unwrap();
    let set = rtstruct::read(&path).unwrap();
    assert_eq!((set.rois.len(), set.rois[0].name.as_str(), set.rois[0].rings.len()), (1, "Eye_L", 1));
}

/// Aliases that would unfold to ten to the ninth, and nesting without end.
#[test]
fn a_yaml_bomb_is_refused_soon() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for k in 1..10 {
        let before = k - 1;
        bomb.push_str(&format!("a{k}: &a{k} [{}]\n", vec![format!("*a{before}"); 10].join(", ")));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.yaml");
    let listed = bomb.clone() + "listen: {storage_classes: *a9}\ndestinations: *a9\norgans: *a9\ndata: *a9\n";
    for text in [bomb, listed, "[".repeat(200_000), "{a: ".repeat(200_000)] {
        std::fs::write(&path, &text).unwrap();
        for which in 0..3 {
            let started = Instant::now();
            load(which, &path);
            assert!(ServiceSettings::load(&path).is_err());
            let begin: String = text.chars().take(20).collect();
            assert!(started.elapsed() < Duration::from_secs(2), "{which}, {begin}: {:?}", started.elapsed());
        }
    }
}

fn sequence(group: u16, number: u16, items: &[Vec<u8>]) -> Vec<u8> {
    let items: Vec<u8> = items
        .iter()
        .flat_map(|body| {
            let length = u32::try_from(body.len()).unwrap();
            [&[0xFE, 0xFF, 0, 0xE0][..], &length.to_le_bytes(), body].concat()
        })
        .collect();
    let length = u32::try_from(items.len()).unwrap();
    let head = [&group.to_le_bytes()[..], &number.to_le_bytes(), b"SQ", &[0, 0]].concat();
    [head, length.to_le_bytes().to_vec(), items].concat()
}

/// A CT data set with sequences of both kinds of length, a private one, and a value of VR UN.
fn nested() -> Vec<u8> {
    let inner = sequence(0x40, 0xA730, &[element(8, 0x100, "SH", b"AB"), element(8, 5, "CS", b"ISO_IR 192")]);
    let undefined = [
        &[9, 0, 1, 0][..],
        b"SQ",
        &[0, 0, 255, 255, 255, 255, 0xFE, 0xFF, 0, 0xE0, 255, 255, 255, 255],
        &inner,
        &[0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0],
    ]
    .concat();
    let image = ct("1.2.50", "1.2.70");
    let at = image.windows(4).position(|w| w == [0x10, 0, 0x20, 0]).unwrap();
    [&image[..at], &undefined, &image[at..]].concat()
}

/// One ROI of one triangle, with what refers to it.
fn structure_set() -> Vec<u8> {
    let image = [element(8, 0x1150, "UI", b"1.2.3\0"), element(8, 0x1155, "UI", b"1.2.60")].concat();
    let contour = [
        sequence(0x3006, 0x16, &[image]),
        element(0x3006, 0x42, "CS", b"CLOSED_PLANAR "),
        element(0x3006, 0x46, "IS", b"3 "),
        element(0x3006, 0x50, "DS", b"0\\0\\2.5\\10\\0\\2.5\\0\\10\\2.5 "),
    ]
    .concat();
    let roi = [
        element(0x3006, 0x22, "IS", b"1 "),
        element(0x3006, 0x24, "UI", b"1.2.9\0"),
        element(0x3006, 0x26, "LO", b"Eye_L "),
    ]
    .concat();
    let rings = [
        element(0x3006, 0x2A, "IS", b"1\\2\\3 "),
        sequence(0x3006, 0x40, &[contour]),
        element(0x3006, 0x84, "IS", b"1 "),
    ]
    .concat();
    [
        element(8, 0x16, "UI", &[RTSTRUCT.as_bytes(), b"\0"].concat()),
        element(8, 0x18, "UI", b"1.2.80"),
        element(8, 0x60, "CS", b"RTSTRUCT"),
        element(0x20, 0x0D, "UI", b"1.2.777\0"),
        element(0x20, 0x0E, "UI", b"1.2.81"),
        element(0x3006, 2, "SH", b"TEST"),
        sequence(0x3006, 0x20, &[roi]),
        sequence(0x3006, 0x39, &[rings]),
    ]
    .concat()
}
