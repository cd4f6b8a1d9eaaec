//! Hours of work in short: many series from eight senders, among cut connections, garbage, half requests, and a
//! destination that hangs up now and then. Nothing is lost, nothing goes twice, memory stays flat.
//!
//! `cargo test` sends 40 series. The long form prints the curve:
//! `OARLOCK_SOAK=500 cargo test --test it soak -- --nocapture`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use oarlock::service::store::DeliveryState;

use crate::process::Running;
use crate::support::stored;
use crate::wire::{CT, Request, Wire, element, files, pdu, pdv, service, store, store_command, wait_within};

const SENDERS: usize = 8;
const LONG: Duration = Duration::from_secs(300);

/// A slice of 128 x 128, of which only identifiers, place and pixels are there.
pub(crate) fn slice(series: &str, n: usize) -> (String, Vec<u8>) {
    let uid = format!("{series}.{n}");
    let mut bytes = crate::wire::data_set(CT, series, &uid, 2.5 * n as f64, 7);
    let short_pixels = element(0x7FE0, 0x10, "OW", &[7; 154]).len();
    bytes.truncate(bytes.len() - short_pixels);
    bytes.extend(element(0x7FE0, 0x10, "OW", &vec![u8::try_from(n % 251).unwrap(); 32_768]));
    (uid, bytes)
}

/// Sends series until none is left; what was not acknowledged is sent again. Now and then it hangs up in the middle.
fn send_series(
    sender: usize,
    address: SocketAddr,
    left: &AtomicUsize,
    cuts: &AtomicUsize,
) -> Vec<(String, usize)> {
    let mut random = StdRng::seed_from_u64(sender as u64);
    let mut sent = Vec::new();
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        let series = format!("1.2.70.{sender}.{}", sent.len());
        let n_slices = random.random_range(8..=16);
        let mut slices: Vec<_> = (0..n_slices).map(|n| slice(&series, n)).collect();
        while !slices.is_empty() {
            let Some(mut wire) = Wire::try_associated(address) else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            while let Some((uid, bytes)) = slices.last() {
                let whole = store(uid, bytes);
                if random.random_bool(0.02) {
                    wire.send(&whole[..random.random_range(1..whole.len())]);
                    cuts.fetch_add(1, Ordering::SeqCst);
                    wire.reset();
                    break;
                }
                wire.send(&whole);
                let Some(status) = wire.try_status() else { break };
                assert_eq!(status, 0, "{uid}");
                slices.pop();
            }
        }
        sent.push((series, n_slices));
    }
    sent
}

/// Bothers the service until told to stop; gives how often.
fn bother(address: SocketAddr, stop: &AtomicBool) -> usize {
    let mut random = StdRng::seed_from_u64(77);
    let mut n = 0;
    let mut held = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mut wire = Wire::connect(address);
        match random.random_range(0..6) {
            0 => drop(wire.send(b"GET / HTTP/1.1\r\nHost: oarlock\r\n\r\n")),
            1 => drop(wire.send(&(0..400).map(|_| random.random()).collect::<Vec<u8>>())),
            2 => {
                let request = Request::default().bytes();
                wire.send(&request[..request.len() / 2]);
                held.push(wire);
            }
            3 => wire.reset(),
            4 => {
                wire.send(&Request { calling: "BOTHER", ..Request::default() }.bytes());
                wire.next();
                wire.send(&pdu(4, &pdv(1, 3, &store_command("1.2.79"))));
                wire.send(&pdu(4, &pdv(1, 2, &[0xFF; 300])));
                held.push(wire);
            }
            _ => drop(wire.send(&[4, 0, 0xFF, 0xFF, 0xFF, 0xFF])),
        }
        if held.len() > 16 {
            held.drain(..8);
        }
        n += 1;
        thread::sleep(Duration::from_millis(40));
    }
    n
}

