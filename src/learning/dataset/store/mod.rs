//! A data set of ours: a folder that training and evaluation read.
//!
//! ```text
//! DATASET/dataset.json                  the index: cases, organs, volumes, parts, licences, hashes
//! DATASET/salt                          turns patients into numbers; leave it out where the set leaves the house
//! DATASET/cases/<id>/image.nii          HU, int16, axial: training reads it without decompressing anything
//! DATASET/cases/<id>/organs.nii.gz      one bit per organ (class 1 is bit 0), only the box that holds organs
//! ```
//!
//! Both are NIfTI-1 in the patient's coordinates, so that any viewer shows one on the other. The folder of a case is
//! written aside and renamed when it is whole, then the index; a run that is cut off leaves what was there before it.

mod aside;
mod check;
mod index;
mod split;
mod uncached;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array3, s};

pub use aside::{Aside, CaseWriter};
pub use check::{CheckReport, check};
pub use index::{CaseEntry, Index, OrganEntry, Part, SplitRule};

use super::import::Fault;
use super::{Case, DatasetError, OrganSet};
use crate::convert::{ConvertError, Volume, read_volume};
use crate::vocabulary::space::Grid;

const INDEX: &str = "dataset.json";
const SALT: &str = "salt";
const IMAGE: &str = "image.nii";
const ORGANS: &str = "organs.nii.gz";
/// What the folder of a case that is being written begins with.
const PART: &str = ".part-";

/// Largest index, bytes: some ten thousand cases.
const LARGEST_INDEX: u64 = 1 << 28;

/// Metal beyond 12 bits is cut to this for training, HU, as the network's input is.
const HIGHEST_HU: i16 = 3071;

/// What goes wrong with a data set as a whole.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file that cannot be read or written.
    #[error("could not {operation} {}: check free space and permissions", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A volume that cannot be written.
    #[error("could not write a volume")]
    Volume(#[source] ConvertError),
    /// No data set.
    #[error("{} is no data set: make one with `oarlock dataset add FOLDER --to {}`", path.display(), path.display())]
    NotThere {
        /// Which folder.
        path: PathBuf,
    },
    /// A folder with other things in it.
    #[error("{} is not empty and no data set: name a new folder", path.display())]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// An index that is not ours or was damaged.
    #[error("{} cannot be used: {found}; put back the copy of before, or import again", path.display())]
    Index {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// Another process is writing.
    #[error("another command is changing {}: wait until it is done", path.display())]
    Locked {
        /// Which folder.
        path: PathBuf,
    },
    /// The salt is gone.
    #[error(
        "{} is missing, so patients of before would not be recognised: put it back, or import everything into a new data set",
        path.display()
    )]
    NoSalt {
        /// Where it was.
        path: PathBuf,
    },
    /// One patient only.
    #[error(
        "{} holds {many} of one patient: what trains on it cannot be measured on anybody; add more patients",
        path.display(),
        many = if *n_cases == 1 { "one case".to_owned() } else { format!("{n_cases} cases, all") }
    )]
    OnePatient {
        /// Which folder.
        path: PathBuf,
        /// How many cases.
        n_cases: usize,
    },
    /// A case that is not there.
    #[error("there is no case {id} in {}: `oarlock dataset list` names them", path.display())]
    NoCase {
        /// What was asked for.
        id: String,
        /// Which folder.
        path: PathBuf,
    },
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { operation, path, source }
}

/// Whether a folder is a data set of ours.
#[must_use]
pub fn is_dataset(folder: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(folder.join(INDEX)).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && String::from_utf8_lossy(&head).contains(index::FORMAT)
}

/// A data set.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    index: Index,
    /// Held while the set is changed.
    _lock: Option<File>,
}

/// A case that can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCase {
    folder: PathBuf,
    entry: Arc<CaseEntry>,
}

