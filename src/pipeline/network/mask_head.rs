//! Detections to whole voxels, and the maps under them.

use ndarray::{Array5, ArrayView4, Axis, s};

use super::network_box::NetworkBox;
use crate::engine::graph::preset::COARSE_STRIDE;
use crate::vocabulary::space::VoxelBox;

/// The voxels that the mask head looks at: corners truncated to whole numbers, the start floored and the end ceiled to
/// multiples of eight, clamped to an input of `shape` `(z, y, x)`; never empty.
///
/// Source: Tang et al. 2019, reference implementation.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the volume first")]
pub fn mask_box(around: NetworkBox, shape: [usize; 3]) -> VoxelBox {
    let mut region = VoxelBox::whole(shape);
    for (axis, corners) in around.corners().into_iter().enumerate() {
        let [start, end] = corners.map(|at| at.clamp(0.0, shape[axis] as f32).trunc() as usize);
        let start = (start / COARSE_STRIDE * COARSE_STRIDE).min(shape[axis] - COARSE_STRIDE);
        region.start[axis] = start;
        region.end[axis] = end.next_multiple_of(COARSE_STRIDE).clamp(start + COARSE_STRIDE, shape[axis]);
    }
    region
}

/// The part of a map at 1/`scale` of the input, axes `(channel, z, y, x)`, under a box whose corners are multiples of
/// eight; with a first axis of one.
#[must_use]
pub(crate) fn crop(map: ArrayView4<'_, f32>, region: VoxelBox, scale: usize) -> Array5<f32> {
    let (a, b) = (region.start.map(|v| v / scale), region.end.map(|v| v / scale));
    let part = map.slice(s![.., a[0]..b[0], a[1]..b[1], a[2]..b[2]]);
    part.as_standard_layout().into_owned().insert_axis(Axis(0))
}

#[cfg(test)]
mod tests {
    use ndarray::Array4;

    use super::*;

    /// z 9.5..14.5 -> 9..14 -> 8..16; y -2.5..17.5 -> 0..17 -> 0..24; x 43..53 -> 40..48, the volume's end.
    #[test]
    fn mask_boxes_are_rounded_outward_and_clamped() {
        let around = NetworkBox::from_array([12.0, 7.5, 48.0, 5.0, 20.0, 10.0]);
        assert_eq!(mask_box(around, [32, 40, 48]), VoxelBox { start: [8, 0, 40], end: [16, 24, 48] });
        // Wholly beyond the volume: its last eight voxels.
        let beyond = mask_box(NetworkBox { z: 70.0, ..around }, [32, 40, 48]);
        assert_eq!((beyond.start[0], beyond.end[0]), (24, 32));
    }

    #[test]
    fn a_crop_lies_under_its_box() {
        let map =
            Array4::from_shape_fn((2, 3, 9, 8), |(c, z, y, x)| (1000 * c + 100 * z + 10 * y + x) as f32);
        let part = crop(map.view(), VoxelBox { start: [8, 16, 40], end: [24, 40, 64] }, 8);
        assert_eq!(part.shape(), [1, 2, 2, 3, 3]);
        assert_eq!((part[[0, 1, 0, 0, 0]], part[[0, 0, 1, 2, 2]]), (1125.0, 247.0));
    }
}
