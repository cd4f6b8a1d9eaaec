//! From masks to closed rings on the image planes, and back.
//!
//! Comes in: `OrganMask` on the network grid, or a mask on the image grid. Goes out: [`RoiContours`]. The line:
//! `restore` samples the probabilities on the CT's own planes, `components` drops what is not the organ, `trace`
//! finds the rings, `simplify` drops points, `polygon` gives holes to their rings, `planar_contour` places them in
//! the patient; [`fill`] is the way back.

mod components;
mod fill;
mod planar_contour;
mod polygon;
mod restore;
mod simplify;
mod trace;

use ndarray::Axis;
use rayon::prelude::*;

pub use components::PieceLimits;
pub use fill::{FillRule, fill};
pub(crate) use planar_contour::{Plane, place, ring_of};
pub use planar_contour::{contours_of_mask, is_hole, volume_mm3, with_holes};
pub use polygon::{HoleForm, InvalidHoleForm};
pub(crate) use polygon::{Polygon, area, assemble};
pub(crate) use simplify::simplify as simplified;
pub use trace::THRESHOLD;
pub(crate) use trace::at_one_half;

use crate::pipeline::network::OrganMask;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, PatientPoint};

/// One closed planar contour: at least three points, the first not repeated (PS3.3 C.8.8.6.1, CLOSED_PLANAR).
#[derive(Debug, Clone, PartialEq)]
pub struct PlanarContour {
    /// Plane of the image grid on which it lies.
    pub slice: usize,
    /// Corners in the patient.
    pub points: Vec<PatientPoint>,
}

/// All contours of one region of interest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoiContours {
    /// In order of slice.
    pub contours: Vec<PlanarContour>,
}

/// How fields become contours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceOptions {
    /// How holes are written.
    pub holes: HoleForm,
    /// Points closer than this to the ring without them go, mm; zero keeps all.
    pub tolerance_mm: f64,
    /// A ring, hole or not, with less area than this goes, mm2.
    pub smallest_area_mm2: f64,
    /// Which pieces of an organ are kept.
    pub pieces: PieceLimits,
}

impl TraceOptions {
    /// What we deliver: holes as rings of their own, which each destination's format joins as it wants; 0.03 mm, since chords of a round organ
    /// all lie inside it and 0.1 mm would cost an eye 2 % of its volume; rings
    /// from 1 mm2 on (about one pixel); specks under 5 mm3 and crumbs further than 20 mm with under a tenth of the
    /// organ's volume go.
    pub const DELIVERED: Self = Self {
        holes: HoleForm::Xor,
        tolerance_mm: 0.03,
        smallest_area_mm2: 1.0,
        pieces: PieceLimits { smallest_mm3: 5.0, far_mm: 20.0, far_part: 0.1 },
    };
}

/// Traces every mask at one half on the planes of the image. `network_grid` is the grid that the masks' boxes count
/// in; the result has the order of `masks`, and an organ whose probability nowhere reaches one half has no contours.
#[must_use]
pub fn trace_all(
    masks: &[OrganMask],
    network_grid: &Grid,
    image_grid: &Grid,
    options: TraceOptions,
) -> Vec<(Organ, RoiContours)> {
    masks.par_iter().map(|mask| (mask.organ, trace_one(mask, network_grid, image_grid, options))).collect()
}

fn trace_one(mask: &OrganMask, network_grid: &Grid, image_grid: &Grid, options: TraceOptions) -> RoiContours {
    let Some(mut field) = restore::restore(mask, network_grid, image_grid) else {
        return RoiContours::default();
    };
    let spacing_mm = image_grid.spacing_mm();
    let in_plane_mm = [spacing_mm[1], spacing_mm[2]];
    components::keep_the_organ(&mut field, options.pieces, spacing_mm);
    let [z0, y0, x0] = field.region.start;
    let mut contours = Vec::new();
    for (plane, z) in field.probability.axis_iter(Axis(0)).zip(z0..) {
        let mut rings = trace::at_one_half(plane);
        let smallest = options.smallest_area_mm2 / (in_plane_mm[0] * in_plane_mm[1]);
        rings.retain(|ring| polygon::area(ring).abs() >= smallest);
        let rings = simplify::simplify(rings, options.tolerance_mm, in_plane_mm);
        let polygons = polygon::assemble(rings);
        contours.extend(planar_contour::place(polygons, options.holes, Plane { z, y0, x0 }, image_grid));
    }
    RoiContours { contours }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::vocabulary::space::{VoxelBox, VoxelPoint};

    /// A soft ball of known radius, traced on finer planes: volume within 1 %, centre within 0.05 mm.
    #[test]
    fn a_ball_stays_where_it_was_put() {
        let network =
            Grid::axial([26, 48, 64], [1.5, 1.0, 1.0], PatientPoint::lps_mm(-20.0, 5.0, 30.0)).unwrap();
        let image =
            Grid::axial([30, 80, 90], [1.25, 0.7, 0.8], PatientPoint::lps_mm(-21.0, 4.0, 31.0)).unwrap();
        let (centre, radius) = (PatientPoint::lps_mm(8.3, 27.2, 49.1), 11.0);
        let region = VoxelBox { start: [2, 5, 10], end: [24, 40, 50] };
        let probability = Array3::from_shape_fn([22, 35, 40], |(k, j, i)| {
            let v = VoxelPoint { z: 2.0 + k as f64, y: 5.0 + j as f64, x: 10.0 + i as f64 };
            let depth_mm = radius - network.patient_from_voxel(v).distance_mm(centre);
            (0.5 + depth_mm / 20.0).clamp(0.0, 1.0) as f32
        });
        let mask = OrganMask { organ: Organ::EyeL, detection_probability: 0.9, region, probability };
        let found = trace_all(&[mask], &network, &image, TraceOptions::DELIVERED);
        let [(Organ::EyeL, roi)] = found.as_slice() else { panic!("{found:?}") };
        let truth = 4.0 / 3.0 * std::f64::consts::PI * radius.powi(3);
        let volume = volume_mm3(roi, &image);
        assert!((volume / truth - 1.0).abs() < 0.01, "{volume} of {truth} mm3");
        let filled = fill(roi, &image, FillRule::Union);
        let (mut n, mut sum) = (0.0, [0.0; 3]);
        for ((k, j, i), _) in filled.voxels.indexed_iter().filter(|(_, inside)| **inside) {
            let [z, y, x] = filled.region.start;
            let v = VoxelPoint { z: (z + k) as f64, y: (y + j) as f64, x: (x + i) as f64 };
            let p = image.patient_from_voxel(v);
            n += 1.0;
            sum = [sum[0] + p.x, sum[1] + p.y, sum[2] + p.z];
        }
        let found = PatientPoint::lps_mm(sum[0] / n, sum[1] / n, sum[2] / n);
        assert!(found.distance_mm(centre) < 0.1, "{found:?} is not {centre:?}");
    }
}
