//! Why the service does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::AddError;
use super::audit::AuditError;
use super::store::StoreError;
use crate::pipeline::delivery::{OutboxError, SecretError};
use crate::pipeline::ingest::{PledgeError, SpoolError};
use crate::pipeline::objects::{BucketError, ObjectError};
use crate::pipeline::tls::TlsError;
use crate::settings::SettingsError;
use crate::settings::store::AddressError;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The data folder.
    #[error("the data folder {folder} cannot be used: check that it exists and belongs to this user")]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two services would spoil each other's state.
    #[error("another service works in {folder}: stop it, or choose another folder with --data-dir")]
    Locked {
        /// Which.
        folder: PathBuf,
    },
    /// Settings that were read again.
    #[error("the settings cannot be used")]
    Settings(#[source] SettingsError),
    /// The rules of selection.
    #[error("the rules cannot be used")]
    Rules(#[source] SettingsError),
    /// The received instances.
    #[error("the received instances cannot be read back")]
    Spool(#[source] SpoolError),
    /// The questions about storage commitment.
    #[error("what peers were promised a report on cannot be read back")]
    Pledges(#[source] PledgeError),
    /// The outbox.
    #[error("the outbox cannot be opened")]
    Outbox(#[source] OutboxError),
    /// What an earlier process left in the outbox.
    #[error("the outbox cannot be taken over from the earlier run")]
    Settle(#[source] AddError),
    /// The database.
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
    /// The database's address or password.
    #[error("the database of store.postgres cannot be reached")]
    Address(#[source] AddressError),
    /// The bucket's keys.
    #[error("the keys of store.s3 cannot be read")]
    Keys(#[source] SecretError),
    /// The bucket's settings.
    #[error("the object store of store.s3 cannot be used")]
    Bucket(#[source] BucketError),
    /// The bucket itself.
    #[error("the object store {place} cannot be used")]
    Objects {
        /// Which.
        place: String,
        /// Why.
        #[source]
        source: ObjectError,
    },
    /// The port.
    #[error("{address} cannot be listened on: is something else there already, or is the port below 1024?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The audit trail.
    #[error("the audit trail cannot be kept")]
    Audit(#[source] AuditError),
    /// Certificates and keys.
    #[error("TLS cannot be set up as listen.tls says")]
    Tls(#[source] TlsError),
    /// Threads.
    #[error("the system gives no threads")]
    Threads(#[source] io::Error),
}
