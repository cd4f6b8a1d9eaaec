//! One rule per operator for the way back, written as further nodes of the same graph.
//!
//! Each rule takes the gradient of a scalar by a step's output and gives the gradients by its inputs. A gradient has the
//! shape of what it belongs to.

use super::builder::{Attribute, GraphBuilder, Machine, Tensor};
use super::layers::{DOUBLING, Rule, Step, doubling_matrix, narrow};
use super::operators::Window;

impl GraphBuilder {
    /// The gradient by input `index` of a step, from the gradient `dy` by its output.
    pub(super) fn pull_back(&mut self, step: &Step, index: usize, dy: Tensor) -> Tensor {
        let (inputs, output) = (&step.inputs, step.output);
        match (&step.rule, index) {
            (Rule::Conv(window), 0) => self.conv_by_input(inputs[0], inputs[1], *window, dy),
            (Rule::Conv(window), 1) => self.conv_by_weight(inputs[0], dy, *window),
            (Rule::Conv(_), _) => {
                let sum = self.sum_over(dy, &[0, 2, 3, 4]);
                self.like(sum, inputs[2])
            }
            (Rule::ConvTranspose, 0) => self.conv(dy, inputs[1], None, DOUBLING),
            // The transposed convolution is the way back of a convolution from its output to its input.
            (Rule::ConvTranspose, _) => self.conv_by_weight(dy, inputs[0], DOUBLING),
            (Rule::Normalize { centred, inverse_deviation }, 0) => {
                self.normalize_by_input(inputs[1], *centred, *inverse_deviation, dy)
            }
            (Rule::Normalize { centred, inverse_deviation }, 1) => {
                let along = self.sum_of_products(dy, *centred);
                let sum = self.binary("Mul", along, *inverse_deviation);
                self.like(sum, inputs[1])
            }
            (Rule::Normalize { .. }, _) => {
                let sum = self.sum_over(dy, &[0, 2, 3, 4]);
                self.like(sum, inputs[2])
            }
            (Rule::MaxPool, _) => self.max_pool_by_input(inputs[0], output, dy),
            (Rule::DoubleAxis { axis }, _) => {
                let side = self.shape(inputs[0])[*axis];
                let matrix = doubling_matrix(side);
                let transposed: Vec<_> = (0..side)
                    .flat_map(|to| (0..2 * side).map(move |from| (to, from)))
                    .map(|(to, from)| matrix[from * side + to])
                    .collect();
                self.along_axis(dy, *axis, &transposed, side)
            }
            (Rule::Relu, _) => self.relu_by_input(output, dy),
            (Rule::Sigmoid, _) => {
                let one = self.scalar(1.0);
                let rest = self.binary("Sub", one, output);
                let slope = self.binary("Mul", output, rest);
                self.binary("Mul", dy, slope)
            }
            (Rule::Softplus, _) => {
                let slope = self.unary("Sigmoid", inputs[0]);
                self.binary("Mul", dy, slope)
            }
            (Rule::SmoothL1, _) => {
                let slope = self.clip(inputs[0], -1.0, 1.0);
                self.binary("Mul", dy, slope)
            }
            (Rule::Add, _) | (Rule::Sub, 0) => self.unbroadcast(dy, inputs[index]),
            (Rule::Sub, _) => {
                let negative = self.unary("Neg", dy);
                self.unbroadcast(negative, inputs[1])
            }
            (Rule::Mul, _) => {
                let part = self.binary("Mul", dy, inputs[1 - index]);
                self.unbroadcast(part, inputs[index])
            }
            (Rule::Div, 0) => {
                let part = self.binary("Div", dy, inputs[1]);
                self.unbroadcast(part, inputs[0])
            }
            (Rule::Div, _) => {
                let product = self.binary("Mul", dy, output);
                let quotient = self.binary("Div", product, inputs[1]);
                let part = self.unary("Neg", quotient);
                self.unbroadcast(part, inputs[1])
            }
            (Rule::Concat { axis }, _) => {
                let start = inputs[..index].iter().map(|&input| self.shape(input)[*axis]).sum();
                let length = self.shape(inputs[index])[*axis];
                match self.machine {
                    Machine::Gpu => self.slice(dy, *axis, start, length),
                    Machine::Processor => self.part(dy, *axis, start, length),
                }
            }
            (Rule::Reshape, _) => self.like(dy, inputs[0]),
            (Rule::Linear, 0) => self.matmul(dy, inputs[1]),
            (Rule::Linear, 1) => {
                let columns = self.transpose(dy, &[1, 0]);
                self.matmul(columns, inputs[0])
            }
            (Rule::Linear, _) => {
                let sum = self.sum_over(dy, &[0]);
                self.like(sum, inputs[2])
            }
            (Rule::Sum, _) => {
                let shape = self.shape(inputs[0]).to_vec();
                self.expand(dy, &shape)
            }
            (Rule::PickRow { class }, _) => {
                let count = self.shape(inputs[0])[0];
                let numbers: Vec<_> = (0..count as i64).collect();
                let numbers = self.integers(&numbers);
                let chosen = self.equal(numbers, *class);
                let chosen = self.reshape(chosen, &[count, 1]);
                self.matmul(chosen, dy)
            }
            (Rule::AllowedCrossEntropy { all, allowed }, _) => {
                let difference = self.binary("Sub", *all, *allowed);
                self.binary("Mul", difference, dy)
            }
        }
    }

