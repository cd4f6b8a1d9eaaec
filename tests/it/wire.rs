//! A DICOM peer that breaks any rule on request: PDUs and data sets written by hand (PS3.8 9.3, PS3.5 7.1).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock::pipeline::delivery::{self, ScuTimeouts};
use oarlock::service::{Contourer, Service};
use oarlock::settings::ServiceSettings;

pub(crate) const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub(crate) const RTSTRUCT: &str = "1.2.840.10008.5.1.4.1.1.481.3";
pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A service on a free port of loopback with its data in `folder`.
pub(crate) fn service(
    folder: &Path,
    contourer: Option<Contourer>,
    change: impl FnOnce(&mut ServiceSettings),
) -> Service {
    let mut settings = ServiceSettings { data_dir: Some(folder.to_owned()), ..ServiceSettings::default() };
    settings.listen.port = 0;
    settings.listen.min_free_mb = 1;
    settings.stop_grace_s = 5.0;
    change(&mut settings);
    Service::start(&settings, contourer).unwrap()
}

/// Whether a C-ECHO is answered within 5 s.
pub(crate) fn echoes(address: SocketAddr) -> bool {
    let limit = Duration::from_secs(5);
    let peer = format!("ANY@{address}").parse().unwrap();
    let calling = "TEST".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(delivery::echo(&peer, &calling, ScuTimeouts { connect: limit, answer: limit })).is_ok()
}

/// Waits until `done` gives a value.
pub(crate) fn wait_for<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    wait_within(LIMIT, what, done)
}

/// Waits so long until `done` gives a value.
pub(crate) fn wait_within<T>(limit: Duration, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A destination's folder holds a structure set of each version and none twice; the series of one is named after the
/// version that it is of.
pub(crate) fn assert_each_once(folder: &Path, versions: &BTreeSet<String>, name: &str) {
    assert!(files(&folder.join("quarantine"), "dcm").is_empty(), "at {name}");
    let mut there: BTreeMap<String, usize> = BTreeMap::new();
    for file in files(&folder.join("instances"), "dcm") {
        let series = file.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        *there.entry(series).or_default() += 1;
    }
    let twice: Vec<_> = there.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "delivered twice to {name}: {twice:?}");
    assert_eq!(&there.into_keys().collect::<BTreeSet<_>>(), versions, "at {name}");
}

/// All files below a folder with this extension, sorted.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = all_files(folder);
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found
}

/// All files below a folder, sorted.
pub(crate) fn all_files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

pub(crate) fn pdu(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&[kind, 0][..], &length.to_be_bytes(), body].concat()
}

pub(crate) fn item(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    [&[kind, 0][..], &length.to_be_bytes(), body].concat()
}

/// An A-ASSOCIATE-RQ, and what can be wrong with it.
pub(crate) struct Request {
    pub(crate) protocol_version: u16,
    pub(crate) called: &'static str,
    pub(crate) calling: &'static str,
    pub(crate) application_context: &'static str,
    pub(crate) contexts: Vec<(u8, &'static str, &'static str)>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            protocol_version: 1,
            called: "OARLOCK",
            calling: "TEST",
            application_context: "1.2.840.10008.3.1.1.1",
            contexts: vec![(1, CT, EXPLICIT)],
        }
    }
}

impl Request {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = [&self.protocol_version.to_be_bytes()[..], &[0, 0]].concat();
        body.extend(format!("{:16}{:16}", self.called, self.calling).bytes());
        body.extend([0; 32]);
        body.extend(item(0x10, self.application_context.as_bytes()));
        for (id, class, syntax) in &self.contexts {
            let inner = [vec![*id, 0, 0, 0], item(0x30, class.as_bytes()), item(0x40, syntax.as_bytes())];
            body.extend(item(0x20, &inner.concat()));
        }
        body.extend(item(0x50, &[item(0x51, &16_384_u32.to_be_bytes()), item(0x52, b"1.2.3")].concat()));
        pdu(1, &body)
    }
}

