//! Delivery: C-STORE, DICOMweb or a folder, and the outbox that survives a restart.

mod commitment;
mod destination;
mod folder;
mod http;
mod outbox;
mod scu;
mod secret;
mod stow;
mod webhook;

pub use destination::{DeliveryError, Destination, Receipt, Way};
pub use folder::FolderError;
pub use http::CertificatesError;
pub(crate) use outbox::replace;
pub use outbox::{Delivery, DeliveryState, Outbox, OutboxError, RetryPolicy};
pub use scu::{Kind, Scu, ScuError, ScuTimeouts, Stored, echo, kind_of};
pub use secret::{Secret, SecretError, SecretSource};
pub use stow::{Login, StowError, StowService};
pub use webhook::{Notice, NoticeKind, Notices, Webhook};
