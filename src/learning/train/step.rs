//! One training step: forward, boxes, heads, backbone, Adam.

use std::collections::BTreeMap;

use ndarray::{Array4, Array5, Axis};
use rand::Rng;

use super::TrainError;
use super::boxes::{BodyCount, true_boxes};
use super::gradients::{Tensors, accumulate, clip, unscale};
use super::losses::Losses;
use super::proposal_targets::ProposalTargets;
use super::rarity::Rarity;
use super::scatter::add_cells;
use super::targets::{RefinementCounts, RefinementSample, Truth, class_weights, refinement_samples};
use crate::engine::graph::preset::{N_ANCHORS, N_CLASSES};
use crate::engine::graph::training::{self, TrainingGraph};
use crate::engine::graph::{Adam, AdamRates, LOSS_SCALE, LossScale, Machine, Norms, Preset, Weights, mixed};
use crate::engine::runtime::session::{
    Input, Kept, Outputs, Provider, Runtime, Session, SessionError, SessionOptions,
};
use crate::learning::dataset::{OrganSet, Sample};
use crate::pipeline::network::NetworkBox;
use crate::pipeline::network::box_coding::encode;
use crate::pipeline::network::proposals::{ProposalLimits, proposals};
use crate::pipeline::network::roi_pool::pool;

/// What a step does besides the backbone's own losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    /// Number of the step, for messages.
    pub(super) step: u64,
    /// Rows of the refinement batch, `None` before the head joins.
    pub(super) refinement_boxes: Option<usize>,
    /// Boxes of the mask head and the largest box in voxels, `None` before it joins.
    pub(super) mask_boxes: Option<(usize, usize)>,
    /// Adam.
    pub(super) rates: AdamRates,
    /// Longest gradient.
    pub(super) longest_gradient: f32,
}

/// The network in training on crops of one shape.
pub(super) struct Trainer {
    runtime: Runtime,
    options: SessionOptions,
    preset: Preset,
    crop: [usize; 3],
    /// The weights as they are now.
    pub(super) weights: Weights,
    /// Adam's memory.
    pub(super) adam: Adam,
    /// Which organs the mask head sees rather than others.
    pub(super) rarity: Rarity,
    shapes: BTreeMap<String, Vec<usize>>,
    way_out: Loaded,
    way_back: Loaded,
    /// What the first hands to the second.
    handed: Vec<String>,
    refinement: Option<(usize, Loaded)>,
    masks: MaskSessions,
}

/// What graphs are written for. Halves of floats would lose too many digits by Winograd.
fn machine_of(options: &SessionOptions, is_mixed: bool) -> Machine {
    match options.provider {
        Provider::Cpu if !is_mixed => Machine::Processor,
        _ => Machine::Gpu,
    }
}

/// A training graph, ready to run.
struct Loaded {
    session: Session,
    /// Memory that stays with the session between runs, from the shapes of its graph.
    kept_bytes: u64,
    weights: Vec<String>,
    trained: Vec<String>,
    running: Vec<String>,
}

/// What a graph holds between its runs on a processor.
#[derive(Debug, Clone, Copy)]
enum AfterRun {
    /// A place for its outputs.
    OutputsStay,
    /// Nothing: for the graph whose gradients are the largest.
    NothingStays,
}

/// Feature maps of a sample, batch axis left out, and the gradients that the heads put into them.
struct Features {
    image: Array4<f32>,
    maps: [Array4<f32>; 3],
    gradients: [Array4<f32>; 3],
    /// What the trunk's way back needs of its way out, as `handed` names it.
    kept: Vec<Kept>,
}

/// Anchors of one step that are compared, so that an untrained network does not spend the step on comparing boxes.
const MOST_COMPARED: usize = 600;

/// A graph that needs more on a GPU gives its memory back after each run, so that a step needs what its largest graph
/// needs; on a processor each does, where that costs little.
const MOST_KEPT_BYTES: u64 = 1 << 30;

