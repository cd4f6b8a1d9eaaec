//! A data set as nnU-Net's raw folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::Array3;
use serde_json::json;

use super::store::{Dataset, Part, StoredCase};
use super::{DatasetError, OrganSet};
use crate::convert::{ConvertError, nifti_file};
use crate::vocabulary::organ::Organ;

/// Why a data set cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No organ that every case annotates.
    #[error(
        "no organ is annotated in every case, and nnU-Net takes what is not annotated for background: choose organs with --organs, then the cases that lack one are left out"
    )]
    NoCommonOrgan,
    /// No case with these organs.
    #[error("no case annotates all of {organs}: choose fewer")]
    NoCase {
        /// What was asked for.
        organs: String,
    },
    /// The folder holds something.
    #[error("{} is not empty: name a new folder", path.display())]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// A case cannot be read.
    #[error("the case {case} cannot be read: run `oarlock dataset check`")]
    Case {
        /// Which.
        case: String,
        /// Why.
        #[source]
        source: DatasetError,
    },
    /// A volume cannot be written.
    #[error("a volume cannot be written")]
    Volume(#[source] ConvertError),
    /// Another file cannot be written.
    #[error("could not write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Organs; the n-th has label n + 1.
    pub organs: Vec<Organ>,
    /// Cases of training and validation.
    pub n_train: usize,
    /// Cases of the test part.
    pub n_test: usize,
    /// Cases that lack an organ.
    pub left_out: Vec<String>,
    /// Voxels of several organs; the smallest one got them.
    pub n_overlapping: usize,
}

/// Writes `dataset.json`, images and labels, and the split in `splits_final.json`. Training and validation cases go to
/// imagesTr, test cases to imagesTs. nnU-Net takes what is not labelled for background, so only cases that annotate
/// every organ are written; without `organs` those that every case annotates are.
///
/// # Errors
/// [`ExportError`].
pub fn export_nnunet(
    dataset: &Dataset,
    organs: &[Organ],
    folder: &Path,
    mut done: impl FnMut(),
) -> Result<Exported, ExportError> {
    let cases = dataset.cases(None);
    let wanted = if organs.is_empty() {
        cases.iter().fold(OrganSet::ALL, |set, case| set.intersection(case.entry().believed()))
    } else {
        organs.iter().fold(OrganSet::EMPTY, |set, organ| set.union(OrganSet::of(*organ)))
    };
    if wanted.is_empty() || cases.is_empty() {
        return Err(ExportError::NoCommonOrgan);
    }
    let organs: Vec<Organ> = wanted.iter().collect();
    let has_all = |case: &StoredCase| case.entry().believed().intersection(wanted) == wanted;
    let (cases, lacking): (Vec<StoredCase>, Vec<StoredCase>) = cases.into_iter().partition(has_all);
    if cases.is_empty() {
        let organs = organs.iter().map(|organ| organ.key()).collect::<Vec<_>>().join(", ");
        return Err(ExportError::NoCase { organs });
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::File { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    if std::fs::read_dir(folder).map_err(failed(folder))?.next().is_some() {
        return Err(ExportError::NotEmpty { path: folder.to_owned() });
    }
    for name in ["imagesTr", "labelsTr", "imagesTs", "labelsTs"] {
        std::fs::create_dir(folder.join(name)).map_err(failed(folder))?;
    }
    let mut exported = Exported {
        organs,
        n_train: 0,
        n_test: 0,
        left_out: lacking.iter().map(|case| case.name().to_owned()).collect(),
        n_overlapping: 0,
    };
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for stored in &cases {
        let name = stored.name();
        let case =
            stored.read_as_drawn().map_err(|source| ExportError::Case { case: name.to_owned(), source })?;
        let (labels, overlapping) = labels_of(&case.organs, &exported.organs);
        exported.n_overlapping += overlapping;
        let end = match stored.entry().part {
            Some(Part::Test) => {
                exported.n_test += 1;
                "Ts"
            }
            part => {
                exported.n_train += 1;
                let list = if part == Some(Part::Validation) { &mut validation } else { &mut train };
                list.push(name.to_owned());
                "Tr"
            }
        };
        let image = folder.join(format!("images{end}")).join(format!("{name}_0000.nii.gz"));
        nifti_file::write(&image, case.hu.view(), &case.grid).map_err(ExportError::Volume)?;
        let mask = folder.join(format!("labels{end}")).join(format!("{name}.nii.gz"));
        nifti_file::write(&mask, labels.view(), &case.grid).map_err(ExportError::Volume)?;
        done();
    }
    let mut names: BTreeMap<String, usize> = [("background".to_owned(), 0)].into();
    names.extend(exported.organs.iter().enumerate().map(|(index, organ)| (organ.key(), index + 1)));
    let index = json!({
        "channel_names": { "0": "CT" },
        "labels": names,
        "numTraining": exported.n_train,
        "file_ending": ".nii.gz",
        "licence": dataset.index().notices.join(" "),
    });
    put(&folder.join("splits_final.json"), &json!([{ "train": train, "val": validation }]))?;
    put(&folder.join("dataset.json"), &index)?;
    Ok(exported)
}

fn put(path: &Path, value: &serde_json::Value) -> Result<(), ExportError> {
    std::fs::write(path, format!("{value:#}\n"))
        .map_err(|source| ExportError::File { path: path.to_owned(), source })
}

/// One label per voxel, and how many voxels had several: the smallest organ of the case gets those.
fn labels_of(bits: &Array3<u32>, organs: &[Organ]) -> (Array3<u8>, usize) {
    let mut counts = [0_usize; Organ::COUNT];
    for set in bits.iter().filter(|set| **set != 0) {
        OrganSet::from_bits(*set).iter().for_each(|organ| counts[organ.index()] += 1);
    }
    let mut smallest_first: Vec<(usize, u8)> =
        organs.iter().zip(1_u8..).map(|(organ, label)| (organ.index(), label)).collect();
    smallest_first.sort_by_key(|(index, _)| counts[*index]);
    let wanted = organs.iter().fold(0, |all, organ| all | OrganSet::of(*organ).bits());
    let mut n_overlapping = 0;
    let labels = bits.mapv(|set| {
        let set = set & wanted;
        n_overlapping += usize::from(set.count_ones() > 1);
        let mine = smallest_first.iter().find(|(index, _)| set >> index & 1 == 1);
        mine.map_or(0, |(_, label)| *label)
    });
    (labels, n_overlapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lens of one voxel in an eye of four keeps its voxel; the parotid is not asked for.
    #[test]
    fn the_smaller_of_two_organs_keeps_its_voxels() {
        let bit = |organ| OrganSet::of(organ).bits();
        let mut bits = Array3::zeros((1, 2, 4));
        bits.slice_mut(ndarray::s![0, 0, ..]).fill(bit(Organ::EyeL));
        bits[[0, 0, 2]] |= bit(Organ::LensL);
        bits[[0, 1, 0]] = bit(Organ::ParotidL) | bit(Organ::EyeL);
        let (labels, n) = labels_of(&bits, &[Organ::EyeL, Organ::LensL]);
        assert_eq!((labels.into_raw_vec_and_offset().0, n), (vec![1, 1, 2, 1, 1, 0, 0, 0], 1));
    }
}
