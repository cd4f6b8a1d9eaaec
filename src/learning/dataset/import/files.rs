//! One folder per case with an image and one mask per organ, and nnU-Net's raw folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::parallel::prelude::*;
use serde::Deserialize;

use super::fault::Fault;
use super::naming::{Meaning, Sorted};
use super::paint::{Drawn, Nothing, paint};
use super::upright::Upright;
use super::{FoundCase, ImportError, Importer, NewCase, Part, Parts, Place, folders_below, listed};
use crate::convert::{self, LabelVolume, Volume, ending, place_anywhere, read_volume};
use crate::pipeline::volume::AIR_HU;
use crate::settings::FilePattern;
use crate::vocabulary::space::{Grid, RegionMask, VoxelBox};

/// A case of files.
#[derive(Debug)]
pub(super) struct FileCase {
    image: PathBuf,
    masks: Masks,
    layout: &'static str,
}

#[derive(Debug)]
enum Masks {
    /// A file for each organ, with the organ's name.
    One(Vec<(String, PathBuf)>),
    /// A label map, and the values of each name.
    Labels(PathBuf, BTreeMap<String, Vec<u16>>),
}

/// Every folder below with files of this pattern, in order of path.
pub(super) fn find(
    folder: &Path,
    pattern: &FilePattern,
    layout: &'static str,
) -> Result<Vec<FoundCase>, ImportError> {
    let mut found = Vec::new();
    for case in folders_below(folder)? {
        let name = case.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let image = case.join(pattern.image.replace("{case}", &name));
        let Some(image) = with_ending(&image) else { continue };
        let organ = pattern.organ.replace("{case}", &name);
        let (below, file) = organ.rsplit_once('/').unwrap_or(("", &organ));
        let (before, after) = file.split_once("{organ}").unwrap_or((file, ""));
        let mut masks = Vec::new();
        for path in listed(&case.join(below))? {
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if ending(&file).is_none() || path == image {
                continue;
            }
            let stem = convert::stem(&path);
            let organ = stem.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            if let Some(organ) = organ.filter(|organ| !organ.is_empty()) {
                masks.push((organ.to_owned(), path));
            }
        }
        found.push((case, FileCase { image, masks: Masks::One(masks), layout }));
    }
    Ok(named(folder, found))
}

/// The file with an ending of a format that we read.
fn with_ending(stem: &Path) -> Option<PathBuf> {
    let with = |ending: &str| PathBuf::from(format!("{}{ending}", stem.display()));
    [".nii.gz", ".nii", ".nrrd", ".mha"].map(with).into_iter().find(|path| path.is_file())
}

/// Cases by the name of their folder, or by their path where two have the same.
fn named(folder: &Path, found: Vec<(PathBuf, FileCase)>) -> Vec<FoundCase> {
    let last =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    found.iter().for_each(|(path, _)| *counts.entry(last(path)).or_default() += 1);
    let name = |path: &Path| {
        let short = last(path);
        let whole = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().replace(['/', '\\'], "-");
        if counts.get(&short).is_some_and(|count| *count > 1) && !whole.is_empty() { whole } else { short }
    };
    let case = |(path, case): (PathBuf, FileCase)| FoundCase {
        name: name(&path),
        place: Place::Files(Box::new(case)),
        split: None,
    };
    found.into_iter().map(case).collect()
}

/// The labels of nnU-Net's dataset.json: name to value or values (version 2), or value to name (version 1).
#[derive(Deserialize)]
struct NnUnetFile {
    labels: BTreeMap<String, serde_json::Value>,
}

/// Largest dataset.json that is read, bytes.
const LARGEST_JSON: u64 = 1 << 24;

