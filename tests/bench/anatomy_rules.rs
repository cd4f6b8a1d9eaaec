//! What each rule of anatomy is worth: `bench_anatomy_rules ONNXRUNTIME DATA [SKIP [LIMIT]]`.
//!
//! The network sees each case once; then every choice of rules makes contours of what it saw. DATA is what
//! `oarlock evaluate --data` takes; the model is the shipped one, on the processor.

#![allow(missing_docs, clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use oarlock::engine::runtime::session::{Provider, Runtime, SessionOptions};
use oarlock::learning::evaluate::{Comparison, HeldOut, Measure, Spread, Summary, compare};
use oarlock::learning::model::ModelRegistry;
use oarlock::pipeline::anatomy::{AnatomySettings, Finding, RuleChoice};
use oarlock::pipeline::contours::{TraceOptions, fill};
use oarlock::pipeline::network::{ModelGraphs, Network};
use oarlock::pipeline::{ContouringModel, look, organs_of, rtstruct};
use oarlock::settings::StructureTemplate;
use oarlock::vocabulary::organ::Organ;

const CHOICES: [&str; 7] = [
    "none",
    "only=sides",
    "only=one_piece",
    "only=brain_stem_cord",
    "only=exclusive",
    "only=truncated",
    "all",
];

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "bench_anatomy_rules ONNXRUNTIME DATA [SKIP [LIMIT]]";
    let library = PathBuf::from(arguments.next().ok_or(usage)?);
    let data = PathBuf::from(arguments.next().ok_or(usage)?);
    let skip = arguments.next().map_or(Ok(0), |n| n.parse())?;
    let limit = arguments.next().map_or(Ok(usize::MAX), |n| n.parse())?;
    let stored = ModelRegistry::usual().load("starter")?;
    let graph = |part| stored.graph(part).ok_or("the model has not all graphs");
    let graphs = ModelGraphs {
        preset: &stored.entry.preset,
        trunk: graph("trunk")?,
        refinement: graph("refinement")?,
        mask: graph("mask")?,
    };
    let options = SessionOptions { threads: 2, provider: Provider::Cpu };
    let network = Network::load(graphs, Runtime::start(&library)?, &options)?;
    let mut model = ContouringModel {
        network,
        close_up: None,
        name: "starter".to_owned(),
        fingerprint: stored.fingerprint(),
        calibration: None,
        anatomy: AnatomySettings::NONE,
    };
    let template = StructureTemplate::shipped()?;
    let mut compared: Vec<BTreeMap<Organ, Vec<Comparison>>> = vec![BTreeMap::new(); CHOICES.len()];
    let mut findings: BTreeMap<String, usize> = BTreeMap::new();
    let cases: Vec<HeldOut> = HeldOut::list(&data, None)?.into_iter().skip(skip).take(limit).collect();
    for case in &cases {
        let truth = case.read(&template, false)?;
        let seen = look(&truth.volume, &mut model)?;
        let grid = &truth.volume.grid;
        for (choice, compared) in CHOICES.iter().zip(&mut compared) {
            let settings = choice.parse::<RuleChoice>()?.applied(AnatomySettings::NONE);
            let organs = organs_of(&seen, &truth.volume, &settings, None, TraceOptions::DELIVERED);
            for found in &organs {
                if let Some(known) = truth.truth.get(&found.organ) {
                    let predicted = fill(&found.contours, grid, rtstruct::FILL_RULE);
                    compared.entry(found.organ).or_default().push(compare(known, &predicted, grid));
                }
                if *choice == "all" {
                    for finding in &found.findings {
                        *findings
                            .entry(format!("{} {}", kind(finding), found.organ.paper_name()))
                            .or_default() += 1;
                    }
                }
            }
        }
    }
    println!("{} cases of {}", cases.len(), data.display());
    println!("{:22} {:>7} {:>7} {:>10}", "rules", "DSC", "missed", "95 % HD, mm");
    for (choice, of) in CHOICES.iter().zip(&compared) {
        let summaries: Vec<Summary> = of.values().map(|all| Summary::of(all)).collect();
        let mean = |measure: Measure| {
            let of = |summary: &Summary| Some(summary.measures.get(&measure)?.spread.mean);
            let values: Vec<f64> = summaries.iter().filter_map(of).collect();
            Spread::of(&values).map_or(f64::NAN, |spread| spread.mean)
        };
        let missed: usize = summaries.iter().map(|summary| summary.n_missed).sum();
        println!("{choice:22} {:7.4} {missed:7} {:10.2}", mean(Measure::Dice), mean(Measure::Hd95));
        for (organ, all) in of {
            let summary = Summary::of(all);
            let of = |measure| summary.measures.get(&measure).map_or(f64::NAN, |found| found.spread.mean);
            let (dice, hd95) = (of(Measure::Dice), of(Measure::Hd95));
            println!("    {:18} {dice:7.4} {:7} {hd95:10.2}", organ.paper_name(), summary.n_missed);
        }
    }
    for (what, n) in findings {
        println!("{n:4} x {what}");
    }
    Ok(())
}

fn kind(finding: &Finding) -> &'static str {
    match finding {
        Finding::SidesExchanged => "sides exchanged",
        Finding::WrongSide { .. } => "wrong side, removed",
        Finding::BeyondMidplane { .. } => "part on the other side removed",
        Finding::PiecesRemoved { .. } => "loose pieces removed",
        Finding::Interrupted { .. } => "interrupted",
        Finding::BorderSet { .. } => "border set",
        Finding::BorderUnclear { .. } => "border unclear",
        Finding::Shared { .. } => "voxels given to another",
        Finding::Truncated { .. } => "truncated",
    }
}
