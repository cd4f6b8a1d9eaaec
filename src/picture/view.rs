//! One cut through the patient.

use ndarray::Array2;
use rayon::prelude::*;

use super::Outline;
use super::canvas::Canvas;
use crate::pipeline::volume::HuVolume;
use crate::vocabulary::space::{PatientPoint, PatientVector, RegionMask};

/// Soft tissue window: HU of black, and its width.
const BLACK_HU: f64 = -160.0;
const WIDTH_HU: f64 = 400.0;

/// Where a view lies in the patient.
pub(super) struct View {
    /// Under the upper left pixel.
    corner: PatientPoint,
    /// One pixel to the right.
    right: PatientVector,
    /// One pixel down.
    down: PatientVector,
    pub(super) width: usize,
    pub(super) height: usize,
    /// What the left and the upper edge show.
    letters: [char; 2],
    caption: String,
}

impl View {
    /// From below: the patient's right on the left, anterior on top. `shown` is `[x, y, z]`, low and high, mm.
    pub(super) fn axial(z: f64, [x, y, _]: [[f64; 2]; 3], mm: f64) -> Self {
        Self {
            corner: PatientPoint::lps_mm(x[0], y[0], z),
            right: PatientVector::lps(mm, 0.0, 0.0),
            down: PatientVector::lps(0.0, mm, 0.0),
            width: pixels(x, mm),
            height: pixels(y, mm),
            letters: ['R', 'A'],
            caption: format!("z {z:.0} mm"),
        }
    }

    /// From the front: the patient's right on the left, the head on top.
    pub(super) fn coronal(y: f64, [x, _, z]: [[f64; 2]; 3], mm: f64) -> Self {
        Self {
            corner: PatientPoint::lps_mm(x[0], y, z[1]),
            right: PatientVector::lps(mm, 0.0, 0.0),
            down: PatientVector::lps(0.0, 0.0, -mm),
            width: pixels(x, mm),
            height: pixels(z, mm),
            letters: ['R', 'H'],
            caption: format!("y {y:.0} mm"),
        }
    }

    /// From the patient's left: anterior on the left, the head on top.
    pub(super) fn sagittal(x: f64, [_, y, z]: [[f64; 2]; 3], mm: f64) -> Self {
        Self {
            corner: PatientPoint::lps_mm(x, y[0], z[1]),
            right: PatientVector::lps(0.0, mm, 0.0),
            down: PatientVector::lps(0.0, 0.0, -mm),
            width: pixels(y, mm),
            height: pixels(z, mm),
            letters: ['A', 'H'],
            caption: format!("x {x:.0} mm"),
        }
    }

    fn point(&self, column: usize, row: usize) -> PatientPoint {
        self.corner + self.right * column as f64 + self.down * row as f64
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundred pixels")]
fn pixels([low, high]: [f64; 2], mm: f64) -> usize {
    ((high - low) / mm).round().max(1.0) as usize
}

/// Draws a view with its upper left corner at `at`.
pub(super) fn draw(
    canvas: &mut Canvas,
    at: [usize; 2],
    view: &View,
    volume: &HuVolume,
    outlines: &[Outline],
) {
    let rows: Vec<Vec<u8>> = (0..view.height)
        .into_par_iter()
        .map(|row| (0..view.width).map(|column| gray(volume, view.point(column, row))).collect())
        .collect();
    for (row, line) in rows.iter().enumerate() {
        for (column, gray) in line.iter().enumerate() {
            canvas.set([at[0] + column, at[1] + row], [*gray; 3]);
        }
    }
    let edges_of = |mask: &RegionMask| edge(view, volume, mask);
    let predicted: Vec<_> = outlines.par_iter().map(|outline| edges_of(&outline.mask)).collect();
    let truth: Vec<_> = outlines.par_iter().map(|outline| outline.truth.as_ref().map(edges_of)).collect();
    for (outline, edge) in outlines.iter().zip(predicted) {
        edge.iter().for_each(|[x, y]| canvas.set([at[0] + x, at[1] + y], outline.color));
    }
    for [x, y] in truth.into_iter().flatten().flatten().filter(|[x, y]| (x + y) % 4 == 0) {
        canvas.set([at[0] + x, at[1] + y], [255; 3]);
    }
    let [left, top] = view.letters.map(String::from);
    canvas.text(at[0] + 3, at[1] + view.height / 2, &left, [255, 255, 0]);
    canvas.text(at[0] + view.width / 2, at[1] + 3, &top, [255, 255, 0]);
    canvas.text(at[0] + 3, at[1] + view.height.saturating_sub(12), &view.caption, [150, 200, 255]);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn gray(volume: &HuVolume, point: PatientPoint) -> u8 {
    let hu = nearest(volume, point).map_or(-1024.0, |voxel| f64::from(volume.hu[voxel]));
    ((hu - BLACK_HU) / WIDTH_HU * 255.0).clamp(0.0, 255.0) as u8
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie in the volume")]
fn nearest(volume: &HuVolume, point: PatientPoint) -> Option<[usize; 3]> {
    let v = volume.grid.voxel_from_patient(point);
    let mut voxel = [0; 3];
    for (axis, place) in [v.z, v.y, v.x].into_iter().enumerate() {
        let rounded = place.round();
        if !(rounded >= 0.0 && rounded < volume.grid.shape()[axis] as f64) {
            return None;
        }
        voxel[axis] = rounded as usize;
    }
    Some(voxel)
}

/// Pixels of the mask with a neighbour outside.
fn edge(view: &View, volume: &HuVolume, mask: &RegionMask) -> Vec<[usize; 2]> {
    if mask.region.is_empty() {
        return Vec::new();
    }
    let inside = Array2::from_shape_fn((view.height, view.width), |(row, column)| {
        nearest(volume, view.point(column, row)).is_some_and(|voxel| {
            let local =
                std::array::from_fn::<usize, 3, _>(|axis| voxel[axis].wrapping_sub(mask.region.start[axis]));
            mask.voxels.get(local).copied().unwrap_or(false)
        })
    });
    let is_edge = |row: usize, column: usize| {
        let around = [
            (row.wrapping_sub(1), column),
            (row + 1, column),
            (row, column.wrapping_sub(1)),
            (row, column + 1),
        ];
        around.into_iter().any(|at| inside.get(at) != Some(&true))
    };
    inside
        .indexed_iter()
        .filter(|((row, column), inside)| **inside && is_edge(*row, *column))
        .map(|((row, column), _)| [column, row])
        .collect()
}