    /// Stride one: a convolution with the kernel flipped and its channels exchanged. Otherwise a transposed convolution.
    pub(super) fn conv_by_input(&mut self, x: Tensor, weight: Tensor, window: Window, dy: Tensor) -> Tensor {
        if window.stride == 1 {
            let exchanged = self.transpose(weight, &[1, 0, 2, 3, 4]);
            let flipped = if window.kernel == 1 { exchanged } else { self.flip_voxels(exchanged) };
            let back = Window { padding: window.kernel - 1 - window.padding, ..window };
            return self.conv(dy, flipped, None, back);
        }
        let sides = self.shape(x)[2..].to_vec();
        self.conv_transpose(dy, weight, None, window, &sides)
    }

    /// For each position of the kernel, the product of the output's gradient with the input seen from there.
    fn conv_by_weight(&mut self, x: Tensor, dy: Tensor, window: Window) -> Tensor {
        if self.is_winograd(x, window) {
            return self.winograd_by_weight(x, dy);
        }
        let (from, to) = (self.shape(x)[1], self.shape(dy)[1]);
        let sides = self.shape(dy)[2..].to_vec();
        let count = sides.iter().product();
        let padded = self.pad_voxels(x, [window.padding; 3]);
        let k = window.kernel;
        let seen: Vec<_> = (0..k * k * k)
            .map(|tap| {
                let start = [tap / (k * k), tap / k % k, tap % k];
                let seen = self.slice_voxels(padded, start, &sides, window.stride);
                self.reshape(seen, &[from, count])
            })
            .collect();
        // ONNX Runtime begins with the later of two operands: were it what is seen, it would lie there since the way out.
        let rows = self.reshape(dy, &[to, count]);
        let parts: Vec<_> = seen.into_iter().map(|seen| self.linear(rows, seen, None)).collect();
        if k == 1 {
            return self.reshape(parts[0], &[to, from, 1, 1, 1]);
        }
        let taps = self.concat(&parts, 1);
        let taps = self.reshape(taps, &[to, k * k * k, from]);
        let weight = self.transpose(taps, &[0, 2, 1]);
        self.reshape(weight, &[to, from, k, k, k])
    }

