//! The graphs of one training step. Forward and backward are standard operators, so the library that segments trains too.
//!
//! One step, as the caller goes through it (batch of one case, `(D, H, W)` multiples of 16):
//!
//! 1. The way out of [`trunk_step`]: image and weights -> `f2`, `f4`, `f8`, `logits`, `deltas`, normalised by this case's
//!    statistics.
//! 2. In Rust, without gradient: anchor targets, proposals, samples of the second stage, boxes of the mask head.
//! 3. [`refinement_step`] once, [`mask_step`] once per organ's box: losses, gradients of the heads' weights, and of the
//!    pooled cells and crops, which the caller adds into `df2`, `df4`, `df8` where they were taken.
//! 4. Its way back: adds the trunk's own losses, and gives its gradients and running statistics.
//! 5. `Adam` moves the weights.
//!
//! On a processor the way back is handed what it needs of the way out ([`super::cut`]), which lies there while the heads
//! work. On a GPU it computes the way out anew, because sessions hand over by way of the host.
//!
//! In every graph each weight is an input of its own name, [`TrainingGraph::weights`] lists which, and the gradient of
//! weight `w` is the output `grad.w`. Shapes are fixed when a graph is built: keep sessions by shape. Every gradient is
//! multiplied by the input `loss_scale`, which may be left out and then is one ([`super::mixed`]).

use super::builder::{GraphBuilder, Machine, Tensor};
use super::cut::Halves;
use super::layers::{Form, Layers, Norms};
use super::mixed::LOSS_SCALE;
use super::preset::{COARSE_STRIDE, INPUT_MULTIPLE, N_ANCHORS, N_CLASSES, Preset};
use super::uanet::{self, TrunkOutputs};
use super::weights::{Parameter, Role};

/// A graph with weights for inputs.
#[derive(Debug, Clone)]
pub struct TrainingGraph {
    /// The ONNX file.
    pub bytes: Vec<u8>,
    /// The weights (running statistics included) that it takes as inputs, each under its own name.
    pub weights: Vec<String>,
    /// The weights `w` for which it gives a gradient, the output `grad.w` of the weight's shape.
    pub trained: Vec<String>,
    /// The running statistics `s` for which it gives the new value, the output `running.s`.
    pub running: Vec<String>,
    /// Everything that comes out, and its shape.
    pub outputs: Vec<(String, Vec<usize>)>,
    /// The most bytes that its values need at a time, from shapes alone.
    pub peak_bytes: u64,
}

/// The trunk's two graphs of a step.
#[derive(Debug, Clone)]
pub struct TrunkStep {
    /// [`forward`], with what is kept as further outputs.
    pub out: TrainingGraph,
    /// [`backbone_step`], with what is kept as further inputs.
    pub back: TrainingGraph,
    /// What the first hands to the second, by name and shape; nothing on a GPU.
    pub kept: Vec<(String, Vec<usize>)>,
}

impl TrunkStep {
    /// Bytes of what lies between the two.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64).sum()
    }
}

/// The trunk's two graphs for images of `shape`.
#[must_use]
pub fn trunk_step(preset: &Preset, shape: [usize; 3], norms: Norms, machine: Machine) -> TrunkStep {
    if machine == Machine::Gpu {
        let out = forward(preset, shape, norms, machine);
        return TrunkStep { out, back: backbone_step(preset, shape, norms, machine), kept: Vec::new() };
    }
    let (layers, trunk, doors) = whole_step(preset, shape, norms, machine);
    let Halves { first, second, kept } = layers.graph.cut(&trunk.doors());
    let out = seal(first, &layers.parameters, Doors::default());
    TrunkStep { out, back: seal(second, &layers.parameters, doors), kept }
}

/// The trunk in training: input `image` `(1, 1, D, H, W)` and weights; outputs `f2`, `f4`, `f8`, `logits`, `deltas` as
/// [`uanet::trunk_graph`] has them, normalised as `norms` says.
#[must_use]
pub fn forward(preset: &Preset, shape: [usize; 3], norms: Norms, machine: Machine) -> TrainingGraph {
    let mut layers = Layers::new("forward", Form::Training(norms), preset);
    layers.graph.machine = machine;
    let image = image_input(&mut layers, shape);
    let trunk = uanet::trunk(&mut layers, preset, image);
    for (name, tensor) in trunk.doors() {
        layers.graph.output(name, tensor);
    }
    seal(layers.graph, &layers.parameters, Doors::default())
}

