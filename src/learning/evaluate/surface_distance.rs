//! Distances between the borders of two masks, from centre to centre of border voxels.
//!
//! Source: Tang et al. 2019, Methods ("the larger of the two directed 95th percentiles"); percentile with linear
//! interpolation between ranks, as in NumPy and MONAI.

use super::border::Padded;
use super::nearest::nearest_mm;
use super::summary::quantile;

/// How far two borders lie apart, mm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurfaceDistances {
    /// 95 % Hausdorff distance: the larger of the two directed 95th percentiles.
    pub hd95_mm: f64,
    /// Hausdorff distance: the largest of all.
    pub largest_mm: f64,
    /// Mean over the border voxels of both masks.
    pub mean_mm: f64,
    /// 95 % Hausdorff distance as the reference implementation of Ua-Net takes it, for those who compare with the
    /// paper's tables: border voxels are those on the outline in each plane of the image, the percentile is the sorted
    /// value at `floor(0.95 n) - 1`.
    pub outline_hd95_mm: f64,
}

/// Distances between the borders of two masks on one grid of this spacing `(z, y, x)`; `None` where one is empty,
/// since there is no border to measure from.
///
/// A border voxel has one of its six neighbours outside.
pub(super) fn surface_distances(a: &Padded, b: &Padded, spacing_mm: [f64; 3]) -> Option<SurfaceDistances> {
    let (from_a, from_b) = both_ways(&a.border(), &b.border(), spacing_mm)?;
    let (outline_a, outline_b) = both_ways(&a.outline(), &b.outline(), spacing_mm)?;
    // Two sums, so that the result does not depend on which mask is called first.
    let sum = from_a.iter().sum::<f64>() + from_b.iter().sum::<f64>();
    Some(SurfaceDistances {
        hd95_mm: quantile(&from_a, 0.95).max(quantile(&from_b, 0.95)),
        largest_mm: from_a[from_a.len() - 1].max(from_b[from_b.len() - 1]),
        mean_mm: sum / (from_a.len() + from_b.len()) as f64,
        outline_hd95_mm: reference_percentile_95(&outline_a).max(reference_percentile_95(&outline_b)),
    })
}

/// Sorted distances from each to the nearest of the others, mm, both ways; `None` where one list is empty.
fn both_ways(a: &[[usize; 3]], b: &[[usize; 3]], spacing_mm: [f64; 3]) -> Option<(Vec<f64>, Vec<f64>)> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let sorted = |from, to| {
        let mut distances = nearest_mm(from, to, spacing_mm);
        distances.sort_unstable_by(f64::total_cmp);
        distances
    };
    Some((sorted(a, b), sorted(b, a)))
}

/// The sorted value at `floor(0.95 n) - 1`, the first where that is before it.
fn reference_percentile_95(sorted: &[f64]) -> f64 {
    sorted[(sorted.len() * 95 / 100).saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::super::added_path::added_path;
    use super::super::surface_dice::surface_dice;
    use super::*;
    use crate::vocabulary::space::RegionMask;

    /// An ellipsoid and the same one moved, cut, or with a ball far away: the masks of
    /// `tests/reference/evaluation.py`, by the same integer arithmetic.
    fn masks(case: &str) -> (RegionMask, RegionMask) {
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
        (mask(&truth), mask(&predicted))
    }

    fn distances(a: &RegionMask, b: &RegionMask) -> Option<SurfaceDistances> {
        surface_distances(&Padded::of(a), &Padded::of(b), [2.5, 0.9, 1.3])
    }

    /// Made by `tests/reference/evaluation.py`, which asks scipy, SimpleITK and, where it is there, MONAI.
    #[test]
    fn distances_are_those_of_the_reference() {
        let text = include_str!("../../../tests/reference/evaluation.json");
        let reference: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in ["moved", "cut", "far ball", "at the edge"] {
            let (truth, predicted) = masks(case);
            let wanted = &reference["cases"][case];
            assert_eq!(truth.n_voxels() as u64, wanted["n_truth"].as_u64().unwrap());
            assert_eq!(predicted.n_voxels() as u64, wanted["n_predicted"].as_u64().unwrap(), "{case}");
            let found = distances(&truth, &predicted).unwrap();
            for (name, value) in [
                ("hd95_mm", found.hd95_mm),
                ("largest_mm", found.largest_mm),
                ("mean_mm", found.mean_mm),
                ("outline_hd95_mm", found.outline_hd95_mm),
            ] {
                let wanted = wanted[name].as_f64().unwrap();
                assert!((value - wanted).abs() < 1e-9, "{case} {name}: {value}, reference {wanted}");
            }
            let [a, b] = [&truth, &predicted].map(Padded::of);
            let spacing = [2.5, 0.9, 1.3];
            for (n, found) in surface_dice(&a, &b, spacing).unwrap().into_iter().enumerate() {
                let wanted = wanted["surface_dice"][n].as_f64().unwrap();
                assert!((found - wanted).abs() < 1e-9, "{case} surface DSC {n}: {found}, reference {wanted}");
            }
            let added = added_path(&a, &b, spacing).voxels as u64;
            assert_eq!(Some(added), wanted["added_path_voxels"].as_u64(), "{case}");
            assert_eq!(distances(&predicted, &truth), Some(found), "{case}: both ways");
        }
    }

    #[test]
    fn without_a_border_there_is_no_distance() {
        let empty = RegionMask::from_whole(Array3::from_elem([3, 4, 5], false).view());
        let (truth, _) = masks("moved");
        assert_eq!(distances(&truth, &empty), None);
        assert_eq!(distances(&empty, &truth), None);
        assert_eq!(distances(&empty, &empty), None);
        let same = distances(&truth, &truth).unwrap();
        assert_eq!((same.hd95_mm, same.largest_mm, same.mean_mm, same.outline_hd95_mm), (0.0, 0.0, 0.0, 0.0));
    }

    /// Of 40 values the 38th, of 41 still the 38th, of one the only one.
    #[test]
    fn the_percentile_of_the_reference_is_a_rank() {
        let values: Vec<f64> = (1..=41).map(f64::from).collect();
        assert_eq!(reference_percentile_95(&values[..40]), 38.0);
        assert_eq!(reference_percentile_95(&values), 38.0);
        assert_eq!(reference_percentile_95(&values[..1]), 1.0);
    }
}
