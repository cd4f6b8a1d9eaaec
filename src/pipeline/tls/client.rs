//! The side that calls.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Socket, TlsError, files, provider};

/// Where the calling side's certificates lie; all in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsClientFiles {
    /// Authorities of which one must have signed the peer's certificate; `None` takes the system's.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its private key, for peers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name that the peer's certificate is for, where that is not the host that is called.
    pub server_name: Option<String>,
}

/// TLS of the calling side.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: &TlsClientFiles) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::System)?;
        let builder = match &files.authorities {
            Some(path) => builder.with_root_certificates(files::authorities(path)?),
            None => builder.with_platform_verifier().map_err(TlsError::System)?,
        };
        let config = match &files.certificate {
            Some((certificate, key)) => builder
                .with_client_auth_cert(files::certificates(certificate)?, files::private_key(key)?)
                .map_err(|source| TlsError::Certificate { certificate: certificate.clone(), source })?,
            None => builder.with_no_client_auth(),
        };
        let server_name = files.server_name.as_deref().map(name).transpose()?;
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// The handshake with a host that we have connected to.
    ///
    /// # Errors
    /// What the handshake says: another authority, a certificate for another name, expired, or not wanted.
    pub(crate) async fn connect(&self, host: &str, socket: TcpStream) -> io::Result<Socket> {
        let name = self.name(host)?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await?;
        Ok(tokio_rustls::TlsStream::Client(stream).into())
    }

    /// The same for what writes without a runtime; the handshake comes with the first write.
    ///
    /// # Errors
    /// A host that is no name.
    pub(crate) fn blocking(
        &self,
        host: &str,
        socket: std::net::TcpStream,
    ) -> io::Result<Box<dyn io::Write + Send>> {
        let name = self.name(host)?;
        let connection =
            rustls::ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        Ok(Box::new(rustls::StreamOwned::new(connection, socket)))
    }

    fn name(&self, host: &str) -> io::Result<ServerName<'static>> {
        self.server_name.clone().map_or_else(|| name(host), Ok).map_err(io::Error::other)
    }
}

fn name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_invalid| TlsError::ServerName(host.to_owned()))
}
