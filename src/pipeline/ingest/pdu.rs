//! Protocol data units on a socket (PS3.8 9.3): bounded before they are held, and each written in one piece.
//!
//! `dicom-ul` reads and writes the negotiation; P-DATA passes through here without a copy of its own.

use std::io;
use std::time::Duration;

use dicom_ul::Pdu;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::pipeline::tls::Socket;

/// The largest P-DATA PDU we announce and take, bytes after the PDU header. Large, so that a sender whose socket
/// waits for acknowledgements (Nagle) waits rarely.
pub(crate) const MAX_P_DATA: u32 = 131_072;

/// The largest PDU of any other kind: 128 presentation contexts with 61 transfer syntaxes each need 205 kB.
const MAX_NEGOTIATION: u32 = 524_288;

/// Bytes before the body: type, reserved, length.
const HEADER: usize = 6;

/// PDU types (PS3.8 9.3.1).
pub(crate) mod kind {
    pub(crate) const ASSOCIATE_RQ: u8 = 0x01;
    pub(crate) const ASSOCIATE_RJ: u8 = 0x03;
    pub(crate) const P_DATA: u8 = 0x04;
    pub(crate) const RELEASE_RQ: u8 = 0x05;
    pub(crate) const RELEASE_RP: u8 = 0x06;
    pub(crate) const ABORT: u8 = 0x07;
}

/// Reasons of a provider's abort (PS3.8 9.3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbortReason {
    UnrecognizedPdu = 1,
    UnexpectedPdu = 2,
    InvalidParameter = 6,
}

