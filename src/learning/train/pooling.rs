//! Cells and crops of feature maps, and the way of their gradients back into the map.

use ndarray::{Array4, Array5, s};

use super::boxes::CentredBox;
use crate::engine::graph::preset::{COARSE_STRIDE, ROI_SIDE};
use crate::vocabulary::space::VoxelBox;

/// Cells of one proposal in one channel.
const CELLS: usize = ROI_SIDE * ROI_SIDE * ROI_SIDE;

/// Proposals pooled to 6 x 6 x 6 cells, with the place of each maximum.
pub(super) struct Pooled {
    /// Row per proposal: channel, then cell z, y, x.
    pub(super) cells: Vec<f32>,
    /// Place in the map, counted in C order, of each of `cells`.
    places: Vec<usize>,
}

/// Largest value in each cell of each proposal; `map` has axes `(channel, z, y, x)` at 1/8 of the image.
///
/// Corners are divided by 8, the start floored, the end ceiled, both clamped to the map; cell `i` of `n` positions covers
/// `floor(i n / 6) .. ceil((i + 1) n / 6)`. Source: Tang et al. 2019, reference implementation (adaptive max-pool).
pub(super) fn pool(map: &Array4<f32>, proposals: &[CentredBox]) -> Pooled {
    let (channels, d, h, w) = map.dim();
    let values = map.as_slice().expect("feature maps are made in C order");
    let mut cells = Vec::with_capacity(proposals.len() * channels * CELLS);
    let mut places = Vec::with_capacity(cells.capacity());
    for proposal in proposals {
        let region = coarse_region(proposal, [d, h, w]);
        let ranges: [Vec<std::ops::Range<usize>>; 3] = std::array::from_fn(|axis| cell_ranges(&region, axis));
        for channel in 0..channels {
            for z in &ranges[0] {
                for y in &ranges[1] {
                    for x in &ranges[2] {
                        let mut best = (f32::NEG_INFINITY, 0);
                        for cz in z.clone() {
                            for cy in y.clone() {
                                let row = ((channel * d + cz) * h + cy) * w;
                                for (at, value) in values[row + x.start..row + x.end].iter().enumerate() {
                                    if *value > best.0 {
                                        best = (*value, row + x.start + at);
                                    }
                                }
                            }
                        }
                        cells.push(best.0);
                        places.push(best.1);
                    }
                }
            }
        }
    }
    Pooled { cells, places }
}

impl Pooled {
    /// Adds the gradient of each cell to the place its maximum came from.
    ///
    /// # Panics
    /// If there are more or fewer gradients than cells: both have one row per proposal, so that would be our bug.
    pub(super) fn add_gradient(&self, of_cells: &[f32], of_map: &mut Array4<f32>) {
        assert_eq!(of_cells.len(), self.places.len(), "one gradient per cell");
        let values = of_map.as_slice_mut().expect("gradients are made in C order");
        for (place, gradient) in self.places.iter().zip(of_cells) {
            values[*place] += gradient;
        }
    }
}

/// The part of a map at 1/`scale` under a box whose corners are multiples of 8.
pub(super) fn crop(map: &Array4<f32>, region: &VoxelBox, scale: usize) -> Array5<f32> {
    let (a, b) = (region.start.map(|v| v / scale), region.end.map(|v| v / scale));
    let part = map.slice(s![.., a[0]..b[0], a[1]..b[1], a[2]..b[2]]);
    part.as_standard_layout().into_owned().insert_axis(ndarray::Axis(0))
}

