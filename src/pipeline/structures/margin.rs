//! Margins: everything within so many mm of a structure, in three dimensions, on the slices of the CT.
//!
//! The structure is what its contours mean as a volume (see `lattice`), sampled at a third of a pixel and a third of a slice
//! or 1 mm across, whichever is less. The distance from its samples is exact; where it passes the margin, the outline is traced.

use ndarray::{Array2, Array3, ArrayView2, Axis};
use rayon::prelude::*;

use super::lattice::{Lattice, index, spread, to_f32};
use crate::pipeline::contours::{HoleForm, Plane, RoiContours, assemble, at_one_half, place, simplified};
use crate::vocabulary::space::{Grid, PatientVector};

/// Points closer than this to the outline without them go, mm; as for organs.
const TOLERANCE_MM: f64 = 0.03;

/// Widest margin, mm.
pub const WIDEST_MM: f64 = 100.0;

/// A direction cosine this near to one is an axis of the patient: half a degree.
const ALONG_AN_AXIS: f64 = 0.99996;

/// How far a structure grows, or shrinks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// Outwards.
    Grow(Directions),
    /// Inwards.
    Shrink(Directions),
}

/// Distances in the patient's directions, mm, each 0 to [`WIDEST_MM`]. Between two directions the margin is an ellipsoid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Directions {
    /// To the patient's left.
    pub left: f64,
    /// To the patient's right.
    pub right: f64,
    /// To the front.
    pub anterior: f64,
    /// To the back.
    pub posterior: f64,
    /// Towards the head.
    pub superior: f64,
    /// Towards the feet.
    pub inferior: f64,
}

/// Why there is no margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarginError {
    /// Directions of the patient on slices that do not follow them.
    #[error(
        "not made: a margin that differs by direction needs slices along the patient's axes, and these are oblique"
    )]
    Oblique,
}

impl Directions {
    /// The same in all directions, mm.
    #[must_use]
    pub fn all(mm: f64) -> Self {
        Self { left: mm, right: mm, anterior: mm, posterior: mm, superior: mm, inferior: mm }
    }

    fn largest_and_least(self) -> [f64; 2] {
        let all = [self.left, self.right, self.anterior, self.posterior, self.superior, self.inferior];
        [all.into_iter().fold(0.0, f64::max), all.into_iter().fold(f64::MAX, f64::min)]
    }

    /// Per axis `(z, y, x)` of a grid, towards lower and towards higher indices, mm.
    fn on_grid(self, grid: &Grid) -> Result<[[f64; 2]; 3], MarginError> {
        let [largest, least] = self.largest_and_least();
        if largest - least < 1e-9 {
            return Ok([[largest; 2]; 3]);
        }
        let along = |direction: PatientVector| {
            let parts = [
                (direction.x, self.right, self.left),
                (direction.y, self.anterior, self.posterior),
                (direction.z, self.inferior, self.superior),
            ];
            let found = parts.into_iter().find(|(cosine, ..)| cosine.abs() > ALONG_AN_AXIS);
            let (cosine, negative, positive) = found.ok_or(MarginError::Oblique)?;
            Ok(if cosine > 0.0 { [negative, positive] } else { [positive, negative] })
        };
        let [z, y, x] = grid.directions();
        Ok([along(z)?, along(y)?, along(x)?])
    }
}

/// The contours of a structure with a margin. Holes are rings of their own, in and out. Beyond the image there is
/// nothing to draw on; and where the image ends a structure does not shrink, since nobody knows whether it ends there.
///
/// # Errors
/// [`MarginError::Oblique`].
pub fn with_margin(roi: &RoiContours, margin: &Margin, grid: &Grid) -> Result<RoiContours, MarginError> {
    let directions = match margin {
        Margin::Grow(directions) | Margin::Shrink(directions) => *directions,
    };
    let reach_mm = directions.on_grid(grid)?;
    if directions.largest_and_least()[0] <= 0.0 {
        return Ok(roi.clone());
    }
    let Some(lattice) = Lattice::around(roi, grid, reach_mm) else { return Ok(RoiContours::default()) };
    let (mut inside, first) = lattice.sample(roi, grid);
    let shrinks = matches!(margin, Margin::Shrink(_));
    if shrinks {
        inside.par_mapv_inplace(|inside| !inside);
    }
    let far = gauge(&inside, first, &lattice, reach_mm, shrinks);
    let planes: Vec<_> = far.axis_iter(Axis(0)).enumerate().collect();
    let contours = planes.into_par_iter().flat_map_iter(|(slice, gauge)| {
        let was_outside = inside.index_axis(Axis(0), first + slice * lattice.per_slice);
        let field =
            if shrinks { shrunk(gauge, was_outside) } else { gauge.mapv(|g| (1.0 - g / 2.0).max(0.0)) };
        outline(field.view(), lattice.region.start[0] + slice, &lattice, grid)
    });
    Ok(RoiContours { contours: contours.collect() })
}

