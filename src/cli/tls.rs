//! TLS of the commands that call a peer.

use std::path::PathBuf;

use clap::Args;

/// TLS towards a peer; every file is PEM.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsArgs {
    /// Call with TLS 1.2 or 1.3.
    #[arg(long)]
    pub tls: bool,
    /// Authorities of which one must have signed the peer's certificate; those of the system without it.
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub tls_authorities: Option<PathBuf>,
    /// Our certificate, for a peer that asks for one.
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_key"])]
    pub tls_certificate: Option<PathBuf>,
    /// The private key of our certificate, without a password.
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_certificate"])]
    pub tls_key: Option<PathBuf>,
    /// The name in the peer's certificate, where it is not the host that is called.
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub tls_name: Option<String>,
}
