//! What hostile and broken peers do to `oarlock serve`, and that everybody else is served meanwhile: the table of
//! docs/security.md. `ingest.rs` has the faults of single PDUs and data sets; here is what takes a whole process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::Process;
use crate::wire::{
    CT, EXPLICIT, Request, Wire, ct, echoes, files, item, pdu, pdv, store, store_command, wait_for,
};

/// `oarlock serve` with the settings of a YAML text, its log in `log.txt` of the folder.
pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Starts with `port: 0` under `listen`, and with the data in `data` below the folder.
    pub(crate) fn start(folder: &Path, yaml: &str) -> Self {
        Self::start_and(folder, yaml, |_| {})
    }

    /// Does something to the process while it starts.
    pub(crate) fn start_and(folder: &Path, yaml: &str, meanwhile: impl FnOnce(u32)) -> Self {
        let config = folder.join("service.yaml");
        fs::write(&config, yaml).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_oarlock"))
            .arg("serve")
            .args(["--port", "0", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env("OARLOCK_LOG", "info,oarlock=trace")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("log.txt")).unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let process = Process(child);
        meanwhile(process.0.id());
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
        let said = || fs::read_to_string(folder.join("log.txt")).unwrap();
        Self { process, address: address.unwrap_or_else(|| panic!("{line:?} {}", said())) }
    }

    pub(crate) fn footprint(&self) -> Footprint {
        let process = format!("/proc/{}", self.process.0.id());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Footprint {
            descriptors: fs::read_dir(format!("{process}/fd")).unwrap().count(),
            resident_kb: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }

    /// Waits until no connection is left over, which the time limits ensure.
    fn settled(&self, descriptors: usize) -> Footprint {
        wait_for("descriptors to come back", || {
            let footprint = self.footprint();
            (footprint.descriptors <= descriptors).then_some(footprint)
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    pub(crate) descriptors: usize,
    pub(crate) resident_kb: u64,
}

/// Somebody who asks all the time whether the service answers, and remembers the longest wait.
struct Watch {
    stop: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    n_echoes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn over(address: SocketAddr) -> Self {
        let (stop, longest_ms, n_echoes) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let seen = (Arc::clone(&stop), Arc::clone(&longest_ms), Arc::clone(&n_echoes));
        let thread = thread::spawn(move || {
            while !seen.0.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert!(echoes(address), "a C-ECHO was not answered");
                seen.1.fetch_max(asked.elapsed().as_millis() as u64, Ordering::Relaxed);
                seen.2.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, longest_ms, n_echoes, thread: Some(thread) }
    }

    /// The longest wait since the last question.
    fn longest(&self) -> Duration {
        let before = self.n_echoes.load(Ordering::Relaxed);
        wait_for("a C-ECHO", || (self.n_echoes.load(Ordering::Relaxed) > before + 1).then_some(()));
        Duration::from_millis(self.longest_ms.swap(0, Ordering::Relaxed))
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("every C-ECHO was answered");
    }
}

/// Short limits, so that the test sees each of them pass.
const SHORT: &str = "listen:
  request_timeout_s: 1.5
  idle_timeout_s: 2
  message_timeout_s: 4
  association_timeout_s: 7
  min_free_mb: 1
  max_instance_mb: 8
  max_in_hand_mb: 16
";

fn kind_of(answer: Option<(u8, Vec<u8>)>) -> Ended {
    match answer {
        Some((2, _)) => Ended::Accepted,
        Some((3, body)) => Ended::Rejected([body[1], body[2], body[3]]),
        Some((7, _)) => Ended::Aborted,
        None => Ended::Closed,
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Accepted,
    Rejected([u8; 3]),
    Aborted,
    Closed,
}

/// Floods come from here. The C-ECHO that is asked for meanwhile comes from another address: the places of one address are
/// limited, and on a busy machine those of a flood that has gone are not all free at once.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// One row of the table: a name, and what is done; it panics where the outcome is another one.
type Row = (&'static str, fn(SocketAddr));

const ROWS: [Row; 19] = [
    ("garbage", |address| {
        for seed in 0..20_u8 {
            let mut wire = Wire::connect(address);
            // A multiplicative generator: every first byte, no valid PDU type among them but by its length.
            let bytes: Vec<u8> = (0..997_u32).map(|k| (k * 167 + u32::from(seed) * 13 + 8) as u8).collect();
            wire.send(&bytes);
            assert_ne!(kind_of(wire.next()), Ended::Accepted);
        }
    }),
    ("connect and close x 500", |address| {
        for _ in 0..500 {
            drop(Wire::connect_from(ELSEWHERE, address));
        }
    }),
    ("connect and reset x 100", |address| {
        for _ in 0..100 {
            Wire::connect_from(ELSEWHERE, address).reset();
        }
    }),
    ("half an A-ASSOCIATE-RQ held open", |address| {
        let mut wire = Wire::connect(address);
        wire.send(&Request::default().bytes()[..100]);
        assert_eq!(wire.next(), None, "closed when the time for the request is over");
    }),
    ("an A-ASSOCIATE-RQ byte by byte", |address| {
        let mut wire = Wire::connect(address);
        for byte in Request::default().bytes().chunks(1) {
            wire.send(byte);
            thread::sleep(Duration::from_millis(15));
        }
        assert_eq!(wire.next(), None, "dripping does not buy time");
    }),
    ("PDU lengths up to 2^32-1", |address| {
        for length in [524_289, 1 << 24, i32::MAX as u32, 1 << 31, u32::MAX - 6, u32::MAX] {
            for kind in [1, 4, 5] {
                let mut wire = Wire::connect(address);
                wire.send(&[&[kind, 0][..], &length.to_be_bytes(), &[0; 64]].concat());
                assert_eq!(kind_of(wire.next()), Ended::Aborted, "type {kind}, {length} bytes, before");
                let mut wire = Wire::associated(address);
                wire.send(&[&[kind, 0][..], &length.to_be_bytes(), &[0; 64]].concat());
                assert_eq!(kind_of(wire.next()), Ended::Aborted, "type {kind}, {length} bytes, inside");
            }
        }
    }),
    ("PDV lengths up to 2^32-1, and below their header", |address| {
        for length in [0, 1, 15, 1 << 17, 1 << 31, u32::MAX - 4, u32::MAX] {
            let mut wire = Wire::associated(address);
            wire.send(&pdu(4, &[&length.to_be_bytes()[..], &[1, 3], &[0; 8]].concat()));
            assert_eq!(kind_of(wire.next()), Ended::Aborted, "{length} bytes");
        }
    }),
    ("128 contexts", |address| {
        let contexts = (0..128).map(|k| (2 * k + 1, CT, EXPLICIT)).collect();
        let mut wire = Wire::connect(address);
        wire.send(&Request { contexts, ..Request::default() }.bytes());
        assert_eq!(kind_of(wire.next()), Ended::Accepted);
    }),
    ("200 contexts, ids repeating", |address| {
        let contexts = (0..200_u32).map(|k| ((2 * k + 1) as u8, CT, EXPLICIT)).collect();
        let mut wire = Wire::connect(address);
        wire.send(&Request { contexts, ..Request::default() }.bytes());
        assert_eq!(kind_of(wire.next()), Ended::Aborted);
    }),
    ("205 kB request", |address| {
        let mut wire = Wire::connect(address);
        wire.send(&large_request());
        assert_eq!(kind_of(wire.next()), Ended::Accepted);
    }),
    ("A-ABORT in the middle of a C-STORE", |address| {
        let mut wire = Wire::associated(address);
        let message = store("1.2.60", &ct("1.2.50", "1.2.60"));
        wire.send(&message[..message.len() - 40]);
        wire.send(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        assert!(matches!(kind_of(wire.next()), Ended::Aborted | Ended::Closed));
        let mut wire = Wire::associated(address);
        wire.send(&pdu(4, &pdv(1, 3, &store_command("1.2.60"))));
        wire.send(&pdu(7, &[0; 4]));
        assert_eq!(wire.next(), None);
    }),
    ("reset in the middle of a C-STORE", |address| {
        for cut in [20, 200] {
            let mut wire = Wire::associated(address);
            let message = store("1.2.60", &ct("1.2.50", "1.2.60"));
            wire.send(&message[..message.len() - cut]);
            wire.reset();
        }
    }),
    ("64 idle connections", |address| {
        let mut idle: Vec<_> = (0..64).map(|_| Wire::connect(address)).collect();
        assert!(idle.iter_mut().all(|wire| wire.next().is_none()), "closed when their time is over");
    }),
    ("64 idle associations", |address| {
        let mut accepted = Vec::new();
        for k in 0..64 {
            let mut wire = Wire::connect(address);
            wire.send(&Request { calling: title(k), ..Request::default() }.bytes());
            match kind_of(wire.next()) {
                Ended::Accepted => accepted.push(wire),
                other => assert_eq!(other, Ended::Rejected([2, 3, 2]), "number {k}"),
            }
        }
        // The C-ECHO that is asked for all the time may have one of the 32.
        assert!((30..=32).contains(&accepted.len()), "{} were accepted", accepted.len());
        assert!(accepted.iter_mut().all(|wire| kind_of(wire.next()) == Ended::Aborted), "aborted when idle");
    }),
    ("a 17th association of one caller", |address| {
        let held: Vec<_> = (0..16).map(|_| Wire::associated(address)).collect();
        let mut wire = Wire::connect(address);
        wire.send(&Request::default().bytes());
        assert_eq!(kind_of(wire.next()), Ended::Rejected([2, 3, 2]));
        let mut other = Wire::connect(address);
        other.send(&Request { calling: "ELSE", ..Request::default() }.bytes());
        assert_eq!(kind_of(other.next()), Ended::Accepted, "another caller has places of its own");
        drop(held);
    }),
    ("300 connections from one address", |address| {
        let held: Vec<_> = (0..300).map(|_| Wire::connect_from(ELSEWHERE, address)).collect();
        assert!(echoes(address), "another address is served");
        drop(held);
    }),
    ("8 slow writers and 8 stalled stores", |address| {
        let message = store("1.2.61", &ct("1.2.50", "1.2.61"));
        let mut wires: Vec<_> = (0..16).map(|_| Wire::associated(address)).collect();
        for wire in &mut wires {
            wire.send(&message[..60]);
        }
        let started = Instant::now();
        for part in message[60..].chunks(1).take(6) {
            for wire in &mut wires[..8] {
                wire.send(part);
            }
            thread::sleep(Duration::from_millis(500));
        }
        assert!(wires.iter_mut().all(|wire| kind_of(wire.next()) == Ended::Aborted), "aborted");
        assert!(started.elapsed() < Duration::from_secs(8), "in {:?}", started.elapsed());
    }),
    ("a message and an association without end", |address| {
        let mut message = Wire::associated(address);
        let mut empty = Wire::associated(address);
        message.send(&pdu(4, &pdv(1, 3, &store_command("1.2.62"))));
        let started = Instant::now();
        let (mut message_ended, mut empty_ended) = (None, None);
        while empty_ended.is_none() && started.elapsed() < Duration::from_secs(15) {
            // Each PDU comes in time; only together they take too long.
            for (wire, ended, part) in
                [(&mut message, &mut message_ended, &b"x"[..]), (&mut empty, &mut empty_ended, &b""[..])]
            {
                if ended.is_none() {
                    wire.send(&if part.is_empty() { pdu(4, b"") } else { pdu(4, &pdv(1, 0, part)) });
                    *ended = wire.has_answer().then(|| started.elapsed());
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        let (message_ended, empty_ended) = (message_ended.unwrap(), empty_ended.unwrap());
        assert!((3.5..6.5).contains(&message_ended.as_secs_f64()), "message: {message_ended:?}");
        assert!((6.5..9.5).contains(&empty_ended.as_secs_f64()), "association: {empty_ended:?}");
    }),
    ("C-ECHO by ten thousands whose answers are never read", |address| {
        let mut wire = Wire::connect(address);
        let contexts = vec![(1, "1.2.840.10008.1.1", EXPLICIT)];
        wire.send(&Request { contexts, ..Request::default() }.bytes());
        assert_eq!(kind_of(wire.next()), Ended::Accepted);
        let echoes = pdu(4, &pdv(1, 3, &echo_command())).repeat(40_000);
        // The buffers of both sides take some ten thousand answers; then nothing goes any more, and it is aborted.
        let started = Instant::now();
        assert!((0..50).any(|_| !wire.send(&echoes)), "two million C-ECHO were taken");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    }),
];

/// 128 presentation contexts with 61 transfer syntaxes each.
fn large_request() -> Vec<u8> {
    let mut bytes = Request { contexts: Vec::new(), ..Request::default() }.bytes()[6..].to_vec();
    let user = bytes.len() - bytes.windows(2).rev().position(|w| w == [0x50, 0]).unwrap() - 2;
    let user = bytes.split_off(user);
    for id in (1..=255).step_by(2) {
        let syntaxes = item(0x40, EXPLICIT.as_bytes()).repeat(61);
        bytes.extend(item(0x20, &[vec![id, 0, 0, 0], item(0x30, CT.as_bytes()), syntaxes].concat()));
    }
    let request = pdu(1, &[bytes, user].concat());
    assert!(request.len() > 180_000, "{} bytes", request.len());
    request
}

fn echo_command() -> Vec<u8> {
    let element = |number: u16, value: &[u8]| {
        let length = u32::try_from(value.len()).unwrap();
        [&[0, 0][..], &number.to_le_bytes(), &length.to_le_bytes(), value].concat()
    };
    [
        element(2, b"1.2.840.10008.1.1\0"),
        element(0x100, &[0x30, 0]),
        element(0x110, &[1, 0]),
        element(0x800, &[1, 1]),
    ]
    .concat()
}

fn title(k: usize) -> &'static str {
    Box::leak(format!("PEER{k}").into_boxed_str())
}

/// Slow: it waits for each of the time limits, some 40 s in all.
#[test]
fn hostile_peers_end_as_stated_and_everybody_else_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path(), SHORT);
    let watch = Watch::over(served.address);
    // The first round makes the buffers and threads that stay.
    let mut before = served.footprint();
    let n_rounds = std::env::var("OARLOCK_FAULT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for round in 0..n_rounds {
        for (name, row) in ROWS {
            row(served.address);
            let longest = watch.longest();
            assert!(longest < Duration::from_secs(1), "{name}: a C-ECHO took {longest:?}");
            if round > 0 {
                eprintln!("{name}: longest C-ECHO meanwhile {} ms", longest.as_millis());
            }
        }
        let descriptors = before.descriptors + 2;
        let after = served.settled(descriptors);
        if round > 0 {
            let growth = after.resident_kb.saturating_sub(before.resident_kb);
            assert!(growth < 8_192, "memory grew by {growth} kB: {before:?} -> {after:?}");
            eprintln!("{before:?} -> {after:?}");
        }
        before = Footprint { descriptors: before.descriptors, ..after };
    }
    watch.end();
    drop(served);
    assert_eq!(files(&folder.path().join("data"), "dcm").len(), 0, "something broken was stored");
    assert_eq!(files(&folder.path().join("data"), "part").len(), 0);
    let log = fs::read_to_string(folder.path().join("log.txt")).unwrap();
    assert!(!log.contains("panicked") && !log.contains("fault of ours"), "{log}");
}

/// Bytes under way between this address and its callers, by the kernel's table of connections (IPv4).
fn unread(address: SocketAddr) -> u64 {
    const ESTABLISHED: &str = "01";
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|fields| {
        fields.len() > 4 && fields[3] == ESTABLISHED && fields[1..3].iter().any(|end| end.ends_with(&port))
    });
    let queues =
        ours.map(|fields| fields[4].split(':').map(|n| u64::from_str_radix(n, 16).unwrap()).sum::<u64>());
    queues.sum()
}

/// Data sets in hand have a limit together, whoever sends them; what is beyond is refused for now, not held.
#[test]
fn data_sets_in_hand_stay_within_their_memory() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path(), SHORT);
    let before = served.footprint();
    let seven_mb = vec![7_u8; 7_000_000];
    let mut wires: Vec<_> = (0..6).map(|_| Wire::associated(served.address)).collect();
    for wire in &mut wires {
        wire.send(&pdu(4, &pdv(1, 3, &store_command("1.2.60"))));
        for part in seven_mb.chunks(100_000) {
            wire.send(&pdu(4, &pdv(1, 0, part)));
        }
    }
    // One that is answered while another is still unread would make room for it.
    wait_for("all that was sent to be read", || (unread(served.address) == 0).then_some(()));
    let during = served.footprint();
    let statuses: Vec<u16> = wires
        .iter_mut()
        .map(|wire| {
            wire.send(&pdu(4, &pdv(1, 2, &[])));
            wire.status()
        })
        .collect();
    // Two of 7 MB fit into 16 MB; they are no data sets, so they are refused for what they are.
    assert_eq!(statuses.iter().filter(|s| **s == 0xC000).count(), 2, "{statuses:04X?}");
    assert_eq!(statuses.iter().filter(|s| **s == 0xA700).count(), 4, "{statuses:04X?}");
    let growth = during.resident_kb.saturating_sub(before.resident_kb);
    assert!(growth < 3 * 16_000, "six data sets of 7 MB took {growth} kB");
}