impl Trainer {
    /// Builds and loads the graphs for crops of `crop` voxels; in mixed precision where `adam` has a loss scale. Mask
    /// graphs that are loaded already may hold `kept_bytes`.
    pub(super) fn new(
        runtime: Runtime,
        options: SessionOptions,
        crop: [usize; 3],
        norms: Norms,
        kept_bytes: u64,
        weights: Weights,
        adam: Adam,
    ) -> Result<Self, TrainError> {
        let preset = weights.preset().clone();
        let shapes = weights.parameters().iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        let scale = adam.loss_scale;
        let load = |name: &str, graph| {
            Loaded::new(runtime, name, graph, &options, scale, AfterRun::OutputsStay)
                .map_err(TrainError::Session)
        };
        let machine = machine_of(&options, scale.is_some());
        let trunk = training::trunk_step(&preset, crop, norms, machine);
        let (way_out, way_back) =
            (load("trunk's way out", trunk.out)?, load("trunk's way back", trunk.back)?);
        Ok(Self {
            runtime,
            preset,
            crop,
            weights,
            adam,
            rarity: Rarity::of(&[], &[], 0.0),
            shapes,
            way_out,
            way_back,
            handed: trunk.kept.into_iter().map(|(name, _)| name).collect(),
            refinement: None,
            masks: MaskSessions::new(kept_bytes),
            options,
        })
    }

    /// Takes one step on a sample and returns its losses and the length of its gradient before it was cut; where one is
    /// not a number, nothing is changed. In mixed precision a step whose gradients overflow changes the loss scale alone;
    /// its length is given as 0.
    pub(super) fn step(
        &mut self,
        sample: &Sample,
        plan: &Plan,
        rng: &mut impl Rng,
    ) -> Result<(Losses, f32), TrainError> {
        let mut losses = Losses::default();
        let mut gradients = Tensors::new();
        let truth_boxes = true_boxes(&sample.organs, sample.annotated, &self.preset);
        let body = BodyCount::of(sample.image.view());
        let truth = Truth { boxes: &truth_boxes, annotated: sample.annotated, body: &body };
        let (mut features, logits, deltas) = self.look(sample).map_err(TrainError::Session)?;

        let mut samples = Vec::new();
        if let Some(n_boxes) = plan.refinement_boxes {
            let limits = ProposalLimits { compared: MOST_COMPARED, kept: 4 * n_boxes };
            let found: Vec<NetworkBox> =
                proposals(&self.preset, logits.view(), deltas.view(), self.crop, limits)
                    .into_iter()
                    .map(|proposal| proposal.around)
                    .collect();
            let counts =
                RefinementCounts { per_organ: self.preset.targets.proposals_per_organ, total: n_boxes };
            samples = refinement_samples(&found, &truth, counts, rng);
            samples.truncate(n_boxes);
        }
        if let Some((count, largest)) = plan.mask_boxes {
            let boxes = self.mask_boxes(&truth_boxes, count, largest, rng);
            let sum =
                self.masks(&mut features, sample, &boxes, &mut gradients).map_err(TrainError::Session)?;
            losses.mask = (!boxes.is_empty()).then(|| sum / boxes.len() as f32);
        }
        // After the masks, which need the most memory: this head has the most weights, and their gradients stay.
        if let Some(n_boxes) = plan.refinement_boxes.filter(|_| !samples.is_empty()) {
            let (class, delta) = self
                .refine(&mut features, &samples, &truth, n_boxes, &mut gradients)
                .map_err(TrainError::Session)?;
            (losses.refinement_class, losses.refinement_box) = (Some(class), Some(delta));
        }
        let running = self
            .backbone(&features, &truth, rng, &mut gradients, &mut losses)
            .map_err(TrainError::Session)?;
        if let Some(scale) = self.adam.loss_scale
            && let Some(next) = scale.after(unscale(&mut gradients, scale.scale))
            && losses.total().is_finite()
        {
            self.adam.loss_scale = Some(next);
            if next.scale < scale.scale {
                tracing::warn!(
                    step = plan.step,
                    scale = next.scale,
                    "gradients beyond 16 bits, no step is taken"
                );
                return Ok((losses, 0.0));
            }
        }
        let length = clip(&mut gradients, plan.longest_gradient);
        if !(length.is_finite() && losses.total().is_finite()) {
            return Err(TrainError::NotFinite {
                step: plan.step,
                case: sample.name.clone(),
                losses: losses.to_string(),
                length,
            });
        }
        self.adam.step(&mut self.weights, &gradients, &plan.rates);
        for (name, values) in running {
            self.weights.values_mut(&name).copy_from_slice(&values);
        }
        Ok((losses, length))
    }

