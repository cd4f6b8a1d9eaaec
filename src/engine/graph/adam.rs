//! Adam, over the weights as they lie in memory.
//!
//! Source: Kingma & Ba 2015, algorithm 1; weight decay is added to the gradient, as in Tang et al. 2019.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::mixed::LossScale;
use super::weights::{Role, Weights};

/// The optimiser's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamRates {
    /// Step size.
    pub learning_rate: f64,
    /// Share of each weight that is added to its gradient.
    pub weight_decay: f64,
    /// Memory of the mean gradient.
    pub beta1: f64,
    /// Memory of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
}

impl Default for AdamRates {
    /// Learning rate 1e-3 and weight decay 1e-4 from Tang et al. 2019, Methods; the rest from Kingma & Ba 2015.
    fn default() -> Self {
        Self { learning_rate: 1e-3, weight_decay: 1e-4, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// Mean gradients and mean squared gradients of the trained weights.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adam {
    /// Per weight: how many steps it took (a head that joins later starts its own count), mean gradient, mean square.
    pub moments: BTreeMap<String, Moments>,
    /// In mixed precision, by what the losses are multiplied; `None` in full precision.
    pub loss_scale: Option<LossScale>,
}

/// What Adam remembers of one weight tensor, in its order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// Steps taken.
    pub steps: u32,
    /// Running mean of the gradient.
    pub mean: Vec<f32>,
    /// Running mean of its square.
    pub square: Vec<f32>,
}

impl Adam {
    /// Moves every weight that has a gradient; the others stay as they are.
    ///
    /// # Panics
    /// If a gradient is of no trained weight or of another size: both come from one graph, so that would be our bug.
    pub fn step(&mut self, weights: &mut Weights, gradients: &BTreeMap<String, Vec<f32>>, rates: &AdamRates) {
        for (name, gradient) in gradients {
            let trained = weights.parameters().iter().any(|p| p.name == *name && p.role == Role::Trained);
            assert!(trained, "gradient of {name}, which is no trained weight");
            let values = weights.values_mut(name);
            assert_eq!(values.len(), gradient.len(), "elements of the gradient of {name}");
            let moments = self.moments.entry(name.clone()).or_insert_with(|| Moments {
                steps: 0,
                mean: vec![0.0; gradient.len()],
                square: vec![0.0; gradient.len()],
            });
            moments.step(values, gradient, rates);
        }
    }
}

impl Moments {
    #[expect(clippy::cast_possible_truncation, reason = "rates and corrections are small numbers")]
    fn step(&mut self, values: &mut [f32], gradient: &[f32], rates: &AdamRates) {
        self.steps += 1;
        let steps = f64::from(self.steps);
        let step = (rates.learning_rate / (1.0 - rates.beta1.powf(steps))) as f32;
        let correction = ((1.0 - rates.beta2.powf(steps)).sqrt().recip()) as f32;
        let (beta1, beta2) = (rates.beta1 as f32, rates.beta2 as f32);
        let (fresh1, fresh2) = ((1.0 - rates.beta1) as f32, (1.0 - rates.beta2) as f32);
        let (decay, epsilon) = (rates.weight_decay as f32, rates.epsilon as f32);
        let moments = self.mean.par_iter_mut().zip(&mut self.square).with_min_len(1 << 14);
        values.par_iter_mut().with_min_len(1 << 14).zip(gradient).zip(moments).for_each(
            |((value, &gradient), (mean, square))| {
                let gradient = gradient + decay * *value;
                *mean = beta1 * *mean + fresh1 * gradient;
                *square = beta2 * *square + fresh2 * gradient * gradient;
                *value -= step * *mean / (square.sqrt() * correction + epsilon);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Preset;

    /// By hand: the first step is `learning_rate sign(gradient)`, up to epsilon.
    #[test]
    fn the_first_step_has_the_size_of_the_learning_rate() {
        let mut weights = Weights::start(&Preset::starter(), 1);
        let name = "stem.1.norm.shift";
        let gradient: Vec<f32> = (0..12).map(|i| i as f32 - 4.5).collect();
        let rates = AdamRates { weight_decay: 0.0, ..AdamRates::default() };
        let mut adam = Adam::default();
        adam.step(&mut weights, &BTreeMap::from([(name.to_owned(), gradient.clone())]), &rates);
        for (value, gradient) in weights.values(name).iter().zip(gradient) {
            assert!((value + 1e-3 * gradient.signum()).abs() < 1e-8, "{value}");
        }
        assert_eq!(
            weights.values("stem.2.norm.shift"),
            Weights::start(&Preset::starter(), 1).values("stem.2.norm.shift")
        );
    }

    /// By hand: with no gradient, weight decay alone drives a scale of one down by the learning rate.
    #[test]
    fn weight_decay_is_added_to_the_gradient() {
        let mut weights = Weights::start(&Preset::starter(), 1);
        let name = "stem.1.norm.scale";
        Adam::default().step(
            &mut weights,
            &BTreeMap::from([(name.to_owned(), vec![0.0; 12])]),
            &AdamRates::default(),
        );
        assert!(weights.values(name).iter().all(|value| (value - 0.999).abs() < 1e-6));
    }
}
