//! The form for processors: the same graph with slices as batch, so that every convolution is a 2-D one.
//!
//! Comes in: the bytes of a trunk or mask graph as [`super::uanet`] writes it. Goes out: a graph with the same doors
//! and, up to rounding, the same values. Inside, maps lie as `(z, c, y, x)`. A kernel of three taps along depth is
//! Winograd's F(4,3) (Lavin and Gray 2016, section 4.1, points 0, 1, -1, 2, -2): six slices make four. On a processor this is about
//! twice as fast, since ONNX Runtime blocks channels for 2-D convolutions only; a GPU wants the plain form.

mod convolution;

use std::collections::BTreeMap;

use prost::Message;

use convolution::Tiles;

use super::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Why a graph has no flat form: it is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this graph has no flat form: {0}")]
pub struct NoFlatForm(String);

/// Rewrites a plain graph. `depth_multiple`: what the depth of the input `image` is a multiple of.
///
/// # Errors
/// [`NoFlatForm`] for bytes that are no graph, or hold an operator in a form that we do not write.
pub fn flat(plain: &[u8], depth_multiple: usize) -> Result<Vec<u8>, NoFlatForm> {
    let mut model = ModelProto::decode(plain).map_err(|error| NoFlatForm(error.to_string()))?;
    let graph = model.graph.take().ok_or_else(|| NoFlatForm("no graph".to_owned()))?;
    let mut flat = Flat::new(&graph)?;
    for input in graph.input.iter().filter(|input| input.name != "class") {
        flat.enter(&input.name, depth_multiple)?;
    }
    for node in &graph.node {
        flat.rewrite(node)?;
    }
    let Flat { nodes, constants, .. } = flat;
    let used: std::collections::BTreeSet<&str> =
        nodes.iter().flat_map(|node| node.input.iter().map(String::as_str)).collect();
    let kept = graph.initializer.iter().filter(|tensor| used.contains(tensor.name.as_str())).cloned();
    let initializer = constants.into_values().chain(kept).collect();
    model.graph = Some(GraphProto { node: nodes, initializer, ..graph });
    Ok(model.encode_to_vec())
}

/// A weight of the plain graph.
struct Weight {
    sides: Vec<usize>,
    values: Vec<f32>,
}

/// A map in the flat layout.
#[derive(Debug, Clone)]
struct Map {
    name: String,
    channels: usize,
    /// What its depth is a multiple of.
    multiple: usize,
}

struct Flat {
    weights: BTreeMap<String, Weight>,
    maps: BTreeMap<String, Map>,
    /// Maps put side by side, not written yet: a convolution may take them one by one.
    pairs: BTreeMap<String, [Map; 2]>,
    /// By what the depth is a multiple of: one for each resolution.
    tiles: BTreeMap<usize, Tiles>,
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
}

impl Flat {
    fn new(graph: &GraphProto) -> Result<Self, NoFlatForm> {
        let floats = graph.initializer.iter().filter(|tensor| tensor.data_type == 1);
        let weight = |tensor: &TensorProto| {
            let sides = tensor.dims.iter().map(|side| usize::try_from(*side)).collect::<Result<Vec<_>, _>>();
            let sides = sides.map_err(|error| NoFlatForm(format!("sides of {}: {error}", tensor.name)))?;
            let values: Vec<f32> = tensor
                .raw_data
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            Ok((tensor.name.clone(), Weight { sides, values }))
        };
        let weights = floats.map(weight).collect::<Result<_, NoFlatForm>>()?;
        let (maps, pairs, tiles, nodes, constants) = Default::default();
        Ok(Self { weights, maps, pairs, tiles, nodes, constants })
    }

