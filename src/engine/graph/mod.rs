//! The network as ONNX graphs: presets, builder, the one definition, derivatives, losses, Adam.
//!
//! Comes in: a [`Preset`], [`Weights`], and for training the shape of a case. Goes out: bytes of ONNX files
//! (operator set 18), which `runtime` runs.

mod adam;
mod builder;
mod close_up;
mod cut;
mod derivative;
mod description;
mod flat;
#[cfg(test)]
pub(crate) mod hashed;
mod layers;
mod losses;
mod memory;
mod mixed;
mod of_graphs;
mod onnx;
mod operators;
pub mod preset;
#[cfg(test)]
mod reference;
pub mod training;
pub mod uanet;
mod way_back;
mod weights;
mod winograd;

pub use adam::{Adam, AdamRates, Moments};
pub use builder::{Machine, OPSET};
pub use close_up::CloseUp;
pub use description::{DescriptionError, Door, GraphDescription};
pub use flat::{NoFlatForm, flat};
pub use layers::Norms;
pub use mixed::{LOSS_SCALE, LossScale, NoMixedForm, mixed};
pub use of_graphs::OfGraphsError;
pub use preset::Preset;
pub use weights::{Parameter, Role, Start, Weights, WeightsError};
