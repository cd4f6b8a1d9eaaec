//! Mixed precision: a training graph whose convolutions and matrix products compute with 16-bit floats.
//!
//! Weights stay 32-bit inputs (the master copy that Adam moves) and are rounded inside the graph; norms, losses, sums and
//! every output stay 32-bit. Small gradients would vanish in 16 bits, so the loss is multiplied by a [`LossScale`] on the
//! way back: the input [`LOSS_SCALE`] of each training graph, which is one where nobody sets it.
//! Source: Micikevicius et al. 2018, sections 3.1 to 3.3. IEEE half floats, because ONNX Runtime's CUDA convolutions know
//! no other 16-bit type in operator set 18.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto};

/// The input of training graphs by which the gradients of all losses are multiplied; one by default.
pub const LOSS_SCALE: &str = "loss_scale";

/// Operators that compute with 16 bits.
const COMPUTE: [&str; 4] = ["Conv", "ConvTranspose", "Gemm", "MatMul"];
/// Operators that only move elements: what goes in may as well be rounded before them. All inputs of `Concat` are moved,
/// of the others the first.
const MOVE: [&str; 6] = ["Reshape", "Transpose", "Slice", "Pad", "Concat", "Identity"];

/// ONNX's numbers of the element types.
const F32: i64 = 1;
const F16: i64 = 10;

/// The bytes are no graph of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this graph has no form of mixed precision: {0}")]
pub struct NoMixedForm(String);

/// Rewrites a training graph; its doors stay as they are.
///
/// # Errors
/// [`NoMixedForm`] for bytes that are no graph.
pub fn mixed(plain: &[u8]) -> Result<Vec<u8>, NoMixedForm> {
    let mut model = ModelProto::decode(plain).map_err(|error| NoMixedForm(error.to_string()))?;
    let graph = model.graph.take().ok_or_else(|| NoMixedForm("no graph".to_owned()))?;
    let made_by = graph
        .node
        .iter()
        .enumerate()
        .flat_map(|(at, node)| node.output.iter().map(move |name| (name.as_str(), at)));
    let mut mixed =
        Mixed { plain: &graph.node, made_by: made_by.collect(), halves: BTreeMap::new(), nodes: Vec::new() };
    for node in &graph.node {
        mixed.put(node);
    }
    let outputs: BTreeSet<&str> = graph.output.iter().map(|door| door.name.as_str()).collect();
    let nodes = living(mixed.nodes, &outputs);
    model.graph = Some(GraphProto { node: nodes, ..graph });
    Ok(model.encode_to_vec())
}

struct Mixed<'a> {
    plain: &'a [NodeProto],
    made_by: BTreeMap<&'a str, usize>,
    /// 16-bit copies by the name of the 32-bit original.
    halves: BTreeMap<String, String>,
    nodes: Vec<NodeProto>,
}

impl Mixed<'_> {
    fn put(&mut self, node: &NodeProto) {
        if !COMPUTE.contains(&node.op_type.as_str()) {
            self.nodes.push(node.clone());
            return;
        }
        let input = node.input.iter().map(|name| self.half(name)).collect();
        let rounded = format!("{}.half", node.output[0]);
        let name = format!("{}.half", node.name);
        self.nodes.push(NodeProto { input, output: vec![rounded.clone()], name, ..node.clone() });
        self.halves.insert(node.output[0].clone(), rounded.clone());
        self.nodes.push(cast(&rounded, &node.output[0], F32));
    }

    /// The 16-bit copy of a value: rounded where it is made, that is before operators that only move it.
    fn half(&mut self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        if let Some(known) = self.halves.get(name) {
            return known.clone();
        }
        let copy = format!("{name}.half");
        let maker = self.made_by.get(name).map(|at| &self.plain[*at]);
        match maker.filter(|node| MOVE.contains(&node.op_type.as_str())) {
            Some(node) => {
                let moved = if node.op_type == "Concat" { node.input.len() } else { 1 };
                let inputs = node.input.iter().enumerate();
                let input = inputs
                    .map(|(at, name)| if at < moved { self.half(name) } else { name.clone() })
                    .collect();
                let name = format!("{}.half", node.name);
                self.nodes.push(NodeProto { input, output: vec![copy.clone()], name, ..node.clone() });
            }
            None => self.nodes.push(cast(name, &copy, F16)),
        }
        self.halves.insert(name.to_owned(), copy.clone());
        copy
    }
}

fn cast(from: &str, to: &str, element: i64) -> NodeProto {
    let kind =
        AttributeProto { name: "to".to_owned(), i: Some(element), kind: 2, ..AttributeProto::default() };
    NodeProto {
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        name: format!("cast {to}"),
        op_type: "Cast".to_owned(),
        attribute: vec![kind],
    }
}

/// The nodes that an output depends on, in their order.
fn living(nodes: Vec<NodeProto>, outputs: &BTreeSet<&str>) -> Vec<NodeProto> {
    let mut needed: BTreeSet<String> = outputs.iter().map(|name| (*name).to_owned()).collect();
    let mut kept: Vec<NodeProto> = Vec::new();
    for node in nodes.into_iter().rev() {
        if node.output.iter().any(|name| needed.contains(name)) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    kept
}

/// By what the losses are multiplied on the way back; follows what 16 bits can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// The factor, a power of two.
    pub scale: f32,
    /// Steps since it changed.
    pub steps: u32,
}