    /// Feature maps, RPN logits and deltas of a sample.
    fn look(&mut self, sample: &Sample) -> Result<(Features, Array4<f32>, Array4<f32>), SessionError> {
        let image = sample.image.view().insert_axis(Axis(0)).to_owned();
        let as_input = image.view().insert_axis(Axis(0)).to_owned();
        let inputs = [("image", Input::array(&as_input))];
        let mut out = self.way_out.run(&inputs, &self.weights, &self.shapes, None)?;
        let maps = [map(&out, "f2")?, map(&out, "f4")?, map(&out, "f8")?];
        let (logits, deltas) = (map(&out, "logits")?, map(&out, "deltas")?);
        let gradients = [0, 1, 2].map(|i: usize| Array4::zeros(maps[i].raw_dim()));
        let kept = self.handed.iter().map(|name| out.take(name)).collect::<Result<_, _>>()?;
        Ok((Features { image, maps, gradients, kept }, logits, deltas))
    }

    /// The refinement head on its samples: class loss and box loss.
    fn refine(
        &mut self,
        features: &mut Features,
        samples: &[RefinementSample],
        truth: &Truth<'_>,
        n_rows: usize,
        gradients: &mut Tensors,
    ) -> Result<(f32, f32), SessionError> {
        let class_of =
            |sample: &RefinementSample| sample.truth.map_or(0, |number| truth.boxes[number].organ.class());
        let classes: Vec<usize> = samples.iter().map(class_of).collect();
        let mut row_weights = class_weights(&classes);
        row_weights.resize(n_rows, 0.0);
        let mut allowed = vec![0.0; n_rows * N_CLASSES];
        let mut box_targets = vec![0.0; n_rows * 6 * N_CLASSES];
        let mut box_weights = vec![0.0; n_rows * 6 * N_CLASSES];
        for (row, (sample, class)) in samples.iter().zip(&classes).enumerate() {
            allowed[row * N_CLASSES + class] = 1.0;
            match sample.truth {
                Some(number) => {
                    let deltas = encode(sample.proposal, truth.boxes[number].target, &self.preset);
                    let at = (row * N_CLASSES + class) * 6;
                    box_targets[at..at + 6].copy_from_slice(&deltas);
                    box_weights[at..at + 6].fill(1.0);
                }
                None => {
                    for organ in OrganSet::ALL.iter().filter(|organ| !truth.annotated.contains(*organ)) {
                        allowed[row * N_CLASSES + organ.class()] = 1.0;
                    }
                }
            }
        }
        // Unused rows must be of some class, their weight is zero.
        (samples.len()..n_rows).for_each(|row| allowed[row * N_CLASSES] = 1.0);
        let boxes: Vec<_> = samples.iter().map(|sample| sample.proposal).collect();
        let pooled = pool(features.maps[2].view(), &boxes);
        let width = pooled.cells.ncols();
        let n_cells = pooled.cells.len();
        let mut cells = pooled.cells.into_raw_vec_and_offset().0;
        cells.resize(n_rows * width, 0.0);
        if self.refinement.as_ref().is_none_or(|(rows, _)| *rows != n_rows) {
            let graph = training::refinement_step(&self.preset, n_rows);
            let scale = self.adam.loss_scale;
            let loaded = Loaded::new(
                self.runtime,
                "refinement step",
                graph,
                &self.options,
                scale,
                AfterRun::NothingStays,
            )?;
            self.refinement = Some((n_rows, loaded));
        }
        let (_, loaded) = self.refinement.as_mut().expect("loaded by the lines above");
        let wide = [n_rows, 6 * N_CLASSES];
        let inputs = [
            ("pooled", Input::F32(&[n_rows, width], &cells)),
            ("allowed", Input::F32(&[n_rows, N_CLASSES], &allowed)),
            ("row_weights", Input::F32(&[n_rows, 1], &row_weights)),
            ("box_targets", Input::F32(&wide, &box_targets)),
            ("box_weights", Input::F32(&wide, &box_weights)),
        ];
        let trained = loaded.trained.clone();
        let out = loaded.run(&inputs, &self.weights, &self.shapes, self.adam.loss_scale)?;
        accumulate(gradients, named(&out, "grad", &trained)?);
        let of_cells = values(&out, "grad.pooled")?;
        let parts = (out.scalar("loss.class")?, out.scalar("loss.box")?);
        add_cells(&of_cells[..n_cells], &pooled.places, &mut features.gradients[2]);
        Ok(parts)
    }

