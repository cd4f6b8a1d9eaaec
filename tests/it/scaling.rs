//! What a series costs, and what three nodes do against one: the figures of docs/scaling.md.
//!
//! Prints them where `OARLOCK_SCALING` is set, and does nothing otherwise:
//! `OARLOCK_SCALING=1 CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test --test it scaling -- --nocapture`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oarlock::service::store::{DeliveryState, JobState};

use crate::cluster::{Cluster, Plan, named};
use crate::support::{Process, free_port, peer};
use crate::wire::{CT, Wire, element, store, wait_within};

const LONG: Duration = Duration::from_secs(600);
const SENDERS: usize = 6;
const SLICES: usize = 200;

/// CPU seconds of a process and its children that live.
fn cpu_s(process: u32) -> f64 {
    let stat = |id: &str| -> Option<(u32, f64)> {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |n: usize| fields[n].parse::<f64>().unwrap();
        // utime, stime, and those of children that have ended.
        Some((fields[1].parse().ok()?, (ticks(11) + ticks(12) + ticks(13) + ticks(14)) / 100.0))
    };
    let own = stat(&process.to_string()).map_or(0.0, |(_, s)| s);
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| stat(entry.file_name().to_str()?));
    own + all.filter(|(parent, _)| *parent == process).map(|(_, s)| s).sum::<f64>()
}

/// CPU seconds of the nodes, the object store and the database.
fn cost(cluster: &Cluster) -> [f64; 3] {
    let nodes = cluster.nodes.iter().map(|node| cpu_s(node.process.as_ref().unwrap().0.id())).sum();
    [nodes, cpu_s(cluster.bucket.process.0.id()), cpu_s(cluster.database.process_id())]
}

fn less(after: [f64; 3], before: [f64; 3], n: usize) -> String {
    let [nodes, bucket, database] = [0, 1, 2].map(|k| (after[k] - before[k]) / n as f64);
    format!("CPU seconds each: nodes {nodes:.3}, object store {bucket:.3}, database {database:.3}")
}

/// One series of slices of so many bytes, slice by slice to one node after the other.
fn send(series: &str, n_slices: usize, n_bytes: usize, cluster: &Cluster) {
    let mut wires: Vec<Wire> = cluster.nodes.iter().map(|node| Wire::associated(node.address)).collect();
    let n_wires = wires.len();
    for k in 0..n_slices {
        let uid = format!("{series}.{k}");
        let bytes = [
            named(CT, series, &uid),
            element(0x7FE0, 0x10, "OW", &vec![u8::try_from(k % 250).unwrap(); n_bytes]),
        ];
        let wire = &mut wires[k % n_wires];
        wire.send(&store(&uid, &bytes.concat()));
        assert_eq!(wire.status(), 0);
    }
}

fn send_all(n_series: usize, n_slices: usize, n_bytes: usize, cluster: &Cluster) {
    std::thread::scope(|scope| {
        for sender in 0..SENDERS.min(n_series) {
            scope.spawn(move || {
                for count in (sender..n_series).step_by(SENDERS) {
                    send(&format!("1.2.96.{count}"), n_slices, n_bytes, cluster);
                }
            });
        }
    });
}

#[test]
fn figures_for_scaling() {
    if std::env::var_os("OARLOCK_SCALING").is_none() {
        eprintln!("SKIPPED scaling: a measurement of some minutes; OARLOCK_SCALING=1 runs it");
        return;
    }
    let Some(storescp) = peer("scaling", "storescp") else { return };
    for n_nodes in [1, 3, 1, 3] {
        let plan = Plan { n_nodes, lease_s: 60.0, quiet_time_s: 3_600.0, ..Plan::default() };
        let Some(cluster) = Cluster::start(&plan) else { return };
        let (n_series, before, started) = (12, cost(&cluster), Instant::now());
        send_all(n_series, SLICES, 524_288, &cluster);
        let s = started.elapsed().as_secs_f64();
        let mb = (n_series * SLICES) as f64 * 0.524_288;
        let cost = less(cost(&cluster), before, n_series);
        eprintln!(
            "receive, {n_nodes} nodes: {n_series} series, {mb:.0} MB in {s:.1} s, {:.0} MB/s; {cost}",
            mb / s
        );
    }
    for n_nodes in [1, 3, 1, 3] {
        let port = free_port();
        let peers = Some(vec![format!("SINK@127.0.0.1:{port}")]);
        let plan = Plan {
            n_nodes,
            lease_s: 60.0,
            peers,
            result_bytes: 2_000_000,
            contouring_ms: Some(0),
            ..Plan::default()
        };
        let Some(cluster) = Cluster::start(&plan) else { return };
        let n = 200;
        send_all(n, 1, 1_000, &cluster);
        // Looks seldom, so that looking costs nothing.
        let waiting = |state: DeliveryState| {
            std::thread::sleep(Duration::from_millis(500));
            let counts = cluster.stored(async |store| store.delivery_counts().await.unwrap());
            counts.iter().find(|(known, _)| *known == state).map_or(0, |(_, n)| usize::try_from(*n).unwrap())
        };
        wait_within(LONG, "structure sets", || (waiting(DeliveryState::Pending) == n).then_some(()));
        let mut sink = Command::new(&storescp);
        sink.args(["--fork", "--ignore", "-pdu", "131072", &port.to_string()]);
        let (before, started) = (cost(&cluster), Instant::now());
        let _sink = Process(sink.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_within(LONG, "deliveries", || (waiting(DeliveryState::Delivered) == n).then_some(()));
        let s = started.elapsed().as_secs_f64();
        let cost = less(cost(&cluster), before, n);
        eprintln!(
            "deliver, {n_nodes} nodes: {n} structure sets of 2 MB in {s:.1} s, {:.1} a second; {cost}",
            n as f64 / s
        );
    }
    let plan = Plan { lease_s: 60.0, contouring_ms: Some(0), log_statements: true, ..Plan::default() };
    let Some(cluster) = Cluster::start(&plan) else { return };
    let statements = || {
        let log = cluster.database.log();
        log.lines().filter(|line| line.contains("execute ") || line.contains("statement: ")).count()
    };
    let (before, idle) = (statements(), Duration::from_secs(10));
    std::thread::sleep(idle);
    let idle_a_second = (statements() - before) as f64 / idle.as_secs_f64();
    let (n_series, before, started) = (12, statements(), Instant::now());
    send_all(n_series, SLICES, 524_288, &cluster);
    wait_within(LONG, "structure sets", || {
        std::thread::sleep(Duration::from_secs(1));
        let counts = cluster.stored(async |store| store.job_counts().await.unwrap());
        counts.contains(&(JobState::Contoured, n_series as u64)).then_some(())
    });
    let of_all = (statements() - before) as f64 - idle_a_second * started.elapsed().as_secs_f64();
    eprintln!(
        "statements: {idle_a_second:.1} a second for three idle nodes, {:.0} for a series of {SLICES} slices besides",
        of_all / n_series as f64
    );
}
