//! NIfTI-1 volumes with axes to the patient's left, posterior and superior.

use std::path::Path;

use flate2::read::GzDecoder;
use ndarray::{Array3, Ix3};
use nifti::{InMemNiftiObject, IntoNdArray, NiftiHeader, NiftiObject};

use super::DatasetError;
use crate::vocabulary::space::{Grid, PatientPoint};

/// More voxels than any CT of a head has: 1024 x 1024 x 256. A header that asks for more is broken.
const MOST_VOXELS: usize = 1 << 28;

/// Side of the array in-plane components of an affine may have, relative to the spacing, and still count as axial.
const AFFINE_TOLERANCE: f32 = 1e-3;

pub(super) fn layout(path: &Path, wanted: &str, found: &str) -> DatasetError {
    DatasetError::Layout { path: path.to_path_buf(), wanted: wanted.into(), found: found.into() }
}

/// Reads a volume as stored, with its axes turned round to `(z, y, x)`.
pub(super) fn read_volume(path: &Path) -> Result<(Array3<i16>, NiftiHeader), DatasetError> {
    let bytes =
        std::fs::read(path).map_err(|source| DatasetError::Read { path: path.to_path_buf(), source })?;
    parse_volume(path, &bytes)
}

/// The same from the bytes of a `.nii.gz`; `path` is what messages call it.
pub(super) fn parse_volume(path: &Path, bytes: &[u8]) -> Result<(Array3<i16>, NiftiHeader), DatasetError> {
    let refused = |source| DatasetError::Nifti { path: path.to_path_buf(), source };
    let header = NiftiHeader::from_reader(GzDecoder::new(bytes)).map_err(refused)?;
    let n_voxels = header
        .dim
        .iter()
        .skip(1)
        .take(usize::from(header.dim[0]))
        .try_fold(1_usize, |n, side| n.checked_mul(usize::from(*side)));
    if header.dim[0] != 3 || n_voxels.is_none_or(|n| n == 0 || n > MOST_VOXELS) {
        return Err(layout(path, "three axes, at most 2^28 voxels", &format!("{:?}", header.dim)));
    }
    let object = InMemNiftiObject::from_reader(GzDecoder::new(bytes)).map_err(refused)?;
    let volume = object.into_volume().into_ndarray::<i16>().map_err(refused)?;
    let volume = volume
        .into_dimensionality::<Ix3>()
        .map_err(|e| layout(path, "three axes", &e.to_string()))?
        .permuted_axes([2, 1, 0]);
    Ok((volume.as_standard_layout().into_owned(), header))
}

/// The grid that the affine states: NIfTI counts to the right and to anterior, DICOM to the left and posterior.
pub(super) fn grid_of(
    path: &Path,
    header: &NiftiHeader,
    shape: (usize, usize, usize),
) -> Result<Grid, DatasetError> {
    let (x, y, z) = (header.srow_x, header.srow_y, header.srow_z);
    let spacing = [z[2], -y[1], -x[0]];
    let slant = [x[1], x[2], y[0], y[2], z[0], z[1]].into_iter().fold(0.0_f32, |worst, v| worst.max(v.abs()));
    if spacing.iter().any(|s| !s.is_finite() || *s <= 0.0) || slant > AFFINE_TOLERANCE {
        let found = format!("rows {x:?} {y:?} {z:?}");
        return Err(layout(path, "axes to left, posterior, superior (affine diag(-, -, +))", &found));
    }
    let origin = PatientPoint::lps_mm(-f64::from(x[3]), -f64::from(y[3]), f64::from(z[3]));
    Grid::axial(shape.into(), spacing.map(f64::from), origin)
        .map_err(|e| layout(path, "a regular grid", &e.to_string()))
}
