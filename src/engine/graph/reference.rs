//! The network against PyTorch: outputs, losses and every gradient of all graphs of the `starter` preset, and twenty
//! steps of Adam.
//!
//! `tests/reference/uanet_numbers.py` makes the numbers, `tests/reference/uanet_numbers.json` holds them and names the
//! versions that made them.

use std::collections::BTreeMap;

use super::hashed::{hashed, hashed_weights};
use super::training::{self, TrainingGraph, TrunkStep};
use super::weights::Role;
use super::{Adam, AdamRates, Machine, Norms, Preset, Weights, uanet};
use crate::engine::runtime::session::{
    Input, Outputs, Provider, Runtime, Session, SessionOptions, runtime_of_tests, weight_inputs,
};

/// Allowed difference of a tensor's norm and projection as a share of its norm: float32 through some thirty layers, in
/// training through twice as many. PyTorch's own float32 lies as far from its float64.
const TOLERANCE: f64 = 1e-3;

const SIDES: [usize; 3] = [32, 32, 48];
const BOX: [usize; 3] = [16, 8, 24];
const ROWS: usize = 5;

struct Reference(BTreeMap<String, [f64; 2]>);

impl Reference {
    fn read() -> Self {
        let text = include_str!("../../../tests/reference/uanet_numbers.json");
        let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
        assert!(all.remove("made by").is_some());
        Self(all.into_iter().map(|(name, value)| (name, serde_json::from_value(value).unwrap())).collect())
    }

    /// Compares each output, and takes it off the list of what is expected.
    fn check(&mut self, graph: &str, outputs: &Outputs<'_>, names: &[String]) {
        for name in names {
            let values: Vec<_> = outputs.view(name).unwrap().iter().copied().collect();
            self.compare(&format!("{graph} {name}"), &values, TOLERANCE);
        }
    }

    fn compare(&mut self, key: &str, values: &[f32], tolerance: f64) {
        let [norm, projection] = self.0.remove(key).unwrap_or_else(|| panic!("the script has no {key}"));
        let along = hashed(&format!("project {key}"), values.len());
        let found_norm = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let found: f64 = values.iter().zip(&along).map(|(&v, &a)| f64::from(v) * f64::from(a)).sum();
        let off = ((found_norm - norm).abs()).max((found - projection).abs()) / norm;
        assert!(
            off < tolerance,
            "{key}: expected {norm} and {projection}, found {found_norm} and {found}: off by {off:.1e}"
        );
    }
}

fn load(runtime: Runtime, name: &str, bytes: &[u8]) -> Session {
    Session::from_bytes(runtime, name, bytes, &SessionOptions { threads: 2, provider: Provider::Cpu })
        .unwrap()
}

/// Everything a training graph gives, by name.
fn all_of(graph: &TrainingGraph, losses: &[&str], others: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = losses.iter().map(|&name| name.to_owned()).collect();
    names.extend(others.iter().map(|name| format!("grad.{name}")));
    names.extend(graph.trained.iter().map(|name| format!("grad.{name}")));
    names.extend(graph.running.iter().map(|name| format!("running.{name}")));
    names
}