/// Why no PDU came or went.
#[derive(Debug, thiserror::Error)]
pub enum PduError {
    /// The connection ended where a PDU could have begun.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing whole came in time, or the peer does not read.
    #[error("the peer did not finish within {0:?}; is it alive, and is the line?")]
    Late(Duration),
    /// Longer than announced.
    #[error("the peer announces a PDU of type {kind:02X}H with {length} bytes, {allowed} are allowed")]
    TooLong {
        /// PDU type.
        kind: u8,
        /// Length in its header.
        length: u32,
        /// What we take.
        allowed: u32,
    },
    /// No PDU type of PS3.8.
    #[error("the peer sends type {0:02X}H, which is no PDU; is it a DICOM peer, and without TLS?")]
    UnknownType(u8),
    /// The socket failed.
    #[error("the connection broke")]
    Socket(#[source] io::Error),
    /// The PDU is not as PS3.8 wants it.
    #[error("the peer's PDU cannot be read")]
    Malformed(#[source] Box<dicom_ul::pdu::ReadError>),
    /// We could not write ours: our mistake.
    #[error("a PDU could not be encoded")]
    Encode(#[source] Box<dicom_ul::pdu::WriteError>),
}

/// A connection that speaks PDUs.
#[derive(Debug)]
pub(crate) struct PduStream {
    socket: Socket,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    outgoing: Vec<u8>,
}

impl PduStream {
    /// Takes the socket over and switches Nagle's algorithm off.
    pub(crate) fn new(socket: impl Into<Socket>) -> Result<Self, PduError> {
        let socket = socket.into();
        socket.tcp().set_nodelay(true).map_err(PduError::Socket)?;
        Ok(Self { socket, buffer: vec![0; 16_384], start: 0, end: 0, outgoing: Vec::new() })
    }

    /// The next PDU: its type and where its body lies until the next call (see [`PduStream::body`]).
    pub(crate) async fn next(&mut self, limit: Duration) -> Result<(u8, std::ops::Range<usize>), PduError> {
        match timeout(limit, self.next_unlimited()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(PduError::Late(limit)),
        }
    }

    async fn next_unlimited(&mut self) -> Result<(u8, std::ops::Range<usize>), PduError> {
        self.fill(HEADER).await?;
        let header = &self.buffer[self.start..self.start + HEADER];
        let kind = header[0];
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let allowed = match kind {
            kind::P_DATA => MAX_P_DATA,
            1..=7 => MAX_NEGOTIATION,
            _ => return Err(PduError::UnknownType(kind)),
        };
        let body = match usize::try_from(length) {
            Ok(body) if length <= allowed => body,
            _ => return Err(PduError::TooLong { kind, length, allowed }),
        };
        self.fill(HEADER + body).await?;
        let range = self.start + HEADER..self.start + HEADER + body;
        self.start = range.end;
        Ok((kind, range))
    }

    /// The body that [`PduStream::next`] pointed to.
    pub(crate) fn body(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// The whole PDU that [`PduStream::next`] pointed to, read by `dicom-ul`.
    pub(crate) fn negotiation(&self, range: std::ops::Range<usize>) -> Result<Option<Pdu>, PduError> {
        let whole = &self.buffer[range.start - HEADER..range.end];
        dicom_ul::pdu::read_pdu(whole, MAX_NEGOTIATION, true).map_err(|e| PduError::Malformed(Box::new(e)))
    }

    /// Reads until `wanted` bytes lie after `start`. The buffer grows only to what a checked length asks for.
    async fn fill(&mut self, wanted: usize) -> Result<(), PduError> {
        if self.end - self.start >= wanted {
            return Ok(());
        }
        if self.start + wanted > self.buffer.len() || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted.max(HEADER + MAX_P_DATA as usize + 4_096), 0);
            }
        }
        while self.end - self.start < wanted {
            let n = self.socket.read(&mut self.buffer[self.end..]).await.map_err(PduError::Socket)?;
            if n == 0 && self.end == self.start {
                return Err(PduError::Closed);
            }
            if n == 0 {
                return Err(PduError::Socket(io::ErrorKind::UnexpectedEof.into()));
            }
            self.end += n;
            self.acknowledge();
        }
        Ok(())
    }

    /// Acknowledges at once: a sender with Nagle's algorithm on, as dcmtk ships, holds the end of each PDU back
    /// until we do, and the system would wait up to 40 ms for company. Only speed depends on it.
    fn acknowledge(&self) {
        crate::platform::acknowledge_at_once(self.socket.tcp());
    }

    /// Writes one PDU in one piece.
    pub(crate) async fn send(&mut self, pdu: &Pdu, limit: Duration) -> Result<(), PduError> {
        self.outgoing.clear();
        dicom_ul::pdu::write_pdu(&mut self.outgoing, pdu).map_err(|e| PduError::Encode(Box::new(e)))?;
        self.flush(limit).await
    }

    /// Writes a short PDU without variable fields: release, reject or abort, its four bytes after the header.
    pub(crate) async fn send_short(
        &mut self,
        kind: u8,
        fields: [u8; 4],
        limit: Duration,
    ) -> Result<(), PduError> {
        self.outgoing.clear();
        self.outgoing.extend([kind, 0, 0, 0, 0, 4]);
        self.outgoing.extend(fields);
        self.flush(limit).await
    }

    /// Writes a command of one fragment.
    pub(crate) async fn send_command(
        &mut self,
        context: u8,
        command: &[u8],
        limit: Duration,
    ) -> Result<(), PduError> {
        self.outgoing.clear();
        push_p_data(&mut self.outgoing, context, COMMAND | LAST, command);
        self.flush(limit).await
    }

    /// Writes a command and its data set, in PDUs of at most `max_body` bytes (0: no limit, so ours is used).
    pub(crate) async fn send_message(
        &mut self,
        context: u8,
        (command, data_set): (&[u8], &[u8]),
        max_body: u32,
        limit: Duration,
    ) -> Result<(), PduError> {
        let max_body = if max_body == 0 { MAX_P_DATA } else { max_body.min(MAX_P_DATA) };
        let fragment =
            usize::try_from(max_body).unwrap_or(usize::MAX).saturating_sub(PDV_HEADER).max(128) & !1;
        self.outgoing.clear();
        push_p_data(&mut self.outgoing, context, COMMAND | LAST, command);
        let n = data_set.len().div_ceil(fragment);
        for (index, part) in data_set.chunks(fragment).enumerate() {
            push_p_data(&mut self.outgoing, context, if index + 1 == n { LAST } else { 0 }, part);
            self.flush(limit).await?;
            self.outgoing.clear();
        }
        self.flush(limit).await
    }

    async fn flush(&mut self, limit: Duration) -> Result<(), PduError> {
        let write = async {
            self.socket.write_all(&self.outgoing).await?;
            self.socket.flush().await
        };
        match timeout(limit, write).await {
            Ok(written) => written.map_err(PduError::Socket),
            Err(_elapsed) => Err(PduError::Late(limit)),
        }
    }

    /// Tells the peer why we stop. It is our last word, so a peer that is gone is no error.
    pub(crate) async fn abort(&mut self, reason: AbortReason) {
        let told = self.send_short(kind::ABORT, [0, 0, 2, reason as u8], LAST_WORD).await;
        if let Err(error) = told {
            tracing::debug!(%error, "the peer did not take the abort");
        }
        self.close().await;
    }

    /// Closes so that the peer can still read what we wrote last: closing with unread bytes would reset the
    /// connection and take our answer with it.
    pub(crate) async fn close(&mut self) {
        close(&mut self.socket).await;
    }
}

/// How long a peer has to take our last word.
const LAST_WORD: Duration = Duration::from_secs(1);

/// See [`PduStream::close`].
pub(crate) async fn close(socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let drain = async {
        socket.shutdown().await?;
        let mut bin = [0; 4_096];
        for _ in 0..1_024 {
            if socket.read(&mut bin).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = timeout(LAST_WORD, drain).await {
        tracing::debug!(%error, "the connection was gone before it was closed");
    }
}

/// Bytes of a presentation data value before its fragment: length, context, control header.
const PDV_HEADER: usize = 6;

/// Bits of the message control header (PS3.8 E.2).
pub(crate) const COMMAND: u8 = 0x01;
/// Last fragment.
pub(crate) const LAST: u8 = 0x02;

fn push_p_data(out: &mut Vec<u8>, context: u8, control: u8, fragment: &[u8]) {
    let pdv = u32::try_from(fragment.len() + 2).expect("a fragment is cut to at most MAX_P_DATA bytes");
    out.extend([kind::P_DATA, 0]);
    out.extend((pdv + 4).to_be_bytes());
    out.extend(pdv.to_be_bytes());
    out.extend([context, control]);
    out.extend(fragment);
}