/// Adds the gradient of a crop to the gradient of the map it was cut from.
pub(super) fn add_crop(
    of_crop: ndarray::ArrayViewD<'_, f32>,
    region: &VoxelBox,
    scale: usize,
    of_map: &mut Array4<f32>,
) {
    let (a, b) = (region.start.map(|v| v / scale), region.end.map(|v| v / scale));
    let mut part = of_map.slice_mut(s![.., a[0]..b[0], a[1]..b[1], a[2]..b[2]]);
    part += &of_crop.index_axis(ndarray::Axis(0), 0);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the map first")]
fn coarse_region(proposal: &CentredBox, map: [usize; 3]) -> VoxelBox {
    let stride = COARSE_STRIDE as f32;
    let mut region = VoxelBox::whole(map);
    for axis in 0..3 {
        let (centre, side) = (proposal[axis], proposal[axis + 3]);
        let last = (map[axis] - 1) as f32;
        let start = ((centre - side / 2.0) / stride).floor().clamp(0.0, last) as usize;
        let end = ((centre + side / 2.0) / stride).ceil().clamp(0.0, map[axis] as f32) as usize;
        region.start[axis] = start;
        region.end[axis] = end.max(start + 1);
    }
    region
}

fn cell_ranges(region: &VoxelBox, axis: usize) -> Vec<std::ops::Range<usize>> {
    let (start, n) = (region.start[axis], region.shape()[axis]);
    (0..ROI_SIDE).map(|i| start + i * n / ROI_SIDE..start + ((i + 1) * n).div_ceil(ROI_SIDE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Array4<f32> {
        Array4::from_shape_fn((2, 3, 9, 8), |(c, z, y, x)| (1000 * c + 100 * z + 10 * y + x) as f32)
    }

    /// z 4..20 -> 0..3, so cells 0,0,1 | 1,2,2 of three (each once or twice); y 0..72 -> 0..9: cell 5 is 7..9;
    /// x 24..32 -> 3..4: one position in all cells. Values rise, so the last position of a cell wins.
    #[test]
    fn cells_are_adaptive_and_the_largest_value_wins() {
        let pooled = pool(&map(), &[[12.0, 36.0, 28.0, 16.0, 72.0, 8.0]]);
        assert_eq!(pooled.cells.len(), 2 * 216);
        let cell = |c: usize, z: usize, y: usize, x: usize| pooled.cells[((c * 6 + z) * 6 + y) * 6 + x];
        assert!((cell(0, 0, 0, 0) - 13.0).abs() < 1e-6, "{}", cell(0, 0, 0, 0));
        assert!((cell(1, 5, 5, 2) - 1283.0).abs() < 1e-6, "{}", cell(1, 5, 5, 2));
    }

    /// Central difference of the sum of squares of all cells, at the place that wins cell (1, 5, 5, .).
    #[test]
    fn the_gradient_goes_back_to_the_maximum() {
        let proposals = [[12.0, 36.0, 28.0, 16.0, 72.0, 8.0], [4.0, 30.0, 30.0, 8.0, 20.0, 40.0]];
        let loss = |m: &Array4<f32>| {
            pool(m, &proposals).cells.iter().map(|v| f64::from(v / 100.0).powi(2)).sum::<f64>()
        };
        let pooled = pool(&map(), &proposals);
        let of_cells: Vec<f32> = pooled.cells.iter().map(|v| 2.0 * v / 1e4).collect();
        let mut gradient = Array4::zeros(map().raw_dim());
        pooled.add_gradient(&of_cells, &mut gradient);
        for at in [[1, 2, 8, 3], [0, 0, 4, 5], [0, 1, 0, 0]] {
            let (mut up, mut down) = (map(), map());
            up[at] += 0.25;
            down[at] -= 0.25;
            let expected = (loss(&up) - loss(&down)) / 0.5;
            let found = f64::from(gradient[at]);
            assert!((expected - found).abs() < 1e-4 * expected.abs().max(1.0), "{at:?}: {expected} {found}");
        }
    }

    #[test]
    fn a_crop_and_its_gradient_lie_in_the_same_place() {
        let region = VoxelBox { start: [8, 16, 40], end: [24, 40, 64] };
        let part = crop(&map(), &region, 8);
        assert_eq!(part.shape(), [1, 2, 2, 3, 3]);
        assert!((part[[0, 1, 0, 0, 0]] - 1125.0).abs() < 1e-6);
        let mut gradient = Array4::zeros(map().raw_dim());
        add_crop(part.view().into_dyn(), &region, 8, &mut gradient);
        assert!((gradient[[1, 2, 4, 7]] - 1247.0).abs() < 1e-6 && gradient[[1, 0, 4, 7]].abs() < 1e-9);
    }
}
