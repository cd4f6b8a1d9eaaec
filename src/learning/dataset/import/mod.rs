//! Cases out of other people's folders.
//!
//! Comes in: a folder in one of the layouts, the map of its names. Goes out: one [`NewCase`] after the other, on an
//! axial grid, with its annotated organs; and for each case that is refused, every reason.

mod dicom;
mod fault;
mod files;
mod naming;
mod paint;
mod rasterise;
mod upright;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::Array3;
use sha2::{Digest, Sha256};

pub use fault::Fault;
pub use naming::UnmappedName;

use super::store::Part;
use super::{Case, DatasetError, OpenKbpPatient, OrganSet, list_open_kbp};
use crate::settings::{DatasetMap, FilePattern, SettingsError, StructureTemplate};
use crate::vocabulary::organ::Organ;
use naming::Naming;
use paint::Painted;
use upright::{Upright, axial};

/// How the files of a data set lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// CT series and structure sets, anywhere below the folder.
    Dicom,
    /// nnU-Net's raw folder: dataset.json, imagesTr, labelsTr.
    NnUnet,
    /// `<case>/<case>_IMG_CT.nrrd`, `<case>/<case>_OAR_<organ>.seg.nrrd`.
    HanSeg,
    /// `<case>/ct.nii.gz`, `<case>/segmentations/<organ>.nii.gz`.
    TotalSegmentator,
    /// `<case>/img.nrrd`, `<case>/structures/<organ>.nrrd`.
    Nrrd,
    /// manifest.csv, `<case>/ct_raw.nii.gz`, `<case>/labels.nii.gz`.
    OpenKbp,
    /// One folder per case, as the map says.
    Files,
}

impl Layout {
    /// The shipped map that goes with it.
    fn map(self) -> &'static str {
        match self {
            Self::HanSeg => "han-seg",
            Self::TotalSegmentator => "totalsegmentator",
            Self::OpenKbp => "openkbp",
            Self::Dicom | Self::NnUnet | Self::Nrrd | Self::Files => "any",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dicom => "dicom",
            Self::NnUnet => "nnunet",
            Self::HanSeg => "hanseg",
            Self::TotalSegmentator => "totalsegmentator",
            Self::Nrrd => "nrrd",
            Self::OpenKbp => "openkbp",
            Self::Files => "files",
        }
    }

    /// The layout of a folder by what lies in it.
    fn of(folder: &Path) -> Result<Self, ImportError> {
        if folder.join("imagesTr").is_dir() && folder.join("dataset.json").is_file() {
            return Ok(Self::NnUnet);
        }
        if !open_kbp_parts(folder).is_empty() {
            return Ok(Self::OpenKbp);
        }
        for layout in [Self::HanSeg, Self::TotalSegmentator, Self::Nrrd] {
            if !files::find(folder, &pattern(layout), layout.name())?.is_empty() {
                return Ok(layout);
            }
        }
        Ok(Self::Dicom)
    }
}

fn pattern(layout: Layout) -> FilePattern {
    let (image, organ) = match layout {
        Layout::HanSeg => ("{case}_IMG_CT", "{case}_OAR_{organ}"),
        Layout::TotalSegmentator => ("ct", "segmentations/{organ}"),
        _ => ("img", "structures/{organ}"),
    };
    FilePattern { image: image.to_owned(), organ: organ.to_owned() }
}

/// Why a folder cannot be imported at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A folder or list that cannot be read.
    #[error("could not read {}", path.display())]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More than any data set has.
    #[error("{} holds more than {most} files: import it in parts", path.display())]
    TooMany {
        /// Which folder.
        path: PathBuf,
        /// The limit.
        most: usize,
    },
    /// A dataset.json that is not nnU-Net's.
    #[error("{} is not nnU-Net's dataset.json ({found}): wanted labels with a name and a number each", path.display())]
    NnUnet {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// A folder of ours.
    #[error("{} is a data set of ours already: give the folder that its cases come from", path.display())]
    IsDataset {
        /// Which folder.
        path: PathBuf,
    },
    /// No map for a layout of one's own.
    #[error("the layout `files` needs a map (--map) that says under `files` where image and masks lie")]
    NoPattern,
    /// No case.
    #[error(
        "no case in {} by the layout {layout}: give the folder above the cases, and --layout or a map with `files` where it lies otherwise",
        path.display()
    )]
    Nothing {
        /// Which folder.
        path: PathBuf,
        /// What was looked for.
        layout: &'static str,
    },
    /// The OpenKBP manifest.
    #[error("the OpenKBP layout is broken")]
    OpenKbp(#[source] DatasetError),
    /// The map.
    #[error("the map of names cannot be used")]
    Map(#[source] SettingsError),
}

/// What an import needs to know.
#[derive(Debug)]
pub struct Importer<'a> {
    /// Names of theirs.
    pub map: &'a DatasetMap,
    /// Our names for the organs.
    pub template: &'a StructureTemplate,
    /// Structure Set Label of the structure sets that are meant.
    pub label: Option<String>,
    /// Whether a case is taken without its faulty organs.
    pub leave_out: bool,
    /// Makes patients unrecognisable: their number is a hash of this and of who they are.
    pub salt: &'a [u8],
}