/// A connection of which every read has a limit.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, LIMIT).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self(socket)
    }

    /// Connects from another address of loopback.
    pub(crate) fn connect_from(from: Ipv4Addr, address: SocketAddr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        Self(socket.into())
    }

    /// Ends the connection with a reset instead of in order.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Connects and associates with CT Image in explicit VR on context 1.
    pub(crate) fn associated(address: SocketAddr) -> Self {
        let mut wire = Self::connect(address);
        wire.send(&Request::default().bytes());
        assert_eq!(wire.next().expect("an answer").0, 2, "no A-ASSOCIATE-AC");
        wire
    }

    /// As [`Self::associated`], where the other side may be gone.
    pub(crate) fn try_associated(address: SocketAddr) -> Option<Self> {
        let socket = TcpStream::connect_timeout(&address, LIMIT).ok()?;
        socket.set_read_timeout(Some(LIMIT)).ok()?;
        socket.set_nodelay(true).ok()?;
        let mut wire = Self(socket);
        wire.send(&Request::default().bytes());
        (wire.next()?.0 == 2).then_some(wire)
    }

    /// Sends, and says whether it went: that the other side has closed already is no failure of the test.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// The next PDU, or `None` when the connection is closed.
    pub(crate) fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 6];
        if let Err(error) = self.0.read_exact(&mut header) {
            let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(closed.contains(&error.kind()), "neither answered nor closed: {error}");
            return None;
        }
        let length = u32::from_be_bytes(header[2..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut body).ok()?;
        Some((header[0], body))
    }

    /// Tells the other side that no more comes.
    pub(crate) fn end_of_sending(&mut self) {
        drop(self.0.shutdown(std::net::Shutdown::Write));
    }

    /// Whether something has come, or the connection has ended.
    pub(crate) fn has_answer(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let looked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        !looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends a C-STORE-RQ on context 1 and gives the status of its answer.
    pub(crate) fn store(&mut self, uid: &str, data_set: &[u8]) -> u16 {
        self.send(&store(uid, data_set));
        self.status()
    }

    pub(crate) fn status(&mut self) -> u16 {
        self.try_status().expect("the association ended instead of an answer")
    }

    /// The status of the next answer, `None` when the association has ended.
    pub(crate) fn try_status(&mut self) -> Option<u16> {
        let (kind, body) = self.next()?;
        assert_eq!(kind, 4, "no P-DATA: {body:?}");
        let at = body.windows(8).position(|w| w == [0, 0, 0, 9, 2, 0, 0, 0]).expect("no status");
        Some(u16::from_le_bytes([body[at + 8], body[at + 9]]))
    }
}

pub(crate) fn pdv(context: u8, control: u8, fragment: &[u8]) -> Vec<u8> {
    let length = u32::try_from(fragment.len() + 2).unwrap();
    [&length.to_be_bytes()[..], &[context, control], fragment].concat()
}

fn implicit(element: u16, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap();
    [&[0, 0][..], &element.to_le_bytes(), &length.to_le_bytes(), value].concat()
}

fn padded(text: &str, with: u8) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(with);
    }
    value
}

pub(crate) fn store_command(uid: &str) -> Vec<u8> {
    store_command_of(CT, uid)
}

pub(crate) fn store_command_of(class: &str, uid: &str) -> Vec<u8> {
    [
        implicit(2, &padded(class, 0)),
        implicit(0x100, &[1, 0]),
        implicit(0x110, &[9, 0]),
        implicit(0x800, &[0, 0]),
        implicit(0x1000, &padded(uid, 0)),
    ]
    .concat()
}

/// A whole C-STORE-RQ of a CT image on context 1.
pub(crate) fn store(uid: &str, data_set: &[u8]) -> Vec<u8> {
    let mut bytes = pdu(4, &pdv(1, 3, &store_command(uid)));
    let parts = data_set.chunks(30_000).count();
    for (index, part) in data_set.chunks(30_000).enumerate() {
        bytes.extend(pdu(4, &pdv(1, if index + 1 == parts { 2 } else { 0 }, part)));
    }
    bytes
}

pub(crate) fn element(group: u16, number: u16, vr: &str, value: &[u8]) -> Vec<u8> {
    let head = [&group.to_le_bytes()[..], &number.to_le_bytes(), vr.as_bytes()].concat();
    if vr == "OW" {
        let length = u32::try_from(value.len()).unwrap();
        return [&head[..], &[0, 0], &length.to_le_bytes(), value].concat();
    }
    let length = u16::try_from(value.len()).unwrap();
    [&head[..], &length.to_le_bytes(), value].concat()
}

/// A data set in explicit VR little endian: identifiers, place, and pixels of one value.
pub(crate) fn data_set(class: &str, series: &str, uid: &str, z_mm: f64, pixel: u8) -> Vec<u8> {
    [
        element(8, 0x16, "UI", &padded(class, 0)),
        element(8, 0x18, "UI", &padded(uid, 0)),
        element(0x10, 0x20, "LO", b"TEST"),
        element(0x20, 0x0D, "UI", &padded("1.2.777", 0)),
        element(0x20, 0x0E, "UI", &padded(series, 0)),
        element(0x20, 0x32, "DS", &padded(&format!("-31\\7.5\\{z_mm}"), b' ')),
        element(0x7FE0, 0x10, "OW", &[pixel; 154]),
    ]
    .concat()
}

pub(crate) fn ct(series: &str, uid: &str) -> Vec<u8> {
    data_set(CT, series, uid, 2.5, 7)
}

/// A Part 10 file, so that a test needs no writer of ours.
pub(crate) fn part10(class: &str, uid: &str, data_set: &[u8]) -> Vec<u8> {
    let meta = [
        element(2, 2, "UI", &padded(class, 0)),
        element(2, 3, "UI", &padded(uid, 0)),
        element(2, 0x10, "UI", &padded(EXPLICIT, 0)),
        element(2, 0x12, "UI", &padded("1.2.3", 0)),
    ]
    .concat();
    let length = u32::try_from(meta.len()).unwrap().to_le_bytes();
    [&[0; 128][..], b"DICM", &element(2, 0, "UL", &length), &meta, data_set].concat()
}