impl Dataset {
    /// Opens a data set to read it.
    ///
    /// # Errors
    /// [`StoreError::NotThere`], [`StoreError::Index`], [`StoreError::File`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(INDEX);
        if !path.is_file() {
            return Err(StoreError::NotThere { path: folder.to_owned() });
        }
        let wrong = |found: String| StoreError::Index { path: path.clone(), found };
        let file = File::open(&path).map_err(file_error("read", &path))?;
        let mut text = String::new();
        file.take(LARGEST_INDEX).read_to_string(&mut text).map_err(file_error("read", &path))?;
        let index: Index = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if index.format != index::FORMAT {
            return Err(wrong(format!("its format is {:?}, ours {:?}", index.format, index::FORMAT)));
        }
        if let Some(objection) = index.cases.iter().find_map(CaseEntry::objection) {
            return Err(wrong(objection));
        }
        Ok(Self { folder: folder.to_owned(), index, _lock: None })
    }

    /// Opens a data set to change it, or begins one in a folder that is new or empty. One command at a time can.
    ///
    /// # Errors
    /// As [`Dataset::open`]; [`StoreError::NotEmpty`], [`StoreError::Locked`].
    pub fn edit(folder: &Path) -> Result<Self, StoreError> {
        let is_new = !folder.join(INDEX).is_file();
        if is_new {
            fs::create_dir_all(folder).map_err(file_error("make", folder))?;
            let entries = fs::read_dir(folder).map_err(file_error("read", folder))?;
            let is_ours = |name: &std::ffi::OsStr| name == SALT || name == "cases" || name == ".lock";
            if entries.flatten().any(|entry| !is_ours(&entry.file_name())) {
                return Err(StoreError::NotEmpty { path: folder.to_owned() });
            }
        }
        let path = folder.join(".lock");
        let lock = File::create(&path).map_err(file_error("make", &path))?;
        lock.try_lock().map_err(|_held| StoreError::Locked { path: folder.to_owned() })?;
        let cases = folder.join("cases");
        fs::create_dir_all(&cases).map_err(file_error("make", &cases))?;
        let mut dataset = if folder.join(INDEX).is_file() {
            Self::open(folder)?
        } else {
            let (format, split) = (index::FORMAT.to_owned(), SplitRule::default());
            let index = Index { format, notices: Vec::new(), split, cases: Vec::new() };
            Self { folder: folder.to_owned(), index, _lock: None }
        };
        dataset._lock = Some(lock);
        // What an earlier run had begun when it was cut off.
        for entry in fs::read_dir(&cases).map_err(file_error("read", &cases))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PART) {
                fs::remove_dir_all(entry.path()).map_err(file_error("remove", &entry.path()))?;
            }
        }
        Ok(dataset)
    }

    /// What patients' numbers are made with; made up for a new set.
    ///
    /// # Errors
    /// [`StoreError::NoSalt`] where it was lost, [`StoreError::File`].
    pub fn salt(&self) -> Result<Vec<u8>, StoreError> {
        let path = self.folder.join(SALT);
        match fs::read(&path) {
            Ok(salt) => Ok(salt),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.index.cases.is_empty() => {
                let salt = uuid::Uuid::new_v4().simple().to_string().into_bytes();
                put(&self.folder, SALT, &salt)?;
                Ok(salt)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NoSalt { path }),
            Err(error) => Err(file_error("read", &path)(error)),
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All that is known of it.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The cases of a part, or all, in order of id.
    #[must_use]
    pub fn cases(&self, part: Option<Part>) -> Vec<StoredCase> {
        let wanted = self.index.cases.iter().filter(|case| part.is_none() || case.part == part);
        let stored = |entry: &CaseEntry| StoredCase {
            folder: self.folder.join("cases").join(&entry.id),
            entry: Arc::new(entry.clone()),
        };
        wanted.map(stored).collect()
    }

    /// One case.
    ///
    /// # Errors
    /// [`StoreError::NoCase`].
    pub fn case(&self, id: &str) -> Result<StoredCase, StoreError> {
        let found = self.cases(None).into_iter().find(|case| case.entry.id == id);
        found.ok_or_else(|| StoreError::NoCase { id: id.to_owned(), path: self.folder.clone() })
    }

    /// How many patients there are.
    #[must_use]
    pub fn n_patients(&self) -> usize {
        self.index.cases.iter().map(|case| &case.patient).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Writes cases aside, on any number of threads; [`Dataset::keep`] takes them in.
    #[must_use]
    pub fn writer(&self) -> CaseWriter {
        CaseWriter::new(self.folder.join("cases"))
    }

    /// Keeps a case that was written aside; `notice` is its licence. A patient who is in a part already stays in it,
    /// whatever the publisher says.
    ///
    /// # Errors
    /// [`Fault::Known`], [`Fault::SameId`], [`Fault::Store`]; nothing is changed then.
    pub fn keep(&mut self, aside: Aside, notice: Option<&str>) -> Result<&CaseEntry, Fault> {
        let Aside { folder: aside, mut entry } = aside;
        let known = self.index.cases.iter().find_map(|case| match case {
            case if case.image_sha256 == entry.image_sha256 => Some(Fault::Known { id: case.id.clone() }),
            case if case.id == entry.id => Some(Fault::SameId { id: case.id.clone() }),
            _ => None,
        });
        if let Some(fault) = known {
            // What cannot be removed is removed by the next command that changes the set.
            drop(fs::remove_dir_all(&aside));
            return Err(fault);
        }
        let folder = self.folder.join("cases").join(&entry.id);
        if folder.exists() {
            // Not in the index: an earlier run was cut off between the two.
            fs::remove_dir_all(&folder).map_err(file_error("remove", &folder)).map_err(Fault::Store)?;
        }
        fs::rename(&aside, &folder).map_err(file_error("rename", &folder)).map_err(Fault::Store)?;
        entry.notice = notice.map(|notice| self.notice(notice));
        let of_patient = self.index.cases.iter().find(|case| case.patient == entry.patient);
        entry.part = of_patient.and_then(|case| case.part).or(entry.part);
        let place = self.index.cases.partition_point(|case| case.id < entry.id);
        self.index.cases.insert(place, entry);
        self.save().map_err(Fault::Store)?;
        Ok(&self.index.cases[place])
    }

    /// Takes a set that was begun and got no case away again.
    pub fn give_up_if_empty(self) {
        if self.index.cases.is_empty() && !self.folder.join(INDEX).is_file() {
            drop(fs::remove_file(self.folder.join(SALT)));
            drop(fs::remove_dir(self.folder.join("cases")));
            drop(fs::remove_file(self.folder.join(".lock")));
            // Stays where it was not ours or holds something.
            drop(fs::remove_dir(&self.folder));
        }
    }

    fn notice(&mut self, notice: &str) -> usize {
        let known = self.index.notices.iter().position(|known| known == notice);
        known.unwrap_or_else(|| {
            self.index.notices.push(notice.to_owned());
            self.index.notices.len() - 1
        })
    }

    /// Gives every case that has none a part, by the rule that is written down.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn assign_parts(&mut self) -> Result<(), StoreError> {
        split::assign(&self.index.split, &mut self.index.cases);
        self.save()
    }

    /// Draws all patients again by a new rule.
    ///
    /// # Errors
    /// [`StoreError::OnePatient`], [`StoreError::File`].
    pub fn split(&mut self, rule: SplitRule) -> Result<(), StoreError> {
        self.two_patients()?;
        self.index.split = rule;
        self.index.cases.iter_mut().for_each(|case| case.part = None);
        self.assign_parts()
    }

    /// Whether there are two patients at least.
    ///
    /// # Errors
    /// [`StoreError::OnePatient`].
    pub fn two_patients(&self) -> Result<(), StoreError> {
        let n_cases = self.index.cases.len();
        if self.n_patients() > 1 {
            Ok(())
        } else {
            Err(StoreError::OnePatient { path: self.folder.clone(), n_cases })
        }
    }

    fn save(&self) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(&self.index)
            .map_err(|error| StoreError::Index { path: self.folder.join(INDEX), found: error.to_string() })?;
        put(&self.folder, INDEX, &text)
    }
}

