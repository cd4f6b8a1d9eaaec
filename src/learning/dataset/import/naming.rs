//! Which structure of theirs is which organ of ours.

use std::collections::BTreeMap;

use super::fault::Fault;
use crate::settings::{DatasetMap, StructureTemplate, plain};
use crate::vocabulary::organ::Organ;

/// What a structure of theirs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// One organ.
    Organ(Organ),
    /// Part of the n-th join of the map.
    Part(usize),
    /// The n-th pair of the map.
    Pair(usize),
    /// Known to be none of ours.
    Ignored,
    /// Nobody knows.
    Unknown,
}

/// A name that nothing knows, and the nearest one that something does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnmappedName {
    /// Theirs.
    pub name: String,
    /// What a person may want it to be; never taken by itself.
    pub suggestion: Option<Organ>,
}

/// Names of theirs against those of a map and of the structure template.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming<'a> {
    pub(super) map: &'a DatasetMap,
    pub(super) template: &'a StructureTemplate,
}

impl Naming<'_> {
    /// What this name means.
    pub(super) fn meaning(&self, name: &str) -> Meaning {
        let is = |other: &str| plain(other) == plain(name);
        if self.map.ignores(name) {
            return Meaning::Ignored;
        }
        if let Some(join) = self.map.joins.iter().position(|join| join.of.iter().any(|part| is(part))) {
            return Meaning::Part(join);
        }
        if let Some(pair) = self.map.pairs.iter().position(|pair| is(&pair.name)) {
            return Meaning::Pair(pair);
        }
        let by_template =
            || self.template.organ_named(name).filter(|_| self.map.synonyms).map(|entry| entry.organ);
        self.map.organ_named(name).or_else(by_template).map_or(Meaning::Unknown, Meaning::Organ)
    }

    /// The organ whose name is nearest to one that nothing knows, within a third of its letters.
    pub(super) fn suggestion(&self, name: &str) -> Option<Organ> {
        let wanted: Vec<char> = plain(name).chars().take(LONGEST_NAME).collect();
        let near = Organ::ALL.into_iter().flat_map(|organ| {
            let names = self.template.entry(organ).names();
            names.map(move |known| (organ, plain(known).chars().collect::<Vec<char>>())).collect::<Vec<_>>()
        });
        let near = near.map(|(organ, known)| (edits(&wanted, &known), organ));
        let (distance, organ) = near.min_by_key(|(distance, _)| *distance)?;
        (distance * 3 <= wanted.len()).then_some(organ)
    }

    /// The structures of a case, organ by organ: which of `names` make it up. Also what is wrong, and what to say.
    pub(super) fn sort(&self, names: &[String]) -> Sorted {
        let mut sorted = Sorted::default();
        let mut whole: BTreeMap<Organ, Vec<usize>> = BTreeMap::new();
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            match self.meaning(name) {
                Meaning::Organ(organ) => whole.entry(organ).or_default().push(index),
                Meaning::Part(join) => parts.entry(join).or_default().push(index),
                Meaning::Pair(pair) => sorted.pairs.push((pair, index)),
                Meaning::Ignored => {}
                Meaning::Unknown => sorted.unmapped.push(name.clone()),
            }
        }
        for (pair, index) in &sorted.pairs {
            let pair = &self.map.pairs[*pair];
            for organ in [pair.left, pair.right] {
                whole.entry(organ).or_default().push(*index);
            }
        }
        for (join, found) in parts {
            let join = &self.map.joins[join];
            let named =
                |part: &String| found.iter().filter(|index| plain(&names[**index]) == plain(part)).count();
            let text = |indices: &[usize]| {
                indices.iter().map(|index| names[*index].clone()).collect::<Vec<_>>().join(", ")
            };
            if whole.contains_key(&join.organ) {
                sorted.notes.push(format!(
                    "{} is drawn whole, its parts {} are not used",
                    join.organ.key(),
                    text(&found)
                ));
            } else if join.of.iter().any(|part| named(part) == 0) {
                sorted.notes.push(format!(
                    "{} is left out: of its parts {} there is only {}",
                    join.organ.key(),
                    join.of.join(", "),
                    text(&found)
                ));
            } else if found.len() > join.of.len() {
                sorted.faults.push(self.two_for_one(join.organ, &found, names));
            } else {
                sorted.organs.insert(join.organ, found);
            }
        }
        for (organ, found) in whole {
            if found.len() > 1 {
                sorted.faults.push(self.two_for_one(organ, &found, names));
            } else if !sorted.pairs.iter().any(|(_, index)| found.contains(index)) {
                sorted.organs.insert(organ, found);
            }
        }
        let doubled = |organ: Organ| {
            sorted
                .faults
                .iter()
                .any(|fault| matches!(fault, Fault::TwoForOne { organ: two, .. } if *two == organ.key()))
        };
        let pairs: Vec<(usize, usize)> = std::mem::take(&mut sorted.pairs);
        sorted.pairs = pairs
            .into_iter()
            .filter(|(pair, _)| !doubled(self.map.pairs[*pair].left) && !doubled(self.map.pairs[*pair].right))
            .collect();
        sorted
    }

    fn two_for_one(&self, organ: Organ, found: &[usize], names: &[String]) -> Fault {
        let names = found.iter().map(|index| format!("{:?}", names[*index])).collect();
        Fault::TwoForOne { organ: organ.key(), names }
    }
}

