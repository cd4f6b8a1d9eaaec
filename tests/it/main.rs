//! One integration binary; a module per behaviour.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "a test that fails should panic, and one that is skipped says so"
)]

mod anatomy;
mod architecture;
mod audit;
mod backup;
mod cli;
mod cluster;
mod cluster_commitment;
mod commitment;
mod completion;
mod conformance;
mod crashes;
mod dataset;
mod delivery;
mod demo;
mod destinations;
mod faults;
mod hostile;
mod ingest;
mod jobs;
mod jpeg2000;
mod mail;
mod outlets;
mod peers_evaluate;
mod phantom;
mod pki;
mod postgres;
mod privacy;
mod process;
mod published;
mod real_peers;
mod reload;
mod retention;
mod rules;
mod scaling;
mod security;
mod series;
mod series_made;
mod service;
mod soak;
mod structures;
mod support;
mod tls_peers;
mod training;
mod vulnerabilities;
mod wire;
mod world;
