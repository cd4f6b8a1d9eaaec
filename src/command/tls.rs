//! TLS as the arguments of a command say.

use crate::cli::TlsArgs;
use crate::pipeline::tls::{TlsClient, TlsClientFiles, TlsError};

/// Reads the files; `None` where no TLS is asked for.
pub(super) fn tls_client(args: &TlsArgs) -> Result<Option<TlsClient>, TlsError> {
    if !args.tls {
        return Ok(None);
    }
    let files = TlsClientFiles {
        authorities: args.tls_authorities.clone(),
        certificate: args.tls_certificate.clone().zip(args.tls_key.clone()),
        server_name: args.tls_name.clone(),
    };
    TlsClient::load(&files).map(Some)
}
