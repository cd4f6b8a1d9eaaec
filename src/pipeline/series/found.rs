//! Which CT series lie among files, and reading one of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::{Aside, Cause, SeriesError, SeriesSummary};
use super::patient_and_study::patient_and_study;
use super::regular::arrange;
use super::slice::{Found, Plane, read};
use super::{CtSeries, CtSlice};
use crate::vocabulary::dicom::instance::{InstanceLimits, read_attributes};
use crate::vocabulary::dicom::{FrameOfReferenceUid, SeriesInstanceUid};

/// Most files that are looked at. The longest CT series have a few thousand slices.
const MOST_FILES: usize = 50_000;

/// How deep folders are searched.
const MOST_FOLDERS: usize = 16;

/// The CT series among some files, not yet checked.
#[derive(Debug)]
pub struct FoundSeries {
    /// One entry per Series Instance UID, in that order.
    pub series: Vec<CandidateSeries>,
    /// Files that are no slice of a CT, and why.
    pub aside: Vec<Aside>,
    n_files: usize,
}

/// The slices that name one series, not yet checked.
#[derive(Debug)]
pub struct CandidateSeries {
    /// Series Instance UID, as text since it may be empty.
    pub series_instance_uid: String,
    /// Instances of it, in order of path.
    pub paths: Vec<PathBuf>,
    planes: Vec<Plane>,
    causes: Vec<Cause>,
}

impl FoundSeries {
    /// Looks through a folder and the folders below it.
    ///
    /// # Errors
    /// [`SeriesError`] when a folder cannot be listed, holds too many files, or an instance is damaged.
    pub fn in_folder(folder: &Path) -> Result<Self, SeriesError> {
        let mut paths = Vec::new();
        list(folder, MOST_FOLDERS, &mut paths)?;
        paths.sort();
        Self::among(&paths)
    }

    /// Looks through files.
    ///
    /// # Errors
    /// [`SeriesError::Instance`] when one of them is DICOM but damaged.
    pub fn among(paths: &[PathBuf]) -> Result<Self, SeriesError> {
        let (found, mut damaged) = Self::among_with_damaged(paths);
        if damaged.is_empty() { Ok(found) } else { Err(damaged.swap_remove(0).1) }
    }

    /// Looks through files; also gives those that are DICOM but damaged, in order of path.
    #[must_use]
    pub fn among_with_damaged(paths: &[PathBuf]) -> (Self, Vec<(PathBuf, SeriesError)>) {
        let limits = InstanceLimits::default();
        let mut damaged = Vec::new();
        let read: Vec<_> = paths.par_iter().map(|path| read(path, limits)).collect();
        let mut aside = Vec::new();
        let mut series: BTreeMap<String, CandidateSeries> = BTreeMap::new();
        for (path, found) in paths.iter().zip(read) {
            match found {
                Ok(Found::Aside(reason)) => aside.push(Aside { path: path.clone(), reason }),
                Ok(Found::Slices { series: uid, planes }) => {
                    let candidate = series.entry(uid.clone()).or_insert_with(|| CandidateSeries {
                        series_instance_uid: uid,
                        paths: Vec::new(),
                        planes: Vec::new(),
                        causes: Vec::new(),
                    });
                    candidate.paths.push(path.clone());
                    match planes {
                        Ok(planes) => candidate.planes.extend(planes),
                        Err(causes) => causes.into_iter().for_each(|cause| add(&mut candidate.causes, cause)),
                    }
                }
                Err(source) => {
                    let error = SeriesError::Instance { path: path.clone(), source: Box::new(source) };
                    damaged.push((path.clone(), error));
                }
            }
        }
        (Self { series: series.into_values().collect(), aside, n_files: paths.len() }, damaged)
    }

    /// The series, if it is the only one.
    ///
    /// # Errors
    /// [`SeriesError::NoCtSeries`] and [`SeriesError::SeveralSeries`].
    pub fn only(mut self) -> Result<CandidateSeries, SeriesError> {
        match (self.series.pop(), self.series.is_empty()) {
            (None, _) => Err(SeriesError::NoCtSeries { n_files: self.n_files, aside: self.aside }),
            (Some(series), true) => Ok(series),
            (Some(last), false) => {
                self.series.push(last);
                let summary = |candidate: &CandidateSeries| SeriesSummary {
                    series_instance_uid: candidate.series_instance_uid.clone(),
                    n_instances: candidate.paths.len(),
                };
                Err(SeriesError::SeveralSeries { found: self.series.iter().map(summary).collect() })
            }
        }
    }