/// The second stage on `n` pooled proposals; unused rows have weights of zero.
///
/// Inputs: `pooled` `(n, merge8 * 216)` (channel, z, y, x); `allowed` `(n, 29)`, one at the class of a row, or at each
/// class that it may be (a background row: 0 and every organ that the case does not annotate); `row_weights` `(n, 1)`,
/// the class weights; `box_targets` and `box_weights` `(n, 174)`, targets and ones at the six columns `6 class +
/// coordinate` of a foreground row's class. Outputs: `loss.class`, `loss.box` (scalars), `grad.w`, `grad.pooled`.
#[must_use]
pub fn refinement_step(preset: &Preset, n: usize) -> TrainingGraph {
    let mut layers = Layers::new("refinement_step", Form::Training(Norms::default()), preset);
    let pooled = layers.input("pooled", &[n, uanet::pooled_width(preset)], &[]);
    let allowed = layers.input("allowed", &[n, N_CLASSES], &[]);
    let row_weights = layers.input("row_weights", &[n, 1], &[]);
    let box_targets = layers.input("box_targets", &[n, 6 * N_CLASSES], &[]);
    let box_weights = layers.input("box_weights", &[n, 6 * N_CLASSES], &[]);
    let (classes, boxes) = uanet::refinement(&mut layers, preset, pooled);
    let class_loss = layers.class_loss(classes, allowed, row_weights);
    let box_loss = layers.box_loss(boxes, box_targets, box_weights);
    layers.graph.output("loss.class", class_loss);
    layers.graph.output("loss.box", box_loss);
    let one = layers.graph.input_of_one(LOSS_SCALE);
    let doors = go_back(&mut layers, &[(class_loss, one), (box_loss, one)], &[("pooled", pooled)]);
    seal(layers.graph, &layers.parameters, doors)
}

/// The mask head in one organ's box of `sides` `(d, h, w)`, multiples of eight.
///
/// Inputs: `image`, `f2`, `f4`, `f8`, `class` as [`uanet::mask_graph`] has them; `truth` `(1, 1, d, h, w)`, one inside the
/// organ; `valid` of the same shape, zero where voxels do not count. Outputs: `loss.mask` (scalar, 1 - overlap), `logit`,
/// `grad.w`, `grad.f2`, `grad.f4`, `grad.f8` (of the crops). Leave out boxes without a voxel of the organ.
#[must_use]
pub fn mask_step(preset: &Preset, sides: [usize; 3], machine: Machine) -> TrainingGraph {
    let mut layers = Layers::new("mask_step", Form::Training(Norms::default()), preset);
    layers.graph.machine = machine;
    let crops = uanet::crops(&mut layers, preset, sides, false);
    let [d, h, w] = sides;
    let truth = layers.input("truth", &[1, 1, d, h, w], &[]);
    let valid = layers.input("valid", &[1, 1, d, h, w], &[]);
    let logit = uanet::mask(&mut layers, preset, crops);
    let loss = layers.mask_loss(logit, truth, valid);
    layers.graph.output("loss.mask", loss);
    layers.graph.output("logit", logit);
    let one = layers.graph.input_of_one(LOSS_SCALE);
    let doors = go_back(&mut layers, &[(loss, one)], &[("f2", crops.f2), ("f4", crops.f4), ("f8", crops.f8)]);
    seal(layers.graph, &layers.parameters, doors)
}

/// The trunk's own step.
///
/// Inputs: `image` `(1, 1, D, H, W)`; `positive` and `negative` `(1, 12, D/8, H/8, W/8)`, the weight of each anchor as
/// organ and as background (zero: ignored); `box_targets` and `box_weights` `(1, 72, D/8, H/8, W/8)`, targets and ones at
/// the six channels of each positive anchor; `df2`, `df4`, `df8`, the gradients that the heads gave, shaped as `f2`, `f4`,
/// `f8`. Outputs: `loss.rpn_class`, `loss.rpn_box` (scalars), `grad.w`, and `running.s` for every running statistic that the
/// case moves.
#[must_use]
pub fn backbone_step(preset: &Preset, shape: [usize; 3], norms: Norms, machine: Machine) -> TrainingGraph {
    let (layers, _, doors) = whole_step(preset, shape, norms, machine);
    seal(layers.graph, &layers.parameters, doors)
}

