//! `oarlock model`.

use std::path::Path;
use std::process::ExitCode;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{ModelAction, ModelArgs, ModelImportArgs, ModelJoinArgs, ModelVerifyArgs};
use crate::engine::graph::preset::{COARSE_STRIDE, INPUT_MULTIPLE};
use crate::engine::graph::{Preset, Weights, flat};
use crate::learning::model::import::{CheckpointFile, transfer};
use crate::learning::model::verify::{Arrays, differences, input_of, is_known, ours};
use crate::learning::model::{ModelRegistry, NewModel};
use crate::pipeline::fits;
use crate::settings::NameTable;

/// Runs the command.
pub(super) fn run(args: ModelArgs, runtime: &RuntimeChoice) -> CommandResult {
    match args.action {
        ModelAction::List => list(),
        ModelAction::Show { name } => {
            let model = ModelRegistry::usual().load(&name)?;
            say(&model.card);
            say(format_args!("fingerprint {}", model.fingerprint()));
            Ok(ExitCode::SUCCESS)
        }
        ModelAction::Import(args) => import(args),
        ModelAction::Join(args) => join(&args),
        ModelAction::Verify(args) => verify(&args, runtime),
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
        let closer = entry.close_up.as_ref().map(|preset| format!(" and {preset}")).unwrap_or_default();
        say(format_args!("{}  preset {}{closer}  {} steps  {place}", entry.name, entry.preset, entry.steps));
        for graph in &entry.graphs {
            say(format_args!("    {}  {}", graph.sha256, graph.file));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes over a checkpoint, or lists what is in one.
fn import(args: ModelImportArgs) -> CommandResult {
    let table = args.map.as_deref().map_or_else(|| Ok(NameTable::published()), NameTable::read)?;
    if let Some(path) = &args.list {
        let file = CheckpointFile::open(path, &table.state)?;
        say(format_args!("{}: {}, {} tensors", path.display(), file.format, file.tensors.len()));
        for tensor in &file.tensors {
            say(format_args!("{:48} {:5} {:?}", tensor.name, tensor.elements.to_string(), tensor.shape));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(path), Some(name)) = (args.checkpoint, args.name) else {
        return Err("name the checkpoint and, with --name, the model".into());
    };
    checked(&name)?;
    if ModelRegistry::usual().list()?.iter().any(|model| model.entry.name == name) {
        return Err(format!("there is a model {name} already: choose another --name").into());
    }
    let folder = args.into.or_else(ModelRegistry::of_user);
    let folder = folder.ok_or("this user has no data folder: say where models lie with --into DIR")?;
    let file = CheckpointFile::open(&path, &table.state)?;
    let weights = transfer(&file, &table)?;
    let licence = args.licence.unwrap_or_else(|| {
        "Not stated when it was imported. The published Ua-Net checkpoints are for non-commercial research only.".to_owned()
    });
    let card = format!(
        "# {name}\n\nPreset `{}`, {} weights taken over from `{}` ({}). Trained by others, on data that this program never saw.\n\n\
         ## Licence\n\n{licence}\n\n## What it must not be used for\n\nIt must not be used for treatment, for planning, or for any \
         decision about a patient before a clinic has commissioned it. Compare it with the original by `oarlock model verify`.\n",
        weights.preset().name,
        weights.count(),
        path.file_name().unwrap_or_default().to_string_lossy(),
        file.format,
    );
    let preset = weights.preset().name.clone();
    let count = weights.count();
    let model = NewModel::from_weights(&name, &weights, 0, card);
    drop(weights);
    model.store(&folder)?;
    say(format_args!("{name}: preset {preset}, {count} weights, in {}", folder.display()));
    say("compare it with the original before anything else: `oarlock model verify`");
    Ok(ExitCode::SUCCESS)
}

/// Whether this may be a model's name.
fn checked(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("--name {name}: small letters, digits and hyphens are allowed"));
    }
    Ok(())
}

/// Makes one model of two.
fn join(args: &ModelJoinArgs) -> CommandResult {
    let folder = args.into.clone().or_else(ModelRegistry::of_user);
    let folder = folder.ok_or("this user has no data folder: say where models lie with --into DIR")?;
    let first = ModelRegistry::of_name_or_folder(&args.model)?;
    let closer = ModelRegistry::of_name_or_folder(&args.close_up)?;
    let presets = [&first, &closer].map(|model| model.entry.preset.clone());
    let fit = presets.each_ref().map(|preset| Preset::named(preset));
    if !matches!(&fit, [Some(first), Some(second)] if fits(first, second)) {
        let [first, second] = presets;
        return Err(format!(
            "a model of preset {second} cannot look closer after one of {first}: the first has to be of starter, the \
             second of close-up"
        )
        .into());
    }
    let name = args.name.clone().unwrap_or_else(|| first.entry.name.clone());
    checked(&name)?;
    NewModel::joined(&name, first, closer).store(&folder)?;
    say(format_args!("{name}: both looks, in {}", folder.display()));
    say(
        "measure it: `oarlock evaluate`; its doubt has to be calibrated anew: `oarlock evaluate --calibrate`",
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs a model on the volume of an archive and compares with the arrays in it.
fn verify(args: &ModelVerifyArgs, runtime: &RuntimeChoice) -> CommandResult {
    let table = args.map.as_deref().map_or_else(|| Ok(NameTable::published()), NameTable::read)?;
    let classes = table.classes()?;
    let (expected, others) = Arrays::read(&args.expected, is_known)?;
    if args.write.is_none() && expected.iter().all(|(name, _)| name == "volume_hu") {
        let nothing =
            "the archive holds nothing to compare besides volume_hu: see `oarlock model verify --help`";
        return Err(nothing.into());
    }
    let mut model = super::contouring::load_model(runtime, &args.name)?;
    let input = input_of(&expected, model.network.preset())?;
    let found = ours(&model.network.trace(&input)?);
    if let Some(path) = &args.write {
        let volume =
            expected.get("volume_hu").into_iter().map(|volume| ("volume_hu".to_owned(), volume.clone()));
        let all = found.arrays.iter().map(|(name, array)| (name.to_owned(), array.clone()));
        Arrays::of(volume.chain(all)).write(path)?;
        say(format_args!("written: {}", path.display()));
    }
    let differences = differences(&expected, &found, &classes, args.tolerance);
    say(format_args!("{:16} {:>22} {:>12} {:>12}", "array", "shape", "absolute", "relative"));
    let mut n_beyond = 0;
    for difference in &differences {
        let beyond = difference.is_beyond(args.tolerance);
        n_beyond += usize::from(beyond);
        say(format_args!("{difference}{}", if beyond { "  BEYOND" } else { "" }));
    }
    for name in others {
        say(format_args!("{name:16} not compared: no array of that name is known"));
    }
    say(format_args!("{} arrays, {n_beyond} beyond {:e}", differences.len(), args.tolerance));
    Ok(if n_beyond == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes a preset's graphs with weights that were never trained, as a folder of models.
fn graphs(preset: &str, output: &Path, seed: u64) -> CommandResult {
    let known = Preset::named(preset)
        .ok_or_else(|| format!("no preset {preset}: choose `reference`, `starter` or `close-up`"))?;
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
