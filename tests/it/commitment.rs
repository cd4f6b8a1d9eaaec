//! Storage commitment as SCP: scanners and archives ask us whether we keep what they sent (PS3.4 J).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use oarlock::settings::ServiceSettings;
use oarlock::settings::service::ReportToSettings;
use oarlock::vocabulary::dicom::dimse::{Request as Dimse, STORAGE_COMMITMENT, commitment_request};
use serde_json::{Value, json};

use crate::destinations::orthanc;
use crate::service::{contourer, job};
use crate::support::free_port;
use crate::wire::{
    CT, EXPLICIT, LIMIT, RTSTRUCT, Request, Wire, all_files, data_set, element, item, pdu, pdv, service,
    wait_for, wait_within,
};

fn sequence(group: u16, number: u16, items: &[Vec<u8>]) -> Vec<u8> {
    let items: Vec<u8> = items
        .iter()
        .flat_map(|item| {
            let length = u32::try_from(item.len()).unwrap().to_le_bytes();
            [&[0xFE, 0xFF, 0x00, 0xE0][..], &length, item].concat()
        })
        .collect();
    let head = [&group.to_le_bytes()[..], &number.to_le_bytes(), b"SQ", &[0, 0]].concat();
    [&head[..], &u32::try_from(items.len()).unwrap().to_le_bytes(), &items].concat()
}

fn uid(group: u16, number: u16, text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.resize(text.len().next_multiple_of(2), 0);
    element(group, number, "UI", &value)
}

/// N-ACTION on context 3 that asks for CT images.
pub(crate) fn question(transaction: &str, instances: &[&str]) -> Vec<u8> {
    let of_ct: Vec<_> = instances.iter().map(|instance| (CT, *instance)).collect();
    question_of(transaction, &of_ct)
}

/// The same of any class.
pub(crate) fn question_of(transaction: &str, instances: &[(&str, &str)]) -> Vec<u8> {
    let items: Vec<_> = instances
        .iter()
        .map(|(class, instance)| [uid(0x08, 0x1150, class), uid(0x08, 0x1155, instance)].concat())
        .collect();
    let data_set = [uid(0x08, 0x1195, transaction), sequence(0x08, 0x1199, &items)].concat();
    ask(&data_set)
}

fn ask(data_set: &[u8]) -> Vec<u8> {
    [pdu(4, &pdv(3, 3, &commitment_request(7))), pdu(4, &pdv(3, 2, data_set))].concat()
}

fn asking(service: &oarlock::service::Service) -> Wire {
    asking_at(service.address())
}

/// An association with CT images on context 1, storage commitment on 3, and structure sets on 5.
pub(crate) fn asking_at(address: SocketAddr) -> Wire {
    let mut wire = Wire::connect(address);
    let contexts = vec![(1, CT, EXPLICIT), (3, STORAGE_COMMITMENT, EXPLICIT), (5, RTSTRUCT, EXPLICIT)];
    wire.send(&Request { contexts, ..Request::default() }.bytes());
    assert_eq!(wire.next().unwrap().0, 2);
    wire
}

fn send(wire: &mut Wire, uids: &[&str]) {
    for (n, uid) in uids.iter().enumerate() {
        assert_eq!(wire.store(uid, &data_set(CT, "1.2.50", uid, 2.5 * n as f64, 7)), 0);
    }
}

