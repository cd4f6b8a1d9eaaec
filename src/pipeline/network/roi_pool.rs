//! Proposals of any size to cells of one size.

use std::ops::Range;

use ndarray::{Array2, ArrayView4};
use rayon::prelude::*;

use super::network_box::NetworkBox;
use crate::engine::graph::preset::{COARSE_STRIDE, ROI_SIDE};

/// Cells of a proposal in a channel.
const CELLS: usize = ROI_SIDE.pow(3);

/// Proposals pooled to 6 x 6 x 6 cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// Row per proposal: channel, then cell z, y, x.
    pub cells: Array2<f32>,
    /// Place in the map, counted in C order, that each of `cells` came from; where gradients go back to.
    pub places: Vec<u32>,
}

/// The largest value in each cell of each proposal; `map` is `f8`, axes `(channel, z, y, x)`.
///
/// Corners are divided by 8, the start floored, the end ceiled, both clamped to the map; of `n` positions cell `i` covers
/// `floor(i n / 6) .. ceil((i + 1) n / 6)`. Of equal values the first in C order counts.
/// Source: Tang et al. 2019, reference implementation (adaptive max-pool).
///
/// # Panics
/// If the map has 2^32 values or more; a scan of the largest size that is read has a hundredth of them.
#[must_use]
pub fn pool(map: ArrayView4<'_, f32>, proposals: &[NetworkBox]) -> Pooled {
    assert!(u32::try_from(map.len()).is_ok(), "places of a map are 32 bits");
    let (channels, nz, ny, nx) = map.dim();
    let map = map.as_standard_layout();
    let map = map.as_slice().expect("in standard layout");
    let width = channels * CELLS;
    let mut cells = vec![0.0; proposals.len() * width];
    let mut places = vec![0; cells.len()];
    let rows = cells.par_chunks_exact_mut(width).zip(places.par_chunks_exact_mut(width)).zip(proposals);
    rows.for_each_init(Scratch::default, |scratch, ((cells, places), proposal)| {
        let ranges = ranges(*proposal, [nz, ny, nx]);
        let channels = cells.chunks_exact_mut(CELLS).zip(places.chunks_exact_mut(CELLS)).enumerate();
        for (channel, (cells, places)) in channels {
            scratch.pool(map, [channel * nz, ny, nx], &ranges, cells, places);
        }
    });
    let cells = Array2::from_shape_vec((proposals.len(), width), cells).expect("one row per proposal");
    Pooled { cells, places }
}

/// The largest of the slices and rows of a cell so far, along x, with their places.
#[derive(Default)]
struct Scratch {
    of_slices: Largest,
    of_rows: Largest,
}

#[derive(Default)]
struct Largest {
    values: Vec<f32>,
    places: Vec<u32>,
}

impl Scratch {
    /// One channel of a proposal, whose first slice of the map is `first`: one axis after the other, rows of x at a time.
    fn pool(
        &mut self,
        map: &[f32],
        [first, ny, nx]: [usize; 3],
        [zs, ys, xs]: &[[Range<usize>; ROI_SIDE]; 3],
        cells: &mut [f32],
        places: &mut [u32],
    ) {
        let x = xs[0].start..xs[ROI_SIDE - 1].end;
        let (y, long) = (ys[0].start..ys[ROI_SIDE - 1].end, x.len());
        let row_of = |z: usize, y: usize| ((first + z) * ny + y) * nx + x.start;
        let all =
            cells.chunks_exact_mut(ROI_SIDE * ROI_SIDE).zip(places.chunks_exact_mut(ROI_SIDE * ROI_SIDE));
        for (z, (cells, places)) in zs.iter().zip(all) {
            self.of_slices.clear(y.len() * long);
            for iz in z.clone() {
                for iy in y.clone() {
                    let (to, from) = ((iy - y.start) * long, row_of(iz, iy));
                    self.of_slices.take_later(to, &map[from..from + long], from);
                }
            }
            let rows = cells.chunks_exact_mut(ROI_SIDE).zip(places.chunks_exact_mut(ROI_SIDE));
            for (y_of_cell, (cells, places)) in ys.iter().zip(rows) {
                self.of_rows.clear(long);
                for iy in y_of_cell.clone() {
                    let at = (iy - y.start) * long;
                    self.of_rows.take(&self.of_slices, at);
                }
                for (x_of_cell, (cell, place)) in xs.iter().zip(cells.iter_mut().zip(places)) {
                    let here = x_of_cell.start - x.start..x_of_cell.end - x.start;
                    (*cell, *place) = self.of_rows.first_largest(here);
                }
            }
        }
    }
}

