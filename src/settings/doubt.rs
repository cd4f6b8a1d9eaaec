//! `NAME.doubt.yaml` beside a model: what its contours are worth by their signs.

use std::path::Path;

use super::SettingsError;
use crate::pipeline::anatomy::Calibration;

/// A calibration from the text of its file; `path` is named in errors.
///
/// # Errors
/// [`SettingsError`]: not of this form, other features than this program's, numbers that are none.
pub fn calibration_of_text(text: &str, path: &Path) -> Result<Calibration, SettingsError> {
    let calibration: Calibration = super::yaml::from_str(text)
        .map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })?;
    let refused = |source| SettingsError::Calibration { path: path.to_owned(), source: Box::new(source) };
    calibration.check().map_err(refused)?;
    Ok(calibration)
}

/// The text of a calibration's file; `path` is named in errors.
///
/// # Errors
/// [`SettingsError::Yaml`] when it cannot be written as YAML.
pub fn text_of_calibration(calibration: &Calibration, path: &Path) -> Result<String, SettingsError> {
    let yaml = serde_yaml::to_string(calibration)
        .map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })?;
    Ok(format!(
        "# Expected DSC of a contour by its signs, made by `oarlock evaluate --calibrate`; see docs/anatomy.md.\n{yaml}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::anatomy::{FEATURES, FeatureWeight, Fit, OrganShift};

    #[test]
    fn a_calibration_survives_its_file_and_a_wrong_one_is_refused() {
        let fit = |n: usize| Fit {
            intercept: 0.671,
            features: FEATURES[..n]
                .iter()
                .enumerate()
                .map(|(n, name)| FeatureWeight {
                    name: (*name).to_owned(),
                    mean: 0.1 * n as f64,
                    deviation: 0.5 + n as f64,
                    weight: 0.03,
                })
                .collect(),
            organs: [("EyeL".to_owned(), OrganShift { shift: -0.012, n_rows: 17 })].into(),
            rms_error: 0.09,
            look_below: 0.6,
        };
        let calibration = Calibration {
            model: "starter".to_owned(),
            fingerprint: "ab12".to_owned(),
            n_cases: 12,
            n_rows: 55,
            bad_dice: 0.6,
            plain: fit(7),
            mirrored: fit(8),
        };
        let path = Path::new("starter.doubt.yaml");
        let text = text_of_calibration(&calibration, path).unwrap();
        assert_eq!(calibration_of_text(&text, path).unwrap(), calibration);
        let renamed = text.replacen("detection", "detektion", 1);
        let error = calibration_of_text(&renamed, path).unwrap_err();
        assert!(matches!(error, SettingsError::Calibration { .. }), "{error}");
        assert!(matches!(calibration_of_text("model: x", path), Err(SettingsError::Yaml { .. })));
    }
}
