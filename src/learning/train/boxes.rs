//! Where the organs of a sample are: bounding boxes, enlarged, and how much of any box is body.

use ndarray::{Array3, ArrayView3};

use crate::engine::graph::Preset;
use crate::learning::dataset::OrganSet;
use crate::pipeline::network::{NetworkBox, single};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

/// An organ of a sample with its boxes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TrueBox {
    /// Which organ.
    pub(super) organ: Organ,
    /// The voxels' bounding box.
    pub(super) tight: VoxelBox,
    /// The box to find: `tight`, enlarged.
    pub(super) target: NetworkBox,
}

/// The boxes of all annotated organs that have a voxel, in class order.
pub(super) fn true_boxes(organs: &Array3<u32>, annotated: OrganSet, preset: &Preset) -> Vec<TrueBox> {
    let mut low = [[usize::MAX; 3]; Organ::COUNT];
    let mut high = [[0_usize; 3]; Organ::COUNT];
    for ((z, y, x), bits) in organs.indexed_iter().filter(|(_, bits)| **bits & annotated.bits() != 0) {
        for organ in OrganSet::from_bits(*bits & annotated.bits()).iter() {
            let index = organ.index();
            for (axis, at) in [z, y, x].into_iter().enumerate() {
                low[index][axis] = low[index][axis].min(at);
                high[index][axis] = high[index][axis].max(at + 1);
            }
        }
    }
    Organ::ALL
        .into_iter()
        .filter(|organ| high[organ.index()][0] > 0)
        .map(|organ| {
            let tight = VoxelBox { start: low[organ.index()], end: high[organ.index()] };
            TrueBox { organ, tight, target: enlarged(tight, preset) }
        })
        .collect()
}

/// The bounding box, longer by what the preset says, round the same centre.
fn enlarged(tight: VoxelBox, preset: &Preset) -> NetworkBox {
    let mut target = [0.0; 6];
    for axis in 0..3 {
        let (start, end) = (tight.start[axis] as f32, tight.end[axis] as f32);
        target[axis] = (start + end - 1.0) / 2.0;
        target[axis + 3] = end - start + single(preset.box_enlargement[axis]);
    }
    NetworkBox::from_array(target)
}

/// Sums of a body mask over every box that starts at the origin, so that any box is counted in eight look-ups.
pub(super) struct BodyCount {
    sums: Array3<u32>,
}

impl BodyCount {
    /// Counts the voxels of `image` (normalised, axes `(z, y, x)`) above -0.9, that is -819 HU: patient, not air.
    pub(super) fn of(image: ArrayView3<'_, f32>) -> Self {
        let (d, h, w) = image.dim();
        let mut sums = Array3::<u32>::zeros((d + 1, h + 1, w + 1));
        for z in 0..d {
            for y in 0..h {
                let mut row = 0_u32;
                for x in 0..w {
                    row += u32::from(image[[z, y, x]] > -0.9);
                    let before = sums[[z, y + 1, x + 1]] + sums[[z + 1, y, x + 1]] - sums[[z, y, x + 1]];
                    sums[[z + 1, y + 1, x + 1]] = before + row;
                }
            }
        }
        Self { sums }
    }

    /// Which part of the box is body, 0..=1; what lies outside the image counts as air.
    pub(super) fn share(&self, of: NetworkBox) -> f32 {
        let (d, h, w) = self.sums.dim();
        let sides = [d - 1, h - 1, w - 1];
        let corners = of.corners();
        let [start, end]: [[usize; 3]; 2] =
            [0, 1].map(|which| std::array::from_fn(|axis| edge(corners[axis][which], sides[axis])));
        let mut total = 0_i64;
        for corner in 0..8_usize {
            let at: [usize; 3] =
                std::array::from_fn(|axis| if corner >> axis & 1 == 1 { end[axis] } else { start[axis] });
            let sign = if corner.count_ones() % 2 == 1 { 1 } else { -1 };
            total += sign * i64::from(self.sums[at]);
        }
        let volume: f32 = [of.d, of.h, of.w].into_iter().map(|side| side.max(1.0)).product();
        (total as f32 / volume).clamp(0.0, 1.0)
    }
}

/// The voxel boundary nearest to a place given in voxel centres, inside `0..=side`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the volume first")]
fn edge(at: f32, side: usize) -> usize {
    (at + 0.5).round().clamp(0.0, side as f32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Voxels z 2..5, y 3..4, x 7..9: centre (3, 3, 7.5), sides (3, 1, 2), enlarged by 4, 8, 8.
    #[test]
    fn the_box_of_an_organ_is_enlarged_by_the_presets_voxels() {
        let mut organs = Array3::zeros((6, 8, 11));
        organs[[2, 3, 7]] = OrganSet::of(Organ::LensR).bits();
        organs[[4, 3, 8]] = OrganSet::of(Organ::LensR).bits() | OrganSet::of(Organ::EyeR).bits();
        let boxes = true_boxes(&organs, OrganSet::of(Organ::LensR), &Preset::reference());
        assert_eq!(boxes.len(), 1, "the eye is not annotated");
        let expected = [3.0, 3.0, 7.5, 7.0, 9.0, 10.0];
        for (found, wanted) in boxes[0].target.to_array().iter().zip(expected) {
            assert!((found - wanted).abs() < 1e-5, "{:?}", boxes[0].target);
        }
        assert_eq!(boxes[0].tight, VoxelBox { start: [2, 3, 7], end: [5, 4, 9] });
    }

    /// Body fills y 0..3 of 5: a box over y 1..5 (centre 2.5, side 4), all z and x, is half body.
    #[test]
    fn the_share_of_body_counts_what_is_outside_as_air() {
        let image = Array3::from_shape_fn((4, 5, 7), |(_, y, _)| if y < 3 { 0.0_f32 } else { -1.0 });
        let count = BodyCount::of(image.view());
        let share = |of| count.share(NetworkBox::from_array(of));
        assert!((share([1.5, 2.5, 3.0, 4.0, 4.0, 7.0]) - 0.5).abs() < 1e-6);
        // Half of the box lies left of the image: a quarter of it is body.
        assert!((share([1.5, 2.5, -0.5, 4.0, 4.0, 4.0]) - 0.25).abs() < 1e-6);
    }
}