/// The cases of an nnU-Net raw folder; those of imagesTs with labels are its test part.
pub(super) fn find_nnunet(folder: &Path) -> Result<Vec<FoundCase>, ImportError> {
    let path = folder.join("dataset.json");
    let unreadable = |source| ImportError::List { path: path.clone(), source };
    let wrong = |found: String| ImportError::NnUnet { path: path.clone(), found };
    let length = std::fs::metadata(&path).map_err(unreadable)?.len();
    if length > LARGEST_JSON {
        return Err(wrong(format!("{length} bytes")));
    }
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    let file: NnUnetFile = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let labels = labels(&file.labels).ok_or_else(|| wrong("labels of another form".to_owned()))?;
    let mut cases = Vec::new();
    for (images, masks, part) in [("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", Some(Part::Test))]
    {
        if !folder.join(masks).is_dir() {
            continue;
        }
        for path in listed(&folder.join(masks))? {
            let name = convert::stem(&path);
            let is_mask = ending(&path.to_string_lossy()).is_some();
            let image = with_ending(&folder.join(images).join(format!("{name}_0000")));
            if let Some(image) = image.filter(|_| is_mask) {
                let masks = Masks::Labels(path, labels.clone());
                let case = FileCase { image, masks, layout: "nnunet" };
                cases.push(FoundCase { name, place: Place::Files(Box::new(case)), split: part });
            }
        }
    }
    Ok(cases)
}

fn labels(file: &BTreeMap<String, serde_json::Value>) -> Option<BTreeMap<String, Vec<u16>>> {
    let small = |value: &serde_json::Value| value.as_u64().and_then(|value| u16::try_from(value).ok());
    let mut labels: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for (key, value) in file {
        let (name, values) = match value {
            serde_json::Value::String(name) => (name.clone(), vec![key.parse().ok()?]),
            serde_json::Value::Array(all) => (key.clone(), all.iter().map(small).collect::<Option<_>>()?),
            one => (key.clone(), vec![small(one)?]),
        };
        if !matches!(name.as_str(), "background" | "ignore") {
            labels.entry(name).or_default().extend(values);
        }
    }
    Some(labels)
}

impl FileCase {
    /// Reads image and organs.
    pub(super) fn read(self, name: &str, importer: &Importer<'_>) -> Result<NewCase, Vec<Fault>> {
        let file = |error| vec![Fault::File(error)];
        let image: Volume<i16> = read_volume(&self.image).map_err(file)?;
        let upright = Upright::of(image.voxels.dim().into(), &image.geometry).map_err(|fault| vec![fault])?;
        let grid = upright.grid.clone();
        let naming = importer.naming();
        let wanted = |name: &str| !matches!(naming.meaning(name), Meaning::Ignored | Meaning::Unknown);
        let mut notes = Vec::new();
        let drawn = match &self.masks {
            Masks::One(files) => {
                let nothing = if importer.map.empty_is_absent {
                    Nothing::Absent
                } else {
                    Nothing::Empty("its mask has no voxel")
                };
                let read = |(name, path): &(String, PathBuf)| {
                    if wanted(name) {
                        one_organ(name, path, &grid, nothing)
                    } else {
                        Ok((Drawn { name: name.clone(), mask: Err(Nothing::Absent) }, None))
                    }
                };
                let drawn = files.par_iter().map(read).collect::<Result<Vec<_>, _>>().map_err(file)?;
                let (drawn, said): (Vec<Drawn>, Vec<Option<String>>) = drawn.into_iter().unzip();
                notes.extend(said.into_iter().flatten());
                drawn
            }
            Masks::Labels(path, labels) => {
                let (drawn, said) = label_map(path, labels, &grid).map_err(file)?;
                notes.extend(said);
                drawn
            }
        };
        let names: Vec<String> = drawn.iter().map(|drawn| drawn.name.clone()).collect();
        let sorted = naming.sort(&names);
        let painted = paint(&sorted, &drawn, &grid, importer.map);
        drop(drawn);
        let Sorted { unmapped, faults, notes: more, .. } = sorted;
        notes.extend(more);
        let patient = importer.map.patient_of(name);
        let parts = Parts {
            id: super::plain_id(name),
            patient: super::plain_id(patient),
            layout: self.layout,
            notes,
            unmapped,
            names,
        };
        let in_place = Upright::of(grid.shape(), &geometry_of(&grid)).map_err(|fault| vec![fault])?;
        importer.finish(parts, painted, faults, move || {
            let lowest = image.voxels.iter().copied().min().unwrap_or(0);
            if lowest > HIGHEST_LOWEST_HU {
                return Err(Fault::NotHounsfield { lowest });
            }
            let mut hu = upright.turn(image.voxels);
            hu.par_mapv_inplace(|hu| hu.max(AIR_HU));
            Ok((hu, in_place))
        })
    }
}

/// A CT without a voxel below this holds no air, so its values are no Hounsfield units.
const HIGHEST_LOWEST_HU: i16 = -200;

