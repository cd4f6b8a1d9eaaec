//! Rules of selection, from the settings to what is delivered, and `oarlock check --explain`.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use oarlock::service::store::JobState;
use oarlock::service::{Contourer, Service};
use oarlock::settings::service::DestinationSettings;
use oarlock::vocabulary::dicom::Peer;

use crate::service::{contourer, delivered, job};
use crate::wire::{CT, Wire, data_set, element, files, service, wait_for};

const RULES: &str = "
rules:
  - name: neck
    when:
      all:
        - { keyword: CallingAETitle, equals: TEST }
        - { keyword: SeriesDescription, contains: neck }
        - { keyword: SliceThickness, between: [0.5, 3] }
    priority: urgent
  - name: head
    when: { keyword: SeriesDescription, contains: head }
    dry_run: true
";

/// A CT with these attributes.
fn ct(series: &str, uid: &str, description: &str, image_type: &str) -> Vec<u8> {
    let even = |text: &str| if text.len().is_multiple_of(2) { text.to_owned() } else { format!("{text} ") };
    let first = element(8, 8, "CS", even(image_type).as_bytes());
    let described =
        [element(8, 0x103E, "LO", even(description).as_bytes()), element(0x18, 0x50, "DS", b"2.5 ")].concat();
    let plain = data_set(CT, series, uid, 2.5, 7);
    let at = plain.windows(4).position(|w| w == [0x10, 0, 0x20, 0]).unwrap();
    [&first[..], &plain[..at], &described, &plain[at..]].concat()
}

fn start(folder: &Path, contourer: Option<Contourer>, peer: &str) -> Service {
    let rules = folder.join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    service(folder, contourer, |s| {
        s.series.quiet_time_s = 0.3;
        s.rules = Some(rules);
        s.destinations = vec![DestinationSettings::from(peer.parse::<Peer>().unwrap())];
    })
}

fn send(service: &Service, instances: &[(&str, Vec<u8>)]) {
    let mut wire = Wire::associated(service.address());
    for (uid, data_set) in instances {
        assert_eq!(wire.store(uid, data_set), 0, "{uid}");
    }
}

fn ended(folder: &Path, series: &str) -> oarlock::service::store::VersionDetail {
    wait_for("the end of the job", || {
        let version = job(folder, series)?.versions.pop()?;
        (!matches!(version.job.state, JobState::Waiting | JobState::Working)).then_some(version)
    })
}

#[test]
fn the_first_rule_that_takes_a_series_decides_and_the_rest_is_passed_over_with_the_reason() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let destination = service(theirs.path(), None, |_| {});
    let made = contourer(&Arc::new(AtomicUsize::new(0)));
    let running = start(ours.path(), made, &format!("TPS@{}", destination.address()));
    let axial = "ORIGINAL\\PRIMARY\\AXIAL";
    send(
        &running,
        &[
            ("1.2.60", ct("1.2.51", "1.2.60", "Neck", axial)),
            ("1.2.61", ct("1.2.52", "1.2.61", "Head", axial)),
            ("1.2.62", ct("1.2.53", "1.2.62", "Thorax", axial)),
            ("1.2.63", ct("1.2.54", "1.2.63", "Neck", "ORIGINAL\\PRIMARY\\LOCALIZER")),
            ("1.2.64", ct("1.2.55", "1.2.64", "Neck", "DERIVED\\SECONDARY\\MPR")),
        ],
    );
    let neck = ended(ours.path(), "1.2.51");
    assert_eq!((neck.job.state, neck.choice.rule.as_deref()), (JobState::Contoured, Some("neck")));
    assert_eq!(neck.job.n_deliveries, 1);
    let head = ended(ours.path(), "1.2.52");
    assert_eq!((head.job.state, head.choice.rule.as_deref()), (JobState::Contoured, Some("head")));
    assert_eq!(head.job.n_deliveries, 0, "a dry run delivers nowhere");
    assert!(ours.path().join(head.result.unwrap()).is_file());
    for (series, said) in [
        ("1.2.53", "no rule takes it (neck: SeriesDescription is Thorax, not with neck in it; head: "),
        ("1.2.54", "a localizer (ImageType ORIGINAL\\PRIMARY\\LOCALIZER)"),
        ("1.2.55", "reformatted or rendered"),
    ] {
        let passed = ended(ours.path(), series);
        let reason = passed.job.reason.unwrap();
        assert!(passed.job.state == JobState::PassedOver && reason.contains(said), "{series}: {reason}");
    }
    assert_eq!(delivered(theirs.path(), 1).len(), 1);
    running.stop();
    destination.stop();
}

