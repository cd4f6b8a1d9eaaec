//! Hounsfield units on a grid.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array3;
use rayon::prelude::*;

use super::decode::{PixelForm, decode_into};
use super::error::{PixelError, VolumeError};
use crate::pipeline::series::{CtSeries, CtSlice};
use crate::vocabulary::dicom::instance::{Instance, InstanceLimits, read_instance};
use crate::vocabulary::space::Grid;

/// Most voxels of a volume: 4000 slices of 512 x 512, 2 GB.
const MOST_VOXELS: u64 = 1 << 30;

/// A CT without a voxel below this holds no air, so its values are no Hounsfield units, HU.
const AIR_BELOW_HU: i16 = -200;

/// A CT volume: Hounsfield units, rounded to whole ones, axes `(z, y, x)`, shape of `grid`.
#[derive(Debug, Clone, PartialEq)]
pub struct HuVolume {
    /// Hounsfield units.
    pub hu: Array3<i16>,
    /// Where the voxels lie.
    pub grid: Grid,
}

impl HuVolume {
    /// Reads and decodes all slices, on as many threads as rayon has. Padding, and everything below -1024, is
    /// air (-1024).
    ///
    /// # Errors
    /// [`VolumeError`], naming the instance: unreadable, not decoded, damaged; or values that cannot be HU.
    pub fn read(series: &CtSeries) -> Result<Self, VolumeError> {
        let shape = series.grid.shape();
        let n_voxels = shape.iter().map(|side| *side as u64).product();
        if n_voxels > MOST_VOXELS {
            return Err(VolumeError::TooLarge { n_voxels, most: MOST_VOXELS });
        }
        let mut hu = Array3::zeros(shape);
        let [_, rows, columns] = shape;
        let all = hu.as_slice_mut().expect("a fresh array is contiguous");
        let mut by_instance: BTreeMap<&Path, Vec<(&CtSlice, &mut [i16])>> = BTreeMap::new();
        for (slice, plane) in series.slices.iter().zip(all.chunks_mut(rows * columns)) {
            by_instance.entry(&slice.path).or_default().push((slice, plane));
        }
        let by_instance: Vec<_> = by_instance.into_iter().collect();
        let lowest = by_instance
            .into_par_iter()
            .map(|(path, planes)| {
                let instance = read_instance(path, InstanceLimits::default()).map_err(|source| {
                    VolumeError::Instance { path: path.to_owned(), source: Box::new(source) }
                })?;
                let planes = planes.into_par_iter();
                planes
                    .map(|(slice, plane)| read_plane(&instance, slice, [rows, columns], plane))
                    .try_reduce(|| i16::MAX, |a, b| Ok(a.min(b)))
            })
            .try_reduce(|| i16::MAX, |a, b| Ok(a.min(b)))?;
        if lowest > AIR_BELOW_HU {
            return Err(VolumeError::NotHounsfield { lowest, air: AIR_BELOW_HU });
        }
        Ok(Self { hu, grid: series.grid.clone() })
    }
}

/// Decodes one plane and gives its lowest value.
fn read_plane(
    instance: &Instance,
    slice: &CtSlice,
    wanted: [usize; 2],
    plane: &mut [i16],
) -> Result<i16, VolumeError> {
    let path = || slice.path.clone();
    let pixels = |source: PixelError| VolumeError::Pixels { path: path(), source };
    let frame = slice.frame.unwrap_or(0);
    let form = PixelForm::read(instance, frame, &slice.path.display().to_string()).map_err(pixels)?;
    let found = [usize::from(form.rows), usize::from(form.columns)];
    if found != wanted {
        return Err(VolumeError::Changed { path: path(), found, wanted });
    }
    decode_into(instance, &form, frame, plane).map_err(pixels)?;
    Ok(plane.iter().copied().min().unwrap_or(i16::MAX))
}
