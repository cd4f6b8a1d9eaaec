//! A model on many cases, written down: a page for people, a table and a record for programs.
//!
//! Comes in: [`Evaluation`], and pictures that somebody else drew. Goes out: `report.html`, which needs nothing beside
//! it, `report.csv` with one line per case and organ, and `report.json`, what `--json` prints.

mod csv;
mod html;
mod json;
mod paper;
mod plot;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use json::comparison_json;

use super::{Comparison, Judged, Summary};
use crate::learning::dataset::OrganSet;
use crate::settings::StructureTemplate;
use crate::vocabulary::organ::Organ;

/// A model on many cases.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// Name of the model.
    pub model: String,
    /// SHA-256 of its graphs.
    pub fingerprint: String,
    /// What ran it.
    pub provider: String,
    /// What the cases are called together: the folder's name.
    pub data: String,
    /// Day and time, for a reader.
    pub made: String,
    /// The cases in order.
    pub cases: Vec<EvaluatedCase>,
}

/// What is said about one case.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EvaluatedCase {
    /// Its name.
    pub name: String,
    /// Every organ with a truth.
    pub organs: BTreeMap<Organ, Comparison>,
    /// Organs that the model drew, with a truth or without.
    pub drawn: OrganSet,
    /// Drawings of the truth that are not believed, one sentence each.
    pub left_out: Vec<String>,
    /// What the model thought of its contours that have a truth.
    pub judged: Vec<Judged>,
    /// Why the case was not evaluated; it is in no figure.
    pub error: Option<String>,
}

/// A picture of the worst case of an organ.
#[derive(Debug, Clone, PartialEq)]
pub struct WorstPicture {
    /// The name of the case.
    pub case: String,
    /// What was found there.
    pub comparison: Comparison,
    /// The picture.
    pub png: Vec<u8>,
}

/// Why a report was not written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the report cannot be written to {path}: check the folder, its permissions and the free space, or name another with --report"
)]
pub struct ReportError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

impl Evaluation {
    /// The cases that were evaluated.
    fn evaluated(&self) -> impl Iterator<Item = &EvaluatedCase> {
        self.cases.iter().filter(|case| case.error.is_none())
    }

    /// The comparisons of each case that was evaluated.
    #[must_use]
    pub fn organs_by_case(&self) -> Vec<BTreeMap<Organ, Comparison>> {
        self.evaluated().map(|case| case.organs.clone()).collect()
    }

    /// Every organ that has a truth in some case, summed up.
    #[must_use]
    pub fn summaries(&self) -> BTreeMap<Organ, Summary> {
        let of = |organ: Organ| {
            let all: Vec<Comparison> =
                self.evaluated().filter_map(|case| case.organs.get(&organ)).copied().collect();
            (!all.is_empty()).then(|| (organ, Summary::of(&all)))
        };
        Organ::ALL.into_iter().filter_map(of).collect()
    }

    /// What the model thought of all contours that have a truth.
    #[must_use]
    pub fn judged(&self) -> Vec<Judged> {
        self.evaluated().flat_map(|case| case.judged.iter().cloned()).collect()
    }

    /// How many scans the model drew the organ in, whether or not there is a truth to compare with.
    fn n_drawn(&self, organ: Organ) -> usize {
        self.evaluated().filter(|case| case.drawn.contains(organ)).count()
    }

    /// Organs without a truth in any case.
    fn not_measured(&self) -> Vec<Organ> {
        let measured = self.summaries();
        Organ::ALL.into_iter().filter(|organ| !measured.contains_key(organ)).collect()
    }

    /// What `evaluate --json` prints.
    #[must_use]
    pub fn json(&self, template: &StructureTemplate) -> serde_json::Value {
        json::evaluation_json(self, template)
    }

    /// Writes page, table and record: into a folder, which is made, or beside each other where `place` ends in `.html`.
    /// Says which files it wrote, the page first.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn write(
        &self,
        place: &Path,
        template: &StructureTemplate,
        worst: &BTreeMap<Organ, WorstPicture>,
    ) -> Result<Vec<PathBuf>, ReportError> {
        let page = if place.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("html")) {
            place.to_owned()
        } else {
            place.join("report.html")
        };
        let files = [
            (page.clone(), html::page(self, worst)),
            (page.with_extension("csv"), csv::table(self, template)),
            (page.with_extension("json"), format!("{:#}\n", self.json(template))),
        ];
        for (path, text) in &files {
            put(path, text.as_bytes()).map_err(|source| ReportError { path: path.clone(), source })?;
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }
}

