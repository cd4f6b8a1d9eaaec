//! Which patients train, choose and measure.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::index::{CaseEntry, Part, SplitRule};

/// Gives every case without a part one. All cases of a patient get the same; who has one keeps it; new patients are
/// drawn in an order that depends on the seed and on who they are alone, each into the part that lacks most.
pub(super) fn assign(rule: &SplitRule, cases: &mut [CaseEntry]) {
    let mut part_of: BTreeMap<String, Part> = BTreeMap::new();
    for case in cases.iter() {
        if let Some(part) = case.part {
            part_of.insert(case.patient.clone(), part);
        }
    }
    let patients: BTreeSet<&str> = cases.iter().map(|case| case.patient.as_str()).collect();
    let targets = targets(rule, patients.len());
    let mut new: Vec<&str> = patients.into_iter().filter(|patient| !part_of.contains_key(*patient)).collect();
    new.sort_by_key(|patient| rank(rule.seed, patient));
    let new: Vec<String> = new.into_iter().map(str::to_owned).collect();
    for patient in new {
        let have = |part: Part| part_of.values().filter(|found| **found == part).count();
        let lacks = |(part, wanted): &(Part, usize)| {
            let (wanted, have) = (*wanted as f64, have(*part) as f64);
            (wanted - have) / wanted.max(1e-9)
        };
        let lacking = targets.iter().filter(|(part, wanted)| have(*part) < *wanted);
        let chosen =
            lacking.max_by(|a, b| lacks(a).total_cmp(&lacks(b))).map_or(Part::Train, |(part, _)| *part);
        part_of.insert(patient, chosen);
    }
    for case in cases {
        case.part = part_of.get(&case.patient).copied();
    }
}

/// How many patients each part should have. From three patients on none is empty unless its share is zero.
fn targets(rule: &SplitRule, n_patients: usize) -> [(Part, usize); 3] {
    let at_least = |share: f64| usize::from(share > 0.0 && n_patients >= 3);
    let wanted = |share: f64| whole(share * n_patients as f64).max(at_least(share));
    let test = wanted(rule.test).min(n_patients.saturating_sub(1));
    let validation = wanted(rule.validation).min(n_patients.saturating_sub(1 + test));
    [(Part::Validation, validation), (Part::Test, test), (Part::Train, n_patients - test - validation)]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
fn whole(value: f64) -> usize {
    value.round().max(0.0) as usize
}

fn rank(seed: u64, patient: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(patient);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(id: &str, patient: &str) -> CaseEntry {
        CaseEntry {
            id: id.to_owned(),
            patient: patient.to_owned(),
            part: None,
            layout: "nrrd".to_owned(),
            notice: None,
            shape: [3, 4, 5],
            spacing_mm: [3.0, 1.0, 2.0],
            origin_mm: [0.0; 3],
            organs: BTreeMap::new(),
            notes: Vec::new(),
            image_sha256: String::new(),
            organs_sha256: String::new(),
        }
    }

    fn counts(cases: &[CaseEntry]) -> [usize; 3] {
        [Part::Train, Part::Validation, Part::Test]
            .map(|part| cases.iter().filter(|case| case.part == Some(part)).count())
    }

    #[test]
    fn shares_are_kept_and_patients_stay_together_and_where_they_are() {
        let rule = SplitRule::default();
        let mut cases: Vec<CaseEntry> = (0..30).map(|n| case(&format!("c{n}"), &format!("p{n}"))).collect();
        assign(&rule, &mut cases);
        assert_eq!(counts(&cases), [21, 3, 6]);
        let mut turned: Vec<CaseEntry> =
            (0..30).rev().map(|n| case(&format!("c{n}"), &format!("p{n}"))).collect();
        assign(&rule, &mut turned);
        turned.reverse();
        assert_eq!(turned, cases);
        let before = cases.clone();
        cases.extend((30..40).map(|n| case(&format!("c{n}"), &format!("p{n}"))));
        cases.push(case("c5-again", "p5"));
        assign(&rule, &mut cases);
        assert_eq!(&cases[..30], &before[..]);
        assert_eq!(counts(&cases[..40]), [28, 4, 8]);
        assert_eq!(cases[40].part, cases[5].part);
        let mut other: Vec<CaseEntry> = (0..30).map(|n| case(&format!("c{n}"), &format!("p{n}"))).collect();
        assign(&SplitRule { seed: 2, ..rule }, &mut other);
        assert_ne!(other, before);
    }

    #[test]
    fn few_patients_and_shares_of_zero() {
        let split = |n: usize, rule: SplitRule| {
            let mut cases: Vec<CaseEntry> =
                (0..n).map(|n| case(&format!("c{n}"), &format!("p{n}"))).collect();
            assign(&rule, &mut cases);
            counts(&cases)
        };
        let rule = SplitRule::default();
        assert_eq!(split(1, rule), [1, 0, 0]);
        assert_eq!(split(3, rule), [1, 1, 1]);
        assert_eq!(split(5, SplitRule { test: 0.0, ..rule }), [4, 1, 0]);
    }
}
