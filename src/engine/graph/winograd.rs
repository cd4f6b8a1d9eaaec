//! Winograd's F(4,3) along depth: six products make four slices of a convolution of three taps, or of its derivative.
//!
//! Source: Lavin and Gray 2016, section 4.1, points 0, 1, -1, 2, -2. [`INPUT`] is its `B^T`, [`WEIGHT`] its `G`,
//! [`OUTPUT`] its `A^T`. The plane keeps its nine taps: a kernel of `(1, 3, 3)` for each of the six products.

use super::builder::{Attribute, GraphBuilder, Machine, Tensor};
use super::layers::narrow;
use super::operators::Window;

/// Products of a tile.
pub(super) const TAPS_IN: usize = 6;
/// Slices of a tile.
pub(super) const TAPS_OUT: usize = 4;

/// What the input's slices, from one before the tile on, are mixed to.
pub(super) const INPUT: [[f32; TAPS_IN]; TAPS_IN] = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
];

/// What the three taps of a weight are mixed to.
pub(super) const WEIGHT: [[f64; 3]; TAPS_IN] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// What the products are mixed to.
pub(super) const OUTPUT: [[f32; TAPS_IN]; TAPS_OUT] = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
];

/// The product that carries a bias: the output transform spreads it evenly, `(1, 1, 1, 1)`.
pub(super) const BIAS_AT: usize = 1;

impl GraphBuilder {
    /// Whether a convolution is written this way. With fewer slices than a tile has, most of it would be empty.
    pub(super) fn is_winograd(&self, x: Tensor, window: Window) -> bool {
        self.machine == Machine::Processor
            && window == (Window { kernel: 3, stride: 1, padding: 1 })
            && self.shape(x)[0] == 1
            && self.shape(x)[2] >= TAPS_OUT
    }

    /// The convolution of `x` `(1, c, z, y, x)`, zeros beyond its edges, with `weight` `(out, c, 3, 3, 3)`.
    pub(super) fn winograd(&mut self, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
        let [from, z, h, w] = self.map_sides(x);
        let (out, tiles) = (self.shape(weight)[0], z.div_ceil(TAPS_OUT));
        let mixed = self.mix_slices(x, &input_matrix(z));
        let mixed = self.reshape(mixed, &[1, TAPS_IN * from, tiles, h, w]);
        let taps = self.reshape(weight, &[out * from, 3, 9]);
        let taps = self.transpose(taps, &[1, 0, 2]);
        let taps = self.reshape(taps, &[3, out * from * 9]);
        let transform = WEIGHT.as_flattened().iter().map(|value| narrow(*value)).collect::<Vec<_>>();
        let transform = self.constant(&[TAPS_IN, 3], &transform);
        let taps = self.matmul(transform, taps);
        let taps = self.reshape(taps, &[TAPS_IN * out, from, 1, 3, 3]);
        let mut inputs = vec![mixed, taps];
        if let Some(bias) = bias {
            let (before, behind) = (vec![0.0; BIAS_AT * out], vec![0.0; (TAPS_IN - BIAS_AT - 1) * out]);
            let before = self.constant(&[before.len()], &before);
            let behind = self.constant(&[behind.len()], &behind);
            inputs.push(self.concat(&[before, bias, behind], 0));
        }
        let attributes = vec![
            ("kernel_shape", Attribute::Ints(vec![1, 3, 3])),
            ("pads", Attribute::Ints(vec![0, 1, 1, 0, 1, 1])),
            ("group", Attribute::Int(TAPS_IN as i64)),
        ];
        let products = self.node("Conv", &inputs, attributes, vec![1, TAPS_IN * out, tiles, h, w]);
        let products = self.reshape(products, &[TAPS_IN, out, tiles * h * w]);
        let products = self.transpose(products, &[1, 0, 2]);
        let products = self.reshape(products, &[out, TAPS_IN * tiles, h * w]);
        let matrix = self.constant(&[z, TAPS_IN * tiles], &transposed(&output_matrix(z), z));
        let sums = self.matmul(matrix, products);
        self.reshape(sums, &[1, out, z, h, w])
    }

