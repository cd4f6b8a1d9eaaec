//! Cases with known truth, from a folder.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use ndarray::Zip;

use crate::learning::dataset::store::is_dataset;
use crate::learning::dataset::{
    Case, Dataset, OpenKbpPatient, OrganSet, Part, StoredCase, doubts, list_open_kbp,
};
use crate::pipeline::contours::fill;
use crate::pipeline::rtstruct;
use crate::pipeline::series::{AsideReason, CtSeries, FoundSeries};
use crate::pipeline::volume::HuVolume;
use crate::settings::StructureTemplate;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::RegionMask;

/// Where a case lies.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldOut {
    /// A patient of the OpenKBP layout.
    OpenKbp(OpenKbpPatient),
    /// A folder with one CT series and one RTSTRUCT.
    Dicom(PathBuf),
    /// A case of a data set of ours.
    Stored(StoredCase),
}

/// A CT with its truth.
#[derive(Debug, Clone)]
pub struct TruthCase {
    /// The CT on its own grid.
    pub volume: HuVolume,
    /// The organs that somebody drew, on the CT's grid; an organ that is not here says nothing.
    pub truth: BTreeMap<Organ, RegionMask>,
    /// Drawings that are not believed and therefore not in `truth`.
    pub set_aside: Vec<(Organ, String)>,
}

/// Why there are no cases in a folder.
#[derive(Debug, thiserror::Error)]
pub enum HeldOutError {
    /// The folder.
    #[error("{folder} cannot be listed")]
    List {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a case.
    #[error(
        "{folder} holds {found} structure sets beside its CT, a case needs one: give a folder of cases (CT series and \
         RTSTRUCT each) or of the OpenKBP layout (manifest.csv)"
    )]
    StructureSets {
        /// Which.
        folder: PathBuf,
        /// How many.
        found: usize,
    },
    /// A part of a data set that is empty.
    #[error(
        "no case of {folder} is in the part {part}: choose another with --split, or draw the parts anew with `oarlock dataset split`"
    )]
    NoCase {
        /// Which data set.
        folder: PathBuf,
        /// Which part.
        part: Part,
    },
    /// No organ of ours.
    #[error("no ROI of {path} goes by a name of the structure template: {found}")]
    Names {
        /// Which structure set.
        path: PathBuf,
        /// Names there.
        found: String,
    },
}

type Failure = Box<dyn Error + Send + Sync>;

impl HeldOut {
    /// The cases of a folder in order of name: `part` of a data set of ours, or all of it; an OpenKBP part where it has a
    /// `manifest.csv`; else one case for each folder in it, or the folder itself where it has no folder with DICOM files
    /// of its own.
    ///
    /// # Errors
    /// A folder, index or manifest that cannot be read; a part without a case.
    pub fn list(folder: &Path, part: Option<Part>) -> Result<Vec<Self>, Failure> {
        if is_dataset(folder) {
            let cases = Dataset::open(folder)?.cases(part);
            if let (true, Some(part)) = (cases.is_empty(), part) {
                return Err(HeldOutError::NoCase { folder: folder.to_owned(), part }.into());
            }
            return Ok(cases.into_iter().map(Self::Stored).collect());
        }
        if folder.join("manifest.csv").is_file() {
            return Ok(list_open_kbp(folder)?.into_iter().map(Self::OpenKbp).collect());
        }
        let failed = |source| HeldOutError::List { folder: folder.to_owned(), source };
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        folders.sort();
        let is_case = |path: &PathBuf| structure_sets(path).is_ok_and(|found| !found.is_empty());
        folders.retain(is_case);
        if folders.is_empty() {
            folders.push(folder.to_owned());
        }
        Ok(folders.into_iter().map(Self::Dicom).collect())
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::OpenKbp(patient) => patient.name(),
            Self::Dicom(folder) => {
                folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
            }
            Self::Stored(case) => case.name().to_owned(),
        }
    }

    /// Reads CT and truth; with `as_drawn` also drawings that are not believed.
    ///
    /// # Errors
    /// Files that are missing, broken or refused; no truth; no ROI with a name that the template knows.
    pub fn read(&self, template: &StructureTemplate, as_drawn: bool) -> Result<TruthCase, Failure> {
        let (case, set_aside) = match self {
            Self::OpenKbp(patient) => {
                let case = patient.read_as_drawn()?;
                let doubted = doubts(&case).into_iter().map(|(organ, doubt)| (organ, doubt.to_string()));
                (case, doubted.collect())
            }
            Self::Stored(case) => {
                let organs = case.entry().organs.iter().filter(|(_, entry)| entry.set_aside);
                let doubted =
                    organs.filter_map(|(key, entry)| Some((Organ::from_key(key)?, entry.doubts.join("; "))));
                (case.read_as_drawn()?, doubted.collect())
            }
            Self::Dicom(folder) => return read_dicom(folder, template),
        };
        Ok(truth_of(case, if as_drawn { Vec::new() } else { set_aside }))
    }
}

fn truth_of(case: Case, set_aside: Vec<(Organ, String)>) -> TruthCase {
    let believed = |organ: &Organ| set_aside.iter().all(|(doubted, _)| doubted != organ);
    let truth = case.annotated.iter().filter(believed).map(|organ| {
        let bit = OrganSet::of(organ).bits();
        let whole = Zip::from(&case.organs).map_collect(|bits| bits & bit != 0);
        (organ, RegionMask::from_whole(whole.view()))
    });
    let truth = truth.filter(|(_, mask)| mask.n_voxels() > 0).collect();
    TruthCase { volume: HuVolume { hu: case.hu, grid: case.grid }, truth, set_aside }
}

fn structure_sets(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let aside = FoundSeries::in_folder(folder)?.aside;
    let is_structure_set = |reason: &AsideReason| matches!(reason, AsideReason::OtherModality { modality } if modality == "RTSTRUCT");
    Ok(aside.into_iter().filter(|file| is_structure_set(&file.reason)).map(|file| file.path).collect())
}

fn read_dicom(folder: &Path, template: &StructureTemplate) -> Result<TruthCase, Failure> {
    let found = structure_sets(folder)?;
    let [path] = found.as_slice() else {
        return Err(HeldOutError::StructureSets { folder: folder.to_owned(), found: found.len() }.into());
    };
    let series = CtSeries::from_folder(folder)?;
    let (rois, warnings) = rtstruct::read(path)?.on_series(&series);
    for warning in warnings {
        tracing::warn!(case = %folder.display(), warning, "truth");
    }
    let mut truth = BTreeMap::new();
    for (name, contours) in &rois {
        if let Some(entry) = template.organ_named(name).filter(|_| !contours.contours.is_empty()) {
            truth.insert(entry.organ, fill(contours, &series.grid, rtstruct::FILL_RULE));
        }
    }
    if truth.is_empty() {
        let names: Vec<&str> = rois.iter().map(|(name, _)| name.as_str()).collect();
        return Err(HeldOutError::Names { path: path.clone(), found: names.join(", ") }.into());
    }
    Ok(TruthCase { volume: HuVolume::read(&series)?, truth, set_aside: Vec::new() })
}
