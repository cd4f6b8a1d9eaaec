//! Labels of a file onto the voxels of the CT, by their place in the patient.

use std::collections::BTreeMap;

use ndarray::{Array3, s};

use super::error::ConvertError;
use super::volume::LabelVolume;
use crate::vocabulary::space::{Grid, PatientPoint, RegionMask, VoxelBox};

/// How far a voxel centre of the file may lie from one of the CT, in CT voxels: NIfTI keeps places as f32.
const PLACE_TOLERANCE_VOXELS: f64 = 0.05;

/// Every label of the file as a mask on the grid, and the number of voxels that lie beyond the CT.
///
/// # Errors
/// [`ConvertError::OtherGrid`] where the file's voxels are not those of the CT, up to the order and sense of axes.
pub(crate) fn place(
    volume: &LabelVolume,
    grid: &Grid,
) -> Result<(BTreeMap<u16, RegionMask>, usize), ConvertError> {
    let axes = Axes::between(volume, grid)?;
    let mut masks = BTreeMap::new();
    let mut lost = 0;
    for (label, file_box) in boxes(&volume.labels) {
        let (first, last) = (axes.to_ct(file_box.start), axes.to_ct(file_box.end.map(|end| end - 1)));
        let mut region = VoxelBox { start: [0; 3], end: [0; 3] };
        for axis in 0..3 {
            let (low, high) = (first[axis].min(last[axis]), first[axis].max(last[axis]));
            region.start[axis] = usize::try_from(low).unwrap_or(0).min(grid.shape()[axis]);
            region.end[axis] = usize::try_from(high + 1).unwrap_or(0).min(grid.shape()[axis]);
        }
        let mut voxels = Array3::from_elem(region.shape(), false);
        let VoxelBox { start: [k0, j0, i0], end: [k1, j1, i1] } = file_box;
        let part = volume.labels.slice(s![k0..k1, j0..j1, i0..i1]);
        for ((k, j, i), _) in part.indexed_iter().filter(|(_, found)| **found == label) {
            let ct = axes.to_ct([k + k0, j + j0, i + i0]);
            let inside: [Option<usize>; 3] =
                std::array::from_fn(|axis| usize::try_from(ct[axis]).ok()?.checked_sub(region.start[axis]));
            let voxel = match inside {
                [Some(z), Some(y), Some(x)] => voxels.get_mut((z, y, x)),
                _ => None,
            };
            match voxel {
                Some(voxel) => *voxel = true,
                None => lost += 1,
            }
        }
        masks.insert(label, RegionMask { region, voxels });
    }
    Ok((masks, lost))
}

/// The box of every label but zero, axes `(k, j, i)`.
fn boxes(labels: &Array3<u16>) -> BTreeMap<u16, VoxelBox> {
    let mut boxes: BTreeMap<u16, VoxelBox> = BTreeMap::new();
    for (k, plane) in labels.outer_iter().enumerate() {
        for (j, row) in plane.outer_iter().enumerate() {
            if let Some(row) = row.as_slice()
                && row.iter().all(|label| *label == 0)
            {
                continue;
            }
            for (i, label) in row.iter().enumerate().filter(|(_, label)| **label != 0) {
                let place = [k, j, i];
                let found = boxes.entry(*label).or_insert(VoxelBox { start: place, end: place });
                for (axis, index) in place.into_iter().enumerate() {
                    found.start[axis] = found.start[axis].min(index);
                    found.end[axis] = found.end[axis].max(index + 1);
                }
            }
        }
    }
    boxes
}

/// For each axis of the CT `(z, y, x)`: which axis of the file `(k, j, i)` runs along it, in which sense, from where.
struct Axes([(usize, isize, isize); 3]);