fn whole_step(
    preset: &Preset,
    shape: [usize; 3],
    norms: Norms,
    machine: Machine,
) -> (Layers<'static>, TrunkOutputs, Doors) {
    let mut layers = Layers::new("backbone_step", Form::Training(norms), preset);
    layers.graph.machine = machine;
    let image = image_input(&mut layers, shape);
    let [d, h, w] = shape.map(|side| side / COARSE_STRIDE);
    let positive = layers.input("positive", &[1, N_ANCHORS, d, h, w], &[]);
    let negative = layers.input("negative", &[1, N_ANCHORS, d, h, w], &[]);
    let box_targets = layers.input("box_targets", &[1, 6 * N_ANCHORS, d, h, w], &[]);
    let box_weights = layers.input("box_weights", &[1, 6 * N_ANCHORS, d, h, w], &[]);
    let trunk = uanet::trunk(&mut layers, preset, image);
    let mut seeds = Vec::new();
    for (name, map) in [("df2", trunk.f2), ("df4", trunk.f4), ("df8", trunk.f8)] {
        let sides = layers.graph.shape(map).to_vec();
        seeds.push((map, layers.input(name, &sides, &[])));
    }
    let class_loss = layers.focal_loss(trunk.logits, positive, negative);
    let box_loss = layers.box_loss(trunk.deltas, box_targets, box_weights);
    layers.graph.output("loss.rpn_class", class_loss);
    layers.graph.output("loss.rpn_box", box_loss);
    let one = layers.graph.input_of_one(LOSS_SCALE);
    seeds.extend([(class_loss, one), (box_loss, one)]);
    let moved = layers.move_running();
    let running = moved.iter().map(|(name, _)| name.clone()).collect();
    for (name, new) in moved {
        layers.graph.output(&format!("running.{name}"), new);
    }
    let doors = go_back(&mut layers, &seeds, &[]);
    (layers, trunk, Doors { running, ..doors })
}

fn image_input(layers: &mut Layers<'_>, shape: [usize; 3]) -> Tensor {
    assert!(
        shape.iter().all(|side| side % INPUT_MULTIPLE == 0),
        "sides of an input are multiples of 16: {shape:?}"
    );
    layers.input("image", &[1, 1, shape[0], shape[1], shape[2]], &[])
}

/// Doors out of a step: gradients of these weights, new values of these running statistics.
#[derive(Default)]
struct Doors {
    trained: Vec<String>,
    running: Vec<String>,
}

/// Goes back from the seeds and opens the doors for the gradients of weights and of `others`.
fn go_back(layers: &mut Layers<'_>, seeds: &[(Tensor, Tensor)], others: &[(&str, Tensor)]) -> Doors {
    let mut wanted: Vec<_> = others.iter().map(|(name, tensor)| ((*name).to_owned(), *tensor)).collect();
    let trained = layers.parameters.iter().filter(|(parameter, _)| parameter.role == Role::Trained);
    let trained: Vec<_> = trained.map(|(parameter, tensor)| (parameter.name.clone(), *tensor)).collect();
    wanted.extend_from_slice(&trained);
    let tensors: Vec<_> = wanted.iter().map(|(_, tensor)| *tensor).collect();
    let gradients = layers.gradients(seeds, &tensors);
    for ((name, _), gradient) in wanted.iter().zip(gradients) {
        // What the filters of the organs read is the largest map of the mask head; in the trunk each layer gives up its own.
        let rank = layers.graph.shape(gradient).len();
        if layers.graph.machine == Machine::Processor && (rank == 2 || (rank == 5 && others.is_empty())) {
            layers.graph.output_at_once(&format!("grad.{name}"), gradient);
        } else {
            layers.graph.output(&format!("grad.{name}"), gradient);
        }
    }
    Doors { trained: trained.into_iter().map(|(name, _)| name).collect(), running: Vec::new() }
}

