//! ONNX operators as the builder puts them: what each needs, and the shape it gives. No derivatives here.
//!
//! Five-dimensional tensors are `(n, channel, z, y, x)`.

use super::builder::{Attribute, GraphBuilder, Tensor};

/// Kernel, stride and zero padding of a convolution, the same on all three axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Taps per axis.
    pub(crate) kernel: usize,
    /// Input voxels from one output voxel to the next.
    pub(crate) stride: usize,
    /// Zeros put before and behind each axis.
    pub(crate) padding: usize,
}

impl Window {
    /// Output voxels on an axis of `side` input voxels.
    fn side(self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    fn attributes(self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("kernel_shape", Attribute::Ints(vec![self.kernel as i64; 3])),
            ("strides", Attribute::Ints(vec![self.stride as i64; 3])),
            ("pads", Attribute::Ints(vec![self.padding as i64; 6])),
        ]
    }
}

impl GraphBuilder {
    /// Convolution; `weight` is `(out, in, kz, ky, kx)`, `bias` `(out)`.
    pub(crate) fn conv(&mut self, x: Tensor, weight: Tensor, bias: Option<Tensor>, window: Window) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        assert_eq!(shape[1], self.shape(weight)[1], "channels of a convolution's input and weight");
        if self.is_winograd(x, window) {
            return self.winograd(x, weight, bias);
        }
        shape[1] = self.shape(weight)[0];
        for side in &mut shape[2..] {
            *side = window.side(*side);
        }
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.node("Conv", &inputs, window.attributes(), shape)
    }

    /// Transposed convolution onto `sides` output voxels; `weight` is `(in, out, kz, ky, kx)`, `bias` `(out)`.
    pub(crate) fn conv_transpose(
        &mut self,
        x: Tensor,
        weight: Tensor,
        bias: Option<Tensor>,
        window: Window,
        sides: &[usize],
    ) -> Tensor {
        let missing = sides
            .iter()
            .zip(&self.shape(x)[2..])
            .map(|(&to, &from)| (to + 2 * window.padding - window.kernel - window.stride * (from - 1)) as i64)
            .collect();
        let shape = [&[self.shape(x)[0], self.shape(weight)[1]], sides].concat();
        let mut attributes = window.attributes();
        attributes.push(("output_padding", Attribute::Ints(missing)));
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.node("ConvTranspose", &inputs, attributes, shape)
    }

    /// Largest of each 2 x 2 x 2 block.
    pub(crate) fn max_pool(&mut self, x: Tensor) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        for side in &mut shape[2..] {
            assert!(*side % 2 == 0, "max-pooling halves even sides only");
            *side /= 2;
        }
        let two = Attribute::Ints(vec![2; 3]);
        self.node("MaxPool", &[x], vec![("kernel_shape", two.clone()), ("strides", two)], shape)
    }

    /// Twice the voxels on every axis: `mode` is `linear` (half-pixel centres) or `nearest`.
    pub(crate) fn resize_double(&mut self, x: Tensor, mode: &'static str) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        for side in &mut shape[2..] {
            *side *= 2;
        }
        let scales = self.constant(&[5], &[1.0, 1.0, 2.0, 2.0, 2.0]);
        let inputs = vec![self.name(x).to_owned(), String::new(), self.name(scales).to_owned()];
        let (transform, rounding) = match mode {
            "nearest" => ("asymmetric", "floor"),
            _ => ("half_pixel", "round_prefer_floor"),
        };
        let attributes = vec![
            ("mode", Attribute::Text(mode)),
            ("coordinate_transformation_mode", Attribute::Text(transform)),
            ("nearest_mode", Attribute::Text(rounding)),
        ];
        self.node_by_name("Resize", inputs, attributes, shape)
    }

    /// An operator on each element.
    pub(crate) fn unary(&mut self, operator: &str, x: Tensor) -> Tensor {
        let shape = self.shape(x).to_vec();
        self.node(operator, &[x], vec![], shape)
    }

    /// An operator on pairs of elements; sides of one are repeated.
    pub(crate) fn binary(&mut self, operator: &str, a: Tensor, b: Tensor) -> Tensor {
        let shape = broadcast(self.shape(a), self.shape(b));
        self.node(operator, &[a, b], vec![], shape)
    }

    /// The elements limited to `low..=high`.
    pub(crate) fn clip(&mut self, x: Tensor, low: f32, high: f32) -> Tensor {
        let (low, high) = (self.scalar(low), self.scalar(high));
        let shape = self.shape(x).to_vec();
        self.node("Clip", &[x, low, high], vec![], shape)
    }

    /// The same elements in another shape.
    pub(crate) fn reshape(&mut self, x: Tensor, shape: &[usize]) -> Tensor {
        assert_eq!(self.len(x), shape.iter().product::<usize>(), "a reshape keeps the elements");
        if self.shape(x) == shape {
            return x;
        }
        let sides = self.sides(shape);
        self.node("Reshape", &[x, sides], vec![], shape.to_vec())
    }

    /// The axes in another order: axis `i` of the result is axis `order[i]` of `x`.
    pub(crate) fn transpose(&mut self, x: Tensor, order: &[usize]) -> Tensor {
        let shape = order.iter().map(|&axis| self.shape(x)[axis]).collect();
        let order = order.iter().map(|&axis| axis as i64).collect();
        self.node("Transpose", &[x], vec![("perm", Attribute::Ints(order))], shape)
    }

    /// Tensors one after the other along `axis`.
    pub(crate) fn concat(&mut self, parts: &[Tensor], axis: usize) -> Tensor {
        let mut shape = self.shape(parts[0]).to_vec();
        shape[axis] = parts.iter().map(|&part| self.shape(part)[axis]).sum();
        self.node("Concat", parts, vec![("axis", Attribute::Int(axis as i64))], shape)
    }

    /// Elements `start..start + length` of one axis.
    pub(crate) fn slice(&mut self, x: Tensor, axis: usize, start: usize, length: usize) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        shape[axis] = length;
        let (from, to) = (self.integers(&[start as i64]), self.integers(&[(start + length) as i64]));
        let axis = self.integers(&[axis as i64]);
        self.node("Slice", &[x, from, to, axis], vec![], shape)
    }

    /// Every `stride`-th voxel from `start` on, `sides` of them, on the three last axes of five.
    pub(crate) fn slice_voxels(
        &mut self,
        x: Tensor,
        start: [usize; 3],
        sides: &[usize],
        stride: usize,
    ) -> Tensor {
        let shape = [&self.shape(x)[..2], sides].concat();
        if start == [0; 3] && stride == 1 && self.shape(x) == shape {
            return x;
        }
        let end: Vec<_> =
            start.iter().zip(sides).map(|(start, side)| (start + stride * (side - 1) + 1) as i64).collect();
        let (from, to) = (self.integers(&start.map(|at| at as i64)), self.integers(&end));
        let (axes, steps) = (self.integers(&[2, 3, 4]), self.integers(&[stride as i64; 3]));
        self.node("Slice", &[x, from, to, axes, steps], vec![], shape)
    }

    /// The three last axes of five back to front.
    pub(crate) fn flip_voxels(&mut self, x: Tensor) -> Tensor {
        let shape = self.shape(x).to_vec();
        let (last, before_first) = (self.integers(&[-1; 3]), self.integers(&[i64::MIN; 3]));
        let axes = self.integers(&[2, 3, 4]);
        self.node("Slice", &[x, last, before_first, axes, last], vec![], shape)
    }

    /// `counts` zeros before and behind the three last axes of five.
    pub(crate) fn pad_voxels(&mut self, x: Tensor, counts: [usize; 3]) -> Tensor {
        if counts == [0; 3] {
            return x;
        }
        let mut shape = self.shape(x).to_vec();
        for (side, count) in shape[2..].iter_mut().zip(counts) {
            *side += 2 * count;
        }
        let [deep, high, wide] = counts.map(|count| count as i64);
        let pads = self.integers(&[0, 0, deep, high, wide, 0, 0, deep, high, wide]);
        self.node("Pad", &[x, pads], vec![], shape)
    }

    /// As [`Self::slice`] of a part of an axis, on all threads: Slice runs on one.
    pub(crate) fn part(&mut self, x: Tensor, axis: usize, start: usize, length: usize) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        let parts = [start, length, shape[axis] - start - length];
        shape[axis] = length;
        let wanted = usize::from(start > 0);
        let parts: Vec<_> = parts.into_iter().filter(|part| *part > 0).map(|part| part as i64).collect();
        let lengths = self.integers(&parts);
        self.split(x, lengths, axis, parts.len(), wanted, shape)
    }

    /// One where elements are equal, zero elsewhere.
    pub(crate) fn equal(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let same = self.binary("Equal", a, b);
        let shape = self.shape(same).to_vec();
        self.node("Cast", &[same], vec![("to", Attribute::Int(1))], shape)
    }

    /// Mean of each 2 x 2 x 2 block.
    pub(crate) fn average_pool(&mut self, x: Tensor) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        for side in &mut shape[2..] {
            *side /= 2;
        }
        let two = Attribute::Ints(vec![2; 3]);
        self.node("AveragePool", &[x], vec![("kernel_shape", two.clone()), ("strides", two)], shape)
    }

    /// The element of a scalar everywhere.
    pub(crate) fn expand(&mut self, x: Tensor, shape: &[usize]) -> Tensor {
        let sides: Vec<_> = shape.iter().map(|&side| side as i64).collect();
        let sides = self.integers(&sides);
        self.node("Expand", &[x, sides], vec![], shape.to_vec())
    }

    /// `a b` of matrices, repeated over leading axes.
    pub(crate) fn matmul(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let (left, right) = (self.shape(a), self.shape(b));
        let (rows, columns) = (left[left.len() - 2], right[right.len() - 1]);
        assert_eq!(left[left.len() - 1], right[right.len() - 2], "inner sides of a matrix product");
        let mut shape = broadcast(&left[..left.len() - 2], &right[..right.len() - 2]);
        shape.extend([rows, columns]);
        self.node("MatMul", &[a, b], vec![], shape)
    }

    /// `a b^T`, plus `bias` in each row.
    pub(crate) fn linear(&mut self, a: Tensor, b: Tensor, bias: Option<Tensor>) -> Tensor {
        let shape = vec![self.shape(a)[0], self.shape(b)[0]];
        let inputs: Vec<_> = [a, b].into_iter().chain(bias).collect();
        self.node("Gemm", &inputs, vec![("transB", Attribute::Int(1))], shape)
    }

    /// Sums over `axes`, which stay with side one.
    ///
    /// One axis after the other, the last first: ONNX Runtime's CPU kernel adds float32 numbers one by one, and a sum over
    /// a whole volume at once loses three digits.
    pub(crate) fn sum_over(&mut self, x: Tensor, axes: &[usize]) -> Tensor {
        let mut sum = x;
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        for axis in axes.into_iter().rev() {
            if self.shape(x)[axis] > 1 {
                sum = self.reduce("ReduceSum", sum, axis);
            }
        }
        sum
    }

    /// Sum of all elements, a scalar.
    pub(crate) fn sum_all(&mut self, x: Tensor) -> Tensor {
        let axes: Vec<_> = (0..self.shape(x).len()).collect();
        let sum = self.sum_over(x, &axes);
        self.reshape(sum, &[])
    }

    /// `operator` along one axis, which stays with side one.
    pub(crate) fn reduce(&mut self, operator: &str, x: Tensor, axis: usize) -> Tensor {
        let mut shape = self.shape(x).to_vec();
        shape[axis] = 1;
        let axes = self.integers(&[axis as i64]);
        self.node(operator, &[x, axes], vec![("keepdims", Attribute::Int(1))], shape)
    }

    /// Probabilities along the last axis.
    pub(crate) fn softmax(&mut self, x: Tensor) -> Tensor {
        let shape = self.shape(x).to_vec();
        self.node("Softmax", &[x], vec![("axis", Attribute::Int(-1))], shape)
    }

    /// Each element times a number.
    pub(crate) fn scaled(&mut self, x: Tensor, factor: f32) -> Tensor {
        let factor = self.scalar(factor);
        self.binary("Mul", x, factor)
    }
}

/// The shape of two shapes met element by element, ONNX's rule: aligned at the end, sides of one repeated.
fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let side =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    (0..rank)
        .map(|axis| match (side(a, axis), side(b, axis)) {
            (1, other) | (other, 1) => other,
            (left, right) => {
                assert_eq!(left, right, "sides of {a:?} and {b:?} met element by element");
                left
            }
        })
        .collect()
}
