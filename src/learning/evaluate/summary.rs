//! Many values in a few numbers.

/// Mean, middle and spread of a list of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Half of the values lie below.
    pub median: f64,
    /// Standard deviation of the sample (divisor n - 1); 0 for a single value.
    pub deviation: f64,
    /// Smallest.
    pub lowest: f64,
    /// Largest.
    pub highest: f64,
}

impl Spread {
    /// The spread of these values, `None` without any.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n as f64 - 1.0)).sqrt() } else { 0.0 };
        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        Some(Self { mean, median, deviation, lowest, highest })
    }
}

/// What is said about one organ over all cases in which it is annotated.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// Cases with a truth.
    pub n_cases: usize,
    /// Of those, cases in which nothing was predicted: DSC 0, no distance.
    pub n_missed: usize,
    /// Dice similarity over all cases.
    pub dice: Option<Spread>,
    /// 95 % Hausdorff distance over the cases with a prediction, mm.
    pub hd95_mm: Option<Spread>,
}

impl Summary {
    /// Sums up the comparisons of one organ; those without truth are left out.
    #[must_use]
    pub fn of(comparisons: &[super::Comparison]) -> Self {
        let with_truth: Vec<_> = comparisons.iter().filter(|c| c.truth_mm3 > 0.0).collect();
        let dice: Vec<f64> = with_truth.iter().filter_map(|c| c.dice).collect();
        let hd95: Vec<f64> = with_truth.iter().filter_map(|c| c.distances).map(|d| d.hd95_mm).collect();
        Self {
            n_cases: with_truth.len(),
            n_missed: with_truth.len() - hd95.len(),
            dice: Spread::of(&dice),
            hd95_mm: Spread::of(&hd95),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::evaluate::{Comparison, SurfaceDistances};

    /// 1, 2, 4, 9: mean 4, median 3, squares 9 + 4 + 0 + 25 = 38, deviation sqrt(38 / 3).
    #[test]
    fn four_values_by_hand() {
        let found = Spread::of(&[4.0, 1.0, 9.0, 2.0]).unwrap();
        assert_eq!((found.mean, found.median, found.lowest, found.highest), (4.0, 3.0, 1.0, 9.0));
        assert!((found.deviation - (38.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[]), None);
    }

    /// A missed organ pulls the mean of the Dice down, and has no distance to count.
    #[test]
    fn a_missed_organ_counts() {
        let distances = SurfaceDistances { hd95_mm: 3.0, largest_mm: 5.0, mean_mm: 1.0 };
        let found =
            Comparison { dice: Some(0.8), distances: Some(distances), truth_mm3: 9.0, predicted_mm3: 7.0 };
        let missed = Comparison { dice: Some(0.0), distances: None, truth_mm3: 9.0, predicted_mm3: 0.0 };
        let no_truth = Comparison { dice: Some(0.0), distances: None, truth_mm3: 0.0, predicted_mm3: 7.0 };
        let summary = Summary::of(&[found, missed, no_truth]);
        assert_eq!((summary.n_cases, summary.n_missed), (2, 1));
        assert!((summary.dice.unwrap().mean - 0.4).abs() < 1e-12);
        assert_eq!(summary.hd95_mm.unwrap().mean, 3.0);
    }
}
