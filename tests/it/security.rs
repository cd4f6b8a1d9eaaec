//! Who may talk to the service and how: TLS, certificates, callers, keys.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use oarlock::service::{Service, ServiceError};
use oarlock::settings::ServiceSettings;
use oarlock::settings::service::{CallerSettings, ClientCertificates, ListenTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::faults::Served;
use crate::pki::{Authority, Issued, Validity, chmod};
use crate::support::{Process, free_port, peer};
use crate::wire::{CT, LIMIT, Request, Wire, all_files, ct, files, part10, service, wait_for};

/// A service that speaks TLS, with a certificate of `ours`, for clients with one of `theirs`.
pub(crate) fn tls_service(
    folder: &Path,
    ours: &Issued,
    clients: ClientCertificates,
    theirs: &Authority,
) -> Service {
    service(folder, None, |s| s.listen.tls = Some(listen_tls(ours, clients, theirs)))
}

pub(crate) fn listen_tls(
    ours: &Issued,
    client_certificates: ClientCertificates,
    theirs: &Authority,
) -> ListenTls {
    ListenTls {
        certificate: ours.certificate.clone(),
        key: ours.key.clone(),
        client_certificates,
        client_authorities: (client_certificates != ClientCertificates::Off)
            .then(|| theirs.certificate.clone()),
    }
}

/// What a client shows and believes.
struct Client<'a> {
    believes: &'a Authority,
    shows: Option<&'a Issued>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl Client<'_> {
    /// Asks for an association over TLS and gives the type of the PDU that is the answer.
    fn associate(&self, address: SocketAddr) -> std::io::Result<u8> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.believes.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match self.shows {
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(&issued.certificate).unwrap()],
                    PrivateKeyDer::from_pem_file(&issued.key).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(&Request::default().bytes())?;
        let mut header = [0; 6];
        stream.read_exact(&mut header)?;
        Ok(header[0])
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn tls_takes_whom_the_setting_allows_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (hospital, stranger) =
        (Authority::new(folder.path(), "hospital"), Authority::new(folder.path(), "stranger"));
    let ours = hospital.issue("oarlock", Validity::Now);
    let right = hospital.issue("scanner", Validity::Now);
    let expired = hospital.issue("old-scanner", Validity::Expired);
    let wrong = stranger.issue("scanner", Validity::Now);
    use ClientCertificates::{Off, Optional, Required};
    for mode in [Required, Optional, Off] {
        let data = folder.path().join(format!("{mode:?}"));
        let service = tls_service(&data, &ours, mode, &hospital);
        for versions in [BOTH, &BOTH[..1], &BOTH[1..]] {
            for (name, shows, is_taken) in [
                ("the right certificate", Some(&right), true),
                ("none", None, mode != Required),
                ("an expired one", Some(&expired), mode == Off),
                ("another authority's", Some(&wrong), mode == Off),
            ] {
                let client = Client { believes: &hospital, shows, versions };
                let answer = client.associate(service.address());
                assert_eq!(answer.is_ok_and(|kind| kind == 2), is_taken, "{mode:?}, {name}, {versions:?}");
            }
        }
        let deceived = Client { believes: &stranger, shows: Some(&right), versions: BOTH };
        assert!(deceived.associate(service.address()).is_err(), "a client that does not know our authority");
        service.stop();
    }
}

/// Real peers: dcmtk with OpenSSL.
#[test]
fn dcmtk_speaks_tls_with_us() {
    let (Some(echoscu), Some(storescu)) = (peer("tls", "echoscu"), peer("tls", "storescu")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (hospital, stranger) =
        (Authority::new(folder.path(), "hospital"), Authority::new(folder.path(), "stranger"));
    let ours = hospital.issue("oarlock", Validity::Now);
    let service = tls_service(&folder.path().join("data"), &ours, ClientCertificates::Required, &hospital);
    let port = service.address().port().to_string();
    let call = |program: &Path, shows: Option<&Issued>, believes: &Authority, rest: &[&str]| {
        let mut command = Command::new(program);
        match shows {
            Some(issued) => command.arg("+tls").args([&issued.key, &issued.certificate]),
            None => command.arg("+tla"),
        };
        command.arg("+cf").arg(&believes.certificate).args(["-to", "5", "127.0.0.1", &port]).args(rest);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let right = hospital.issue("scanner", Validity::Now);
    let expired = hospital.issue("old-scanner", Validity::Expired);
    let wrong = stranger.issue("scanner", Validity::Now);
    let echo = |shows, believes| call(&echoscu, shows, believes, &[]);
    assert!(echo(Some(&right), &hospital).0, "{:?}", echo(Some(&right), &hospital));
    assert!(!echo(None, &hospital).0, "without a certificate");
    assert!(!echo(Some(&expired), &hospital).0, "an expired certificate");
    assert!(!echo(Some(&wrong), &hospital).0, "another authority's certificate");
    assert!(!echo(Some(&right), &stranger).0, "dcmtk believed a certificate it cannot check");
    assert!(
        !Command::new(&echoscu).args(["-to", "5", "127.0.0.1", &port]).status().unwrap().success(),
        "plain"
    );
    let instance = folder.path().join("instance.dcm");
    std::fs::write(&instance, part10(CT, "1.2.60", &ct("1.2.50", "1.2.60"))).unwrap();
    let (is_stored, said) = call(&storescu, Some(&right), &hospital, &[&instance.display().to_string()]);
    assert!(is_stored, "{said}");
    service.stop();
    assert_eq!(files(&folder.path().join("data/instances"), "dcm").len(), 1);
}

/// `oarlock echo` and `oarlock send` over TLS, to dcmtk's storescp and to our own service.
#[test]
fn the_tools_call_over_tls() {
    let Some(storescp) = peer("tls", "storescp") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (hospital, stranger) =
        (Authority::new(folder.path(), "hospital"), Authority::new(folder.path(), "stranger"));
    let (theirs, right) = (hospital.issue("pacs", Validity::Now), hospital.issue("scanner", Validity::Now));
    let expired = hospital.issue("old-scanner", Validity::Expired);
    let received = folder.path().join("received");
    std::fs::create_dir_all(&received).unwrap();
    let port = free_port();
    let child = Command::new(storescp)
        .arg("+tls")
        .args([&theirs.key, &theirs.certificate])
        .arg("+cf")
        .arg(&hospital.certificate)
        .arg("-od")
        .arg(&received)
        .arg(port.to_string())
        .spawn();
    let _storescp = Process(child.unwrap());
    let ours = tls_service(&folder.path().join("data"), &theirs, ClientCertificates::Required, &hospital);
    let instance = folder.path().join("instance.dcm");
    std::fs::write(&instance, part10(CT, "1.2.60", &ct("1.2.50", "1.2.60"))).unwrap();
    let oarlock = |arguments: &[&str], believes: &Authority, shows: Option<&Issued>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
        command.args(arguments).arg("--tls").arg("--tls-authorities").arg(&believes.certificate);
        if let Some(issued) = shows {
            command.arg("--tls-certificate").arg(&issued.certificate).arg("--tls-key").arg(&issued.key);
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for port in [port, ours.address().port()] {
        let peer = format!("PACS@127.0.0.1:{port}");
        wait_for("an answer over TLS", || oarlock(&["echo", &peer], &hospital, Some(&right)).0.then_some(()));
        let sent =
            oarlock(&["send", &instance.display().to_string(), "--to", &peer], &hospital, Some(&right));
        assert!(sent.0, "{}", sent.1);
        assert!(!oarlock(&["echo", &peer], &hospital, None).0, "without a certificate");
        assert!(!oarlock(&["echo", &peer], &hospital, Some(&expired)).0, "with an expired one");
        let (is_believed, said) = oarlock(&["echo", &peer], &stranger, Some(&right));
        assert!(!is_believed && said.contains("no TLS handshake"), "{said}");
        let wrong_name =
            oarlock(&["echo", &peer, "--tls-name", "elsewhere.example"], &hospital, Some(&right));
        assert!(!wrong_name.0, "a certificate for another name");
        let plain = Command::new(env!("CARGO_BIN_EXE_oarlock")).args(["echo", &peer]).output().unwrap();
        assert!(!plain.status.success());
    }
    ours.stop();
    assert_eq!(all_files(&received).len(), 1);
}

/// A ClientHello as TLS 1.0 and 1.1 had it: no extensions, so no newer version is offered.
fn old_hello(minor: u8) -> Vec<u8> {
    let suites = [0xC0, 0x13, 0xC0, 0x14, 0x00, 0x2F, 0x00, 0x35];
    let body = [&[3, minor][..], &[7; 32], &[0, 0, 8], &suites, &[1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[test]
fn old_tls_plaintext_and_garbage_are_refused_on_a_tls_port() {
    let folder = tempfile::tempdir().unwrap();
    let hospital = Authority::new(folder.path(), "hospital");
    let ours = hospital.issue("oarlock", Validity::Now);
    let service = tls_service(&folder.path().join("data"), &ours, ClientCertificates::Off, &hospital);
    let ask = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(service.address()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).map(|_| answer)
    };
    for minor in [1, 2] {
        // Alert, fatal, handshake_failure or protocol_version (RFC 8446 6.2).
        let answer = ask(&old_hello(minor)).unwrap();
        assert!(
            answer[0] == 0x15 && answer[5] == 2 && [40, 70].contains(&answer[6]),
            "TLS 1.{}: {answer:?}",
            minor - 1
        );
    }
    for (name, bytes) in [
        ("plain DICOM", Request::default().bytes()),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("garbage", vec![0x5A; 3_000]),
        ("half a hello", old_hello(3)[..20].to_vec()),
    ] {
        if name == "half a hello" {
            drop(TcpStream::connect(service.address()).unwrap().write_all(&bytes));
            continue;
        }
        let answer = ask(&bytes).unwrap_or_default();
        assert!(answer.is_empty() || answer[0] == 0x15, "{name}: {answer:?}");
    }
    let client = Client { believes: &hospital, shows: None, versions: BOTH };
    assert_eq!(client.associate(service.address()).unwrap(), 2);
    service.stop();
}

#[test]
fn a_key_that_others_may_use_and_files_that_do_not_fit_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let hospital = Authority::new(folder.path(), "hospital");
    let (ours, other) = (hospital.issue("oarlock", Validity::Now), hospital.issue("other", Validity::Now));
    let start = |tls: ListenTls| {
        let mut settings =
            ServiceSettings { data_dir: Some(folder.path().join("data")), ..ServiceSettings::default() };
        settings.listen.port = 0;
        settings.listen.tls = Some(tls);
        match Service::start(&settings, None) {
            Err(ServiceError::Tls(error)) => Some(error.to_string()),
            Ok(service) => {
                service.stop();
                None
            }
            Err(other) => panic!("{other:?}"),
        }
    };
    let tls = || listen_tls(&ours, ClientCertificates::Required, &hospital);
    assert_eq!(start(tls()), None);
    for (mode, is_taken) in [(0o644, false), (0o620, false), (0o640, true), (0o400, true)] {
        chmod(&ours.key, mode);
        let said = start(tls());
        assert_eq!(said.is_none(), is_taken, "{mode:o}: {said:?}");
        assert!(said.is_none_or(|said| said.contains("chmod 600") && said.contains(&format!("{mode:o}"))));
    }
    type Case = (&'static str, fn(&mut ListenTls, &Issued));
    let broken: [Case; 4] = [
        ("cannot be read", |tls, _| tls.certificate = "/nowhere/oarlock.pem".into()),
        ("no private key", |tls, _| tls.key = tls.certificate.clone()),
        ("no certificate", |tls, _| tls.client_authorities = Some(tls.key.clone())),
        ("cannot be used with its key", |tls, other| tls.key = other.key.clone()),
    ];
    for (words, change) in broken {
        let mut tls = tls();
        chmod(&ours.certificate, 0o600);
        change(&mut tls, &other);
        let said = start(tls).unwrap_or_default();
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// The certificate is renewed under a running service; a broken one leaves the old one in use.
#[test]
fn sighup_reads_the_certificates_again() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (Authority::new(folder.path(), "before"), Authority::new(folder.path(), "after"));
    let (first, second) = (before.issue("oarlock", Validity::Now), after.issue("oarlock", Validity::Now));
    let yaml = format!(
        "listen: {{tls: {{certificate: {}, key: {}, client_certificates: 'off'}}}}\n",
        first.certificate.display(),
        first.key.display()
    );
    let served = Served::start(folder.path(), &yaml);
    let knows = |authority: &Authority| {
        Client { believes: authority, shows: None, versions: BOTH }.associate(served.address).is_ok()
    };
    let hang_up = || {
        let pid = served.process.0.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    assert!(knows(&before) && !knows(&after));
    std::fs::write(&first.certificate, "nonsense").unwrap();
    hang_up();
    wait_for("the complaint", || {
        let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
        log.contains("those before stay in force").then_some(())
    });
    assert!(knows(&before));
    std::fs::copy(&second.certificate, &first.certificate).unwrap();
    std::fs::copy(&second.key, &first.key).unwrap();
    hang_up();
    wait_for("the new certificate", || knows(&after).then_some(()));
    assert!(!knows(&before));
}

#[test]
fn callers_are_known_by_title_and_network() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), None, |s| {
        s.listen.callers = vec![
            CallerSettings {
                ae_title: "CT1".parse().unwrap(),
                address: Some("127.0.1.0/24".parse().unwrap()),
            },
            CallerSettings {
                ae_title: "CT2".parse().unwrap(),
                address: Some("127.0.2.7/32".parse().unwrap()),
            },
        ];
    });
    for (calling, from, is_taken) in [
        ("CT1", [127, 0, 1, 9], true),
        ("CT1", [127, 0, 2, 9], false),
        ("CT1", [127, 0, 2, 7], false),
        ("CT2", [127, 0, 2, 7], true),
        ("CT2", [127, 0, 2, 8], false),
        ("CT3", [127, 0, 1, 9], false),
        ("..", [127, 0, 1, 9], false),
        ("*", [127, 0, 1, 9], false),
    ] {
        let mut wire = Wire::connect_from(Ipv4Addr::from(from), service.address());
        wire.send(&Request { calling, ..Request::default() }.bytes());
        let (kind, body) = wire.next().unwrap();
        assert_eq!(kind == 2, is_taken, "{calling} from {from:?}");
        assert!(is_taken || body[1..] == [1, 1, 3], "{body:?}");
    }
    service.stop();
}
