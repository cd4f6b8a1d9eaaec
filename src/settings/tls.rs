//! TLS of the calling side, wherever it is set.

use std::path::PathBuf;

use serde::Deserialize;

use crate::pipeline::tls::TlsClientFiles;

/// What we show to a peer that we call over TLS, and whom we believe; all files are PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsClientSettings {
    /// Authorities of which one must have signed the peer's certificate; the system's without it.
    pub authorities: Option<PathBuf>,
    /// Our certificate, and after it those between it and its root.
    pub certificate: Option<CertificateAndKey>,
    /// The name that the peer's certificate is for, where that is not the host that is called.
    pub server_name: Option<String>,
}

/// A certificate and its private key, without a password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateAndKey {
    /// The certificate.
    pub file: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsClientSettings {
    /// The files to load.
    #[must_use]
    pub fn files(&self) -> TlsClientFiles {
        TlsClientFiles {
            authorities: self.authorities.clone(),
            certificate: self.certificate.as_ref().map(|c| (c.file.clone(), c.key.clone())),
            server_name: self.server_name.clone(),
        }
    }
}