fn geometry_of(grid: &Grid) -> convert::Geometry {
    let ([dz, dy, dx], [sz, sy, sx]) = (grid.directions(), grid.spacing_mm());
    convert::Geometry { origin: grid.origin(), steps: [dx * sx, dy * sy, dz * sz] }
}

/// The mask of a file, and what did not fit.
fn one_organ(
    name: &str,
    path: &Path,
    grid: &Grid,
    nothing: Nothing,
) -> Result<(Drawn, Option<String>), convert::ConvertError> {
    let mut volume: LabelVolume = read_volume(path)?;
    volume.voxels.mapv_inplace(|label| label.min(1));
    let mut placed = place_anywhere(&volume, grid)?;
    let said = said_of(name, &placed);
    let mask = match placed.masks.remove(&1) {
        Some(mask) if mask.n_voxels() > 0 => Ok(mask),
        Some(_) => Err(Nothing::Outside),
        None => Err(nothing),
    };
    Ok((Drawn { name: name.to_owned(), mask }, said))
}

/// The mask of every name of a label map. A name whose values do not occur was not drawn in this case, or lies outside.
fn label_map(
    path: &Path,
    labels: &BTreeMap<String, Vec<u16>>,
    grid: &Grid,
) -> Result<(Vec<Drawn>, Option<String>), convert::ConvertError> {
    let volume: LabelVolume = read_volume(path)?;
    let placed = place_anywhere(&volume, grid)?;
    let drawn = labels.iter().map(|(name, values)| {
        let masks: Vec<&RegionMask> = values.iter().filter_map(|value| placed.masks.get(value)).collect();
        let mask = match masks.as_slice() {
            [] => Err(Nothing::Absent),
            [one] => Ok((*one).clone()),
            several => Ok(union(several)),
        };
        let mask = mask.and_then(|mask| if mask.n_voxels() > 0 { Ok(mask) } else { Err(Nothing::Outside) });
        Drawn { name: name.clone(), mask }
    });
    Ok((drawn.collect(), said_of("the label map", &placed)))
}

fn union(masks: &[&RegionMask]) -> RegionMask {
    let edge = |of: fn(&VoxelBox) -> [usize; 3], pick: fn(usize, usize) -> usize| {
        let corners = masks.iter().map(|mask| of(&mask.region));
        let joined = corners.reduce(|a, b| std::array::from_fn(|axis| pick(a[axis], b[axis])));
        joined.unwrap_or_default()
    };
    let region = VoxelBox { start: edge(|b| b.start, usize::min), end: edge(|b| b.end, usize::max) };
    let mut voxels = ndarray::Array3::from_elem(region.shape(), false);
    for mask in masks {
        let [z, y, x] = [0, 1, 2].map(|axis| {
            let start = mask.region.start[axis] - region.start[axis];
            start..start + mask.region.shape()[axis]
        });
        voxels.slice_mut(ndarray::s![z, y, x]).zip_mut_with(&mask.voxels, |all, one| *all |= one);
    }
    RegionMask { region, voxels }
}

