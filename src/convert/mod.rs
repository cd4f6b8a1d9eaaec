//! Masks of other tools to structure sets and back.
//!
//! Comes in: a label map (NIfTI, NRRD, MHA), a folder with one mask per organ, or an RTSTRUCT. Goes out: named masks
//! on the CT's grid, or files of masks. A mask is placed by its physical coordinates; one that does not lie on the
//! CT's voxels is refused.

mod error;
pub(crate) mod nifti_file;
mod nrrd_file;
mod place;
mod volume;

use std::path::{Path, PathBuf};

use ndarray::{Array3, s};
use rayon::prelude::*;

pub use error::ConvertError;
pub(crate) use place::{Placed, place_anywhere};
pub(crate) use volume::{Geometry, LabelVolume, Volume, ending, read_volume};

use crate::vocabulary::space::{Grid, RegionMask};

/// A mask with the name it came with.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedMask {
    /// Name of the segment or file, `Label_N` where a label map has none.
    pub name: String,
    /// Its voxels on the CT's grid.
    pub mask: RegionMask,
}

/// Reads a label map, or every mask of a folder, onto the CT's grid; also says what did not fit.
///
/// # Errors
/// [`ConvertError`]: nothing there, a file that cannot be read, another grid.
pub fn read_masks(path: &Path, grid: &Grid) -> Result<(Vec<NamedMask>, Vec<String>), ConvertError> {
    let files = if path.is_dir() { mask_files(path)? } else { vec![path.to_owned()] };
    let one_organ_each = path.is_dir();
    let read = |file: &PathBuf| read_file(file, grid, one_organ_each);
    let parts = files.par_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let (mut masks, mut notes) = (Vec::new(), Vec::new());
    for (found, said) in parts {
        masks.extend(found);
        notes.extend(said);
    }
    Ok((masks, notes))
}

fn mask_files(folder: &Path) -> Result<Vec<PathBuf>, ConvertError> {
    let failed = |source| ConvertError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && volume::ending(&path.to_string_lossy()).is_some() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(ConvertError::Nothing { path: folder.to_owned() }) } else { Ok(files) }
}

fn read_file(
    path: &Path,
    grid: &Grid,
    one_organ_each: bool,
) -> Result<(Vec<NamedMask>, Vec<String>), ConvertError> {
    let mut volume: LabelVolume = read_volume(path)?;
    let stem = stem(path);
    if one_organ_each {
        volume.voxels.mapv_inplace(|label| label.min(1));
        volume.names = [(1, stem.clone())].into();
    }
    let (masks, lost) = place::place(&volume, grid)?;
    let mut notes = Vec::new();
    if lost > 0 {
        notes.push(format!("{lost} voxels of {stem} lie beyond the CT and are left out"));
    }
    if masks.is_empty() {
        notes.push(format!("{stem} is empty"));
    }
    let name = |label: &u16| volume.names.get(label).cloned().unwrap_or_else(|| format!("Label_{label}"));
    Ok((masks.into_iter().map(|(label, mask)| NamedMask { name: name(&label), mask }).collect(), notes))
}

/// The file's name without its ending.
pub(crate) fn stem(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let length = name.len() - volume::ending(&name).map_or(0, str::len);
    let stem = &name[..length];
    stem.strip_suffix(".seg").unwrap_or(stem).to_owned()
}

/// Writes masks as one label map (NIfTI); the n-th mask gets label n.
///
/// # Errors
/// [`ConvertError::Overlap`] where two masks share a voxel, [`ConvertError::Header`] for over 255 masks,
/// [`ConvertError::Write`].
pub fn write_label_map(path: &Path, masks: &[NamedMask], grid: &Grid) -> Result<(), ConvertError> {
    let mut labels = Array3::<u8>::zeros(grid.shape());
    for (index, named) in masks.iter().enumerate() {
        let label = u8::try_from(index + 1).map_err(|_many| ConvertError::Header {
            path: path.to_owned(),
            wanted: "a label map holds 255 ROIs",
            found: masks.len().to_string(),
        })?;
        let [z, y, x] = [0, 1, 2].map(|axis| named.mask.region.start[axis]..named.mask.region.end[axis]);
        for (voxel, _) in
            labels.slice_mut(s![z, y, x]).iter_mut().zip(&named.mask.voxels).filter(|(_, inside)| **inside)
        {
            if let Some(other) = usize::from(*voxel).checked_sub(1) {
                return Err(ConvertError::Overlap {
                    first: masks[other].name.clone(),
                    second: named.name.clone(),
                });
            }
            *voxel = label;
        }
    }
    nifti_file::write(path, labels.view(), grid)
}

/// Writes one NIfTI mask per ROI into a folder; the file has the ROI's name with anything but letters, digits, `-`,
/// `_`, `+` and space replaced, and the number of the ROI where that name is taken.
///
/// # Errors
/// [`ConvertError::Write`].
pub fn write_folder(folder: &Path, masks: &[NamedMask], grid: &Grid) -> Result<Vec<PathBuf>, ConvertError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| ConvertError::Write { path: folder.to_owned(), source })?;
    let mut taken = std::collections::BTreeSet::new();
    let mut paths = Vec::with_capacity(masks.len());
    for (index, named) in masks.iter().enumerate() {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '+' | ' ');
        let mut name: String = named.name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
        if name.is_empty() || !taken.insert(name.to_lowercase()) {
            name = format!("{name}_{}", index + 1);
            taken.insert(name.to_lowercase());
        }
        paths.push(folder.join(name + ".nii.gz"));
    }
    let write = |(path, named): (&PathBuf, &NamedMask)| {
        nifti_file::write(path, named.mask.to_whole(grid.shape()).mapv(u8::from).view(), grid)
    };
    paths.par_iter().zip(masks).map(write).collect::<Result<Vec<()>, _>>()?;
    Ok(paths)
}