/// Stands before a destination and hangs up on a tenth of its callers at once, on another one in the middle.
fn hang_up_now_and_then(destination: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, n_hung_up) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&n_hung_up);
    thread::spawn(move || {
        let mut random = StdRng::seed_from_u64(3);
        for caller in listener.incoming().flatten() {
            let passes = match random.random_range(0..10) {
                0 => 0,
                1 => random.random_range(1..2_500),
                _ => usize::MAX,
            };
            if passes < usize::MAX {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            let Ok(called) = TcpStream::connect(destination) else { continue };
            let back = (called.try_clone().unwrap(), caller.try_clone().unwrap());
            thread::spawn(move || pass_on(caller, called, passes));
            thread::spawn(move || pass_on(back.0, back.1, usize::MAX));
        }
    });
    (address, n_hung_up)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut n_bytes: usize) {
    let mut buffer = [0; 4_096];
    while n_bytes > 0 {
        let most = buffer.len().min(n_bytes);
        let Ok(n @ 1..) = from.read(&mut buffer[..most]) else { break };
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        n_bytes -= n;
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

/// When, and how much memory the process held.
struct Sample {
    at: Duration,
    resident_kb: u64,
}

fn median_kb(samples: &[Sample]) -> u64 {
    let mut sorted: Vec<u64> = samples.iter().map(|sample| sample.resident_kb).collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[test]
#[expect(clippy::print_stderr, reason = "the curve")]
fn many_series_among_faults_are_each_delivered_once_and_memory_stays_flat() {
    let asked = std::env::var("OARLOCK_SOAK").ok().map(|n| n.parse().unwrap());
    let n_series: usize = asked.unwrap_or(40);
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let (front, n_hung_up) = hang_up_now_and_then(destination.address());
    let data = ours.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let running = Running::start(&data, json!({"destinations": [{"peer": format!("TPS@{front}")}]}), &[]);
    let address = running.address;
    let (left, cuts, stop) = (
        Arc::new(AtomicUsize::new(n_series)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let began = Instant::now();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (left, cuts) = (Arc::clone(&left), Arc::clone(&cuts));
            thread::spawn(move || send_series(sender, address, &left, &cuts))
        })
        .collect();
    let bothering = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || bother(address, &stop))
    };
    let mut samples = Vec::new();
    let mut n_there = 0;
    wait_within(LONG, "all structure sets", || {
        samples.push(Sample { at: began.elapsed(), resident_kb: running.resident_kb() });
        thread::sleep(Duration::from_millis(90));
        if samples.len() % 10 == 0 {
            n_there = files(&theirs.path().join("instances"), "dcm").len();
        }
        (n_there >= n_series && senders.iter().all(thread::JoinHandle::is_finished)).then_some(())
    });
    stop.store(true, Ordering::SeqCst);
    let n_bothered = bothering.join().unwrap();
    let sent: Vec<(String, usize)> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
    assert_eq!(sent.len(), n_series);
    wait_within(LONG, "the records", || {
        let deliveries = stored(&data, async |store| store.deliveries(None).await.unwrap());
        deliveries.iter().all(|d| d.state == DeliveryState::Delivered).then_some(())
    });
    for (series, n_slices) in &sent {
        for n in 0..*n_slices {
            let (uid, bytes) = slice(series, n);
            let path = data.join("instances").join(series).join(format!("{uid}.dcm"));
            assert!(std::fs::read(&path).unwrap().ends_with(&bytes), "{uid} is not what was sent");
        }
    }
    // A structure set's series is named after the version that it is of.
    let there = files(&theirs.path().join("instances"), "dcm");
    let versions: BTreeSet<String> = there
        .iter()
        .map(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(versions.len(), there.len(), "a structure set was delivered twice");
    let delivered = stored(&data, async |store| store.deliveries(None).await.unwrap()).len();
    assert_eq!(delivered, there.len(), "not all that is noted as delivered is there");
    let whole: BTreeSet<&str> =
        versions.iter().filter_map(|version| version.rsplit_once('.')).map(|v| v.0).collect();
    assert!(sent.iter().all(|(series, _)| whole.contains(series.as_str())), "a structure set is missing");

    let fifth = samples.len() / 5;
    eprintln!("part of the time | s | resident, median kB");
    for part in 0..5 {
        let of = &samples[part * fifth..(part + 1) * fifth];
        eprintln!("{} | {:.0} | {}", part + 1, of[0].at.as_secs_f64(), median_kb(of));
    }
    let (second, last) = (median_kb(&samples[fifth..2 * fifth]), median_kb(&samples[4 * fifth..]));
    let n_instances: usize = sent.iter().map(|(_, n)| n).sum();
    eprintln!(
        "{n_series} series, {n_instances} instances, {} versions; {} connections cut by senders, {n_bothered} bothered, {} \
         calls hung up on by the destination; nothing lost, nothing twice; memory {:+.1} % from the second to the last fifth",
        there.len(),
        cuts.load(Ordering::SeqCst),
        n_hung_up.load(Ordering::SeqCst),
        (last as f64 / second as f64 - 1.0) * 100.0,
    );
    // The first seconds are those of growing buffers and threads, so the short form allows more.
    let most = if n_series >= 300 { 1.05 } else { 1.25 };
    assert!((last as f64) < most * second as f64, "memory grew from {second} kB to {last} kB");
    let log = running.log();
    assert!(!log.contains("please report this") && !log.contains("panicked"), "{log}");
    destination.stop();
}
