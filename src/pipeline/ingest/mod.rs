//! The Store SCP: associations, messages, and the spool that makes an instance durable before success is told.
//!
//! Comes in: connections. Goes out: [`StoredInstance`], durable on disk, its UIDs parsed.

pub(crate) mod association;
pub(crate) mod commitment;
pub(crate) mod data_set;
mod listener;
pub(crate) mod part10;
pub(crate) mod pdu;
pub(crate) mod receiver;
mod spool;

pub use data_set::DataSetError;
pub use listener::{Caller, Callers, IngestCounters, Listener, ListenerOptions, StorageClasses};
pub use part10::Part10Error;
pub use pdu::PduError;
pub use receiver::FragmentError;
pub use spool::{Clue, Spool, SpoolError, SpoolLimits, StoredInstance, free_mb};
