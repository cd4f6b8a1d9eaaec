//! The whole run: steps, checkpoints, validation, and the model at the end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_pcg::Pcg64;

use super::TrainError;
use super::begin::{fresh, resumed};
use super::card::card;
use super::checkpoint::{BEST, Checkpoint, CheckpointError, holds_a_run, keep_newest, sweep};
use super::held_out::HeldOut;
use super::log::{RunLog, StepLine, ValidationLine};
use super::losses::Losses;
use super::patients::{Patients, Sources};
use super::report;
use super::step::{Plan, Trainer};
use super::validation::Validation;
use crate::engine::graph::{AdamRates, LossScale, Norms, Preset, Weights, training};
use crate::engine::runtime::session::{Provider, Runtime, Session, SessionOptions};
use crate::learning::dataset::{AugmentSettings, LabelAtlas};
use crate::learning::model::NewModel;
use crate::settings::{NormStatistics, Precision, TrainRecipe};
use crate::vocabulary::causes::with_causes;

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With fresh weights.
    Fresh,
    /// With the newest whole checkpoint of the output folder.
    Resume,
}

/// Something that happened, for the screen and the log.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step was taken.
    Step {
        /// Steps done.
        step: u64,
        /// Its losses.
        losses: &'a Losses,
        /// Its learning rate.
        learning_rate: f64,
        /// Its patient.
        case: &'a str,
        /// Seconds that it waited for its sample.
        wait_s: f64,
        /// Seconds that it took, waiting included.
        step_s: f64,
    },
    /// A held-out patient comes next.
    Validating {
        /// Patients done.
        done: usize,
        /// Patients in all.
        of: usize,
    },
    /// The held-out patients were segmented.
    Validated {
        /// Steps done.
        step: u64,
        /// What came out.
        validation: &'a Validation,
    },
    /// A checkpoint that cannot be used was passed over.
    PassedOver(&'a CheckpointError),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub steps: u64,
    /// Whether all steps of the recipe are done.
    pub finished: bool,
    /// Folder of the model; `None` where the run was asked to stop before it was stored.
    pub model: Option<PathBuf>,
    /// Mean validation DSC of the best weights, if it was measured.
    pub validation: Option<f32>,
    /// Seconds that steps waited for data.
    pub waited_s: f64,
    /// Seconds that steps and validations took.
    pub took_s: f64,
}

/// Checkpoints that are kept besides the best one.
const KEPT: usize = 2;

