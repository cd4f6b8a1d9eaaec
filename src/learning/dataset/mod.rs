//! Cases: CT, masks, and which organs are annotated.
//!
//! Comes in: folders of other projects. Goes out: a [`Dataset`] (a folder of ours), [`Case`] (one patient as annotated)
//! and [`Sample`] (one random look at a patient on the network's grid, ready to train on).

mod atlas;
mod augment;
mod case;
mod elastic;
mod error;
pub mod export;
pub mod import;
mod nifti_volume;
mod open_kbp;
mod organ_set;
mod plausible;
pub mod store;

pub use atlas::{LabelAtlas, N_TISSUES};
pub use augment::{AugmentSettings, Sample, SampleGrid, draw_sample, whole_sample};
pub use case::Case;
pub use error::DatasetError;
pub use open_kbp::{OpenKbpPatient, list_open_kbp};
pub use organ_set::OrganSet;
pub use plausible::{Doubt, Review, doubts, review};
pub use store::{Dataset, Part, StoreError, StoredCase};