    /// `(dy - mean(dy) - x^ mean(dy x^)) scale / deviation`, means over each channel's voxels, `x^` what is centred by the
    /// deviation.
    fn normalize_by_input(
        &mut self,
        scale: Tensor,
        centred: Tensor,
        inverse_deviation: Tensor,
        dy: Tensor,
    ) -> Tensor {
        let count = self.shape(dy)[2..].iter().product::<usize>() as f64;
        let along = self.sum_of_products(dy, centred);
        let sum = self.sum_over(dy, &[2, 3, 4]);
        let scale = self.like(scale, inverse_deviation);
        let factor = self.binary("Mul", scale, inverse_deviation);
        let along = self.binary("Mul", along, inverse_deviation);
        let along = self.binary("Mul", along, inverse_deviation);
        let [along, away] = [along, sum].map(|sum| {
            let share = self.scaled(sum, narrow(-1.0 / count));
            self.binary("Mul", share, factor)
        });
        let taken = self.by_channel(centred, along, away);
        let scaled = self.binary("Mul", dy, factor);
        self.binary("Add", scaled, taken)
    }

    fn sum_of_products(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let product = self.binary("Mul", a, b);
        self.sum_over(product, &[2, 3, 4])
    }

    /// The gradient where the output is positive, zero elsewhere.
    fn relu_by_input(&mut self, output: Tensor, dy: Tensor) -> Tensor {
        let shape = self.shape(dy).to_vec();
        let zero = self.scalar(0.0);
        let open = self.binary("Greater", output, zero);
        self.node("Where", &[open, dy, zero], vec![], shape)
    }

    /// One where a ReLU's output is positive and no subnormal number, zero elsewhere: a product with it runs on all threads,
    /// Where on one.
    pub(super) fn open(&mut self, output: Tensor) -> Tensor {
        let shape = self.shape(output).to_vec();
        let steep = vec![("alpha", Attribute::Float(f32::MAX)), ("beta", Attribute::Float(0.0))];
        self.node("HardSigmoid", &[output], steep, shape)
    }

    /// To the largest of each block; shared where several are equal.
    fn max_pool_by_input(&mut self, x: Tensor, largest: Tensor, dy: Tensor) -> Tensor {
        let spread = self.repeat_double(largest);
        let chosen = self.equal(x, spread);
        let share = self.average_pool(chosen);
        let count = self.scaled(share, narrow(8.0));
        let each = self.binary("Div", dy, count);
        let spread = self.repeat_double(each);
        self.binary("Mul", spread, chosen)
    }

    /// Each voxel as a block of eight of its value.
    fn repeat_double(&mut self, x: Tensor) -> Tensor {
        if self.machine == Machine::Gpu {
            return self.resize_double(x, "nearest");
        }
        // Resize runs on one thread; a product by ones and zeros is as exact.
        [4, 3, 2].into_iter().fold(x, |x, axis| {
            let side = self.shape(x)[axis];
            let ones = (0..2 * side * side).map(|at| if at % side == at / side / 2 { 1.0 } else { 0.0 });
            self.along_axis(x, axis, &ones.collect::<Vec<_>>(), 2 * side)
        })
    }

    /// The same elements in the shape of `other`.
    fn like(&mut self, x: Tensor, other: Tensor) -> Tensor {
        let shape = self.shape(other).to_vec();
        self.reshape(x, &shape)
    }