    /// The backbone's own losses and all its gradients; returns the new running statistics.
    fn backbone(
        &mut self,
        features: &Features,
        truth: &Truth<'_>,
        rng: &mut impl Rng,
        gradients: &mut Tensors,
        losses: &mut Losses,
    ) -> Result<Tensors, SessionError> {
        let targets = ProposalTargets::new(&self.preset, self.crop, truth, rng);
        let [d, h, w] = self.crop.map(|side| side / 8);
        let (narrow, wide) = ([1, N_ANCHORS, d, h, w], [1, 6 * N_ANCHORS, d, h, w]);
        let batch = |of: &Array4<f32>| -> Array5<f32> { of.view().insert_axis(Axis(0)).to_owned() };
        let image = batch(&features.image);
        let [df2, df4, df8] = [0, 1, 2].map(|i: usize| batch(&features.gradients[i]));
        let mut inputs = vec![
            ("image", Input::array(&image)),
            ("positive", Input::F32(&narrow, &targets.positive)),
            ("negative", Input::F32(&narrow, &targets.negative)),
            ("box_targets", Input::F32(&wide, &targets.box_targets)),
            ("box_weights", Input::F32(&wide, &targets.box_weights)),
            ("df2", Input::array(&df2)),
            ("df4", Input::array(&df4)),
            ("df8", Input::array(&df8)),
        ];
        inputs.extend(self.handed.iter().map(String::as_str).zip(features.kept.iter().map(Input::Kept)));
        let (trained, running) = (self.way_back.trained.clone(), self.way_back.running.clone());
        let out = self.way_back.run(&inputs, &self.weights, &self.shapes, self.adam.loss_scale)?;
        accumulate(gradients, named(&out, "grad", &trained)?);
        losses.proposal_class = out.scalar("loss.rpn_class")?;
        losses.proposal_box = out.scalar("loss.rpn_box")?;
        named(&out, "running", &running)
    }
}

impl Loaded {
    fn new(
        runtime: Runtime,
        name: &str,
        graph: TrainingGraph,
        options: &SessionOptions,
        scale: Option<LossScale>,
        outputs: AfterRun,
    ) -> Result<Self, SessionError> {
        let rewritten = scale.map(|_| mixed(&graph.bytes).expect("the builder wrote these bytes just now"));
        let bytes = rewritten.as_ref().unwrap_or(&graph.bytes);
        let (session, kept_bytes) = match outputs {
            AfterRun::NothingStays => (Session::without_pool(runtime, name, bytes, options)?, 0),
            AfterRun::OutputsStay => {
                let session = Session::from_bytes(runtime, name, bytes, options)?;
                if options.provider == Provider::Cpu || graph.peak_bytes > MOST_KEPT_BYTES {
                    let sizes =
                        graph.outputs.iter().map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64);
                    (session.giving_memory_back(&graph.outputs)?, sizes.sum())
                } else {
                    (session, graph.peak_bytes)
                }
            }
        };
        let TrainingGraph { weights, trained, running, .. } = graph;
        Ok(Self { session, kept_bytes, weights, trained, running })
    }

    /// Runs the graph with its weights as inputs.
    fn run(
        &mut self,
        inputs: &[(&str, Input<'_>)],
        weights: &Weights,
        shapes: &BTreeMap<String, Vec<usize>>,
        scale: Option<LossScale>,
    ) -> Result<Outputs<'_>, SessionError> {
        let mut all = inputs.to_vec();
        let factor = [scale.map_or(1.0, |scale| scale.scale)];
        if scale.is_some() {
            all.push((LOSS_SCALE, Input::F32(&[], &factor)));
        }
        for name in &self.weights {
            all.push((name, Input::F32(&shapes[name], weights.values(name))));
        }
        self.session.run(&all)
    }
}

