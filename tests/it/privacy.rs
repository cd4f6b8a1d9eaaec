//! A whole round at the lowest log level, and nothing of the patient in what is written for people who watch.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use oarlock::settings::ServiceSettings;

use crate::support::{Process, free_port};
use crate::wire::{CT, Request, Wire, all_files, ct, element, files, pdu, pdv, service, store, wait_for};

/// What identifies the patient; nothing else here looks like these.
const MARKS: [(&str, &str); 5] = [
    ("name", "MARKEDNAME"),
    ("id", "MARKEDID4711"),
    ("birth date", "19010203"),
    ("accession number", "MARKEDACC99"),
    ("other name", "MARKEDPHYSICIAN"),
];

fn oarlock(arguments: &[&str], log: &Path) -> std::process::Output {
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(arguments)
        .env("OARLOCK_LOG", "trace")
        .output()
        .unwrap();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    file.write_all(&output.stdout).unwrap();
    file.write_all(&output.stderr).unwrap();
    output
}

/// A phantom patient's CT whose every instance bears the marks, and so does the structure set beside it.
fn marked_ct(folder: &Path, log: &Path) -> PathBuf {
    let phantom = folder.join("phantom");
    let small = ["--size", "120", "110", "--slices", "60", "--spacing", "5", "4", "4.2"];
    let made = oarlock(&[&["phantom", "-o", &phantom.display().to_string()], &small[..]].concat(), log);
    assert!(made.status.success(), "{made:?}");
    let ct = phantom.join("ct");
    for path in files(&phantom, "dcm") {
        let mut object = dicom_object::open_file(&path).unwrap();
        for (tag, vr, value) in [
            (tags::PATIENT_NAME, VR::PN, format!("{}^Jane", MARKS[0].1)),
            (tags::PATIENT_ID, VR::LO, MARKS[1].1.to_owned()),
            (tags::PATIENT_BIRTH_DATE, VR::DA, MARKS[2].1.to_owned()),
            (tags::ACCESSION_NUMBER, VR::SH, MARKS[3].1.to_owned()),
            (tags::REFERRING_PHYSICIAN_NAME, VR::PN, format!("{}^Joe", MARKS[4].1)),
        ] {
            object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
        }
        object.write_to_file(&path).unwrap();
    }
    ct
}

