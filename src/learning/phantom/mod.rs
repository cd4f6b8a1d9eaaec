//! Bodies and patients of known shape as CT series with their exact structure sets.
//!
//! Comes in: a [`Phantom`] (what is where in the patient) and a [`ScanGeometry`] (where the scanner looked). Goes out:
//! [`Scan`], HU and masks that are exact at the voxel centres, and the Part 10 files of a CT series.

mod anatomy;
mod bodies;
mod ct_writer;
mod error;
mod geometry;
mod patient;
mod rle;
mod scan;
mod truth;

pub use anatomy::{ATTRIBUTION, shipped_anatomy};
pub use bodies::Bodies;
pub use ct_writer::{PhantomIdentity, WRITABLE_TRANSFER_SYNTAXES, write_ct_series};
pub use error::PhantomError;
pub use geometry::{PatientPosition, ScanGeometry};
pub use patient::Patient;
pub use scan::{Phantom, Scan, StructureName, scan};
pub use truth::truth_structure_set;