fn explain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oarlock")).arg("check").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[test]
fn check_explains_a_received_series_and_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), None, "TPS@localhost:1");
    let axial = "ORIGINAL\\PRIMARY\\AXIAL";
    send(&running, &[("1.2.60", ct("1.2.51", "1.2.60", "Head", axial))]);
    running.stop();
    let config = folder.path().join("service.yaml");
    let data_dir = folder.path().display();
    std::fs::write(
        &config,
        format!("data_dir: {data_dir}\nrules: rules.yaml\ndestinations: [{{ peer: 'TPS@localhost:1' }}]\n"),
    )
    .unwrap();
    let config = config.display().to_string();
    let received = explain(&["--config", &config, "--explain", "1.2.51"]);
    let said = text(&received);
    assert_eq!(received.status.code(), Some(0), "{said}");
    for line in [
        "rule neck: does not take it: SeriesDescription is Head, not with neck in it",
        "rule head: takes it: SeriesDescription is Head",
        "delivered nowhere (dry run)",
        "model starter",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
    let path = files(&folder.path().join("instances"), "dcm")[0].parent().unwrap().display().to_string();
    let other = explain(&["--config", &config, "--explain", &path, "--calling", "CT9", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&other.stdout).unwrap();
    assert_eq!(json["rules"][0]["why"], "CallingAETitle is CT9, not TEST", "{json}");
    assert_eq!(json["choice"]["rule"], "head");
    let absent = explain(&["--config", &config, "--explain", "1.2.99"]);
    assert!(absent.status.code() == Some(1) && text(&absent).contains("1.2.99"), "{}", text(&absent));
    let without = explain(&["--explain", &path]);
    assert!(text(&without).contains("no rules: every CT series is taken"), "{}", text(&without));
}

#[test]
fn rules_that_cannot_be_stop_the_start_with_the_rule_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, "rules: [{ name: neck, when: { keyword: SliceThickness, contains: 3 } }]")
        .unwrap();
    let config = folder.path().join("service.yaml");
    std::fs::write(&config, "rules: rules.yaml\n").unwrap();
    let output = explain(&["--config", &config.display().to_string(), "--explain", "1.2.3"]);
    let said = text(&output);
    let words = ["rules.yaml", "rule \"neck\"", "SliceThickness is a number", "less, greater"];
    assert!(output.status.code() == Some(1) && words.iter().all(|word| said.contains(word)), "{said}");
}

/// New series are refused first, those that have begun later; what was refused is taken when there is room.
#[test]
fn a_disk_that_fills_up_refuses_new_series_before_it_refuses_all() {
    let folder = tempfile::tempdir().unwrap();
    let with = |min_free_mb, new_series_free_mb| {
        service(folder.path(), None, move |s| {
            s.listen.min_free_mb = min_free_mb;
            s.listen.new_series_free_mb = Some(new_series_free_mb);
        })
    };
    let everything_mb = 1 << 50;
    let store = |service: &Service, series: &str, uid: &str| {
        Wire::associated(service.address()).store(uid, &crate::wire::ct(series, uid))
    };
    let running = with(1, 1);
    assert_eq!(store(&running, "1.2.50", "1.2.60"), 0);
    running.stop();
    let running = with(1, everything_mb);
    assert_eq!(store(&running, "1.2.50", "1.2.61"), 0, "a series that has begun");
    assert_eq!(store(&running, "1.2.51", "1.2.62"), 0xA700, "a new series");
    running.stop();
    let running = with(everything_mb, 1);
    assert_eq!(store(&running, "1.2.50", "1.2.63"), 0xA700);
    assert_eq!(store(&running, "1.2.50", "1.2.61"), 0xA700, "what is here already is refused too");
    running.stop();
    let running = with(1, 1);
    assert_eq!(store(&running, "1.2.51", "1.2.62"), 0);
    assert_eq!(files(&folder.path().join("incoming"), "part").len(), 0);
    running.stop();
}
