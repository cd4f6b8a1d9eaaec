//! Distances between the borders of two masks.
//!
//! The border of a mask is every voxel of it with one of its six neighbours outside; distances run from centre to
//! centre. Source: Tang et al. 2019, Methods ("the larger of the two directed 95th percentiles"); percentile with
//! linear interpolation between ranks, as in NumPy and MONAI.

use ndarray::Array3;

use super::distance_field::squared_distance;
use crate::vocabulary::space::{RegionMask, VoxelBox};

/// How far two borders lie apart, mm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurfaceDistances {
    /// 95 % Hausdorff distance: the larger of the two directed 95th percentiles.
    pub hd95_mm: f64,
    /// Hausdorff distance: the largest of all.
    pub largest_mm: f64,
    /// Mean over the border voxels of both masks.
    pub mean_mm: f64,
}

/// Distances between the borders of two masks on one grid of this spacing `(z, y, x)`; `None` where one is empty,
/// since there is no border to measure from.
#[must_use]
pub fn surface_distances(a: &RegionMask, b: &RegionMask, spacing_mm: [f64; 3]) -> Option<SurfaceDistances> {
    let (border_a, border_b) = (border(a), border(b));
    let both = bounding_box(border_a.iter().chain(&border_b))?;
    if border_a.is_empty() || border_b.is_empty() {
        return None;
    }
    let (from_a, from_b) = rayon::join(
        || directed(&border_a, &border_b, both, spacing_mm),
        || directed(&border_b, &border_a, both, spacing_mm),
    );
    // Two sums, so that the result does not depend on which mask is called first.
    let sum = from_a.iter().sum::<f64>() + from_b.iter().sum::<f64>();
    Some(SurfaceDistances {
        hd95_mm: percentile_95(&from_a).max(percentile_95(&from_b)),
        largest_mm: from_a[from_a.len() - 1].max(from_b[from_b.len() - 1]),
        mean_mm: sum / (from_a.len() + from_b.len()) as f64,
    })
}

/// Voxels of the mask with a neighbour outside, in voxels of the grid.
fn border(mask: &RegionMask) -> Vec<[usize; 3]> {
    const NEIGHBOURS: [[isize; 3]; 6] = [[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]];
    let outside = |voxel: [usize; 3], step: [isize; 3]| {
        let [z, y, x] = std::array::from_fn(|a| voxel[a].checked_add_signed(step[a]).unwrap_or(usize::MAX));
        mask.voxels.get([z, y, x]).is_none_or(|inside| !inside)
    };
    let [z0, y0, x0] = mask.region.start;
    let mut border = Vec::new();
    for ((z, y, x), _) in mask.voxels.indexed_iter().filter(|(_, inside)| **inside) {
        if NEIGHBOURS.into_iter().any(|step| outside([z, y, x], step)) {
            border.push([z0 + z, y0 + y, x0 + x]);
        }
    }
    border
}

fn bounding_box<'v>(voxels: impl Iterator<Item = &'v [usize; 3]>) -> Option<VoxelBox> {
    let mut found: Option<VoxelBox> = None;
    for voxel in voxels {
        let b = found.get_or_insert(VoxelBox { start: *voxel, end: *voxel });
        for (axis, index) in voxel.iter().enumerate() {
            b.start[axis] = b.start[axis].min(*index);
            b.end[axis] = b.end[axis].max(index + 1);
        }
    }
    found
}

/// Distance of each voxel of `from` to the nearest of `to`, mm, sorted.
fn directed(from: &[[usize; 3]], to: &[[usize; 3]], region: VoxelBox, spacing_mm: [f64; 3]) -> Vec<f64> {
    let local = |voxel: &[usize; 3]| std::array::from_fn::<usize, 3, _>(|a| voxel[a] - region.start[a]);
    let mut field = Array3::from_elem(region.shape(), f64::INFINITY);
    for voxel in to {
        field[local(voxel)] = 0.0;
    }
    squared_distance(&mut field, spacing_mm);
    let mut distances: Vec<f64> = from.iter().map(|voxel| field[local(voxel)].sqrt()).collect();
    distances.sort_unstable_by(f64::total_cmp);
    distances
}

