//! Many values in a few numbers.

use std::collections::BTreeMap;

use super::bootstrap::{interval, interval_of_mean};
use super::{Comparison, Measure, Outcome};
use crate::vocabulary::organ::Organ;

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

/// The part `q` (0..=1) of sorted values, which are not none, lies below this: rank `q (n - 1)`, linear between its
/// neighbours.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank below the length")]
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len() - 1;
    let rank = q * last as f64;
    let below = (rank.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (rank - below as f64) * (sorted[above] - sorted[below])
}

/// A measure over many cases.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// How many cases have a value.
    pub n: usize,
    /// Mean, middle and spread.
    pub spread: Spread,
    /// 95 % bootstrap interval of the mean; `None` for a single case.
    pub interval: Option<[f64; 2]>,
    /// The values, sorted.
    pub values: Vec<f64>,
}

impl Estimate {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        let interval = interval_of_mean(&values);
        values.sort_unstable_by(f64::total_cmp);
        Some(Self { n: values.len(), spread: Spread::of(&values)?, interval, values })
    }
}

/// What is said about one organ over all cases.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Cases with a truth.
    pub n_cases: usize,
    /// Of those, cases in which nothing was predicted: DSC 0, no distance.
    pub n_missed: usize,
    /// Cases without a voxel of truth in which something was predicted; in no mean.
    pub n_invented: usize,
    /// Each measure over the cases with a truth that have a value.
    pub measures: BTreeMap<Measure, Estimate>,
}

impl Summary {
    /// Sums up the comparisons of one organ.
    #[must_use]
    pub fn of(comparisons: &[Comparison]) -> Self {
        let count = |wanted: Outcome| comparisons.iter().filter(|c| c.outcome() == wanted).count();
        let with_truth: Vec<&Comparison> = comparisons.iter().filter(|c| c.truth_mm3 > 0.0).collect();
        let measures = Measure::ALL.into_iter().filter_map(|measure| {
            let values = with_truth.iter().filter_map(|c| measure.of(c)).collect();
            Some((measure, Estimate::of(values)?))
        });
        Self {
            n_cases: with_truth.len(),
            n_missed: count(Outcome::Missed),
            n_invented: count(Outcome::Invented),
            measures: measures.collect(),
        }
    }

    /// Mean of a measure.
    #[must_use]
    pub fn mean(&self, measure: Measure) -> Option<f64> {
        self.measures.get(&measure).map(|estimate| estimate.spread.mean)
    }
}

/// The mean over organs of the mean over cases, and its 95 % bootstrap interval, for which whole patients are drawn: the
/// organs of one patient fail together. `cases` holds each patient's comparisons by organ.
#[must_use]
pub fn mean_over_organs(
    cases: &[BTreeMap<Organ, Comparison>],
    measure: Measure,
) -> Option<(f64, Option<[f64; 2]>)> {
    let value = |c: &Comparison| (c.truth_mm3 > 0.0).then(|| measure.of(c)).flatten();
    let values: Vec<Vec<(usize, f64)>> = cases
        .iter()
        .map(|case| case.iter().filter_map(|(organ, c)| Some((organ.index(), value(c)?))).collect())
        .collect();
    let mean = |drawn: &[usize]| {
        let (mut sums, mut counts) = ([0.0; Organ::COUNT], [0_u32; Organ::COUNT]);
        for (organ, value) in drawn.iter().flat_map(|case| &values[*case]) {
            sums[*organ] += value;
            counts[*organ] += 1;
        }
        let of_organ = sums.iter().zip(counts).filter(|(_, n)| *n > 0).map(|(sum, n)| sum / f64::from(n));
        Spread::of(&of_organ.collect::<Vec<f64>>()).map(|spread| spread.mean)
    };
    let all: Vec<usize> = (0..cases.len()).collect();
    Some((mean(&all)?, interval(cases.len(), mean)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::evaluate::{AddedPath, SurfaceDistances};

    /// 1, 2, 4, 9: mean 4, median 3, squares 9 + 4 + 0 + 25 = 38, deviation sqrt(38 / 3).
    #[test]
    fn four_values_by_hand() {
        let found = Spread::of(&[4.0, 1.0, 9.0, 2.0]).unwrap();
        assert_eq!((found.mean, found.median, found.lowest, found.highest), (4.0, 3.0, 1.0, 9.0));
        assert!((found.deviation - (38.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[]), None);
    }

    fn found_and_missed() -> (Comparison, Comparison) {
        let distances =
            SurfaceDistances { hd95_mm: 3.0, largest_mm: 5.0, mean_mm: 1.0, outline_hd95_mm: 2.5 };
        let found = Comparison {
            dice: Some(0.8),
            surface_dice: Some([0.5, 0.7, 0.9]),
            distances: Some(distances),
            added_path: AddedPath { voxels: 30, length_mm: 27.0 },
            truth_mm3: 9.0,
            predicted_mm3: 7.0,
        };
        let missed = Comparison { dice: Some(0.0), distances: None, predicted_mm3: 0.0, ..found };
        (found, missed)
    }

    /// A missed organ pulls the mean of the Dice down, and has no distance to count.
    #[test]
    fn a_missed_organ_counts() {
        let (found, missed) = found_and_missed();
        let no_truth = Comparison { dice: Some(0.0), distances: None, truth_mm3: 0.0, ..found };
        let summary = Summary::of(&[found, missed, no_truth]);
        assert_eq!((summary.n_cases, summary.n_missed, summary.n_invented), (2, 1, 1));
        assert!((summary.mean(Measure::Dice).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(summary.mean(Measure::Hd95), Some(3.0));
        assert_eq!(summary.measures[&Measure::Hd95].interval, None);
        assert_eq!(summary.measures[&Measure::Dice].values, [0.0, 0.8]);
    }

    /// Larynx 0.8 and 0, eye 0.8 once: 0.4 and 0.8 make 0.6, not the mean of three values.
    #[test]
    fn organs_count_alike_however_many_cases_they_have() {
        let (found, missed) = found_and_missed();
        let both = BTreeMap::from([(Organ::Larynx, found), (Organ::EyeL, found)]);
        let cases = [both, BTreeMap::from([(Organ::Larynx, missed)])];
        let (mean, interval) = mean_over_organs(&cases, Measure::Dice).unwrap();
        assert!((mean - 0.6).abs() < 1e-12);
        // Of two cases: both the first (0.8), both the second (0), or each (0.6).
        assert_eq!(interval, Some([0.0, 0.8]));
        assert_eq!(mean_over_organs(&[], Measure::Dice), None);
    }
}
