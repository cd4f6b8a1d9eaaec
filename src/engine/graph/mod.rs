//! The network as ONNX graphs: presets, builder, the one definition, derivatives, losses, Adam.
//!
//! Comes in: a [`Preset`], [`Weights`], and for training the shape of a case. Goes out: bytes of ONNX files
//! (operator set 18), which `runtime` runs.

#[allow(dead_code, unused_imports, reason = "the training graphs, next to land, use the rest")]
mod builder;
#[allow(dead_code, unused_imports, reason = "the training graphs, next to land, use the rest")]
mod layers;
mod onnx;
#[allow(dead_code, unused_imports, reason = "the training graphs, next to land, use the rest")]
mod operators;
pub mod preset;
pub mod uanet;
mod weights;

pub use builder::OPSET;
pub use preset::Preset;
pub use weights::{Parameter, Role, Start, Weights, WeightsError};
