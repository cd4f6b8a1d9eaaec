//! Everything between a clinic's cases and a model.

pub mod dataset;
pub mod evaluate;
pub mod model;
pub mod phantom;
pub mod train;
