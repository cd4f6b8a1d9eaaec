//! Which organs a person should look at first, and why.
//!
//! Two sources: the expected DSC from a calibration that was fitted to this very model, and rules that need none.
//! Nothing here says that a contour is right: all of them are reviewed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{FEATURES, Finding, Signs};
use crate::vocabulary::organ::Organ;

/// What is thought of an organ's contour.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Doubt {
    /// DSC that contours with such signs had on average in the calibration's patients; `None` where the model has no
    /// calibration, or none for this organ.
    pub expected_dice: Option<f64>,
    /// Why it needs a look, the weightiest first, ASCII; none: nothing stands out.
    pub reasons: Vec<String>,
}

impl Doubt {
    /// Whether it needs a look.
    #[must_use]
    pub fn needs_a_look(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// The reasons in one line.
    #[must_use]
    pub fn text(&self) -> String {
        self.reasons.join("; ")
    }
}

/// Expected DSC as a function of the signs, for one model; `NAME.doubt.yaml` beside its graphs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Name of the model.
    pub model: String,
    /// Its fingerprint; a calibration of other weights is not used.
    pub fingerprint: String,
    /// Cases that it was fitted to.
    pub n_cases: usize,
    /// Organs of them.
    pub n_rows: usize,
    /// A contour with a smaller DSC counts as bad.
    pub bad_dice: f64,
    /// Without the mirror.
    pub plain: Fit,
    /// With it.
    pub mirrored: Fit,
}

/// A linear fit: `intercept + shift of the organ + sum of weight (feature - mean) / deviation`, cut to 0..=1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// The mean DSC of all organs.
    pub intercept: f64,
    /// The features, in the order of [`FEATURES`].
    pub features: Vec<FeatureWeight>,
    /// The organs that were calibrated, by the names of config/organs.yaml.
    pub organs: BTreeMap<String, OrganShift>,
    /// Root mean square of the error on the rows that it was fitted to.
    pub rms_error: f64,
    /// An organ needs a look when its expected DSC is below this: four of five bad contours of the calibration are.
    pub look_below: f64,
}

/// How a feature counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureWeight {
    /// Which.
    pub name: String,
    /// Its mean over the rows.
    pub mean: f64,
    /// Its standard deviation, above zero.
    pub deviation: f64,
    /// DSC per standard deviation.
    pub weight: f64,
}

/// What an organ has more or less than its signs say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrganShift {
    /// DSC.
    pub shift: f64,
    /// Contours that it was learned from.
    pub n_rows: usize,
}

/// What is wrong with a calibration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key} is {found}, wanted {wanted}: make the calibration again with oarlock evaluate --calibrate")]
pub struct CalibrationError {
    /// Which value.
    pub key: String,
    /// What is there.
    pub found: String,
    /// What is allowed.
    pub wanted: &'static str,
}

impl Calibration {
    /// The organs whose contours were measured.
    #[must_use]
    pub fn organs(&self) -> BTreeSet<Organ> {
        self.plain.organs.keys().filter_map(|name| organ_named(name)).collect()
    }

    /// Checks what a file can have wrong: names, order, numbers.
    ///
    /// # Errors
    /// [`CalibrationError`] for the first fault.
    pub fn check(&self) -> Result<(), CalibrationError> {
        for (name, fit, n) in
            [("plain", &self.plain, FEATURES.len() - 1), ("mirrored", &self.mirrored, FEATURES.len())]
        {
            let wrong = |key: &str, found: String, wanted| CalibrationError {
                key: format!("{name}.{key}"),
                found,
                wanted,
            };
            let names: Vec<&str> = fit.features.iter().map(|feature| feature.name.as_str()).collect();
            if names != FEATURES[..n] {
                return Err(wrong("features", names.join(", "), "the features of this program in its order"));
            }
            if let Some(organ) = fit.organs.keys().find(|name| organ_named(name).is_none()) {
                return Err(wrong(
                    "organs",
                    organ.clone(),
                    "names of the 28 organs as config/organs.yaml has them",
                ));
            }
            let numbers = fit.features.iter().flat_map(|f| [f.mean, f.weight]);
            let numbers = numbers.chain(fit.organs.values().map(|organ| organ.shift));
            let numbers = numbers.chain([fit.intercept, fit.rms_error, fit.look_below]);
            if let Some(number) = numbers.into_iter().find(|number| !number.is_finite()) {
                return Err(wrong("a number", number.to_string(), "finite numbers"));
            }
            if let Some(f) = fit.features.iter().find(|f| !(f.deviation.is_finite() && f.deviation > 0.0)) {
                return Err(wrong("features.deviation", f.deviation.to_string(), "above zero"));
            }
        }
        Ok(())
    }

