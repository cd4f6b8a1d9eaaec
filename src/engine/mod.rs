//! The network, defined once, and what runs it; knows nothing of DICOM.

pub mod graph;
pub mod runtime;
