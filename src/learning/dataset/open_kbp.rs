//! The OpenKBP layout packed as NIfTI: `manifest.csv` and one folder per patient.
//!
//! `ct_raw.nii.gz` holds HU + 1024, `labels.nii.gz` one bit per organ; array axes run to the patient's left, to
//! posterior and to superior. Slices outside `z_lo..=z_hi` of the manifest have no CT and are left out.
//! Source: Babier et al., Medical Physics 2021.

use std::path::{Path, PathBuf};

use ndarray::{Array3, s};

use super::nifti_volume::{grid_of, layout, read_volume};
use super::plausible::doubts;
use super::{Case, DatasetError, OrganSet};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, PatientPoint};

/// Organ of each label bit; the oesophagus (bit 6) is none of the 28.
const BITS: [Option<Organ>; 7] = [
    Some(Organ::BrainStem),
    Some(Organ::SpinalCord),
    Some(Organ::ParotidR),
    Some(Organ::ParotidL),
    Some(Organ::Mandible),
    Some(Organ::Larynx),
    None,
];

/// Highest HU kept; what lies above is metal beyond 12 bits.
const HIGHEST_HU: i32 = 3071;

/// One line of a manifest: a patient that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenKbpPatient {
    /// Folder of the patient.
    pub folder: PathBuf,
    /// First slice with CT.
    pub z_lo: usize,
    /// Last slice with CT.
    pub z_hi: usize,
}

/// Lists the patients of one part (`train`, `validation`) that have CT, in the manifest's order.
///
/// A patient without any CT slice has -1 for `z_lo` and `z_hi` and is left out.
///
/// # Errors
/// [`DatasetError`] when the manifest is missing, has other columns, or is empty.
pub fn list_open_kbp(part: &Path) -> Result<Vec<OpenKbpPatient>, DatasetError> {
    let path = part.join("manifest.csv");
    let text =
        std::fs::read_to_string(&path).map_err(|source| DatasetError::Read { path: path.clone(), source })?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        header.iter().position(|h| *h == name).ok_or_else(|| DatasetError::Layout {
            path: path.clone(),
            wanted: format!("a column {name}"),
            found: header.join(","),
        })
    };
    let (patient, lo, hi) = (column("patient")?, column("z_lo")?, column("z_hi")?);
    let without_ct = |line: &str| line.split(',').nth(lo) == Some("-1");
    let patients: Vec<OpenKbpPatient> = lines
        .filter(|line| !line.trim().is_empty() && !without_ct(line))
        .map(|line| patient_of_line(part, &path, line, [patient, lo, hi]))
        .collect::<Result<_, _>>()?;
    if patients.is_empty() { Err(DatasetError::Empty { path }) } else { Ok(patients) }
}

fn patient_of_line(
    part: &Path,
    manifest: &Path,
    line: &str,
    [patient, lo, hi]: [usize; 3],
) -> Result<OpenKbpPatient, DatasetError> {
    let fields: Vec<&str> = line.split(',').collect();
    let refused = || DatasetError::Layout {
        path: manifest.to_path_buf(),
        wanted: "patient folder name, z_lo <= z_hi".into(),
        found: line.chars().take(60).collect(),
    };
    let slice = |column: usize| fields.get(column).and_then(|f| f.parse::<usize>().ok()).ok_or_else(refused);
    let name = fields.get(patient).copied().unwrap_or_default();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let (z_lo, z_hi) = (slice(lo)?, slice(hi)?);
    if !plain || z_lo > z_hi {
        return Err(refused());
    }
    Ok(OpenKbpPatient { folder: part.join(name), z_lo, z_hi })
}

impl OpenKbpPatient {
    /// Reads CT and masks, cut to the slices that have CT and to the body in plane. An organ whose drawing is not
    /// believed ([`doubts`]) counts as not annotated.
    ///
    /// # Errors
    /// [`DatasetError`] when a file is missing or broken, the axes are others, or the slices are not there.
    pub fn read(&self) -> Result<Case, DatasetError> {
        let mut case = self.read_as_drawn()?;
        for (organ, _) in doubts(&case) {
            case.annotated = case.annotated.without(organ);
        }
        Ok(case)
    }

