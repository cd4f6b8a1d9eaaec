//! From the network's boxes to fields on the planes of the image.

use ndarray::{Array3, s};

use crate::pipeline::network::OrganMask;
use crate::vocabulary::space::{Grid, VoxelBox, VoxelPoint};

/// Probabilities on a box of the image grid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ImageField {
    /// The box, in voxels of the image grid.
    pub(crate) region: VoxelBox,
    /// Probability, axes `(z, y, x)`, shape of `region`.
    pub(crate) probability: Array3<f32>,
}

/// Samples a mask trilinearly at the voxel centres of the image grid that lie in its box or within one network
/// voxel of it; beyond the box the probability is zero. `None` where box and image do not meet.
pub(crate) fn restore(mask: &OrganMask, network_grid: &Grid, image_grid: &Grid) -> Option<ImageField> {
    let region = region_on_image(mask.region, network_grid, image_grid)?;
    let at = |z: f64, y: f64, x: f64| {
        network_grid.voxel_from_patient(image_grid.patient_from_voxel(VoxelPoint { z, y, x }))
    };
    let start = region.start.map(number);
    let origin = at(start[0], start[1], start[2]);
    // The map between two grids is affine: three steps say all of it.
    let step = |p: VoxelPoint| [p.z - origin.z, p.y - origin.y, p.x - origin.x];
    let steps = [
        step(at(start[0] + 1.0, start[1], start[2])),
        step(at(start[0], start[1] + 1.0, start[2])),
        step(at(start[0], start[1], start[2] + 1.0)),
    ];
    let box_start = mask.region.start.map(number);
    let corner = [origin.z - box_start[0], origin.y - box_start[1], origin.x - box_start[2]];
    let is_parallel = (0..3).all(|axis| (0..3).all(|along| along == axis || steps[along][axis] == 0.0));
    let probability = if is_parallel {
        let steps = std::array::from_fn(|axis| steps[axis][axis]);
        sampled_along_axes(&mask.probability, corner, steps, region.shape())
    } else {
        Array3::from_shape_fn(region.shape(), |(k, j, i)| {
            let index = [number(k), number(j), number(i)];
            let place = std::array::from_fn(|axis| {
                corner[axis] + (0..3).map(|along| index[along] * steps[along][axis]).sum::<f64>()
            });
            trilinear(&mask.probability, place)
        })
    };
    Some(ImageField { region, probability })
}

/// The box of image voxels around a box of network voxels grown by one voxel.
fn region_on_image(region: VoxelBox, network_grid: &Grid, image_grid: &Grid) -> Option<VoxelBox> {
    let (mut low, mut high) = ([f64::MAX; 3], [f64::MIN; 3]);
    for corner in 0..8_usize {
        let side = |axis: usize| {
            if corner >> axis & 1 == 0 { number(region.start[axis]) - 1.0 } else { number(region.end[axis]) }
        };
        let patient = network_grid.patient_from_voxel(VoxelPoint { z: side(0), y: side(1), x: side(2) });
        let v = image_grid.voxel_from_patient(patient);
        for (axis, value) in [v.z, v.y, v.x].into_iter().enumerate() {
            low[axis] = low[axis].min(value);
            high[axis] = high[axis].max(value);
        }
    }
    let shape = image_grid.shape();
    let start = std::array::from_fn(|axis| clamped(low[axis].ceil(), shape[axis]));
    let end = std::array::from_fn(|axis| clamped(high[axis].floor() + 1.0, shape[axis]));
    let found = VoxelBox { start, end };
    (!region.is_empty() && !found.is_empty()).then_some(found)
}

/// Trilinear interpolation at `(z, y, x)`, voxels of the array, zero outside it.
#[expect(clippy::cast_possible_truncation, reason = "weights are 0..=1; probabilities are f32")]
fn trilinear(values: &Array3<f32>, place: [f64; 3]) -> f32 {
    let (nz, ny, nx) = values.dim();
    let Some([z, y, x]) = neighbours(place, [nz, ny, nx]) else { return 0.0 };
    let mut sum = 0.0;
    for (iz, wz) in z {
        for (iy, wy) in y {
            for (ix, wx) in x {
                let weight = wz * wy * wx;
                if weight > 0.0 {
                    sum += values[[iz, iy, ix]] * weight as f32;
                }
            }
        }
    }
    sum
}

/// Two voxels of an axis and their weights.
type Neighbours = [(usize, f64); 2];

