//! Gradients by weight name: summed over the graphs of a step, and kept to a length.

use std::collections::BTreeMap;

/// Values by weight name, in the order of their names, each in C order.
pub type Tensors = BTreeMap<String, Vec<f32>>;

/// Adds `more` onto `sum`, name by name.
///
/// # Panics
/// If shapes differ under one name: they belong to one weight, so that would be our bug.
pub(super) fn accumulate(sum: &mut Tensors, more: Tensors) {
    for (name, gradient) in more {
        match sum.get_mut(&name) {
            Some(total) => {
                assert_eq!(total.len(), gradient.len(), "gradients of {name}");
                total.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
            }
            None => drop(sum.insert(name, gradient)),
        }
    }
}

/// Divides all gradients by the scale of their losses; whether all of them are numbers.
pub(super) fn unscale(gradients: &mut Tensors, scale: f32) -> bool {
    let mut finite = true;
    for value in gradients.values_mut().flatten() {
        *value /= scale;
        finite &= value.is_finite();
    }
    finite
}

/// Scales all gradients down when their common length is above `longest`; returns the length before.
pub(super) fn clip(gradients: &mut Tensors, longest: f32) -> f32 {
    let squares: f64 =
        gradients.values().map(|g| g.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
    let length = squares.sqrt() as f32;
    if length > longest {
        for gradient in gradients.values_mut() {
            gradient.iter_mut().for_each(|value| *value *= longest / length);
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(values: &[(&str, [f32; 2])]) -> Tensors {
        values.iter().map(|(name, v)| ((*name).to_owned(), v.to_vec())).collect()
    }

    #[test]
    fn gradients_of_one_weight_add_up() {
        let mut sum = tensors(&[("a", [1.0, 2.0])]);
        accumulate(&mut sum, tensors(&[("a", [10.0, 30.0]), ("b", [5.0, 7.0])]));
        assert_eq!(sum, tensors(&[("a", [11.0, 32.0]), ("b", [5.0, 7.0])]));
    }

    /// (3, 4) and (0, 12) have length 13: halved by a limit of 6.5.
    #[test]
    fn long_gradients_are_shortened_together() {
        let mut gradients = tensors(&[("a", [3.0, 4.0]), ("b", [0.0, 12.0])]);
        assert!((clip(&mut gradients, 6.5) - 13.0).abs() < 1e-5);
        assert!((gradients["a"][1] - 2.0).abs() < 1e-6 && (gradients["b"][1] - 6.0).abs() < 1e-6);
    }
}
