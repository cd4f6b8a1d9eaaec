//! `report.html`: the run on one page that needs nothing else, written anew at each validation and at the end.

mod chart;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::chart::{Chart, Scale, short};
use super::log::{RunLog, StepLine, ValidationLine};
use super::whole_file;
use crate::settings::TrainRecipe;

/// Name of the report in the output folder.
pub(super) const REPORT: &str = "report.html";

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write {}: free some space or correct the permissions, then go on with --resume; the last checkpoint is good",
    path.display()
)]
pub struct ReportError {
    path: PathBuf,
    source: std::io::Error,
}

/// A validation case as a person sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CasePicture {
    /// What the case is called.
    pub(super) case: String,
    /// The picture.
    pub(super) png: Vec<u8>,
}

/// Writes the report of a run so far.
///
/// # Errors
/// [`ReportError`]; what was there stays.
pub(super) fn write(
    recipe: &TrainRecipe,
    log: &RunLog,
    pictures: &[CasePicture],
    folder: &Path,
) -> Result<(), ReportError> {
    let path = folder.join(REPORT);
    let page = page(recipe, &log.steps, &log.validations, pictures);
    whole_file::write(&path, page.as_bytes()).map_err(|source| ReportError { path, source })
}

const STYLE: &str = include_str!("style.css");

fn page(
    recipe: &TrainRecipe,
    steps: &[StepLine],
    validations: &[ValidationLine],
    pictures: &[CasePicture],
) -> String {
    let name = escaped(&recipe.name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Training of {name}</title><style>{STYLE}</style></head><body>\
         <h1>Training of {name}</h1>\
         <p class=\"warning\">Research software: nothing here says that a contour may be used for a patient.</p>"
    );
    page.push_str(&facts(recipe, steps, validations));
    page.push_str("<h2>Losses</h2><p>Line: mean of neighbouring steps; band: their least and most.</p>");
    page.push_str(&grid(losses(recipe.steps, steps)));
    page.push_str("<h2>The step</h2>");
    page.push_str(&grid(step_charts(recipe.steps, steps)));
    page.push_str("<h2>Validation</h2>");
    page.push_str(&validation(recipe.steps, validations));
    if !pictures.is_empty() {
        page.push_str("<h2>Validation cases</h2><p>As of the last validation that this process ran. White dots: the truth.</p>");
    }
    for CasePicture { case, png } in pictures {
        let (case, png) = (escaped(case), STANDARD.encode(png));
        page.push_str(&format!(
            "<figure><figcaption>{case}</figcaption><img alt=\"{case}\" src=\"data:image/png;base64,{png}\"></figure>"
        ));
    }
    page.push_str(&format!("<h2>Recipe</h2><pre>{}</pre></body></html>\n", escaped(&recipe.text)));
    page
}

/// The few numbers that a person asks first.
fn facts(recipe: &TrainRecipe, steps: &[StepLine], validations: &[ValidationLine]) -> String {
    let done = steps.last().map_or(0, |line| line.step);
    let took_s: f64 = steps.iter().map(|line| line.step_s).sum();
    let waited_s: f64 = steps.iter().map(|line| line.wait_s).sum();
    let each_s = took_s / steps.len().max(1) as f64;
    let of_waiting = if took_s > 0.0 { 100.0 * waited_s / took_s } else { 0.0 };
    let mut rows = vec![
        ("Architecture", format!("{}, crop {:?} voxels (z, y, x)", escaped(&recipe.preset), recipe.crop)),
        ("Steps", format!("{done} of {}", recipe.steps)),
        ("Time in steps", format!("{}, {each_s:.2} s each", duration(took_s))),
        ("Waiting for data", format!("{waited_s:.1} s, {of_waiting:.2} % of the steps' time")),
    ];
    match best(validations) {
        Some(best) => {
            rows.push((
                "Best validation",
                format!("mean DSC {:.3} at step {}", best.validation_mean_dsc, best.step),
            ));
        }
        None => rows.push(("Best validation", "none yet".to_owned())),
    }
    let rows: String =
        rows.iter().map(|(what, value)| format!("<tr><th>{what}</th><td>{value}</td></tr>")).collect();
    format!("<table>{rows}</table>")
}

/// The validation whose weights are kept: the first of the highest mean.
fn best(validations: &[ValidationLine]) -> Option<&ValidationLine> {
    validations.iter().reduce(
        |best, line| {
            if line.validation_mean_dsc > best.validation_mean_dsc { line } else { best }
        },
    )
}

fn losses(last_step: u64, steps: &[StepLine]) -> Vec<String> {
    type Part = fn(&StepLine) -> Option<f32>;
    let parts: [(&str, Part); 6] = [
        ("all together", |line| Some(line.total)),
        ("proposals: class", |line| Some(line.losses.proposal_class)),
        ("proposals: box", |line| Some(line.losses.proposal_box)),
        ("refinement: class", |line| line.losses.refinement_class),
        ("refinement: box", |line| line.losses.refinement_box),
        ("mask", |line| line.losses.mask),
    ];
    let chart = |(title, part): (&str, Part)| {
        let points = steps.iter().filter_map(|line| Some((line.step, f64::from(part(line)?)))).collect();
        let scale = if title == "mask" { Scale::Unit } else { Scale::Logarithmic };
        Chart { title, scale, last_step, points, marked: false }.svg()
    };
    parts.into_iter().map(chart).collect()
}

