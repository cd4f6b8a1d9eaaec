//! Sending: C-STORE and C-ECHO as SCU, and the outbox that survives a restart.

mod scu;

pub use scu::{Kind, Scu, ScuError, ScuTimeouts, echo, kind_of};