    /// As [`Self::read`], with every drawing.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_as_drawn(&self) -> Result<Case, DatasetError> {
        let ct_path = self.folder.join("ct_raw.nii.gz");
        let (raw, header) = read_volume(&ct_path)?;
        let labels_path = self.folder.join("labels.nii.gz");
        let (labels, _) = read_volume(&labels_path)?;
        if labels.dim() != raw.dim() || self.z_hi >= raw.dim().0 {
            return Err(DatasetError::Layout {
                path: labels_path,
                wanted: format!("the CT's shape {:?} with slice {}", raw.dim(), self.z_hi),
                found: format!("{:?}", labels.dim()),
            });
        }
        let whole = grid_of(&ct_path, &header, raw.dim())?;
        let (rows, columns) = body_extent(&raw);
        let part = s![self.z_lo..=self.z_hi, rows.clone(), columns.clone()];
        let hu = raw.slice(part).mapv(|stored| {
            i16::try_from((i32::from(stored) - 1024).clamp(-1024, HIGHEST_HU)).expect("clamped to 12 bits")
        });
        let organs = labels.slice(part).mapv(organ_bits);
        let [sz, sy, sx] = whole.spacing_mm();
        let o = whole.origin();
        let origin = PatientPoint::lps_mm(
            o.x + sx * columns.start as f64,
            o.y + sy * rows.start as f64,
            o.z + sz * self.z_lo as f64,
        );
        let grid = Grid::axial(hu.dim().into(), [sz, sy, sx], origin)
            .map_err(|e| layout(&ct_path, "a regular grid", &e.to_string()))?;
        let mut case = Case { name: self.name(), hu, organs, annotated: OrganSet::EMPTY, grid };
        // An organ without a voxel was not contoured, or lies wholly where there is no CT: either way nothing is known.
        case.annotated = case.present();
        Ok(case)
    }

    /// The patient's folder name.
    #[must_use]
    pub fn name(&self) -> String {
        self.folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Rows and columns that hold any value above air.
fn body_extent(raw: &Array3<i16>) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let (_, n_rows, n_columns) = raw.dim();
    let (mut lo, mut hi) = ([n_rows, n_columns], [0, 0]);
    for ((_, y, x), _) in raw.indexed_iter().filter(|(_, stored)| **stored > 0) {
        for (axis, index) in [y, x].into_iter().enumerate() {
            lo[axis] = lo[axis].min(index);
            hi[axis] = hi[axis].max(index + 1);
        }
    }
    if hi[0] == 0 { (0..n_rows, 0..n_columns) } else { (lo[0]..hi[0], lo[1]..hi[1]) }
}

fn organ_bits(label: i16) -> u32 {
    BITS.iter()
        .enumerate()
        .filter(|(bit, _)| label & (1 << bit) != 0)
        .filter_map(|(_, organ)| organ.map(OrganSet::of))
        .fold(OrganSet::EMPTY, OrganSet::union)
        .bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand: three rows, one of them without CT; a folder name that climbs is refused.
    #[test]
    fn a_manifest_names_folders_only_below_the_part() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("manifest.csv");
        std::fs::write(&manifest, "patient,dx_mm,z_lo,z_hi\npt_3,3.9,7,91\npt_4,3.9,-1,-1\npt_5,4.1,0,127\n")
            .unwrap();
        let patients = list_open_kbp(dir.path()).unwrap();
        assert_eq!(patients.len(), 2);
        assert_eq!((patients[0].z_lo, patients[0].z_hi, patients[1].name()), (7, 91, "pt_5".to_owned()));
        std::fs::write(&manifest, "patient,z_lo,z_hi\n../pt_3,7,91\n").unwrap();
        assert!(matches!(list_open_kbp(dir.path()), Err(DatasetError::Layout { .. })));
        std::fs::write(&manifest, "patient,z_lo,z_hi\n").unwrap();
        assert!(matches!(list_open_kbp(dir.path()), Err(DatasetError::Empty { .. })));
    }

    /// Bits 4 (right parotid) + 16 (mandible) + 64 (oesophagus, not one of ours).
    #[test]
    fn label_bits_become_organs() {
        let organs = OrganSet::from_bits(organ_bits(4 + 16 + 64));
        assert_eq!(organs.iter().collect::<Vec<_>>(), [Organ::Mandible, Organ::ParotidR]);
    }

    /// The figures are the manifest's own: 3.906 mm, slices 31..=91, no larynx; left parotid at higher x.
    #[test]
    fn a_real_patient_has_the_manifests_figures() {
        let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/openkbp/train");
        if !part.is_dir() {
            crate::command::say("SKIPPED: no ../shared/data/openkbp");
            return;
        }
        let patients = list_open_kbp(&part).unwrap();
        let case = patients.iter().find(|p| p.name() == "pt_1").unwrap().read().unwrap();
        assert_eq!(case.hu.dim().0, 61);
        assert!((case.grid.spacing_mm()[0] - 2.5).abs() < 1e-4);
        assert!((case.grid.spacing_mm()[2] - 3.906).abs() < 1e-3);
        assert!(!case.annotated.contains(Organ::Larynx));
        let mean_x = |organ: Organ| {
            let bit = OrganSet::of(organ).bits();
            let xs: Vec<f64> = case
                .organs
                .indexed_iter()
                .filter(|(_, v)| **v & bit != 0)
                .map(|((_, _, x), _)| x as f64)
                .collect();
            (xs.iter().sum::<f64>() / xs.len() as f64, xs.len())
        };
        let (left, right) = (mean_x(Organ::ParotidL), mean_x(Organ::ParotidR));
        assert_eq!((left.1, right.1), (298, 136));
        assert!(left.0 > right.0 + 15.0);
        let brightest = case.hu.iter().copied().max().unwrap();
        assert_eq!(brightest, 3976 - 1024);
    }
}