/// Hashed inputs by name and shape; the hash takes the first name, the graph knows the second.
struct Inputs(Vec<(&'static str, Vec<usize>, Vec<f32>)>);

impl Inputs {
    fn add(&mut self, name: &'static str, shape: &[usize], values: impl Fn(f32) -> f32, hash: &str) {
        let numbers = hashed(hash, shape.iter().product()).into_iter().map(values).collect();
        self.0.push((name, shape.to_vec(), numbers));
    }

    fn all(&self) -> impl Iterator<Item = (&str, Input<'_>)> {
        self.0.iter().map(|(name, shape, values)| (*name, Input::F32(shape, values)))
    }
}

fn above(threshold: f32) -> impl Fn(f32) -> f32 {
    move |v| f32::from(u8::from(v > threshold))
}

#[test]
fn every_output_gradient_and_step_is_that_of_pytorch() {
    let Some(runtime) = runtime_of_tests("every_output_gradient_and_step_is_that_of_pytorch") else { return };
    let preset = Preset::starter();
    let weights = hashed_weights(&preset);
    for machine in [Machine::Gpu, Machine::Processor] {
        let mut reference = Reference::read();
        trunk(runtime, &weights, &mut reference, machine);
        refinement(runtime, &weights, &mut reference);
        mask(runtime, &weights, &mut reference, machine);
        adam(&weights, &mut reference);
        assert!(reference.0.is_empty(), "not compared: {:?}", reference.0.keys());
    }
    let trained = weights.parameters().iter().filter(|parameter| parameter.role == Role::Trained).count();
    assert!(trained > 100, "{trained}");
}

fn trunk(runtime: Runtime, weights: &Weights, reference: &mut Reference, machine: Machine) {
    let preset = weights.preset();
    let channels = &preset.channels;
    let at = |channels, scale| [1, channels, SIDES[0] / scale, SIDES[1] / scale, SIDES[2] / scale];
    let maps = ["f2", "f4", "f8", "logits", "deltas"].map(str::to_owned);
    let mut inputs = Inputs(vec![]);
    inputs.add("image", &at(1, 1), |v| v, "image");
    let image: Vec<_> = inputs.all().collect();
    let mut session = load(runtime, "trunk", &uanet::trunk_graph(weights));
    reference.check("trunk", &session.run(&image).unwrap(), &maps);

    let TrunkStep { out, back, kept } = training::trunk_step(preset, SIDES, Norms::Batch, machine);
    assert_eq!(kept.is_empty(), machine == Machine::Gpu);
    let mut session = load(runtime, "way out", &out.bytes);
    let all: Vec<_> = weight_inputs(weights, &out.weights).into_iter().chain(image).collect();
    let mut found = session.run(&all).unwrap();
    reference.check("forward", &found, &maps);
    let handed: Vec<_> = kept.iter().map(|(name, _)| found.take(name).unwrap()).collect();
    let handed = kept.iter().map(|(name, _)| name.as_str()).zip(handed.iter().map(Input::Kept));

    inputs.add("positive", &at(12, 8), above(0.7), "positive");
    inputs.add("negative", &at(12, 8), |v| 0.3 * above(0.0)(v), "negative");
    inputs.add("box_targets", &at(72, 8), |v| 2.0 * v, "box_targets");
    for (name, channels, scale) in
        [("df2", channels.stage2, 2), ("df4", channels.stage4, 4), ("df8", channels.merge8, 8)]
    {
        inputs.add(name, &at(channels, scale), |v| 0.01 * v, name);
    }
    let positions = SIDES.iter().product::<usize>() / 512;
    let positive = &inputs.0[1].2;
    let chosen: Vec<_> =
        (0..72 * positions).map(|i| positive[i / (6 * positions) * positions + i % positions]).collect();
    inputs.0.push(("box_weights", at(72, 8).to_vec(), chosen));
    let mut session = load(runtime, "way back", &back.bytes);
    let weights = weight_inputs(weights, &back.weights);
    let all: Vec<_> = weights.into_iter().chain(inputs.all()).chain(handed).collect();
    let names = all_of(&back, &["loss.rpn_class", "loss.rpn_box"], &[]);
    reference.check("backbone_step", &session.run(&all).unwrap(), &names);
}

fn refinement(runtime: Runtime, weights: &Weights, reference: &mut Reference) {
    let preset = weights.preset();
    let mut inputs = Inputs(vec![]);
    inputs.add("pooled", &[ROWS, uanet::pooled_width(preset)], |v| v, "pooled");
    let mut session = load(runtime, "refinement", &uanet::refinement_graph(weights));
    let pooled: Vec<_> = inputs.all().collect();
    let names = ["class_logits", "box_deltas"].map(str::to_owned);
    reference.check("refinement", &session.run(&pooled).unwrap(), &names);

    let mut allowed = vec![0.0; ROWS * 29];
    for (row, classes) in [&[3][..], &[0, 5, 28], &[28], &[0]].into_iter().enumerate() {
        for class in classes {
            allowed[row * 29 + class] = 1.0;
        }
    }
    let mut box_weights = vec![0.0; ROWS * 174];
    box_weights[18..24].fill(1.0);
    box_weights[2 * 174 + 168..2 * 174 + 174].fill(1.0);
    inputs.0.push(("allowed", vec![ROWS, 29], allowed));
    inputs.0.push(("row_weights", vec![ROWS, 1], vec![1.0, 0.5, 2.0, 0.25, 0.0]));
    inputs.add("box_targets", &[ROWS, 174], |v| 2.0 * v, "row_targets");
    inputs.0.push(("box_weights", vec![ROWS, 174], box_weights));
    let graph = training::refinement_step(preset, ROWS);
    let mut session = load(runtime, "refinement_step", &graph.bytes);
    let all: Vec<_> = weight_inputs(weights, &graph.weights).into_iter().chain(inputs.all()).collect();
    let names = all_of(&graph, &["loss.class", "loss.box"], &["pooled"]);
    reference.check("refinement_step", &session.run(&all).unwrap(), &names);
}

fn mask(runtime: Runtime, weights: &Weights, reference: &mut Reference, machine: Machine) {
    let preset = weights.preset();
    let channels = &preset.channels;
    let at = |channels, scale| [1, channels, BOX[0] / scale, BOX[1] / scale, BOX[2] / scale];
    let mut inputs = Inputs(vec![]);
    inputs.add("image", &at(1, 1), |v| v, "crop");
    inputs.add("f2", &at(channels.stage2, 2), |v| v, "crop f2");
    inputs.add("f4", &at(channels.stage4, 4), |v| v, "crop f4");
    inputs.add("f8", &at(channels.merge8, 8), |v| v, "crop f8");
    let class = ("class", Input::I64(&[1], &[11]));
    let crops: Vec<_> = inputs.all().chain([class]).collect();
    let mut session = load(runtime, "mask", &uanet::mask_graph(weights));
    reference.check("mask", &session.run(&crops).unwrap(), &["logit".to_owned()]);

    inputs.add("truth", &at(1, 1), above(0.4), "truth");
    inputs.add("valid", &at(1, 1), above(-0.8), "valid");
    let graph = training::mask_step(preset, BOX, machine);
    let mut session = load(runtime, "mask_step", &graph.bytes);
    let all: Vec<_> =
        weight_inputs(weights, &graph.weights).into_iter().chain(inputs.all()).chain([class]).collect();
    let names = all_of(&graph, &["loss.mask"], &["f2", "f4", "f8"]);
    reference.check("mask_step", &session.run(&all).unwrap(), &names);

    let (mut weights, mut adam, mut losses) = (weights.clone(), Adam::default(), Vec::new());
    for _ in 0..20 {
        let all: Vec<_> =
            weight_inputs(&weights, &graph.weights).into_iter().chain(inputs.all()).chain([class]).collect();
        let outputs = session.run(&all).unwrap();
        losses.push(outputs.scalar("loss.mask").unwrap());
        let gradient =
            |name: &String| outputs.view(&format!("grad.{name}")).unwrap().iter().copied().collect();
        let gradients = graph.trained.iter().map(|name| (name.clone(), gradient(name))).collect();
        adam.step(&mut weights, &gradients, &AdamRates::default());
    }
    reference.compare("adam losses", &losses, TOLERANCE);
}

fn adam(weights: &Weights, reference: &mut Reference) {
    let name = "mask.up8.conv.weight";
    let (mut weights, mut adam) = (weights.clone(), Adam::default());
    for step in 0..20 {
        let gradient = hashed(&format!("gradient {step}"), weights.values(name).len());
        let rates = AdamRates { weight_decay: 1e-1, ..AdamRates::default() };
        adam.step(&mut weights, &BTreeMap::from([(name.to_owned(), gradient)]), &rates);
    }
    reference.compare("adam alone", weights.values(name), 1e-6);
}