    /// The series with this UID.
    ///
    /// # Errors
    /// [`SeriesError::NotFound`].
    pub fn with_uid(self, uid: &SeriesInstanceUid) -> Result<CandidateSeries, SeriesError> {
        let mut series = self.series.into_iter();
        series
            .find(|series| series.series_instance_uid == uid.as_str())
            .ok_or_else(|| SeriesError::NotFound { wanted: uid.as_str().to_owned(), n_files: self.n_files })
    }
}

impl CandidateSeries {
    /// Frame of Reference UID of its first sound slice.
    #[must_use]
    pub fn frame_of_reference_uid(&self) -> Option<&FrameOfReferenceUid> {
        self.planes.first().map(|plane| &plane.frame_of_reference)
    }

    /// Sorts and checks the slices.
    ///
    /// # Errors
    /// [`SeriesError::Refused`] with all that is wrong; [`SeriesError::Instance`] when a file has gone bad meanwhile.
    pub fn read(self) -> Result<CtSeries, SeriesError> {
        let refused = |causes| SeriesError::Refused { series: self.series_instance_uid.clone(), causes };
        let mut causes = self.causes;
        let planes = without_copies(self.planes, &mut causes)?;
        if !causes.is_empty() || planes.is_empty() {
            return Err(refused(causes));
        }
        let (planes, grid) = arrange(planes).map_err(refused)?;
        let first = &planes[0];
        let patient_and_study = read_attributes(&first.slice.path, InstanceLimits::default())
            .and_then(|instance| patient_and_study(&instance))
            .map_err(|source| SeriesError::Instance {
                path: first.slice.path.clone(),
                source: Box::new(source),
            })?;
        Ok(CtSeries {
            grid,
            study_instance_uid: first.study.clone(),
            series_instance_uid: first.series.clone(),
            frame_of_reference_uid: first.frame_of_reference.clone(),
            patient_and_study,
            slices: planes.into_iter().map(|plane| plane.slice).collect(),
        })
    }
}

/// The same attribute missing in every slice is said once, with a count.
fn add(causes: &mut Vec<Cause>, cause: Cause) {
    let Cause::Attribute { error, .. } = &cause else { return causes.push(cause) };
    let attribute = error.attribute();
    let same = causes.iter_mut().find_map(|known| match known {
        Cause::Attribute { error, n_more } if error.attribute() == attribute => Some(n_more),
        _ => None,
    });
    match same {
        Some(n_more) => *n_more += 1,
        None => causes.push(cause),
    }
}

/// The same instance twice is one instance; one UID with two contents is refused.
fn without_copies(planes: Vec<Plane>, causes: &mut Vec<Cause>) -> Result<Vec<Plane>, SeriesError> {
    let mut seen: BTreeMap<(String, Option<usize>), PathBuf> = BTreeMap::new();
    let mut kept: Vec<Plane> = Vec::with_capacity(planes.len());
    for plane in planes {
        let CtSlice { path, sop_instance_uid, frame, .. } = &plane.slice;
        let key = (sop_instance_uid.as_str().to_owned(), *frame);
        let Some(first) = seen.get(&key) else {
            seen.insert(key, path.clone());
            kept.push(plane);
            continue;
        };
        let bytes = |path: &Path| {
            fs::read(path).map_err(|source| SeriesError::List { path: path.to_owned(), source })
        };
        if bytes(first)? != bytes(path)? {
            let (first, second) = (first.display().to_string(), path.display().to_string());
            causes.push(Cause::DuplicateUid { first, second });
        }
    }
    Ok(kept)
}

fn list(folder: &Path, levels: usize, paths: &mut Vec<PathBuf>) -> Result<(), SeriesError> {
    let failed = |source| SeriesError::List { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && levels > 1 {
            list(&entry.path(), levels - 1, paths)?;
        } else if kind.is_file() || (kind.is_symlink() && entry.path().is_file()) {
            paths.push(entry.path());
        }
        if paths.len() > MOST_FILES {
            return Err(SeriesError::TooManyFiles { path: folder.to_owned(), most: MOST_FILES });
        }
    }
    Ok(())
}
