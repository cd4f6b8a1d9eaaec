//! The same graphs on the processor and on a device: how far apart, which nodes fell back, how long. Prints one JSON.
//!
//! `tests/gpu/run` starts it; docs/gpu.md says what the JSON holds. Exit code 1: something is beyond its tolerance, or a
//! node ran elsewhere than on the device.

#![allow(clippy::print_stdout, reason = "the JSON is the result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use oarlock::engine::graph::training::{TrainingGraph, backbone_step, forward, mask_step, refinement_step};
use oarlock::engine::graph::{
    Adam, AdamRates, LOSS_SCALE, Machine, Norms, Preset, Weights, flat, mixed, uanet,
};
use oarlock::engine::runtime::placement::placement;
use oarlock::engine::runtime::session::{Input, Provider, Runtime, Session, SessionOptions, weight_inputs};
use oarlock::learning::model::ModelRegistry;
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

/// Of an array's largest magnitude: an inference graph's outputs, a training graph's.
const TOLERANCE: [f64; 2] = [1e-4, 1e-3];
/// The same for the gradients of mixed precision, of their length.
const MIXED_TOLERANCE: f64 = 0.1;

/// What is compared and what is timed.
struct Sizes {
    crop: [usize; 3],
    mask: [usize; 3],
    rows: usize,
    timed_trunk: fn(&str) -> [usize; 3],
    timed_crop: fn(&str) -> [usize; 3],
    timed_mask: [usize; 3],
    timed_rows: usize,
    masks_per_step: usize,
    rounds: usize,
}

const SMALL: Sizes = Sizes {
    crop: [16, 32, 48],
    mask: [8, 16, 24],
    rows: 6,
    timed_trunk: |_| [32, 48, 64],
    timed_crop: |_| [16, 32, 48],
    timed_mask: [8, 16, 24],
    timed_rows: 6,
    masks_per_step: 2,
    rounds: 1,
};

const FULL: Sizes = Sizes {
    crop: [64, 96, 112],
    mask: [24, 48, 40],
    rows: 64,
    timed_trunk: |preset| if preset == "reference" { [160, 240, 240] } else { [112, 128, 128] },
    timed_crop: |preset| if preset == "reference" { [160, 240, 240] } else { [112, 96, 112] },
    timed_mask: [40, 96, 72],
    timed_rows: 128,
    masks_per_step: 28,
    rounds: 5,
};

