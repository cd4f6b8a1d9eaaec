//! What HTTP requests of this room share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::scu::ScuTimeouts;

/// The file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificates in {path} cannot be used: it must hold certificates in PEM form")]
pub struct CertificatesError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// An agent that follows no redirection: a login must not travel to a place that nobody named. Servers are trusted by
/// the certificates in `ca_file`, else by those that the system trusts.
pub(super) fn agent(ca_file: Option<&Path>, timeouts: ScuTimeouts) -> Result<Agent, CertificatesError> {
    let roots = match ca_file {
        Some(path) => RootCerts::Specific(Arc::new(certificates(path)?)),
        None => RootCerts::PlatformVerifier,
    };
    let config = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(timeouts.connect))
        .timeout_send_body(Some(timeouts.answer))
        .timeout_recv_response(Some(timeouts.answer))
        .timeout_recv_body(Some(timeouts.answer))
        .user_agent(concat!("oarlock/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, CertificatesError> {
    let failed = |source| CertificatesError { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(failed)?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(failed(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
    }
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it")));
    }
    Ok(found)
}