fn step_charts(last_step: u64, steps: &[StepLine]) -> Vec<String> {
    type Value = fn(&StepLine) -> f64;
    let values: [(&str, Scale, Value); 4] = [
        ("learning rate", Scale::Linear, |line| line.learning_rate),
        ("length of the gradient", Scale::Logarithmic, |line| f64::from(line.gradient_length)),
        ("seconds of a step", Scale::Linear, |line| line.step_s),
        ("seconds of waiting for data", Scale::Linear, |line| line.wait_s),
    ];
    let chart = |(title, scale, value): (&str, Scale, Value)| {
        let points = steps.iter().map(|line| (line.step, value(line))).collect();
        Chart { title, scale, last_step, points, marked: false }.svg()
    };
    values.into_iter().map(chart).collect()
}

fn validation(last_step: u64, validations: &[ValidationLine]) -> String {
    let Some((last, best)) = validations.last().zip(best(validations)) else {
        return "<p>None yet.</p>".to_owned();
    };
    let names: BTreeSet<&str> =
        validations.iter().flat_map(|line| line.organs.keys().map(String::as_str)).collect();
    let mean = validations.iter().map(|line| (line.step, f64::from(line.validation_mean_dsc))).collect();
    let chart =
        |title: &str, points| Chart { title, scale: Scale::Unit, last_step, points, marked: true }.svg();
    let mut charts = vec![chart("mean DSC over organs", mean)];
    for name in &names {
        let points =
            validations.iter().filter_map(|line| Some((line.step, f64::from(line.organs.get(*name)?.dsc))));
        charts.push(chart(name, points.collect()));
    }
    let cell = |line: &ValidationLine, name: &str| {
        line.organs.get(name).map_or_else(
            || "<td></td><td></td>".to_owned(),
            |organ| format!("<td>{:.3}</td><td>{} of {}</td>", organ.dsc, organ.found, organ.cases),
        )
    };
    let rows: String = names
        .iter()
        .map(|name| format!("<tr><th>{}</th>{}{}</tr>", escaped(name), cell(best, name), cell(last, name)))
        .collect();
    format!(
        "<p>DSC of the whole chain on the network's own grid, on patients that never train. A mean counts 0 for an organ \
         that was not found.</p>{}<table class=\"numbers\"><thead><tr><th>organ</th><th>DSC, best (step {})</th>\
         <th>found</th><th>DSC, last (step {})</th><th>found</th></tr></thead><tbody>{rows}\
         <tr class=\"sum\"><th>mean over organs</th><td>{:.3}</td><td></td><td>{:.3}</td><td></td></tr></tbody></table>",
        grid(charts),
        best.step,
        last.step,
        best.validation_mean_dsc,
        last.validation_mean_dsc
    )
}

fn grid(charts: Vec<String>) -> String {
    format!("<div class=\"grid\">{}</div>", charts.concat())
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    if minutes >= 60.0 {
        format!("{} h {} min", short((minutes / 60.0).floor()), short(minutes % 60.0))
    } else if minutes >= 1.0 {
        format!("{} min", short(minutes))
    } else {
        format!("{seconds:.0} s")
    }
}

/// Text inside HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::log::OrganLine;
    use super::super::losses::Losses;
    use super::*;

    fn step(step: u64) -> StepLine {
        let losses = Losses { proposal_class: 0.25, proposal_box: 2.0, mask: Some(0.5), ..Losses::default() };
        let total = losses.total();
        let case = "pt_3".to_owned();
        StepLine {
            step,
            case,
            losses,
            total,
            learning_rate: 1e-3,
            gradient_length: 7.5,
            wait_s: 0.5,
            step_s: 2.0,
        }
    }

    fn validation(step: u64, dsc: f32) -> ValidationLine {
        let organs = [("Larynx".to_owned(), OrganLine { dsc, found: 2, cases: 3 })].into_iter().collect();
        ValidationLine { step, validation_mean_dsc: dsc, organs, took_s: 9.0 }
    }

    #[test]
    fn the_page_tells_the_best_validation_the_waiting_and_the_recipe() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/starter.yaml");
        let recipe = TrainRecipe::read(&path).unwrap();
        let steps: Vec<StepLine> = (1..=8).map(step).collect();
        let validations = [validation(4, 0.61), validation(8, 0.25)];
        let pictures = [CasePicture { case: "a<b".into(), png: b"\x89PNG".to_vec() }];
        let text = page(&recipe, &steps, &validations, &pictures);
        for wanted in [
            "mean DSC 0.610 at step 4",
            "4.0 s, 25.00 % of the steps&#39; time",
            "<td>0.610</td><td>2 of 3</td><td>0.250</td><td>2 of 3</td>",
            "data:image/png;base64,iVBORw==",
            "a&lt;b",
            "weight_decay: 0.0001",
        ] {
            assert!(text.contains(&wanted.replace("&#39;", "'")), "{wanted} is missing in {text}");
        }
        assert!(!text.contains("http"), "the page needs nothing else: {text}");
        assert!(page(&recipe, &[], &[], &[]).contains("none yet"));
    }
}