fn main() -> Result<ExitCode, Failure> {
    let mut library: Option<PathBuf> = None;
    let (mut provider, mut sizes) = (Provider::Cuda { device: 0, tf32: false }, FULL);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--library" => library = arguments.next().map(PathBuf::from),
            "--small" => sizes = SMALL,
            "--provider" => match arguments.next().as_deref() {
                Some("cpu") => provider = Provider::Cpu,
                Some("cuda") => {}
                other => return Err(format!("--provider {other:?}: cpu or cuda").into()),
            },
            other => return Err(format!("{other}: --library FILE, --provider cpu|cuda, --small").into()),
        }
    }
    let runtime = Runtime::start(&library.ok_or("name the library with --library FILE")?)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let on = |provider| SessionOptions { threads, provider };
    let bench = Bench { runtime, host: on(Provider::Cpu), device: on(provider), sizes };
    let mut failed = Vec::new();
    let (mut inference, mut training, mut seconds) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for preset in [Preset::starter(), Preset::reference()] {
        let weights = Weights::start(&preset, 3);
        inference.insert(preset.name.clone(), bench.inference(&weights, &mut failed)?);
        training.insert(preset.name.clone(), bench.training(&weights, &mut failed)?);
        seconds.insert(preset.name.clone(), bench.seconds(&weights)?);
    }
    let result = json!({
        "gpu": gpu(),
        "provider": provider.to_string(),
        "tf32": false,
        "threads": threads,
        "onnxruntime": runtime.version(),
        "inference": inference,
        "training": training,
        "seconds": seconds,
        "failed": failed,
        "ok": failed.is_empty(),
    });
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Name, driver and memory of the GPU, as the driver's tool tells them.
fn gpu() -> Value {
    let asked = std::process::Command::new("nvidia-smi")
        .args(["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
        .output();
    match asked {
        Ok(told) if told.status.success() => json!(String::from_utf8_lossy(&told.stdout).trim()),
        _ => Value::Null,
    }
}

/// A value that goes in: name, sides, numbers.
struct Door(&'static str, Vec<usize>, Vec<f32>);

/// What goes into a graph besides weights.
struct Doors {
    floats: Vec<Door>,
    class: Option<[i64; 1]>,
}

impl Doors {
    fn inputs(&self) -> Vec<(&str, Input<'_>)> {
        let floats = self.floats.iter().map(|Door(name, sides, values)| (*name, Input::F32(sides, values)));
        floats.chain(self.class.iter().map(|class| ("class", Input::I64(&[1], class)))).collect()
    }
}

struct Bench {
    runtime: Runtime,
    host: SessionOptions,
    device: SessionOptions,
    sizes: Sizes,
}

type Outputs = BTreeMap<String, Vec<f32>>;

/// The largest difference over the largest magnitude of its output, and which output; infinite for what is no number.
fn furthest(wanted: &Outputs, found: &Outputs) -> (f64, String) {
    let largest =
        |values: &[f32]| values.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
    let mut worst = (0.0, String::new());
    for (output, wanted) in wanted {
        let apart: Vec<f32> = wanted.iter().zip(&found[output]).map(|(a, b)| a - b).collect();
        let broken = apart.iter().any(|value| value.is_nan());
        let relative = if broken { f64::INFINITY } else { largest(&apart) / largest(wanted).max(1e-20) };
        if relative > worst.0 {
            worst = (relative, output.clone());
        }
    }
    worst
}

impl Bench {
    fn run(
        &self,
        graph: &[u8],
        options: &SessionOptions,
        inputs: &[(&str, Input<'_>)],
    ) -> Result<Outputs, Failure> {
        let mut session = Session::from_bytes(self.runtime, "parity", graph, options)?;
        let out = session.run(inputs)?;
        let names: Vec<String> = out.names().map(str::to_owned).collect();
        names.into_iter().map(|name| Ok((name.clone(), out.view(&name)?.iter().copied().collect()))).collect()
    }

    /// The graph on the processor in its plain form, and `on_device` on the device.
    fn compare(
        &self,
        name: &str,
        [plain, on_device]: [&[u8]; 2],
        inputs: &[(&str, Input<'_>)],
        tolerance: f64,
        failed: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        let wanted = self.run(plain, &self.host, inputs)?;
        let found = self.run(on_device, &self.device, inputs)?;
        let worst = furthest(&wanted, &found);
        if worst.0 > tolerance {
            failed.push(format!("{name}: {} is off by {:.3e}", worst.1, worst.0));
        }
        let nodes = placement(self.runtime, name, on_device, &self.device, inputs)?;
        let device = match self.device.provider {
            Provider::Cpu => "CPUExecutionProvider",
            Provider::Cuda { .. } => "CUDAExecutionProvider",
        };
        let elsewhere: Vec<String> = nodes
            .iter()
            .filter(|node| node.provider != device || node.operator.starts_with("Memcpy"))
            .map(|node| format!("{} {} on {}", node.operator, node.name, node.provider))
            .collect();
        if !elsewhere.is_empty() {
            failed.push(format!("{name}: {} nodes of {} ran elsewhere", elsewhere.len(), nodes.len()));
        }
        Ok(json!({
            "outputs": wanted.len(),
            "largest_relative_difference": worst.0,
            "of": worst.1,
            "tolerance": tolerance,
            "nodes": nodes.len(),
            "nodes_elsewhere": elsewhere,
        }))
    }

    fn inference(&self, weights: &Weights, failed: &mut Vec<String>) -> Result<Value, Failure> {
        let preset = weights.preset();
        let shipped = ModelRegistry::usual().load(&preset.name).ok();
        // The shipped weights where there are any: those that were never trained are a milder test.
        let graph = |part: &str, fresh: fn(&Weights) -> Vec<u8>| {
            let known = shipped.as_ref().and_then(|model| model.graph(part));
            known.map_or_else(|| fresh(weights), <[u8]>::to_vec)
        };
        let mut parts = BTreeMap::new();
        let [trunk, refinement, mask] = [
            graph("trunk", uanet::trunk_graph),
            graph("refinement", uanet::refinement_graph),
            graph("mask", uanet::mask_graph),
        ];
        for (part, plain, doors, multiple) in [
            ("trunk", trunk, image(self.sizes.crop), Some(16)),
            ("refinement", refinement, pooled(preset, self.sizes.rows), None),
            ("mask", mask, crops(preset, self.sizes.mask), Some(8)),
        ] {
            // On a processor the network runs in its flat form, so this is what is compared there.
            let on_device = match multiple.filter(|_| self.device.provider == Provider::Cpu) {
                Some(multiple) => flat(&plain, multiple)?,
                None => plain.clone(),
            };
            let name = format!("{} {part}", preset.name);
            let graphs = [plain.as_slice(), on_device.as_slice()];
            parts.insert(part, self.compare(&name, graphs, &doors.inputs(), TOLERANCE[0], failed)?);
        }
        Ok(json!({ "shipped_weights": shipped.is_some(), "parts": parts }))
    }

    /// What a change of image and maps by one part in a million does to the same graph on the processor: the signs of values
    /// near zero turn, and each turned one moves a gradient by a whole summand.
    fn unrest(&self, graph: &[u8], inputs: &[(&str, Input<'_>)]) -> Result<f64, Failure> {
        let wanted = self.run(graph, &self.host, inputs)?;
        let changed: Vec<Option<Vec<f32>>> = inputs
            .iter()
            .map(|(name, input)| match input {
                Input::F32(_, values) if ["image", "pooled", "f2", "f4", "f8"].contains(name) => Some(
                    values
                        .iter()
                        .enumerate()
                        .map(|(i, v)| v * if i % 2 == 0 { 1.000_001 } else { 0.999_999 })
                        .collect(),
                ),
                _ => None,
            })
            .collect();
        let inputs: Vec<_> = inputs
            .iter()
            .zip(&changed)
            .map(|((name, input), changed)| match (input, changed) {
                (Input::F32(sides, _), Some(values)) => (*name, Input::F32(sides, values)),
                _ => (*name, *input),
            })
            .collect();
        Ok(furthest(&wanted, &self.run(graph, &self.host, &inputs)?).0)
    }

    fn training(&self, weights: &Weights, failed: &mut Vec<String>) -> Result<Value, Failure> {
        let preset = weights.preset();
        let (crop, rows, mask) = (self.sizes.crop, self.sizes.rows, self.sizes.mask);
        let mut graphs = BTreeMap::new();
        for (part, graph, doors) in [
            ("forward", forward(preset, crop, Norms::Batch, Machine::Gpu), image(crop)),
            ("refinement_step", refinement_step(preset, rows), refinement_targets(preset, rows)),
            ("mask_step", mask_step(preset, mask, Machine::Gpu), mask_targets(preset, mask)),
            (
                "backbone_step",
                backbone_step(preset, crop, Norms::Batch, Machine::Gpu),
                backbone_targets(preset, crop),
            ),
        ] {
            let mut inputs = weight_inputs(weights, &graph.weights);
            inputs.extend(doors.inputs());
            let name = format!("{} {part}", preset.name);
            let both = [graph.bytes.as_slice(); 2];
            let unrest = self.unrest(&graph.bytes, &inputs)?;
            let mut found = self.compare(&name, both, &inputs, TOLERANCE[1].max(4.0 * unrest), failed)?;
            found["processor_after_a_change_of_1e-6"] = json!(unrest);
            if !graph.trained.is_empty() {
                found["mixed_gradient_difference"] = self.mixed(&name, &graph, &inputs, failed)?;
            }
            graphs.insert(part, found);
        }
        Ok(json!(graphs))
    }

    /// Gradients of mixed precision, on the device and on the processor, beside those of full precision on the processor:
    /// length of the difference over length. The device may be half as far off again as the processor is.
    fn mixed(
        &self,
        name: &str,
        graph: &TrainingGraph,
        inputs: &[(&str, Input<'_>)],
        failed: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        const SCALE: [f32; 1] = [1024.0];
        let wanted = self.run(&graph.bytes, &self.host, inputs)?;
        let mut scaled = inputs.to_vec();
        scaled.push((LOSS_SCALE, Input::F32(&[], &SCALE)));
        let rewritten = mixed(&graph.bytes)?;
        let off = |options| -> Result<f64, Failure> {
            let found = self.run(&rewritten, options, &scaled)?;
            let (mut apart, mut length) = (0.0, 0.0);
            for (output, wanted) in wanted.iter().filter(|(output, _)| output.starts_with("grad.")) {
                for (a, b) in wanted.iter().zip(&found[output]) {
                    apart += (f64::from(*a) - f64::from(b / SCALE[0])).powi(2);
                    length += f64::from(*a).powi(2);
                }
            }
            Ok((apart / length).sqrt())
        };
        let (device, processor) = (off(&self.device)?, off(&self.host)?);
        if device.is_nan() || device > MIXED_TOLERANCE.max(1.5 * processor) {
            failed.push(format!("{name}: gradients of mixed precision are off by {device:.3e}"));
        }
        Ok(json!({ "device": device, "processor": processor }))
    }

    /// Best of some rounds, seconds, transfers to and from the device included.
    fn time(&self, graph: &[u8], inputs: &[(&str, Input<'_>)]) -> Result<f64, Failure> {
        let mut session = Session::from_bytes(self.runtime, "timed", graph, &self.device)?;
        session.run(inputs)?;
        let mut best = f64::INFINITY;
        for _ in 0..self.sizes.rounds {
            let start = Instant::now();
            session.run(inputs)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    fn seconds(&self, weights: &Weights) -> Result<Value, Failure> {
        let preset = weights.preset();
        let (trunk_shape, crop) =
            ((self.sizes.timed_trunk)(&preset.name), (self.sizes.timed_crop)(&preset.name));
        let (mask_shape, rows) = (self.sizes.timed_mask, self.sizes.timed_rows);
        let on_device = |plain: Vec<u8>, multiple: usize| -> Result<Vec<u8>, Failure> {
            Ok(if self.device.provider == Provider::Cpu { flat(&plain, multiple)? } else { plain })
        };
        let trunk = self.time(&on_device(uanet::trunk_graph(weights), 16)?, &image(trunk_shape).inputs())?;
        let mask =
            self.time(&on_device(uanet::mask_graph(weights), 8)?, &crops(preset, mask_shape).inputs())?;
        let judged = self.time(&uanet::refinement_graph(weights), &pooled(preset, rows).inputs())?;
        let mut steps = BTreeMap::new();
        for (part, graph, doors) in [
            ("forward", forward(preset, crop, Norms::Batch, Machine::Gpu), image(crop)),
            ("refinement_step", refinement_step(preset, rows), refinement_targets(preset, rows)),
            ("mask_step", mask_step(preset, mask_shape, Machine::Gpu), mask_targets(preset, mask_shape)),
            (
                "backbone_step",
                backbone_step(preset, crop, Norms::Batch, Machine::Gpu),
                backbone_targets(preset, crop),
            ),
        ] {
            let mut inputs = weight_inputs(weights, &graph.weights);
            inputs.extend(doors.inputs());
            let full = self.time(&graph.bytes, &inputs)?;
            let half = self.time(&mixed(&graph.bytes)?, &inputs)?;
            steps.insert(part, [full, half]);
        }
        let adam = adam_seconds(weights);
        let times = |part: &str| if part == "mask_step" { self.sizes.masks_per_step as f64 } else { 1.0 };
        let step =
            |which: usize| adam + steps.iter().map(|(part, both)| times(part) * both[which]).sum::<f64>();
        Ok(json!({
            "inference": { "trunk": trunk, "trunk_voxels": trunk_shape, "refinement": judged, "refinement_rows": rows,
                "mask": mask, "mask_voxels": mask_shape, "scan_of_28_organs": trunk + judged + 28.0 * mask },
            "training_step": { "crop_voxels": crop, "mask_voxels": mask_shape, "masks": self.sizes.masks_per_step,
                "adam_on_the_processor": adam, "full_and_mixed": steps, "full": step(0), "mixed": step(1) },
        }))
    }
}

fn adam_seconds(weights: &Weights) -> f64 {
    let mut moved = weights.clone();
    let gradients = weights
        .parameters()
        .iter()
        .filter(|parameter| parameter.role == oarlock::engine::graph::Role::Trained)
        .map(|parameter| (parameter.name.clone(), weights.values(&parameter.name).to_vec()))
        .collect();
    let mut adam = Adam::default();
    adam.step(&mut moved, &gradients, &AdamRates::default());
    let start = Instant::now();
    adam.step(&mut moved, &gradients, &AdamRates::default());
    start.elapsed().as_secs_f64()
}

/// Numbers without pattern in -1..1, the same each time.
fn numbers(sides: &[usize], salt: u32) -> Vec<f32> {
    let mut state = salt.wrapping_mul(7919).wrapping_add(17);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..sides.iter().product()).map(|_| next()).collect()
}

fn door(name: &'static str, sides: Vec<usize>, salt: u32) -> Door {
    let values = numbers(&sides, salt);
    Door(name, sides, values)
}

/// One where the number is above `limit`.
fn above(values: &[f32], limit: f32) -> Vec<f32> {
    values.iter().map(|value| f32::from(u8::from(*value > limit))).collect()
}

fn image([d, h, w]: [usize; 3]) -> Doors {
    Doors { floats: vec![door("image", vec![1, 1, d, h, w], 1)], class: None }
}

fn pooled(preset: &Preset, rows: usize) -> Doors {
    let Door(name, sides, values) = door("pooled", vec![rows, uanet::pooled_width(preset)], 2);
    Doors { floats: vec![Door(name, sides, values.into_iter().map(f32::abs).collect())], class: None }
}

fn crops(preset: &Preset, [d, h, w]: [usize; 3]) -> Doors {
    let map =
        |name, channels, scale, salt| door(name, vec![1, channels, d / scale, h / scale, w / scale], salt);
    let channels = &preset.channels;
    let floats = vec![
        map("image", 1, 1, 3),
        map("f2", channels.stage2, 2, 4),
        map("f4", channels.stage4, 4, 5),
        map("f8", channels.merge8, 8, 6),
    ];
    Doors { floats, class: Some([11]) }
}

fn mask_targets(preset: &Preset, sides: [usize; 3]) -> Doors {
    let mut doors = crops(preset, sides);
    let Door(_, shape, values) = &doors.floats[0];
    let (truth, valid) = (above(values, 0.1), vec![1.0; values.len()]);
    let shape = shape.clone();
    doors.floats.extend([Door("truth", shape.clone(), truth), Door("valid", shape, valid)]);
    doors
}

fn refinement_targets(preset: &Preset, rows: usize) -> Doors {
    let mut doors = pooled(preset, rows);
    let ones = |width: usize, per_class: usize| -> Vec<f32> {
        (0..rows * width).map(|at| f32::from(u8::from(at % width / per_class == at / width % 29))).collect()
    };
    doors.floats.extend([
        Door("allowed", vec![rows, 29], ones(29, 1)),
        Door("row_weights", vec![rows, 1], vec![1.0; rows]),
        door("box_targets", vec![rows, 174], 7),
        Door("box_weights", vec![rows, 174], ones(174, 6)),
    ]);
    doors
}

fn backbone_targets(preset: &Preset, [d, h, w]: [usize; 3]) -> Doors {
    let map =
        |name, channels, scale, salt| door(name, vec![1, channels, d / scale, h / scale, w / scale], salt);
    let channels = &preset.channels;
    let mut floats = vec![
        map("image", 1, 1, 1),
        map("positive", 12, 8, 8),
        map("negative", 12, 8, 8),
        map("box_targets", 72, 8, 9),
        map("box_weights", 72, 8, 9),
        map("df2", channels.stage2, 2, 10),
        map("df4", channels.stage4, 4, 11),
        map("df8", channels.merge8, 8, 12),
    ];
    floats[1].2 = above(&floats[1].2, 0.7);
    floats[2].2 = floats[1].2.iter().map(|positive| (1.0 - positive) * 0.3).collect();
    let positions = d * h * w / 512;
    floats[4].2 =
        (0..72 * positions).map(|i| floats[1].2[i / (6 * positions) * positions + i % positions]).collect();
    for Door(_, _, values) in &mut floats[5..] {
        values.iter_mut().for_each(|value| *value *= 1e-4);
    }
    Doors { floats, class: None }
}
