//! Winograd's F(4,3) along depth and rows: 36 products make a block of four by four lines of a convolution of three taps on
//! each axis, or of its derivative.
//!
//! Source: Lavin and Gray 2016, section 4.1 and, for two axes, equation 8. Along a line the three taps stay: a kernel of
//! `(1, 1, 3)` for each product.

use super::builder::{Attribute, GraphBuilder, Machine, Tensor};
use super::layers::narrow;
use super::operators::Window;

/// Products along an axis.
pub(super) const TAPS_IN: usize = 6;
/// Lines of a block along an axis.
pub(super) const TAPS_OUT: usize = 4;
/// Products of a block.
const PRODUCTS: usize = TAPS_IN * TAPS_IN;

/// The matrices of F(4,3) along one axis.
pub(super) struct Transform {
    /// What the input's lines, from one before the block on, are mixed to: `B^T`.
    pub(super) input: [[f64; TAPS_IN]; TAPS_IN],
    /// What the three taps of a weight are mixed to: `G`.
    pub(super) weight: [[f64; 3]; TAPS_IN],
    /// What the products are mixed to: `A^T`.
    pub(super) output: [[f64; TAPS_IN]; TAPS_OUT],
}

/// With points whose powers stay near one, rounding on two axes is not much more than that of the usual ones on one axis:
/// 6.6e-7 of a result's size with 64 channels, against 1.5e-6 and 5.4e-7.
/// Source: Alam et al. 2022, that such points are symmetric and reciprocal.
const TRANSFORM: Transform = Transform::at(0.625, 1.5);

impl Transform {
    /// Interpolation at 0, `a`, `-a`, `b`, `-b` and infinity.
    pub(super) const fn at(a: f64, b: f64) -> Self {
        let (c, d) = (a * a, b * b);
        let (e, f) = (0.5 / (c * (c - d)), 0.5 / (d * (d - c)));
        Self {
            input: [
                [c * d, 0.0, -(c + d), 0.0, 1.0, 0.0],
                [0.0, -a * d, -d, a, 1.0, 0.0],
                [0.0, a * d, -d, -a, 1.0, 0.0],
                [0.0, -b * c, -c, b, 1.0, 0.0],
                [0.0, b * c, -c, -b, 1.0, 0.0],
                [0.0, c * d, 0.0, -(c + d), 0.0, 1.0],
            ],
            weight: [
                [1.0 / (c * d), 0.0, 0.0],
                [e, e * a, e * c],
                [e, -e * a, e * c],
                [f, f * b, f * d],
                [f, -f * b, f * d],
                [0.0, 0.0, 1.0],
            ],
            output: [
                [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
                [0.0, a, -a, b, -b, 0.0],
                [0.0, c, c, d, d, 0.0],
                [0.0, a * c, -a * c, b * d, -b * d, 1.0],
            ],
        }
    }
}

impl GraphBuilder {
    /// Whether a convolution is written this way. With fewer slices than a block has, most of it would be empty.
    pub(super) fn is_winograd(&self, x: Tensor, window: Window) -> bool {
        self.machine == Machine::Processor
            && window == (Window { kernel: 3, stride: 1, padding: 1 })
            && self.shape(x)[0] == 1
            && self.shape(x)[2] >= TAPS_OUT
    }

    /// The convolution of `x` `(1, c, z, y, x)`, zeros beyond its edges, with `weight` `(out, c, 3, 3, 3)`.
    pub(super) fn winograd(&mut self, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
        let [from, z, h, w] = self.map_sides(x);
        let (out, [deep, high]) = (self.shape(weight)[0], [z, h].map(|side| side.div_ceil(TAPS_OUT)));
        let mixed = self.mix_lines(x, &TRANSFORM.input, 1, 0);
        let mixed = self.reshape(mixed, &[1, PRODUCTS * from, deep, high, w]);
        let taps = self.reshape(weight, &[out * from, 9, 3]);
        let taps = self.transpose(taps, &[1, 0, 2]);
        let taps = self.reshape(taps, &[9, out * from * 3]);
        let transform = self.constant(&[PRODUCTS, 9], &on_both(&TRANSFORM.weight));
        let taps = self.matmul(transform, taps);
        let taps = self.reshape(taps, &[PRODUCTS * out, from, 1, 1, 3]);
        let attributes = vec![
            ("kernel_shape", Attribute::Ints(vec![1, 1, 3])),
            ("pads", Attribute::Ints(vec![0, 0, 1, 0, 0, 1])),
            ("group", Attribute::Int(PRODUCTS as i64)),
        ];
        let products = self.node("Conv", &[mixed, taps], attributes, vec![1, PRODUCTS * out, deep, high, w]);
        let products = self.reshape(products, &[PRODUCTS, out * deep * high * w]);
        let transform = self.constant(&[TAPS_OUT * TAPS_OUT, PRODUCTS], &on_both(&TRANSFORM.output));
        let lines = self.matmul(transform, products);
        let lines = self.reshape(lines, &[TAPS_OUT, TAPS_OUT, out * deep, high, w]);
        let lines = self.transpose(lines, &[2, 0, 3, 1, 4]);
        let mut whole = self.reshape(lines, &[1, out, TAPS_OUT * deep, TAPS_OUT * high, w]);
        for (axis, side) in [(2, z), (3, h)] {
            if side % TAPS_OUT > 0 {
                whole = self.part(whole, axis, 0, side);
            }
        }
        let Some(bias) = bias else { return whole };
        let bias = self.reshape(bias, &[1, out, 1, 1, 1]);
        self.binary("Add", whole, bias)
    }

