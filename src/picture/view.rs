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

/// Length of the scale.
const SCALE_MM: f64 = 50.0;

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
    /// What lies at the left, right, upper and lower edge.
    letters: [char; 4],
    mm_per_pixel: f64,
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
            letters: ['R', 'L', 'A', 'P'],
            mm_per_pixel: mm,
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
            letters: ['R', 'L', 'H', 'F'],
            mm_per_pixel: mm,
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
            letters: ['A', 'P', 'H', 'F'],
            mm_per_pixel: mm,
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
    label(canvas, at, view);
}

/// Letters at the edges, where the cut lies, and a scale.
fn label(canvas: &mut Canvas, [x, y]: [usize; 2], view: &View) {
    let [right, bottom] = [x + view.width.saturating_sub(11), y + view.height.saturating_sub(12)];
    let [middle_x, middle_y] = [x + view.width / 2, y + view.height / 2];
    let places = [[x + 3, middle_y], [right, middle_y], [middle_x, y + 3], [middle_x, bottom]];
    for ([x, y], letter) in places.into_iter().zip(view.letters) {
        canvas.text(x, y, &letter.to_string(), [255, 255, 0]);
    }
    canvas.text(x + 3, bottom, &view.caption, [150, 200, 255]);
    let bar = pixels([0.0, SCALE_MM], view.mm_per_pixel);
    let start = (x + view.width).saturating_sub(bar + 14);
    canvas.fill([start, bottom + 6], [bar, 2], [150, 200, 255]);
    [start, start + bar].into_iter().for_each(|x| canvas.fill([x, bottom + 2], [2, 6], [150, 200, 255]));
    canvas.text(start, bottom.saturating_sub(8), &format!("{SCALE_MM:.0} mm"), [150, 200, 255]);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn gray(volume: &HuVolume, point: PatientPoint) -> u8 {
    let hu = nearest(volume, point).map_or(-1024.0, |_inside| between(volume, point));
    ((hu - BLACK_HU) / WIDTH_HU * 255.0).clamp(0.0, 255.0) as u8
}

/// HU between the eight voxels around a point of the volume.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the volume first")]
fn between(volume: &HuVolume, point: PatientPoint) -> f64 {
    let v = volume.grid.voxel_from_patient(point);
    let last = volume.grid.shape().map(|side| side - 1);
    let place: [f64; 3] = std::array::from_fn(|axis| [v.z, v.y, v.x][axis].clamp(0.0, last[axis] as f64));
    let low = place.map(|at| at.floor() as usize);
    let mut hu = 0.0;
    for corner in 0..8_usize {
        let up: [usize; 3] = std::array::from_fn(|axis| corner >> axis & 1);
        let share = |axis: usize| 1.0 - (place[axis] - (low[axis] + up[axis]) as f64).abs();
        let voxel: [usize; 3] = std::array::from_fn(|axis| (low[axis] + up[axis]).min(last[axis]));
        hu += share(0) * share(1) * share(2) * f64::from(volume.hu[voxel]);
    }
    hu
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

/// Pixels of the mask with a pixel outside among the eight around, so that slanting lines have no gaps.
fn edge(view: &View, volume: &HuVolume, mask: &RegionMask) -> Vec<[usize; 2]> {
    if mask.region.is_empty() {
        return Vec::new();
    }
    let inside = Array2::from_shape_fn((view.height, view.width), |(row, column)| {
        nearest(volume, view.point(column, row)).is_some_and(|voxel| mask.contains(voxel))
    });
    let is_edge = |row: usize, column: usize| {
        let sides = |at: usize| [at.wrapping_sub(1), at, at + 1];
        let mut around = sides(row).into_iter().flat_map(|row| sides(column).map(|column| (row, column)));
        around.any(|at| inside.get(at) != Some(&true))
    };
    inside
        .indexed_iter()
        .filter(|((row, column), inside)| **inside && is_edge(*row, *column))
        .map(|((row, column), _)| [column, row])
        .collect()
}