    /// Sums a gradient over the sides along which `operand` was repeated.
    fn unbroadcast(&mut self, gradient: Tensor, operand: Tensor) -> Tensor {
        let (full, own) = (self.shape(gradient).to_vec(), self.shape(operand).to_vec());
        let lead = full.len() - own.len();
        let repeated: Vec<_> = (0..full.len())
            .filter(|&axis| axis < lead || (own[axis - lead] == 1 && full[axis] > 1))
            .collect();
        let sum = self.sum_over(gradient, &repeated);
        self.reshape(sum, &own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::layers::{Form, Layers, Norms};
    use crate::engine::graph::{Machine, Preset};
    use crate::engine::runtime::session::{
        Input, Provider, Runtime, Session, SessionOptions, runtime_of_tests,
    };

    /// Numbers without pattern in -1..1, the same each time.
    fn numbers(seed: usize, count: usize) -> Vec<f32> {
        let mut state = seed as u32 * 7919 + 17;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Half the width of a central difference: its error is about its square, float32's noise about 1e-7 divided by it.
    const WIDTH: f32 = 4e-3;
    /// Allowed difference, as a share of the largest gradient.
    const TOLERANCE: f64 = 2e-3;

    /// Builds `build` on inputs of `shapes`, takes the sum of its output times fixed numbers, and compares the gradient by
    /// every input with central differences at up to forty elements.
    fn check(
        runtime: Runtime,
        name: &str,
        shapes: &[&[usize]],
        build: impl Fn(&mut Layers<'_>, &[Tensor]) -> Tensor,
    ) {
        check_with(Machine::Gpu, runtime, name, shapes, build);
    }

    fn check_with(
        machine: Machine,
        runtime: Runtime,
        name: &str,
        shapes: &[&[usize]],
        build: impl Fn(&mut Layers<'_>, &[Tensor]) -> Tensor,
    ) {
        let mut layers = Layers::new(name, Form::Training(Norms::Batch), &Preset::starter());
        layers.graph.machine = machine;
        let names: Vec<_> = (0..shapes.len()).map(|i| format!("in{i}")).collect();
        let inputs: Vec<_> =
            names.iter().zip(shapes).map(|(name, shape)| layers.input(name, shape, &[])).collect();
        let y = build(&mut layers, &inputs);
        let seed = numbers(99, layers.graph.len(y));
        let shape = layers.graph.shape(y).to_vec();
        let seed_tensor = layers.graph.constant(&shape, &seed);
        let gradients = layers.gradients(&[(y, seed_tensor)], &inputs);
        layers.graph.output("y", y);
        for (name, gradient) in names.iter().zip(&gradients) {
            layers.graph.output(&format!("grad.{name}"), *gradient);
        }
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        let mut session = Session::from_bytes(runtime, name, &layers.graph.finish(), &options).unwrap();
        let values: Vec<_> =
            shapes.iter().enumerate().map(|(i, shape)| numbers(i, shape.iter().product())).collect();
        let run = |session: &mut Session, values: &[Vec<f32>], output: &str| -> Vec<f32> {
            let inputs: Vec<_> = names
                .iter()
                .zip(shapes)
                .zip(values)
                .map(|((n, s), v)| (n.as_str(), Input::F32(s, v)))
                .collect();
            session.run(&inputs).unwrap().view(output).unwrap().iter().copied().collect()
        };
        for (i, shape) in shapes.iter().enumerate() {
            let found = run(&mut session, &values, &format!("grad.in{i}"));
            let largest = found.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
            assert!(largest > 1e-3, "{name}: no gradient by input {i}");
            let count: usize = shape.iter().product();
            for element in (0..count).step_by((count / 40).max(1)) {
                let mut side = |by: f32| -> f64 {
                    let mut moved = values.clone();
                    moved[i][element] += by;
                    let y = run(&mut session, &moved, "y");
                    y.iter().zip(&seed).map(|(&y, &s)| f64::from(y) * f64::from(s)).sum()
                };
                let expected = (side(WIDTH) - side(-WIDTH)) / f64::from(2.0 * WIDTH);
                let difference = (expected - f64::from(found[element])).abs();
                assert!(
                    difference <= TOLERANCE * largest.max(1.0),
                    "{name}, input {i}, element {element} of {shape:?}: expected {expected}, found {}",
                    found[element]
                );
            }
        }
    }

    fn binary(layers: &mut Layers<'_>, operator: &str, rule: Rule, i: &[Tensor]) -> Tensor {
        let y = layers.graph.binary(operator, i[0], i[1]);
        layers.record(rule, &[i[0], i[1]], y)
    }

    #[test]
    fn convolutions_follow_central_differences() {
        let Some(runtime) = runtime_of_tests("convolutions") else { return };
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0)] {
            let window = Window { kernel, stride, padding };
            let weight: &[usize] = &[3, 2, kernel, kernel, kernel];
            check(runtime, "conv", &[&[1, 2, 4, 6, 8], weight, &[3]], |layers, i| {
                let y = layers.graph.conv(i[0], i[1], Some(i[2]), window);
                layers.record(Rule::Conv(window), i, y)
            });
        }
        // Depths of one, two and two and a half tiles.
        let window = Window { kernel: 3, stride: 1, padding: 1 };
        for depth in [4, 8, 10] {
            let shapes: [&[usize]; 3] = [&[1, 2, depth, 3, 5], &[3, 2, 3, 3, 3], &[3]];
            check_with(Machine::Processor, runtime, "conv by Winograd", &shapes, |layers, i| {
                let y = layers.graph.conv(i[0], i[1], Some(i[2]), window);
                layers.record(Rule::Conv(window), i, y)
            });
        }
        check(runtime, "transposed", &[&[1, 3, 2, 3, 4], &[3, 2, 2, 2, 2]], |layers, i| {
            let y = layers.graph.conv_transpose(i[0], i[1], None, DOUBLING, &[4, 6, 8]);
            layers.record(Rule::ConvTranspose, i, y)
        });
    }

    #[test]
    fn norm_pooling_and_doubling_follow_central_differences() {
        let Some(runtime) = runtime_of_tests("norm_pooling_and_doubling") else { return };
        check(runtime, "normalize", &[&[1, 2, 3, 4, 5], &[2], &[2]], |layers, i| {
            layers.normalize(i[0], i[1], i[2]).0
        });
        check(runtime, "max-pool", &[&[1, 2, 2, 4, 6]], |layers, i| layers.max_pool(i[0]));
        check(runtime, "double", &[&[1, 2, 1, 3, 4]], |layers, i| layers.double(i[0]));
    }

    #[test]
    fn elementwise_rules_follow_central_differences_when_sides_are_repeated() {
        let Some(runtime) = runtime_of_tests("elementwise") else { return };
        check(runtime, "add", &[&[2, 3, 4], &[3, 1]], |layers, i| binary(layers, "Add", Rule::Add, i));
        check(runtime, "sub", &[&[3, 1], &[2, 3, 4]], |layers, i| binary(layers, "Sub", Rule::Sub, i));
        check(runtime, "mul", &[&[2, 3, 4], &[3, 1]], |layers, i| binary(layers, "Mul", Rule::Mul, i));
        check(runtime, "div", &[&[2, 3, 4], &[3, 1]], |layers, i| {
            // Away from zero.
            let three = layers.graph.scalar(3.0);
            let divisor = layers.add(i[1], three);
            binary(layers, "Div", Rule::Div, &[i[0], divisor])
        });
        check(runtime, "relu", &[&[2, 11]], |layers, i| layers.relu(i[0]));
        check(runtime, "sigmoid", &[&[2, 11]], |layers, i| {
            let y = layers.graph.unary("Sigmoid", i[0]);
            layers.record(Rule::Sigmoid, i, y)
        });
        check(runtime, "softplus", &[&[3, 7]], |layers, i| {
            // Over -4..4, where the slope goes from nearly none to nearly one.
            let four = layers.graph.scalar(4.0);
            let wide = layers.multiply(i[0], four);
            let y = layers.graph.unary("Softplus", wide);
            layers.record(Rule::Softplus, &[wide], y)
        });
    }

    #[test]
    fn shapes_sums_and_products_follow_central_differences() {
        let Some(runtime) = runtime_of_tests("shapes_sums_and_products") else { return };
        check(runtime, "concat", &[&[1, 2, 3], &[1, 4, 3]], |layers, i| layers.concat(i, 1));
        check(runtime, "reshape", &[&[2, 3, 4]], |layers, i| layers.reshape(i[0], &[4, 6]));
        check(runtime, "sum", &[&[2, 3, 4]], |layers, i| {
            let twice = layers.multiply(i[0], i[0]);
            layers.sum(twice)
        });
        check(runtime, "linear", &[&[3, 5], &[4, 5], &[4]], |layers, i| {
            let y = layers.graph.linear(i[0], i[1], Some(i[2]));
            layers.record(Rule::Linear, i, y)
        });
        check(runtime, "row", &[&[5, 3]], |layers, i| {
            let class = layers.graph.integers(&[3]);
            layers.pick_row(i[0], class)
        });
    }

    #[test]
    fn losses_follow_central_differences() {
        let Some(runtime) = runtime_of_tests("losses") else { return };
        check(runtime, "box", &[&[4, 6], &[4, 6]], |layers, i| {
            let weights = layers.graph.constant(&[4, 1], &[1.0, 0.0, 1.0, 1.0]);
            let weights = layers.graph.expand(weights, &[4, 6]);
            let four = layers.graph.scalar(4.0);
            let spread = layers.multiply(i[0], four);
            layers.box_loss(spread, i[1], weights)
        });
        check(runtime, "class", &[&[3, 4]], |layers, i| {
            let allowed = layers.graph.constant(&[3, 4], &[0., 1., 0., 0., 1., 0., 0., 1., 0., 0., 0., 0.]);
            let weights = layers.graph.constant(&[3, 1], &[2.0, 0.5, 0.0]);
            layers.class_loss(i[0], allowed, weights)
        });
        check(runtime, "mask", &[&[1, 1, 2, 3, 4]], |layers, i| {
            let truth: Vec<_> = (0..24).map(|k| f32::from(k % 5 < 2)).collect();
            let valid: Vec<_> = (0..24).map(|k| f32::from(k % 7 > 0)).collect();
            let (truth, valid) = (
                layers.graph.constant(&[1, 1, 2, 3, 4], &truth),
                layers.graph.constant(&[1, 1, 2, 3, 4], &valid),
            );
            layers.mask_loss(i[0], truth, valid)
        });
    }

    /// The factor that makes the loss focal is not differentiated, so the differences are those of the loss with the
    /// factor held where it was, computed here in `f64`.
    #[test]
    fn focal_loss_follows_central_differences_of_its_cross_entropy() {
        let Some(runtime) = runtime_of_tests("focal_loss") else { return };
        let positive = [1.0_f32, 0.0, 0.0, 0.5, 0.0, 2.0, 0.0];
        let negative = [0.0_f32, 0.3, 1.0, 0.0, 0.0, 0.0, 0.25];
        let logits = [-2.5_f32, 1.75, -0.5, 0.25, 1.0, 3.0, -1.25];
        let mut layers = Layers::new("focal", Form::Training(Norms::Batch), &Preset::starter());
        let x = layers.input("x", &[1, 7], &[]);
        let [up, down] = [positive, negative].map(|weights| layers.graph.constant(&[1, 7], &weights));
        let loss = layers.focal_loss(x, up, down);
        let one = layers.graph.scalar(1.0);
        let gradient = layers.gradients(&[(loss, one)], &[x])[0];
        layers.graph.output("loss", loss);
        layers.graph.output("grad", gradient);
        let options = SessionOptions { threads: 1, provider: Provider::Cpu };
        let mut session = Session::from_bytes(runtime, "focal", &layers.graph.finish(), &options).unwrap();
        let found = session.run(&[("x", Input::F32(&[1, 7], &logits))]).unwrap();

        let total: f64 = positive.iter().chain(&negative).map(|&w| f64::from(w)).sum();
        let softplus = |x: f64| x.exp().ln_1p();
        let probability = |at: usize| 1.0 / (1.0 + (-f64::from(logits[at])).exp());
        let term = |at: usize, x: f64| {
            let (up, down) = (f64::from(positive[at]), f64::from(negative[at]));
            let p = probability(at);
            (up * (1.0 - p).powi(2) * softplus(-x) + down * p.powi(2) * softplus(x)) / total
        };
        let wanted: f64 = (0..7).map(|at| term(at, f64::from(logits[at]))).sum();
        assert!((wanted - f64::from(found.scalar("loss").unwrap())).abs() < 1e-6 * wanted, "loss {wanted}");
        let gradients = found.view("grad").unwrap();
        for (at, &found) in gradients.iter().enumerate() {
            let x = f64::from(logits[at]);
            let expected = (term(at, x + 1e-5) - term(at, x - 1e-5)) / 2e-5;
            assert!(
                (expected - f64::from(found)).abs() < 1e-6,
                "element {at}: expected {expected}, found {found}"
            );
        }
        assert!(gradients[[0, 4]].abs() < 1e-9, "weights of zero take an anchor out");
    }
}
