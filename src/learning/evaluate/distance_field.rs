//! Exact distance to the nearest of a set of voxels, on a grid whose spacing differs per axis.

use ndarray::{Array3, Axis, Zip};

/// Replaces 0 at the voxels of the set (infinity elsewhere) by the squared distance to the nearest voxel of the set,
/// mm2, centre to centre. Axes and `spacing_mm` run `(z, y, x)`.
///
/// One pass per axis. Source: Felzenszwalb and Huttenlocher 2012, Distance transforms of sampled functions.
pub(super) fn squared_distance(field: &mut Array3<f64>, spacing_mm: [f64; 3]) {
    for axis in [2, 1, 0] {
        let length = field.len_of(Axis(axis));
        let mut line = Envelope::of_length(length, spacing_mm[axis]);
        Zip::from(field.lanes_mut(Axis(axis))).for_each(|mut lane| {
            if line.read(lane.iter().copied()) {
                for (q, value) in lane.iter_mut().enumerate() {
                    *value = line.lowest_at(q);
                }
            }
        });
    }
}

/// The lower envelope of one parabola per sample of a line.
struct Envelope {
    spacing_mm: f64,
    /// Height of each sample's parabola at its own place.
    heights: Vec<f64>,
    /// Samples whose parabola is lowest somewhere, from left to right.
    owners: Vec<usize>,
    /// Where the owner of the same index begins to be lowest, in samples.
    begins: Vec<f64>,
    /// Owner of the sample asked for last; questions come in order.
    current: usize,
}

impl Envelope {
    fn of_length(length: usize, spacing_mm: f64) -> Self {
        let (owners, begins) = (Vec::with_capacity(length), Vec::with_capacity(length));
        Self { spacing_mm, heights: Vec::with_capacity(length), owners, begins, current: 0 }
    }

    /// Takes a line; `false` where it has no finite sample, so that nothing changes.
    fn read(&mut self, line: impl Iterator<Item = f64>) -> bool {
        self.heights.clear();
        self.heights.extend(line);
        self.owners.clear();
        self.begins.clear();
        self.current = 0;
        for q in 0..self.heights.len() {
            if self.heights[q].is_finite() {
                self.insert(q);
            }
        }
        !self.owners.is_empty()
    }

    fn insert(&mut self, q: usize) {
        while let (Some(owner), Some(begin)) = (self.owners.last(), self.begins.last()) {
            let crossing = self.crossing(*owner, q);
            if crossing > *begin {
                self.owners.push(q);
                self.begins.push(crossing);
                return;
            }
            self.owners.pop();
            self.begins.pop();
        }
        self.owners.push(q);
        self.begins.push(f64::NEG_INFINITY);
    }

    /// Where the parabola of `q`, which lies right of `p`, becomes the lower one.
    fn crossing(&self, p: usize, q: usize) -> f64 {
        let squared = self.spacing_mm * self.spacing_mm;
        let (at_p, at_q) = (p as f64, q as f64);
        let rise = (self.heights[q] - self.heights[p]) / squared;
        (rise + at_q * at_q - at_p * at_p) / (2.0 * (at_q - at_p))
    }

    fn lowest_at(&mut self, q: usize) -> f64 {
        while self.begins.get(self.current + 1).is_some_and(|begin| *begin <= q as f64) {
            self.current += 1;
        }
        let owner = self.owners[self.current];
        let along_mm = (q as f64 - owner as f64) * self.spacing_mm;
        self.heights[owner] + along_mm * along_mm
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the definition: the smallest of the distances to all voxels of the set.
        #[test]
        fn the_field_is_the_smallest_distance(
            bits in proptest::collection::vec(0_u8..12, 4 * 5 * 7),
            spacing in (0.3..4.0_f64, 0.3..4.0_f64, 0.3..4.0_f64),
        ) {
            let spacing = [spacing.0, spacing.1, spacing.2];
            let set = Array3::from_shape_vec((4, 5, 7), bits.into_iter().map(|b| b == 0).collect()).unwrap();
            let mut field = set.mapv(|inside| if inside { 0.0 } else { f64::INFINITY });
            squared_distance(&mut field, spacing);
            for ((z, y, x), found) in field.indexed_iter() {
                let distances = set.indexed_iter().filter(|(_, inside)| **inside).map(|((k, j, i), _)| {
                    let away = [(z, k), (y, j), (x, i)].map(|(a, b)| a as f64 - b as f64);
                    (0..3).map(|a| (away[a] * spacing[a]).powi(2)).sum::<f64>()
                });
                let wanted = distances.fold(f64::INFINITY, f64::min);
                prop_assert!(wanted == *found || (wanted - found).abs() < 1e-9, "{wanted} {found}");
            }
        }
    }
}