/// Trains by the recipe until its steps or its time are over, step `until` is done, or `stop` is set; then stores the
/// best weights as a model, unless it was stopped. Every patient is read once before the first step.
///
/// # Errors
/// [`TrainError`]; the last checkpoint stays good whatever happens, and a patient that turns out broken leaves one of
/// its own.
pub fn train(
    recipe: &TrainRecipe,
    runtime: Runtime,
    start: Start,
    until: Option<u64>,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Event<'_>),
) -> Result<Outcome, TrainError> {
    let preset =
        Preset::named(&recipe.preset).ok_or_else(|| TrainError::Preset { name: recipe.preset.clone() })?;
    let options = SessionOptions { threads: recipe.threads, provider: provider(runtime, &preset) };
    let mut begin = match start {
        Start::Fresh if holds_a_run(&recipe.output).map_err(TrainError::Checkpoint)? => {
            return Err(TrainError::OutputInUse { folder: recipe.output.display().to_string() });
        }
        Start::Fresh => fresh(&preset, recipe)?,
        Start::Resume => resumed(&preset, recipe, report)?,
    };
    begin.adam.loss_scale = match recipe.precision {
        Precision::Full => None,
        Precision::Mixed => begin.adam.loss_scale.or(Some(LossScale::START)),
    };
    let sources = Sources::of(recipe)?;
    let patients = patients(recipe, &preset, &sources)?;
    let rarity = patients.check(&sources)?;
    let mut held_out = HeldOut::new(recipe, sources, &preset, runtime, options.clone());
    let first = begin.step;
    let last_step = until.map_or(recipe.steps, |until| until.min(recipe.steps));
    let mut log = RunLog::go_on(&recipe.output, first).map_err(TrainError::Log)?;
    sweep(&recipe.output).map_err(TrainError::Checkpoint)?;
    let mut average = begin.average;
    let mut trainer = Trainer::new(
        runtime,
        options,
        recipe.crop,
        norms(recipe),
        kept_bytes(recipe),
        begin.weights,
        begin.adam,
    )?;
    trainer.rarity = rarity.clone();
    let mut samples = patients.read_ahead(rarity, first..last_step);
    let started = Instant::now();
    let over = || {
        let late = recipe.time_limit_s.is_some_and(|limit| started.elapsed() >= Duration::from_secs(limit));
        late || stop.load(Ordering::Relaxed)
    };
    let mut step = first;
    let mut kept = (start == Start::Resume).then_some(first);
    loop {
        if is_due(recipe, step) && !log.has_validation(step) {
            let state = state(recipe, step, &trainer, average.as_ref());
            validate(recipe, &state, &mut held_out, &mut log, stop, report)?;
        }
        if step >= last_step || over() {
            break;
        }
        let (began, waited) = (Instant::now(), samples.waited);
        let Some(sample) = samples.next() else { break };
        let wait_s = (samples.waited - waited).as_secs_f64();
        let plan = plan(recipe, step);
        let mut rng =
            Pcg64::seed_from_u64(recipe.seed.wrapping_add(1) ^ step.wrapping_mul(0xD134_2543_DE82_EF95));
        let taken = sample.map_err(TrainError::Dataset).and_then(|sample| {
            let (losses, gradient_length) = trainer.step(&sample, &plan, &mut rng)?;
            Ok((sample.name, losses, gradient_length))
        });
        let (case, losses, gradient_length) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                // From here a repaired patient or more memory leads on; weights that give no number lead nowhere.
                let leads_on = !matches!(error, TrainError::NotFinite { .. });
                let kept = leads_on.then(|| save(recipe, &state(recipe, step, &trainer, average.as_ref())));
                if let Some(Err(error)) = kept {
                    tracing::warn!(
                        error = with_causes(&error),
                        "the state before the failed step is not kept"
                    );
                }
                return Err(error);
            }
        };
        step += 1;
        follow(&mut average, &trainer.weights, recipe.optimizer.weight_average);
        let line = StepLine {
            step,
            case,
            losses,
            total: losses.total(),
            learning_rate: plan.rates.learning_rate,
            gradient_length,
            wait_s,
            step_s: began.elapsed().as_secs_f64(),
        };
        report(&Event::Step {
            step,
            losses: &losses,
            learning_rate: line.learning_rate,
            case: &line.case,
            wait_s,
            step_s: line.step_s,
        });
        log.add_step(line).map_err(TrainError::Log)?;
        if step % recipe.rhythm.checkpoint_steps == 0 {
            save(recipe, &state(recipe, step, &trainer, average.as_ref()))?;
            kept = Some(step);
        }
    }
    let waited_s = samples.waited.as_secs_f64();
    let took_s = started.elapsed().as_secs_f64();
    drop(samples);
    let last = state(recipe, step, &trainer, average.as_ref());
    if kept != Some(step) {
        save(recipe, &last)?;
    }
    drop(trainer);
    if step >= recipe.heads.mask_from_step && !log.has_validation(step) {
        validate(recipe, &last, &mut held_out, &mut log, stop, report)?;
    }
    report::write(recipe, &log, &held_out.pictures, &recipe.output).map_err(TrainError::Report)?;
    let outcome = |model, validation| Outcome {
        steps: step,
        finished: step >= recipe.steps,
        model,
        validation,
        waited_s,
        took_s,
    };
    let best = recipe.output.join(BEST);
    let chosen = if best.is_file() { Checkpoint::read(&best).map_err(TrainError::Checkpoint)? } else { last };
    let Some(validation) = held_out.measure_chosen(chosen.shipped(), stop, report)? else {
        return Ok(outcome(None, chosen.validation));
    };
    let card = card(recipe, &held_out.notices, &chosen, held_out.counts(), &validation);
    let model = recipe.output.join("model");
    NewModel::from_weights(&recipe.name, chosen.shipped(), chosen.step, card)
        .store(&model)
        .map_err(TrainError::Model)?;
    Ok(outcome(Some(model), chosen.validation))
}

/// Whether the weights after this step are validated.
fn is_due(recipe: &TrainRecipe, step: u64) -> bool {
    let rhythm = &recipe.rhythm;
    step > 0 && step >= rhythm.validation_from_step && step.is_multiple_of(rhythm.validation_steps)
}

/// Validates, and writes log and report; asked to stop before the end, it leaves both as they are, so that a resumed
/// run validates again.
fn validate(
    recipe: &TrainRecipe,
    state: &Checkpoint,
    held_out: &mut HeldOut,
    log: &mut RunLog,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Event<'_>),
) -> Result<(), TrainError> {
    let began = Instant::now();
    let Some(validation) = held_out.choose(recipe, state, stop, report)? else { return Ok(()) };
    let line = ValidationLine::of(state.step, &validation, began.elapsed().as_secs_f64());
    log.add_validation(line).map_err(TrainError::Log)?;
    report(&Event::Validated { step: state.step, validation: &validation });
    report::write(recipe, log, &held_out.pictures, &recipe.output).map_err(TrainError::Report)
}

/// The first GPU where a training graph loads on it, else the processor.
fn provider(runtime: Runtime, preset: &Preset) -> Provider {
    let cuda = Provider::Cuda { device: 0, tf32: false };
    let graph = training::refinement_step(preset, 1);
    let options = SessionOptions { threads: 1, provider: cuda };
    match Session::from_bytes(runtime, "refinement step", &graph.bytes, &options) {
        Ok(_) => cuda,
        Err(error) => {
            tracing::debug!(error = with_causes(&error), "no CUDA provider");
            Provider::Cpu
        }
    }
}

