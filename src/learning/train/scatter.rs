//! The way of gradients from cells and crops back into the feature map that they were taken from.

use ndarray::{Array4, ArrayViewD, Axis, s};

use crate::vocabulary::space::VoxelBox;

/// Adds the gradient of each pooled cell to the place its maximum came from, counted in C order.
///
/// # Panics
/// If there are more or fewer gradients than places: both have one row per proposal, so that would be our bug.
pub(super) fn add_cells(of_cells: &[f32], places: &[u32], of_map: &mut Array4<f32>) {
    assert_eq!(of_cells.len(), places.len(), "one gradient per cell");
    let values = of_map.as_slice_mut().expect("gradients are made in C order");
    for (place, gradient) in places.iter().zip(of_cells) {
        values[*place as usize] += gradient;
    }
}

/// Adds the gradient of a crop, first axis one, to the gradient of the map at 1/`scale` that it was cut from.
pub(super) fn add_crop(
    of_crop: ArrayViewD<'_, f32>,
    region: VoxelBox,
    scale: usize,
    of_map: &mut Array4<f32>,
) {
    let (a, b) = (region.start.map(|v| v / scale), region.end.map(|v| v / scale));
    let mut part = of_map.slice_mut(s![.., a[0]..b[0], a[1]..b[1], a[2]..b[2]]);
    part += &of_crop.index_axis(Axis(0), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::network::roi_pool::pool;
    use crate::pipeline::network::{NetworkBox, crop};

    fn map() -> Array4<f32> {
        Array4::from_shape_fn((2, 3, 9, 8), |(c, z, y, x)| (1000 * c + 100 * z + 10 * y + x) as f32)
    }

    /// Central difference of the sum of squares of all cells, at the place that wins cell (1, 5, 5, .).
    #[test]
    fn the_gradient_goes_back_to_the_maximum() {
        let proposals = [[12.0, 36.0, 28.0, 16.0, 72.0, 8.0], [4.0, 30.0, 30.0, 8.0, 20.0, 40.0]]
            .map(NetworkBox::from_array);
        let loss = |m: &Array4<f32>| {
            pool(m.view(), &proposals).cells.iter().map(|v| f64::from(v / 100.0).powi(2)).sum::<f64>()
        };
        let pooled = pool(map().view(), &proposals);
        let of_cells: Vec<f32> = pooled.cells.iter().map(|v| 2.0 * v / 1e4).collect();
        let mut gradient = Array4::zeros(map().raw_dim());
        add_cells(&of_cells, &pooled.places, &mut gradient);
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
        let part = crop(map().view(), region, 8);
        let mut gradient = Array4::zeros(map().raw_dim());
        add_crop(part.view().into_dyn(), region, 8, &mut gradient);
        assert!((gradient[[1, 2, 4, 7]] - 1247.0).abs() < 1e-6 && gradient[[1, 0, 4, 7]].abs() < 1e-9);
    }
}
