//! Writes what `training_step.py` times: the training step of the `starter` trunk, and weights to start from.
//!
//! `cargo run --example bench_training_graphs -- FOLDER`

use std::error::Error;
use std::path::PathBuf;

use oarlock::engine::graph::training::backbone_step;
use oarlock::engine::graph::{Norms, Preset, Weights};

/// `(z, y, x)` voxels of the crop.
const CROP: [usize; 3] = [96, 80, 96];

fn main() -> Result<(), Box<dyn Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("name a folder to write to")?.into();
    std::fs::create_dir_all(&folder)?;
    let preset = Preset::starter();
    Weights::start(&preset, 1).save(&folder.join("starter.safetensors"))?;
    std::fs::write(
        folder.join("starter.backbone_step.onnx"),
        backbone_step(&preset, CROP, Norms::Batch).bytes,
    )?;
    Ok(())
}
