//! Comparisons of masks as tables and as JSON.

use serde_json::{Value, json};

use crate::learning::evaluate::{Comparison, Spread, Summary};

/// `0.813`, or `-` where there is none.
pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Mean and deviation, or `-`.
fn spread(of: Option<Spread>, digits: usize) -> String {
    of.map_or_else(|| "-".to_owned(), |s| format!("{:.digits$} +- {:.digits$}", s.mean, s.deviation))
}

/// One line per organ over several cases.
pub(super) fn summary_lines(organs: &[(String, Summary)]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:16} {:>5} {:>6}  {:>16}  {:>6}  {:>16}  {:>6}",
        "organ", "cases", "missed", "DSC", "median", "95 % HD, mm", "median"
    )];
    for (name, summary) in organs {
        lines.push(format!(
            "{name:16} {:5} {:6}  {:>16}  {:>6}  {:>16}  {:>6}",
            summary.n_cases,
            summary.n_missed,
            spread(summary.dice, 3),
            number(summary.dice.map(|s| s.median), 3),
            spread(summary.hd95_mm, 2),
            number(summary.hd95_mm.map(|s| s.median), 2),
        ));
    }
    let means = |of: &dyn Fn(&Summary) -> Option<f64>| {
        let values: Vec<f64> = organs.iter().filter_map(|(_, summary)| of(summary)).collect();
        Spread::of(&values).map(|s| s.mean)
    };
    let mean_dice = means(&|summary| summary.dice.map(|s| s.mean));
    let mean_hd95 = means(&|summary| summary.hd95_mm.map(|s| s.mean));
    lines.push(format!(
        "mean of {} organs: DSC {}, 95 % HD {} mm (found ones); a missed organ counts as DSC 0",
        organs.len(),
        number(mean_dice, 3),
        number(mean_hd95, 2)
    ));
    lines
}

/// One line per ROI of one case.
pub(super) fn comparison_lines(rois: &[(String, Comparison)]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:16} {:>6} {:>12} {:>9} {:>12} {:>9} {:>9}",
        "ROI", "DSC", "95 % HD, mm", "HD, mm", "mean, mm", "A, ml", "B, ml"
    )];
    for (name, c) in rois {
        lines.push(format!(
            "{name:16} {:>6} {:>12} {:>9} {:>12} {:9.2} {:9.2}",
            number(c.dice, 3),
            number(c.distances.map(|d| d.hd95_mm), 2),
            number(c.distances.map(|d| d.largest_mm), 2),
            number(c.distances.map(|d| d.mean_mm), 2),
            c.truth_mm3 / 1000.0,
            c.predicted_mm3 / 1000.0,
        ));
    }
    lines
}

/// A comparison for scripts; what does not exist is null.
pub(super) fn comparison_json(c: &Comparison) -> Value {
    json!({
        "dice": c.dice,
        "hd95_mm": c.distances.map(|d| d.hd95_mm),
        "hd_mm": c.distances.map(|d| d.largest_mm),
        "mean_surface_distance_mm": c.distances.map(|d| d.mean_mm),
        "a_mm3": c.truth_mm3,
        "b_mm3": c.predicted_mm3,
    })
}

/// A summary for scripts.
pub(super) fn summary_json(summary: &Summary) -> Value {
    let spread = |of: Option<Spread>| {
        of.map(|s| json!({ "mean": s.mean, "median": s.median, "deviation": s.deviation, "lowest": s.lowest, "highest": s.highest }))
    };
    json!({
        "n_cases": summary.n_cases,
        "n_missed": summary.n_missed,
        "dice": spread(summary.dice),
        "hd95_mm": spread(summary.hd95_mm),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::evaluate::SurfaceDistances;

    #[test]
    fn what_does_not_exist_is_a_dash_and_a_null() {
        let distances = SurfaceDistances { hd95_mm: 3.25, largest_mm: 5.5, mean_mm: 1.125 };
        let found = Comparison {
            dice: Some(0.8125),
            distances: Some(distances),
            truth_mm3: 9000.0,
            predicted_mm3: 7500.0,
        };
        let missed = Comparison { dice: Some(0.0), distances: None, truth_mm3: 1000.0, predicted_mm3: 0.0 };
        let lines = comparison_lines(&[("Larynx".into(), found), ("Eye_L".into(), missed)]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[1]), ["Larynx", "0.812", "3.25", "5.50", "1.12", "9.00", "7.50"]);
        assert_eq!(words(&lines[2]), ["Eye_L", "0.000", "-", "-", "-", "1.00", "0.00"]);
        assert!(comparison_json(&missed)["hd95_mm"].is_null());
        let summary = Summary::of(&[found, missed]);
        let lines = summary_lines(&[("Larynx".into(), summary)]);
        assert_eq!(words(&lines[1])[..3], ["Larynx", "2", "1"]);
        assert!(lines[2].contains("DSC 0.406, 95 % HD 3.25 mm"), "{}", lines[2]);
    }
}