    /// The fit for these signs.
    fn fit_of(&self, signs: &Signs) -> &Fit {
        if signs.mirror_dice.is_some() { &self.mirrored } else { &self.plain }
    }
}

impl Fit {
    /// Expected DSC, 0..=1; `None` for an organ that was not calibrated.
    #[must_use]
    pub fn expected_dice(&self, organ: Organ, signs: &Signs) -> Option<f64> {
        let shift = self.organs.get(&format!("{organ:?}"))?.shift;
        let features = signs.features(organ);
        let weighed =
            features.iter().zip(&self.features).map(|(value, f)| f.weight * (value - f.mean) / f.deviation);
        Some((self.intercept + shift + weighed.sum::<f64>()).clamp(0.0, 1.0))
    }
}

fn organ_named(name: &str) -> Option<Organ> {
    Organ::ALL.into_iter().find(|organ| format!("{organ:?}") == name)
}

/// Below this the classifier was of another opinion.
const LEAST_DETECTION: f32 = 0.5;
/// Below this the mask is blurred; only where there is no calibration.
const LEAST_PROMISE: f64 = 0.75;
/// Below this the mirrored patient gave another organ; only where there is no calibration.
const LEAST_MIRROR: f64 = 0.6;
/// Volumes of a pair differ by no more than this factor (design notes: 0.5 to 2).
const MOST_SIDE_RATIO: f64 = 2.0;
/// With more than this part removed what is left is doubtful.
const MOST_REMOVED: f64 = 0.15;
/// With more than this part given to another organ too.
const MOST_SHARED: f64 = 0.2;

/// Judges an organ that has contours by its signs and what the rules found; with a calibration of the model also by
/// its expected DSC.
#[must_use]
pub fn judge(organ: Organ, signs: &Signs, findings: &[Finding], calibration: Option<&Calibration>) -> Doubt {
    let fit = calibration.map(|calibration| calibration.fit_of(signs));
    let expected = fit.and_then(|fit| Some((fit.expected_dice(organ, signs)?, fit.look_below)));
    let mut reasons = Vec::new();
    if let Some((expected, _)) = expected.filter(|(expected, below)| expected < below) {
        reasons.push(format!("expected DSC {expected:.2}"));
    }
    let mut reason = |holds: bool, text: &dyn Fn() -> String| {
        if holds {
            reasons.push(text());
        }
    };
    reason(signs.detection_probability < LEAST_DETECTION, &|| {
        format!("detected with {:.0} % only", 100.0 * signs.detection_probability)
    });
    if let Some((low, high)) = organ.volume_range_cm3() {
        let small = signs.volume_cm3 < low && !signs.truncated;
        reason(small || signs.volume_cm3 > high, &|| {
            format!("volume {:.2} cm3, usual {low} to {high}", signs.volume_cm3)
        });
    }
    let ratio = signs.side_ratio.filter(|_| !signs.truncated);
    if let Some(ratio) = ratio.filter(|ratio| *ratio > MOST_SIDE_RATIO || *ratio < 1.0 / MOST_SIDE_RATIO) {
        reason(true, &|| format!("{ratio:.1} times the volume of the other side"));
    }
    if expected.is_none() {
        reason(signs.promised_dice < LEAST_PROMISE, &|| {
            format!("blurred, its probabilities promise DSC {:.2}", signs.promised_dice)
        });
        if let Some(dice) = signs.mirror_dice.filter(|dice| *dice < LEAST_MIRROR) {
            reason(true, &|| format!("DSC {dice:.2} with the mirrored patient"));
        }
    }
    for finding in findings.iter().filter(|finding| weighty(finding, organ, signs)) {
        reason(true, &|| finding.to_string());
    }
    Doubt { expected_dice: expected.map(|(expected, _)| expected), reasons }
}

