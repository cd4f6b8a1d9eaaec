//! The RTSTRUCT: what it says, its modules (PS3.3 A.19), its bytes, its conformance, and reading others.
//!
//! Comes in: a `CtSeries` and named contours on its planes. Goes out: [`EncodedStructureSet`]; [`read`] is the way
//! back, from anybody's file.

mod characters;
pub mod conformance;
mod coordinates;
mod encode;
mod error;
mod format;
mod modules;
mod naming;
mod read;
mod structure_set;
mod written;

pub use characters::Unwritable;
pub use encode::{EncodedStructureSet, Encoding};
pub use error::RtstructError;
pub use format::{Format, Names, Types};
pub use modules::RT_STRUCTURE_SET_STORAGE;
pub use read::{FILL_RULE, ReadRoi, ReadStructureSet, read};
pub use structure_set::{
    CodedConcept, Description, Identity, InterpretedType, NotFound, Origin, Roi, StructureSet,
};
