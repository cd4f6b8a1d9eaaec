//! Published checkpoints in: files of PyTorch and safetensors -> our weights.
//!
//! Nothing in a file is ever executed ([`pickle`]). Every tensor is used exactly once or named as unused in the table.

mod file;
#[cfg(test)]
mod hostile;
mod pickle;
mod pytorch;
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
    /// A tensor has other sides than the rest of the network asks for.
    #[error(
        "{name} has the sides {found:?}, by the widths of the other layers ({preset}) it would have {wanted:?}: this is \
         no descendant of Ua-Net that the table describes"
    )]
    Shape {
        /// Its name.
        name: String,
        /// Its sides.
        found: Vec<usize>,
        /// The preset that the other layers make.
        preset: String,
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
    /// The table has no layer that gives one of the widths, or the width is beyond all bounds.
    #[error(
        "the widths of the network cannot be read off the checkpoint: {key} is {found}; see `oarlock model import --list \
         FILE`, and correct the table (--map)"
    )]
    Widths {
        /// Which width, see [`crate::engine::graph::preset::WIDTHS`].
        key: &'static str,
        /// What was found.
        found: String,
    },
    /// A layer of the table is none of ours.
    #[error(
        "the table names the layer {ours}, which a network of these widths ({preset}) does not have: correct it"
    )]
    NoSuchLayer {
        /// The name in the table.
        ours: String,
        /// The preset that the checkpoint's sides make.
        preset: String,
    },
    /// The list of organs in the table.
    #[error(
        "organs.classes of the table: {found}; names are those of config/organs.yaml, each once, in the order of the checkpoint's classes"
    )]
    Organs {
        /// What is wrong.
        found: String,
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
