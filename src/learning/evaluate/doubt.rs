//! How well the doubt foretells the DSC, and the fit that it is foretold by.

use std::collections::BTreeMap;

use crate::pipeline::anatomy::{Calibration, FEATURES, FeatureWeight, Fit, OrganShift, Signs};
use crate::vocabulary::organ::Organ;

/// A contour with a smaller DSC counts as bad.
pub const BAD_DICE: f64 = 0.6;

/// A contoured organ whose truth is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Which.
    pub organ: Organ,
    /// Its signs.
    pub signs: Signs,
    /// What it was thought to be worth; `None` without a calibration of the organ.
    pub expected_dice: Option<f64>,
    /// Whether it was said to need a look.
    pub needs_a_look: bool,
    /// What it is worth.
    pub dice: f64,
}

/// How well the doubt worked over many contours.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubtReport {
    /// Contours.
    pub n: usize,
    /// Of those, bad ones: DSC below [`BAD_DICE`].
    pub n_bad: usize,
    /// Contours that needed a look.
    pub n_flagged: usize,
    /// Of those, bad ones.
    pub n_bad_flagged: usize,
    /// Contours with an expected DSC; what follows is about these.
    pub n_expected: usize,
    /// Pearson's correlation of expected and real DSC; `None` with fewer than three or without spread.
    pub correlation: Option<f64>,
    /// Probability that a bad contour has a lower expected DSC than one that is not, ties half; `None` without both.
    pub auc: Option<f64>,
    /// Mean of the expected and of the real DSC in bands of the expected one: up to, how many, both means.
    pub bands: Vec<Band>,
}

/// Contours whose expected DSC lies in one band.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// Upper end of the band; the lower one is that of the band before, or 0.
    pub below: f64,
    /// Contours in it.
    pub n: usize,
    /// Their mean expected DSC.
    pub expected: f64,
    /// Their mean real DSC.
    pub real: f64,
}

/// Upper ends of the bands; the last one holds 1 too.
const BANDS: [f64; 5] = [0.5, 0.6, 0.7, 0.8, 1.01];

impl DoubtReport {
    /// Sums up; `None` without a contour.
    #[must_use]
    pub fn of(judged: &[Judged]) -> Option<Self> {
        let bad = |one: &&Judged| one.dice < BAD_DICE;
        let count = |wanted: &dyn Fn(&&Judged) -> bool| judged.iter().filter(wanted).count();
        let pairs: Vec<(f64, f64)> =
            judged.iter().filter_map(|one| Some((one.expected_dice?, one.dice))).collect();
        let mut low = 0.0;
        let bands = BANDS.iter().filter_map(|below| {
            let inside: Vec<_> = pairs.iter().filter(|(e, _)| (low..*below).contains(e)).collect();
            low = *below;
            let mean = |of: fn(&(f64, f64)) -> f64| {
                inside.iter().map(|pair| of(pair)).sum::<f64>() / inside.len() as f64
            };
            (!inside.is_empty()).then(|| Band {
                below: below.min(1.0),
                n: inside.len(),
                expected: mean(|pair| pair.0),
                real: mean(|pair| pair.1),
            })
        });
        let bands = bands.collect();
        (!judged.is_empty()).then(|| Self {
            n: judged.len(),
            n_bad: count(&bad),
            n_flagged: count(&|one| one.needs_a_look),
            n_bad_flagged: count(&|one| one.needs_a_look && bad(one)),
            n_expected: pairs.len(),
            correlation: correlation(&pairs),
            auc: auc(&pairs),
            bands,
        })
    }

