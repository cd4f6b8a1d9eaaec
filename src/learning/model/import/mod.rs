//! Published checkpoints in: files of PyTorch and safetensors -> our weights.
//!
//! Nothing in a file is ever executed ([`pickle`]). Every tensor is used exactly once or named as unused in the table.

mod file;
mod pickle;
mod transfer;

use std::path::PathBuf;

pub use file::{CheckpointFile, TensorEntry};
pub use pickle::ElementType;
pub use transfer::transfer;

use crate::engine::graph::WeightsError;

/// Why a checkpoint cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The disk refused.
    #[error("cannot read {}: check the path and its permissions", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a checkpoint, cut short, or something that does not belong in one.
    #[error("wanted a checkpoint, found {found} in {}: fetch it again, or save its state dict anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// A pickle that would do more than hold numbers.
    #[error(
        "{} is refused: opcode 0x{opcode:02x} at byte {offset} {why}; do not load this file with any program", path.display()
    )]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Byte of the opcode in the pickle.
        offset: u64,
        /// The opcode.
        opcode: u8,
        /// What about it.
        why: String,
    },
    /// A tensor of the table is not in the file.
    #[error(
        "the checkpoint has no tensor {name}: `oarlock model import --list FILE` shows what it has; map it with --map"
    )]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has other sides than any preset.
    #[error(
        "{name} has the sides {found:?}, the nearest preset, {preset}, has {wanted:?}: no preset is this network"
    )]
    Shape {
        /// Its name.
        name: String,
        /// Its sides.
        found: Vec<usize>,
        /// The preset that was tried.
        preset: &'static str,
        /// Its sides there.
        wanted: Vec<usize>,
    },
    /// Tensors that the table does not know.
    #[error(
        "{} tensors of the checkpoint would be lost: {}; name them in a table of your own (--map), under `unused` if no \
         forward pass reads them", names.len(), names.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
    )]
    LeftOver {
        /// Their names.
        names: Vec<String>,
    },
    /// The table uses one tensor twice.
    #[error("the table uses {name} twice: correct it")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A weight that is no number, or a variance below zero.
    #[error("{name} holds {value} at position {at}: the checkpoint was saved broken, take an earlier one")]
    NotFinite {
        /// Its name.
        name: String,
        /// What is there.
        value: f32,
        /// Where, in C order.
        at: usize,
    },
    /// The table does not fill our network.
    #[error("the table does not fill the network")]
    Weights(#[source] WeightsError),
}
