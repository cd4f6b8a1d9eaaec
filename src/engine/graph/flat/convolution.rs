//! Convolutions in the flat layout: Winograd along depth, 2-D in the plane.

use super::{Flat, Map, NoFlatForm, int, ints};
use crate::engine::graph::layers::narrow;
use crate::engine::graph::onnx::NodeProto;
use crate::engine::graph::winograd::{TAPS_IN, TAPS_OUT, Transform};

/// Interpolation at whole numbers: those of a point of one are all ones in the output, which is how a bias is carried.
const TRANSFORM: Transform = Transform::at(1.0, 2.0);
/// The product of that point.
const BIAS_AT: usize = 1;

impl Flat {
    pub(super) fn convolution(&mut self, node: &NodeProto) -> Result<Map, NoFlatForm> {
        let first_of = |key: &str| {
            let attribute = node.attribute.iter().find(|attribute| attribute.name == key);
            attribute.and_then(|attribute| attribute.ints.first().copied()).unwrap_or_default()
        };
        let (kernel, stride) = (first_of("kernel_shape"), first_of("strides"));
        let (plain, weight) = (node.input[0].as_str(), node.input[1].as_str());
        let bias = node.input.get(2).map(String::as_str);
        if kernel == 1 {
            return self.point(plain, weight, bias);
        }
        let Some(known) = self.weights.get(weight) else {
            return Err(NoFlatForm(format!("a weight {weight}")));
        };
        let (out, from) = (known.sides[0], known.sides[1]);
        let values = known.values.clone();
        let bias_values = bias.map(|name| self.values(name)).transpose()?;
        match (kernel, stride) {
            (3, 2) if from == 1 => {
                let x = self.map(plain)?;
                let taps = self.depth_taps(&x, 2);
                let name = self.plane_convolution(&taps, [out, 3], &values, bias, 2);
                Ok(Map { name, channels: out, multiple: x.multiple / 2 })
            }
            (3, 1) => {
                let image_last = self.pairs.get(plain).is_some_and(|[_, second]| second.channels == 1);
                if !image_last {
                    let x = self.map(plain)?;
                    return Ok(self.winograd(&x, [out, from], &values, bias_values.as_deref()));
                }
                // One channel more would cost a whole block of channels: the image goes its own way.
                let Some([x, image]) = self.pairs.remove(plain) else {
                    return Err(NoFlatForm(plain.to_owned()));
                };
                let part = |range: std::ops::Range<usize>| -> Vec<f32> {
                    let rows = (0..out).flat_map(|o| range.clone().map(move |i| (o * from + i) * 27));
                    rows.flat_map(|at| values[at..at + 27].iter().copied()).collect()
                };
                let most = self.winograd(&x, [out, from - 1], &part(0..from - 1), bias_values.as_deref());
                let taps = self.depth_taps(&image, 1);
                let rest = self.plane_convolution(&taps, [out, 3], &part(from - 1..from), None, 1);
                let name = self.put("Add", &[&most.name, &rest], vec![]);
                Ok(Map { name, channels: out, multiple: most.multiple.max(image.multiple) })
            }
            other => Err(NoFlatForm(format!("a convolution of kernel and stride {other:?}"))),
        }
    }

    /// Kernel one: the same on slices.
    fn point(&mut self, plain: &str, weight: &str, bias: Option<&str>) -> Result<Map, NoFlatForm> {
        let x = self.map(plain)?;
        let (weight, channels) = match self.weights.get(weight) {
            Some(known) => {
                let (out, from) = (known.sides[0], known.sides[1]);
                let values = known.values.clone();
                (self.floats(&[out, from, 1, 1], &values), out)
            }
            // Picked by class while running: `(1, c, 1, 1, 1)`.
            None => {
                let sides = self.integers(&[1, -1, 1, 1]);
                (self.put("Reshape", &[weight, &sides], vec![]), 1)
            }
        };
        let inputs: Vec<&str> = [x.name.as_str(), &weight].into_iter().chain(bias).collect();
        let name = self.put("Conv", &inputs, vec![ints("kernel_shape", &[1, 1])]);
        Ok(Map { name, channels, ..x })
    }

    /// The three neighbours along depth of each `stride`-th slice as channels; `x` has one channel.
    fn depth_taps(&mut self, x: &Map, stride: i64) -> String {
        let behind = if stride == 2 { 0 } else { 1 };
        let padded = self.pad_depth(&x.name, behind);
        let ends = if stride == 2 { [-1, i64::MAX, i64::MAX] } else { [-2, -1, i64::MAX] };
        let taps = [0, 1, 2].map(|tap: usize| self.slices(&padded, tap as i64, ends[tap], stride));
        self.put("Concat", &[&taps[0], &taps[1], &taps[2]], vec![int("axis", 1)])
    }

    /// A 2-D convolution of kernel three; `values` are `(out, from, 3, 3)`.
    fn plane_convolution(
        &mut self,
        x: &str,
        [out, from]: [usize; 2],
        values: &[f32],
        bias: Option<&str>,
        stride: i64,
    ) -> String {
        let weight = self.floats(&[out, from, 3, 3], values);
        let inputs: Vec<&str> = [x, &weight].into_iter().chain(bias).collect();
        let attributes =
            vec![ints("kernel_shape", &[3, 3]), ints("strides", &[stride; 2]), ints("pads", &[1; 4])];
        self.put("Conv", &inputs, attributes)
    }