/// What the structures of a case are.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Indices of the structures that make up each organ.
    pub(super) organs: BTreeMap<Organ, Vec<usize>>,
    /// Pairs of the map, and the structure of each.
    pub(super) pairs: Vec<(usize, usize)>,
    /// Names that nothing knows.
    pub(super) unmapped: Vec<String>,
    pub(super) faults: Vec<Fault>,
    pub(super) notes: Vec<String>,
}

/// Longest name that is compared.
const LONGEST_NAME: usize = 64;

/// Insertions, deletions and replacements between two names (Levenshtein).
fn edits(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, one) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(one != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sort(names: &[&str], map: &str) -> Sorted {
        let map = DatasetMap::named_or_read(Path::new(map)).unwrap();
        let template = StructureTemplate::shipped().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Naming { map: &map, template: &template }.sort(&names)
    }

    #[test]
    fn synonyms_joins_and_doubles() {
        let sorted = sort(&["Parotid LT", "PTV_60", "Mandible_R", "MANDIBLE L", "Parotid_R +5mm"], "any");
        assert_eq!(sorted.organs[&Organ::ParotidL], [0]);
        assert_eq!(sorted.organs[&Organ::Mandible], [2, 3]);
        assert_eq!(sorted.unmapped, ["PTV_60", "Parotid_R +5mm"]);
        assert!(sorted.faults.is_empty() && sorted.organs.len() == 2);

        let doubled = sort(&["Parotid_L", "L Parotid", "Mandible_L"], "any");
        assert!(doubled.organs.is_empty(), "{:?}", doubled.organs);
        let said = doubled.faults[0].to_string();
        assert!(said.contains("\"Parotid_L\" and \"L Parotid\"") && said.contains("ParotidL"), "{said}");
        assert!(doubled.notes[0].contains("only Mandible_L"), "{:?}", doubled.notes);

        let both = sort(&["Mandible", "Mandible_L", "Mandible_R"], "any");
        assert_eq!(both.organs[&Organ::Mandible], [0]);
        assert_eq!(sort(&["SpinalCord", "Cord"], "pddca").organs.len(), 0);
    }

    #[test]
    fn the_nearest_name_is_proposed_and_nothing_far() {
        let map = DatasetMap::named_or_read(Path::new("any")).unwrap();
        let template = StructureTemplate::shipped().unwrap();
        let naming = Naming { map: &map, template: &template };
        assert_eq!(naming.suggestion("Parotis L"), Some(Organ::ParotidL));
        assert_eq!(naming.suggestion("Larnyx"), Some(Organ::Larynx));
        assert_eq!(naming.suggestion("PTV_60"), None);
        assert_eq!(naming.meaning("Larnyx"), Meaning::Unknown);
        assert_eq!(edits(&['a', 'b', 'c'], &['b', 'c', 'd']), 2);
    }
}
