//! Exact distance from points of one set to the nearest of another, on a grid whose spacing differs per axis.

use super::border::bounding_box;
use crate::vocabulary::space::VoxelBox;

/// Most numbers of one piece of work: 1 MB, so that it stays in a core's cache, however far two sets lie apart.
const PIECE: usize = 1 << 17;

/// Distance of each point of `from` to the nearest of `to`, mm, in the order of `from`; infinity where `to` is empty.
///
/// Points are `(z, y, x)` in steps of the grid, `spacing_mm` alike; `to` runs in rising order of `(z, y, x)`.
/// One pass per axis, x first, over the box of `to` and then only where `from` asks, a few columns x at a time, so that
/// no field of the whole image is made.
///
/// Source: Felzenszwalb and Huttenlocher 2012, Distance transforms of sampled functions.
pub(super) fn nearest_mm(from: &[[usize; 3]], to: &[[usize; 3]], spacing_mm: [f64; 3]) -> Vec<f64> {
    let mut found = vec![f64::INFINITY; from.len()];
    let (Some(asked), Some(there)) = (bounding_box(from), bounding_box(to)) else { return found };
    let rows = Rows::of(to, there);
    let mut order: Vec<usize> = (0..from.len()).collect();
    order.sort_unstable_by_key(|n| {
        let [z, y, x] = from[*n];
        (x, y, z)
    });
    let [n_z, n_y, _] = there.shape();
    let width = (PIECE / (n_z * n_y.max(asked.shape()[1]))).max(1);
    let mut piece = Piece::new(spacing_mm);
    let mut begin = 0;
    while begin < order.len() {
        let x0 = from[order[begin]][2];
        let n = order[begin..].partition_point(|n| from[*n][2] < x0 + width);
        piece.answer(&order[begin..begin + n], from, &rows, &mut found);
        begin += n;
    }
    found
}

/// The points of `to`, row by row.
struct Rows<'t> {
    points: &'t [[usize; 3]],
    region: VoxelBox,
    /// First point of each row `(z, y)` of the region, and one more at the end.
    starts: Vec<usize>,
}

impl<'t> Rows<'t> {
    fn of(points: &'t [[usize; 3]], region: VoxelBox) -> Self {
        let [n_z, n_y, _] = region.shape();
        let mut starts = vec![0; n_z * n_y + 1];
        for [z, y, _] in points {
            starts[(z - region.start[0]) * n_y + (y - region.start[1]) + 1] += 1;
        }
        for row in 1..starts.len() {
            starts[row] += starts[row - 1];
        }
        Self { points, region, starts }
    }

    /// Squared distance along x from each of `columns` to the nearest point of a row, mm2.
    fn along_x(&self, row: usize, columns: &[usize], spacing_mm: f64, into: &mut [f64]) {
        let points = &self.points[self.starts[row]..self.starts[row + 1]];
        let mut nearest = 0;
        for (x, value) in columns.iter().zip(into) {
            let away = |n: usize| points[n][2].abs_diff(*x);
            while nearest + 1 < points.len() && away(nearest + 1) <= away(nearest) {
                nearest += 1;
            }
            let mm = away(nearest) as f64 * spacing_mm;
            *value = mm * mm;
        }
    }
}

/// Working memory for some columns x.
struct Piece {
    spacing_mm: [f64; 3],
    envelope: Envelope,
    columns: Vec<usize>,
    /// Squared distance along x, `(z, y, column)` over the box of `to`.
    along_x: Vec<f64>,
    /// Squared distance in the plane, `(z, y, column)`; y over what is asked.
    in_plane: Vec<f64>,
}

impl Piece {
    fn new(spacing_mm: [f64; 3]) -> Self {
        let (columns, along_x, in_plane) = (Vec::new(), Vec::new(), Vec::new());
        Self { spacing_mm, envelope: Envelope::default(), columns, along_x, in_plane }
    }

