//! `oarlock model`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `oarlock model import`.
#[derive(Debug, Args)]
pub struct ModelImportArgs {
    /// The checkpoint.
    #[arg(value_name = "CKPT", required_unless_present = "list")]
    pub checkpoint: Option<PathBuf>,
    /// What the model will be called: small letters, digits, hyphens.
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    pub name: Option<String>,
    /// Print names, sides and types of a checkpoint, and import nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["checkpoint", "name"])]
    pub list: Option<PathBuf>,
    /// A table of names instead of the published network's; see config/published-uanet.yaml.
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// Licence and source of the checkpoint, for the model card.
    #[arg(long, value_name = "TEXT")]
    pub licence: Option<String>,
    /// Folder of models to put it in, instead of the user's.
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
}

/// `oarlock model verify`.
#[derive(Debug, Args)]
pub struct ModelVerifyArgs {
    /// The model.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// NumPy archive with `volume_hu` (int16, z y x) and any of f2, f4, f8, rpn_logits, rpn_deltas, proposals, rcnn_logits,
    /// rcnn_deltas, detections, crop_boxes, mask_logits_0 and on.
    #[arg(long, value_name = "FILE.npz")]
    pub expected: PathBuf,
    /// Largest difference, relative to the array's largest magnitude.
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    pub tolerance: f64,
    /// The table that the model was imported with, where it has organs of its own.
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// Write what this model gives, in the same form.
    #[arg(long, value_name = "FILE.npz")]
    pub write: Option<PathBuf>,
}

/// `oarlock model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ModelAction,
}

/// `oarlock model join`.
#[derive(Debug, Args)]
pub struct ModelJoinArgs {
    /// Model that looks at the whole scan: a name, or a folder with a model.
    pub model: PathBuf,
    /// Model that looks closer: a name, or a folder with a model.
    pub close_up: PathBuf,
    /// Name of the model that comes out; the first's where none is given.
    #[arg(long)]
    pub name: Option<String>,
    /// Folder to write it into; the user's models where none is given.
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
}

/// What to do with the models.
#[derive(Debug, Subcommand)]
pub enum ModelAction {
    /// Take over a published Ua-Net checkpoint: a PyTorch file (either format) or safetensors. Nothing in it is executed.
    Import(ModelImportArgs),
    /// Compare a model with numbers that the original network gave. Exit code 1: beyond the tolerance.
    Verify(ModelVerifyArgs),
    /// Make one model of two: the second, of preset `close-up`, looks again at small organs that the first has found.
    Join(ModelJoinArgs),
    /// Names, presets and hashes.
    List,
    /// The model card.
    Show {
        /// Model.
        name: String,
    },
    /// Write a preset's graphs with fresh weights, plain and in the processor's form, for tests of the graphs themselves.
    Graphs {
        /// `reference`, `starter` or `close-up`.
        #[arg(long, default_value = "starter")]
        preset: String,
        /// Folder to write.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Seed of the random weights.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}