impl Largest {
    fn clear(&mut self, n: usize) {
        self.values.clear();
        self.values.resize(n, f32::NEG_INFINITY);
        self.places.clear();
        self.places.resize(n, u32::MAX);
    }

    /// Values whose places are behind those that are there, the first at `place`.
    #[expect(clippy::cast_possible_truncation, reason = "`pool` has looked at the map's length")]
    fn take_later(&mut self, at: usize, values: &[f32], place: usize) {
        let end = at + values.len();
        let there = self.values[at..end].iter_mut().zip(&mut self.places[at..end]);
        for ((largest, of), (value, place)) in there.zip(values.iter().zip(place as u32..)) {
            let is_first = *of == u32::MAX;
            if *value > *largest || is_first {
                (*largest, *of) = (*value, place);
            }
        }
    }

    /// Values of another, from `at` on; of equal ones the first place counts.
    fn take(&mut self, other: &Self, at: usize) {
        let there = self.values.iter_mut().zip(&mut self.places);
        for ((largest, of), (value, place)) in there.zip(other.values[at..].iter().zip(&other.places[at..])) {
            if *value > *largest || (*value >= *largest && *place < *of) || *of == u32::MAX {
                (*largest, *of) = (*value, *place);
            }
        }
    }

    fn first_largest(&self, range: Range<usize>) -> (f32, u32) {
        let (mut largest, mut of) = (self.values[range.start], self.places[range.start]);
        for (value, place) in self.values[range.clone()].iter().zip(&self.places[range]).skip(1) {
            if *value > largest || (*value >= largest && *place < of) {
                (largest, of) = (*value, *place);
            }
        }
        (largest, of)
    }
}

/// The positions of the map that each cell covers, `(z, y, x)`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the map first")]
fn ranges(proposal: NetworkBox, map: [usize; 3]) -> [[Range<usize>; ROI_SIDE]; 3] {
    let corners = proposal.corners();
    std::array::from_fn(|axis| {
        let [start, end] = corners[axis].map(|corner| corner / COARSE_STRIDE as f32);
        let side = map[axis];
        let start = start.floor().clamp(0.0, (side - 1) as f32) as usize;
        let end = (end.ceil().clamp(0.0, side as f32) as usize).max(start + 1);
        let n = end - start;
        std::array::from_fn(|i| start + i * n / ROI_SIDE..start + ((i + 1) * n).div_ceil(ROI_SIDE))
    })
}

#[cfg(test)]
mod tests {
    use ndarray::Array4;

    use super::*;

