//! Folders of DICOM: CT series and the structure sets that belong to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dicom_core::value::Value;
use dicom_dictionary_std::tags;
use ndarray::parallel::prelude::*;

use super::fault::Fault;
use super::naming::{Meaning, Sorted};
use super::paint::{Drawn, Nothing, paint};
use super::rasterise::rasterise;
use super::upright::Upright;
use super::{Findings, FoundCase, ImportError, Importer, NewCase, Place, files_below};
use crate::convert::Geometry;
use crate::pipeline::rtstruct::{self, ReadStructureSet};
use crate::pipeline::series::{AsideReason, CandidateSeries, CtSeries, FoundSeries};
use crate::pipeline::volume::HuVolume;
use crate::vocabulary::causes::with_causes;

/// A CT series and its structure set.
#[derive(Debug)]
pub(super) struct DicomCase {
    series: CandidateSeries,
    set: ReadStructureSet,
    note: Option<String>,
}

/// Every CT series below a folder with its structure set.
pub(super) fn find(folder: &Path, importer: &Importer<'_>) -> Result<Findings, ImportError> {
    let (found, damaged) = FoundSeries::among_with_damaged(&files_below(folder)?);
    let mut series: Vec<(CandidateSeries, Vec<Referring>)> =
        found.series.into_iter().map(|series| (series, Vec::new())).collect();
    let is_structure_set = |reason: &AsideReason| matches!(reason, AsideReason::OtherModality { modality } if modality == "RTSTRUCT");
    let paths: Vec<PathBuf> =
        found.aside.into_iter().filter(|file| is_structure_set(&file.reason)).map(|file| file.path).collect();
    let sets: Vec<_> = paths.into_par_iter().map(|path| (rtstruct::read(&path), path)).collect();
    let mut faults = Vec::new();
    for (set, path) in sets {
        let name = short(folder, &path);
        let set = match set {
            Ok(set) => set,
            Err(error) => {
                faults.push((name, Fault::StructureSet(error)));
                continue;
            }
        };
        if importer.label.as_ref().is_some_and(|label| !label.eq_ignore_ascii_case(set.label.trim())) {
            continue;
        }
        match series_of(&set, &series) {
            Ok((index, note)) => series[index].1.push(Referring { set, note }),
            Err(Mismatch::OtherFrame) => faults.push((name, Fault::OtherFrame { path })),
            Err(Mismatch::NoImage) => faults.push((name, Fault::NoImage { path })),
            Err(Mismatch::Several(n_series)) => faults.push((name, Fault::SeveralImages { path, n_series })),
        }
    }
    let damaged: BTreeMap<PathBuf, (PathBuf, String)> = damaged
        .into_iter()
        .filter_map(|(path, error)| Some((path.parent()?.to_owned(), (path, with_causes(&error)))))
        .collect();
    let mut without_series: BTreeSet<&Path> = damaged.keys().map(PathBuf::as_path).collect();
    let mut cases = Vec::new();
    let mut without = 0;
    for (series, mut sets) in series {
        let folder_of_series = series.paths[0].parent().unwrap_or(folder).to_owned();
        let name = short(folder, &folder_of_series);
        let mut hurt = series.paths.iter().filter_map(|path| damaged.get_key_value(path.parent()?));
        match (hurt.next(), sets.pop(), sets.is_empty()) {
            (Some((folder, (path, why))), _, _) => {
                without_series.remove(folder.as_path());
                faults.push((name, Fault::Damaged { path: path.clone(), why: why.clone() }));
            }
            (None, None, _) => without += 1,
            (None, Some(Referring { set, note }), true) => {
                let case = DicomCase { series, set, note };
                cases.push(FoundCase { name, place: Place::Dicom(Box::new(case)), split: None });
            }
            (None, Some(last), false) => {
                sets.push(last);
                let labels = sets.iter().map(|referring| format!("{:?}", referring.set.label)).collect();
                faults.push((name, Fault::SeveralStructureSets { labels }));
            }
        }
    }
    for (path, why) in without_series.into_iter().filter_map(|folder| damaged.get(folder)) {
        faults.push((short(folder, path), Fault::Damaged { path: path.clone(), why: why.clone() }));
    }
    Ok(Findings { cases, faults, without_structures: without })
}

/// A structure set that refers to a series.
struct Referring {
    set: ReadStructureSet,
    note: Option<String>,
}

enum Mismatch {
    OtherFrame,
    NoImage,
    Several(usize),
}

/// The series a structure set refers to: the one it names, else the only one of its frame of reference.
fn series_of(
    set: &ReadStructureSet,
    series: &[(CandidateSeries, Vec<Referring>)],
) -> Result<(usize, Option<String>), Mismatch> {
    let of_its_frame = |candidate: &CandidateSeries| {
        let frame = candidate.frame_of_reference_uid();
        set.frame_of_reference_uids.is_empty()
            || frame.is_none_or(|frame| set.frame_of_reference_uids.contains(frame.as_str()))
    };
    let named = series.iter().position(|(s, _)| set.series_uids.contains(&s.series_instance_uid));
    if let Some(index) = named {
        return if of_its_frame(&series[index].0) { Ok((index, None)) } else { Err(Mismatch::OtherFrame) };
    }
    let fitting: Vec<usize> = (0..series.len()).filter(|index| of_its_frame(&series[*index].0)).collect();
    match (fitting.as_slice(), series.len()) {
        ([index], _) => {
            let note = "its structure set names another series of the same frame of reference".to_owned();
            Ok((*index, Some(note)))
        }
        ([], 1) => Err(Mismatch::OtherFrame),
        ([], _) => Err(Mismatch::NoImage),
        (several, _) => Err(Mismatch::Several(several.len())),
    }
}