/// Writes aside, syncs, renames.
fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".part");
    let mut file = std::fs::File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::learning::evaluate::{AddedPath, SurfaceDistances};
    use crate::pipeline::anatomy::Signs;

    pub(in crate::learning::evaluate) fn comparison(dice: f64, hd95_mm: Option<f64>) -> Comparison {
        let distances = |hd95_mm| SurfaceDistances {
            hd95_mm,
            largest_mm: 2.0 * hd95_mm,
            mean_mm: hd95_mm / 4.0,
            outline_hd95_mm: hd95_mm - 0.5,
        };
        Comparison {
            dice: Some(dice),
            surface_dice: Some([0.5 * dice, 0.75 * dice, dice]),
            distances: hd95_mm.map(distances),
            added_path: AddedPath { voxels: 300, length_mm: 270.0 },
            truth_mm3: 9000.0,
            predicted_mm3: if hd95_mm.is_some() { 7500.0 } else { 0.0 },
        }
    }

    /// Two cases and one that failed; the brain stem of the second was missed.
    pub(in crate::learning::evaluate) fn evaluation() -> Evaluation {
        let organs = |stem: Comparison| {
            BTreeMap::from([(Organ::BrainStem, stem), (Organ::ParotidL, comparison(0.75, Some(4.0)))])
        };
        let case = |name: &str, stem: Comparison| EvaluatedCase {
            name: name.to_owned(),
            organs: organs(stem),
            drawn: OrganSet::of(Organ::ParotidL).union(OrganSet::of(Organ::Larynx)),
            ..EvaluatedCase::default()
        };
        let mut first = case("pt_1", comparison(0.8, Some(3.0)));
        first.drawn = first.drawn.union(OrganSet::of(Organ::BrainStem));
        let signs = Signs {
            detection_probability: 0.5,
            promised_dice: 0.5,
            volume_cm3: 7.5,
            side_ratio: None,
            removed_share: 0.0,
            truncated: false,
            mirror_dice: None,
        };
        let judge = |organ, expected_dice, needs_a_look, dice| Judged {
            organ,
            signs: signs.clone(),
            expected_dice,
            needs_a_look,
            dice,
        };
        first.judged = vec![
            judge(Organ::BrainStem, Some(0.55), true, 0.8),
            judge(Organ::ParotidL, Some(0.25), true, 0.75),
            judge(Organ::Mandible, Some(0.75), false, 0.5),
        ];
        first.left_out = vec!["Larynx left out: 900 cm3".to_owned()];
        let second = case("pt_2, <b>", comparison(0.0, None));
        let failed = EvaluatedCase {
            name: "pt_3".into(),
            error: Some("no CT there".into()),
            ..EvaluatedCase::default()
        };
        Evaluation {
            model: "tiny".into(),
            fingerprint: "c0ffee".into(),
            provider: "CPU".into(),
            data: "part".into(),
            made: "2026-11-26 12:00".into(),
            cases: vec![first, second, failed],
        }
    }

    #[test]
    fn a_report_is_three_files_and_a_failed_case_is_in_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        let template = StructureTemplate::shipped().unwrap();
        let found = evaluation();
        let place = folder.path().join("new/march.html");
        let files = found.write(&place, &template, &BTreeMap::new()).unwrap();
        assert_eq!(files[0], place);
        let mut names: Vec<_> = std::fs::read_dir(folder.path().join("new"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["march.csv", "march.html", "march.json"]);
        let inside = found.write(folder.path(), &template, &BTreeMap::new()).unwrap();
        assert_eq!(inside[1], folder.path().join("report.csv"));
        assert!(found.write(&inside[0].join("x"), &template, &BTreeMap::new()).is_err());
        let stem = &found.summaries()[&Organ::BrainStem];
        assert_eq!((stem.n_cases, stem.n_missed, found.n_drawn(Organ::BrainStem)), (2, 1, 1));
        assert_eq!((found.n_drawn(Organ::Larynx), found.not_measured().len()), (2, 26));
    }
}