/// A case as it was found, not yet read.
#[derive(Debug)]
pub struct FoundCase {
    /// What messages call it: its place in the folder. It may hold a patient's name and is not kept.
    pub name: String,
    place: Place,
    /// The part that the publisher put it in.
    split: Option<Part>,
}

#[derive(Debug)]
enum Place {
    Dicom(Box<dicom::DicomCase>),
    Files(Box<files::FileCase>),
    OpenKbp(OpenKbpPatient),
}

/// What a folder holds.
#[derive(Debug)]
pub struct Findings {
    /// Cases, in order.
    pub cases: Vec<FoundCase>,
    /// What is no case, by name, and why.
    pub faults: Vec<(String, Fault)>,
    /// CT series without a structure set.
    pub without_structures: usize,
}

/// A case, ready to be kept.
#[derive(Debug)]
pub struct NewCase {
    /// The case; its name is its id in the data set.
    pub case: Case,
    /// Whose it is: a number, or the name of the case.
    pub patient: String,
    /// The layout that it came in.
    pub layout: &'static str,
    /// The part that the publisher put it in.
    pub split: Option<Part>,
    /// Which structures each organ was made of.
    pub from: BTreeMap<Organ, Vec<String>>,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
    /// Structures that nothing knows.
    pub unmapped: Vec<UnmappedName>,
}

/// The layout of a folder and the map for it: those that were asked for, else what its files say.
///
/// # Errors
/// [`ImportError`]: a folder that cannot be read, a map that cannot be used.
pub fn layout_and_map(
    folder: &Path,
    layout: Option<Layout>,
    map: Option<&Path>,
) -> Result<(Layout, DatasetMap), ImportError> {
    if super::store::is_dataset(folder) {
        return Err(ImportError::IsDataset { path: folder.to_owned() });
    }
    let given = map.map(DatasetMap::named_or_read).transpose().map_err(ImportError::Map)?;
    let layout = match (layout, &given) {
        (Some(layout), _) => layout,
        (None, Some(map)) if map.files.is_some() => Layout::Files,
        _ => Layout::of(folder)?,
    };
    let map = match given {
        Some(map) => map,
        None => DatasetMap::named_or_read(Path::new(layout.map())).map_err(ImportError::Map)?,
    };
    Ok((layout, map))
}

/// Lists the cases of a folder.
///
/// # Errors
/// [`ImportError`]: unreadable, no case at all.
pub fn find(folder: &Path, layout: Layout, importer: &Importer<'_>) -> Result<Findings, ImportError> {
    let mut findings = Findings { cases: Vec::new(), faults: Vec::new(), without_structures: 0 };
    match layout {
        Layout::Dicom => findings = dicom::find(folder, importer)?,
        Layout::NnUnet => findings.cases = files::find_nnunet(folder)?,
        Layout::OpenKbp => {
            for (part, split) in open_kbp_parts(folder) {
                let patients = list_open_kbp(&part).map_err(ImportError::OpenKbp)?;
                let case = |patient: OpenKbpPatient| FoundCase {
                    name: patient.name(),
                    place: Place::OpenKbp(patient),
                    split,
                };
                findings.cases.extend(patients.into_iter().map(case));
            }
        }
        Layout::Files => {
            let pattern = importer.map.files.as_ref().ok_or(ImportError::NoPattern)?;
            findings.cases = files::find(folder, pattern, layout.name())?;
        }
        Layout::HanSeg | Layout::TotalSegmentator | Layout::Nrrd => {
            findings.cases = files::find(folder, &pattern(layout), layout.name())?;
        }
    }
    if findings.cases.is_empty() && findings.faults.is_empty() {
        return Err(ImportError::Nothing { path: folder.to_owned(), layout: layout.name() });
    }
    Ok(findings)
}

/// Parts of the OpenKBP layout in a folder; a part alone says nothing of training or validation.
fn open_kbp_parts(folder: &Path) -> Vec<(PathBuf, Option<Part>)> {
    if folder.join("manifest.csv").is_file() {
        return vec![(folder.to_owned(), None)];
    }
    let parts = [("train", Part::Train), ("validation", Part::Validation), ("test", Part::Test)];
    let parts = parts.map(|(name, part)| (folder.join(name), Some(part)));
    parts.into_iter().filter(|(part, _)| part.join("manifest.csv").is_file()).collect()
}

impl FoundCase {
    /// Reads image and organs.
    ///
    /// # Errors
    /// Every [`Fault`] of the case.
    pub fn read(self, importer: &Importer<'_>) -> Result<NewCase, Vec<Fault>> {
        let split = self.split;
        let case = match self.place {
            Place::Dicom(case) => case.read(importer),
            Place::Files(case) => case.read(&self.name, importer),
            Place::OpenKbp(patient) => read_open_kbp(&patient, importer),
        }?;
        Ok(NewCase { split, ..case })
    }
}