    /// An input `(1, c, z, y, x)` in the flat layout.
    fn enter(&mut self, input: &str, depth_multiple: usize) -> Result<(), NoFlatForm> {
        let (channels, scale) = match input {
            "image" => (1, 1),
            "f2" => (0, 2),
            "f4" => (0, 4),
            "f8" => (0, 8),
            other => return Err(NoFlatForm(format!("an input {other}"))),
        };
        let axis = self.integers(&[0]);
        let whole = self.put("Squeeze", &[input, &axis], vec![]);
        let name = self.put("Transpose", &[&whole], vec![ints("perm", &[1, 0, 2, 3])]);
        self.maps.insert(input.to_owned(), Map { name, channels, multiple: (depth_multiple / scale).max(1) });
        Ok(())
    }

    fn rewrite(&mut self, node: &NodeProto) -> Result<(), NoFlatForm> {
        let [output] = node.output.as_slice() else {
            return Err(NoFlatForm(format!("outputs of {}", node.name)));
        };
        let input = |n: usize| node.input.get(n).map(String::as_str).unwrap_or_default();
        let map = match node.op_type.as_str() {
            // The weights of a class are picked as they are.
            "Gather" | "Reshape" => {
                self.nodes.push(node.clone());
                return Ok(());
            }
            "Identity" => {
                let map = self.map(input(0))?;
                let turned = self.put("Transpose", &[&map.name], vec![ints("perm", &[1, 0, 2, 3])]);
                let axis = self.integers(&[0]);
                self.nodes.push(NodeProto {
                    input: vec![turned, axis],
                    output: vec![output.clone()],
                    name: node.name.clone(),
                    op_type: "Unsqueeze".to_owned(),
                    attribute: Vec::new(),
                });
                return Ok(());
            }
            "Concat" => {
                let [first, second] = [self.map(input(0))?, self.map(input(1))?];
                self.pairs.insert(output.clone(), [first, second]);
                return Ok(());
            }
            "Conv" => self.convolution(node)?,
            "ConvTranspose" => self.rise(input(0), input(1), input(2))?,
            "Relu" => {
                let x = self.map(input(0))?;
                Map { name: self.put("Relu", &[&x.name], vec![]), ..x }
            }
            "Add" => {
                let [a, b] = [self.map(input(0))?, self.map(input(1))?];
                Map { name: self.put("Add", &[&a.name, &b.name], vec![]), ..a }
            }
            "MaxPool" => self.halve(input(0))?,
            "Resize" => self.double(input(0))?,
            "InstanceNormalization" => self.contrast(node)?,
            other => return Err(NoFlatForm(format!("operator {other}"))),
        };
        self.maps.insert(output.clone(), map);
        Ok(())
    }

    /// The flat map of a plain tensor.
    fn map(&mut self, plain: &str) -> Result<Map, NoFlatForm> {
        if let Some([first, second]) = self.pairs.remove(plain) {
            let name = self.put("Concat", &[&first.name, &second.name], vec![int("axis", 1)]);
            let channels = first.channels + second.channels;
            let multiple = first.multiple.max(second.multiple);
            self.maps.insert(plain.to_owned(), Map { name, channels, multiple });
        }
        self.maps.get(plain).cloned().ok_or_else(|| NoFlatForm(format!("a tensor {plain}")))
    }

    /// Transposed convolution, kernel and stride two; the weight is `(from, out, 2, 2, 2)`.
    fn rise(&mut self, plain: &str, weight: &str, bias: &str) -> Result<Map, NoFlatForm> {
        let x = self.map(plain)?;
        let Some(known) = self.weights.get(weight) else {
            return Err(NoFlatForm(format!("a weight {weight}")));
        };
        let (from, out) = (known.sides[0], known.sides[1]);
        // Channels of the point convolution: (depth tap, row tap, column tap, out).
        let mut values = vec![0.0; 8 * out * from];
        for i in 0..from {
            for o in 0..out {
                for tap in 0..8 {
                    values[(tap * out + o) * from + i] = known.values[(i * out + o) * 8 + tap];
                }
            }
        }
        let bias = self.values(bias)?.repeat(8);
        let weight = self.floats(&[8 * out, from, 1, 1], &values);
        let bias = self.floats(&[8 * out], &bias);
        let blocks = self.put("Conv", &[&x.name, &weight, &bias], vec![ints("kernel_shape", &[1, 1])]);
        let plane = self.put("Shape", &[&x.name], vec![int("start", 2), int("end", 4)]);
        let slices = self.with_plane(&blocks, 4 * out, &plane);
        let name = self.put("DepthToSpace", &[&slices], vec![int("blocksize", 2), text("mode", "DCR")]);
        Ok(Map { name, channels: out, multiple: 2 * x.multiple })
    }

