//! `oarlock model`.

use std::path::Path;
use std::process::ExitCode;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{ModelAction, ModelArgs};
use crate::engine::graph::preset::{COARSE_STRIDE, INPUT_MULTIPLE};
use crate::engine::graph::{Preset, Weights, flat};
use crate::learning::model::{ModelRegistry, NewModel};

/// Runs the command.
pub(super) fn run(args: ModelArgs, _runtime: &RuntimeChoice) -> CommandResult {
    match args.action {
        ModelAction::List => list(),
        ModelAction::Show { name } => {
            let model = ModelRegistry::usual().load(&name)?;
            say(&model.card);
            say(format_args!("fingerprint {}", model.fingerprint()));
            Ok(ExitCode::SUCCESS)
        }
        ModelAction::Graphs { preset, output, seed } => graphs(&preset, &output, seed),
    }
}

fn list() -> CommandResult {
    let models = ModelRegistry::usual().list()?;
    if models.is_empty() {
        say("no model on this machine: train one with `oarlock train`");
    }
    for model in models {
        let entry = &model.entry;
        let place = model.folder.map_or_else(|| "shipped".to_owned(), |folder| folder.display().to_string());
        say(format_args!("{}  preset {}  {} steps  {place}", entry.name, entry.preset, entry.steps));
        for graph in &entry.graphs {
            say(format_args!("    {}  {}", graph.sha256, graph.file));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a preset's graphs with weights that were never trained, as a folder of models.
fn graphs(preset: &str, output: &Path, seed: u64) -> CommandResult {
    let known = Preset::named(preset)
        .ok_or_else(|| format!("no preset {preset}: choose `reference` or `starter`"))?;
    let weights = Weights::start(&known, seed);
    let name = format!("{preset}-untrained");
    let card = format!(
        "# {name}\n\nPreset `{preset}` with random weights of seed {seed}: it knows nothing and must not be used for \
         anything but tests of the graphs.\n"
    );
    let model = NewModel::from_weights(&name, &weights, 0, card);
    for (part, depth_multiple) in [("trunk", INPUT_MULTIPLE), ("mask", COARSE_STRIDE)] {
        if let Some(graph) = model.graphs.iter().find(|graph| graph.part == part) {
            std::fs::create_dir_all(output)?;
            let path = output.join(format!("{name}.{part}.flat.onnx"));
            std::fs::write(path, flat(&graph.bytes, depth_multiple)?)?;
        }
    }
    model.store(output)?;
    say(format_args!("{name}: {} weights in {}", weights.count(), output.display()));
    Ok(ExitCode::SUCCESS)
}
