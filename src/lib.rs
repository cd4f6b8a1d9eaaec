//! Oarlock: a DICOM-RT structure set generator plugged into a PACS.
//!
//! A CT series comes in at the top, a structure set leaves at the bottom, and data only moves down:
//!
//! ```text
//! PACS --C-STORE--> ingest -> series -> volume -> network -> contours -> rtstruct -> delivery --C-STORE--> PACS
//! ```
//!
//! Five floors, in reading order: [`vocabulary`] (values), [`engine`] (the network's graphs and what runs them),
//! [`pipeline`] (from instances to an RTSTRUCT), [`service`] (what keeps the pipeline running) and [`learning`]
//! (cases, training, evaluation). [`convert`] turns masks of other tools into structure sets and back,
//! [`picture`] draws what a person looks at, [`command`] holds one file per command of the binary.
//!
//! Frames: *patient* is LPS in millimetres (`f64`); *voxel* is `z, y, x`, zero-based, integer at voxel centres.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::float_cmp,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a test that fails should panic"
    )
)]

pub mod vocabulary;

mod platform;

pub mod engine;

pub mod pipeline;

pub mod service;

pub mod picture;

pub mod learning;

pub mod convert;

pub mod cli;
pub mod command;
pub mod settings;
pub mod telemetry;
