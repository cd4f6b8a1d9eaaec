//! Every way to a destination, against real programs: DICOMweb and C-STORE into Orthanc, and folders.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use oarlock::pipeline::delivery::{DeliveryError, Destination, Receipt, ScuTimeouts};
use oarlock::settings::service::DestinationSettings;
use serde_json::{Value, json};

use crate::support::{self, Process, free_port, free_ports, start};
use crate::wire::{LIMIT, RTSTRUCT, data_set, part10, service, wait_for};

pub(crate) fn destination(yaml: &Value) -> Destination {
    serde_json::from_value::<DestinationSettings>(yaml.clone()).unwrap().to
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn deliver(to: &Destination, object: &[u8]) -> Result<Receipt, DeliveryError> {
    let timeouts = ScuTimeouts { connect: LIMIT, answer: LIMIT };
    run(to.deliver(&"TEST".parse().unwrap(), timeouts, object))
}

fn reach(to: &Destination) -> Result<String, DeliveryError> {
    let timeouts = ScuTimeouts { connect: LIMIT, answer: LIMIT };
    run(to.reach(&"TEST".parse().unwrap(), timeouts))
}

pub(crate) fn structure_set(uid: &str) -> Vec<u8> {
    part10(RTSTRUCT, uid, &data_set(RTSTRUCT, "1.2.51", uid, 0.0, 3))
}

/// Orthanc with its DICOMweb plugin and one user, its HTTP and its DICOM port; `None` with a visible line where either is not installed.
pub(crate) fn orthanc(folder: &Path, more: Value) -> Option<(Process, u16, u16)> {
    let orthanc = support::peer("destinations", "Orthanc")?;
    let plugin = support::file("destinations", "/usr/share/orthanc/plugins/libOrthancDicomWeb.so")?;
    let [dicom, http] = free_ports();
    let mut settings = json!({
        "DicomPort": dicom, "HttpPort": http, "HttpServerEnabled": true, "RemoteAccessAllowed": true,
        "AuthenticationEnabled": true, "RegisteredUsers": {"oarlock": "secret word"},
        "DicomAlwaysAllowEcho": true, "StorageDirectory": folder, "IndexDirectory": folder,
        "Plugins": [plugin], "DicomWeb": {"Enable": true, "Root": "/dicom-web/"},
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = folder.join("orthanc.json");
    std::fs::write(&path, settings.to_string()).unwrap();
    Some((start(&orthanc, &[&path.display().to_string()], dicom), http, dicom))
}

fn password(folder: &Path, word: &str) -> String {
    let path = folder.join(format!("password-{}", word.len()));
    std::fs::write(&path, format!("{word}\n")).unwrap();
    path.display().to_string()
}

#[test]
fn orthanc_takes_a_structure_set_by_stow_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_orthanc, port, _)) = orthanc(folder.path(), json!({})) else { return };
    let way = |password: &str| {
        destination(&json!({"name": "web", "stow": format!("http://127.0.0.1:{port}/dicom-web"),
            "user": "oarlock", "password_file": password}))
    };
    let right = way(&password(folder.path(), "secret word"));
    assert!(reach(&right).unwrap().contains("200"), "{:?}", reach(&right));
    assert_eq!(deliver(&right, &structure_set("1.2.80")).unwrap(), Receipt::default());
    assert_eq!(deliver(&right, &structure_set("1.2.80")).unwrap(), Receipt::default(), "again");

    let wrong = way(&password(folder.path(), "wrong"));
    let refused = deliver(&wrong, &structure_set("1.2.81")).unwrap_err();
    assert!(refused.to_string().contains("401") && !refused.is_permanent(), "{refused}");
    assert!(reach(&wrong).is_err());
    let bad = deliver(&right, &part10(RTSTRUCT, "1.2.82", b"no data set")).unwrap_err();
    assert!(!bad.to_string().contains("secret word"), "{bad}");
    let elsewhere = destination(&json!({"stow": format!("http://127.0.0.1:{}/dicom-web", free_port())}));
    let gone = deliver(&elsewhere, &structure_set("1.2.80")).unwrap_err();
    assert!(!gone.is_permanent(), "{gone}");

    let asked = ureq_get(port, "/instances?expand");
    let stored: Value = serde_json::from_str(&asked).unwrap();
    let uids: Vec<_> =
        stored.as_array().unwrap().iter().map(|i| i["MainDicomTags"]["SOPInstanceUID"].clone()).collect();
    assert_eq!(uids, ["1.2.80"], "{asked}");
}