    /// A cube of 27 taps: `values` are `(out, from, 3, 3, 3)`.
    fn winograd(&mut self, x: &Map, [out, from]: [usize; 2], values: &[f32], bias: Option<&[f32]>) -> Map {
        let tiles = self.tiles(x);
        let plane = self.put("Shape", &[&x.name], vec![int("start", 2), int("end", 4)]);
        let windows = self.put("Gather", &[&x.name, &tiles.slices], vec![int("axis", 0)]);
        let windows = self.put("Reshape", &[&windows, &tiles.sides], vec![]);
        let mixed = self.put("MatMul", &[&tiles.matrix, &windows], vec![]);
        let mixed = self.with_plane(&mixed, TAPS_IN * from, &plane);

        let mut weight = vec![0.0; TAPS_IN * out * from * 9];
        for (row, taps) in TRANSFORM.weight.iter().enumerate() {
            for pair in 0..out * from {
                for place in 0..9 {
                    let sum: f64 =
                        (0..3).map(|z| taps[z] * f64::from(values[(pair * 3 + z) * 9 + place])).sum();
                    weight[(row * out * from + pair) * 9 + place] = narrow(sum);
                }
            }
        }
        let weight = self.floats(&[TAPS_IN * out, from, 3, 3], &weight);
        let mut inputs = vec![mixed, weight];
        if let Some(bias) = bias {
            let mut spread = vec![0.0; TAPS_IN * out];
            spread[BIAS_AT * out..(BIAS_AT + 1) * out].copy_from_slice(bias);
            inputs.push(self.floats(&[TAPS_IN * out], &spread));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let attributes =
            vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1; 4]), int("group", TAPS_IN as i64)];
        let products = self.put("Conv", &inputs, attributes);
        let products = self.put("Reshape", &[&products, &tiles.sides], vec![]);
        let matrix = self.narrowed(&TRANSFORM.output);
        let sums = self.put("MatMul", &[&matrix, &products], vec![]);
        let mut name = self.with_plane(&sums, out, &plane);
        if !x.multiple.is_multiple_of(TAPS_OUT) {
            let depth = self.put("Shape", &[&x.name], vec![int("start", 0), int("end", 1)]);
            let (zero, one) = (self.integers(&[0]), self.integers(&[1]));
            name = self.put("Slice", &[&name, &zero, &depth, &zero, &one], vec![]);
        }
        Map { name, channels: out, multiple: x.multiple }
    }

    fn narrowed<const ROWS: usize>(&mut self, matrix: &[[f64; TAPS_IN]; ROWS]) -> String {
        let values: Vec<f32> = matrix.as_flattened().iter().map(|value| narrow(*value)).collect();
        self.floats(&[ROWS, TAPS_IN], &values)
    }

    /// One empty slice before and `behind` after.
    fn pad_depth(&mut self, x: &str, behind: i64) -> String {
        let pads = self.integers(&[1, 0, 0, 0, behind, 0, 0, 0]);
        self.put("Pad", &[x, &pads], vec![])
    }

    /// Which slices each tile of six takes, and its input transform: a tile begins one slice before its four outputs, and
    /// what lies beyond the volume counts as zero. One for all maps of the same depth.
    fn tiles(&mut self, x: &Map) -> Tiles {
        if let Some(known) = self.tiles.get(&x.multiple) {
            return known.clone();
        }
        let zero_axis = self.integers(&[0]);
        let depth = self.put("Shape", &[&x.name], vec![int("start", 0), int("end", 1)]);
        let (one, three) = (self.integers(&[1]), self.integers(&[TAPS_OUT as i64 - 1]));
        let four = self.integers(&[TAPS_OUT as i64]);
        let rounded = self.put("Add", &[&depth, &three], vec![]);
        let count = self.put("Div", &[&rounded, &four], vec![]);
        let end = self.put("Mul", &[&count, &four], vec![]);
        let scalar = |flat: &mut Self, list: &str| flat.put("Squeeze", &[list, &zero_axis], vec![]);
        let (zero, end, step) = (scalar(self, &zero_axis), scalar(self, &end), scalar(self, &four));
        let starts = self.put("Range", &[&zero, &end, &step], vec![]);
        let starts = self.put("Unsqueeze", &[&starts, &one], vec![]);
        let offsets = self.integers(&[-1, 0, 1, 2, 3, 4]);
        let wanted = self.put("Add", &[&starts, &offsets], vec![]);
        let last = self.put("Sub", &[&depth, &one], vec![]);
        let last = scalar(self, &last);
        let there = self.put("Clip", &[&wanted, &zero, &last], vec![]);
        let is_there = self.put("Equal", &[&wanted, &there], vec![]);
        let is_there = self.put("Cast", &[&is_there], vec![int("to", 1)]);
        let is_there = self.put("Unsqueeze", &[&is_there, &one], vec![]);
        let transform = self.narrowed(&TRANSFORM.input);
        let matrix = self.put("Mul", &[&transform, &is_there], vec![]);
        let all = self.integers(&[-1]);
        let slices = self.put("Reshape", &[&there, &all], vec![]);
        let rest = self.integers(&[TAPS_IN as i64, -1]);
        let sides = self.put("Concat", &[&count, &rest], vec![int("axis", 0)]);
        let tiles = Tiles { slices, matrix, sides };
        self.tiles.insert(x.multiple, tiles.clone());
        tiles
    }
}

/// How the maps of one depth are cut into tiles.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    /// Six slices for each tile, one after the other.
    slices: String,
    /// `(tile, 6, 6)`.
    matrix: String,
    /// `(tiles, 6, -1)`, for a reshape.
    sides: String,
}
