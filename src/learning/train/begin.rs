//! The weights that a run begins with: drawn, of earlier runs or models, or its own newest checkpoint.

use std::path::Path;

use super::TrainError;
use super::checkpoint::Checkpoint;
use super::run::Event;
use crate::engine::graph::{Adam, Preset, Weights};
use crate::learning::model::ModelRegistry;
use crate::settings::{CLOSE_UP, NormStatistics, TrainRecipe};

/// Layers that speak last start with this part of their drawn weights: at full size the first box losses are in the
/// fifties, and the shortened gradient leaves nothing for the rest. Source of the habit: Ren et al. 2015, 3.1.3.
const QUIET_START: f32 = 0.05;

pub(super) fn fresh(preset: &Preset, recipe: &TrainRecipe) -> Result<Checkpoint, TrainError> {
    let starts = recipe.start_from.iter().map(|file| started(preset, recipe, file));
    let starts = starts.collect::<Result<Vec<_>, _>>()?;
    let weights = mean(starts).unwrap_or_else(|| drawn(preset, recipe.seed));
    let adam = Adam::default();
    Ok(Checkpoint { step: 0, seed: recipe.seed, validation: None, weights, average: None, adam })
}

/// The weights that the checkpoint of an earlier run would ship, or those of a model.
fn started(preset: &Preset, recipe: &TrainRecipe, file: &Path) -> Result<Weights, TrainError> {
    if !file.is_file() {
        if recipe.norms != NormStatistics::Frozen {
            return Err(TrainError::StartFolded { name: file.to_path_buf() });
        }
        return of_model(preset, file);
    }
    let found = Checkpoint::read(file).map_err(TrainError::Checkpoint)?;
    let weights = found.shipped();
    weights.for_preset(preset).ok_or_else(|| TrainError::StartsFromAnother {
        file: file.to_path_buf(),
        found: weights.preset().name.clone(),
        wanted: preset.name.clone(),
    })
}

/// The weights of a model's first look.
fn of_model(preset: &Preset, name: &Path) -> Result<Weights, TrainError> {
    let model = ModelRegistry::of_name_or_folder(name)
        .map_err(|source| TrainError::StartModel { name: name.to_path_buf(), source: Box::new(source) })?;
    let another = || TrainError::StartsFromAnother {
        file: name.to_path_buf(),
        found: model.entry.preset.clone(),
        wanted: preset.name.clone(),
    };
    let own = Preset::named(&model.entry.preset).ok_or_else(another)?;
    let first = model.graphs.iter().filter(|graph| !graph.part.starts_with(CLOSE_UP));
    let graphs: Vec<&[u8]> = first.map(|graph| graph.bytes.as_ref()).collect();
    Weights::of_graphs(&own, &graphs)
        .map_err(|source| TrainError::StartGraphs { name: name.to_path_buf(), source: Box::new(source) })?
        .for_preset(preset)
        .ok_or_else(another)
}

fn drawn(preset: &Preset, seed: u64) -> Weights {
    let mut weights = Weights::start(preset, seed);
    for layer in ["proposal.logits", "proposal.deltas", "refinement.classes", "refinement.boxes"] {
        weights.values_mut(&format!("{layer}.weight")).iter_mut().for_each(|w| *w *= QUIET_START);
    }
    weights
}

/// The mean of weights of one architecture; none of none. Runs from a common start that end apart lie round a better point
/// than each of them. Source: Wortsman et al. 2022, model soups.
fn mean(all: Vec<Weights>) -> Option<Weights> {
    let share = 1.0 / all.len() as f32;
    let mut all = all.into_iter();
    let first = all.next()?;
    let others: Vec<Weights> = all.collect();
    let mut mean = first.clone();
    for parameter in first.parameters() {
        for (at, value) in mean.values_mut(&parameter.name).iter_mut().enumerate() {
            let sum: f32 = others.iter().map(|other| other.values(&parameter.name)[at]).sum();
            *value = (*value + sum) * share;
        }
    }
    Some(mean)
}

