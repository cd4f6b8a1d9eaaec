//! Hounsfield units on another grid.

use ndarray::{Array3, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::decode::AIR_HU;
use super::hu_volume::HuVolume;
use crate::vocabulary::space::{Grid, VoxelPoint};

/// Over the whole volume the axes of two grids may drift apart by this many voxels and still count as parallel.
const PARALLEL_VOXELS: f64 = 1e-3;

/// The volume on a grid: trilinear between voxel centres, the border's value up to half a voxel beyond the outermost
/// centres, air (-1024) further out. Axes `(z, y, x)`, shape of `grid`, HU.
#[must_use]
pub fn resample(volume: &HuVolume, grid: &Grid) -> Array3<f32> {
    let map = Map::between(grid, &volume.grid);
    let mut out = Array3::from_elem(grid.shape(), f32::from(AIR_HU));
    let hu = volume.hu.as_standard_layout();
    let source =
        Source { hu: hu.as_slice().expect("in C order by the line above"), shape: volume.grid.shape() };
    match map.axes(grid.shape(), source.shape) {
        Some([z, y, x]) => {
            let planes: Vec<_> = out.axis_iter_mut(Axis(0)).zip(z).collect();
            planes.into_par_iter().for_each_init(Vec::new, |row, (plane, z)| {
                if let Some(z) = z {
                    source.plane(z, &y, &x, row, plane);
                }
            });
        }
        None => {
            out.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(z, mut plane)| {
                for ((y, x), value) in plane.indexed_iter_mut() {
                    if let Some(hu) = source.at(map.apply([z, y, x])) {
                        *value = hu;
                    }
                }
            });
        }
    }
    out
}

/// The affine map from indices of one grid to places on another.
struct Map {
    origin: [f64; 3],
    /// `steps[i]`: what one step along index i adds.
    steps: [[f64; 3]; 3],
}

impl Map {
    fn between(from: &Grid, to: &Grid) -> Self {
        let at = |z: f64, y: f64, x: f64| {
            let p = to.voxel_from_patient(from.patient_from_voxel(VoxelPoint { z, y, x }));
            [p.z, p.y, p.x]
        };
        let origin = at(0.0, 0.0, 0.0);
        let step = |p: [f64; 3]| std::array::from_fn(|axis| p[axis] - origin[axis]);
        Self { origin, steps: [step(at(1.0, 0.0, 0.0)), step(at(0.0, 1.0, 0.0)), step(at(0.0, 0.0, 1.0))] }
    }

    fn apply(&self, index: [usize; 3]) -> [f64; 3] {
        std::array::from_fn(|axis| {
            self.origin[axis] + (0..3).map(|i| index[i] as f64 * self.steps[i][axis]).sum::<f64>()
        })
    }

    /// Where each index of each axis falls, where axes go along axes (forwards or backwards).
    fn axes(&self, shape: [usize; 3], source: [usize; 3]) -> Option<[Vec<Option<Between>>; 3]> {
        let drift = |i: usize, axis: usize| self.steps[i][axis].abs() * shape[i] as f64;
        let parallel =
            (0..3).all(|i| (0..3).filter(|axis| *axis != i).all(|axis| drift(i, axis) < PARALLEL_VOXELS));
        parallel.then(|| {
            std::array::from_fn(|axis| {
                let place = |index: usize| self.origin[axis] + index as f64 * self.steps[axis][axis];
                (0..shape[axis]).map(|index| Between::new(place(index), source[axis])).collect()
            })
        })
    }
}

/// Two neighbours on an axis and the share of the second.
#[derive(Debug, Clone, Copy)]
struct Between {
    low: usize,
    high: usize,
    share: f32,
}

impl Between {
    /// `None` more than half a voxel beyond the outermost centres.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of an index; the share is 0..=1"
    )]
    fn new(place: f64, side: usize) -> Option<Self> {
        let last = side.checked_sub(1)? as f64;
        if !(-0.5..=last + 0.5).contains(&place) {
            return None;
        }
        let inside = place.clamp(0.0, last);
        let low = inside.floor();
        Some(Self { low: low as usize, high: (low + 1.0).min(last) as usize, share: (inside - low) as f32 })
    }
}

struct Source<'a> {
    hu: &'a [i16],
    shape: [usize; 3],
}

