//! Values without input or output; depends on nothing else in the crate.

pub(crate) mod causes;
pub mod dicom;
pub mod organ;
pub mod space;
