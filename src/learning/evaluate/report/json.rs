//! Comparisons and evaluations for programs; what does not exist is null.

use serde_json::{Map, Value, json};

use super::Evaluation;
use crate::learning::evaluate::summary::{Estimate, mean_over_organs};
use crate::learning::evaluate::{Comparison, DoubtReport, Measure, RESAMPLES, SEED, Summary, TOLERANCES_MM};
use crate::settings::StructureTemplate;
use crate::vocabulary::organ::Organ;

/// A comparison: `a` is the truth, `b` the prediction.
#[must_use]
pub fn comparison_json(c: &Comparison) -> Value {
    let surface_dice: Map<String, Value> = TOLERANCES_MM
        .iter()
        .enumerate()
        .map(|(n, mm)| (format!("{mm}_mm"), json!(c.surface_dice.map(|of| of[n]))))
        .collect();
    json!({
        "outcome": c.outcome().word(),
        "dice": c.dice,
        "surface_dice": surface_dice,
        "hd95_mm": c.distances.map(|d| d.hd95_mm),
        "hd_mm": c.distances.map(|d| d.largest_mm),
        "mean_surface_distance_mm": c.distances.map(|d| d.mean_mm),
        "outline_hd95_mm": c.distances.map(|d| d.outline_hd95_mm),
        "added_path_voxels": c.added_path.voxels,
        "added_path_mm": c.added_path.length_mm,
        "a_mm3": c.truth_mm3,
        "b_mm3": c.predicted_mm3,
        "volume_difference": c.volume_difference(),
    })
}

pub(super) fn evaluation_json(evaluation: &Evaluation, template: &StructureTemplate) -> Value {
    let name = |organ: Organ| template.entry(organ).roi_name.clone();
    let organs: Map<String, Value> = evaluation
        .summaries()
        .iter()
        .map(|(organ, summary)| (name(*organ), summary_json(summary, evaluation.n_drawn(*organ))))
        .collect();
    let by_case = evaluation.cases.iter().map(|case| {
        let organs = case.organs.iter().map(|(organ, c)| (name(*organ), comparison_json(c)));
        let value = case
            .error
            .as_ref()
            .map_or_else(|| Value::Object(organs.collect()), |error| json!({ "error": error }));
        (case.name.clone(), value)
    });
    let cases = evaluation.organs_by_case();
    let over_organs: Map<String, Value> = Measure::ALL
        .into_iter()
        .map(|measure| {
            let found = mean_over_organs(&cases, measure);
            (
                measure.key().to_owned(),
                json!(found.map(|(mean, interval)| json!({ "mean": mean, "interval": interval }))),
            )
        })
        .collect();
    let left_out: Vec<&String> = evaluation.cases.iter().flat_map(|case| &case.left_out).collect();
    let not_measured: Vec<String> = evaluation.not_measured().into_iter().map(name).collect();
    json!({
        "model": evaluation.model,
        "fingerprint": evaluation.fingerprint,
        "provider": evaluation.provider,
        "data": evaluation.data,
        "made": evaluation.made,
        "n_scans": cases.len(),
        "organs": organs,
        "mean_over_organs": over_organs,
        "interval": { "method": "percentile bootstrap over cases", "level": 0.95, "resamples": RESAMPLES, "seed": SEED },
        "cases": by_case.collect::<Map<String, Value>>(),
        "doubt": DoubtReport::of(&evaluation.judged()).map(|report| doubt_json(&report)),
        "left_out": left_out,
        "not_measured": not_measured,
    })
}

fn doubt_json(report: &DoubtReport) -> Value {
    json!({
        "n": report.n,
        "n_bad": report.n_bad,
        "n_to_check": report.n_flagged,
        "n_bad_to_check": report.n_bad_flagged,
        "n_expected": report.n_expected,
        "correlation": report.correlation,
        "auc": report.auc,
    })
}

fn summary_json(summary: &Summary, n_drawn: usize) -> Value {
    let mut object = Map::from_iter([
        ("n_cases".to_owned(), json!(summary.n_cases)),
        ("n_missed".to_owned(), json!(summary.n_missed)),
        ("n_invented".to_owned(), json!(summary.n_invented)),
        ("n_scans_drawn".to_owned(), json!(n_drawn)),
    ]);
    for measure in Measure::ALL {
        let estimate = summary.measures.get(&measure).map(estimate_json);
        object.insert(measure.key().to_owned(), json!(estimate));
    }
    Value::Object(object)
}

fn estimate_json(estimate: &Estimate) -> Value {
    let s = &estimate.spread;
    json!({
        "n": estimate.n, "mean": s.mean, "deviation": s.deviation, "interval": estimate.interval, "median": s.median,
        "lowest": s.lowest, "highest": s.highest,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{comparison, evaluation};
    use super::*;

    #[test]
    fn what_does_not_exist_is_null() {
        let missed = comparison_json(&comparison(0.0, None));
        assert!(missed["hd95_mm"].is_null() && missed["outcome"] == "missed");
        assert_eq!(comparison_json(&comparison(0.8, Some(3.0)))["surface_dice"]["2_mm"], 0.8 * 0.75);
        let report = evaluation().json(&StructureTemplate::shipped().unwrap());
        let stem = &report["organs"]["Brainstem"];
        assert_eq!(
            (&stem["n_missed"], &stem["n_scans_drawn"], &stem["dice"]["mean"]),
            (&json!(1), &json!(1), &json!(0.4))
        );
        assert_eq!(stem["hd95_mm"]["n"], 1);
        assert!(stem["hd95_mm"]["interval"].is_null());
        assert_eq!(report["cases"]["pt_3"]["error"], "no CT there");
        assert_eq!(report["mean_over_organs"]["dice"]["mean"], (0.4 + 0.75) / 2.0);
        assert_eq!(report["not_measured"].as_array().unwrap().len(), 26);
    }
}