    fn halve(&mut self, plain: &str) -> Result<Map, NoFlatForm> {
        let x = self.map(plain)?;
        let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        let planes = self.put("MaxPool", &[&x.name], attributes);
        let (even, odd) = (self.slices(&planes, 0, i64::MAX, 2), self.slices(&planes, 1, i64::MAX, 2));
        let name = self.put("Max", &[&even, &odd], vec![]);
        Ok(Map { name, channels: x.channels, multiple: (x.multiple / 2).max(1) })
    }

    /// Trilinear to twice the voxels, half-pixel centres, edges repeated: depth by hand, planes by `Resize`.
    fn double(&mut self, plain: &str) -> Result<Map, NoFlatForm> {
        let x = self.map(plain)?;
        let first = self.slices(&x.name, 0, 1, 1);
        let last = self.slices(&x.name, -1, i64::MAX, 1);
        let (but_last, but_first) = (self.slices(&x.name, 0, -1, 1), self.slices(&x.name, 1, i64::MAX, 1));
        let before = self.put("Concat", &[&first, &but_last], vec![int("axis", 0)]);
        let behind = self.put("Concat", &[&but_first, &last], vec![int("axis", 0)]);
        let (near, far) = (self.floats(&[], &[0.75]), self.floats(&[], &[0.25]));
        let own = self.put("Mul", &[&x.name, &near], vec![]);
        let halves = [before, behind].map(|other| {
            let other = self.put("Mul", &[&other, &far], vec![]);
            self.put("Add", &[&own, &other], vec![])
        });
        let both = self.put("Concat", &[&halves[0], &halves[1]], vec![int("axis", 1)]);
        let shape = self.put("Shape", &[&x.name], vec![int("start", 1), int("end", 4)]);
        let count = self.integers(&[-1]);
        let sides = self.put("Concat", &[&count, &shape], vec![int("axis", 0)]);
        let deep = self.put("Reshape", &[&both, &sides], vec![]);
        let scales = self.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
        let attributes = vec![text("mode", "linear"), text("coordinate_transformation_mode", "half_pixel")];
        let name = self.put("Resize", &[&deep, "", &scales], attributes);
        Ok(Map { name, channels: x.channels, multiple: 2 * x.multiple })
    }

    /// Each channel to mean 0 and variance 1 over the whole box, then scale and shift: one factor, one summand.
    fn contrast(&mut self, node: &NodeProto) -> Result<Map, NoFlatForm> {
        let x = self.map(&node.input[0])?;
        let [scale, shift] = [self.values(&node.input[1])?, self.values(&node.input[2])?];
        let channels = scale.len();
        let epsilon = node.attribute.iter().find_map(|a| a.f.filter(|_| a.name == "epsilon"));
        let epsilon = epsilon.ok_or_else(|| NoFlatForm("a normalisation without epsilon".to_owned()))?;
        let (planes, slices) = (self.integers(&[2, 3]), self.integers(&[0]));
        let mean = self.put("ReduceMean", &[&x.name, &planes], vec![]);
        let mean = self.put("ReduceMean", &[&mean, &slices], vec![]);
        // Centred first: the mean of squares less the squared mean would lose digits.
        let centred = self.put("Sub", &[&x.name, &mean], vec![]);
        let sums = self.put("ReduceSumSquare", &[&centred, &planes], vec![]);
        let sum = self.put("ReduceSum", &[&sums, &slices], vec![]);
        let count = self.put("Size", &[&x.name], vec![]);
        let count = self.put("Cast", &[&count], vec![int("to", 1)]);
        let n_channels = self.floats(&[], &[channels as f32]);
        let count = self.put("Div", &[&count, &n_channels], vec![]);
        let variance = self.put("Div", &[&sum, &count], vec![]);
        let epsilon = self.floats(&[], &[epsilon]);
        let padded = self.put("Add", &[&variance, &epsilon], vec![]);
        let deviation = self.put("Sqrt", &[&padded], vec![]);
        let scale = self.floats(&[1, channels, 1, 1], &scale);
        let factor = self.put("Div", &[&scale, &deviation], vec![]);
        let scaled = self.put("Mul", &[&centred, &factor], vec![]);
        let shift = self.floats(&[1, channels, 1, 1], &shift);
        let name = self.put("Add", &[&scaled, &shift], vec![]);
        Ok(Map { name, channels, ..x })
    }

