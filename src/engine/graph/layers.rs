//! The layers that the network is written in, in two forms.
//!
//! The inference form takes its weights from a [`Weights`] and folds batch norm into the convolutions; the training form
//! takes them as inputs, normalises as [`Norms`] says, and writes down every step so that
//! [`Layers::gradients`](super::way_back) can go back. A convolution in front of a norm has no bias: the norm would
//! take it out again, its gradient is zero, and Adam would walk it by noise.

use super::builder::{Attribute, Element, GraphBuilder, Machine, Tensor};
use super::onnx::Side;
use super::operators::Window;
use super::weights::{Parameter, Role, Start, Weights};

/// Where weights come from, and how norms are computed.
#[derive(Clone, Copy)]
pub(crate) enum Form<'w> {
    /// Stored in the graph, batch norm folded.
    Inference(&'w Weights),
    /// Inputs of the graph.
    Training(Norms),
}

/// By which statistics the batch norms of the trunk work in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norms {
    /// By those of this case, which also move the running ones. Source: Ioffe and Szegedy 2015.
    #[default]
    Batch,
    /// By the running ones, which stay as they are: training computes what inference will, whatever the mixture of cases.
    Frozen,
}

/// One forward step, as the way back needs it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) rule: Rule,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) output: Tensor,
}

/// What a step did; which derivative it has.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    /// Inputs `x, weight` and perhaps `bias`.
    Conv(Window),
    /// Inputs `x, weight`; kernel two, stride two.
    ConvTranspose,
    /// Inputs `x, scale, shift`: each channel to mean 0 and variance 1 over its voxels, then scaled and shifted.
    Normalize {
        centred: Tensor,
        inverse_deviation: Tensor,
    },
    /// Largest of each 2 x 2 x 2 block.
    MaxPool,
    /// Along one axis, times the `(to, from)` matrix that doubles its voxels linearly.
    DoubleAxis {
        axis: usize,
    },
    Relu,
    Sigmoid,
    /// `ln(1 + exp x)`.
    Softplus,
    Add,
    Sub,
    Mul,
    Div,
    Concat {
        axis: usize,
    },
    Reshape,
    /// Inputs `x, weight, bias`: `x weight^T + bias`.
    Linear,
    /// Sum of all elements.
    Sum,
    /// Input `rows`: the row whose number `class` holds.
    PickRow {
        class: Tensor,
    },
    /// Quadratic up to one, linear beyond.
    SmoothL1,
    /// Input `logits`; `allowed` marks the classes that a row may be.
    AllowedCrossEntropy {
        all: Tensor,
        allowed: Tensor,
    },
}

/// A mean or variance of this batch, and which running statistic it moves.
#[derive(Debug, Clone)]
struct Statistic {
    name: String,
    batch: Tensor,
    start: f32,
    factor: f64,
}

/// The network in the making.
pub(crate) struct Layers<'w> {
    pub(crate) graph: GraphBuilder,
    form: Form<'w>,
    pub(super) tape: Vec<Step>,
    /// Every weight asked for, in order, and in the training form its input.
    pub(super) parameters: Vec<(Parameter, Tensor)>,
    statistics: Vec<Statistic>,
    momentum: f64,
    epsilon: f64,
}

impl<'w> Layers<'w> {
    /// An empty network of one form.
    pub(crate) fn new(name: &str, form: Form<'w>, preset: &super::Preset) -> Self {
        let mut graph = GraphBuilder::new(name);
        graph.note("preset", &preset.name);
        Self {
            graph,
            form,
            tape: Vec::new(),
            parameters: Vec::new(),
            statistics: Vec::new(),
            momentum: preset.norm_momentum,
            epsilon: preset.norm_epsilon,
        }
    }

    /// A door in; where the form is inference, `sides` says which sides the caller chooses.
    pub(crate) fn input(&mut self, name: &str, shape: &[usize], sides: &[&str]) -> Tensor {
        let declared =
            if sides.is_empty() { self.graph.sides_of_door(name, shape) } else { declared(shape, sides) };
        self.graph.input_with_sides(name, Element::F32, shape, declared)
    }

    /// A door out, as [`Self::input`].
    pub(crate) fn output(&mut self, name: &str, tensor: Tensor, sides: &[&str]) {
        let shape = self.graph.shape(tensor).to_vec();
        self.graph.output_with_sides(name, tensor, declared(&shape, sides));
    }