/// Writes aside, syncs, renames.
fn put(folder: &Path, file: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let (path, aside) = (folder.join(file), folder.join(format!(".{file}.part")));
    let written = File::create(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, &path));
    written.map_err(file_error("write", &path))
}

impl StoredCase {
    /// Its id.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.id
    }

    /// What the index says of it.
    #[must_use]
    pub fn entry(&self) -> &CaseEntry {
        &self.entry
    }

    /// Reads it for training: an organ whose drawing is not believed counts as not annotated.
    ///
    /// # Errors
    /// [`DatasetError`]: a file is missing, damaged, or not on the grid that the index says.
    pub fn read(&self) -> Result<Case, DatasetError> {
        let mut case = self.read_as_drawn()?;
        case.hu.mapv_inplace(|hu| hu.min(HIGHEST_HU));
        case.annotated = self.entry.believed();
        Ok(case)
    }

    /// Reads it with every drawing and every HU.
    ///
    /// # Errors
    /// As [`StoredCase::read`].
    pub fn read_as_drawn(&self) -> Result<Case, DatasetError> {
        let (path, organs_path) = (self.folder.join(IMAGE), self.folder.join(ORGANS));
        let damaged = |path: &Path| {
            let path = path.to_owned();
            move |source| DatasetError::Stored { path, source }
        };
        let other = |path: &Path, found: String| DatasetError::Layout {
            path: path.to_owned(),
            wanted: "the grid that dataset.json says".to_owned(),
            found,
        };
        let grid = self.entry.grid().map_err(|error| other(&path, error.to_string()))?;
        let image: Volume<i16> = read_volume(&path).map_err(damaged(&path))?;
        if place_in(&image, &grid) != Some([0; 3]) || image.voxels.dim() != grid_dim(&grid) {
            return Err(other(
                &path,
                format!("{:?} voxels at {:?}", image.voxels.dim(), image.geometry.origin),
            ));
        }
        let part: Volume<u32> = read_volume(&organs_path).map_err(damaged(&organs_path))?;
        let mut organs = Array3::zeros(grid.shape());
        let dim: [usize; 3] = part.voxels.dim().into();
        let start = place_in(&part, &grid)
            .filter(|start| (0..3).all(|axis| start[axis] + dim[axis] <= grid.shape()[axis]))
            .ok_or_else(|| other(&organs_path, format!("{dim:?} voxels at {:?}", part.geometry.origin)))?;
        let [z, y, x] = [0, 1, 2].map(|axis| start[axis]..start[axis] + dim[axis]);
        organs.slice_mut(s![z, y, x]).assign(&part.voxels);
        Ok(Case {
            name: self.entry.id.clone(),
            hu: image.voxels,
            organs,
            annotated: self.entry.drawn(),
            grid,
        })
    }
}

