//! Weights and inputs that tests and the scripts under tests/reference work out alike, so that nobody has to store them.

use super::weights::Start;
use super::{Preset, Weights};

/// Numbers in -1..1 that depend on name and place only; the script has the same.
pub(crate) fn hashed(name: &str, count: usize) -> Vec<f32> {
    let seed =
        name.bytes().fold(2_166_136_261_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(16_777_619));
    (1..=count)
        .map(|at| {
            let x = (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
            let x = (x ^ (x >> 15)).wrapping_mul(2_246_822_519);
            let x = (x ^ (x >> 13)).wrapping_mul(3_266_489_917);
            let x = x ^ (x >> 16);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The weights of a preset as the scripts make them, of a size that keeps values as they are.
pub(crate) fn hashed_weights(preset: &Preset) -> Weights {
    let mut weights = Weights::start(preset, 0);
    for parameter in weights.parameters().to_vec() {
        let numbers = hashed(&parameter.name, parameter.shape.iter().product());
        let (offset, scale) = match parameter.start {
            Start::He { fan_in } => (0.0, (6.0 / fan_in as f64).sqrt() as f32),
            Start::Value(value) => (value, 0.25),
        };
        for (value, number) in weights.values_mut(&parameter.name).iter_mut().zip(numbers) {
            *value = offset + scale * number;
        }
    }
    weights
}
