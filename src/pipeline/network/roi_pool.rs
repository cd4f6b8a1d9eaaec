//! Proposals of any size to cells of one size.

use std::ops::Range;

use ndarray::{Array2, ArrayView4};

use super::network_box::NetworkBox;
use crate::engine::graph::preset::{COARSE_STRIDE, ROI_SIDE};

/// Proposals pooled to 6 x 6 x 6 cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// Row per proposal: channel, then cell z, y, x.
    pub cells: Array2<f32>,
    /// Place in the map, counted in C order, that each of `cells` came from; where gradients go back to.
    pub places: Vec<usize>,
}

/// The largest value in each cell of each proposal; `map` is `f8`, axes `(channel, z, y, x)`.
///
/// Corners are divided by 8, the start floored, the end ceiled, both clamped to the map; of `n` positions cell `i` covers
/// `floor(i n / 6) .. ceil((i + 1) n / 6)`. Of equal values the first in C order counts.
/// Source: Tang et al. 2019, reference implementation (adaptive max-pool).
#[must_use]
pub fn pool(map: ArrayView4<'_, f32>, proposals: &[NetworkBox]) -> Pooled {
    let (channels, nz, ny, nx) = map.dim();
    let width = channels * ROI_SIDE.pow(3);
    let mut cells = Vec::with_capacity(proposals.len() * width);
    let mut places = Vec::with_capacity(proposals.len() * width);
    for proposal in proposals {
        let [zs, ys, xs] = ranges(*proposal, [nz, ny, nx]);
        for channel in 0..channels {
            for z in &zs {
                for y in &ys {
                    for x in &xs {
                        let (mut largest, mut place) = (f32::NEG_INFINITY, None);
                        for iz in z.clone() {
                            for iy in y.clone() {
                                for ix in x.clone() {
                                    let value = map[[channel, iz, iy, ix]];
                                    if place.is_none() || value > largest {
                                        (largest, place) =
                                            (value, Some(((channel * nz + iz) * ny + iy) * nx + ix));
                                    }
                                }
                            }
                        }
                        cells.push(largest);
                        places.push(place.expect("a cell covers at least one position"));
                    }
                }
            }
        }
    }
    let cells = Array2::from_shape_vec((proposals.len(), width), cells).expect("one row per proposal");
    Pooled { cells, places }
}

/// The positions of the map that each cell covers, `(z, y, x)`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the map first")]
fn ranges(proposal: NetworkBox, map: [usize; 3]) -> [Vec<Range<usize>>; 3] {
    let corners = proposal.corners();
    std::array::from_fn(|axis| {
        let [start, end] = corners[axis].map(|corner| corner / COARSE_STRIDE as f32);
        let side = map[axis];
        let start = start.floor().clamp(0.0, (side - 1) as f32) as usize;
        let end = (end.ceil().clamp(0.0, side as f32) as usize).max(start + 1);
        let n = end - start;
        let cell = |i: usize| start + i * n / ROI_SIDE..start + ((i + 1) * n).div_ceil(ROI_SIDE);
        (0..ROI_SIDE).map(cell).collect()
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
            assert_eq!(*cell, flat[*place]);
        }
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