    fn slices(&mut self, x: &str, start: i64, end: i64, step: i64) -> String {
        let bounds = [start, end, 0, step].map(|value| self.integers(&[value]));
        self.put("Slice", &[x, &bounds[0], &bounds[1], &bounds[2], &bounds[3]], vec![])
    }

    /// As `(-1, channels, y, x)`, where `plane` is `(y, x)`.
    fn with_plane(&mut self, x: &str, channels: usize, plane: &str) -> String {
        let front = self.integers(&[-1, channels as i64]);
        let sides = self.put("Concat", &[&front, plane], vec![int("axis", 0)]);
        self.put("Reshape", &[x, &sides], vec![])
    }

    fn values(&self, weight: &str) -> Result<Vec<f32>, NoFlatForm> {
        let known = self.weights.get(weight).ok_or_else(|| NoFlatForm(format!("a weight {weight}")))?;
        Ok(known.values.clone())
    }

    fn put(&mut self, operator: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let name = format!("flat {operator} {}", self.nodes.len());
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.to_owned(),
            attribute,
        });
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(format!("flat integers {values:?}"), 7, &[values.len()], bytes)
    }

    fn floats(&mut self, sides: &[usize], values: &[f32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = match values {
            [one] if sides.is_empty() => format!("flat number {one}"),
            _ => format!("flat weight {}", self.constants.len()),
        };
        self.constant(name, 1, sides, bytes)
    }

    fn constant(&mut self, name: String, data_type: i32, sides: &[usize], raw_data: Vec<u8>) -> String {
        let dims = sides.iter().map(|&side| side as i64).collect();
        let tensor = || TensorProto { dims, data_type, name: name.clone(), raw_data };
        self.constants.entry(name.clone()).or_insert_with(tensor);
        name
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i: Some(value), kind: 2, ..AttributeProto::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), ints: values.to_vec(), kind: 7, ..AttributeProto::default() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: Some(value.as_bytes().to_vec()),
        kind: 3,
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array5, ArrayD};

    use super::*;
    use crate::engine::graph::{Preset, Weights, uanet};
    use crate::engine::runtime::session::{
        Input, Provider, Runtime, Session, SessionOptions, runtime_of_tests,
    };

    /// Weights whose norms are no identity.
    fn weights(preset: &Preset) -> Weights {
        let mut weights = Weights::start(preset, 11);
        let names: Vec<String> =
            weights.parameters().iter().map(|parameter| parameter.name.clone()).collect();
        for (n, name) in names.iter().enumerate() {
            let is_variance = name.ends_with("variance");
            if name.contains(".norm.") || name.ends_with("bias") {
                for (i, value) in weights.values_mut(name).iter_mut().enumerate() {
                    let wave = ((i * 7 + n * 3) % 11) as f32 / 11.0 - 0.4;
                    *value = if is_variance { 1.2 + wave } else { *value + 0.3 * wave };
                }
            }
        }
        weights
    }

    fn pattern(shape: [usize; 5], salt: usize) -> Array5<f32> {
        let mut n = salt;
        Array5::from_shape_simple_fn(shape, || {
            n = n.wrapping_mul(1_103_515_245).wrapping_add(12_345) % 2_147_483_648;
            n as f32 / 1_073_741_824.0 - 1.0
        })
    }

    fn outputs(runtime: Runtime, graph: &[u8], inputs: &[(&str, Input<'_>)]) -> Vec<(String, ArrayD<f32>)> {
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        let mut session = Session::from_bytes(runtime, "test", graph, &options).unwrap();
        let out = session.run(inputs).unwrap();
        out.names().map(|name| (name.to_owned(), out.view(name).unwrap().to_owned())).collect()
    }

    fn assert_same(plain: &[(String, ArrayD<f32>)], flat: &[(String, ArrayD<f32>)]) {
        assert_eq!(plain.len(), flat.len());
        for ((name, plain), (_, flat)) in plain.iter().zip(flat) {
            assert_eq!(plain.shape(), flat.shape(), "{name}");
            let largest = plain.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let off = plain.iter().zip(flat).fold(0.0_f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(largest > 0.0 && off / largest < 1e-5, "{name}: {off} of {largest}");
        }
    }

    /// Depths of 16, 32 and 80: at 1/16 one, two and five slices, at 1/8 two, four and ten.
    #[test]
    fn the_flat_trunk_is_the_plain_trunk() {
        let Some(runtime) = runtime_of_tests("the_flat_trunk") else { return };
        let plain = uanet::trunk_graph(&weights(&Preset::starter()));
        let flat = flat(&plain, 16).unwrap();
        for shape in [[1, 1, 16, 48, 32], [1, 1, 32, 16, 48], [1, 1, 80, 32, 16]] {
            let image = pattern(shape, 5);
            let inputs = [("image", Input::array(&image))];
            assert_same(&outputs(runtime, &plain, &inputs), &outputs(runtime, &flat, &inputs));
        }
        let reference = uanet::trunk_graph(&weights(&Preset::reference()));
        let flat = super::flat(&reference, 16).unwrap();
        let image = pattern([1, 1, 48, 32, 16], 7);
        let inputs = [("image", Input::array(&image))];
        assert_same(&outputs(runtime, &reference, &inputs), &outputs(runtime, &flat, &inputs));
    }

    /// Boxes of 8, 24 and 40 slices: one, three and five at 1/8.
    #[test]
    fn the_flat_mask_head_is_the_plain_one() {
        let Some(runtime) = runtime_of_tests("the_flat_mask_head") else { return };
        for preset in [Preset::starter(), Preset::reference()] {
            let plain = uanet::mask_graph(&weights(&preset));
            let flat = flat(&plain, 8).unwrap();
            for [d, h, w] in [[8, 24, 16], [24, 16, 32], [40, 8, 24]] {
                let at = |channels: usize, scale: usize| {
                    pattern([1, channels, d / scale, h / scale, w / scale], scale + d)
                };
                let channels = &preset.channels;
                let (image, f2) = (at(1, 1), at(channels.stage2, 2));
                let (f4, f8) = (at(channels.stage4, 4), at(channels.merge8, 8));
                let inputs = [
                    ("image", Input::array(&image)),
                    ("f2", Input::array(&f2)),
                    ("f4", Input::array(&f4)),
                    ("f8", Input::array(&f8)),
                    ("class", Input::I64(&[1], &[13])),
                ];
                assert_same(&outputs(runtime, &plain, &inputs), &outputs(runtime, &flat, &inputs));
            }
        }
    }

    #[test]
    fn what_is_not_ours_has_no_flat_form() {
        let refinement = uanet::refinement_graph(&weights(&Preset::starter()));
        assert!(flat(&refinement, 16).unwrap_err().to_string().contains("pooled"));
        assert!(flat(b"no graph", 16).is_err());
    }
}
