//! The Store SCP: associations, messages, and the spool that makes an instance durable before success is told.
//!
//! Comes in: connections. Goes out: [`StoredInstance`], durable on disk, its UIDs parsed.

pub(crate) mod association;
pub(crate) mod budget;
pub(crate) mod commitment;
pub(crate) mod data_set;
mod known;
mod listener;
pub(crate) mod part10;
pub(crate) mod pdu;
mod pledges;
mod questions;
pub(crate) mod receiver;
mod shared;
mod spool;
mod stored;
mod tally;
mod whereabouts;
mod witness;

pub use data_set::DataSetError;
pub use listener::{
    Caller, Callers, Door, IngestCounters, Listener, ListenerLimits, ListenerOptions, StorageClasses,
};
pub use part10::Part10Error;
pub use pdu::PduError;
pub use pledges::{CommitmentReport, Pledges, SeriesHint};
pub use questions::{AFTER_THE_ANSWER, Due, Pledge, PledgeError, Questions};
pub use receiver::FragmentError;
pub(crate) use shared::series_of_file;
pub use shared::{Announced, Announcer};
pub use spool::{OnDisk, Spool, SpoolError, SpoolLimits, free_mb};
pub use stored::{Clue, StoredInstance};
pub use whereabouts::{Finder, Whereabouts};
pub(crate) use witness::study_of_file;
pub use witness::{IngestEvent, StudyOf, Witness};
