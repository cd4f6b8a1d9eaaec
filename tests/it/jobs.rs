//! `oarlock jobs` beside a running service.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oarlock::service::store::JobState;
use oarlock::service::{ContourFailure, Contourer};
use serde_json::Value;

use crate::service::{all_delivered, contourer, delivered, job, quick, send};
use crate::wire::{CT, Wire, data_set, files, service, wait_for};

/// The command over a data folder.
fn jobs(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.arg("jobs").args(arguments).arg("--data-dir").arg(folder);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(both).unwrap()
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = jobs(folder, &[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs the command, which must end with this code and say this.
fn check(folder: &Path, arguments: &[&str], code: i32, said: &str) {
    let output = jobs(folder, arguments);
    let text = text(&output);
    assert!(
        output.status.code() == Some(code) && text.contains(said),
        "{arguments:?}: {:?} {text}",
        output.status
    );
}

#[test]
fn what_failed_is_shown_with_its_causes_and_done_again_on_request() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let (is_mended, calls) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let mut good = contourer(&calls).unwrap();
    let mended = Arc::clone(&is_mended);
    let picky: Contourer = Box::new(move |series| match mended.load(Ordering::SeqCst) {
        true => good(series),
        false => Err(ContourFailure::refuse("slices 3 and 5 lie 5.00 mm apart")),
    });
    let running = quick(ours.path(), Some(picky), destination.address());
    send(&running, &["1.2.60"]);
    wait_for("the refusal", || {
        let version = job(ours.path(), "1.2.50")?.versions.pop()?;
        (version.job.state == JobState::Refused).then_some(())
    });
    check(ours.path(), &["list"], 0, "refused      1.2.50 v1  1 instances: slices 3 and 5 lie 5.00 mm apart");
    check(ours.path(), &["list", "--state", "failed"], 0, "no jobs");
    check(ours.path(), &["show", "1.2.50"], 0, "because: slices 3 and 5 lie 5.00 mm apart");
    check(ours.path(), &["resend", "1.2.50"], 1, "it has no deliveries");
    is_mended.store(true, Ordering::SeqCst);
    check(ours.path(), &["retry", "1.2.50"], 0, "waits for its turn");
    assert_eq!(delivered(theirs.path(), 1), ["1.2.80.1.1"]);
    all_delivered(ours.path(), 1);
    check(ours.path(), &["retry", "1.2.50"], 1, "is contoured");
    let shown = json(ours.path(), &["show", "1.2.50"]);
    assert_eq!(shown["versions"][0]["state"], "contoured", "{shown}");
    assert_eq!(shown["versions"][0]["organs"][0]["roi_name"], "Eye_L");
    let causes: Vec<&str> =
        shown["history"].as_array().unwrap().iter().map(|h| h["cause"].as_str().unwrap()).collect();
    assert!(causes.contains(&"a person asked for it"), "{causes:?}");
    running.stop();
    destination.stop();
}

#[test]
fn a_delivered_structure_set_is_sent_again_byte_for_byte() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let running = quick(ours.path(), contourer(&Arc::new(AtomicUsize::new(0))), destination.address());
    send(&running, &["1.2.60"]);
    delivered(theirs.path(), 1);
    all_delivered(ours.path(), 1);
    check(ours.path(), &["resend", "1.2.50", "--to", "PACS@h:104"], 1, "is delivered");
    check(ours.path(), &["resend", "1.2.50", "--version", "7"], 1, "no such version");
    check(ours.path(), &["resend", "1.2.50"], 0, "1 deliveries of 1.2.50 v1");
    wait_for("the second delivery", || {
        let shown = job(ours.path(), "1.2.50")?;
        let n = shown.history.iter().filter(|h| h.became == "delivered").count();
        (n == 2).then_some(())
    });
    // The peer took the same instance again, so it has one and nothing in quarantine.
    assert_eq!(files(&theirs.path().join("instances"), "dcm").len(), 1);
    assert!(files(&theirs.path().join("quarantine"), "dcm").is_empty());
    running.stop();
    destination.stop();
}

#[test]
fn an_instance_in_quarantine_is_released_into_a_new_version_or_dropped() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let running = quick(ours.path(), contourer(&Arc::new(AtomicUsize::new(0))), destination.address());
    send(&running, &["1.2.60"]);
    delivered(theirs.path(), 1);
    let mut wire = Wire::associated(running.address());
    for pixel in [8, 9] {
        assert_eq!(wire.store("1.2.60", &data_set(CT, "1.2.50", "1.2.60", 2.5, pixel)), 0xC111);
    }
    let listed = json(ours.path(), &["quarantine", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(listed[0]["reason"].as_str().unwrap().contains("sent by TEST"), "{listed}");
    let name = |n: usize| listed[n]["name"].as_str().unwrap().to_owned();
    check(ours.path(), &["quarantine", "drop", "../instances"], 1, "no ../instances in quarantine");
    check(ours.path(), &["quarantine", "drop", &name(1)], 0, "is removed");
    check(ours.path(), &["quarantine", "release", &name(0)], 0, "contoured anew as v2");
    assert_eq!(delivered(theirs.path(), 2), ["1.2.80.1.1", "1.2.80.1.2"]);
    let stored = std::fs::read(ours.path().join("instances/1.2.50/1.2.60.dcm")).unwrap();
    assert_eq!(stored.last(), Some(&8));
    let kept = std::fs::read(ours.path().join("quarantine").join(format!("{}.dcm", name(0)))).unwrap();
    assert_eq!(kept.last(), Some(&7));
    // The running service compares with what is stored now.
    assert_eq!(wire.store("1.2.60", &data_set(CT, "1.2.50", "1.2.60", 2.5, 8)), 0);
    running.stop();
    let running = quick(ours.path(), contourer(&Arc::new(AtomicUsize::new(10))), destination.address());
    send(&running, &[]);
    running.stop();
    assert_eq!(job(ours.path(), "1.2.50").unwrap().versions.len(), 2, "the restart made no third version");
    destination.stop();
}

#[test]
fn a_folder_without_a_service_and_wrong_arguments_say_so() {
    let folder = tempfile::tempdir().unwrap();
    check(folder.path(), &["list"], 1, "no service has worked in this folder");
    check(folder.path(), &["retry"], 2, "<SERIES>");
    check(folder.path(), &["show", "no-uid"], 2, "no-uid");
    let running = service(folder.path(), None, |_| {});
    check(folder.path(), &["show", "1.2.3"], 1, "no such version of a series 1.2.3");
    check(folder.path(), &["list"], 0, "no jobs");
    running.stop();
}