    /// The gradient by the weight, `(out, c, 3, 3, 3)`, from that by the output, `dy` `(1, out, z, y, x)`.
    pub(super) fn winograd_by_weight(&mut self, x: Tensor, dy: Tensor) -> Tensor {
        let ([from, _, _, w], out) = (self.map_sides(x), self.shape(dy)[1]);
        let mixed = self.mix_lines(x, &TRANSFORM.input, 1, 1);
        let count = self.len(mixed) / (w + 2);
        let lines = self.reshape(mixed, &[count, w + 2]);
        let seen = [0, 1, 2].map(|right| {
            let seen = self.part(lines, 1, right, w);
            self.reshape(seen, &[PRODUCTS, from, count / PRODUCTS / from * w])
        });
        // Behind what is seen, as in `conv_by_weight`.
        let gradients = self.mix_lines(dy, &turned(&TRANSFORM.output), 0, 0);
        let columns = self.transpose(gradients, &[0, 2, 1]);
        let parts = seen.map(|seen| self.matmul(seen, columns));
        let products = self.concat(&parts, 1);
        let products = self.reshape(products, &[PRODUCTS, 3 * from * out]);
        let transform = self.constant(&[9, PRODUCTS], &on_both(&turned(&TRANSFORM.weight)));
        let taps = self.matmul(transform, products);
        let taps = self.reshape(taps, &[9, 3, from, out]);
        let taps = self.transpose(taps, &[3, 2, 0, 1]);
        self.reshape(taps, &[out, from, 3, 3, 3])
    }

    /// The lines of each block, from `before` it on, mixed along both axes by `matrix`: `(36, c, blocks x)`, with `ends`
    /// zeros at both ends of a line. A convolution of one channel does it, which knows where the map ends.
    fn mix_lines<const TAPS: usize>(
        &mut self,
        x: Tensor,
        matrix: &[[f64; TAPS]; TAPS_IN],
        before: usize,
        ends: usize,
    ) -> Tensor {
        let [channels, z, h, w] = self.map_sides(x);
        let [deep, high] = [z, h].map(|side| side.div_ceil(TAPS_OUT));
        let behind = |side: usize, blocks: usize| TAPS_OUT * (blocks - 1) + TAPS - before - side;
        let pads = [before, before, ends, behind(z, deep), behind(h, high), ends];
        let attributes = vec![
            ("kernel_shape", Attribute::Ints(vec![TAPS as i64, TAPS as i64, 1])),
            ("strides", Attribute::Ints(vec![TAPS_OUT as i64, TAPS_OUT as i64, 1])),
            ("pads", Attribute::Ints(pads.map(|count| count as i64).to_vec())),
        ];
        let kernel = self.constant(&[PRODUCTS, 1, TAPS, TAPS, 1], &on_both(matrix));
        let maps = self.reshape(x, &[channels, 1, z, h, w]);
        let long = w + 2 * ends;
        let mixed =
            self.node("Conv", &[maps, kernel], attributes, vec![channels, PRODUCTS, deep, high, long]);
        let mixed = self.reshape(mixed, &[channels, PRODUCTS, deep * high * long]);
        self.transpose(mixed, &[1, 0, 2])
    }

    fn map_sides(&self, x: Tensor) -> [usize; 4] {
        let shape = self.shape(x);
        [shape[1], shape[2], shape[3], shape[4]]
    }
}

/// What a matrix does along depth and along rows, as one matrix, row by row.
fn on_both<const ROWS: usize, const COLUMNS: usize>(matrix: &[[f64; COLUMNS]; ROWS]) -> Vec<f32> {
    let pairs = matrix.iter().flat_map(|deep| matrix.iter().map(move |high| (deep, high)));
    pairs.flat_map(|(deep, high)| deep.iter().flat_map(|a| high.iter().map(|b| narrow(*a * *b)))).collect()
}

fn turned<const ROWS: usize, const COLUMNS: usize>(
    matrix: &[[f64; COLUMNS]; ROWS],
) -> [[f64; ROWS]; COLUMNS] {
    std::array::from_fn(|column| std::array::from_fn(|row| matrix[row][column]))
}
