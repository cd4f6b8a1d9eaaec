//! `oarlock evaluate`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::comparison_table::{number, summary_lines};
use super::contouring::{load_model, practice};
use super::{CommandResult, RuntimeChoice, say, tell};
use crate::cli::{EvaluateArgs, SplitArg};
use crate::learning::dataset::{OrganSet, Part};
use crate::learning::evaluate::report::{EvaluatedCase, Evaluation, WorstPicture};
use crate::learning::evaluate::{
    Comparison, DoubtReport, HeldOut, Judged, Spread, Summary, TruthCase, calibrate, compare,
};
use crate::picture::{Outline, closeup};
use crate::pipeline::contours::{TraceOptions, fill};
use crate::pipeline::objects::replace;
use crate::pipeline::{ContouredOrgan, ContouringModel, look, organs_of, rtstruct};
use crate::service::mint::Mint;
use crate::settings::{StructureTemplate, text_of_calibration};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::RegionMask;

type Failure = Box<dyn Error + Send + Sync>;

/// Runs the command.
pub(super) fn run(args: EvaluateArgs, runtime: &RuntimeChoice) -> CommandResult {
    let template = StructureTemplate::shipped()?;
    let part = match args.split {
        SplitArg::Train => Some(Part::Train),
        SplitArg::Validation => Some(Part::Validation),
        SplitArg::Test => Some(Part::Test),
        SplitArg::All => None,
    };
    let cases = HeldOut::list(&args.data, part)?;
    let cases: Vec<HeldOut> =
        cases.into_iter().skip(args.skip).take(args.limit.unwrap_or(usize::MAX)).collect();
    if cases.is_empty() {
        return Err(
            format!("no case is left of {}: lower --skip or raise --limit", args.data.display()).into()
        );
    }
    let mut model = load_model(runtime, &args.model)?;
    (model.anatomy, _) = practice(&args.anatomy)?;
    model.anatomy.mirror |= args.calibrate.is_some();
    let bar = bar(cases.len());
    let mut worst = args.report.as_ref().map(|_| WorstCases::new(&template));
    let mut evaluated = Vec::new();
    for case in &cases {
        bar.set_message(case.name());
        let found = evaluate_case(case, &mut model, &template, &args, worst.as_mut());
        for line in lines_of(&found, &template) {
            if bar.is_hidden() && !args.json {
                say(line);
            } else {
                bar.println(line);
            }
        }
        evaluated.push(found);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let evaluation = Evaluation {
        model: model.name.clone(),
        fingerprint: model.fingerprint.clone(),
        provider: model.network.provider().to_string(),
        data: name_of(&args.data),
        made: now(),
        cases: evaluated,
    };
    if args.json {
        say(serde_json::to_string_pretty(&evaluation.json(&template))?);
    } else {
        say(format_args!("model {} ({}) on {}", model.name, model.fingerprint, evaluation.provider));
        let summaries: Vec<(String, Summary)> = evaluation
            .summaries()
            .into_iter()
            .map(|(organ, summary)| (template.entry(organ).roi_name.clone(), summary))
            .collect();
        summary_lines(&summaries, &evaluation.organs_by_case()).iter().for_each(say);
        DoubtReport::of(&evaluation.judged()).iter().flat_map(DoubtReport::lines).for_each(say);
    }
    if let Some(path) = &args.calibrate {
        let n_cases = evaluation.cases.iter().filter(|case| case.error.is_none()).count();
        let calibration = calibrate(&evaluation.judged(), &model.name, &model.fingerprint, n_cases)?;
        replace(path, text_of_calibration(&calibration, path)?.as_bytes())?;
        tell(format_args!(
            "calibration of {} contours written to {}; beside the model's graphs, as {}.doubt.yaml, it is used",
            calibration.n_rows,
            path.display(),
            model.name
        ));
    }
    if let (Some(place), Some(worst)) = (&args.report, worst) {
        for path in evaluation.write(place, &template, &worst.pictures)? {
            tell(format_args!("written {}", path.display()));
        }
    }
    let failed = evaluation.cases.iter().any(|case| case.error.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The last part of the folder's name, wherever it lies.
fn name_of(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

fn now() -> String {
    let form = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]");
    Mint::from_world().now().format(form).unwrap_or_default()
}

fn evaluate_case(
    case: &HeldOut,
    model: &mut ContouringModel,
    template: &StructureTemplate,
    args: &EvaluateArgs,
    worst: Option<&mut WorstCases<'_>>,
) -> EvaluatedCase {
    let read = case.read(template, args.as_drawn);
    let result = read.and_then(|truth| {
        let measured = measure(&case.name(), &truth, model, args.calibrate.is_some())?;
        if let Some(worst) = worst {
            worst.look(&case.name(), &truth, measured.compared)?;
        }
        Ok(measured.case)
    });
    result.unwrap_or_else(|error| EvaluatedCase {
        name: case.name(),
        error: Some(with_causes(error.as_ref())),
        ..EvaluatedCase::default()
    })
}

/// A case with the masks that its pictures need.
struct Measured {
    case: EvaluatedCase,
    compared: Vec<(Organ, Comparison, RegionMask)>,
}

/// The whole chain but for DICOM: contours of every organ, filled on the CT's grid, against the truth. A calibration is of
/// the direct answer, which is no better than the mean of both.
fn measure(
    name: &str,
    case: &TruthCase,
    model: &mut ContouringModel,
    is_calibrating: bool,
) -> Result<Measured, Failure> {
    let mut seen = look(&case.volume, model)?;
    if let Some([direct, _]) = seen.answers.as_ref().filter(|_| is_calibrating) {
        seen.masks.clone_from(direct);
    }
    let calibration = model.calibration.as_ref();
    let organs = organs_of(&seen, &case.volume, &model.anatomy, calibration, TraceOptions::DELIVERED);
    let grid = &case.volume.grid;
    let found = organs.iter().filter(|found| !found.contours.contours.is_empty());
    let drawn = found.fold(OrganSet::EMPTY, |all, found| all.union(OrganSet::of(found.organ)));
    let compared: Vec<(Organ, Comparison, RegionMask)> = organs
        .par_iter()
        .filter_map(|found| {
            let truth = case.truth.get(&found.organ)?;
            let predicted = fill(&found.contours, grid, rtstruct::FILL_RULE);
            Some((found.organ, compare(truth, &predicted, grid), predicted))
        })
        .collect();
    let left_out = |(organ, doubt): &(Organ, String)| format!("{} left out: {doubt}", organ.paper_name());
    let case = EvaluatedCase {
        name: name.to_owned(),
        organs: compared.iter().map(|(organ, comparison, _)| (*organ, *comparison)).collect(),
        drawn,
        left_out: case.set_aside.iter().map(left_out).collect(),
        judged: judged(&organs, &compared),
        error: None,
    };
    Ok(Measured { case, compared })
}

/// What the model thought of each contour that has a truth, and what it was worth.
fn judged(organs: &[ContouredOrgan], compared: &[(Organ, Comparison, RegionMask)]) -> Vec<Judged> {
    let judge = |(organ, comparison, _): &(Organ, Comparison, RegionMask)| {
        let found = organs.iter().find(|found| found.organ == *organ)?;
        Some(Judged {
            organ: *organ,
            signs: found.signs.clone()?,
            expected_dice: found.doubt.expected_dice,
            needs_a_look: found.doubt.needs_a_look(),
            dice: comparison.dice?,
        })
    };
    compared.iter().filter_map(judge).collect()
}

/// What is said when a case is done.
fn lines_of(case: &EvaluatedCase, template: &StructureTemplate) -> Vec<String> {
    let name = &case.name;
    let dice: Vec<f64> = case.organs.values().filter_map(|c| c.dice).collect();
    let mean = number(Spread::of(&dice).map(|s| s.mean), 3);
    let check: Vec<&str> = case
        .judged
        .iter()
        .filter(|one| one.needs_a_look)
        .map(|one| template.entry(one.organ).roi_name.as_str())
        .collect();
    let check = if check.is_empty() { "-".to_owned() } else { check.join(", ") };
    let result = match &case.error {
        None => format!("{name}: mean DSC {mean} over {} organs; to check: {check}", case.organs.len()),
        Some(error) => format!("{name}: not evaluated: {error}"),
    };
    case.left_out.iter().map(|line| format!("{name}: {line}")).chain([result]).collect()
}

/// A picture of the worst case of each organ so far, drawn while its scan is at hand.
struct WorstCases<'t> {
    template: &'t StructureTemplate,
    pictures: BTreeMap<Organ, WorstPicture>,
}

impl<'t> WorstCases<'t> {
    fn new(template: &'t StructureTemplate) -> Self {
        Self { template, pictures: BTreeMap::new() }
    }

    fn look(
        &mut self,
        name: &str,
        case: &TruthCase,
        compared: Vec<(Organ, Comparison, RegionMask)>,
    ) -> Result<(), Failure> {
        for (organ, comparison, predicted) in compared {
            let so_far = self.pictures.get(&organ).and_then(|picture| picture.comparison.dice);
            let Some(dice) = comparison.dice else { continue };
            if so_far.is_some_and(|so_far| so_far <= dice) {
                continue;
            }
            let entry = self.template.entry(organ);
            let outline = Outline {
                legend: entry.roi_name.clone(),
                color: entry.color,
                mask: predicted,
                truth: case.truth.get(&organ).cloned(),
            };
            let png = closeup(&case.volume, &outline)?;
            self.pictures.insert(organ, WorstPicture { case: name.to_owned(), comparison, png });
        }
        Ok(())
    }
}

fn bar(n_cases: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(n_cases as u64).with_style(style)
}
