//! Storage commitment on several nodes: asked at one about what others took, and reported by whichever lives.

use std::net::TcpListener;
use std::time::Duration;

use oarlock::service::store::SeriesState;

use crate::cluster::{Cluster, LONG, Plan, slices};
use crate::commitment::{Called, Report, asking_at, question, question_of, report};
use crate::wire::{CT, RTSTRUCT, Wire, data_set, pdu, pdv, store_command_of, wait_within};

/// Slices of a series, one node after the other from this one on; their UIDs.
fn send(cluster: &Cluster, series: &str, n: usize, from: usize) -> Vec<String> {
    let others = cluster.addresses().split_off(from);
    let mut wires: Vec<Wire> = others.into_iter().map(Wire::associated).collect();
    let n_wires = wires.len();
    let mut sent = Vec::new();
    for (k, (uid, bytes)) in slices(series, n).into_iter().enumerate() {
        assert_eq!(wires[k % n_wires].store(&uid, &bytes), 0);
        sent.push(uid);
    }
    sent
}

fn texts(uids: &[String]) -> Vec<&str> {
    uids.iter().map(String::as_str).collect()
}

/// Asks over an association of its own, which also gets the report.
fn asked(cluster: &Cluster, node: usize, transaction: &str, references: &[(&str, &str)]) -> Report {
    let mut wire = asking_at(cluster.nodes[node].address);
    wire.send(&question_of(transaction, references));
    assert_eq!(wire.status(), 0);
    let report = report(|| wire.next());
    wire.send(&pdu(4, &pdv(3, 3, &report.answer)));
    wait_within(LONG, "the question to be forgotten", || {
        cluster
            .stored(async |store| store.question(&transaction.parse().unwrap()).await.unwrap().is_none())
            .then_some(())
    });
    report
}

fn wait_complete(cluster: &Cluster, series: &str) {
    wait_within(LONG, "the series to be complete", || {
        let jobs = cluster.jobs();
        let job = jobs.iter().find(|job| job.series == series)?;
        (job.state == SeriesState::Complete && !job.versions.is_empty()).then_some(())
    });
}

/// While a series is coming in, after it is complete, and after it was removed.
#[test]
fn a_node_answers_truly_for_what_others_took() {
    let Some(cluster) = Cluster::start(&Plan::default()) else { return };
    let (series, plan) = ("1.2.81", "1.2.82.1");
    let mut wire = asking_at(cluster.nodes[1].address);
    let command = pdu(4, &pdv(5, 3, &store_command_of(RTSTRUCT, plan)));
    wire.send(&[command, pdu(4, &pdv(5, 2, &data_set(RTSTRUCT, "1.2.82", plan, 0.0, 3)))].concat());
    assert_eq!(wire.status(), 0);
    let sent = send(&cluster, series, 5, 1);
    let all: Vec<_> = sent.iter().map(|uid| (CT, uid.as_str())).chain([(RTSTRUCT, plan)]).collect();
    let some = [&all[..], &[(CT, "1.2.81.9"), (RTSTRUCT, &sent[2])]].concat();
    for (n, when) in ["coming in", "complete"].into_iter().enumerate() {
        let is_all = asked(&cluster, 0, &format!("1.2.9001.{n}"), &all);
        assert_eq!(is_all.event_type, 1, "{when}");
        let is_some = asked(&cluster, 0, &format!("1.2.9002.{n}"), &some);
        assert_eq!(is_some.event_type, 2, "{when}");
        assert_eq!(is_some.reason_of("1.2.81.9"), Some(0x0112), "{when}: never sent");
        assert_eq!(is_some.reason_of(&sent[2]), Some(0x0119), "{when}: of another class");
        assert_eq!(is_some.reason_of(&sent[3]), None, "{when}: is kept");
        wait_complete(&cluster, series);
    }
    // Without what the nodes have noted nobody would find it, since nothing is coming in any more.
    cluster.database.sql("DELETE FROM receivers");
    assert_eq!(asked(&cluster, 2, "1.2.9003", &all).event_type, 1);
    std::fs::remove_file(cluster.bucket.objects().join(format!("instances/{series}/{}.dcm", sent[0])))
        .unwrap();
    let gone = asked(&cluster, 2, "1.2.9004", &all);
    assert_eq!(
        (gone.event_type, gone.reason_of(&sent[0])),
        (2, Some(0x0112)),
        "it says what is, not what was"
    );
}

