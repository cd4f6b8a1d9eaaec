//! The side that listens.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Socket, TlsError, files, provider};

/// Where the listening side's certificates lie; all in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsServerFiles {
    /// Our certificate, and after it those between it and its root.
    pub certificate: PathBuf,
    /// Its private key, readable for its owner (and group) only.
    pub key: PathBuf,
    /// What peers must show.
    pub client_certificates: ClientCertificates,
}

/// What a peer that calls must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A certificate of one of the authorities in this file.
    Required(PathBuf),
    /// A certificate of one of the authorities in this file, or none.
    Optional(PathBuf),
    /// Nothing: the connection is secret, but anybody may call.
    Off,
}

/// TLS of the listening side; its files can be read again while it serves.
#[derive(Debug)]
pub struct TlsServer {
    files: TlsServerFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: TlsServerFiles) -> Result<Self, TlsError> {
        let config = RwLock::new(config(&files)?);
        Ok(Self { files, config })
    }

    /// Reads the files again: for connections that come from now on. On an error the ones before stay in use.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = config(&self.files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The handshake. On a failure the connection comes back, so that it can be closed in order.
    pub(crate) async fn accept(&self, socket: TcpStream) -> Result<Socket, (io::Error, TcpStream)> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let stream = TlsAcceptor::from(config).accept(socket).into_fallible().await?;
        Ok(tokio_rustls::TlsStream::Server(stream).into())
    }
}

fn config(files: &TlsServerFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Certificate { certificate: files.certificate.clone(), source })?;
    let verifier = |path: &PathBuf| {
        let authorities = Arc::new(files::authorities(path)?);
        Ok(WebPkiClientVerifier::builder_with_provider(authorities, provider()))
    };
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source: rustls::server::VerifierBuilderError| TlsError::Authorities {
            path,
            source: source.into(),
        }
    };
    let verifier = match &files.client_certificates {
        ClientCertificates::Required(path) => verifier(path)?.build().map_err(failed(path))?,
        ClientCertificates::Optional(path) => {
            verifier(path)?.allow_unauthenticated().build().map_err(failed(path))?
        }
        ClientCertificates::Off => WebPkiClientVerifier::no_client_auth(),
    };
    let config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(files::certificates(&files.certificate)?, files::private_key(&files.key)?)
        .map_err(|source| TlsError::Certificate { certificate: files.certificate.clone(), source })?;
    Ok(Arc::new(config))
}