/// A GET with the test's login, by hand.
fn ureq_get(port: u16, path: &str) -> String {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let login = "b2FybG9jazpzZWNyZXQgd29yZA==";
    write!(socket, "GET {path} HTTP/1.0\r\nAuthorization: Basic {login}\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A certificate for 127.0.0.1 by a CA of the test, certificate and key in one file.
fn certificates(folder: &Path, openssl: &Path) {
    let run = |arguments: &[&str]| {
        let done = Command::new(openssl).args(arguments).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let new = ["-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "2"];
    run(&[&["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA"][..], &new]
        .concat());
    run(&["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "csr", "-subj", "/CN=127.0.0.1"]);
    run(&[
        "x509",
        "-req",
        "-in",
        "csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "crt",
        "-days",
        "2",
        "-sha256",
        "-extfile",
        "san",
    ]);
    let both =
        [std::fs::read(folder.join("crt")).unwrap(), std::fs::read(folder.join("key")).unwrap()].concat();
    std::fs::write(folder.join("both.pem"), both).unwrap();
}

/// Orthanc behind a program that takes HTTPS for it, as in hospitals; the Orthanc of Debian 12 crashes on its own HTTPS.
#[test]
fn stow_over_https_trusts_the_ca_that_is_named_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let test = "destinations";
    let (Some(openssl), Some(socat)) = (support::peer(test, "openssl"), support::peer(test, "socat")) else {
        return;
    };
    certificates(folder.path(), &openssl);
    let Some((_orthanc, http, _)) = orthanc(folder.path(), json!({})) else { return };
    let port = free_port();
    let certificate = folder.path().join("both.pem").display().to_string();
    let listen = format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,cert={certificate},verify=0,reuseaddr,fork");
    let _proxy =
        Process(Command::new(socat).args([&listen, &format!("TCP:127.0.0.1:{http}")]).spawn().unwrap());
    wait_for("the proxy", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let secret = password(folder.path(), "secret word");
    let address = format!("https://127.0.0.1:{port}/dicom-web");
    let way = |ca: Option<&str>| {
        let ca = ca.map(|name| folder.path().join(name));
        destination(&json!({"stow": address, "user": "oarlock", "password_file": secret, "ca_file": ca}))
    };
    assert_eq!(deliver(&way(Some("ca.pem")), &structure_set("1.2.80")).unwrap(), Receipt::default());
    let system = deliver(&way(None), &structure_set("1.2.80")).unwrap_err();
    assert!(!system.is_permanent(), "{system}");
    // Another authority than the one that signed.
    let stranger = crate::pki::Authority::new(folder.path(), "stranger").certificate;
    let refused = deliver(&way(stranger.to_str()), &structure_set("1.2.81")).unwrap_err();
    assert!(!refused.is_permanent() && refused.to_string().contains("certificate trusted"), "{refused}");
    let no_file = deliver(&way(Some("san")), &structure_set("1.2.80")).unwrap_err();
    assert!(format!("{no_file:?}").contains("no certificate in it"), "{no_file:?}");
}

/// Answers one request with the text, and gives what was asked.
fn http_once(answer: &'static str) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
        while !asked.ends_with(b"--\r\n") {
            let n = socket.read(&mut buffer).unwrap();
            assert!(n > 0, "the request broke off");
            asked.extend_from_slice(&buffer[..n]);
        }
        socket.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&asked).into_owned()
    });
    (port, served)
}

#[test]
fn a_redirection_is_not_followed_and_a_full_service_is_waited_for() {
    for (answer, permanent, named) in [
        ("HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", true, "307"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull", false, "503: full"),
        (
            "HTTP/1.1 409 Conflict\r\nWarning: 299 pacs \"no room\"\r\nContent-Length: 0\r\n\r\n",
            true,
            "no room",
        ),
    ] {
        let (port, served) = http_once(answer);
        let to = destination(&json!({"stow": format!("http://127.0.0.1:{port}/")}));
        let error = deliver(&to, &structure_set("1.2.80")).unwrap_err();
        assert!(error.is_permanent() == permanent && error.to_string().contains(named), "{error}");
        let asked = served.join().unwrap();
        assert!(asked.starts_with("POST /studies HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_lowercase().contains("multipart/related; type=\"application/dicom\"; boundary="));
    }
}

#[test]
fn a_folder_gets_the_file_by_its_uid() {
    let folder = tempfile::tempdir().unwrap();
    let to = destination(&json!({"name": "import", "folder": folder.path()}));
    assert!(reach(&to).unwrap().contains("can be written"));
    let object = structure_set("1.2.80");
    assert_eq!(deliver(&to, &object).unwrap(), Receipt::default());
    assert_eq!(std::fs::read(folder.path().join("oarlock-1.2.80.dcm")).unwrap(), object);
}

/// Orthanc reports on an association of its own, to our Store SCP.
#[test]
fn orthanc_commits_itself_to_keep_a_structure_set() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listening = service(ours.path(), None, |_| {});
    let us = json!({"AET": "TEST", "Host": "127.0.0.1", "Port": listening.address().port(), "AllowEcho": true,
        "AllowStore": true, "AllowStorageCommitment": true});
    let Some((_orthanc, _, port)) = orthanc(theirs.path(), json!({"DicomModalities": {"us": us}})) else {
        return;
    };
    let to = |wait_s: f64| {
        destination(&json!({"peer": format!("ORTHANC@127.0.0.1:{port}"), "commitment_wait_s": wait_s}))
    };
    assert_eq!(deliver(&to(20.0), &structure_set("1.2.80")).unwrap(), Receipt::default());
    // Nobody listens any more: the report cannot come.
    listening.stop();
    let receipt = deliver(&to(1.0), &structure_set("1.2.81")).unwrap();
    assert!(receipt.warning.as_ref().unwrap().contains("within 1 s"), "{receipt:?}");
}

/// Oarlock reports on the association that asked.
#[test]
fn another_oarlock_commits_itself_over_the_same_association() {
    let folder = tempfile::tempdir().unwrap();
    let peer = service(folder.path(), None, |_| {});
    let to = destination(&json!({"peer": format!("ANY@{}", peer.address()), "commitment_wait_s": 5}));
    assert_eq!(deliver(&to, &structure_set("1.2.80")).unwrap(), Receipt::default());
    peer.stop();
}

#[test]
fn a_peer_without_storage_commitment_has_taken_the_instance_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let Some(storescp) = support::peer("destinations", "storescp") else { return };
    let port = free_port();
    let out = folder.path().display().to_string();
    let _storescp = start(&storescp, &["-od", &out, &port.to_string()], port);
    let to = destination(&json!({"peer": format!("ANY@127.0.0.1:{port}"), "commitment_wait_s": 5}));
    let receipt = deliver(&to, &structure_set("1.2.80")).unwrap();
    assert!(receipt.warning.as_ref().unwrap().contains("no such presentation context"), "{receipt:?}");
}
