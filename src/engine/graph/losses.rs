//! The five losses. Source: Tang et al. 2019, Methods (RPN, R-CNN and mask losses), and Lin et al. 2017 for the focal term.
//!
//! Every loss is a weighted mean in which a weight of zero takes an element out: so an organ that a case does not
//! annotate gives no loss anywhere.

use super::builder::Tensor;
use super::layers::{Layers, Rule};

/// Weights that sum to less count as this, so that a case without any organ gives zero and not a division by zero.
const LEAST_WEIGHT: f32 = 1e-6;
/// How much a voxel outside the organ, but called organ, counts against one called right.
const FALSE_POSITIVE_WEIGHT: f32 = 0.5;
/// How much a voxel of the organ that was missed counts.
const FALSE_NEGATIVE_WEIGHT: f32 = 0.5;
/// Added to a logit to take its class out of the running.
const FORBIDDEN: f32 = -1e9;

impl Layers<'_> {
    /// Focal loss (gamma two, the modulating factor not differentiated) of logits with a weight as positive and one as
    /// negative, both of the logits' shape: `sum(w focal) / sum(w)`.
    pub(super) fn focal_loss(&mut self, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor {
        let graph = &mut self.graph;
        let probability = graph.unary("Sigmoid", logits);
        let one = graph.scalar(1.0);
        let rest = graph.binary("Sub", one, probability);
        let hard_positive = graph.binary("Mul", rest, rest);
        let hard_positive = graph.binary("Mul", hard_positive, positive);
        let hard_negative = graph.binary("Mul", probability, probability);
        let hard_negative = graph.binary("Mul", hard_negative, negative);
        let weights = graph.binary("Add", positive, negative);
        let minus = graph.scalar(-1.0);
        let opposite = self.multiply(logits, minus);
        let of_positive = self.softplus(opposite);
        let of_negative = self.softplus(logits);
        let of_positive = self.multiply(of_positive, hard_positive);
        let of_negative = self.multiply(of_negative, hard_negative);
        let loss = self.add(of_positive, of_negative);
        self.mean_by(loss, weights, 1.0)
    }

    /// Smooth L1 (beta one) of box deltas: mean over boxes, summed over the six coordinates. `weights` has the deltas'
    /// shape, one at the coordinates of a box that counts.
    pub(super) fn box_loss(&mut self, deltas: Tensor, targets: Tensor, weights: Tensor) -> Tensor {
        let difference = self.subtract(deltas, targets);
        let graph = &mut self.graph;
        let size = graph.unary("Abs", difference);
        let inner = graph.clip(size, 0.0, 1.0);
        let half = graph.scaled(inner, 0.5);
        let rest = graph.binary("Sub", size, half);
        let loss = graph.binary("Mul", inner, rest);
        let loss = self.record(Rule::SmoothL1, &[difference], loss);
        let loss = self.multiply(loss, weights);
        self.mean_by(loss, weights, 6.0)
    }

    /// Cross entropy of rows of logits `(n, classes)`; `allowed` `(n, classes)` is one at the class, or at each of the
    /// classes, that a row may be, `weights` `(n, 1)` the weight of each row: `sum(w loss) / sum(w)`.
    ///
    /// With several classes allowed, it is their summed probability that counts: background may as well be an organ that
    /// the case does not annotate.
    pub(super) fn class_loss(&mut self, logits: Tensor, allowed: Tensor, weights: Tensor) -> Tensor {
        let graph = &mut self.graph;
        let one = graph.scalar(1.0);
        let forbidden = graph.binary("Sub", one, allowed);
        let forbidden = graph.scaled(forbidden, FORBIDDEN);
        let masked = graph.binary("Add", logits, forbidden);
        let (all_sum, allowed_sum) = (graph.log_sum_exp(logits), graph.log_sum_exp(masked));
        let loss = graph.binary("Sub", all_sum, allowed_sum);
        let (all, allowed) = (graph.softmax(logits), graph.softmax(masked));
        let loss = self.record(Rule::AllowedCrossEntropy { all, allowed }, &[logits], loss);
        let weighted = self.multiply(loss, weights);
        self.mean_by(weighted, weights, 1.0)
    }

    /// `1 - phi` of one organ in its box, where phi is the overlap of the probabilities with the true mask (0 or 1);
    /// voxels where `valid` is zero do not count. All `(1, 1, d, h, w)`.
    pub(super) fn mask_loss(&mut self, logit: Tensor, truth: Tensor, valid: Tensor) -> Tensor {
        let truth = self.graph.binary("Mul", truth, valid);
        let true_count = self.graph.sum_all(truth);
        let probability = self.graph.unary("Sigmoid", logit);
        let probability = self.record(Rule::Sigmoid, &[logit], probability);
        let probability = self.multiply(probability, valid);
        let hit = self.multiply(probability, truth);
        let hit = self.sum(hit);
        let called = self.sum(probability);
        let (alpha, beta) =
            (self.graph.scalar(FALSE_POSITIVE_WEIGHT), self.graph.scalar(FALSE_NEGATIVE_WEIGHT));
        let surplus = self.subtract(called, hit);
        let surplus = self.multiply(surplus, alpha);
        let missed = self.subtract(true_count, hit);
        let missed = self.multiply(missed, beta);
        let wrong = self.add(surplus, missed);
        let least = self.graph.scalar(LEAST_WEIGHT);
        let wrong = self.add(wrong, least);
        let total = self.add(hit, wrong);
        let overlap = self.divide(hit, total);
        let one = self.graph.scalar(1.0);
        self.subtract(one, overlap)
    }

    /// `factor sum(loss) / sum(weights)`; `loss` is weighted already.
    fn mean_by(&mut self, loss: Tensor, weights: Tensor, factor: f32) -> Tensor {
        let total = self.graph.sum_all(weights);
        let least = self.graph.scalar(LEAST_WEIGHT);
        let total = self.graph.binary("Max", total, least);
        let total = self.graph.scaled(total, 1.0 / factor);
        let sum = self.sum(loss);
        self.divide(sum, total)
    }

    pub(super) fn multiply(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.graph.binary("Mul", a, b);
        self.record(Rule::Mul, &[a, b], y)
    }

    fn divide(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.graph.binary("Div", a, b);
        self.record(Rule::Div, &[a, b], y)
    }

    fn subtract(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.graph.binary("Sub", a, b);
        self.record(Rule::Sub, &[a, b], y)
    }

    fn softplus(&mut self, x: Tensor) -> Tensor {
        let y = self.graph.unary("Softplus", x);
        self.record(Rule::Softplus, &[x], y)
    }

    pub(super) fn sum(&mut self, x: Tensor) -> Tensor {
        let y = self.graph.sum_all(x);
        self.record(Rule::Sum, &[x], y)
    }
}

impl super::builder::GraphBuilder {
    /// `ln sum exp` of each row `(n, c)`, `(n, 1)`, without overflow.
    fn log_sum_exp(&mut self, x: Tensor) -> Tensor {
        let largest = self.reduce("ReduceMax", x, 1);
        let below = self.binary("Sub", x, largest);
        let powers = self.unary("Exp", below);
        let sum = self.sum_over(powers, &[1]);
        let logarithm = self.unary("Log", sum);
        self.binary("Add", logarithm, largest)
    }
}