impl LossScale {
    /// Where a run begins.
    pub const START: Self = Self { scale: 65_536.0, steps: 0 };
    /// After so many steps without overflow it doubles.
    pub const PATIENCE: u32 = 2_000;
    /// It never falls below this: then the numbers themselves are wrong.
    pub const LOWEST: f32 = 1.0;
    /// And never rises above this, so that the product with a loss stays finite.
    pub const HIGHEST: f32 = 16_777_216.0;

    /// The scale for the next step: half after gradients that were not finite, which take no part in training, and the
    /// double after a long time without. `None` where it would fall below [`LossScale::LOWEST`].
    #[must_use]
    pub fn after(self, finite: bool) -> Option<Self> {
        if !finite {
            let scale = self.scale / 2.0;
            return (scale >= Self::LOWEST).then_some(Self { scale, steps: 0 });
        }
        if self.steps + 1 < Self::PATIENCE {
            return Some(Self { steps: self.steps + 1, ..self });
        }
        Some(Self { scale: (self.scale * 2.0).min(Self::HIGHEST), steps: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::training::{TrainingGraph, backbone_step, mask_step, refinement_step};
    use crate::engine::graph::{Machine, Norms, Preset, Weights};
    use crate::engine::runtime::session::{
        Input, Provider, Runtime, Session, SessionOptions, runtime_of_tests, weight_inputs,
    };

    #[test]
    fn the_scale_falls_at_once_and_rises_slowly() {
        let fallen = LossScale::START.after(false).unwrap();
        assert_eq!(fallen, LossScale { scale: 32_768.0, steps: 0 });
        let mut scale = fallen;
        for _ in 1..LossScale::PATIENCE {
            scale = scale.after(true).unwrap();
        }
        assert_eq!(scale, LossScale { scale: 32_768.0, steps: LossScale::PATIENCE - 1 });
        assert_eq!(scale.after(true).unwrap(), LossScale::START);
        assert_eq!(LossScale { scale: 1.0, steps: 7 }.after(false), None);
        let highest = LossScale { scale: LossScale::HIGHEST, steps: LossScale::PATIENCE - 1 };
        assert_eq!(highest.after(true).unwrap().scale, LossScale::HIGHEST);
    }

    /// Every product takes and gives 16 bits, nothing is computed for nobody, and doors are what they were.
    #[test]
    fn products_compute_with_sixteen_bits_and_nothing_else_does() {
        let plain = backbone_step(&Preset::starter(), [16, 32, 16], Norms::Batch, Machine::Gpu).bytes;
        let (before, after) = (
            ModelProto::decode(plain.as_slice()).unwrap(),
            ModelProto::decode(mixed(&plain).unwrap().as_slice()).unwrap(),
        );
        let (before, after) = (before.graph.unwrap(), after.graph.unwrap());
        assert_eq!((before.input, before.output), (after.input, after.output));
        let count = |nodes: &[NodeProto]| {
            nodes.iter().filter(|node| COMPUTE.contains(&node.op_type.as_str())).count()
        };
        assert_eq!(count(&before.node), count(&after.node));
        for node in &after.node {
            let halves = node.input.iter().filter(|name| name.ends_with(".half")).count();
            match node.op_type.as_str() {
                kind if COMPUTE.contains(&kind) => assert_eq!(halves, node.input.len(), "{}", node.name),
                kind if MOVE.contains(&kind) || kind == "Cast" => {}
                _ => assert_eq!(halves, 0, "{}", node.name),
            }
        }
        // Rounded once, then cut into the 27 views of a kernel, not the other way round.
        let casts = after.node.iter().filter(|node| node.op_type == "Cast").count();
        assert!(casts < 4 * count(&after.node) / 3, "{casts}");
        assert!(mixed(b"no graph").is_err());
    }

    fn pattern(count: usize, salt: usize) -> Vec<f32> {
        let mut state = u32::try_from(salt).unwrap() * 7919 + 17;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    type Outputs = BTreeMap<String, Vec<f32>>;

    fn outputs(runtime: Runtime, graph: &[u8], inputs: &[(&str, Input<'_>)]) -> Outputs {
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        let mut session = Session::from_bytes(runtime, "mixed", graph, &options).unwrap();
        let out = session.run(inputs).unwrap();
        out.names().map(|name| (name.to_owned(), out.view(name).unwrap().iter().copied().collect())).collect()
    }

    /// Runs a training graph in both precisions and with a scale, and compares: losses to `loss`, and of all gradients
    /// together (over the scale) the length of the difference to `gradient` of their own length.
    fn check(
        runtime: Runtime,
        graph: &TrainingGraph,
        inputs: &[(&str, Input<'_>)],
        loss: f32,
        gradient: f64,
    ) {
        let full = outputs(runtime, &graph.bytes, inputs);
        let half = mixed(&graph.bytes).unwrap();
        let scale = [1024.0];
        let mut scaled = inputs.to_vec();
        scaled.push((LOSS_SCALE, Input::F32(&[], &scale)));
        let found = outputs(runtime, &half, &scaled);
        let (mut apart, mut length) = (0.0, 0.0);
        for (name, wanted) in &full {
            let found = &found[name];
            assert!(found.iter().all(|value| value.is_finite()), "{name}");
            if name.starts_with("loss.") {
                assert!(
                    (found[0] - wanted[0]).abs() <= loss * wanted[0].abs(),
                    "{name}: {} and {}",
                    wanted[0],
                    found[0]
                );
            } else if name.starts_with("grad.") {
                for (a, b) in wanted.iter().zip(found) {
                    apart += (f64::from(*a) - f64::from(*b) / 1024.0).powi(2);
                    length += f64::from(*a).powi(2);
                }
            }
        }
        let off = (apart / length).sqrt();
        assert!(length > 0.0 && off < gradient, "gradients differ by {off}");
        assert!(off > 1e-5, "nothing was rounded: {off}");
    }

    /// The tolerances: half a float's 2^-11 over some forty layers; measured 0.2 to 3 %.
    #[test]
    fn losses_and_gradients_follow_those_of_full_precision() {
        let Some(runtime) = runtime_of_tests("losses_and_gradients_follow") else { return };
        let preset = Preset::starter();
        let weights = Weights::start(&preset, 5);

        let graph = mask_step(&preset, [8, 16, 24], Machine::Gpu);
        let shapes = [[1, 1, 8, 16, 24], [1, 16, 4, 8, 12], [1, 32, 2, 4, 6], [1, 64, 1, 2, 3]];
        let maps: Vec<Vec<f32>> =
            shapes.iter().zip(1..).map(|(s, salt)| pattern(s.iter().product::<usize>(), salt)).collect();
        let truth: Vec<f32> = maps[0].iter().map(|v| f32::from(u8::from(*v > 0.1))).collect();
        let valid = vec![1.0; truth.len()];
        let mut inputs = weight_inputs(&weights, &graph.weights);
        for ((name, shape), map) in ["image", "f2", "f4", "f8"].iter().zip(&shapes).zip(&maps) {
            inputs.push((name, Input::F32(shape, map)));
        }
        inputs.push(("class", Input::I64(&[1], &[9])));
        inputs.push(("truth", Input::F32(&shapes[0], &truth)));
        inputs.push(("valid", Input::F32(&shapes[0], &valid)));
        check(runtime, &graph, &inputs, 2e-3, 0.05);

        let graph = refinement_step(&preset, 6);
        let width = crate::engine::graph::uanet::pooled_width(&preset);
        let pooled: Vec<f32> = pattern(6 * width, 3).into_iter().map(f32::abs).collect();
        let allowed: Vec<f32> = (0..6 * 29).map(|at| f32::from(u8::from(at % 29 == at / 29))).collect();
        let box_targets = pattern(6 * 174, 4);
        let box_weights: Vec<f32> =
            (0..6 * 174).map(|at| f32::from(u8::from(at % 174 / 6 == at / 174))).collect();
        let mut inputs = weight_inputs(&weights, &graph.weights);
        let sides = [6, width];
        inputs.extend([
            ("pooled", Input::F32(&sides, &pooled)),
            ("allowed", Input::F32(&[6, 29], &allowed)),
            ("row_weights", Input::F32(&[6, 1], &[1.0; 6])),
            ("box_targets", Input::F32(&[6, 174], &box_targets)),
            ("box_weights", Input::F32(&[6, 174], &box_weights)),
        ]);
        check(runtime, &graph, &inputs, 2e-3, 0.01);

        let graph = backbone_step(&preset, [16, 32, 48], Norms::Batch, Machine::Gpu);
        let at = |channels: usize, scale: usize| [1, channels, 16 / scale, 32 / scale, 48 / scale];
        let shapes = [at(1, 1), at(12, 8), at(12, 8), at(72, 8), at(72, 8), at(16, 2), at(32, 4), at(64, 8)];
        let mut maps: Vec<Vec<f32>> =
            shapes.iter().zip(1..).map(|(s, salt)| pattern(s.iter().product::<usize>(), salt)).collect();
        maps[1] = maps[1].iter().map(|v| f32::from(u8::from(*v > 0.7))).collect();
        maps[2] = maps[1].iter().map(|v| (1.0 - v) * 0.3).collect();
        let positions = 2 * 4 * 6;
        maps[4] =
            (0..72 * positions).map(|i| maps[1][i / (6 * positions) * positions + i % positions]).collect();
        maps[5..].iter_mut().for_each(|map| map.fill(0.0));
        let names = ["image", "positive", "negative", "box_targets", "box_weights", "df2", "df4", "df8"];
        let mut inputs = weight_inputs(&weights, &graph.weights);
        for ((name, shape), map) in names.iter().zip(&shapes).zip(&maps) {
            inputs.push((name, Input::F32(shape, map)));
        }
        check(runtime, &graph, &inputs, 5e-3, 0.05);
    }
}