    /// z 4..20 -> 0..3; y 0..72 -> 0..9, so cell 5 is 7..9; x 24..32 -> 3..4, one position in all cells. Values rise
    /// along z and x and fall along y.
    #[test]
    fn cells_are_adaptive_and_the_largest_value_wins() {
        let map = Array4::from_shape_fn((2, 3, 9, 8), |(c, z, y, x)| {
            (1000 * c + 100 * z + x) as f32 - 10.0 * y as f32
        });
        let pooled = pool(map.view(), &[NetworkBox::from_array([12.0, 36.0, 28.0, 16.0, 72.0, 8.0])]);
        assert_eq!(pooled.cells.dim(), (1, 2 * 216));
        let place = |c: usize, z: usize, y: usize, x: usize| ((c * 6 + z) * 6 + y) * 6 + x;
        // Cell z 5 is slice 2, y 5 is rows 7..9 of which 7 is larger, x 3.
        assert_eq!(pooled.cells[[0, place(1, 5, 5, 2)]], 1000.0 + 200.0 + 3.0 - 70.0);
        // Cell z 1 is ceil(2 * 3 / 6) = slice 0 only, y 0 is rows 0..2.
        assert_eq!(pooled.cells[[0, place(0, 1, 0, 0)]], 3.0);
        let flat = map.as_slice().unwrap();
        for (cell, place) in pooled.cells.iter().zip(&pooled.places) {
            assert_eq!(*cell, flat[*place as usize]);
        }
    }

    /// Values of 0 to 3, so that most cells have several that are largest; boxes of every size, some beyond the map.
    #[test]
    fn of_equal_values_the_first_counts_as_in_the_plain_definition() {
        let sides = (3, 7, 13, 11);
        let map =
            Array4::from_shape_fn(sides, |(c, z, y, x)| ((c * 5 + z * z * 3 + y * 7 + x * x * y) % 4) as f32);
        let boxes: Vec<NetworkBox> = (0..60_u16)
            .map(|n| {
                let [a, b, c] = [n * 7 % 56, n * 11 % 104, n * 5 % 88].map(f32::from);
                NetworkBox::from_array([
                    a,
                    b,
                    c,
                    f32::from(4 + n),
                    f32::from(90 - n),
                    f32::from(8 + n * 3 % 50),
                ])
            })
            .collect();
        let pooled = pool(map.view(), &boxes);
        let mut places = pooled.places.iter();
        for (proposal, cells) in boxes.iter().zip(pooled.cells.rows()) {
            let [zs, ys, xs] = ranges(*proposal, [sides.1, sides.2, sides.3]);
            let mut cells = cells.iter();
            for channel in 0..sides.0 {
                for (z, y, x) in every_cell(&zs, &ys, &xs) {
                    let all = (z.clone()).flat_map(|z| y.clone().map(move |y| (z, y)));
                    let all = all.flat_map(|(z, y)| x.clone().map(move |x| [channel, z, y, x]));
                    let mut best = None;
                    for at in all {
                        if best.is_none_or(|best: [usize; 4]| map[at] > map[best]) {
                            best = Some(at);
                        }
                    }
                    let [c, z, y, x] = best.unwrap();
                    let place = ((c * sides.1 + z) * sides.2 + y) * sides.3 + x;
                    assert_eq!(
                        (cells.next(), places.next()),
                        (Some(&map[[c, z, y, x]]), Some(&(place as u32)))
                    );
                }
            }
        }
    }

    /// Every cell, z outermost.
    fn every_cell<'r>(
        zs: &'r [Range<usize>],
        ys: &'r [Range<usize>],
        xs: &'r [Range<usize>],
    ) -> impl Iterator<Item = (&'r Range<usize>, &'r Range<usize>, &'r Range<usize>)> {
        zs.iter().flat_map(move |z| ys.iter().flat_map(move |y| xs.iter().map(move |x| (z, y, x))))
    }

    #[test]
    fn a_box_beyond_the_map_takes_its_edge() {
        let map = Array4::from_shape_fn((1, 2, 3, 5), |(_, z, y, x)| (100 * z + 10 * y + x) as f32);
        let pooled = pool(map.view(), &[NetworkBox::from_array([400.0, -90.0, 20.0, 8.0, 8.0, 8.0])]);
        // z clamped to slice 1, y to row 0, x 16..24 is position 2.
        assert!(pooled.cells.iter().all(|cell| *cell == 102.0), "{:?}", pooled.cells);
        assert_eq!(pool(map.view(), &[]).cells.dim(), (0, 216));
    }
}
