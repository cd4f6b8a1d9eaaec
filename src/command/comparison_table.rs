//! Comparisons of masks as tables.

use std::collections::BTreeMap;

use crate::learning::evaluate::{Comparison, Estimate, Measure, Summary, mean_over_organs};
use crate::vocabulary::organ::Organ;

/// `0.813`, or `-` where there is none.
pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// One line per organ over several cases, and the means over organs.
pub(super) fn summary_lines(
    organs: &[(String, Summary)],
    cases: &[BTreeMap<Organ, Comparison>],
) -> Vec<String> {
    let mut lines = vec![format!(
        "{:16} {:>5} {:>6}  {:>15} {:>14} {:>6}  {:>7}  {:>15} {:>6}",
        "organ", "cases", "missed", "DSC", "95 % interval", "median", "surface", "95 % HD, mm", "median"
    )];
    for (name, summary) in organs {
        let of = |measure: Measure| summary.measures.get(&measure);
        let spread = |measure: Measure, digits: usize| {
            let text =
                |e: &Estimate| format!("{:.digits$} +- {:.digits$}", e.spread.mean, e.spread.deviation);
            of(measure).map_or_else(|| "-".to_owned(), text)
        };
        let interval = of(Measure::Dice).and_then(|estimate| estimate.interval);
        let interval =
            interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:.3} .. {high:.3}"));
        lines.push(format!(
            "{name:16} {:5} {:6}  {:>15} {interval:>14} {:>6}  {:>7}  {:>15} {:>6}",
            summary.n_cases,
            summary.n_missed,
            spread(Measure::Dice, 3),
            number(of(Measure::Dice).map(|e| e.spread.median), 3),
            number(summary.mean(Measure::SurfaceDice2), 3),
            spread(Measure::Hd95, 2),
            number(of(Measure::Hd95).map(|e| e.spread.median), 2),
        ));
    }
    let mean = |measure: Measure| {
        let digits = measure.digits();
        mean_over_organs(cases, measure).map_or_else(
            || "-".to_owned(),
            |(mean, interval)| {
                let interval = interval.map(|[low, high]| format!(" ({low:.digits$} .. {high:.digits$})"));
                format!("{mean:.digits$}{}", interval.unwrap_or_default())
            },
        )
    };
    lines.push(format!(
        "mean of {} organs: DSC {}, surface DSC at 2 mm {}, 95 % HD {} mm (found ones); a missed organ counts as DSC 0",
        organs.len(),
        mean(Measure::Dice),
        mean(Measure::SurfaceDice2),
        mean(Measure::Hd95),
    ));
    lines
}

/// One line per ROI of one case.
pub(super) fn comparison_lines(rois: &[(String, Comparison)]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:16} {:>6} {:>20} {:>9} {:>7} {:>7} {:>8} {:>8} {:>8} {:>7}",
        "ROI", "DSC", "surface DSC 1 2 3 mm", "95 % HD", "HD", "mean", "added", "A", "B", "B - A"
    )];
    lines.push(format!(
        "{:16} {:>6} {:>20} {:>9} {:>7} {:>7} {:>8} {:>8} {:>8} {:>7}",
        "", "", "", "mm", "mm", "mm", "path mm", "cm3", "cm3", "%"
    ));
    for (name, c) in rois {
        let surface = [0, 1, 2].map(|n| number(c.surface_dice.map(|of| of[n]), 3)).join("  ");
        lines.push(format!(
            "{name:16} {:>6} {surface:>20} {:>9} {:>7} {:>7} {:8.0} {:8.2} {:8.2} {:>7}",
            number(c.dice, 3),
            number(c.distances.map(|d| d.hd95_mm), 2),
            number(c.distances.map(|d| d.largest_mm), 2),
            number(c.distances.map(|d| d.mean_mm), 2),
            c.added_path.length_mm,
            c.truth_mm3 / 1000.0,
            c.predicted_mm3 / 1000.0,
            c.volume_difference().map_or_else(|| "-".to_owned(), |part| format!("{:+.1}", 100.0 * part)),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::evaluate::{AddedPath, SurfaceDistances};

    #[test]
    fn what_does_not_exist_is_a_dash() {
        let distances =
            SurfaceDistances { hd95_mm: 3.25, largest_mm: 5.5, mean_mm: 1.125, outline_hd95_mm: 3.0 };
        let found = Comparison {
            dice: Some(0.8125),
            surface_dice: Some([0.5, 0.75, 1.0]),
            distances: Some(distances),
            added_path: AddedPath { voxels: 130, length_mm: 104.0 },
            truth_mm3: 9000.0,
            predicted_mm3: 7500.0,
        };
        let missed = Comparison {
            dice: Some(0.0),
            surface_dice: Some([0.0; 3]),
            distances: None,
            truth_mm3: 1000.0,
            predicted_mm3: 0.0,
            ..found
        };
        let lines = comparison_lines(&[("Larynx".into(), found), ("Eye_L".into(), missed)]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let of = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[2]), of("Larynx 0.812 0.500 0.750 1.000 3.25 5.50 1.12 104 9.00 7.50 -16.7"));
        assert_eq!(words(&lines[3]), of("Eye_L 0.000 0.000 0.000 0.000 - - - 104 1.00 0.00 -100.0"));
        let cases = [found, missed].map(|c| BTreeMap::from([(Organ::Larynx, c)]));
        let summary = Summary::of(&[found, missed]);
        let lines = summary_lines(&[("Larynx".into(), summary)], &cases);
        assert_eq!(words(&lines[1])[..3], ["Larynx", "2", "1"]);
        assert!(lines[2].contains("DSC 0.406 (0.000 .. 0.812)"), "{}", lines[2]);
        assert!(lines[2].contains("95 % HD 3.25"), "{}", lines[2]);
    }
}