impl Axes {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "indices of images")]
    fn between(volume: &LabelVolume, grid: &Grid) -> Result<Self, ConvertError> {
        let other = |detail: String| ConvertError::OtherGrid { path: volume.path.clone(), detail };
        let at = |p: PatientPoint| {
            let v = grid.voxel_from_patient(p);
            [v.z, v.y, v.x]
        };
        let origin = at(volume.geometry.origin);
        let [i, j, k] = volume.geometry.steps;
        let columns = [k, j, i].map(|step| {
            let end = at(volume.geometry.origin + step);
            [end[0] - origin[0], end[1] - origin[1], end[2] - origin[2]]
        });
        let shape = volume.labels.shape();
        let mut axes = [(0, 1, 0); 3];
        for ct_axis in 0..3 {
            let along =
                (0..3).max_by(|a, b| columns[*a][ct_axis].abs().total_cmp(&columns[*b][ct_axis].abs()));
            let along = along.unwrap_or(0);
            let sense = columns[along][ct_axis].signum();
            let drift: f64 = (0..3)
                .map(|file_axis| {
                    let wanted = if file_axis == along { sense } else { 0.0 };
                    (columns[file_axis][ct_axis] - wanted).abs() * (shape[file_axis] as f64)
                })
                .sum();
            let start = origin[ct_axis].round();
            let off = (origin[ct_axis] - start).abs() + drift;
            // A NaN fails this too.
            if !(off <= PLACE_TOLERANCE_VOXELS && start.abs() < 1e9) {
                let name = ["z", "y", "x"][ct_axis];
                return Err(other(format!("off by up to {off:.2} voxels along the CT's {name}")));
            }
            axes[ct_axis] = (along, if sense < 0.0 { -1 } else { 1 }, start as isize);
        }
        if axes[0].0 == axes[1].0 || axes[1].0 == axes[2].0 || axes[0].0 == axes[2].0 {
            return Err(other("two axes run along one of the CT".to_owned()));
        }
        Ok(Self(axes))
    }

    /// Place on the CT `(z, y, x)`, possibly outside, of a voxel of the file `(k, j, i)`.
    fn to_ct(&self, file: [usize; 3]) -> [isize; 3] {
        self.0.map(|(along, sense, start)| {
            start + sense * isize::try_from(file[along]).unwrap_or(isize::MAX / 2)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::volume::Geometry;
    use crate::vocabulary::space::PatientVector;

    /// A file whose axes run x up, then y back to front, then z: nothing is where its index says.
    #[test]
    fn axes_of_any_order_and_sense_find_their_voxels() {
        let grid = Grid::axial([4, 5, 6], [2.5, 0.9, 1.3], PatientPoint::lps_mm(-31.0, 7.0, 112.0)).unwrap();
        let geometry = Geometry {
            // Fastest axis: downwards from plane 3; then to anterior from row 4; then to the left from column 1.
            origin: PatientPoint::lps_mm(-31.0 + 1.3, 7.0 + 4.0 * 0.9, 112.0 + 3.0 * 2.5),
            steps: [
                PatientVector::lps(0.0, 0.0, -2.5),
                PatientVector::lps(0.0, -0.9, 0.0),
                PatientVector::lps(1.3, 0.0, 0.0),
            ],
        };
        let mut labels = Array3::zeros([5, 5, 4]);
        labels[[3, 1, 2]] = 7; // column 1 + 3, row 4 - 1, plane 3 - 2
        let volume = LabelVolume { path: "m.nrrd".into(), labels, geometry, names: BTreeMap::new() };
        let (masks, lost) = place(&volume, &grid).unwrap();
        assert_eq!((masks[&7].region.start, masks[&7].n_voxels(), lost), ([1, 3, 4], 1, 0));
        let mut moved = volume.clone();
        moved.geometry.origin.x += 0.65;
        assert!(matches!(place(&moved, &grid), Err(ConvertError::OtherGrid { .. })));
        let mut out = volume;
        out.geometry.origin.x += 1.3 * 4.0;
        assert_eq!(place(&out, &grid).unwrap().1, 1);
    }
}