    /// The report in lines.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let part = |n: usize, of: usize| {
            if of == 0 { "-".to_owned() } else { format!("{:.0} %", 100.0 * n as f64 / of as f64) }
        };
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
        let mut lines = vec![format!(
            "doubt: {} of {} contours need a look ({}), among them {} of the {} with a DSC below {BAD_DICE} ({})",
            self.n_flagged,
            self.n,
            part(self.n_flagged, self.n),
            self.n_bad_flagged,
            self.n_bad,
            part(self.n_bad_flagged, self.n_bad)
        )];
        if self.n_expected == 0 {
            lines.push("no expected DSC: the model has no calibration; see --calibrate".to_owned());
            return lines;
        }
        lines.push(format!(
            "expected against real DSC, {} contours: correlation {}, ROC AUC for DSC below {BAD_DICE} {}",
            self.n_expected,
            number(self.correlation),
            number(self.auc)
        ));
        let band = |band: &Band| {
            format!(
                "  expected below {:.1}: {:4} contours, expected {:.2}, real {:.2}",
                band.below, band.n, band.expected, band.real
            )
        };
        lines.extend(self.bands.iter().map(band));
        lines
    }
}

fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let (a, b) = (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>();
    let (aa, bb) = (sum(&|p| (p.0 - a).powi(2)), sum(&|p| (p.1 - b).powi(2)));
    let ab = sum(&|p| (p.0 - a) * (p.1 - b));
    (pairs.len() > 2 && aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

fn auc(pairs: &[(f64, f64)]) -> Option<f64> {
    let expected = |wanted: &dyn Fn(f64) -> bool| -> Vec<f64> {
        pairs.iter().filter(|(_, dice)| wanted(*dice)).map(|(expected, _)| *expected).collect()
    };
    let (bad, fine) = (expected(&|dice| dice < BAD_DICE), expected(&|dice| dice >= BAD_DICE));
    let wins = |bad: f64, fine: f64| match bad.total_cmp(&fine) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    };
    let sum: f64 = bad.iter().flat_map(|b| fine.iter().map(|f| wins(*b, *f))).sum();
    let n = bad.len() * fine.len();
    (n > 0).then(|| sum / n as f64)
}

/// Why no calibration came of some cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a calibration needs {LEAST_ROWS} found organs with a truth, there are {found}: give more cases (--data, --limit)"
)]
pub struct TooFewRows {
    /// How many there are.
    pub found: usize,
}

/// Fewer contours make no calibration.
const LEAST_ROWS: usize = 40;
/// An organ with fewer contours is not calibrated: nobody knows what its signs are worth.
const LEAST_OF_ORGAN: usize = 8;
/// Rows that say nothing, put beside the real ones: holds the weights back where there is little to learn from.
const RIDGE: f64 = 4.0;
/// The part of the bad contours whose expected DSC lies below the limit.
const CAUGHT: f64 = 0.8;

/// Fits a calibration of this model to contours that all know their mirror.
///
/// Linear least squares with a ridge on the weights of the standardised features and on the shifts of the organs.
///
/// # Errors
/// [`TooFewRows`].
pub fn calibrate(
    judged: &[Judged],
    model: &str,
    fingerprint: &str,
    n_cases: usize,
) -> Result<Calibration, TooFewRows> {
    let mut of_organ: BTreeMap<Organ, usize> = BTreeMap::new();
    for one in judged.iter().filter(|one| one.signs.mirror_dice.is_some()) {
        *of_organ.entry(one.organ).or_default() += 1;
    }
    of_organ.retain(|_, n| *n >= LEAST_OF_ORGAN);
    let rows: Vec<&Judged> = judged
        .iter()
        .filter(|one| one.signs.mirror_dice.is_some() && of_organ.contains_key(&one.organ))
        .collect();
    if rows.len() < LEAST_ROWS {
        return Err(TooFewRows { found: rows.len() });
    }
    Ok(Calibration {
        model: model.to_owned(),
        fingerprint: fingerprint.to_owned(),
        n_cases,
        n_rows: rows.len(),
        bad_dice: BAD_DICE,
        plain: fit(&rows, &of_organ, FEATURES.len() - 1),
        mirrored: fit(&rows, &of_organ, FEATURES.len()),
    })
}