    /// Convolution and batch norm; `name.conv.weight`, `name.norm.*`.
    pub(crate) fn conv_norm(&mut self, x: Tensor, name: &str, channels: usize, window: Window) -> Tensor {
        let from = self.graph.shape(x)[1];
        let shape = [channels, from, window.kernel, window.kernel, window.kernel];
        if let Form::Inference(weights) = self.form {
            let (weight, bias) = weights.folded(name, 0, self.epsilon);
            let weight = self.graph.weight(&format!("{name}.weight"), &shape, &weight);
            let bias = self.graph.weight(&format!("{name}.bias"), &[channels], &bias);
            return self.graph.conv(x, weight, Some(bias), window);
        }
        let start = Start::He { fan_in: from * window.kernel.pow(3) };
        let weight = self.parameter(&format!("{name}.conv.weight"), &shape, start);
        if matches!(self.form, Form::Training(Norms::Frozen)) {
            let (factor, bias) = self.frozen_norm(&format!("{name}.norm"), channels);
            let factor = self.reshape(factor, &[channels, 1, 1, 1, 1]);
            let weight = self.multiply(weight, factor);
            let y = self.graph.conv(x, weight, Some(bias), window);
            return self.record(Rule::Conv(window), &[x, weight, bias], y);
        }
        let y = self.graph.conv(x, weight, None, window);
        let y = self.record(Rule::Conv(window), &[x, weight], y);
        self.batch_norm(y, &format!("{name}.norm"))
    }

    /// Transposed convolution, kernel and stride two, and batch norm; the weight is `(in, out, 2, 2, 2)`.
    pub(crate) fn rise_norm(&mut self, x: Tensor, name: &str, channels: usize) -> Tensor {
        let from = self.graph.shape(x)[1];
        let shape = [from, channels, 2, 2, 2];
        let sides: Vec<_> = self.graph.shape(x)[2..].iter().map(|side| 2 * side).collect();
        if let Form::Inference(weights) = self.form {
            let (weight, bias) = weights.folded(name, 1, self.epsilon);
            let weight = self.graph.weight(&format!("{name}.weight"), &shape, &weight);
            let bias = self.graph.weight(&format!("{name}.bias"), &[channels], &bias);
            return self.graph.conv_transpose(x, weight, Some(bias), DOUBLING, &sides);
        }
        let weight = self.parameter(&format!("{name}.conv.weight"), &shape, Start::He { fan_in: from });
        if matches!(self.form, Form::Training(Norms::Frozen)) {
            let (factor, bias) = self.frozen_norm(&format!("{name}.norm"), channels);
            let factor = self.reshape(factor, &[1, channels, 1, 1, 1]);
            let weight = self.multiply(weight, factor);
            let y = self.graph.conv_transpose(x, weight, None, DOUBLING, &sides);
            let y = self.record(Rule::ConvTranspose, &[x, weight], y);
            let bias = self.reshape(bias, &[1, channels, 1, 1, 1]);
            return self.add(y, bias);
        }
        let y = self.graph.conv_transpose(x, weight, None, DOUBLING, &sides);
        let y = self.record(Rule::ConvTranspose, &[x, weight], y);
        self.batch_norm(y, &format!("{name}.norm"))
    }

    /// Convolution of kernel three and local contrast normalisation; `name.conv.weight`, `name.norm.{scale,shift}`.
    pub(crate) fn conv_contrast(&mut self, x: Tensor, name: &str, channels: usize) -> Tensor {
        let from = self.graph.shape(x)[1];
        let window = Window { kernel: 3, stride: 1, padding: 1 };
        let start = Start::He { fan_in: from * 27 };
        let weight = self.parameter(&format!("{name}.conv.weight"), &[channels, from, 3, 3, 3], start);
        let y = self.graph.conv(x, weight, None, window);
        let y = self.record(Rule::Conv(window), &[x, weight], y);
        let scale = self.parameter(&format!("{name}.norm.scale"), &[channels], Start::Value(1.0));
        let shift = self.parameter(&format!("{name}.norm.shift"), &[channels], Start::Value(0.0));
        if matches!(self.form, Form::Inference(_)) {
            let shape = self.graph.shape(y).to_vec();
            let epsilon = Attribute::Float(narrow(self.epsilon));
            return self.graph.node(
                "InstanceNormalization",
                &[y, scale, shift],
                vec![("epsilon", epsilon)],
                shape,
            );
        }
        self.normalize(y, scale, shift).0
    }

