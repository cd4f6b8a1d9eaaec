//! From pixel data to the network's input.
//!
//! Comes in: `CtSeries`. Goes out: [`HuVolume`] on the image grid and [`NetworkInput`] on the network's.

mod hu_volume;
mod network_input;

pub use hu_volume::HuVolume;
pub use network_input::NetworkInput;
