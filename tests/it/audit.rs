//! The audit trail: what stands in it, in which form, and that nobody waits for it.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock::settings::audit::{AuditSettings, PatientsInAudit};
use oarlock::settings::service::DestinationSettings;
use oarlock::settings::tls::TlsClientSettings;
use oarlock::vocabulary::dicom::Peer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::pki::{Authority, Validity};
use crate::service::contourer;
use crate::support::{free_port, peer};
use crate::wire::{LIMIT, Request, Wire, ct, element, service, wait_for};

const PATIENT: &str = "MARKED-ID-4711";

/// A CT instance of a patient with a name that markup and terminals could trip over.
fn instance(uid: &str) -> Vec<u8> {
    let plain = ct("1.2.50", uid);
    let id = element(0x10, 0x20, "LO", b"TEST");
    let at = plain.windows(id.len()).position(|w| w == id).unwrap();
    let named =
        [element(0x10, 0x10, "PN", b"DOE<&\">^\x1B[31mJ "), element(0x10, 0x20, "LO", PATIENT.as_bytes())]
            .concat();
    [&plain[..at], &named, &plain[at + id.len()..]].concat()
}

/// A service with this trail: two instances come, one caller is turned away, and it stops.
fn a_day(folder: &Path, audit: AuditSettings) {
    let service = service(folder, None, |s| s.audit = audit);
    let mut wire = Wire::associated(service.address());
    for uid in ["1.2.60", "1.2.61"] {
        assert_eq!(wire.store(uid, &instance(uid)), 0);
    }
    wire.send(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    assert_eq!(wire.next().unwrap().0, 6);
    assert_eq!(wire.next(), None);
    let mut nobody = Wire::connect(service.address());
    nobody.send(&Request { application_context: "1.2.3", ..Request::default() }.bytes());
    assert_eq!(nobody.next().unwrap().0, 3);
    assert_eq!(nobody.next(), None);
    service.stop();
}

/// The XML documents of RFC 5424 messages.
fn documents(messages: &[String]) -> Vec<String> {
    let document = |message: &String| {
        assert!(message.starts_with("<85>1 20"), "{message}");
        let fields: Vec<&str> = message.splitn(8, ' ').collect();
        assert_eq!((fields[3], fields[5], fields[6]), ("oarlock", "DICOM+RFC3881", "-"), "{message}");
        fields[7].strip_prefix('\u{FEFF}').expect("UTF-8 by its mark").to_owned()
    };
    messages.iter().map(document).collect()
}

/// Start, instances, security alert, stop, each as PS3.15 A.5.3 wants it.
fn check(documents: &[String]) {
    let codes = ["110100", "110104", "110113", "110100"];
    assert_eq!(documents.len(), codes.len(), "{documents:#?}");
    for (document, code) in documents.iter().zip(codes) {
        assert!(
            document.contains(&format!(r#"<EventID csd-code="{code}" codeSystemName="DCM""#)),
            "{document}"
        );
    }
    for (document, words) in documents.iter().zip([
        &["110120", r#"AlternativeUserID="AETITLES=OARLOCK""#][..],
        &["1.2.777", r#"UserID="TEST""#, r#"NetworkAccessPointID="127.0.0.1""#, r#"NumberOfInstances="2""#],
        &["110126", r#"EventOutcomeIndicator="4""#, "result 1, source 1, reason 2", "127.0.0.1"],
        &["110121"],
    ]) {
        assert!(words.iter().all(|word| document.contains(word)), "{words:?} in {document}");
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_trail_in_a_file_follows_the_standard_and_names_patients_only_as_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for patients in [PatientsInAudit::Hashed, PatientsInAudit::Clear, PatientsInAudit::None] {
        let file = folder.path().join(format!("{patients:?}.log"));
        let data = folder.path().join(format!("{patients:?}"));
        a_day(&data, AuditSettings { file: Some(file.clone()), patients, ..AuditSettings::default() });
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let documents = documents(&lines(&file));
        check(&documents);
        let transferred = &documents[1];
        assert_eq!(transferred.contains(PATIENT), patients == PatientsInAudit::Clear, "{transferred}");
        assert_eq!(transferred.contains("DOE"), patients == PatientsInAudit::Clear, "{transferred}");
        assert_eq!(
            transferred.contains("Patient Number"),
            patients != PatientsInAudit::None,
            "{transferred}"
        );
        assert!(!transferred.contains('\x1B'));
        all.extend(documents);
    }
    validate(folder.path(), &all);
}

/// The structure set goes to one destination and not to another.
#[test]
fn transfers_to_destinations_are_in_the_trail() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let theirs = service(&folder.path().join("tps"), None, |_| {});
    let gone = free_port();
    let audit = AuditSettings { file: Some(file.clone()), ..AuditSettings::default() };
    let ours = service(&folder.path().join("data"), contourer(&Arc::default()), |s| {
        s.audit = audit;
        s.series.quiet_time_s = 0.3;
        s.delivery.first_retry_s = 30.0;
        let peers = [format!("TPS@{}", theirs.address()), format!("GONE@127.0.0.1:{gone}")];
        s.destinations =
            peers.iter().map(|peer| DestinationSettings::from(peer.parse::<Peer>().unwrap())).collect();
    });
    let mut wire = Wire::associated(ours.address());
    assert_eq!(wire.store("1.2.60", &instance("1.2.60")), 0);
    wire.send(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    wait_for("two transfers", || (lines(&file).len() == 6).then_some(()));
    ours.stop();
    theirs.stop();
    let documents = documents(&lines(&file));
    let of = |code: &str, title: &str| {
        let is_it = |d: &&String| {
            d.contains(&format!("csd-code=\"{code}\"")) && d.contains(&format!("UserID=\"{title}\""))
        };
        documents.iter().find(is_it).unwrap_or_else(|| panic!("{code} {title}: {documents:#?}"))
    };
    for title in ["TPS", "GONE"] {
        assert!(of("110102", title).contains("1.2.840.10008.5.1.4.1.1.481.3"), "begin");
        assert!(of("110104", title).contains(r#"EventActionCode="R""#), "transferred");
    }
    assert!(of("110104", "TPS").contains(r#"EventOutcomeIndicator="0""#));
    assert!(of("110104", "GONE").contains(r#"EventOutcomeIndicator="4""#));
    validate(folder.path(), &documents);
}

#[test]
fn a_file_that_is_rotated_away_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
    let audit = AuditSettings { file: Some(file.clone()), ..AuditSettings::default() };
    let service = service(&folder.path().join("data"), None, |s| s.audit = audit);
    wait_for("the start", || (lines(&file).len() == 1).then_some(()));
    std::fs::rename(&file, &moved).unwrap();
    service.stop();
    assert_eq!((lines(&moved).len(), lines(&file).len()), (1, 1));
}

/// By the grammar of PS3.15 A.5.1.
fn validate(folder: &Path, documents: &[String]) {
    let Some(xmllint) = peer("audit", "xmllint") else { return };
    let grammar = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/audit-message.rng");
    let write = |(k, document): (usize, &String)| -> PathBuf {
        let path = folder.join(format!("{k}.xml"));
        std::fs::write(&path, document).unwrap();
        path
    };
    let paths: Vec<PathBuf> = documents.iter().enumerate().map(write).collect();
    let said =
        Command::new(xmllint).args(["--noout", "--relaxng"]).arg(grammar).args(paths).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn a_hash_is_the_same_for_one_patient_and_differs_between_installations() {
    let folder = tempfile::tempdir().unwrap();
    let hash = |data: &str, n: usize| {
        let file = folder.path().join(format!("{data}{n}.log"));
        let audit = AuditSettings { file: Some(file.clone()), ..AuditSettings::default() };
        let data = folder.path().join(data);
        drop(std::fs::remove_dir_all(data.join("instances")));
        a_day(&data, audit);
        let transferred = documents(&lines(&file))[1].clone();
        let patient = transferred.split("<ParticipantObjectIdentification").nth(2).unwrap().to_owned();
        patient.split('"').nth(1).unwrap().to_owned()
    };
    let first = hash("first", 1);
    assert_eq!(first.len(), 32, "{first}");
    assert_eq!(hash("first", 2), first);
    assert_ne!(hash("second", 1), first);
    let key = std::fs::metadata(folder.path().join("first/audit.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

/// Messages with their length before them (RFC 6587, RFC 5425), until the sender closes.
fn counted(stream: impl Read) -> Vec<String> {
    let mut stream = BufReader::new(stream);
    let mut messages = Vec::new();
    loop {
        let mut length = Vec::new();
        // A TLS sender that ends its process without a close_notify is a cut, and still the end.
        if stream.read_until(b' ', &mut length).is_err() || length.is_empty() {
            return messages;
        }
        let length: usize = String::from_utf8(length).unwrap().trim().parse().unwrap();
        let mut message = vec![0; length];
        stream.read_exact(&mut message).unwrap();
        messages.push(String::from_utf8(message).unwrap());
    }
}

fn to(receiver: String, tls: TlsClientSettings) -> AuditSettings {
    AuditSettings { syslog: Some(receiver.parse().unwrap()), tls, ..AuditSettings::default() }
}

#[test]
fn the_trail_goes_to_syslog_receivers_over_udp_tcp_and_tls() {
    let folder = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(LIMIT)).unwrap();
    let receiver = format!("udp://{}", udp.local_addr().unwrap());
    a_day(&folder.path().join("udp"), to(receiver, TlsClientSettings::default()));
    let messages: Vec<String> = (0..4)
        .map(|_| {
            let mut buffer = vec![0; 8_192];
            let n = udp.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..n].to_vec()).unwrap()
        })
        .collect();
    check(&documents(&messages));

    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let receiver = format!("tcp://{}", tcp.local_addr().unwrap());
    let messages = std::thread::spawn(move || counted(tcp.accept().unwrap().0));
    a_day(&folder.path().join("tcp"), to(receiver, TlsClientSettings::default()));
    check(&documents(&messages.join().unwrap()));

    let authority = Authority::new(folder.path(), "hospital");
    let theirs = authority.issue("receiver", Validity::Now);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&theirs.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&theirs.key).unwrap(),
        )
        .unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let receiver = format!("tls://{}", tls.local_addr().unwrap());
    let messages = std::thread::spawn(move || {
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        counted(StreamOwned::new(connection, tls.accept().unwrap().0))
    });
    let believes = TlsClientSettings {
        authorities: Some(authority.certificate.clone()),
        ..TlsClientSettings::default()
    };
    a_day(&folder.path().join("tls"), to(receiver, believes));
    check(&documents(&messages.join().unwrap()));
}

#[test]
fn a_receiver_that_is_gone_hinders_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    a_day(folder.path(), to(format!("tcp://{closed}"), TlsClientSettings::default()));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}