/// Moves the running mean towards the weights, `keep` of it staying. Source: Polyak and Juditsky 1992 in the exponential form of Tarvainen and Valpola 2017.
fn follow(average: &mut Option<Weights>, weights: &Weights, keep: f32) {
    if keep <= 0.0 {
        return;
    }
    let Some(mean) = average else {
        *average = Some(weights.clone());
        return;
    };
    for parameter in weights.parameters() {
        let towards = mean.values_mut(&parameter.name).iter_mut().zip(weights.values(&parameter.name));
        towards.for_each(|(mean, now)| *mean += (1.0 - keep) * (now - *mean));
    }
}

pub(super) fn kept_bytes(recipe: &TrainRecipe) -> u64 {
    recipe.heads.kept_mb.saturating_mul(1_000_000)
}

pub(super) fn norms(recipe: &TrainRecipe) -> Norms {
    match recipe.norms {
        NormStatistics::Batch => Norms::Batch,
        NormStatistics::Frozen => Norms::Frozen,
    }
}

fn state(recipe: &TrainRecipe, step: u64, trainer: &Trainer, average: Option<&Weights>) -> Checkpoint {
    let (weights, adam) = (trainer.weights.clone(), trainer.adam.clone());
    Checkpoint { step, seed: recipe.seed, validation: None, weights, average: average.cloned(), adam }
}

fn save(recipe: &TrainRecipe, state: &Checkpoint) -> Result<(), TrainError> {
    state.write(&recipe.output, &Checkpoint::step_name(state.step)).map_err(TrainError::Checkpoint)?;
    keep_newest(&recipe.output, KEPT).map_err(TrainError::Checkpoint)
}

fn plan(recipe: &TrainRecipe, step: u64) -> Plan {
    let heads = &recipe.heads;
    let learning_rate = learning_rate(recipe, step);
    Plan {
        step,
        refinement_boxes: (step >= heads.refinement_from_step).then_some(heads.refinement_boxes),
        mask_boxes: (step >= heads.mask_from_step).then_some((heads.mask_boxes, heads.largest_mask_box)),
        rates: AdamRates {
            learning_rate,
            weight_decay: recipe.optimizer.weight_decay,
            ..AdamRates::default()
        },
        longest_gradient: recipe.optimizer.longest_gradient,
    }
}

/// Even rise, then level, then half a cosine down to a twentieth.
fn learning_rate(recipe: &TrainRecipe, step: u64) -> f64 {
    const LOWEST: f64 = 0.05;
    let optimizer = &recipe.optimizer;
    let rise =
        if step < optimizer.warm_up_steps { (step + 1) as f64 / optimizer.warm_up_steps as f64 } else { 1.0 };
    let falling = step.saturating_sub(optimizer.decay_from_step) as f64;
    let length = recipe.steps.saturating_sub(optimizer.decay_from_step).max(1) as f64;
    let cosine = (std::f64::consts::PI * (falling / length).min(1.0)).cos();
    optimizer.learning_rate * rise * (LOWEST + (1.0 - LOWEST) * (1.0 + cosine) / 2.0)
}

pub(super) fn patients(
    recipe: &TrainRecipe,
    preset: &Preset,
    real: &Sources,
) -> Result<Patients, TrainError> {
    let sources = &recipe.sources;
    let atlases = if sources.atlas_share > 0.0 { sources.atlases.as_slice() } else { &[] };
    let atlases = atlases.iter().map(|folder| LabelAtlas::read(folder)).collect::<Result<Vec<_>, _>>();
    let a = &recipe.augment;
    Ok(Patients {
        real: real.training.clone(),
        atlases: atlases.map_err(TrainError::Dataset)?,
        synthetic: sources.atlas_share / (sources.atlas_share + real.share()),
        preset: preset.clone(),
        crop: recipe.crop,
        augment: AugmentSettings {
            share: a.share,
            rotation_deg: a.rotation_deg,
            scaling: a.scaling,
            shift_mm: a.shift_mm,
            elastic_mm: a.elastic_mm,
            plane_elastic_mm: a.plane_elastic_mm,
            plane_elastic_smoothness_mm: a.plane_elastic_smoothness_mm,
            mirror: a.mirror,
            shift_hu: a.shift_hu,
            noise_hu: a.noise_hu,
        },
        varied: recipe.synthetic,
        seed: recipe.seed,
        rare_organs: sources.rare_organs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a mean of a to weights of b with 3 / 4 kept: 3 a / 4 + b / 4, then once more.
    #[test]
    fn the_mean_follows_the_weights() {
        let name = "proposal.logits.bias";
        let weights = |value: f32| {
            let mut weights = Weights::start(&Preset::starter(), 3);
            weights.values_mut(name).fill(value);
            weights
        };
        let mut average = None;
        follow(&mut average, &weights(8.0), 0.75);
        follow(&mut average, &weights(4.0), 0.75);
        assert!((average.as_ref().unwrap().values(name)[1] - 7.0).abs() < 1e-6);
        follow(&mut average, &weights(-1.0), 0.75);
        assert!((average.as_ref().unwrap().values(name)[1] - 5.0).abs() < 1e-6);
        let mut none = None;
        follow(&mut none, &weights(4.0), 0.0);
        assert!(none.is_none());
    }
}