    /// Convolution of kernel one with a bias; `name.{weight,bias}`.
    pub(crate) fn conv_point(&mut self, x: Tensor, name: &str, channels: usize) -> Tensor {
        let from = self.graph.shape(x)[1];
        let window = Window { kernel: 1, stride: 1, padding: 0 };
        let start = Start::He { fan_in: from };
        let weight = self.parameter(&format!("{name}.weight"), &[channels, from, 1, 1, 1], start);
        let bias = self.parameter(&format!("{name}.bias"), &[channels], Start::Value(0.0));
        let y = self.graph.conv(x, weight, Some(bias), window);
        self.record(Rule::Conv(window), &[x, weight, bias], y)
    }

    /// Convolution of kernel one to a single channel by the filter of `class` (i64 `(1)`), one of `count`.
    pub(crate) fn conv_of_class(&mut self, x: Tensor, name: &str, class: Tensor, count: usize) -> Tensor {
        let from = self.graph.shape(x)[1];
        let window = Window { kernel: 1, stride: 1, padding: 0 };
        let weights = self.parameter(&format!("{name}.weight"), &[count, from], Start::He { fan_in: from });
        let biases = self.parameter(&format!("{name}.bias"), &[count, 1], Start::Value(0.0));
        let weight = self.pick_row(weights, class);
        let weight = self.reshape(weight, &[1, from, 1, 1, 1]);
        let bias = self.pick_row(biases, class);
        let bias = self.reshape(bias, &[1]);
        let y = self.graph.conv(x, weight, Some(bias), window);
        self.record(Rule::Conv(window), &[x, weight, bias], y)
    }

    /// Fully connected layer; `name.{weight,bias}`, the weight `(out, in)`.
    pub(crate) fn full(&mut self, x: Tensor, name: &str, to: usize) -> Tensor {
        let from = self.graph.shape(x)[1];
        let weight = self.parameter(&format!("{name}.weight"), &[to, from], Start::He { fan_in: from });
        let bias = self.parameter(&format!("{name}.bias"), &[to], Start::Value(0.0));
        let y = self.graph.linear(x, weight, Some(bias));
        self.record(Rule::Linear, &[x, weight, bias], y)
    }

    /// Negative numbers become zero.
    pub(crate) fn relu(&mut self, x: Tensor) -> Tensor {
        let y = self.graph.unary("Relu", x);
        self.record(Rule::Relu, &[x], y)
    }

    /// Half the voxels on every axis, the largest of each block.
    pub(crate) fn max_pool(&mut self, x: Tensor) -> Tensor {
        let y = self.graph.max_pool(x);
        self.record(Rule::MaxPool, &[x], y)
    }

    /// Twice the voxels on every axis, trilinear, half-pixel centres, the edge repeated.
    pub(crate) fn double(&mut self, x: Tensor) -> Tensor {
        if matches!(self.form, Form::Inference(_)) {
            return self.graph.resize_double(x, "linear");
        }
        (2..5).fold(x, |x, axis| {
            let from = self.graph.shape(x)[axis];
            let y = self.graph.along_axis(x, axis, &doubling_matrix(from), 2 * from);
            self.record(Rule::DoubleAxis { axis }, &[x], y)
        })
    }

    /// Tensors one after the other along an axis.
    pub(crate) fn concat(&mut self, parts: &[Tensor], axis: usize) -> Tensor {
        let y = self.graph.concat(parts, axis);
        self.record(Rule::Concat { axis }, parts, y)
    }

    /// Sum, element by element.
    pub(crate) fn add(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.graph.binary("Add", a, b);
        self.record(Rule::Add, &[a, b], y)
    }

    /// A weight: an input in training, stored in the graph at inference.
    pub(super) fn parameter(&mut self, name: &str, shape: &[usize], start: Start) -> Tensor {
        self.parameter_of(name, shape, start, Role::Trained)
    }

    /// Asks for every running statistic and moves it towards this batch's: name and new value `(c)`.
    pub(super) fn move_running(&mut self) -> Vec<(String, Tensor)> {
        let statistics = std::mem::take(&mut self.statistics);
        let mut moved = Vec::with_capacity(statistics.len());
        for statistic in statistics {
            let channels = self.graph.len(statistic.batch);
            let start = Start::Value(statistic.start);
            let old = self.parameter_of(&statistic.name, &[channels], start, Role::Running);
            let batch = self.graph.reshape(statistic.batch, &[channels]);
            let kept = self.graph.scaled(old, narrow(1.0 - self.momentum));
            let added = self.graph.scaled(batch, narrow(self.momentum * statistic.factor));
            moved.push((statistic.name, self.graph.binary("Add", kept, added)));
        }
        moved
    }

