//! The page: one file, no script, nothing fetched.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::plot::{box_plot, round_above};
use super::{Evaluation, WorstPicture, paper};
use crate::learning::evaluate::doubt::BAD_DICE;
use crate::learning::evaluate::summary::{Estimate, mean_over_organs};
use crate::learning::evaluate::{DoubtReport, Judged, Measure, RESAMPLES, SEED, Summary};
use crate::vocabulary::organ::Organ;

/// Columns of the table of organs, each with what a reader sees.
const COLUMNS: [(Measure, &str); 7] = [
    (Measure::Dice, "DSC"),
    (Measure::SurfaceDice2, "surface DSC<br><small>at 2 mm</small>"),
    (Measure::Hd95, "95 % HD<br><small>mm</small>"),
    (Measure::OutlineHd95, "95 % HD<br><small>outlines, mm</small>"),
    (Measure::MeanDistance, "distance<br><small>mean, mm</small>"),
    (Measure::AddedPath, "added path<br><small>mm</small>"),
    (Measure::VolumeDifference, "volume<br><small>difference, part</small>"),
];

/// A DSC below this is marked: nothing that a person would correct instead of drawing anew.
const LOW_DICE: f64 = 0.5;

pub(super) fn page(evaluation: &Evaluation, worst: &BTreeMap<Organ, WorstPicture>) -> String {
    let summaries = evaluation.summaries();
    let parts = [
        head(evaluation),
        tiles(evaluation),
        organ_table(evaluation, &summaries),
        plots(&summaries),
        beside_the_paper(evaluation, &summaries),
        doubt(evaluation),
        worst_cases(worst),
        case_table(evaluation),
        how_to_read(),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{} on {}</title><style>{}</style></head><body><main>\n{}\n</main></body></html>\n",
        escape(&evaluation.model),
        escape(&evaluation.data),
        include_str!("report.css"),
        parts.join("\n")
    )
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn head(evaluation: &Evaluation) -> String {
    let not_measured = evaluation.not_measured();
    let names: Vec<&str> = not_measured.iter().map(|organ| organ.paper_name()).collect();
    let unknown = if names.is_empty() {
        String::new()
    } else {
        format!(
            " {} of the {} organs have no truth in this data and no figure here: {}. Nothing is known about how well \
             the model draws them.",
            names.len(),
            Organ::COUNT,
            names.join(", ")
        )
    };
    format!(
        "<h1>{} on {}</h1>\n<p class=\"soft\">fingerprint <code>{}</code> · ran on {} · {}</p>\n\
         <p class=\"notice\"><b>Research only.</b> No clinic has commissioned this model: its contours must not be used for \
         treatment or planning unreviewed, and these figures are no statement of clinical accuracy.{unknown}</p>",
        escape(&evaluation.model),
        escape(&evaluation.data),
        escape(&evaluation.fingerprint),
        escape(&evaluation.provider),
        escape(&evaluation.made),
    )
}

fn tiles(evaluation: &Evaluation) -> String {
    let cases = evaluation.organs_by_case();
    let tile = |value: String, below: String| format!("<div class=\"tile\"><b>{value}</b>{below}</div>");
    let of = |measure: Measure, name: &str| {
        let Some((mean, interval)) = mean_over_organs(&cases, measure) else {
            return tile("–".to_owned(), name.to_owned());
        };
        let digits = measure.digits();
        let interval = interval.map_or_else(String::new, |[low, high]| {
            format!("<br><span class=\"soft\">{low:.digits$} to {high:.digits$}</span>")
        });
        tile(format!("{mean:.digits$}"), format!("{name}{interval}"))
    };
    let n_truths: usize = cases.iter().map(BTreeMap::len).sum();
    let n_missed: usize = evaluation.summaries().values().map(|summary| summary.n_missed).sum();
    let parts = [
        tile(cases.len().to_string(), format!("scans, {n_truths} organs with a truth")),
        of(Measure::Dice, "mean DSC over organs"),
        of(Measure::SurfaceDice2, "mean surface DSC at 2 mm"),
        of(Measure::Hd95, "mean 95 % HD of found organs, mm"),
        tile(n_missed.to_string(), "organs missed".to_owned()),
    ];
    format!("<div class=\"tiles\">{}</div>", parts.concat())
}

/// Mean and deviation, interval, median; a dash where there is no value.
fn cell(estimate: Option<&Estimate>, measure: Measure) -> String {
    let Some(estimate) = estimate else { return "<td>–</td>".to_owned() };
    let (digits, s) = (measure.digits(), &estimate.spread);
    let interval = estimate
        .interval
        .map_or_else(|| "one case".to_owned(), |[low, high]| format!("{low:.digits$} to {high:.digits$}"));
    let class = if measure == Measure::Dice && s.mean < LOW_DICE { " class=\"low\"" } else { "" };
    format!(
        "<td><span{class}>{:.digits$}</span> ± {:.digits$}<br><small>{interval}<br>median {:.digits$}</small></td>",
        s.mean, s.deviation, s.median
    )
}

fn organ_table(evaluation: &Evaluation, summaries: &BTreeMap<Organ, Summary>) -> String {
    let heads: Vec<String> = COLUMNS.iter().map(|(_, head)| format!("<th>{head}</th>")).collect();
    let n_scans = evaluation.evaluated().count();
    let rows: Vec<String> = summaries
        .iter()
        .map(|(organ, summary)| {
            let cells: Vec<String> = COLUMNS.iter().map(|(m, _)| cell(summary.measures.get(m), *m)).collect();
            let invented = if summary.n_invented > 0 {
                format!("<br><small>{} invented</small>", summary.n_invented)
            } else {
                String::new()
            };
            format!(
                "<tr><td>{}</td><td>{} of {}{invented}</td><td>{} of {n_scans}</td>{}</tr>",
                organ.paper_name(),
                summary.n_cases - summary.n_missed,
                summary.n_cases,
                evaluation.n_drawn(*organ),
                cells.concat()
            )
        })
        .collect();
    let unmeasured: Vec<String> = evaluation
        .not_measured()
        .into_iter()
        .map(|organ| (organ, evaluation.n_drawn(organ)))
        .filter(|(_, n)| *n > 0)
        .map(|(organ, n)| format!("{} in {n}", organ.paper_name()))
        .collect();
    let unmeasured = if unmeasured.is_empty() {
        String::new()
    } else {
        format!(
            "<p class=\"soft\">Drawn without a truth to compare with, of {n_scans} scans: {}.</p>",
            unmeasured.join(", ")
        )
    };
    format!(
        "<h2>Organs</h2>\n<p>Mean ± standard deviation over the cases that have a truth; below it the 95 % interval of the mean, \
         then the median. A missed organ counts as DSC 0 and has no distance.</p>\n\
         <div class=\"scroll\"><table><tr><th>organ</th><th>found<br><small>of the truths</small></th>\
         <th>drawn<br><small>of all scans</small></th>{}</tr>{}</table></div>\n{unmeasured}",
        heads.concat(),
        rows.concat()
    )
}

fn plots(summaries: &BTreeMap<Organ, Summary>) -> String {
    let rows = |measure: Measure| -> Vec<(&str, &Estimate)> {
        let of =
            summaries.iter().filter_map(|(organ, summary)| Some((organ, summary.measures.get(&measure)?)));
        of.map(|(organ, estimate)| (organ.paper_name(), estimate)).collect()
    };
    let plot = |measure: Measure, title: &str, most: Option<f64>| {
        let rows = rows(measure);
        let largest = rows.iter().map(|(_, estimate)| estimate.spread.highest).fold(0.0, f64::max);
        let end = most.unwrap_or_else(|| round_above(largest));
        if rows.is_empty() {
            return String::new();
        }
        format!("<h3>{title}</h3><div class=\"scroll\">{}</div>", box_plot(&rows, [0.0, end], measure.name()))
    };
    format!(
        "<h2>Spread</h2>\n<p>Box: the middle half of the cases, line at the median; whiskers to the last case within 1.5 boxes, \
         circles beyond; diamond at the mean. With fewer than five cases each is a circle.</p>\n{}{}{}",
        plot(Measure::Dice, "DSC", Some(1.0)),
        plot(Measure::SurfaceDice2, "Surface DSC at 2 mm", Some(1.0)),
        plot(Measure::Hd95, "95 % Hausdorff distance, found organs", None)
    )
}

fn beside_the_paper(evaluation: &Evaluation, summaries: &BTreeMap<Organ, Summary>) -> String {
    let rows: Vec<_> = paper::ROWS
        .iter()
        .filter_map(|row| Some((row, summaries.get(&row.organ).filter(|summary| summary.n_cases > 0)?)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads: Vec<String> = paper::COLUMNS.iter().map(|name| format!("<th>{name}</th>")).collect();
    let numbers = |values: [f64; 4]| values.map(|value| format!("<td>{value:.2}</td>")).concat();
    let ours = |summary: &Summary, measure: Measure, scale: f64| {
        summary.mean(measure).map_or_else(|| "–".to_owned(), |mean| format!("{:.2}", mean * scale))
    };
    let dice = rows.iter().map(|(row, summary)| {
        let ours = ours(summary, Measure::Dice, 100.0);
        format!("<tr><td>{}</td>{}<td><b>{ours}</b></td></tr>", row.organ.paper_name(), numbers(row.dice))
    });
    let hd95 = rows.iter().map(|(row, summary)| {
        let [exact, outlines] = [Measure::Hd95, Measure::OutlineHd95].map(|m| ours(summary, m, 1.0));
        let name = row.organ.paper_name();
        format!("<tr><td>{name}</td>{}<td><b>{exact}</b></td><td>{outlines}</td></tr>", numbers(row.hd95_mm))
    });
    format!(
        "<h2>Beside the paper</h2>\n<p>Tang et al. 2019, data set 1, of the organs that both have. <b>These are not the same data</b>: \
         the paper's figures are of its own scans (skull to carina, GE, 2.5 mm slices) with its own oncologists' drawings and a \
         model trained on that hospital's cases; ours are of {} with other scans, other hands and another training. Read them \
         beside each other, not against each other.</p>\n\
         <div class=\"scroll\"><table><tr><th>DSC, %</th>{}<th>here</th></tr>{}</table></div>\n\
         <div class=\"scroll\"><table><tr><th>95 % HD, mm</th>{}<th>here</th><th>here, as the<br>reference counts</th></tr>{}</table></div>",
        escape(&evaluation.data),
        heads.concat(),
        dice.collect::<String>(),
        heads.concat(),
        hd95.collect::<String>()
    )
}

/// Which contours the model said need a look, and whether they did.
fn doubt(evaluation: &Evaluation) -> String {
    let judged = evaluation.judged();
    let Some(report) = DoubtReport::of(&judged) else { return String::new() };
    let row = |name: &str, of: &[&Judged]| {
        let count = |wanted: fn(&Judged) -> bool| of.iter().filter(|one| wanted(one)).count();
        let expected: Vec<f64> = of.iter().filter_map(|one| one.expected_dice).collect();
        let mean = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            if values.is_empty() { "–".to_owned() } else { format!("{mean:.2}") }
        };
        let real: Vec<f64> = of.iter().map(|one| one.dice).collect();
        format!(
            "<tr><td>{name}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            of.len(),
            count(|one| one.needs_a_look),
            count(|one| one.needs_a_look && one.dice < BAD_DICE),
            count(|one| !one.needs_a_look && one.dice < BAD_DICE),
            mean(&expected),
            mean(&real)
        )
    };
    let rows: String = Organ::ALL
        .into_iter()
        .map(|organ| (organ, judged.iter().filter(|one| one.organ == organ).collect::<Vec<_>>()))
        .filter(|(_, of)| !of.is_empty())
        .map(|(organ, of)| row(organ.paper_name(), &of))
        .collect();
    let number = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |v| format!("{v:.2}"));
    format!(
        "<h2>Doubt</h2>\n<p>Contours that the model said need a look, and those it should have said it of: a DSC below {BAD_DICE}. \
         Between the DSC that it expected and the real one the correlation is {}; a bad contour had the lower expectation of the two in \
         {} of the pairs with one that is not bad (area under the ROC curve).</p>\n\
         <div class=\"scroll\"><table><tr><th>organ</th><th>contours</th><th>to check</th><th>of these<br>bad</th>\
         <th>bad and<br>not said</th><th>DSC<br><small>expected</small></th><th>DSC<br><small>real</small></th></tr>{rows}{}</table></div>",
        number(report.correlation),
        number(report.auc),
        row("all", &judged.iter().collect::<Vec<_>>())
    )
}

fn worst_cases(worst: &BTreeMap<Organ, WorstPicture>) -> String {
    if worst.is_empty() {
        return String::new();
    }
    let figure = |(organ, picture): (&Organ, &WorstPicture)| {
        let c = &picture.comparison;
        let number = |measure: Measure| {
            let digits = measure.digits();
            measure.of(c).map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
        };
        format!(
            "<figure><h3>{} <span class=\"soft\">in {}: {}, DSC {}, 95 % HD {} mm</span></h3>\
             <img alt=\"{} of {}: axial, coronal and sagittal view\" src=\"data:image/png;base64,{}\"></figure>",
            organ.paper_name(),
            escape(&picture.case),
            c.outcome().word(),
            number(Measure::Dice),
            number(Measure::Hd95),
            organ.paper_name(),
            escape(&picture.case),
            BASE64_STANDARD.encode(&picture.png)
        )
    };
    let mut sorted: Vec<_> = worst.iter().collect();
    let dice = |picture: &WorstPicture| picture.comparison.dice.unwrap_or(0.0);
    sorted.sort_by(|(_, a), (_, b)| dice(a).total_cmp(&dice(b)));
    let figures: String = sorted.into_iter().map(figure).collect();
    format!(
        "<h2>Worst cases</h2>\n<p>Of each organ the case with the lowest DSC, cut where the two differ most. Colored line: the model; \
         white dots: the truth. The patient's right is on the left.</p>\n<div class=\"worst\">{figures}</div>"
    )
}

fn case_table(evaluation: &Evaluation) -> String {
    let row = |case: &super::EvaluatedCase| {
        let name = escape(&case.name);
        if let Some(error) = &case.error {
            return format!(
                "<tr><td>{name}</td><td colspan=\"3\" class=\"text low\">not evaluated: {}</td></tr>",
                escape(error)
            );
        }
        let dice: Vec<f64> = case.organs.values().filter_map(|c| c.dice).collect();
        let mean = dice.iter().sum::<f64>() / dice.len().max(1) as f64;
        let mean = if dice.is_empty() { "–".to_owned() } else { format!("{mean:.3}") };
        let organs: Vec<String> = case
            .organs
            .iter()
            .map(|(organ, c)| {
                let needs_a_look = case.judged.iter().any(|one| one.organ == *organ && one.needs_a_look);
                let check = if needs_a_look { " <b>check</b>" } else { "" };
                format!("{} {:.2}{check}", organ.paper_name(), c.dice.unwrap_or(0.0))
            })
            .chain(case.left_out.iter().map(|line| format!("<span class=\"soft\">{}</span>", escape(line))))
            .collect();
        format!(
            "<tr><td>{name}</td><td>{}</td><td>{mean}</td><td class=\"text\">{}</td></tr>",
            dice.len(),
            organs.join("; ")
        )
    };
    let rows: String = evaluation.cases.iter().map(row).collect();
    format!(
        "<h2>Cases</h2>\n<details><summary>All {} cases</summary><div class=\"scroll\"><table>\
         <tr><th>case</th><th>organs</th><th>mean DSC</th><th>DSC of each organ, what the model said to check; drawings left out</th></tr>{rows}</table></div></details>",
        evaluation.cases.len()
    )
}

fn how_to_read() -> String {
    format!(
        "<h2>How the figures are made</h2>\n\
         <p>DSC is 2 |A ∩ B| / (|A| + |B|) of voxels on the CT's own grid. Surface DSC (Nikolov et al. 2021) is the part of both \
         surfaces that lies within the tolerance of the other. 95 % HD is the larger of the two directed 95th percentiles of \
         distances between border voxels, linear between ranks; “outlines” is the reference implementation's own: voxels on the \
         outline in each plane, the sorted value at ⌊0.95 n⌋ − 1. Added path (Vaassen et al. 2020) is the truth's outline that the \
         model's does not share.</p>\n\
         <p>A missed organ has DSC 0, surface DSC 0, the whole outline as added path and no distance: the mean distance is that of \
         found organs only and must be read with the column “found”. A truth without a voxel is in no mean.</p>\n\
         <p>Intervals: percentile bootstrap over cases, 95 %, {RESAMPLES} resamples, seed {SEED}; for the mean over organs whole \
         patients are drawn. With few cases they are too narrow. They hold the chance of which patients were in the data, not of \
         who drew the truth, nor of another hospital's scans.</p>"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{comparison, evaluation};
    use super::*;

    #[test]
    fn the_page_says_what_it_must_and_fetches_nothing() {
        let picture = WorstPicture {
            case: "pt_2, <b>".into(),
            comparison: comparison(0.0, None),
            png: b"foo".to_vec(),
        };
        let text = page(&evaluation(), &BTreeMap::from([(Organ::BrainStem, picture)]));
        for wanted in [
            "tiny on part",
            "c0ffee",
            "Research only",
            "26 of the 28 organs have no truth",
            "Larynx in 2",
            "<td>1 of 2</td>",
            "pt_2, &lt;b&gt;",
            "not evaluated: no CT there",
            "900 cm3",
            "not the same data",
            "86.25",
            "base64,Zm9v",
            "2000 resamples, seed 95",
            "the correlation is -0.70",
            "0.00 of the pairs",
            "<td>Brain stem</td><td>1</td><td>1</td><td>0</td><td>0</td><td>0.55</td><td>0.80</td>",
            "<td>all</td><td>3</td><td>2</td><td>0</td><td>1</td><td>0.52</td><td>0.68</td>",
            "Parotid L 0.75 <b>check</b>",
            "<b>0.575</b>mean DSC over organs",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        for forbidden in ["http:", "https:", "<script", "pt_2, <b>", "url("] {
            assert!(!text.contains(forbidden), "{forbidden} is in {text}");
        }
        assert_eq!(text.matches("<svg").count(), 3);
    }

    #[test]
    fn organs_that_the_paper_does_not_show_are_not_set_beside_it() {
        let mut found = evaluation();
        found.cases.iter_mut().for_each(|case| case.organs.retain(|organ, _| *organ != Organ::BrainStem));
        assert!(!page(&found, &BTreeMap::new()).contains("Beside the paper"));
    }
}