fn fit(rows: &[&Judged], of_organ: &BTreeMap<Organ, usize>, n_features: usize) -> Fit {
    let features: Vec<Vec<f64>> = rows.iter().map(|row| row.signs.features(row.organ)).collect();
    let n = rows.len() as f64;
    let columns = (0..n_features).map(|column| {
        let mean = features.iter().map(|row| row[column]).sum::<f64>() / n;
        let variance = features.iter().map(|row| (row[column] - mean).powi(2)).sum::<f64>() / n;
        // A feature that never varies weighs nothing, whatever it is divided by.
        (mean, if variance > 1e-12 { variance.sqrt() } else { 1.0 })
    });
    let columns: Vec<(f64, f64)> = columns.collect();
    let organs: Vec<Organ> = of_organ.keys().copied().collect();
    let width = 1 + n_features + organs.len();
    let design: Vec<Vec<f64>> = rows
        .iter()
        .zip(&features)
        .map(|(row, values)| {
            let standard = columns.iter().zip(values).map(|((mean, deviation), v)| (v - mean) / deviation);
            let organ = organs.iter().map(|organ| f64::from(u8::from(*organ == row.organ)));
            [1.0].into_iter().chain(standard).chain(organ).collect()
        })
        .collect();
    let mut normal = vec![vec![0.0; width + 1]; width];
    for (x, row) in design.iter().zip(rows) {
        for (factor, line) in x.iter().zip(&mut normal) {
            for (value, other) in line.iter_mut().zip(x.iter().chain([&row.dice])) {
                *value += factor * other;
            }
        }
    }
    for (i, row) in normal.iter_mut().enumerate().skip(1) {
        row[i] += RIDGE;
    }
    let solved = solve(normal);
    let mut fit = Fit {
        intercept: solved[0],
        features: FEATURES[..n_features]
            .iter()
            .zip(&columns)
            .zip(&solved[1..])
            .map(|((name, (mean, deviation)), weight)| FeatureWeight {
                name: (*name).to_owned(),
                mean: *mean,
                deviation: *deviation,
                weight: *weight,
            })
            .collect(),
        organs: of_organ
            .iter()
            .zip(&solved[1 + n_features..])
            .map(|((organ, n_rows), shift)| {
                (format!("{organ:?}"), OrganShift { shift: *shift, n_rows: *n_rows })
            })
            .collect(),
        rms_error: 0.0,
        look_below: BAD_DICE,
    };
    let expected = |row: &Judged| fit.expected_dice(row.organ, &row.signs).unwrap_or_default();
    let squares: f64 = rows.iter().map(|row| (expected(row) - row.dice).powi(2)).sum();
    let mut bad: Vec<f64> = rows.iter().filter(|row| row.dice < BAD_DICE).map(|row| expected(row)).collect();
    bad.sort_unstable_by(f64::total_cmp);
    let look_below = caught(&bad).unwrap_or(BAD_DICE);
    fit.rms_error = (squares / n).sqrt();
    fit.look_below = look_below;
    fit
}

/// The value that [`CAUGHT`] of these, in rising order, lie below; `None` without any.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a length")]
fn caught(bad: &[f64]) -> Option<f64> {
    let rank = (CAUGHT * bad.len() as f64).ceil() as usize;
    bad.get(rank.checked_sub(1)?).map(|expected| expected + 1e-9)
}

