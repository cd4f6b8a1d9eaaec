//! Labels of a file onto the voxels of the CT, by their place in the patient.

use std::collections::BTreeMap;

use ndarray::{Array3, s};

use super::error::ConvertError;
use super::volume::LabelVolume;
use crate::vocabulary::space::{Grid, PatientPoint, RegionMask, VoxelBox, VoxelPoint};

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
    for (label, file_box) in boxes(&volume.voxels) {
        let (first, last) = (axes.to_ct(file_box.start), axes.to_ct(file_box.end.map(|end| end - 1)));
        let mut region = VoxelBox { start: [0; 3], end: [0; 3] };
        for axis in 0..3 {
            let (low, high) = (first[axis].min(last[axis]), first[axis].max(last[axis]));
            region.start[axis] = usize::try_from(low).unwrap_or(0).min(grid.shape()[axis]);
            region.end[axis] = usize::try_from(high + 1).unwrap_or(0).min(grid.shape()[axis]);
        }
        let mut voxels = Array3::from_elem(region.shape(), false);
        let VoxelBox { start: [k0, j0, i0], end: [k1, j1, i1] } = file_box;
        let part = volume.voxels.slice(s![k0..k1, j0..j1, i0..i1]);
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

/// Masks of a file on another grid.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Every label of the file.
    pub(crate) masks: BTreeMap<u16, RegionMask>,
    /// Voxels of the file that lie beyond the CT.
    pub(crate) lost: usize,
    /// Whether the voxels of the file are not those of the CT, so that the nearest one counted.
    pub(crate) resampled: bool,
}

/// As [`place`], and where the file's voxels are not those of the CT, each voxel of the CT takes the label of the
/// file's voxel that its centre lies in.
///
/// # Errors
/// [`ConvertError::OtherGrid`] where the file's axes span no space.
pub(crate) fn place_anywhere(volume: &LabelVolume, grid: &Grid) -> Result<Placed, ConvertError> {
    match place(volume, grid) {
        Ok((masks, lost)) => Ok(Placed { masks, lost, resampled: false }),
        Err(ConvertError::OtherGrid { path, .. }) => {
            let spans_nothing =
                || ConvertError::OtherGrid { path, detail: "its axes span no space".to_owned() };
            let file_from_ct = FileFromCt::of(volume, grid).ok_or_else(spans_nothing)?;
            let mut lost = 0;
            let mut masks = BTreeMap::new();
            for (label, file_box) in boxes(&volume.voxels) {
                masks.insert(label, nearest(volume, label, file_box, grid, &file_from_ct));
                lost += beyond(volume, label, file_box, grid);
            }
            Ok(Placed { masks, lost, resampled: true })
        }
        Err(other) => Err(other),
    }
}

/// Voxel indices of a file, `(k, j, i)`, as a linear function of voxel indices of the CT, `(z, y, x)`.
struct FileFromCt {
    at_origin: [f64; 3],
    per_axis: [[f64; 3]; 3],
}

impl FileFromCt {
    fn of(volume: &LabelVolume, grid: &Grid) -> Option<Self> {
        let [a, b, c] = volume.geometry.steps;
        let volume_mm3 = a.dot(b.cross(c));
        if !(volume_mm3.is_finite() && volume_mm3.abs() > 1e-9) {
            return None;
        }
        // Rows of the inverse of the matrix with columns a, b, c.
        let inverse = [a.cross(b), c.cross(a), b.cross(c)].map(|row| row * volume_mm3.recip());
        let at = |z: f64, y: f64, x: f64| {
            let offset = grid.patient_from_voxel(VoxelPoint { z, y, x }) - volume.geometry.origin;
            inverse.map(|row| row.dot(offset))
        };
        let at_origin = at(0.0, 0.0, 0.0);
        let along = |end: [f64; 3]| std::array::from_fn(|n| end[n] - at_origin[n]);
        let per_axis = [along(at(1.0, 0.0, 0.0)), along(at(0.0, 1.0, 0.0)), along(at(0.0, 0.0, 1.0))];
        Some(Self { at_origin, per_axis })
    }

