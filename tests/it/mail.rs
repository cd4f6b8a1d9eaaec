//! Notices by mail, against a real mail server (aiosmtpd).

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use oarlock::service::{ContourFailure, Contourer, Service};
use serde_json::{Value, json};

use crate::pki::{Authority, Validity};
use crate::support::{Process, everything_must_be_here, free_port};
use crate::wire::{Wire, ct, service, wait_for};

struct MailServer {
    port: u16,
    printed: Arc<Mutex<String>>,
    _process: Process,
}

/// A server that prints what it gets; `None` with a visible line where it is not installed.
fn mail_server(more: &[&str]) -> Option<MailServer> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/python/bin/python");
    let has_it = Command::new(&python).args(["-c", "import aiosmtpd"]).output();
    if !has_it.is_ok_and(|done| done.status.success()) {
        assert!(!everything_must_be_here(), "mail: aiosmtpd is not installed; run tests/peers/install");
        eprintln!("SKIPPED mail: aiosmtpd is not installed (tests/peers/install)");
        return None;
    }
    let port = free_port();
    let mut child = Command::new(python)
        .args(["-u", "-W", "ignore", "-m", "aiosmtpd", "-n", "-l", &format!("127.0.0.1:{port}")])
        .args(more)
        .args(["-c", "aiosmtpd.handlers.Debugging", "stdout"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let printed = Arc::new(Mutex::new(String::new()));
    let (lines, to) = (BufReader::new(child.stdout.take().unwrap()).lines(), Arc::clone(&printed));
    std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| to.lock().unwrap().push_str(&format!("{line}\n")));
    });
    let server = MailServer { port, printed, _process: Process(child) };
    wait_for("the mail server", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
    Some(server)
}

/// Refuses every series.
fn refusing(folder: &Path, mail: Value) -> Service {
    let contourer: Contourer = Box::new(|_| Err(ContourFailure::refuse("slices 3 and 5 lie 5.00 mm apart")));
    service(folder, Some(contourer), |s| {
        s.series.quiet_time_s = 0.2;
        s.delivery.answer_timeout_s = 5.0;
        s.notifications = serde_json::from_value(json!({"mail": [mail]})).unwrap();
    })
}

fn send(running: &Service, series: &[&str]) {
    let mut wire = Wire::associated(running.address());
    for series in series {
        let uid = format!("{series}.1");
        assert_eq!(wire.store(&uid, &ct(series, &uid)), 0);
    }
}

#[test]
fn failures_that_come_together_are_told_in_one_mail_over_a_relay() {
    let Some(server) = mail_server(&[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let running = refusing(
        folder.path(),
        json!({"server": format!("127.0.0.1:{}", server.port), "encryption": "none", "on": ["failure"],
            "from": "Oarlock <oarlock@h.example>", "to": ["physics@h.example", "oncall@h.example"]}),
    );
    send(&running, &["1.2.50", "1.2.51"]);
    let mail = wait_for("the mail", || {
        let printed = server.printed.lock().unwrap().clone();
        (printed.contains("series: 1.2.50") && printed.contains("series: 1.2.51")).then_some(printed)
    });
    assert!(mail.contains("Subject: OARLOCK: 2 notices"), "{mail}");
    assert!(mail.contains("text: refused: slices 3 and 5 lie 5.00 mm apart"), "{mail}");
    assert!(mail.contains("physics@h.example") && mail.contains("oncall@h.example"), "{mail}");
    running.stop();
}

#[test]
fn a_server_must_speak_tls_with_a_certificate_that_is_believed_unless_it_is_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    let issued = ours.issue("mail", Validity::Now);
    let (certificate, key) = (issued.certificate.display().to_string(), issued.key.display().to_string());
    let Some(server) = mail_server(&["--tlscert", &certificate, "--tlskey", &key]) else { return };
    let Some(plain) = mail_server(&[]) else { return };
    let mail = |port: u16, authority: &Authority| {
        json!({"server": format!("127.0.0.1:{port}"), "ca_file": authority.certificate, "on": ["failure"],
            "from": "oarlock@h.example", "to": ["physics@h.example"]})
    };
    for (name, port, authority) in [("no TLS", plain.port, &ours), ("another CA", server.port, &theirs)] {
        let data = folder.path().join(name);
        let running = refusing(&data, mail(port, authority));
        send(&running, &["1.2.52"]);
        // Three attempts, 2.5 s apart in all.
        std::thread::sleep(std::time::Duration::from_secs(2));
        running.stop();
    }
    let data = folder.path().join("good");
    let running = refusing(&data, mail(server.port, &ours));
    send(&running, &["1.2.53"]);
    wait_for("the mail", || server.printed.lock().unwrap().contains("series: 1.2.53").then_some(()));
    running.stop();
    let told = [&server, &plain].map(|server| server.printed.lock().unwrap().contains("1.2.52"));
    assert_eq!(told, [false, false], "a mail went where nobody may read it");
}