#[test]
fn what_was_removed_for_its_age_is_not_kept_until_it_comes_again() {
    let plan = Plan { keep_days: Some(0.000_04), ..Plan::default() };
    let Some(cluster) = Cluster::start(&plan) else { return };
    let series = "1.2.83";
    let sent = send(&cluster, series, 3, 1);
    let is_removed = || {
        let jobs = cluster.jobs();
        jobs.first().is_some_and(|job| job.history.last().is_some_and(|entry| entry.became == "removed"))
    };
    wait_within(LONG, "the removal", || is_removed().then_some(()));
    let all: Vec<_> = sent.iter().map(|uid| (CT, uid.as_str())).collect();
    let gone = asked(&cluster, 0, "1.2.9001", &all);
    assert_eq!((gone.event_type, gone.reason_of(&sent[1])), (2, Some(0x0112)));
    send(&cluster, series, 3, 2);
    assert_eq!(asked(&cluster, 0, "1.2.9002", &all).event_type, 1, "sent again");
}

fn called_back(port: u16) -> Plan {
    let settings =
        format!("commitment: {{report_to: [{{ae_title: TEST, peer: 'SCANNER@127.0.0.1:{port}'}}]}}\n");
    Plan { settings, ..Plan::default() }
}

/// Takes no more reports for a while.
fn assert_no_other(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    std::thread::sleep(Duration::from_secs(8));
    assert!(listener.accept().is_err(), "a second report");
}

#[test]
fn the_question_of_a_node_that_was_killed_is_reported_once_by_another() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(mut cluster) = Cluster::start(&called_back(listener.local_addr().unwrap().port())) else {
        return;
    };
    let sent = send(&cluster, "1.2.84", 5, 1);
    let mut wire = asking_at(cluster.nodes[0].address);
    wire.send(&question("1.2.9001", &[&texts(&sent)[..], &["1.2.84.9"]].concat()));
    assert_eq!(wire.status(), 0);
    cluster.nodes[0].kill();
    let report = Called::wait(&listener).answer();
    assert_eq!((report.event_type, report.reason_of("1.2.84.9")), (2, Some(0x0112)));
    assert_eq!(report.reason_of(&sent[4]), None);
    assert_no_other(&listener);
}

/// The node that reports dies with its report under way: another one reports the same when the lease has run out.
#[test]
fn a_report_that_nobody_knows_to_be_taken_is_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(mut cluster) = Cluster::start(&called_back(listener.local_addr().unwrap().port())) else {
        return;
    };
    let sent = send(&cluster, "1.2.85", 3, 0);
    let mut wire = asking_at(cluster.nodes[0].address);
    wire.send(&question("1.2.9001", &texts(&sent)));
    assert_eq!(wire.status(), 0);
    let first = Called::wait(&listener);
    let owner = cluster.database.ask("SELECT lease_owner FROM commitments");
    let process = |id: u32| owner.contains(&format!("-{id}-"));
    let reporting = cluster.nodes.iter_mut().find(|node| process(node.process.as_ref().unwrap().0.id()));
    reporting.expect("a node has it in hand").kill();
    let again = Called::wait(&listener).answer();
    assert_eq!((again.event_type, &again.data_set), (1, &first.report.data_set));
    assert_no_other(&listener);
    assert_eq!(cluster.database.ask("SELECT COUNT(*) FROM commitments").trim(), "0");
}

/// Asked at one node, gathered by another, long before its quiet time is over.
#[test]
fn a_series_is_complete_when_its_sender_asks_any_node_for_all_of_it() {
    let Some(cluster) = Cluster::start(&Plan { quiet_time_s: 600.0, ..Plan::default() }) else { return };
    let sent = send(&cluster, "1.2.86", 5, 1);
    let all: Vec<_> = sent.iter().map(|uid| (CT, uid.as_str())).collect();
    assert_eq!(asked(&cluster, 0, "1.2.9001", &all).event_type, 1);
    wait_complete(&cluster, "1.2.86");
}
