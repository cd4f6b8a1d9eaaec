//! `oarlock evaluate`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::comparison_table::{comparison_json, number, summary_json, summary_lines};
use super::contouring::{load_model, practice};
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::EvaluateArgs;
use crate::learning::evaluate::{
    Comparison, DoubtReport, HeldOut, Judged, Spread, Summary, TruthCase, calibrate, compare,
};
use crate::pipeline::contours::{TraceOptions, fill};
use crate::pipeline::delivery::replace;
use crate::pipeline::{ContouringModel, find_organs, rtstruct};
use crate::settings::{StructureTemplate, text_of_calibration};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::organ::Organ;

/// Runs the command.
pub(super) fn run(args: EvaluateArgs, runtime: &RuntimeChoice) -> CommandResult {
    let template = StructureTemplate::shipped()?;
    let cases = HeldOut::list(&args.data)?;
    let cases: Vec<HeldOut> =
        cases.into_iter().skip(args.skip).take(args.limit.unwrap_or(usize::MAX)).collect();
    if cases.is_empty() {
        return Err(
            format!("no case is left of {}: lower --skip or raise --limit", args.data.display()).into()
        );
    }
    let mut model = load_model(runtime, &args.model)?;
    (model.anatomy, model.not_found) = practice(&args.anatomy)?;
    model.anatomy.mirror |= args.calibrate.is_some();
    let mut judged: Vec<Judged> = Vec::new();
    let bar = bar(cases.len());
    let mut by_organ: BTreeMap<Organ, Vec<Comparison>> = BTreeMap::new();
    let mut by_case = Vec::new();
    let mut left_out = Vec::new();
    let mut n_failed = 0;
    for case in &cases {
        let name = case.name();
        bar.set_message(name.clone());
        let truth = case.read(&template, args.as_drawn);
        let doubted = truth.iter().flat_map(|truth| truth.set_aside.iter());
        let doubted: Vec<String> = doubted
            .map(|(organ, doubt)| format!("{name}: {} left out: {doubt}", organ.paper_name()))
            .collect();
        let n_before = judged.len();
        let compared = truth.and_then(|truth| compare_case(&mut model, &truth, &mut judged));
        let check: Vec<&str> = judged[n_before..]
            .iter()
            .filter(|one| one.needs_a_look)
            .map(|one| template.entry(one.organ).roi_name.as_str())
            .collect();
        let line = match &compared {
            Ok(found) => {
                let dice: Vec<f64> = found.values().filter_map(|c| c.dice).collect();
                let check = if check.is_empty() { "-".to_owned() } else { check.join(", ") };
                format!(
                    "{name}: mean DSC {} over {} organs; to check: {check}",
                    number(Spread::of(&dice).map(|s| s.mean), 3),
                    found.len()
                )
            }
            Err(error) => {
                n_failed += 1;
                format!("{name}: not evaluated: {}", with_causes(error.as_ref()))
            }
        };
        for line in doubted.iter().chain([&line]) {
            if bar.is_hidden() && !args.json {
                say(line);
            } else {
                bar.println(line);
            }
        }
        left_out.extend(doubted);
        for (organ, comparison) in compared.iter().flatten() {
            by_organ.entry(*organ).or_default().push(*comparison);
        }
        by_case.push((name, compared.map_err(|error| error.to_string())));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let name_of = |organ: &Organ| template.entry(*organ).roi_name.clone();
    let summaries: Vec<(String, Summary)> =
        by_organ.iter().map(|(organ, comparisons)| (name_of(organ), Summary::of(comparisons))).collect();
    if args.json {
        let organs: BTreeMap<_, _> = summaries.iter().map(|(name, s)| (name, summary_json(s))).collect();
        let cases: BTreeMap<_, _> = by_case
            .iter()
            .map(|(name, compared)| match compared {
                Ok(found) => {
                    let of: BTreeMap<_, _> =
                        found.iter().map(|(o, c)| (name_of(o), comparison_json(c))).collect();
                    (name, json!(of))
                }
                Err(error) => (name, json!({ "error": error })),
            })
            .collect();
        let provider = model.network.provider().to_string();
        let doubt = DoubtReport::of(&judged).map(|report| doubt_json(&report));
        let report = json!({ "doubt": doubt, "model": model.name, "fingerprint": model.fingerprint, "provider": provider, "organs": organs, "cases": cases, "left_out": left_out });
        say(serde_json::to_string_pretty(&report)?);
    } else {
        say(format_args!("model {} ({}) on {}", model.name, model.fingerprint, model.network.provider()));
        summary_lines(&summaries).iter().for_each(say);
        DoubtReport::of(&judged).iter().flat_map(DoubtReport::lines).for_each(say);
    }
    if let Some(path) = &args.calibrate {
        let calibration = calibrate(&judged, &model.name, &model.fingerprint, cases.len() - n_failed)?;
        replace(path, text_of_calibration(&calibration, path)?.as_bytes())?;
        super::tell(format_args!(
            "calibration of {} contours written to {}; beside the model's graphs, as {}.doubt.yaml, it is used",
            calibration.n_rows,
            path.display(),
            model.name
        ));
    }
    Ok(if n_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The whole chain but for DICOM: contours of every annotated organ, filled on the CT's grid, against the truth.
fn compare_case(
    model: &mut ContouringModel,
    case: &TruthCase,
    judged: &mut Vec<Judged>,
) -> Result<BTreeMap<Organ, Comparison>, Box<dyn std::error::Error + Send + Sync>> {
    let organs = find_organs(&case.volume, model, TraceOptions::DELIVERED)?;
    let grid = &case.volume.grid;
    let compared = organs.iter().filter_map(|found| {
        let truth = case.truth.get(&found.organ)?;
        let predicted = fill(&found.contours, grid, rtstruct::FILL_RULE);
        let comparison = compare(truth, &predicted, grid);
        if let (Some(signs), Some(dice)) = (&found.signs, comparison.dice) {
            judged.push(Judged {
                organ: found.organ,
                signs: signs.clone(),
                expected_dice: found.doubt.expected_dice,
                needs_a_look: found.doubt.needs_a_look(),
                dice,
            });
        }
        Some((found.organ, comparison))
    });
    Ok(compared.collect())
}

fn doubt_json(report: &DoubtReport) -> serde_json::Value {
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

fn bar(n_cases: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(n_cases as u64).with_style(style)
}