/// As [`trilinear`] at `corner + index steps`, for grids whose axes are parallel: neighbours and weights are found once for
/// each axis. The same sums in the same order.
#[expect(clippy::cast_possible_truncation, reason = "weights are 0..=1; probabilities are f32")]
fn sampled_along_axes(
    values: &Array3<f32>,
    corner: [f64; 3],
    steps: [f64; 3],
    shape: [usize; 3],
) -> Array3<f32> {
    let sides: [usize; 3] = values.dim().into();
    let [zs, ys, xs]: [Vec<Option<Neighbours>>; 3] = std::array::from_fn(|axis| {
        (0..shape[axis]).map(|n| neighbours_on(corner[axis] + number(n) * steps[axis], sides[axis])).collect()
    });
    let mut sampled = Array3::zeros(shape);
    for (z, mut plane) in
        zs.iter().zip(sampled.outer_iter_mut()).filter_map(|(z, plane)| Some(((*z)?, plane)))
    {
        for (y, mut row) in ys.iter().zip(plane.outer_iter_mut()).filter_map(|(y, row)| Some(((*y)?, row))) {
            let pairs = z.into_iter().flat_map(|(iz, wz)| y.map(|(iy, wy)| (iz, iy, wz * wy)));
            for (iz, iy, weight) in pairs.filter(|(.., weight)| *weight > 0.0) {
                let from = values.slice(s![iz, iy, ..]);
                for (x, sum) in xs.iter().zip(&mut row).filter_map(|(x, sum)| Some(((*x)?, sum))) {
                    for (ix, wx) in x {
                        *sum += from[ix] * (weight * wx) as f32;
                    }
                }
            }
        }
    }
    sampled
}

/// For each axis the two neighbours and their weights; a neighbour outside has weight zero. `None` where all are
/// outside.
fn neighbours(place: [f64; 3], shape: [usize; 3]) -> Option<[Neighbours; 3]> {
    let [z, y, x] = std::array::from_fn(|axis| neighbours_on(place[axis], shape[axis]));
    Some([z?, y?, x?])
}

fn neighbours_on(place: f64, side: usize) -> Option<Neighbours> {
    let n = number(side);
    if !(place > -1.0 && place < n) {
        return None;
    }
    let (floor, part) = (place.floor(), place - place.floor());
    let last = side.saturating_sub(1);
    Some([
        (clamped(floor, last), if floor >= 0.0 { 1.0 - part } else { 0.0 }),
        (clamped(floor + 1.0, last), if floor + 1.0 < n { part } else { 0.0 }),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "indices of an image")]
fn number(index: usize) -> f64 {
    index as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of an index"
)]
fn clamped(value: f64, high: usize) -> usize {
    value.clamp(0.0, number(high)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::organ::Organ;
    use crate::vocabulary::space::PatientPoint;

    /// Both ways give the same bits, beyond the box and between its voxels.
    #[test]
    fn along_the_axes_is_what_is_sampled_one_by_one() {
        let values =
            Array3::from_shape_fn([4, 5, 6], |(z, y, x)| ((z * 31 + y * 17 + x * 7) % 11) as f32 / 11.0);
        let (corner, steps, shape) = ([-1.3, 0.2, -2.6], [0.41, 0.77, 0.83], [16, 9, 14]);
        let together = sampled_along_axes(&values, corner, steps, shape);
        let single = Array3::from_shape_fn(shape, |(k, j, i)| {
            let index = [k, j, i].map(number);
            trilinear(&values, std::array::from_fn(|axis| corner[axis] + index[axis] * steps[axis]))
        });
        assert_eq!(together, single);
        assert!(single.iter().filter(|value| **value > 0.0).count() > 400);
    }

    /// A ramp is reproduced exactly by trilinear sampling, whatever the two grids are.
    #[test]
    fn a_ramp_in_the_patient_stays_a_ramp() {
        let network =
            Grid::axial([8, 20, 24], [2.5, 1.0, 1.1], PatientPoint::lps_mm(-10.0, 5.0, 30.0)).unwrap();
        let image = Grid::axial([9, 30, 40], [2.0, 0.7, 0.6], PatientPoint::lps_mm(-9.0, 7.0, 31.0)).unwrap();
        let ramp = |p: PatientPoint| 0.3 + 0.01 * p.x + 0.02 * (p.y - 10.0) - 0.005 * (p.z - 40.0);
        let region = VoxelBox { start: [1, 2, 3], end: [6, 12, 20] };
        let probability = Array3::from_shape_fn([5, 10, 17], |(k, j, i)| {
            let v = VoxelPoint { z: 1.0 + k as f64, y: 2.0 + j as f64, x: 3.0 + i as f64 };
            ramp(network.patient_from_voxel(v)) as f32
        });
        let mask = OrganMask { organ: Organ::Larynx, detection_probability: 0.9, region, probability };
        let field = restore(&mask, &network, &image).unwrap();
        let mut n_checked = 0;
        for ((k, j, i), value) in field.probability.indexed_iter() {
            let [z, y, x] = field.region.start;
            let v = VoxelPoint { z: (z + k) as f64, y: (y + j) as f64, x: (x + i) as f64 };
            let patient = image.patient_from_voxel(v);
            let n = network.voxel_from_patient(patient);
            if n.z >= 1.0 && n.z <= 5.0 && n.y >= 2.0 && n.y <= 11.0 && n.x >= 3.0 && n.x <= 19.0 {
                n_checked += 1;
                assert!((f64::from(*value) - ramp(patient)).abs() < 1e-5, "{v:?}: {value}");
            }
        }
        assert!(n_checked > 1000, "{n_checked} voxels");
        let away = Grid::axial([9, 30, 40], [2.0, 0.7, 0.6], PatientPoint::lps_mm(900.0, 7.0, 31.0)).unwrap();
        assert_eq!(restore(&mask, &network, &away), None);
    }
}