fn seal(graph: GraphBuilder, parameters: &[(Parameter, Tensor)], doors: Doors) -> TrainingGraph {
    let read = graph.inputs();
    let weights = parameters.iter().map(|(parameter, _)| &parameter.name);
    let weights = weights.filter(|name| read.contains(name.as_str())).cloned().collect();
    let (peak_bytes, outputs) = (graph.peak_bytes(), graph.outputs());
    let Doors { trained, running } = doors;
    TrainingGraph { bytes: graph.finish(), weights, trained, running, outputs, peak_bytes }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::graph::{Adam, AdamRates, Weights};
    use crate::engine::runtime::session::{
        Input, Provider, Runtime, Session, SessionOptions, runtime_of_tests, weight_inputs,
    };

    fn load(runtime: Runtime, name: &str, graph: &TrainingGraph) -> Session {
        let options = SessionOptions { threads: 2, provider: Provider::Cpu };
        Session::from_bytes(runtime, name, &graph.bytes, &options).unwrap()
    }

    /// A smooth pattern that no mirror image equals.
    fn pattern(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.37).sin() * 0.5 + (i % 7) as f32 * 0.05).collect()
    }

    fn gradients(
        graph: &TrainingGraph,
        session: &mut Session,
        inputs: &[(&str, Input<'_>)],
        losses: &[&str],
    ) -> (f32, BTreeMap<String, Vec<f32>>) {
        let out = session.run(inputs).unwrap();
        let loss = losses.iter().map(|loss| out.scalar(loss).unwrap()).sum();
        let of = |name: &String| out.view(&format!("grad.{name}")).unwrap().iter().copied().collect();
        (loss, graph.trained.iter().map(|name| (name.clone(), of(name))).collect())
    }

    /// Tang et al. 2019 trained on crops of 160 x 240 x 240 voxels on a card of 11 GB; see docs/method.md for what a
    /// library adds.
    #[test]
    fn the_reference_trains_within_eleven_gigabytes() {
        let preset = Preset::reference();
        let trunk = backbone_step(&preset, [160, 240, 240], Norms::Batch, Machine::Gpu).peak_bytes;
        let mask = mask_step(&preset, [96, 144, 144], Machine::Gpu).peak_bytes;
        // Weights, their mean, two moments and gradients, four bytes each.
        let state = 5 * 4 * Weights::start(&preset, 1).count() as u64;
        assert!(trunk > 160 * 240 * 240 * 4 * 32, "{trunk}");
        assert!(trunk.max(mask) + state < 11_000_000_000, "{trunk} {mask} {state}");
        // On a processor what is kept lies beside the mask head's step.
        let trunk = trunk_step(&preset, [160, 240, 240], Norms::Batch, Machine::Processor);
        let (kept, peaks) = (trunk.kept_bytes(), trunk.out.peak_bytes.max(trunk.back.peak_bytes));
        let mask = mask_step(&preset, [96, 144, 144], Machine::Processor).peak_bytes;
        assert!(kept > 160 * 240 * 240 * 4 * 20, "{kept}");
        assert!(peaks.max(kept + mask) + state < 11_000_000_000, "{peaks} {kept} {mask} {state}");
    }

    #[test]
    fn the_mask_head_learns_one_box_by_heart() {
        let Some(runtime) = runtime_of_tests("the_mask_head_learns_one_box_by_heart") else { return };
        let preset = Preset::starter();
        let mut weights = Weights::start(&preset, 5);
        let graph = mask_step(&preset, [8, 16, 8], Machine::Processor);
        let mut session = load(runtime, "mask_step", &graph);
        let shapes = [[1, 1, 8, 16, 8], [1, 16, 4, 8, 4], [1, 32, 2, 4, 2], [1, 64, 1, 2, 1]];
        let maps = shapes.map(|shape: [usize; 5]| pattern(shape.iter().product()));
        let truth: Vec<f32> = (0..8 * 16 * 8)
            .map(|i| f32::from(u8::from(i / 128 < 5 && i / 8 % 16 > 3 && i % 8 < 6)))
            .collect();
        let valid = vec![1.0; truth.len()];
        let (mut adam, mut losses) = (Adam::default(), Vec::new());
        for _ in 0..40 {
            let (loss, gradients) = {
                let mut inputs = weight_inputs(&weights, &graph.weights);
                for ((name, shape), map) in ["image", "f2", "f4", "f8"].iter().zip(&shapes).zip(&maps) {
                    inputs.push((name, Input::F32(shape, map)));
                }
                inputs.push(("class", Input::I64(&[1], &[9])));
                inputs.push(("truth", Input::F32(&shapes[0], &truth)));
                inputs.push(("valid", Input::F32(&shapes[0], &valid)));
                gradients(&graph, &mut session, &inputs, &["loss.mask"])
            };
            losses.push(loss);
            adam.step(&mut weights, &gradients, &AdamRates { learning_rate: 5e-3, ..AdamRates::default() });
        }
        assert!(losses[0] > 0.2, "{losses:?}");
        assert!(losses[39] < 0.02, "{losses:?}");
    }

    fn backbone(runtime: Runtime, preset: &Preset, shape: [usize; 3], steps: usize) -> Vec<f32> {
        let mut weights = Weights::start(preset, 5);
        let graph = backbone_step(preset, shape, Norms::Batch, Machine::Processor);
        let mut session = load(runtime, "backbone_step", &graph);
        let [d, h, w] = shape;
        let at = |channels, scale| [1, channels, d / scale, h / scale, w / scale];
        let channels = &preset.channels;
        let shapes = [
            at(1, 1),
            at(12, 8),
            at(12, 8),
            at(72, 8),
            at(72, 8),
            at(channels.stage2, 2),
            at(channels.stage4, 4),
            at(channels.merge8, 8),
        ];
        let mut maps = shapes.map(|shape: [usize; 5]| pattern(shape.iter().product()));
        maps[1] = maps[1].iter().map(|v| f32::from(u8::from(*v > 0.6))).collect();
        maps[2] = maps[1].iter().map(|v| (1.0 - v) * 0.3).collect();
        let positions = d * h * w / 512;
        maps[4] =
            (0..72 * positions).map(|i| maps[1][i / (6 * positions) * positions + i % positions]).collect();
        for map in &mut maps[5..] {
            map.fill(0.0);
        }
        let (mut adam, mut losses) = (Adam::default(), Vec::new());
        for _ in 0..steps {
            let (loss, gradients) = {
                let mut inputs = weight_inputs(&weights, &graph.weights);
                let names =
                    ["image", "positive", "negative", "box_targets", "box_weights", "df2", "df4", "df8"];
                for ((name, shape), map) in names.iter().zip(&shapes).zip(&maps) {
                    inputs.push((name, Input::F32(shape, map)));
                }
                gradients(&graph, &mut session, &inputs, &["loss.rpn_class", "loss.rpn_box"])
            };
            losses.push(loss);
            adam.step(&mut weights, &gradients, &AdamRates { learning_rate: 3e-3, ..AdamRates::default() });
        }
        losses
    }

    /// Frozen, the trunk in training is the trunk that segments, in another form of the same arithmetic.
    #[test]
    fn a_frozen_trunk_computes_what_inference_does() {
        let Some(runtime) = runtime_of_tests("a_frozen_trunk_computes_what_inference_does") else { return };
        let preset = Preset::starter();
        let mut weights = Weights::start(&preset, 5);
        let names: Vec<String> = weights.parameters().iter().map(|p| p.name.clone()).collect();
        for (number, name) in names.iter().enumerate().filter(|(_, name)| name.contains(".norm.")) {
            let (middle, reach) = if name.ends_with("variance") { (0.8, 0.3) } else { (0.4, 0.6) };
            for (i, value) in weights.values_mut(name).iter_mut().enumerate() {
                *value = middle + reach * ((number * 13 + i * 7) as f32).sin();
            }
        }
        let shape = [16, 32, 48];
        let graph = forward(&preset, shape, Norms::Frozen, Machine::Processor);
        assert!(graph.running.is_empty());
        let image = pattern(shape.iter().product());
        let sides = [1, 1, shape[0], shape[1], shape[2]];
        let mut inputs = weight_inputs(&weights, &graph.weights);
        inputs.push(("image", Input::F32(&sides, &image)));
        let mut frozen = load(runtime, "forward", &graph);
        let frozen = frozen.run(&inputs).unwrap();
        let options = SessionOptions { threads: 2, provider: Provider::Cpu };
        let mut segments =
            Session::from_bytes(runtime, "trunk", &uanet::trunk_graph(&weights), &options).unwrap();
        let segments = segments.run(&[("image", Input::F32(&sides, &image))]).unwrap();
        for name in ["f2", "f4", "f8", "logits", "deltas"] {
            let (found, wanted) = (frozen.view(name).unwrap(), segments.view(name).unwrap());
            let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let differs = found.iter().zip(&wanted).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(largest > 0.1 && differs < 2e-5 * largest, "{name}: {differs} of {largest}");
        }
    }

    #[test]
    fn the_trunk_learns_one_case_by_heart() {
        let Some(runtime) = runtime_of_tests("the_trunk_learns_one_case_by_heart") else { return };
        let losses = backbone(runtime, &Preset::starter(), [32, 48, 16], 60);
        assert!(losses[59] < 0.1 * losses[0], "{losses:?}");
    }
}
