//! Delivery: C-STORE, DICOMweb or a folder, and the outbox that survives a restart.

mod destination;
mod folder;
mod outbox;
mod scu;
mod secret;
mod stow;

pub use destination::{DeliveryError, Destination, Receipt, Way};
pub use folder::FolderError;
pub(crate) use outbox::replace;
pub use outbox::{Delivery, DeliveryState, Outbox, OutboxError, RetryPolicy};
pub use scu::{Kind, Scu, ScuError, ScuTimeouts, Stored, echo, kind_of};
pub use secret::{Secret, SecretError, SecretSource};
pub use stow::{Login, StowError, StowService};