pub(super) fn resumed(
    preset: &Preset,
    recipe: &TrainRecipe,
    report: &mut dyn FnMut(&Event<'_>),
) -> Result<Checkpoint, TrainError> {
    let folder = recipe.output.display().to_string();
    let (found, passed) = Checkpoint::latest(&recipe.output).map_err(TrainError::Checkpoint)?;
    passed.iter().for_each(|error| report(&Event::PassedOver(error)));
    let found = found.ok_or_else(|| TrainError::NothingToResume { folder: folder.clone() })?;
    if found.weights.preset() != preset || found.seed != recipe.seed {
        let preset = found.weights.preset().name.clone();
        return Err(TrainError::AnotherRun { folder, preset, seed: found.seed });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::model::NewModel;

    /// Of 1, 4 and 10 the mean is 5; what is the same in all stays.
    #[test]
    fn several_starts_begin_with_their_mean() {
        let dir = tempfile::tempdir().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/starter.yaml");
        let mut recipe = TrainRecipe::read(&path).unwrap();
        let (name, other) = ("proposal.logits.bias", "mask.up2.conv.weight");
        let written = |value: f32| {
            let mut weights = Weights::start(&Preset::starter(), 3);
            weights.values_mut(name).fill(value);
            let (average, adam) = (None, Adam::default());
            let checkpoint = Checkpoint { step: 9, seed: 1, validation: None, weights, average, adam };
            checkpoint.write(dir.path(), &format!("{value}.checkpoint")).unwrap()
        };
        recipe.start_from = [1.0, 4.0, 10.0].map(written).to_vec();
        let begun = fresh(&Preset::starter(), &recipe).unwrap().weights;
        assert!(begun.values(name).iter().all(|value| (value - 5.0).abs() < 1e-6));
        let same = Weights::start(&Preset::starter(), 3);
        let apart = begun.values(other).iter().zip(same.values(other)).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-7);
    }

    #[test]
    fn a_run_starts_from_the_mean_of_another_and_refuses_another_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/starter.yaml");
        let mut recipe = TrainRecipe::read(&path).unwrap();
        let (weights, mean) = (Weights::start(&Preset::starter(), 3), Weights::start(&Preset::starter(), 4));
        let average = Some(mean.clone());
        let earlier =
            Checkpoint { step: 9, seed: 1, validation: None, weights, average, adam: Adam::default() };
        recipe.start_from = vec![earlier.write(dir.path(), "a.checkpoint").unwrap()];
        assert_eq!(fresh(&Preset::starter(), &recipe).unwrap().weights, mean);
        let error = fresh(&Preset::reference(), &recipe).unwrap_err().to_string();
        assert!(error.contains("holds weights of the preset starter"), "{error}");
    }

    #[test]
    fn a_run_starts_from_a_model_in_a_folder_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/starter.yaml");
        let mut recipe = TrainRecipe::read(&path).unwrap();
        let weights = Weights::start(&Preset::starter(), 3);
        NewModel::from_weights("earlier", &weights, 9, "# card".into()).store(dir.path()).unwrap();
        recipe.start_from = vec![dir.path().to_path_buf()];
        let error = fresh(&Preset::starter(), &recipe).unwrap_err().to_string();
        assert!(error.contains("norms: frozen"), "{error}");
        recipe.norms = NormStatistics::Frozen;
        let closer = fresh(&Preset::close_up(), &recipe).unwrap().weights;
        assert_eq!(closer.preset(), &Preset::close_up(), "the grid is another, the layers are the same");
        let begun = fresh(&Preset::starter(), &recipe).unwrap().weights;
        assert_eq!(begun.values("proposal.logits.bias"), weights.values("proposal.logits.bias"));
        let error = fresh(&Preset::reference(), &recipe).unwrap_err().to_string();
        assert!(error.contains("holds weights of the preset starter"), "{error}");
        recipe.start_from = vec!["starter".into()];
        assert_ne!(fresh(&Preset::starter(), &recipe).unwrap().weights, begun);
        recipe.start_from = vec!["no-such-model".into()];
        assert!(matches!(fresh(&Preset::starter(), &recipe), Err(TrainError::StartModel { .. })));
    }
}