/// Command and data set of a report; the command is answered by the second of what this gives.
pub(crate) struct Report {
    pub(crate) event_type: u16,
    pub(crate) data_set: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

impl Report {
    /// With which Failure Reason an instance is not kept; `None` where it is.
    pub(crate) fn reason_of(&self, instance: &str) -> Option<u16> {
        let failed = self.data_set.windows(4).position(|w| w == [0x08, 0x00, 0x98, 0x11])?;
        let after = &self.data_set[failed..];
        let mut value = instance.as_bytes().to_vec();
        value.resize(instance.len().next_multiple_of(2), 0);
        let at = after.windows(value.len()).position(|w| w == value)? + value.len();
        let reason = after[at..].windows(4).position(|w| w == [0x08, 0x00, 0x97, 0x11])?;
        let value = &after[at + reason + 8..];
        Some(u16::from_le_bytes([value[0], value[1]]))
    }
}

pub(crate) fn report(mut next: impl FnMut() -> Option<(u8, Vec<u8>)>) -> Report {
    let (mut command, mut data_set) = (Vec::new(), Vec::new());
    loop {
        let (kind, body) = next().expect("a report");
        assert_eq!(kind, 4);
        let (control, fragment) = (body[5], &body[6..]);
        if control & 1 == 1 {
            command.extend(fragment)
        } else {
            data_set.extend(fragment)
        }
        if control == 2 {
            break;
        }
    }
    let at = command.windows(8).position(|w| w == [0, 0, 2, 16, 2, 0, 0, 0]).expect("an event type");
    let event_type = u16::from_le_bytes([command[at + 8], command[at + 9]]);
    let Ok(Dimse::Other(request)) = Dimse::parse(&command) else { panic!("no report") };
    Report { event_type, data_set, answer: request.accept_event_report() }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn waiting(folder: &Path) -> usize {
    all_files(&folder.join("commitments")).len()
}

#[test]
fn a_report_comes_over_the_association_that_asked_and_says_what_is_not_here() {
    let folder = tempfile::tempdir().unwrap();
    let running = service(folder.path(), None, |_| {});
    let mut wire = asking(&running);
    send(&mut wire, &["1.2.60", "1.2.61"]);
    wire.send(&question("1.2.9001", &["1.2.60", "1.2.61"]));
    assert_eq!(wire.status(), 0);
    let all = report(|| wire.next());
    assert_eq!(all.event_type, 1);
    assert!(holds(&all.data_set, "1.2.9001") && holds(&all.data_set, "1.2.61"));
    assert_eq!(waiting(folder.path()), 1, "until the report is answered");
    wire.send(&pdu(4, &pdv(3, 3, &all.answer)));
    wait_for("the answer to be taken", || (waiting(folder.path()) == 0).then_some(()));

    wire.send(&question("1.2.9002", &["1.2.60", "1.2.69"]));
    assert_eq!(wire.status(), 0);
    let some = report(|| wire.next());
    assert_eq!(some.event_type, 2);
    let reason = element(0x08, 0x1197, "US", &0x0112_u16.to_le_bytes());
    assert!(some.data_set.windows(reason.len()).any(|w| w == reason), "{:?}", some.data_set);
    // The association serves on while its report is not answered.
    send(&mut wire, &["1.2.62"]);
    wire.send(&question("1.2.9002", &["1.2.60"]));
    assert_eq!(wire.status(), 0x0131, "another question under a UID that is in use");
    drop(wire);

    let mut wire = asking(&running);
    wire.send(&ask(&[0xFF; 40]));
    assert_eq!(wire.status(), 0x0115);
    wire.send(&ask(&uid(0x08, 0x1195, "1.2.9003")));
    assert_eq!(wire.status(), 0x0115, "about nothing");
    wire.send(&pdu(4, &pdv(1, 3, &commitment_request(7))));
    wire.send(&pdu(4, &pdv(1, 2, &uid(0x08, 0x1195, "1.2.9003"))));
    assert_eq!(wire.status(), 0x0211, "on the context of an image");
    assert_eq!(waiting(folder.path()), 1, "what was not reported is not forgotten");
    running.stop();
}

/// A report over an association of the service's, by hand, as the scanner that was told to listen there.
pub(crate) struct Called {
    socket: TcpStream,
    pub(crate) report: Report,
}

fn next_of(socket: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 6];
    socket.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[2..].try_into().unwrap());
    let mut body = vec![0; length as usize];
    socket.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

impl Called {
    /// Takes one association up to its report.
    pub(crate) fn wait(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let mut socket = wait_within(LIMIT * 2, "a call", || listener.accept().ok()).0;
        listener.set_nonblocking(false).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let (kind, request) = next_of(&mut socket).unwrap();
        assert_eq!(kind, 1);
        // Role selection (PS3.7 D.3.3.4): not the SCU, the SCP.
        let role = [&[0, 20][..], STORAGE_COMMITMENT.as_bytes(), &[0, 1]].concat();
        assert!(request.windows(role.len()).any(|w| w == role), "no role is proposed");
        let implicit = "1.2.840.10008.1.2";
        let accepted = item(0x21, &[vec![1, 0, 0, 0], item(0x40, implicit.as_bytes())].concat());
        let rejected = item(0x21, &[vec![3, 0, 4, 0], item(0x40, implicit.as_bytes())].concat());
        let context = item(0x10, b"1.2.840.10008.3.1.1.1");
        let about = item(0x50, &[item(0x51, &16_384_u32.to_be_bytes()), item(0x52, b"1.2.3")].concat());
        let body = [&[0, 1, 0, 0][..], &request[4..68], &context, &accepted, &rejected, &about].concat();
        socket.write_all(&pdu(2, &body)).unwrap();
        let report = report(|| next_of(&mut socket));
        Self { socket, report }
    }