fn said_of(name: &str, placed: &convert::Placed) -> Option<String> {
    let mut said = Vec::new();
    if placed.resampled {
        said.push(format!(
            "{name} is on another grid than the image: placed by its coordinates, nearest voxel"
        ));
    }
    if placed.lost > 0 {
        said.push(format!("{} voxels of {name} lie beyond the image", placed.lost));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::learning::dataset::OrganSet;
    use crate::learning::dataset::import::{Layout, find as find_cases, layout_and_map};
    use crate::settings::StructureTemplate;
    use crate::vocabulary::organ::Organ;
    use crate::vocabulary::space::PatientPoint;

    /// The masks of a reader, cut out organ by organ into files that each cover the organ alone, beside a CT that covers
    /// more: the counts are those of `SOURCE.md`.
    #[test]
    fn real_masks_that_cover_their_organ_alone_find_their_voxels() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/deepmind-tcia-masks");
        if !shared.is_dir() {
            crate::command::say("SKIPPED: no ../shared/data/deepmind-tcia-masks");
            return;
        }
        let packed: Volume<u32> = read_volume(&shared.join("test/0522c0017/oncologist.nrrd")).unwrap();
        let upright = Upright::of(packed.voxels.dim().into(), &packed.geometry).unwrap();
        let (bits, grid) = (upright.turn(packed.voxels), upright.grid);
        let folder = tempfile::tempdir().unwrap();
        let case = folder.path().join("0522c0017");
        std::fs::create_dir_all(case.join("segmentations")).unwrap();
        let names = [
            (0, "Brain"),
            (1, "Brainstem"),
            (6, "Lens-Lt"),
            (10, "Mandible"),
            (13, "Orbit-Lt"),
            (15, "Parotid-Lt"),
            (16, "Parotid-Rt"),
            (18, "Spinal-Cord"),
        ];
        for (bit, name) in names {
            let whole = bits.mapv(|set| set >> bit & 1 == 1);
            let mask = RegionMask::from_whole(whole.view());
            let [z, y, x] = mask.region.start.map(|start| start as f64);
            let origin = grid.patient_from_voxel(crate::vocabulary::space::VoxelPoint { z, y, x });
            let part = Grid::axial(mask.region.shape(), grid.spacing_mm(), origin).unwrap();
            let path = case.join("segmentations").join(format!("{name}.nii.gz"));
            convert::nifti_file::write(&path, mask.voxels.mapv(u8::from).view(), &part).unwrap();
        }
        // Seven voxels more on the right, five in front, three below.
        let [sz, sy, sx] = grid.spacing_mm();
        let o = grid.origin();
        let origin = PatientPoint::lps_mm(o.x - 7.0 * sx, o.y - 5.0 * sy, o.z - 3.0 * sz);
        let [z, y, x] = grid.shape();
        let ct = Grid::axial([z + 4, y + 9, x + 11], grid.spacing_mm(), origin).unwrap();
        let hu = Array3::from_shape_fn(ct.shape(), |(z, y, x)| ((7 * z + 5 * y + x) % 300) as i16 - 900);
        convert::nifti_file::write(&case.join("CT_IMAGE.nii.gz"), hu.view(), &ct).unwrap();

        let template = StructureTemplate::shipped().unwrap();
        let (layout, map) = layout_and_map(folder.path(), None, Some(Path::new("deepmind-tcia"))).unwrap();
        assert_eq!(layout, Layout::Files);
        let importer = Importer { map: &map, template: &template, label: None, leave_out: false, salt: b"s" };
        let mut found = find_cases(folder.path(), layout, &importer).unwrap();
        let new = found.cases.remove(0).read(&importer).unwrap();
        assert_eq!((new.notes.len(), new.unmapped.len()), (0, 0), "{:?}", new.notes);
        let count = |organ: Organ| {
            new.case.organs.iter().filter(|bits| **bits & OrganSet::of(organ).bits() != 0).count()
        };
        let counts = [
            Organ::BrainStem,
            Organ::Mandible,
            Organ::ParotidL,
            Organ::ParotidR,
            Organ::SpinalCord,
            Organ::LensL,
        ];
        assert_eq!(counts.map(count), [10_468, 21_222, 5_497, 5_609, 6_120, 90]);
        // The lens lies in its eye, and both are kept.
        let both = OrganSet::of(Organ::LensL).union(OrganSet::of(Organ::EyeL)).bits();
        assert_eq!(new.case.organs.iter().filter(|bits| **bits == both).count(), 90);
        let turned = Array3::from_shape_fn(grid.shape(), |(z, y, x)| new.case.organs[[z + 3, y + 5, x + 7]]);
        let brain_stem = bits.mapv(|set| set >> 1 & 1 == 1);
        assert_eq!(turned.mapv(|set| set & OrganSet::of(Organ::BrainStem).bits() != 0), brain_stem);
    }

    #[test]
    fn labels_of_both_versions_and_regions() {
        let of = |text: &str| labels(&serde_json::from_str::<NnUnetFile>(text).unwrap().labels);
        let second = of(r#"{"labels": {"background": 0, "lung": [1, 3], "heart": 3, "ignore": 4}}"#).unwrap();
        assert_eq!(second, [("heart".to_owned(), vec![3]), ("lung".to_owned(), vec![1, 3])].into());
        let first = of(r#"{"labels": {"0": "background", "1": "Mandible"}}"#).unwrap();
        assert_eq!(first, [("Mandible".to_owned(), vec![1])].into());
        assert_eq!(of(r#"{"labels": {"heart": -3}}"#), None);
    }
}