fn grid_dim(grid: &Grid) -> (usize, usize, usize) {
    let [z, y, x] = grid.shape();
    (z, y, x)
}

/// The voxel of a grid at which a volume begins, `None` where its voxels are not those of the grid. A file keeps places
/// in single precision, so a hundredth of a voxel is allowed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked not to be negative, and to be near a whole number"
)]
fn place_in<V>(volume: &Volume<V>, grid: &Grid) -> Option<[usize; 3]> {
    const TOLERANCE_VOXELS: f64 = 0.01;
    let at = grid.voxel_from_patient(volume.geometry.origin);
    let ([dz, dy, dx], [sz, sy, sx]) = (grid.directions(), grid.spacing_mm());
    let steps = [dx * sx, dy * sy, dz * sz];
    let (d, h, w) = volume.voxels.dim();
    let sides = [w, h, d];
    let same = (0..3).all(|axis| {
        let off = (volume.geometry.steps[axis] + steps[axis] * -1.0).length() * sides[axis] as f64;
        off <= TOLERANCE_VOXELS * steps[axis].length().max(1.0)
    });
    let near = |at: f64| (at - at.round()).abs() <= TOLERANCE_VOXELS && at.round() >= 0.0;
    let at = [at.z, at.y, at.x];
    (same && at.into_iter().all(near)).then(|| at.map(|at| at.round() as usize))
}

/// The organs of a volume of bits.
fn present(organs: &Array3<u32>) -> OrganSet {
    OrganSet::from_bits(organs.iter().fold(0, |bits, voxel| bits | voxel))
}
