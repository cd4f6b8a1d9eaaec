//! `oarlock dataset`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use rayon::ThreadPoolBuilder;
use serde_json::json;

use super::dataset_page::write_page;
use super::{CommandResult, say, spinner};
use crate::cli::{DatasetAction, DatasetAddArgs, DatasetArgs, LayoutArg, PartArg};
use crate::learning::dataset::export::export_nnunet;
use crate::learning::dataset::import::{
    Fault, FoundCase, Importer, Layout, NewCase, UnmappedName, find, layout_and_map,
};
use crate::learning::dataset::store::{Aside, SplitRule, check};
use crate::learning::dataset::{Dataset, Part, StoredCase};
use crate::settings::StructureTemplate;
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::organ::Organ;

/// Runs the command.
pub(super) fn run(args: DatasetArgs) -> CommandResult {
    match args.action {
        DatasetAction::Add(args) => add(&args),
        DatasetAction::List { dataset, json } => list(&dataset, json),
        DatasetAction::Show { dataset, cases, output } => show(&dataset, &cases, output.as_deref()),
        DatasetAction::Split { dataset, seed, validation, test } => {
            split(&dataset, SplitRule { seed, validation, test })
        }
        DatasetAction::Check { dataset, json } => check_all(&dataset, json),
        DatasetAction::Export { dataset, output, organs } => export(&dataset, &output, &organs),
    }
}

fn add(args: &DatasetAddArgs) -> CommandResult {
    let asked = match args.layout {
        LayoutArg::Auto => None,
        LayoutArg::Dicom => Some(Layout::Dicom),
        LayoutArg::Nnunet => Some(Layout::NnUnet),
        LayoutArg::Hanseg => Some(Layout::HanSeg),
        LayoutArg::Totalsegmentator => Some(Layout::TotalSegmentator),
        LayoutArg::Nrrd => Some(Layout::Nrrd),
        LayoutArg::Openkbp => Some(Layout::OpenKbp),
        LayoutArg::Files => Some(Layout::Files),
    };
    let (layout, map) = layout_and_map(&args.folder, asked, args.map.as_deref())?;
    let template = StructureTemplate::shipped()?;
    let mut dataset = if args.dry_run { None } else { Some(Dataset::edit(&args.to)?) };
    let salt = dataset.as_ref().map_or_else(|| Ok(Vec::new()), Dataset::salt)?;
    let importer = Importer {
        map: &map,
        template: &template,
        label: args.label.clone(),
        leave_out: args.leave_out,
        salt: &salt,
    };
    let moving = spinner(format!("looking through {}", args.folder.display()));
    let readers = ThreadPoolBuilder::new().num_threads(READERS * rayon::current_num_threads()).build()?;
    let found = readers.install(|| find(&args.folder, layout, &importer));
    moving.finish_and_clear();
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            dataset.into_iter().for_each(Dataset::give_up_if_empty);
            return Err(error.into());
        }
    };
    let notice = args.licence.as_deref().or(map.licence.as_deref());
    let part = args.part.map(part_of);
    let mut refused: Vec<(String, Vec<Fault>)> =
        found.faults.into_iter().map(|(name, fault)| (name, vec![fault])).collect();
    let mut unmapped: BTreeMap<UnmappedName, usize> = BTreeMap::new();
    let mut n_taken = 0;
    let bar = bar(found.cases.len());
    let writer = dataset.as_ref().map(Dataset::writer);
    let prepare = |case: FoundCase| {
        let new = readers.install(|| case.read(&importer))?;
        let new = NewCase { split: part.or(new.split), ..new };
        let aside = writer.as_ref().map(|writer| writer.write(&new, args.as_drawn)).transpose();
        let aside = aside.map_err(|fault| vec![fault])?;
        let (id, n_organs) = (new.case.name, new.case.annotated.iter().count());
        Ok(Prepared { id, n_organs, notes: new.notes, unmapped: new.unmapped, aside })
    };
    in_order(found.cases, prepare, |name, prepared| {
        bar.set_message(name.clone());
        let taken = prepared.and_then(|prepared: Prepared| {
            prepared.unmapped.iter().for_each(|name| *unmapped.entry(name.clone()).or_default() += 1);
            if let (Some(dataset), Some(aside)) = (&mut dataset, prepared.aside) {
                dataset.keep(aside, notice).map_err(|fault| vec![fault])?;
            }
            n_taken += 1;
            line(&bar, format_args!("{}: {} organs, from {name}", prepared.id, prepared.n_organs));
            prepared.notes.iter().for_each(|note| line(&bar, format_args!("  {note}")));
            Ok(())
        });
        if let Err(faults) = taken {
            refused.push((name, faults));
        }
        bar.inc(1);
    });
    bar.finish_and_clear();
    for (name, faults) in &refused {
        for fault in faults {
            say(format_args!("refused {name}: {}", with_causes(fault)));
        }
    }
    if found.without_structures > 0 {
        say(format_args!("{} CT series without a structure set are left alone", found.without_structures));
    }
    say_unmapped(&unmapped);
    if let Some(mut dataset) = dataset {
        if dataset.index().cases.is_empty() {
            dataset.give_up_if_empty();
        } else {
            dataset.assign_parts()?;
            say_set(&dataset);
            if notice.is_none() {
                say(
                    "nobody said on which licence these cases came: give --licence, so that the model's card can",
                );
            }
        }
    }
    let would = if args.dry_run { "would be " } else { "" };
    say(format_args!("{n_taken} cases {would}taken, {} refused", refused.len()));
    if !refused.is_empty() && refused.iter().flat_map(|(_, faults)| faults).all(Fault::is_of_an_organ) {
        say("with --leave-out they are taken without the organs that are named");
    }
    Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cases that are in hand at a time; each may take some hundred megabytes.
