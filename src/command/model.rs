//! `oarlock model`.

use std::process::ExitCode;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{ModelAction, ModelArgs};
use crate::learning::model::ModelRegistry;

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
        ModelAction::Graphs { .. } => Err("this command is not built yet".into()),
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