/// How far each sample of each slice is from the samples that are set, as a part of the margin in that direction: 0 on
/// them, 1 at the margin. `reach_mm` is how far they reach towards lower and towards higher indices.
fn gauge(
    set: &Array3<bool>,
    first: usize,
    lattice: &Lattice,
    reach_mm: [[f64; 2]; 3],
    shrinks: bool,
) -> Array3<f32> {
    // What is shrunk towards higher indices is eaten from below.
    let reach_mm = if shrinks { reach_mm.map(|[low, high]| [high, low]) } else { reach_mm };
    let costs: [[Vec<f32>; 2]; 3] = std::array::from_fn(|axis| {
        reach_mm[axis].map(|reach_mm| {
            // Two margins far, so that the field is whole on both sides of the outline.
            let n = index((2.0 * reach_mm / lattice.step_mm[axis]).ceil(), 10_000);
            let part = |steps: usize| (steps as f64 * lattice.step_mm[axis] / reach_mm).powi(2);
            (0..=n).map(|steps| if steps == 0 { 0.0 } else { to_f32(part(steps)) }).collect()
        })
    });
    let [n_slices, ..] = lattice.region.shape();
    let [rows, columns] = lattice.rows_and_columns();
    let n_planes = set.dim().0;
    let mut squared = Array3::from_elem((n_slices, rows, columns), f32::INFINITY);
    let slices: Vec<_> = squared.axis_iter_mut(Axis(0)).enumerate().collect();
    slices.into_par_iter().for_each(|(slice, mut here)| {
        let at = first + slice * lattice.per_slice;
        let [down, up] = &costs[0];
        // Shrinking starts from what is known to be outside, and beyond the last slices nothing is known.
        let known = if shrinks { first..n_planes - first } else { 0..n_planes };
        for from in known {
            let steps = from.abs_diff(at);
            let Some(cost) = (if from <= at { up } else { down }).get(steps) else { continue };
            ndarray::Zip::from(&mut here).and(set.index_axis(Axis(0), from)).for_each(|here, set| {
                if *set {
                    *here = here.min(*cost);
                }
            });
        }
        for (axis, [down, up]) in costs.iter().enumerate().skip(1) {
            for lane in here.lanes_mut(Axis(axis - 1)) {
                spread(lane, up, down);
            }
        }
        here.mapv_inplace(f32::sqrt);
    });
    squared
}

/// At least one half where a sample was inside and is farther than the margin from all that was outside.
fn shrunk(gauge: ArrayView2<'_, f32>, was_outside: ArrayView2<'_, bool>) -> Array2<f32> {
    let mut field = gauge.mapv(|gauge| (gauge / 2.0).min(1.0));
    field.zip_mut_with(&was_outside, |field, outside| {
        if *outside {
            *field = 0.0;
        }
    });
    field
}