const AT_ONCE: usize = 4;

/// Threads that read, for each processor: most of them wait for a disk.
const READERS: usize = 3;

/// A case that is read and written aside.
struct Prepared {
    id: String,
    n_organs: usize,
    notes: Vec<String>,
    unmapped: Vec<UnmappedName>,
    aside: Option<Aside>,
}

/// Prepares cases on several threads, and takes each with its name in the order in which they were found.
fn in_order<T: Send>(
    cases: Vec<FoundCase>,
    prepare: impl Fn(FoundCase) -> Result<T, Vec<Fault>> + Sync,
    mut take: impl FnMut(String, Result<T, Vec<Fault>>),
) {
    let waiting = Mutex::new(cases.into_iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        let (send, prepared) = std::sync::mpsc::channel();
        for _ in 0..AT_ONCE {
            let (send, next, prepare) = (send.clone(), &next, &prepare);
            scope.spawn(move || {
                while let Some((number, case)) = next() {
                    let name = case.name.clone();
                    if send.send((number, name, prepare(case))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let (mut early, mut number) = (BTreeMap::new(), 0);
        for (at, name, case) in prepared {
            early.insert(at, (name, case));
            while let Some((name, case)) = early.remove(&number) {
                take(name, case);
                number += 1;
            }
        }
    });
}

fn part_of(part: PartArg) -> Part {
    match part {
        PartArg::Train => Part::Train,
        PartArg::Validation => Part::Validation,
        PartArg::Test => Part::Test,
    }
}

/// Names that nothing knows, most frequent first.
fn say_unmapped(unmapped: &BTreeMap<UnmappedName, usize>) {
    if unmapped.is_empty() {
        return;
    }
    let mut names: Vec<(&UnmappedName, &usize)> = unmapped.iter().collect();
    names.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    say(
        "structures that no name of the map or of the structure template fits, and are not used (name them under `organs` in a map):",
    );
    for (name, count) in names {
        let meant = name.suggestion.map(|organ| format!(", perhaps {}", organ.key())).unwrap_or_default();
        say(format_args!("  {:?} in {count} cases{meant}", name.name));
    }
}

fn parts_text(dataset: &Dataset) -> String {
    let patients = |part: Part| {
        let cases = dataset.cases(Some(part));
        cases.iter().map(|case| case.entry().patient.clone()).collect::<std::collections::BTreeSet<_>>().len()
    };
    let parts = [Part::Train, Part::Validation, Part::Test].map(|part| format!("{part} {}", patients(part)));
    parts.join(", ")
}

fn say_set(dataset: &Dataset) {
    say(format_args!(
        "{}: {} cases of {} patients ({})",
        dataset.folder().display(),
        dataset.index().cases.len(),
        dataset.n_patients(),
        parts_text(dataset)
    ));
}

fn list(folder: &Path, as_json: bool) -> CommandResult {
    let dataset = Dataset::open(folder)?;
    if as_json {
        say(serde_json::to_string_pretty(dataset.index())?);
        return Ok(ExitCode::SUCCESS);
    }
    say_set(&dataset);
    say(format_args!(
        "{:<26} {:<26} {:<10} {:>6}  voxels (z, y, x) of mm",
        "case", "patient", "part", "organs"
    ));
    for case in &dataset.index().cases {
        let [z, y, x] = case.shape;
        let [dz, dy, dx] = case.spacing_mm;
        let part = case.part.map(|part| part.to_string()).unwrap_or_default();
        say(format_args!(
            "{:<26} {:<26} {part:<10} {:>6}  {z} x {y} x {x} of {dz:.3} x {dy:.3} x {dx:.3}",
            case.id,
            case.patient,
            case.organs.len()
        ));
    }
    say(format_args!(
        "{:<18} {:>5} {:>8}  {:>8} {:>8} {:>8}",
        "organ", "drawn", "believed", "least", "median", "most cm3"
    ));
    for organ in Organ::ALL {
        let found = dataset.index().cases.iter().filter_map(|case| case.organs.get(&organ.key()));
        let mut volumes: Vec<f64> = found.clone().map(|entry| entry.cm3).collect();
        volumes.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (volumes.first(), volumes.last()) {
            let believed = found.filter(|entry| !entry.set_aside).count();
            let median = volumes[volumes.len() / 2];
            say(format_args!(
                "{:<18} {:>5} {believed:>8}  {least:>8.2} {median:>8.2} {most:>8.2}",
                organ.paper_name(),
                volumes.len()
            ));
        }
    }
    dataset.index().notices.iter().for_each(|notice| say(format_args!("licence: {notice}")));
    Ok(ExitCode::SUCCESS)
}

fn show(folder: &Path, ids: &[String], output: Option<&Path>) -> CommandResult {
    let dataset = Dataset::open(folder)?;
    let cases: Vec<StoredCase> = if ids.is_empty() {
        dataset.cases(None)
    } else {
        ids.iter().map(|id| dataset.case(id)).collect::<Result<_, _>>()?
    };
    let output = output.map_or_else(|| folder.join("pictures"), Path::to_owned);
    let template = StructureTemplate::shipped()?;
    for case in &cases {
        let entry = case.entry();
        say(format_args!("{} (patient {})", entry.id, entry.patient));
        for (organ, found) in &entry.organs {
            let doubts = found.doubts.join("; ");
            let aside = if found.set_aside { " [left out of training]" } else { "" };
            say(format_args!("  {organ:<18} {:>8.2} cm3  {doubts}{aside}", found.cm3));
        }
        entry.notes.iter().for_each(|note| say(format_args!("  note: {note}")));
    }
    let bar = bar(cases.len());
    let page = write_page(&cases, &dataset.index().notices, &template, &output, || bar.inc(1))?;
    bar.finish_and_clear();
    say(format_args!("pictures: {}", page.display()));
    Ok(ExitCode::SUCCESS)
}

fn split(folder: &Path, rule: SplitRule) -> CommandResult {
    let is_share = |share: f64| (0.0..1.0).contains(&share);
    if !is_share(rule.validation) || !is_share(rule.test) || rule.validation + rule.test >= 1.0 {
        return Err(format!(
            "--validation {} and --test {} leave nothing to train on: give shares whose sum is below 1",
            rule.validation, rule.test
        )
        .into());
    }
    let mut dataset = Dataset::edit(folder)?;
    if dataset.index().cases.is_empty() {
        dataset.give_up_if_empty();
        return Err(format!("{} holds no case: `oarlock dataset add` first", folder.display()).into());
    }
    dataset.split(rule)?;
    say_set(&dataset);
    say("a model that was trained before has seen patients that measure now: train it again");
    Ok(ExitCode::SUCCESS)
}

fn check_all(folder: &Path, as_json: bool) -> CommandResult {
    let dataset = Dataset::open(folder)?;
    let bar = bar(dataset.index().cases.len());
    let report = check(&dataset, |name| {
        bar.set_message(name.to_owned());
        bar.inc(1);
    });
    bar.finish_and_clear();
    if as_json {
        let report = json!({ "broken": report.broken, "warnings": report.warnings });
        say(serde_json::to_string_pretty(&report)?);
    } else {
        report.warnings.iter().for_each(|warning| say(format_args!("look at {warning}")));
        report.broken.iter().for_each(|broken| say(format_args!("broken {broken}")));
        say_set(&dataset);
        say(format_args!("{} broken, {} to look at", report.broken.len(), report.warnings.len()));
    }
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(folder: &Path, output: &Path, organs: &[String]) -> CommandResult {
    let dataset = Dataset::open(folder)?;
    let known = |name: &String| {
        Organ::from_key(name)
            .ok_or_else(|| format!("there is no organ {name}: config/organs.yaml names the 28"))
    };
    let organs = organs.iter().map(known).collect::<Result<Vec<Organ>, _>>()?;
    let bar = bar(dataset.index().cases.len());
    let exported = export_nnunet(&dataset, &organs, output, || bar.inc(1));
    bar.finish_and_clear();
    let exported = exported?;
    let names: Vec<String> = exported.organs.iter().map(|organ| organ.key()).collect();
    say(format_args!(
        "{} training and {} test cases with {} organs in {}: {}",
        exported.n_train,
        exported.n_test,
        names.len(),
        output.display(),
        names.join(", ")
    ));
    if !exported.left_out.is_empty() {
        say(format_args!("without all of these organs, so left out: {}", exported.left_out.join(", ")));
    }
    if exported.n_overlapping > 0 {
        say(format_args!("{} voxels are in two organs and went to the smaller one", exported.n_overlapping));
    }
    Ok(ExitCode::SUCCESS)
}

fn bar(n_cases: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(n_cases as u64).with_style(style)
}

fn line(bar: &ProgressBar, text: impl std::fmt::Display) {
    if bar.is_hidden() {
        say(text);
    } else {
        bar.println(text.to_string());
    }
}