    /// Writes a step down for the way back.
    pub(super) fn record(&mut self, rule: Rule, inputs: &[Tensor], output: Tensor) -> Tensor {
        self.tape.push(Step { rule, inputs: inputs.to_vec(), output });
        output
    }

    pub(super) fn reshape(&mut self, x: Tensor, shape: &[usize]) -> Tensor {
        let y = self.graph.reshape(x, shape);
        if y == x {
            return x;
        }
        self.record(Rule::Reshape, &[x], y)
    }

    pub(super) fn pick_row(&mut self, rows: Tensor, class: Tensor) -> Tensor {
        let shape = vec![1, self.graph.shape(rows)[1]];
        let y = self.graph.node("Gather", &[rows, class], vec![("axis", Attribute::Int(0))], shape);
        self.record(Rule::PickRow { class }, &[rows], y)
    }

    fn parameter_of(&mut self, name: &str, shape: &[usize], start: Start, role: Role) -> Tensor {
        let tensor = match self.form {
            Form::Training(_) => self.graph.input(name, Element::F32, shape),
            Form::Inference(weights) => self.graph.weight(name, shape, weights.values(name)),
        };
        let parameter = Parameter { name: name.to_owned(), shape: shape.to_vec(), role, start };
        self.parameters.push((parameter, tensor));
        tensor
    }

    /// Batch norm by the running statistics as factor and addend of each channel, `(c)` each.
    fn frozen_norm(&mut self, name: &str, channels: usize) -> (Tensor, Tensor) {
        let scale = self.parameter(&format!("{name}.scale"), &[channels], Start::Value(1.0));
        let shift = self.parameter(&format!("{name}.shift"), &[channels], Start::Value(0.0));
        let mut running = |what: &str, start| {
            let start = Start::Value(start);
            self.parameter_of(&format!("{name}.{what}"), &[channels], start, Role::Running)
        };
        let (mean, variance) = (running("mean", 0.0), running("variance", 1.0));
        let epsilon = self.graph.scalar(narrow(self.epsilon));
        let padded = self.graph.binary("Add", variance, epsilon);
        let deviation = self.graph.unary("Sqrt", padded);
        let inverse = self.graph.unary("Reciprocal", deviation);
        let factor = self.multiply(scale, inverse);
        let moved = self.multiply(mean, factor);
        let addend = self.graph.binary("Sub", shift, moved);
        (factor, self.record(Rule::Sub, &[shift, moved], addend))
    }

    /// Batch norm by this batch's statistics, which are kept for [`Self::move_running`].
    fn batch_norm(&mut self, x: Tensor, name: &str) -> Tensor {
        let shape = self.graph.shape(x).to_vec();
        let channels = shape[1];
        let scale = self.parameter(&format!("{name}.scale"), &[channels], Start::Value(1.0));
        let shift = self.parameter(&format!("{name}.shift"), &[channels], Start::Value(0.0));
        let (y, mean, variance) = self.normalize(x, scale, shift);
        let count = shape[2..].iter().product::<usize>() as f64;
        // The running variance is the unbiased one, as in every framework that weights come from.
        let unbiased = count / (count - 1.0).max(1.0);
        self.statistics.push(Statistic {
            name: format!("{name}.mean"),
            batch: mean,
            start: 0.0,
            factor: 1.0,
        });
        self.statistics.push(Statistic {
            name: format!("{name}.variance"),
            batch: variance,
            start: 1.0,
            factor: unbiased,
        });
        y
    }

    /// Each channel over its voxels to mean 0 and variance 1, times `scale`, plus `shift`; with mean and biased variance
    /// `(1, c, 1, 1, 1)`. With one case per batch, batch norm in training and contrast normalisation are the same.
    pub(super) fn normalize(&mut self, x: Tensor, scale: Tensor, shift: Tensor) -> (Tensor, Tensor, Tensor) {
        let graph = &mut self.graph;
        let shape = graph.shape(x).to_vec();
        assert_eq!(shape[0], 1, "one case per batch");
        let mean = graph.mean_over_voxels(x);
        let centred = graph.binary("Sub", x, mean);
        let squares = graph.sum_of_squares(centred);
        let count = shape[2..].iter().product::<usize>() as f64;
        let variance = graph.scaled(squares, narrow(1.0 / count));
        let epsilon = graph.scalar(narrow(self.epsilon));
        let padded = graph.binary("Add", variance, epsilon);
        let deviation = graph.unary("Sqrt", padded);
        let inverse_deviation = graph.unary("Reciprocal", deviation);
        let scale_5d = graph.reshape(scale, &[1, shape[1], 1, 1, 1]);
        let factor = graph.binary("Mul", scale_5d, inverse_deviation);
        let y = graph.by_channel(centred, factor, shift);
        let y = self.record(Rule::Normalize { centred, inverse_deviation }, &[x, scale, shift], y);
        (y, mean, variance)
    }
}

