//! From pixel data to the network's input.
//!
//! Comes in: `CtSeries`. Goes out: [`HuVolume`] on the image grid and [`NetworkInput`] on the network's.

mod body;
mod codec;
mod decode;
mod error;
mod hu_volume;
mod jpeg_extended;
mod jpeg_ls;
mod network_input;
mod resample;

pub use body::{TISSUE_HU, body_mask};
pub use decode::{AIR_HU, LARGEST_SIDE, hu_of_frame};
pub use error::{PixelError, VolumeError};
pub use hu_volume::HuVolume;
pub use network_input::{InputForm, NetworkInput, Views};
pub use resample::resample;