    /// Says that the report was taken, and gives it.
    pub(crate) fn answer(mut self) -> Report {
        self.socket.write_all(&pdu(4, &pdv(1, 3, &self.report.answer))).unwrap();
        assert_eq!(next_of(&mut self.socket).unwrap().0, 5, "a release");
        self.socket.write_all(&pdu(6, &[0; 4])).unwrap();
        self.report
    }
}

#[test]
fn a_scanner_that_has_hung_up_is_called_back_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let called_back = |s: &mut ServiceSettings| {
        s.delivery.first_retry_s = 0.05;
        s.delivery.longest_retry_s = 0.2;
        let peer = format!("SCANNER@127.0.0.1:{port}").parse().unwrap();
        s.commitment.report_to =
            vec![ReportToSettings { ae_title: "TEST".parse().unwrap(), peer, tls: None }];
    };
    let running = service(folder.path(), None, called_back);
    let mut wire = asking(&running);
    send(&mut wire, &["1.2.60"]);
    wire.send(&question("1.2.9001", &["1.2.60", "1.2.69"]));
    assert_eq!(wire.status(), 0);
    drop(wire);
    // Nobody listens there yet.
    std::thread::sleep(Duration::from_millis(1_500));
    running.stop();
    assert_eq!(waiting(folder.path()), 1);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let running = service(folder.path(), None, called_back);
    // The first call is hung up on.
    drop(listener.accept().unwrap());
    let report = Called::wait(&listener).answer();
    assert_eq!(report.event_type, 2);
    assert!(holds(&report.data_set, "1.2.9001") && holds(&report.data_set, "1.2.69"));
    wait_for("the question to be forgotten", || (waiting(folder.path()) == 0).then_some(()));
    running.stop();
}

#[test]
fn a_series_is_complete_when_its_sender_asks_for_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let running = service(folder.path(), contourer(&Default::default()), |s| s.series.quiet_time_s = 60.0);
    let mut wire = asking(&running);
    let slices = ["1.2.60", "1.2.61", "1.2.62", "1.2.63"];
    send(&mut wire, &slices);
    wire.send(&question("1.2.9001", &slices));
    assert_eq!(wire.status(), 0);
    let done = wait_for("the series to be complete", || {
        job(folder.path(), "1.2.50").filter(|job| !job.versions.is_empty())
    });
    assert_eq!(done.versions[0].job.n_instances, 4);
    running.stop();
}

/// An HTTP request to Orthanc as the user that the test made, by hand; its answer as JSON.
fn http(port: u16, method: &str, path: &str, body: &[u8]) -> Value {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let login = "b2FybG9jazpzZWNyZXQgd29yZA==";
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nAuthorization: Basic {login}\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{method} {path}: {text}");
    serde_json::from_str(body).unwrap()
}

/// Orthanc sends, asks, hangs up, and takes the report on its own port.
#[test]
fn orthanc_asks_for_commitment_and_takes_the_report() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let port = free_port();
    let us = json!({"AET": "OARLOCK", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": true});
    let Some((_orthanc, http_port, dicom_port)) =
        orthanc(theirs.path(), json!({"DicomModalities": {"us": us}}))
    else {
        return;
    };
    let running = service(ours.path(), None, |s| {
        s.listen.port = port;
        let peer = format!("ORTHANC@127.0.0.1:{dicom_port}").parse().unwrap();
        s.commitment.report_to =
            vec![ReportToSettings { ae_title: "ORTHANC".parse().unwrap(), peer, tls: None }];
    });
    let object = crate::wire::part10(CT, "1.2.60", &data_set(CT, "1.2.50", "1.2.60", 0.0, 3));
    let stored = http(http_port, "POST", "/instances", &object);
    http(http_port, "POST", "/modalities/us/store", stored["ID"].as_str().unwrap().as_bytes());
    let ask = |instance: &str| {
        let body = json!({"DicomInstances": [{"SOPClassUID": CT, "SOPInstanceUID": instance}]}).to_string();
        let asked = http(http_port, "POST", "/modalities/us/storage-commitment", body.as_bytes());
        let path = asked["Path"].as_str().unwrap().to_owned();
        wait_for("Orthanc to have its report", || {
            let answer = http(http_port, "GET", &path, b"");
            (answer["Status"] != "Pending").then_some(answer)
        })
    };
    let kept = ask("1.2.60");
    assert_eq!(
        (&kept["Status"], &kept["Success"][0]["SOPInstanceUID"]),
        (&json!("Success"), &json!("1.2.60"))
    );
    let missing = ask("1.2.69");
    assert_eq!(missing["Status"], "Failure", "{missing}");
    assert_eq!(missing["Failures"][0]["FailureReason"], 0x0112, "{missing}");
    wait_for("the questions to be forgotten", || (waiting(ours.path()) == 0).then_some(()));
    running.stop();
}