fn outline(
    field: ArrayView2<'_, f32>,
    z: usize,
    lattice: &Lattice,
    grid: &Grid,
) -> Vec<crate::pipeline::contours::PlanarContour> {
    let rings = at_one_half(field).into_iter().map(|ring| {
        let pixel = |c: geo::Coord<f64>| geo::Coord { x: lattice.pixel(2, c.x), y: lattice.pixel(1, c.y) };
        let [_, rows, columns] = grid.shape().map(|n| n as f64);
        // What reaches beyond the image is drawn at its border.
        let on_image = |c: geo::Coord<f64>| geo::Coord {
            x: c.x.clamp(-0.5, columns - 0.5),
            y: c.y.clamp(-0.5, rows - 0.5),
        };
        ring.into_iter().map(|c| on_image(pixel(c))).collect()
    });
    let [_, spacing_y, spacing_x] = grid.spacing_mm();
    let rings = simplified(rings.collect(), TOLERANCE_MM, [spacing_y, spacing_x]);
    place(assemble(rings), HoleForm::Xor, Plane { z, y0: 0, x0: 0 }, grid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::contours::{PlanarContour, volume_mm3};
    use crate::vocabulary::space::{PatientPoint, VoxelPoint};

    /// A scan that is fed feet first: columns to the right, slices downwards; nothing symmetric.
    fn feet_first() -> Grid {
        let (x, y) = (PatientVector::lps(-1.0, 0.0, 0.0), PatientVector::lps(0.0, 1.0, 0.0));
        let origin = PatientPoint::lps_mm(60.0, -48.0, 90.0);
        Grid::new([40, 110, 120], [2.5, 0.9, 1.1], origin, [x.cross(y), y, x]).unwrap()
    }

    fn oblique() -> Grid {
        let x = PatientVector::lps(0.6, 0.8, 0.0);
        let y = PatientVector::lps(0.0, 0.0, -1.0);
        let centre = PatientPoint::lps_mm(3.0, 2.0, 41.0);
        let origin = centre + x * -60.0 + y * -48.0 + x.cross(y) * -50.0;
        Grid::new([40, 110, 120], [2.5, 0.9, 1.1], origin, [x.cross(y), y, x]).unwrap()
    }

    /// An ellipsoid with these half axes along the grid's `(z, y, x)`, mm, as circles of 240 points.
    fn ellipsoid(grid: &Grid, centre: PatientPoint, half_mm: [f64; 3]) -> RoiContours {
        let c = grid.voxel_from_patient(centre);
        let [sz, sy, sx] = grid.spacing_mm();
        let mut contours = Vec::new();
        for slice in 0..grid.shape()[0] {
            let height = (slice as f64 - c.z) * sz / half_mm[0];
            let part = (1.0 - height * height).max(0.0).sqrt();
            if part < 0.05 {
                continue;
            }
            let points = (0..240).map(|n| {
                let (sin, cos) = (f64::from(n) * std::f64::consts::TAU / 240.0).sin_cos();
                let (y, x) = (c.y + sin * part * half_mm[1] / sy, c.x + cos * part * half_mm[2] / sx);
                grid.patient_from_voxel(VoxelPoint { z: slice as f64, y, x })
            });
            contours.push(PlanarContour { slice, points: points.collect() });
        }
        RoiContours { contours }
    }

    /// Every point lies at the ball's radius, and the volume is the ball's.
    fn check_ball(found: &RoiContours, grid: &Grid, centre: PatientPoint, radius: f64, off_mm: f64) {
        let distances: Vec<f64> =
            found.contours.iter().flat_map(|c| &c.points).map(|p| p.distance_mm(centre) - radius).collect();
        let worst = distances.iter().fold(0.0_f64, |worst, d| if d.abs() > worst.abs() { *d } else { worst });
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        assert!(
            worst.abs() < off_mm && mean.abs() < 0.2,
            "radius {radius}: worst {worst:.2}, mean {mean:.2} mm"
        );
        let truth = 4.0 / 3.0 * std::f64::consts::PI * radius.powi(3);
        let volume = volume_mm3(found, grid);
        assert!((volume / truth - 1.0).abs() < 0.03, "volume {volume:.0}, truth {truth:.0} mm3");
        let slices: Vec<usize> = found.contours.iter().map(|c| c.slice).collect();
        assert!(slices.is_sorted());
    }

    #[test]
    fn a_ball_grows_and_shrinks_to_a_ball() {
        for grid in [feet_first(), oblique()] {
            let centre = PatientPoint::lps_mm(3.0, 2.0, 41.0);
            let ball = ellipsoid(&grid, centre, [16.0; 3]);
            let grown = with_margin(&ball, &Margin::Grow(Directions::all(7.0)), &grid).unwrap();
            check_ball(&grown, &grid, centre, 23.0, 0.8);
            let shrunk = with_margin(&ball, &Margin::Shrink(Directions::all(5.0)), &grid).unwrap();
            check_ball(&shrunk, &grid, centre, 11.0, 0.8);
        }
    }

    /// A point-like ball grows to an ellipsoid whose half axes are the margins of each direction: a mistake in any of
    /// them moves one end by millimetres.
    #[test]
    fn each_direction_has_its_own_margin() {
        let grid = feet_first();
        let centre = grid.patient_from_voxel(VoxelPoint { z: 18.0, y: 50.0, x: 57.0 });
        let seed = ellipsoid(&grid, centre, [1.0; 3]);
        let directions = Directions {
            left: 6.0,
            right: 15.0,
            anterior: 9.0,
            posterior: 3.0,
            superior: 20.0,
            inferior: 5.0,
        };
        let found = with_margin(&seed, &Margin::Grow(directions), &grid).unwrap();
        let points: Vec<PatientPoint> = found.contours.iter().flat_map(|c| c.points.clone()).collect();
        let reach = |of: fn(&PatientPoint) -> f64| points.iter().map(of).fold(f64::MIN, f64::max);
        let c = centre;
        for (name, found, wanted) in [
            ("left", reach(|p| p.x) - c.x, 7.0),
            ("right", reach(|p| -p.x) + c.x, 16.0),
            ("anterior", reach(|p| -p.y) + c.y, 10.0),
            ("posterior", reach(|p| p.y) - c.y, 4.0),
        ] {
            assert!((found - wanted).abs() < 0.5, "{name}: {found:.2} mm, wanted {wanted}");
        }
        // Contours are on slices only: the last one within the margin is up to a slice distance before its end.
        for (name, found, wanted) in
            [("superior", reach(|p| p.z) - c.z, 20.8), ("inferior", reach(|p| -p.z) + c.z, 5.8)]
        {
            assert!(found <= wanted + 0.2 && found > wanted - 2.6, "{name}: {found:.2} mm, wanted {wanted}");
        }
        assert_eq!(with_margin(&seed, &Margin::Grow(directions), &oblique()), Err(MarginError::Oblique));
    }

    #[test]
    fn no_margin_changes_nothing_and_too_much_leaves_nothing() {
        let grid = feet_first();
        let ball = ellipsoid(&grid, PatientPoint::lps_mm(3.0, 2.0, 41.0), [9.0, 8.0, 10.0]);
        assert_eq!(with_margin(&ball, &Margin::Grow(Directions::all(0.0)), &grid).unwrap(), ball);
        let gone = with_margin(&ball, &Margin::Shrink(Directions::all(12.0)), &grid).unwrap();
        assert_eq!(gone, RoiContours::default());
        let nothing =
            with_margin(&RoiContours::default(), &Margin::Grow(Directions::all(3.0)), &grid).unwrap();
        assert_eq!(nothing, RoiContours::default());
    }

    /// A hole closes from both sides.
    #[test]
    fn a_hole_shrinks_as_its_ring_grows() {
        let grid = feet_first();
        let centre = PatientPoint::lps_mm(3.0, 2.0, 41.0);
        let outer = ellipsoid(&grid, centre, [30.0; 3]);
        let inner = ellipsoid(&grid, centre, [12.0; 3]);
        let shell = super::super::combine(&outer, &inner, super::super::Combination::Difference, &grid);
        let grown = with_margin(&shell, &Margin::Grow(Directions::all(4.0)), &grid).unwrap();
        let truth = 4.0 / 3.0 * std::f64::consts::PI * (34.0_f64.powi(3) - 8.0_f64.powi(3));
        let volume = volume_mm3(&grown, &grid);
        assert!((volume / truth - 1.0).abs() < 0.02, "{volume:.0} of {truth:.0} mm3");
        let filled = with_margin(&shell, &Margin::Grow(Directions::all(13.0)), &grid).unwrap();
        assert!(filled.contours.iter().all(|c| !crate::pipeline::contours::is_hole(c, &grid)));
    }
}
