//! Whether a data set can be trained on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::aside::hexadecimal;
use super::{Dataset, IMAGE, ORGANS, StoredCase, present};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::organ::Organ;

/// What was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CheckReport {
    /// What makes training or measuring wrong, one sentence each.
    pub broken: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Reads every case and compares it with the index; `seen` is called after each.
pub fn check(dataset: &Dataset, mut seen: impl FnMut(&str)) -> CheckReport {
    let mut report = CheckReport::default();
    let cases = dataset.cases(None);
    for case in &cases {
        if let Err(found) = check_case(case) {
            report.broken.push(format!("{}: {found}: import it again", case.name()));
        }
        seen(case.name());
    }
    report.broken.extend(dataset.two_patients().err().map(|error| error.to_string()));
    patients(dataset, &mut report);
    for (organ, cases) in organs(&cases) {
        if cases.believed == 0 && cases.drawn > 0 {
            report.warnings.push(format!(
                "{}: drawn in {} cases and believed in none: look at them with `oarlock dataset show`",
                organ.paper_name(),
                cases.drawn
            ));
        }
    }
    for case in &cases {
        for (organ, entry) in &case.entry().organs {
            for doubt in &entry.doubts {
                let aside = if entry.set_aside { " (left out of training)" } else { "" };
                report.warnings.push(format!("{}: {organ}: {doubt}{aside}", case.name()));
            }
        }
    }
    let known: BTreeSet<&str> = cases.iter().map(StoredCase::name).collect();
    let entries = std::fs::read_dir(dataset.folder().join("cases")).into_iter().flatten().flatten();
    let mut strangers: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    strangers.retain(|name| !known.contains(name.as_str()));
    strangers.sort();
    for name in strangers {
        report.warnings.push(format!("cases/{name} is not in the index: it is not used, and can be removed"));
    }
    report
}

/// Parts, licences and images that occur twice.
fn patients(dataset: &Dataset, report: &mut CheckReport) {
    let index = dataset.index();
    let mut part_of = BTreeMap::new();
    let mut image_of = BTreeMap::new();
    for case in &index.cases {
        let Some(part) = case.part else {
            report.broken.push(format!("{}: it belongs to no part: run `oarlock dataset split`", case.id));
            continue;
        };
        let (_, first) = part_of.entry(&case.patient).or_insert((&case.id, part));
        if *first != part {
            report.broken.push(format!(
                "patient {} is in {first} and in {part}: what is measured was trained on; run `oarlock dataset split`",
                case.patient
            ));
        }
        if let Some(other) = image_of.insert(&case.image_sha256, &case.id) {
            report.broken.push(format!("{other} and {} are the same image", case.id));
        }
        if case.notice.is_none_or(|notice| notice >= index.notices.len()) {
            report.warnings.push(format!("{}: nobody said on which licence it came", case.id));
        }
    }
    for part in [super::Part::Train, super::Part::Validation, super::Part::Test] {
        if dataset.n_patients() > 1 && !part_of.values().any(|(_, found)| *found == part) {
            let why = match part {
                super::Part::Train => "there is nothing to train on",
                super::Part::Validation => "nothing chooses the checkpoint",
                super::Part::Test => "the finished model is measured on nobody",
            };
            report.warnings.push(format!("no patient is in the part {part}: {why}"));
        }
    }
}

fn check_case(case: &StoredCase) -> Result<(), String> {
    let entry = case.entry();
    for (file, wanted) in [(IMAGE, &entry.image_sha256), (ORGANS, &entry.organs_sha256)] {
        let found =
            sha256_of(&case.folder.join(file)).map_err(|error| format!("{file} cannot be read ({error})"))?;
        if found != *wanted {
            return Err(format!("{file} is not what was imported"));
        }
    }
    let read = case.read_as_drawn().map_err(|error| with_causes(&error))?;
    let there = present(&read.organs);
    if there != entry.drawn() {
        return Err("its organs are not those of the index".to_owned());
    }
    Ok(())
}

fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hexadecimal(hash))
}

struct Count {
    drawn: usize,
    believed: usize,
}

fn organs(cases: &[StoredCase]) -> Vec<(Organ, Count)> {
    let count = |organ: Organ| Count {
        drawn: cases.iter().filter(|case| case.entry().drawn().contains(organ)).count(),
        believed: cases.iter().filter(|case| case.entry().believed().contains(organ)).count(),
    };
    Organ::ALL.into_iter().map(|organ| (organ, count(organ))).collect()
}
