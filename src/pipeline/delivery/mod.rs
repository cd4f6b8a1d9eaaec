//! Sending: C-STORE and C-ECHO as SCU, and the outbox that survives a restart.

mod outbox;
mod scu;

pub(crate) use outbox::replace;
pub use outbox::{Delivery, DeliveryState, Outbox, OutboxError, RetryPolicy};
pub use scu::{Kind, Scu, ScuError, ScuTimeouts, echo, kind_of};