/// Findings that are a reason to look; a cord and a windpipe always leave the scan.
fn weighty(finding: &Finding, organ: Organ, signs: &Signs) -> bool {
    match finding {
        Finding::SidesExchanged
        | Finding::WrongSide { .. }
        | Finding::BeyondMidplane { .. }
        | Finding::Interrupted { .. }
        | Finding::BorderUnclear { .. } => true,
        Finding::PiecesRemoved { .. } => signs.removed_share > MOST_REMOVED,
        Finding::Shared { cm3, .. } => *cm3 > MOST_SHARED * (signs.volume_cm3 + cm3),
        Finding::Truncated { .. } => !matches!(organ, Organ::SpinalCord | Organ::Trachea),
        Finding::BorderSet { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ScanEnd;
    use super::*;

    fn good() -> Signs {
        Signs {
            detection_probability: 0.97,
            promised_dice: 0.9,
            volume_cm3: 25.0,
            side_ratio: Some(1.1),
            removed_share: 0.0,
            truncated: false,
            mirror_dice: None,
        }
    }

    /// 0.7 + 0.02 and, per feature, 0.1 (value - 0.5) / 2; the signs count by the promise alone.
    fn calibration() -> Calibration {
        let fit = |n: usize| Fit {
            intercept: 0.7,
            features: FEATURES[..n]
                .iter()
                .map(|name| FeatureWeight {
                    name: (*name).to_owned(),
                    mean: 0.5,
                    deviation: 2.0,
                    weight: if *name == "promised_dice" || *name == "mirror_dice" { 0.4 } else { 0.0 },
                })
                .collect(),
            organs: [("ParotidL".to_owned(), OrganShift { shift: 0.02, n_rows: 30 })].into(),
            rms_error: 0.1,
            look_below: 0.75,
        };
        Calibration {
            model: "starter".to_owned(),
            fingerprint: "ab".to_owned(),
            n_cases: 10,
            n_rows: 30,
            bad_dice: 0.6,
            plain: fit(7),
            mirrored: fit(8),
        }
    }

    #[test]
    fn the_expected_dice_follows_the_fit() {
        let calibration = calibration();
        calibration.check().unwrap();
        let of = |signs: &Signs| judge(Organ::ParotidL, signs, &[], Some(&calibration));
        // 0.72 + 0.4 (0.9 - 0.5) / 2.
        let sure = of(&good());
        assert!((sure.expected_dice.unwrap() - 0.8).abs() < 1e-12 && !sure.needs_a_look(), "{sure:?}");
        let blurred = of(&Signs { promised_dice: 0.6, ..good() });
        assert_eq!(blurred.text(), "expected DSC 0.74");
        let mirrored = of(&Signs { mirror_dice: Some(0.1), ..good() });
        assert!((mirrored.expected_dice.unwrap() - 0.72).abs() < 1e-12);
        let other = judge(Organ::Larynx, &good(), &[], Some(&calibration));
        assert_eq!(other.expected_dice, None, "the larynx was not calibrated");
    }

    #[test]
    fn without_a_calibration_the_rules_speak() {
        let of = |signs: Signs, findings: &[Finding]| judge(Organ::ParotidL, &signs, findings, None).text();
        assert_eq!(of(good(), &[]), "");
        assert_eq!(of(Signs { detection_probability: 0.42, ..good() }, &[]), "detected with 42 % only");
        assert_eq!(of(Signs { volume_cm3: 2.1, ..good() }, &[]), "volume 2.10 cm3, usual 8 to 75");
        assert_eq!(
            of(Signs { side_ratio: Some(0.3), ..good() }, &[]),
            "0.3 times the volume of the other side"
        );
        assert!(of(Signs { promised_dice: 0.5, ..good() }, &[]).starts_with("blurred"));
        assert_eq!(of(Signs { mirror_dice: Some(0.2), ..good() }, &[]), "DSC 0.20 with the mirrored patient");
        let cut = [Finding::Truncated { at: ScanEnd::Inferior }];
        let truncated = Signs { truncated: true, volume_cm3: 2.0, ..good() };
        assert_eq!(of(truncated.clone(), &cut), "cut by the lower end of the scan");
        assert_eq!(judge(Organ::SpinalCord, &truncated, &cut, None).text(), "");
        let small = Finding::PiecesRemoved { n: 2, cm3: 0.3 };
        assert_eq!(of(Signs { removed_share: 0.01, ..good() }, &[small]), "");
        assert!(of(good(), &[Finding::SidesExchanged]).contains("exchanged"));
    }

    #[test]
    fn a_calibration_with_a_fault_is_refused_by_name() {
        let broken = |change: &dyn Fn(&mut Calibration)| {
            let mut calibration = calibration();
            change(&mut calibration);
            calibration.check().unwrap_err().to_string()
        };
        assert!(broken(&|c| c.plain.features.swap(0, 1)).contains("plain.features"));
        assert!(broken(&|c| c.mirrored.features[2].deviation = 0.0).contains("above zero"));
        assert!(broken(&|c| c.mirrored.look_below = f64::NAN).contains("finite"));
        let nose = OrganShift { shift: 0.0, n_rows: 1 };
        let with_nose = |c: &mut Calibration| c.plain.organs.extend([("Nose".to_owned(), nose.clone())]);
        assert!(broken(&with_nose).contains("Nose"));
    }
}