/// An output of batch one without its first axis, copied.
fn map(out: &Outputs<'_>, name: &str) -> Result<Array4<f32>, SessionError> {
    let view = out.view(name)?;
    let view = view.into_dimensionality::<ndarray::Ix5>().expect("the trunk's outputs have five axes");
    Ok(view.index_axis(Axis(0), 0).to_owned())
}

fn values(out: &Outputs<'_>, name: &str) -> Result<Vec<f32>, SessionError> {
    Ok(out.view(name)?.iter().copied().collect())
}

/// The outputs `prefix.name` by name.
fn named(out: &Outputs<'_>, prefix: &str, names: &[String]) -> Result<Tensors, SessionError> {
    names.iter().map(|name| Ok((name.clone(), values(out, &format!("{prefix}.{name}"))?))).collect()
}

mod masks;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod timed;

use masks::MaskSessions;

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::super::checkpoint::Checkpoint;
    use super::*;
    use crate::engine::runtime::session::{Provider, runtime_of_tests};
    use crate::vocabulary::organ::Organ;

    const CROP: [usize; 3] = [16, 32, 48];

    fn sample(annotated: OrganSet) -> Sample {
        let image = Array3::from_shape_fn(CROP, |(z, y, x)| {
            if (4..12).contains(&z) && (5..27).contains(&y) {
                0.1 * ((z + 2 * y + 3 * x) % 7) as f32
            } else {
                -1.0
            }
        });
        let mut organs = Array3::zeros(CROP);
        organs.slice_mut(ndarray::s![5..10, 8..20, 20..38]).fill(OrganSet::of(Organ::Mandible).bits());
        Sample { name: "brick".into(), image, organs, annotated }
    }

    fn plan(step: u64, n_boxes: usize) -> Plan {
        let rates = AdamRates { learning_rate: 0.002, ..AdamRates::default() };
        Plan {
            step,
            refinement_boxes: Some(n_boxes),
            mask_boxes: Some((1, 100_000)),
            rates,
            longest_gradient: 10.0,
        }
    }

    fn trainer(runtime: Runtime, weights: Weights, adam: Adam) -> Trainer {
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        Trainer::new(runtime, options, CROP, Norms::Batch, 1 << 30, weights, adam).unwrap()
    }

    fn take(trainer: &mut Trainer, steps: std::ops::Range<u64>) -> Vec<Losses> {
        let mandible = sample(OrganSet::of(Organ::Mandible));
        steps
            .map(|step| trainer.step(&mandible, &plan(step, 8), &mut Pcg64::seed_from_u64(step)).unwrap().0)
            .collect()
    }

    /// Two steps, a file, two steps more, against four steps: the same losses and weights to the bit, on one thread.
    #[test]
    fn a_resumed_run_is_the_unbroken_run() {
        let Some(runtime) = runtime_of_tests("a_resumed_run_is_the_unbroken_run") else { return };
        let start = || Weights::start(&Preset::starter(), 5);
        let mut unbroken = trainer(runtime, start(), Adam::default());
        let all = take(&mut unbroken, 0..4);
        let mut first = trainer(runtime, start(), Adam::default());
        take(&mut first, 0..2);
        let dir = tempfile::tempdir().unwrap();
        let state = Checkpoint {
            step: 2,
            seed: 5,
            validation: None,
            weights: first.weights,
            average: None,
            adam: first.adam,
        };
        let state = Checkpoint::read(&state.write(dir.path(), "x.checkpoint").unwrap()).unwrap();
        let mut second = trainer(runtime, state.weights, state.adam);
        assert_eq!(take(&mut second, 2..4), all[2..]);
        assert_eq!(second.weights, unbroken.weights);
        assert_ne!(second.weights, start());
    }

    /// From the same weights the first losses agree; then the two ways part, because a rounding may change which boxes are
    /// drawn, and both go down. Then a scale that no 16-bit gradient survives: no step is taken, the scale is halved, and the next steps find one.
    #[test]
    fn mixed_precision_trains_and_skips_what_overflows() {
        let Some(runtime) = runtime_of_tests("mixed_precision_trains") else { return };
        let start = || Weights::start(&Preset::starter(), 5);
        let scaled = |scale: f32| Adam { loss_scale: Some(LossScale { scale, steps: 0 }), ..Adam::default() };
        let full = take(&mut trainer(runtime, start(), Adam::default()), 0..12);
        let mut half = trainer(runtime, start(), scaled(1024.0));
        let mixed = take(&mut half, 0..12);
        assert_eq!(half.adam.loss_scale, Some(LossScale { scale: 1024.0, steps: 12 }));
        let (a, b) = (full[0].total(), mixed[0].total());
        assert!((a - b).abs() < 0.01 * a, "{a} {b}");
        for way in [&full, &mixed] {
            assert!(way[11].total() < 0.7 * way[0].total(), "{way:?}");
        }
        assert_ne!(full, mixed, "nothing was rounded");
        let mut wild = trainer(runtime, start(), scaled(LossScale::HIGHEST));
        take(&mut wild, 0..1);
        assert_eq!(wild.weights, start());
        assert_eq!(wild.adam.loss_scale, Some(LossScale { scale: LossScale::HIGHEST / 2.0, steps: 0 }));
        assert!(wild.adam.moments.is_empty());
        take(&mut wild, 1..16);
        assert_ne!(wild.weights, start());
    }

    /// Voxels of an organ that is not annotated change nothing: neither a loss nor a weight.
    #[test]
    fn an_unannotated_organ_changes_nothing() {
        let Some(runtime) = runtime_of_tests("an_unannotated_organ_changes_nothing") else { return };
        let step = |sample: &Sample| {
            let mut trainer = trainer(runtime, Weights::start(&Preset::starter(), 5), Adam::default());
            let (losses, _) = trainer.step(sample, &plan(0, 8), &mut Pcg64::seed_from_u64(3)).unwrap();
            (losses, trainer.weights)
        };
        let known = OrganSet::of(Organ::Mandible);
        let plain = sample(known);
        let mut other = plain.clone();
        other.organs.slice_mut(ndarray::s![6..9, 10..14, 4..12]).fill(OrganSet::of(Organ::Larynx).bits());
        let (losses, weights) = step(&other);
        assert_eq!((losses, weights.clone()), step(&plain));
        other.annotated = known.union(OrganSet::of(Organ::Larynx));
        let (with_larynx, moved) = step(&other);
        assert!(with_larynx != losses && moved != weights, "the test would see a difference");
    }

    /// A case without any annotated organ trains nothing but what is in the air, and gives no box or mask loss.
    #[test]
    fn a_case_without_organs_is_no_error() {
        let Some(runtime) = runtime_of_tests("a_case_without_organs_is_no_error") else { return };
        let mut trainer = trainer(runtime, Weights::start(&Preset::starter(), 5), Adam::default());
        let (losses, _) =
            trainer.step(&sample(OrganSet::EMPTY), &plan(0, 8), &mut Pcg64::seed_from_u64(3)).unwrap();
        assert!(losses.proposal_box.abs() < 1e-9 && losses.mask.is_none(), "{losses}");
        assert!(losses.total().is_finite());
    }

    /// An image that is no number stops the step by name and leaves every weight as it was.
    #[test]
    fn a_loss_that_is_no_number_changes_nothing() {
        let Some(runtime) = runtime_of_tests("a_loss_that_is_no_number_changes_nothing") else { return };
        let weights = Weights::start(&Preset::starter(), 5);
        let mut trainer = trainer(runtime, weights.clone(), Adam::default());
        let mut broken = sample(OrganSet::of(Organ::Mandible));
        broken.image[[6, 9, 21]] = f32::NAN;
        let error = trainer.step(&broken, &plan(7, 8), &mut Pcg64::seed_from_u64(3)).unwrap_err();
        assert!(matches!(error, TrainError::NotFinite { step: 7, .. }), "{error}");
        assert_eq!(trainer.weights, weights);
    }
}