impl Source<'_> {
    /// One plane between two of ours: the four rows round each row are blended once, then sampled along x.
    fn plane(
        &self,
        z: Between,
        y: &[Option<Between>],
        x: &[Option<Between>],
        row: &mut Vec<f32>,
        mut out: ArrayViewMut2<'_, f32>,
    ) {
        for (mut line, y) in out.rows_mut().into_iter().zip(y) {
            let Some(y) = y else { continue };
            self.blend(z, *y, row);
            for (value, x) in line.iter_mut().zip(x) {
                if let Some(x) = x {
                    let low = row[x.low];
                    *value = low + x.share * (row[x.high] - low);
                }
            }
        }
    }

    fn blend(&self, z: Between, y: Between, row: &mut Vec<f32>) {
        let [_, height, width] = self.shape;
        let line = |z: usize, y: usize| &self.hu[(z * height + y) * width..][..width];
        let rows = [line(z.low, y.low), line(z.low, y.high), line(z.high, y.low), line(z.high, y.high)];
        let weights = [
            (1.0 - z.share) * (1.0 - y.share),
            (1.0 - z.share) * y.share,
            z.share * (1.0 - y.share),
            z.share * y.share,
        ];
        row.clear();
        let [a, b, c, d] = rows;
        row.extend(a.iter().zip(b).zip(c.iter().zip(d)).map(|((a, b), (c, d))| {
            f32::from(*a) * weights[0]
                + f32::from(*b) * weights[1]
                + f32::from(*c) * weights[2]
                + f32::from(*d) * weights[3]
        }));
    }

    fn at(&self, place: [f64; 3]) -> Option<f32> {
        let [_, height, width] = self.shape;
        let z = Between::new(place[0], self.shape[0])?;
        let y = Between::new(place[1], height)?;
        let x = Between::new(place[2], width)?;
        let value = |z: usize, y: usize, x: usize| f32::from(self.hu[(z * height + y) * width + x]);
        let along_x = |z: usize, y: usize| {
            let low = value(z, y, x.low);
            low + x.share * (value(z, y, x.high) - low)
        };
        let along_y = |z: usize| {
            let low = along_x(z, y.low);
            low + y.share * (along_x(z, y.high) - low)
        };
        let low = along_y(z.low);
        Some(low + z.share * (along_y(z.high) - low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::{PatientPoint, PatientVector};

    /// A ramp in the patient, HU that trilinear sampling gives back exactly but for rounding to whole units.
    fn ramp(p: PatientPoint) -> f64 {
        300.0 + 2.0 * p.x - 3.0 * p.y + 5.0 * p.z
    }

    fn volume(grid: Grid) -> HuVolume {
        let hu = Array3::from_shape_fn(grid.shape(), |(z, y, x)| {
            let v = VoxelPoint { z: z as f64, y: y as f64, x: x as f64 };
            ramp(grid.patient_from_voxel(v)).round() as i16
        });
        HuVolume { hu, grid }
    }

    /// Rows to the right, columns to posterior, slices downwards; and the same turned by 25 degrees about x.
    fn grids() -> [Grid; 2] {
        let (sin, cos) = 25.0_f64.to_radians().sin_cos();
        let backwards = [
            PatientVector::lps(0.0, 0.0, -1.0),
            PatientVector::lps(0.0, 1.0, 0.0),
            PatientVector::lps(-1.0, 0.0, 0.0),
        ];
        let x = PatientVector::lps(1.0, 0.0, 0.0);
        let y = PatientVector::lps(0.0, cos, sin);
        [backwards, [x.cross(y), y, x]].map(|directions| {
            Grid::new([21, 25, 31], [2.0, 0.8, 0.9], PatientPoint::lps_mm(14.0, -6.0, 21.0), directions)
                .unwrap()
        })
    }

    #[test]
    fn a_ramp_stays_a_ramp_on_every_pair_of_grids() {
        for grid in grids() {
            let source = volume(grid);
            let centre = source.grid.patient_from_voxel(VoxelPoint { z: 10.0, y: 12.0, x: 15.0 });
            let corner = PatientPoint::lps_mm(centre.x - 4.0, centre.y - 3.0, centre.z - 5.0);
            let wanted = Grid::axial([9, 8, 11], [1.1, 0.7, 0.8], corner).unwrap();
            let found = resample(&source, &wanted);
            for ((z, y, x), hu) in found.indexed_iter() {
                let p = wanted.patient_from_voxel(VoxelPoint { z: z as f64, y: y as f64, x: x as f64 });
                assert!((f64::from(*hu) - ramp(p)).abs() <= 0.51, "{hu} is not {}", ramp(p));
            }
        }
    }

    #[test]
    fn beyond_half_a_voxel_there_is_air() {
        let [source, _] = grids().map(volume);
        // x runs from 14 down to -13 mm in steps of 0.9; the border's value holds to 14.45 mm.
        let wanted = Grid::axial([1, 1, 3], [1.0, 1.0, 0.3], PatientPoint::lps_mm(14.1, 0.4, 3.0)).unwrap();
        let found = resample(&source, &wanted);
        let border = ramp(PatientPoint::lps_mm(14.0, 0.4, 3.0));
        assert!((f64::from(found[[0, 0, 0]]) - border).abs() < 1.0);
        assert!((f64::from(found[[0, 0, 1]]) - border).abs() < 1.0);
        assert_eq!(found[[0, 0, 2]], -1024.0);
    }

    /// The turned grid against the straight one: both branches give one answer.
    #[test]
    fn the_way_by_rows_and_the_way_by_points_agree() {
        let [source, _] = grids().map(volume);
        let source = HuVolume { hu: source.hu.mapv(|v| v.wrapping_mul(7) % 900), grid: source.grid };
        let wanted =
            Grid::axial([12, 14, 17], [1.3, 0.9, 1.1], PatientPoint::lps_mm(-9.0, -5.0, -3.0)).unwrap();
        let by_rows = resample(&source, &wanted);
        let map = Map::between(&wanted, &source.grid);
        let points = Source { hu: source.hu.as_slice().unwrap(), shape: source.grid.shape() };
        for ((z, y, x), hu) in by_rows.indexed_iter() {
            let at = points.at(map.apply([z, y, x])).unwrap_or(-1024.0);
            assert!((hu - at).abs() < 2e-3, "{hu} is not {at} at {:?}", (z, y, x));
        }
    }
}
