//! How sure a mean is.
//!
//! Percentile bootstrap (Efron 1979): cases are drawn with replacement, as many as there are, [`RESAMPLES`] times, by a
//! generator that begins at [`SEED`]; the interval holds the middle 95 % of the means.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::summary::quantile;

/// How many times the cases are drawn.
pub const RESAMPLES: usize = 2000;
/// Where the generator begins, so that the same values have the same interval.
pub const SEED: u64 = 95;

/// The 95 % interval of a statistic of `n_cases` cases, lowest and highest; `None` for fewer than two cases.
///
/// `statistic` gets the numbers of the drawn cases, some more than once; a draw for which it has no value is left out.
pub(super) fn interval(n_cases: usize, statistic: impl Fn(&[usize]) -> Option<f64>) -> Option<[f64; 2]> {
    if n_cases < 2 {
        return None;
    }
    let mut random = Pcg64::seed_from_u64(SEED);
    let mut drawn = vec![0; n_cases];
    let mut values = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.iter_mut().for_each(|case| *case = random.random_range(0..n_cases));
        values.extend(statistic(&drawn));
    }
    values.sort_unstable_by(f64::total_cmp);
    (!values.is_empty()).then(|| [quantile(&values, 0.025), quantile(&values, 0.975)])
}

/// The 95 % interval of the mean of these values.
pub(super) fn interval_of_mean(values: &[f64]) -> Option<[f64; 2]> {
    let mean = |drawn: &[usize]| Some(drawn.iter().map(|n| values[*n]).sum::<f64>() / drawn.len() as f64);
    interval(values.len(), mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For many values the interval is that of the normal distribution: mean -+ 1.96 s / sqrt(n). Here 0, 1, .. 399:
    /// mean 199.5, standard deviation 115.5, so -+ 11.32.
    #[test]
    fn many_values_have_the_interval_of_the_normal_distribution() {
        let values: Vec<f64> = (0..400).map(f64::from).collect();
        let [low, high] = interval_of_mean(&values).unwrap();
        assert!((low - (199.5 - 11.32)).abs() < 0.8 && (high - (199.5 + 11.32)).abs() < 0.8, "{low} {high}");
        assert_eq!(interval_of_mean(&values), Some([low, high]), "the same seed, the same interval");
    }

    #[test]
    fn one_value_has_no_interval_and_equal_values_have_a_point() {
        assert_eq!(interval_of_mean(&[3.0]), None);
        assert_eq!(interval_of_mean(&[]), None);
        assert_eq!(interval_of_mean(&[3.0, 3.0, 3.0]), Some([3.0, 3.0]));
        assert_eq!(interval(5, |_| None), None);
    }
}