/// The 95th percentile of sorted values, which are not none: rank `0.95 (n - 1)`, linear between its neighbours.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank below the length")]
fn percentile_95(sorted: &[f64]) -> f64 {
    let last = sorted.len() - 1;
    let rank = 0.95 * last as f64;
    let below = (rank.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (rank - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ellipsoid and the same one moved, cut, or with a ball far away: the masks of
    /// `tests/reference/surface_distance.py`, by the same integer arithmetic.
    fn masks(case: &str) -> (RegionMask, RegionMask, [f64; 3]) {
        let ellipsoid = |[z, y, x]: [i64; 3], centre: [i64; 3]| {
            let [dz, dy, dx] = [z - centre[0], y - centre[1], x - centre[2]];
            900 * dz * dz + 400 * dy * dy + 225 * dx * dx <= 32_400
        };
        let ball = |[z, y, x]: [i64; 3]| (z - 26).pow(2) + (y - 6).pow(2) + (x - 44).pow(2) <= 9;
        let truth = |v: [i64; 3]| ellipsoid(v, [9, 14, 17]);
        let predicted = |v: [i64; 3]| match case {
            "moved" => ellipsoid(v, [10, 16, 18]),
            "cut" => truth(v) && v[0] <= 11,
            "far ball" => truth(v) || ball(v),
            "at the edge" => v[0] <= 2 && v[1] <= 3 && (11..15).contains(&v[2]),
            _ => panic!("{case}"),
        };
        let mask = |inside: &dyn Fn([i64; 3]) -> bool| {
            let whole =
                Array3::from_shape_fn([30, 36, 52], |(z, y, x)| inside([z as i64, y as i64, x as i64]));
            RegionMask::from_whole(whole.view())
        };
        (mask(&truth), mask(&predicted), [2.5, 0.9, 1.3])
    }

    /// Made by `tests/reference/surface_distance.py`, which asks scipy, SimpleITK and, where it is there, MONAI.
    #[test]
    fn distances_are_those_of_the_reference() {
        let text = include_str!("../../../tests/reference/surface_distance.json");
        let reference: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in ["moved", "cut", "far ball", "at the edge"] {
            let (truth, predicted, spacing) = masks(case);
            let wanted = &reference["cases"][case];
            assert_eq!(truth.n_voxels() as u64, wanted["n_truth"].as_u64().unwrap());
            assert_eq!(predicted.n_voxels() as u64, wanted["n_predicted"].as_u64().unwrap(), "{case}");
            let found = surface_distances(&truth, &predicted, spacing).unwrap();
            for (name, value) in
                [("hd95_mm", found.hd95_mm), ("largest_mm", found.largest_mm), ("mean_mm", found.mean_mm)]
            {
                let wanted = wanted[name].as_f64().unwrap();
                assert!((value - wanted).abs() < 1e-9, "{case} {name}: {value}, reference {wanted}");
            }
            assert_eq!(surface_distances(&predicted, &truth, spacing), Some(found), "{case}: both ways");
        }
    }

    #[test]
    fn without_a_border_there_is_no_distance() {
        let empty = RegionMask::from_whole(Array3::from_elem([3, 4, 5], false).view());
        let (truth, _, spacing) = masks("moved");
        assert_eq!(surface_distances(&truth, &empty, spacing), None);
        assert_eq!(surface_distances(&empty, &truth, spacing), None);
        assert_eq!(surface_distances(&empty, &empty, spacing), None);
        let same = surface_distances(&truth, &truth, spacing).unwrap();
        assert_eq!((same.hd95_mm, same.largest_mm, same.mean_mm), (0.0, 0.0, 0.0));
    }
}