    /// The gradient by the weight, `(out, c, 3, 3, 3)`, from that by the output, `dy` `(1, out, z, y, x)`.
    pub(super) fn winograd_by_weight(&mut self, x: Tensor, dy: Tensor) -> Tensor {
        let [from, z, h, w] = self.map_sides(x);
        let (out, tiles) = (self.shape(dy)[1], z.div_ceil(TAPS_OUT));
        let padded = self.pad_voxels(x, [0, 1, 1]);
        let mixed = self.mix_slices(padded, &input_matrix(z));
        let mixed = self.reshape(mixed, &[TAPS_IN * from * tiles, h + 2, w + 2]);
        let mut seen = Vec::with_capacity(9);
        for right in 0..3 {
            let columns = self.part(mixed, 2, right, w);
            for down in 0..3 {
                let seen_from_here = self.part(columns, 1, down, h);
                seen.push(self.reshape(seen_from_here, &[TAPS_IN, from, tiles * h * w]));
            }
        }
        // Behind what is seen, as in `conv_by_weight`.
        let gradients = self.mix_slices(dy, &output_matrix(z));
        let columns = self.transpose(gradients, &[0, 2, 1]);
        let parts: Vec<_> = seen.into_iter().map(|seen| self.matmul(seen, columns)).collect();
        let products = self.concat(&parts, 1);
        let products = self.reshape(products, &[TAPS_IN, 9 * from * out]);
        let transform: Vec<_> =
            (0..3).flat_map(|tap| WEIGHT.iter().map(move |row| narrow(row[tap]))).collect();
        let transform = self.constant(&[3, TAPS_IN], &transform);
        let taps = self.matmul(transform, products);
        let taps = self.reshape(taps, &[3, 3, 3, from, out]);
        let taps = self.transpose(taps, &[4, 3, 0, 2, 1]);
        self.reshape(taps, &[out, from, 3, 3, 3])
    }

    /// `(1, c, z, y, x)` times a matrix of rows (product, tile) and `z` columns: `(6, c, tiles y x)`.
    fn mix_slices(&mut self, x: Tensor, matrix: &[f32]) -> Tensor {
        let [channels, z, h, w] = self.map_sides(x);
        let tiles = z.div_ceil(TAPS_OUT);
        let matrix = self.constant(&[TAPS_IN * tiles, z], matrix);
        let slices = self.reshape(x, &[channels, z, h * w]);
        let mixed = self.matmul(matrix, slices);
        let mixed = self.reshape(mixed, &[channels, TAPS_IN, tiles * h * w]);
        self.transpose(mixed, &[1, 0, 2])
    }

    fn map_sides(&self, x: Tensor) -> [usize; 4] {
        let shape = self.shape(x);
        [shape[1], shape[2], shape[3], shape[4]]
    }
}

/// Rows (product, tile), columns slices: a tile begins one slice before its four, and what lies outside is zero.
fn input_matrix(z: usize) -> Vec<f32> {
    let tiles = z.div_ceil(TAPS_OUT);
    let mut matrix = vec![0.0; TAPS_IN * tiles * z];
    for (product, row) in INPUT.iter().enumerate() {
        for tile in 0..tiles {
            for (tap, value) in row.iter().enumerate() {
                if let Some(slice) = (TAPS_OUT * tile + tap).checked_sub(1).filter(|slice| *slice < z) {
                    matrix[(product * tiles + tile) * z + slice] = *value;
                }
            }
        }
    }
    matrix
}

/// Rows (product, tile), columns slices: what a product gives to each slice.
fn output_matrix(z: usize) -> Vec<f32> {
    let tiles = z.div_ceil(TAPS_OUT);
    let mut matrix = vec![0.0; TAPS_IN * tiles * z];
    for slice in 0..z {
        for product in 0..TAPS_IN {
            matrix[(product * tiles + slice / TAPS_OUT) * z + slice] = OUTPUT[slice % TAPS_OUT][product];
        }
    }
    matrix
}

/// A matrix of `columns` columns, row by row, turned over.
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns).copied()).collect()
}
