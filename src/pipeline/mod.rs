//! From instances to an RTSTRUCT: data only moves down.

pub mod contours;
pub mod delivery;
pub mod ingest;
pub mod network;
pub mod rtstruct;
pub mod series;
pub mod volume;
