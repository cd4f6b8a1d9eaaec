//! TLS 1.2 and 1.3 for both sides of an association, by BCP 195 (RFC 9325, PS3.15 B.12): forward secrecy and
//! authenticated encryption only; what is older is refused.
//!
//! Comes in: a TCP connection and files in PEM form. Goes out: a connection whose peer is who the files say it may be.

mod client;
mod files;
mod server;
mod socket;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

pub use client::{TlsClient, TlsClientFiles};
pub use server::{ClientCertificates, TlsServer, TlsServerFiles};
pub(crate) use socket::Socket;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or unreadable.
    #[error("{path} cannot be read: check the path, and that this user may read it")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {wanted} in PEM form")]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Others may read or change the private key.
    #[error("others than its owner may use the private key {path} (mode {mode:o}): chmod 600 {path}")]
    KeyOpen {
        /// Which.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Certificate and key do not belong together, or a certificate is no X.509 version 3.
    #[error("the certificate {certificate} cannot be used with its key")]
    Certificate {
        /// Which.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The list of authorities cannot be used.
    #[error("the certificates in {path} cannot be used to check peers")]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A host that is neither a DNS name nor an address.
    #[error("{0:?} is no name that a certificate could be for")]
    ServerName(String),
    /// The system's list of authorities cannot be used.
    #[error("the system's certificate authorities cannot be used: name a file of authorities")]
    System(#[source] rustls::Error),
}

/// Whether an error is, or comes from, a handshake that one of both sides refused: in most cases it does not believe the
/// other's certificate.
pub(crate) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) =
            error.downcast_ref()
        {
            return true;
        }
        // What an I/O error wraps is not its source.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

/// What libraries that ask the process for its TLS get; the first call counts.
pub(crate) fn use_for_all() {
    // An error says that it is set already.
    drop(ring::default_provider().install_default());
}

/// The cipher suites and groups; rustls has no other than ECDHE with AES-GCM or ChaCha20-Poly1305.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
