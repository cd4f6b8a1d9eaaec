//! Values without input or output; depends on nothing else in the crate.

pub mod dicom;
pub mod organ;
pub mod space;