impl GraphBuilder {
    /// Mean of each channel over its voxels, `(1, c, 1, 1, 1)`.
    pub(super) fn mean_over_voxels(&mut self, x: Tensor) -> Tensor {
        let count = self.shape(x)[2..].iter().product::<usize>() as f64;
        let sum = self.sum_over(x, &[2, 3, 4]);
        self.scaled(sum, narrow(1.0 / count))
    }

    /// Sum of each channel's squares over its voxels, `(1, c, 1, 1, 1)`.
    fn sum_of_squares(&mut self, x: Tensor) -> Tensor {
        let rows = if self.machine == Machine::Processor {
            self.reduce("ReduceSumSquare", x, 4)
        } else {
            let squared = self.binary("Mul", x, x);
            self.sum_over(squared, &[4])
        };
        self.sum_over(rows, &[2, 3])
    }

    /// Each channel times its own factor `(1, c, 1, 1, 1)`, plus its own addend, `(c)` or of the factor's shape.
    pub(super) fn by_channel(&mut self, x: Tensor, factor: Tensor, addend: Tensor) -> Tensor {
        let shape = self.shape(x).to_vec();
        let channels = shape[1];
        if self.machine == Machine::Gpu {
            let addend = self.reshape(addend, &[1, channels, 1, 1, 1]);
            let scaled = self.binary("Mul", x, factor);
            return self.binary("Add", scaled, addend);
        }
        // One pass instead of two, and a ReLU behind it needs none.
        let (factor, addend) =
            (self.reshape(factor, &[channels, 1, 1, 1, 1]), self.reshape(addend, &[channels]));
        let attributes =
            vec![("kernel_shape", Attribute::Ints(vec![1; 3])), ("group", Attribute::Int(channels as i64))];
        self.node("Conv", &[x, factor, addend], attributes, shape)
    }

    /// Multiplies along one axis by a matrix `(to, from)` given row by row, without moving axes.
    pub(super) fn along_axis(&mut self, x: Tensor, axis: usize, matrix: &[f32], to: usize) -> Tensor {
        let shape = self.shape(x).to_vec();
        let from = shape[axis];
        let (before, behind) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product::<usize>());
        let product = if behind == 1 {
            let transposed: Vec<_> =
                (0..from).flat_map(|j| (0..to).map(move |i| matrix[i * from + j])).collect();
            let (rows, matrix) = (self.reshape(x, &[before, from]), self.constant(&[from, to], &transposed));
            self.matmul(rows, matrix)
        } else {
            let (matrix, blocks) =
                (self.constant(&[to, from], matrix), self.reshape(x, &[before, from, behind]));
            self.matmul(matrix, blocks)
        };
        let mut doubled = shape;
        doubled[axis] = to;
        self.reshape(product, &doubled)
    }
}

/// Kernel and stride two, no padding: each voxel becomes a block.
pub(super) const DOUBLING: Window = Window { kernel: 2, stride: 2, padding: 0 };

/// The `(2 n, n)` matrix, row by row, of linear interpolation to twice the samples: half-pixel centres, edges repeated.
pub(super) fn doubling_matrix(n: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; 2 * n * n];
    for row in 0..2 * n {
        let near = row / 2;
        let far = if row % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(n - 1) };
        matrix[row * n + near] += 0.75;
        matrix[row * n + far] += 0.25;
    }
    matrix
}

/// The nearest `f32`.
#[expect(clippy::cast_possible_truncation, reason = "constants of the network, far inside the range of f32")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

/// The sides a door declares: named where `sides` has a name, else the number.
fn declared(shape: &[usize], sides: &[&str]) -> Vec<Side> {
    assert_eq!(sides.len(), shape.len(), "a name or nothing for every side");
    let side = |(&side, name): (&usize, &&str)| match *name {
        "" => Side::Fixed(side as i64),
        name => Side::Named(name.to_owned()),
    };
    shape.iter().zip(sides).map(side).collect()
}