fn read_open_kbp(patient: &OpenKbpPatient, importer: &Importer<'_>) -> Result<NewCase, Vec<Fault>> {
    let mut case = patient.read_as_drawn().map_err(|error| vec![Fault::OpenKbp(error)])?;
    let name = patient.name();
    case.name = plain_id(&name);
    let from = case.annotated.iter().map(|organ| (organ, vec![organ.key()])).collect();
    let patient = plain_id(importer.map.patient_of(&name));
    let (layout, notes, unmapped) = (Layout::OpenKbp.name(), Vec::new(), Vec::new());
    Ok(NewCase { case, patient, layout, split: None, from, notes, unmapped })
}

/// What a reader of a layout knows beside the voxels.
struct Parts {
    id: String,
    patient: String,
    layout: &'static str,
    notes: Vec<String>,
    unmapped: Vec<String>,
    names: Vec<String>,
}

impl<'a> Importer<'a> {
    fn naming(&self) -> Naming<'a> {
        Naming { map: self.map, template: self.template }
    }

    /// A number that stands for somebody, the same whenever the salt is.
    fn pseudonym(&self, prefix: &str, who: &[u8]) -> String {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(prefix);
        hash.update(who);
        let digits: String = hash.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        format!("{prefix}{digits}")
    }

    /// Puts a case together; `volume` gives the image upright, nothing below air, and how the organs are turned upright.
    fn finish(
        &self,
        parts: Parts,
        painted: Painted,
        mut faults: Vec<Fault>,
        volume: impl FnOnce() -> Result<(Array3<i16>, Upright), Fault>,
    ) -> Result<NewCase, Vec<Fault>> {
        let mut notes = parts.notes;
        faults.extend(painted.faults);
        if self.leave_out {
            let (organs, others): (Vec<Fault>, Vec<Fault>) =
                faults.into_iter().partition(Fault::is_of_an_organ);
            notes.extend(organs.iter().map(|fault| format!("left out: {fault}")));
            faults = others;
        }
        if painted.from.is_empty() && faults.is_empty() {
            faults.push(Fault::NothingMapped { found: some_of(&parts.names) });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let one = |fault| vec![fault];
        let (hu, upright) = volume().map_err(one)?;
        let organs = upright.turn(painted.organs);
        let (hu, organs, grid, resampled) = axial(hu, organs, upright.grid).map_err(one)?;
        if resampled {
            notes.push("the image is oblique: resampled to axial slices of the same spacing".to_owned());
        }
        let mut case = Case { name: parts.id, hu, organs, annotated: OrganSet::EMPTY, grid };
        case.annotated = if resampled { case.present() } else { painted.present };
        let mut from = painted.from;
        from.retain(|organ, _| case.annotated.contains(*organ));
        let naming = self.naming();
        let unmapped = parts.unmapped.into_iter();
        let unmapped = unmapped.map(|name| UnmappedName { suggestion: naming.suggestion(&name), name });
        Ok(NewCase {
            case,
            patient: parts.patient,
            layout: parts.layout,
            split: None,
            from,
            notes,
            unmapped: unmapped.collect(),
        })
    }
}

/// The first names of a list, and how many more.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 if names.is_empty() => "there is no structure at all".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Longest id of a case.
const LONGEST_ID: usize = 64;

/// A name as id: letters, digits, `-` and `_`.
fn plain_id(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let id: String = name.chars().map(plain).take(LONGEST_ID).collect();
    if id.is_empty() { "case".to_owned() } else { id }
}

/// Most files and folders of an import: a thousand cases of a thousand slices.
const MOST_FILES: usize = 1_000_000;

/// How deep folders are searched.
const MOST_FOLDERS: usize = 16;

/// Entries of a folder, in order; none where it is not there.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |source| ImportError::List { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Files and folders below a folder, itself included; links to folders are not followed.
fn below(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ImportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ImportError::List { path, source }
    };
    std::fs::read_dir(folder).map_err(failed(folder))?;
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut left = vec![(folder.to_owned(), MOST_FOLDERS)];
    while let Some((next, levels)) = left.pop() {
        for path in listed(&next)? {
            let kind = std::fs::symlink_metadata(&path).map_err(failed(&path))?.file_type();
            if kind.is_dir() && levels > 1 {
                left.push((path, levels - 1));
            } else if kind.is_file() || (kind.is_symlink() && path.is_file()) {
                files.push(path);
            }
            if files.len() + folders.len() + left.len() > MOST_FILES {
                return Err(ImportError::TooMany { path: folder.to_owned(), most: MOST_FILES });
            }
        }
        folders.push(next);
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    Ok(below(folder)?.0)
}

fn folders_below(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    Ok(below(folder)?.1)
}