/// Solves rows `[a | b]` by elimination with pivots; the ridge makes the matrix regular.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|a, b| rows[*a][k].abs().total_cmp(&rows[*b][k].abs())).unwrap_or(k);
        rows.swap(k, pivot);
        let (head, tail) = rows.split_at_mut(k + 1);
        let head = &head[k];
        for row in tail {
            let factor = row[k] / head[k];
            for (value, above) in row.iter_mut().zip(head).skip(k) {
                *value -= factor * above;
            }
        }
    }
    let mut solved = vec![0.0; n];
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| rows[k][j] * solved[j]).sum();
        solved[k] = (rows[k][n] - known) / rows[k][k];
    }
    solved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(n: usize) -> Vec<Judged> {
        let mut state = 11_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        (0..n)
            .map(|i| {
                let organ = [Organ::Larynx, Organ::ParotidL, Organ::Mandible][i % 3];
                let (promise, mirror) = (0.5 + 0.5 * random(), random());
                let shift = if organ == Organ::Larynx { -0.1 } else { 0.05 };
                let dice = 0.1 + 0.5 * promise + 0.2 * mirror + shift + 0.02 * (random() - 0.5);
                let signs = Signs {
                    detection_probability: 0.5 + 0.4 * random() as f32,
                    promised_dice: promise,
                    volume_cm3: 10.0 + 40.0 * random(),
                    side_ratio: None,
                    removed_share: 0.0,
                    truncated: false,
                    mirror_dice: Some(mirror),
                };
                Judged { organ, signs, expected_dice: None, needs_a_look: false, dice }
            })
            .collect()
    }

    /// DSC is made of promise, mirror and organ; the fit finds the rule again, and without the mirror less of it.
    #[test]
    fn the_fit_finds_the_rule_behind_the_rows() {
        let rows = judged(300);
        let calibration = calibrate(&rows, "small", "ab", 100).unwrap();
        calibration.check().unwrap();
        assert!(calibration.mirrored.rms_error < 0.012, "{:?}", calibration.mirrored);
        assert!(calibration.plain.rms_error > 0.04, "{:?}", calibration.plain);
        let new = judged(450);
        let expected = |row: &Judged| calibration.mirrored.expected_dice(row.organ, &row.signs).unwrap();
        for row in &new[300..] {
            assert!((expected(row) - row.dice).abs() < 0.03, "{row:?}: {}", expected(row));
        }
        let bad: Vec<&Judged> = rows.iter().filter(|row| row.dice < BAD_DICE).collect();
        let caught = bad.iter().filter(|row| expected(row) < calibration.mirrored.look_below).count();
        let share = caught as f64 / bad.len() as f64;
        assert!((0.8..0.82).contains(&share), "{share}");
        assert_eq!(calibrate(&rows[..30], "small", "ab", 10), Err(TooFewRows { found: 30 }));
    }

    /// Bad: 0.5 expected 0.4 and 0.7. Fine: 0.7 expected 0.6, 0.9 expected 0.9. Wins 1, 1, 0, 1 of 4.
    #[test]
    fn the_report_by_hand() {
        let mut rows = judged(5);
        let values = [
            (Some(0.4), 0.5, true),
            (Some(0.7), 0.5, false),
            (Some(0.6), 0.7, true),
            (Some(0.9), 0.9, false),
            (None, 0.1, true),
        ];
        for (row, (expected, dice, look)) in rows.iter_mut().zip(values) {
            (row.expected_dice, row.dice, row.needs_a_look) = (expected, dice, look);
        }
        let report = DoubtReport::of(&rows).unwrap();
        assert_eq!((report.n, report.n_bad, report.n_flagged, report.n_bad_flagged), (5, 3, 3, 2));
        assert_eq!((report.n_expected, report.auc), (4, Some(0.75)));
        // Means 0.65 and 0.65; deviations -.25, .05, -.05, .25 and -.15, -.15, .05, .25: 0.09 / sqrt(0.13 * 0.11).
        assert!((report.correlation.unwrap() - 0.09 / (0.13_f64 * 0.11).sqrt()).abs() < 1e-9);
        let bands: Vec<(f64, usize)> = report.bands.iter().map(|band| (band.below, band.n)).collect();
        assert_eq!(bands, [(0.5, 1), (0.7, 1), (0.8, 1), (1.0, 1)]);
        assert!(report.lines()[0].contains("3 of 5 contours need a look (60 %)"), "{:?}", report.lines());
        assert_eq!(DoubtReport::of(&[]), None);
    }
}