    /// Answers the points `asked`, places in `from` in rising order of `(x, y, z)`.
    fn answer(&mut self, asked: &[usize], from: &[[usize; 3]], rows: &Rows<'_>, found: &mut [f64]) {
        let [n_z, n_y, _] = rows.region.shape();
        let [z0, y0, _] = rows.region.start;
        self.columns.clear();
        self.columns.extend(asked.iter().map(|n| from[*n][2]));
        self.columns.dedup();
        let width = self.columns.len();
        self.along_x.clear();
        self.along_x.resize(n_z * n_y * width, f64::INFINITY);
        for (row, into) in self.along_x.chunks_exact_mut(width).enumerate() {
            if rows.starts[row] < rows.starts[row + 1] {
                rows.along_x(row, &self.columns, self.spacing_mm[2], into);
            }
        }
        let by_column: Vec<&[usize]> = asked.chunk_by(|a, b| from[*a][2] == from[*b][2]).collect();
        let asked_y = asked.iter().map(|n| from[*n][1]);
        let (low, high) = asked_y.fold((usize::MAX, 0), |(low, high), y| (low.min(y), high.max(y)));
        let n_asked = high - low + 1;
        self.in_plane.resize(n_z * n_asked * width, f64::INFINITY);
        for (column, group) in by_column.iter().enumerate() {
            let (first, last) = (from[group[0]][1], from[group[group.len() - 1]][1]);
            for z in 0..n_z {
                self.envelope
                    .read(self.spacing_mm[1], (0..n_y).map(|y| self.along_x[(z * n_y + y) * width + column]));
                for y in first..=last {
                    let at = (z * n_asked + y - low) * width + column;
                    self.in_plane[at] = self.envelope.lowest_at(y as f64 - y0 as f64);
                }
            }
        }
        for (column, group) in by_column.into_iter().enumerate() {
            for same_y in group.chunk_by(|a, b| from[*a][1] == from[*b][1]) {
                let y = from[same_y[0]][1] - low;
                let line = (0..n_z).map(|z| self.in_plane[(z * n_asked + y) * width + column]);
                self.envelope.read(self.spacing_mm[0], line);
                for n in same_y {
                    found[*n] = self.envelope.lowest_at(from[*n][0] as f64 - z0 as f64).sqrt();
                }
            }
        }
    }
}

/// The lower envelope of one parabola per finite sample of a line.
#[derive(Default)]
struct Envelope {
    squared_spacing: f64,
    /// The parabolas that are lowest somewhere, from left to right.
    owners: Vec<Owner>,
    /// Owner of the place asked for last; questions come in order.
    current: usize,
}

struct Owner {
    /// Sample.
    at: f64,
    /// Height of its parabola there, in squared samples.
    height: f64,
    /// Where it begins to be lowest, in samples.
    begins: f64,
}

impl Envelope {
    /// Takes a line of squared distances, mm2.
    fn read(&mut self, spacing_mm: f64, line: impl Iterator<Item = f64>) {
        self.squared_spacing = spacing_mm * spacing_mm;
        let scale = 1.0 / self.squared_spacing;
        self.owners.clear();
        self.current = 0;
        for (at, height) in line.enumerate().filter(|(_, height)| height.is_finite()) {
            self.insert(at as f64, height * scale);
        }
    }

    fn insert(&mut self, at: f64, height: f64) {
        while let Some(last) = self.owners.last() {
            let crossing = (last.at + at + (height - last.height) / (at - last.at)) / 2.0;
            if crossing > last.begins {
                self.owners.push(Owner { at, height, begins: crossing });
                return;
            }
            self.owners.pop();
        }
        self.owners.push(Owner { at, height, begins: f64::NEG_INFINITY });
    }

    /// Height of the envelope at a place, mm2; infinity where no sample was finite.
    fn lowest_at(&mut self, place: f64) -> f64 {
        while self.owners.get(self.current + 1).is_some_and(|next| next.begins <= place) {
            self.current += 1;
        }
        self.owners.get(self.current).map_or(f64::INFINITY, |owner| {
            let along = place - owner.at;
            (owner.height + along * along) * self.squared_spacing
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the definition: the smallest of the distances to all points of the other set.
        #[test]
        fn nearest_is_the_smallest_distance(
            mut to in proptest::collection::vec([3_usize..9, 0_usize..7, 5_usize..30], 0..40),
            from in proptest::collection::vec([0_usize..12, 3_usize..11, 0_usize..25], 0..40),
            spacing in (0.3..4.0_f64, 0.3..4.0_f64, 0.3..4.0_f64),
        ) {
            let spacing = [spacing.0, spacing.1, spacing.2];
            to.sort_unstable();
            to.dedup();
            for (point, found) in from.iter().zip(nearest_mm(&from, &to, spacing)) {
                let mm = |other: &[usize; 3]| {
                    (0..3).map(|a| (point[a].abs_diff(other[a]) as f64 * spacing[a]).powi(2)).sum::<f64>().sqrt()
                };
                let wanted = to.iter().map(mm).fold(f64::INFINITY, f64::min);
                prop_assert!(wanted == found || (wanted - found).abs() < 1e-9, "{wanted} {found}");
            }
        }
    }

    /// Corner to corner of a large image: 299 * 2, 499 * 0.5 and 699 * 1 mm, in pieces of few columns each.
    #[test]
    fn a_point_far_away_is_found_without_a_field_of_the_image() {
        let to = [[0, 0, 0], [299, 499, 300]];
        let from = [[299, 499, 699], [0, 0, 1], [299, 499, 300]];
        let found = nearest_mm(&from, &to, [2.0, 0.5, 1.0]);
        assert_eq!(found, [399.0, 1.0, 0.0]);
        let alone = nearest_mm(&from[..1], &to[..1], [2.0, 0.5, 1.0]);
        assert!((alone[0] - (598.0_f64.powi(2) + 249.5_f64.powi(2) + 699.0_f64.powi(2)).sqrt()).abs() < 1e-9);
    }
}