/// ONNX Runtime of 2026 keeps a number of the machine and events for its maker in the user's cache folder unless the
/// environment forbids it from the start; the program sees to that itself.
#[cfg(unix)]
#[test]
fn nothing_is_gathered_for_the_maker_of_a_library() {
    let folder = tempfile::tempdir().unwrap();
    let (phantom, cache) = (folder.path().join("phantom"), folder.path().join("cache"));
    fs::create_dir(&cache).unwrap();
    let program = || Command::new(env!("CARGO_BIN_EXE_oarlock"));
    let small = ["phantom", "--size", "120", "110", "--slices", "60", "--spacing", "5", "4", "4.2", "-o"];
    assert!(program().args(small).arg(&phantom).output().unwrap().status.success());
    let made = program()
        .args(["segment", "-o"])
        .args([folder.path().join("rtss.dcm"), phantom.join("ct")])
        .env_remove("ORT_DISABLE_TELEMETRY")
        .env("XDG_CACHE_HOME", &cache)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let left: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A small CT data set of the same patient.
fn marked_instance(uid: &str, pixel: u8) -> Vec<u8> {
    let plain = ct("1.2.50", uid);
    let id = element(0x10, 0x20, "LO", b"TEST");
    let at = plain.windows(id.len()).position(|w| w == id).unwrap();
    let marks = [
        element(0x10, 0x10, "PN", b"MARKEDNAME^Jane "),
        element(0x10, 0x20, "LO", b"MARKEDID4711"),
        element(0x10, 0x30, "DA", b"19010203"),
    ]
    .concat();
    let mut bytes = [&plain[..at], &marks, &plain[at + id.len()..]].concat();
    let last = bytes.len() - 1;
    bytes[last] = pixel;
    bytes
}

fn serve(folder: &Path, destinations: [SocketAddr; 2], log: &Path) -> (Process, SocketAddr, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["serve", "--port", "0", "--http", "127.0.0.1:0", "--quiet-time", "1", "--data-dir"])
        .arg(folder)
        .args(["--to", &format!("TPS@{}", destinations[0]), "--to", &format!("GONE@{}", destinations[1])])
        .env("OARLOCK_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let dicom = line.trim().rsplit(' ').next().and_then(|a| a.parse().ok());
    line.clear();
    said.read_line(&mut line).unwrap();
    let http = line.strip_prefix("http://").and_then(|l| l.split('/').next()?.parse().ok());
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    (Process(child), dicom.unwrap(), http.unwrap_or_else(|| panic!("{line:?}")))
}

fn page(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// Slow: a CT is contoured.
#[test]
fn nothing_of_the_patient_stands_in_logs_metrics_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (log, tools) = (folder.path().join("serve.log"), folder.path().join("tools.log"));
    let series = marked_ct(folder.path(), &tools);
    let destination = service(&folder.path().join("tps"), None, |_| {});
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let data = folder.path().join("data");
    let (mut running, dicom, http) = serve(&data, [destination.address(), gone], &log);

    // Received, contoured, delivered to one, not delivered to the other.
    let peer = format!("OARLOCK@{dicom}");
    let sent = oarlock(&["send", &series.display().to_string(), "--to", &peer], &tools);
    assert!(sent.status.success(), "{sent:?}");
    // Refused in every way: cut, another UID, another content, garbage, a rejected association, an abort.
    let whole = marked_instance("1.2.60", 7);
    let mut wire = Wire::associated(dicom);
    assert_eq!(wire.store("1.2.60", &whole), 0);
    assert_eq!(wire.store("1.2.60", &marked_instance("1.2.60", 8)), 0xC111);
    assert_eq!(wire.store("1.2.61", &whole), 0xA900);
    assert_eq!(wire.store("1.2.60", &whole[..whole.len() / 2]), 0xC000);
    assert_eq!(wire.store("1.2.60", &[&whole[..], b"MARKEDNAME"].concat()), 0xC000);
    wire.send(&store("1.2.62", &whole)[..300]);
    wire.send(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    for request in [
        Request { application_context: "MARKEDNAME", ..Request::default() },
        Request { contexts: vec![(2, CT, "MARKEDNAME")], ..Request::default() },
    ] {
        let mut wire = Wire::connect(dicom);
        wire.send(&request.bytes());
        assert!(wire.next().is_some_and(|(kind, _)| kind != 2));
    }
    let mut wire = Wire::associated(dicom);
    wire.send(&pdu(4, &pdv(1, 3, &whole)));
    assert_eq!(wire.next().unwrap().0, 7);

    let delivered = folder.path().join("tps/instances");
    wait_for_long("the structure set", || (!files(&delivered, "dcm").is_empty()).then_some(()));
    // The small series has no anatomy, so it is refused, with a record.
    let shown = || oarlock(&["jobs", "show", "1.2.50", "--data-dir", &data.display().to_string()], &tools);
    wait_for_long("the refusal", || {
        String::from_utf8_lossy(&shown().stdout).contains("refused").then_some(())
    });
    wait_for("a failed attempt", || {
        fs::read_to_string(&log).unwrap().contains("cannot be reached").then_some(())
    });
    let metrics = page(http, "/metrics") + &page(http, "/health") + &page(http, "/MARKED?q=<script>");
    assert!(metrics.contains("oarlock_series_contoured_total 1"), "{metrics}");

    // The tools' own errors: a file that is cut, a folder with two patients.
    let cut = folder.path().join("cut");
    fs::create_dir_all(&cut).unwrap();
    for (k, path) in files(&series, "dcm").iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let keep = if k == 3 { bytes.len() / 2 } else { bytes.len() };
        fs::write(cut.join(path.file_name().unwrap()), &bytes[..keep]).unwrap();
    }
    let out = folder.path().join("rtss.dcm").display().to_string();
    let segmented = oarlock(&["segment", &cut.display().to_string(), "-o", &out], &tools);
    assert!(!segmented.status.success());
    fs::remove_file(cut.join(files(&series, "dcm")[3].file_name().unwrap())).unwrap();
    let segmented = oarlock(&["segment", &cut.display().to_string(), "-o", &out], &tools);
    assert!(!segmented.status.success(), "a slice is missing");

    running.0.kill().unwrap();
    destination.stop();
    let arrived = fs::read(&files(&folder.path().join("tps"), "dcm")[0]).unwrap();
    for (what, mark) in MARKS {
        let holds = |bytes: &[u8]| bytes.windows(mark.len()).any(|w| w == mark.as_bytes());
        assert!(holds(&arrived), "the structure set bears the {what}, so the test looks for the right thing");
        for path in [&log, &tools] {
            let text = fs::read_to_string(path).unwrap();
            let line = text.lines().find(|line| holds(line.as_bytes()));
            assert_eq!(line, None, "the {what} stands in {}", path.display());
        }
        assert!(!holds(metrics.as_bytes()), "the {what} stands in the metrics");
        for path in all_files(&data) {
            let is_watched = path
                .extension()
                .is_some_and(|e| ["json", "txt", "log", "sqlite3", "sqlite3-wal"].iter().any(|x| e == *x));
            assert!(
                !is_watched || !holds(&fs::read(&path).unwrap()),
                "the {what} stands in {}",
                path.display()
            );
            assert!(
                !path.display().to_string().contains(mark),
                "the {what} stands in a name: {}",
                path.display()
            );
        }
    }
    let lines = fs::read_to_string(&log).unwrap().lines().count();
    assert!(lines > 20, "{lines} lines: was the log on?");
    assert!(
        ServiceSettings::default().audit.file.is_none(),
        "the audit trail, which may name patients, is off"
    );
}

/// What is kept to train on: no name, no identifier, no date, no UID of DICOM, in no file, packed or not.
#[test]
fn a_training_case_names_no_patient() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("tools.log");
    let series = marked_ct(folder.path(), &log);
    let phantom = series.parent().unwrap();
    let dataset = folder.path().join("dataset");
    let added = oarlock(
        &["dataset", "add", &phantom.display().to_string(), "--to", &dataset.display().to_string()],
        &log,
    );
    assert!(added.status.success(), "{added:?}");
    let first = dicom_object::open_file(&files(&series, "dcm")[0]).unwrap();
    let uid = |name| first.element_by_name(name).unwrap().to_str().unwrap().trim_end_matches('\0').to_owned();
    let mut marks: Vec<String> = MARKS.iter().map(|(_, mark)| (*mark).to_owned()).collect();
    marks.extend(["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"].map(uid));
    let kept = all_files(&dataset);
    assert!(kept.len() >= 4, "{kept:?}");
    for path in &kept {
        let mut bytes = fs::read(path).unwrap();
        if path.extension().is_some_and(|e| e == "gz") {
            let packed = std::mem::take(&mut bytes);
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
        }
        for mark in &marks {
            let stands = bytes.windows(mark.len()).any(|w| w == mark.as_bytes());
            assert!(!stands, "{mark} stands in {}", path.display());
            assert!(
                !path.display().to_string().contains(mark.as_str()),
                "{mark} stands in a name: {}",
                path.display()
            );
        }
    }
    let log = fs::read_to_string(&log).unwrap();
    assert!(MARKS.iter().all(|(_, mark)| !log.contains(mark)), "{log}");
}

/// As `wait_for`, for what contours.
fn wait_for_long<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    crate::wire::wait_within(std::time::Duration::from_secs(180), what, done)
}
