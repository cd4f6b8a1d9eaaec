//! Sending: C-STORE, DICOMweb or a folder, C-ECHO, storage commitment and notices; the objects that still have to go, and
//! when to try again.

mod commitment;
mod destination;
mod find;
mod folder;
mod http;
mod mail;
mod outbox;
mod scu;
mod secret;
mod stow;
mod webhook;

pub use commitment::report_commitment;
pub use destination::{DeliveryError, Destination, Receipt, Way};
pub use find::{FindError, count_instances};
pub use folder::FolderError;
pub use http::CertificatesError;
pub use mail::{Mail, MailAddress, MailEncryption};
pub use outbox::{OutboxFolder, RetryPolicy};
pub use scu::{Kind, Scu, ScuError, ScuTimeouts, Stored, echo, echo_with, kind_of};
pub use secret::{Secret, SecretError, SecretSource};
pub use stow::{Login, StowError, StowService};
pub use webhook::{Audience, Listeners, Notice, NoticeKind, Notices, Webhook};

pub use super::objects::ObjectError as OutboxError;