/// A path for messages: as seen from the folder that was given.
fn short(folder: &Path, path: &Path) -> String {
    let below = path.strip_prefix(folder).unwrap_or(path);
    if below.as_os_str().is_empty() { folder.display().to_string() } else { below.display().to_string() }
}

impl DicomCase {
    /// Reads image and organs.
    pub(super) fn read(self, importer: &Importer<'_>) -> Result<NewCase, Vec<Fault>> {
        let id = importer.pseudonym("c", self.series.series_instance_uid.as_bytes());
        let series = self.series.read().map_err(|error| vec![Fault::Series(error)])?;
        let naming = importer.naming();
        let names: Vec<String> = self.set.rois.iter().map(|roi| roi.name.clone()).collect();
        let sorted = naming.sort(&names);
        let mut notes: Vec<String> = self.note.into_iter().chain(self.set.warnings.iter().cloned()).collect();
        let wanted = |name: &str| !matches!(naming.meaning(name), Meaning::Ignored | Meaning::Unknown);
        let drawn: Vec<(Drawn, Option<String>)> = self
            .set
            .rois
            .par_iter()
            .map(|roi| if wanted(&roi.name) { drawn(roi, &series) } else { (unused(roi), None) })
            .collect();
        let (drawn, said): (Vec<Drawn>, Vec<Option<String>>) = drawn.into_iter().unzip();
        notes.extend(said.into_iter().flatten());
        let n_missing = missing_images(&self.set, &series);
        if n_missing > 0 {
            notes.push(format!("{n_missing} images that the structure set names are not in the folder"));
        }
        let painted = paint(&sorted, &drawn, &series.grid, importer.map);
        let patient = importer.pseudonym("p", &patient_key(&series));
        let read_volume = || -> Result<_, Fault> {
            let volume = HuVolume::read(&series).map_err(Fault::Volume)?;
            let [dz, dy, dx] = volume.grid.directions();
            let [sz, sy, sx] = volume.grid.spacing_mm();
            let geometry = Geometry { origin: volume.grid.origin(), steps: [dx * sx, dy * sy, dz * sz] };
            let upright = Upright::of(volume.grid.shape(), &geometry)?;
            Ok((upright.turn(volume.hu), upright))
        };
        let Sorted { unmapped, faults, notes: more, .. } = sorted;
        notes.extend(more);
        importer.finish(
            super::Parts { id, patient, layout: "dicom", notes, unmapped, names },
            painted,
            faults,
            read_volume,
        )
    }
}

fn unused(roi: &rtstruct::ReadRoi) -> Drawn {
    Drawn { name: roi.name.clone(), mask: Err(Nothing::Absent) }
}

/// The voxels of an ROI, and what did not fit.
fn drawn(roi: &rtstruct::ReadRoi, series: &CtSeries) -> (Drawn, Option<String>) {
    let name = roi.name.clone();
    if roi.rings.is_empty() {
        return (
            Drawn { name, mask: Err(Nothing::Empty("the structure set holds no closed contour of it")) },
            None,
        );
    }
    let found = rasterise(&roi.rings, &series.grid);
    let n_rings = roi.rings.len();
    let mut said = Vec::new();
    if found.slanting > 0 {
        said.push(format!("{} of {n_rings} contours of {name:?} lie in no plane of the CT", found.slanting));
    }
    if found.beyond > 0 {
        said.push(format!("{} of {n_rings} contours of {name:?} lie above or below the CT", found.beyond));
    }
    let mask = match found.mask.n_voxels() {
        0 if found.beyond + found.slanting == n_rings || is_beside(roi, series) => Err(Nothing::Outside),
        0 => Err(Nothing::Empty("its contours hold no voxel of the CT")),
        _ => Ok(found.mask),
    };
    (Drawn { name, mask }, (!said.is_empty()).then(|| said.join("; ")))
}

/// Whether no point of an ROI lies in the image.
fn is_beside(roi: &rtstruct::ReadRoi, series: &CtSeries) -> bool {
    let sides = series.grid.shape().map(|side| side as f64 - 0.5);
    !roi.rings.iter().flatten().any(|point| {
        let v = series.grid.voxel_from_patient(*point);
        [v.z, v.y, v.x].iter().zip(sides).all(|(at, side)| (-0.5..side).contains(at))
    })
}

fn missing_images(set: &ReadStructureSet, series: &CtSeries) -> usize {
    let here: BTreeSet<&str> = series.slices.iter().map(|slice| slice.sop_instance_uid.as_str()).collect();
    set.image_uids.iter().filter(|uid| !here.contains(uid.as_str())).count()
}

/// What tells patients apart: ID, name and birth date, else the study.
fn patient_key(series: &CtSeries) -> Vec<u8> {
    let mut key = Vec::new();
    for tag in [tags::PATIENT_ID, tags::PATIENT_NAME, tags::PATIENT_BIRTH_DATE] {
        if let Some(element) = series.patient_and_study.get(tag)
            && let Value::Primitive(value) = element.value()
        {
            key.extend(value.to_bytes().iter().filter(|byte| !matches!(byte, 0 | b' ')));
        }
        key.push(0);
    }
    if key.iter().all(|byte| *byte == 0) { series.study_instance_uid.as_str().into() } else { key }
}