    fn at(&self, ct: [usize; 3]) -> [f64; 3] {
        std::array::from_fn(|n| {
            self.at_origin[n] + (0..3).map(|axis| self.per_axis[axis][n] * ct[axis] as f64).sum::<f64>()
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cut to the sides of the CT and of the file first"
)]
fn nearest(
    volume: &LabelVolume,
    label: u16,
    file_box: VoxelBox,
    grid: &Grid,
    file_from_ct: &FileFromCt,
) -> RegionMask {
    let (mut low, mut high) = ([f64::MAX; 3], [f64::MIN; 3]);
    for corner in 0..8_usize {
        let side = |axis: usize| {
            let index = if corner >> axis & 1 == 0 { file_box.start[axis] } else { file_box.end[axis] };
            index as f64 - 0.5
        };
        let v = grid.voxel_from_patient(place_of(volume, [side(0), side(1), side(2)]));
        for (axis, at) in [v.z, v.y, v.x].into_iter().enumerate() {
            low[axis] = low[axis].min(at);
            high[axis] = high[axis].max(at);
        }
    }
    let shape = grid.shape();
    let index = |at: f64, axis: usize| at.clamp(0.0, shape[axis] as f64) as usize;
    let start = std::array::from_fn(|axis| index(low[axis].floor(), axis));
    let end = std::array::from_fn(|axis| index(high[axis].floor() + 1.0, axis));
    let region = VoxelBox { start, end };
    let mut voxels = Array3::from_elem(region.shape(), false);
    for ((z, y, x), inside) in voxels.indexed_iter_mut() {
        let file = file_from_ct.at([z + start[0], y + start[1], x + start[2]]).map(f64::round);
        let there = (0..3)
            .all(|axis| file[axis] >= file_box.start[axis] as f64 && file[axis] < file_box.end[axis] as f64);
        *inside = there && volume.voxels[file.map(|at| at as usize)] == label;
    }
    RegionMask { region, voxels }
}

/// Where a place in the file, `(k, j, i)` in voxels, lies in the patient.
fn place_of(volume: &LabelVolume, [k, j, i]: [f64; 3]) -> PatientPoint {
    let steps = volume.geometry.steps;
    volume.geometry.origin + steps[0] * i + steps[1] * j + steps[2] * k
}

/// How many voxels of a label have their centre beyond the outermost voxels of the CT.
fn beyond(volume: &LabelVolume, label: u16, file_box: VoxelBox, grid: &Grid) -> usize {
    let VoxelBox { start: [k0, j0, i0], end: [k1, j1, i1] } = file_box;
    let part = volume.voxels.slice(s![k0..k1, j0..j1, i0..i1]);
    let outside = |(k, j, i): (usize, usize, usize)| {
        let place = [(k + k0) as f64, (j + j0) as f64, (i + i0) as f64];
        let v = grid.voxel_from_patient(place_of(volume, place));
        let sides = grid.shape().map(|side| side as f64 - 0.5);
        !([v.z, v.y, v.x].iter().zip(sides).all(|(at, side)| (-0.5..side).contains(at)))
    };
    part.indexed_iter().filter(|(at, found)| **found == label && outside(*at)).count()
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
        let shape = volume.voxels.shape();
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
        let volume = LabelVolume { path: "m.nrrd".into(), voxels: labels, geometry, names: BTreeMap::new() };
        let (masks, lost) = place(&volume, &grid).unwrap();
        assert_eq!((masks[&7].region.start, masks[&7].n_voxels(), lost), ([1, 3, 4], 1, 0));
        let mut moved = volume.clone();
        moved.geometry.origin.x += 0.65;
        assert!(matches!(place(&moved, &grid), Err(ConvertError::OtherGrid { .. })));
        let mut out = volume;
        out.geometry.origin.x += 1.3 * 4.0;
        assert_eq!(place(&out, &grid).unwrap().1, 1);
    }

    /// A mask of 2 x 1.5 x 1 mm voxels, turned by 90 degrees about z, on a CT of 2.5 x 0.9 x 1.3 mm. The file's one
    /// brick covers x 0..4, y 3..6, z 10..14 mm; the CT's voxels with their centre in it are counted by hand:
    /// z 11.5 (one plane), y 3.1, 4.0, 4.9, 5.8 and x 0.7, 2.0, 3.3.
    #[test]
    fn a_mask_of_another_spacing_is_placed_by_its_coordinates() {
        let grid = Grid::axial([9, 20, 18], [2.5, 0.9, 1.3], PatientPoint::lps_mm(-8.4, -5.0, 1.5)).unwrap();
        let geometry = Geometry {
            // Fastest axis to posterior in steps of 1.5 mm, then to the right in steps of 1 mm, then up by 2 mm.
            origin: PatientPoint::lps_mm(4.5, 0.75, 9.0),
            steps: [
                PatientVector::lps(0.0, 1.5, 0.0),
                PatientVector::lps(-1.0, 0.0, 0.0),
                PatientVector::lps(0.0, 0.0, 2.0),
            ],
        };
        let mut labels = Array3::zeros([3, 6, 5]);
        labels.slice_mut(s![1..3, 1..5, 2..4]).fill(3);
        let volume = LabelVolume { path: "m.nrrd".into(), voxels: labels, geometry, names: BTreeMap::new() };
        let placed = place_anywhere(&volume, &grid).unwrap();
        assert!(placed.resampled && placed.lost == 0);
        let whole = placed.masks[&3].to_whole(grid.shape());
        let found: Vec<_> = whole.indexed_iter().filter(|(_, inside)| **inside).map(|(at, _)| at).collect();
        let mut wanted = Vec::new();
        for y in 9..13 {
            (7..10).for_each(|x| wanted.push((4, y, x)));
        }
        assert_eq!(found, wanted);
        let mut out = volume;
        out.geometry.origin.z = 19.0; // planes at 21 and 23 mm, the CT's last voxel ends at 22.75
        assert_eq!(place_anywhere(&out, &grid).unwrap().lost, 8);
    }
}
