//! Writes the graphs of a training step of a preset, to be looked at, says what each needs at a time, and writes weights, from which `training_step.py` starts
//! PyTorch.
//!
//! `cargo run --example bench_training_graphs -- FOLDER [starter|reference] [gpu]`; with `gpu` in the form for one.

use std::error::Error;
use std::path::PathBuf;

use oarlock::engine::graph::training::{TrainingGraph, mask_step, refinement_step, trunk_step};
use oarlock::engine::graph::{Machine, Norms, Preset, Weights};

/// `(z, y, x)` voxels of the boxes that the mask head sees: those of a parotid, a brain stem, an eye, a submandibular gland,
/// an optic nerve and a lens of `reference`.
const BOXES: [[usize; 3]; 6] =
    [[32, 64, 48], [32, 48, 48], [16, 40, 40], [16, 40, 32], [16, 40, 24], [16, 24, 24]];

/// Proposals of the refinement.
const ROWS: usize = 64;

#[expect(clippy::print_stdout, reason = "a program of the command line")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder: PathBuf = arguments.next().ok_or("name a folder to write to")?.into();
    let name =
        arguments.next().map_or_else(|| "starter".to_owned(), |name| name.to_string_lossy().into_owned());
    let machine =
        if arguments.next().is_some_and(|form| form == "gpu") { Machine::Gpu } else { Machine::Processor };
    std::fs::create_dir_all(&folder)?;
    let preset = Preset::named(&name).ok_or("presets are starter and reference")?;
    let crop = if name == "reference" { [64, 96, 96] } else { [96, 80, 96] };
    Weights::start(&preset, 1).save(&folder.join(format!("{name}.safetensors")))?;
    let write = |part: &str, graph: TrainingGraph| {
        println!("{part}: {} MB", graph.peak_bytes / 1_000_000);
        std::fs::write(folder.join(format!("{name}.{part}.onnx")), graph.bytes)
    };
    let trunk = trunk_step(&preset, crop, Norms::Batch, machine);
    println!("kept between the trunk's ways: {} MB", trunk.kept_bytes() / 1_000_000);
    write("way_out", trunk.out)?;
    write("way_back", trunk.back)?;
    write("refinement_step", refinement_step(&preset, ROWS))?;
    for [d, h, w] in BOXES {
        write(&format!("mask_step.{d}x{h}x{w}"), mask_step(&preset, [d, h, w], machine))?;
    }
    Ok(())
}
