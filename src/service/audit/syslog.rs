//! RFC 5424 messages, and their way to a receiver: UDP (RFC 5426), TCP with octet counting (RFC 6587), TLS (RFC 5425).

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::pipeline::tls::TlsClient;
use crate::settings::audit::{SyslogReceiver, SyslogTransport};

/// Facility 10 (security), severity 5 (notice), as PS3.15 A.6 and IHE have it.
const PRIORITY: u8 = 85;

/// For a connection, and for each message to be taken.
const LIMIT: Duration = Duration::from_secs(5);

/// One message around an XML document. RFC 5424 wants UTF-8 to begin with its mark.
pub(super) fn frame(now: OffsetDateTime, document: &str) -> String {
    let time = now.format(&Rfc3339).unwrap_or_else(|_out_of_range| "-".to_owned());
    let (host, process) = (host_name(), std::process::id());
    format!("<{PRIORITY}>1 {time} {host} oarlock {process} DICOM+RFC3881 - \u{FEFF}{document}")
}

/// The name of this machine in the letters that RFC 5424 allows.
pub(in crate::service) fn host_name() -> String {
    let name: String =
        crate::platform::host_name().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

/// The way to a receiver; a broken one is opened again with the next message.
pub(super) struct Syslog {
    receiver: SyslogReceiver,
    tls: Option<TlsClient>,
    stream: Option<Box<dyn Write + Send>>,
}

impl Syslog {
    pub(super) fn new(receiver: SyslogReceiver, tls: Option<TlsClient>) -> Self {
        Self { receiver, tls, stream: None }
    }

    pub(super) fn send(&mut self, frame: &str) -> io::Result<()> {
        let framed = match self.receiver.transport {
            SyslogTransport::Udp => frame.as_bytes().to_vec(),
            SyslogTransport::Tcp | SyslogTransport::Tls => format!("{} {frame}", frame.len()).into_bytes(),
        };
        // A connection that broke while idle shows only when it is written to, so the second try is on a new one.
        let again = self.stream.is_some();
        match self.write(&framed) {
            Err(_stale) if again => self.write(&framed),
            outcome => outcome,
        }
    }

    fn write(&mut self, framed: &[u8]) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(framed)?;
        stream.flush()?;
        self.stream = Some(stream);
        Ok(())
    }

    fn connect(&self) -> io::Result<Box<dyn Write + Send>> {
        let (host, port) = (self.receiver.host.as_str(), self.receiver.port);
        let address = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        if self.receiver.transport == SyslogTransport::Udp {
            let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(local)?;
            socket.connect(address)?;
            return Ok(Box::new(Datagrams(socket)));
        }
        let socket = TcpStream::connect_timeout(&address, LIMIT)?;
        socket.set_write_timeout(Some(LIMIT))?;
        socket.set_read_timeout(Some(LIMIT))?;
        match &self.tls {
            Some(tls) => tls.blocking(host, socket),
            None => Ok(Box::new(socket)),
        }
    }
}

/// Each write is one message.
struct Datagrams(UdpSocket);

impl Write for Datagrams {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        self.0.send(message)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
