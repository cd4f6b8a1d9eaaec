//! Sending: C-STORE and C-ECHO as SCU, the objects that still have to go, and when to try again.

mod find;
mod outbox;
mod scu;

pub use find::{FindError, count_instances};
pub(crate) use outbox::replace;
pub use outbox::{OutboxError, OutboxFolder, RetryPolicy};
pub use scu::{Kind, Scu, ScuError, ScuTimeouts, echo, echo_with, kind_of};
