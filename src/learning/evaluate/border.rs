//! Where a mask ends: border voxels, outlines in the plane, pieces of surface.

use crate::vocabulary::space::{RegionMask, VoxelBox};

/// A mask with one layer of outside all round, so that every voxel has all its neighbours.
pub(super) struct Padded {
    /// 1 inside, 0 outside; axes `(z, y, x)`.
    voxels: Vec<u8>,
    /// Voxels of the mask's region `(z, y, x)`.
    shape: [usize; 3],
    /// Where the region begins on the grid.
    start: [usize; 3],
}

impl Padded {
    pub(super) fn of(mask: &RegionMask) -> Self {
        let shape = mask.region.shape();
        let [depth, height, width] = shape;
        let mut voxels = vec![0; (depth + 2) * (height + 2) * (width + 2)];
        for ((z, y), row) in
            mask.voxels.rows().into_iter().enumerate().map(|(n, row)| ((n / height, n % height), row))
        {
            let at = ((z + 1) * (height + 2) + y + 1) * (width + 2) + 1;
            voxels[at..at + width].iter_mut().zip(row).for_each(|(voxel, inside)| *voxel = u8::from(*inside));
        }
        Self { voxels, shape, start: mask.region.start }
    }

    /// Between neighbours in memory, `(z, y)`; along x it is 1.
    fn steps(&self) -> [usize; 2] {
        [(self.shape[1] + 2) * (self.shape[2] + 2), self.shape[2] + 2]
    }

    /// Voxels with one of their six neighbours outside, on the grid, in rising order of `(z, y, x)`.
    pub(super) fn border(&self) -> Vec<[usize; 3]> {
        let [plane, row] = self.steps();
        self.voxels_with_outside_at(&[plane, row, 1])
    }

    /// Voxels with one of their four neighbours in the plane outside, likewise.
    pub(super) fn outline(&self) -> Vec<[usize; 3]> {
        let [_, row] = self.steps();
        self.voxels_with_outside_at(&[row, 1])
    }

    fn voxels_with_outside_at(&self, steps: &[usize]) -> Vec<[usize; 3]> {
        let [plane, row] = self.steps();
        let [z0, y0, x0] = self.start;
        let mut found = Vec::new();
        for z in 0..self.shape[0] {
            for y in 0..self.shape[1] {
                let begin = (z + 1) * plane + (y + 1) * row + 1;
                for x in 0..self.shape[2] {
                    let at = begin + x;
                    let outside = |step: &usize| self.voxels[at - step] & self.voxels[at + step] == 0;
                    if self.voxels[at] == 1 && steps.iter().any(outside) {
                        found.push([z0 + z, y0 + y, x0 + x]);
                    }
                }
            }
        }
        found
    }

    /// Corners between voxels where inside meets outside, in rising order of `(z, y, x)`, with the eight voxels around
    /// as bits, 128 for the lowest `(z, y, x)` and 1 for the highest, x fastest. Corner `(z, y, x)` is the lowest
    /// corner of voxel `(z, y, x)`.
    pub(super) fn corners(&self) -> (Vec<[usize; 3]>, Vec<u8>) {
        let [plane, row] = self.steps();
        let [z0, y0, x0] = self.start;
        let (mut places, mut codes) = (Vec::new(), Vec::new());
        for z in 0..=self.shape[0] {
            for y in 0..=self.shape[1] {
                let begin = z * plane + y * row;
                // Two bits of each of the four rows around; the pair moves along with x.
                let rows = [0, row, plane, plane + row].map(|step| &self.voxels[begin + step..][..row]);
                let mut code = 0_u8;
                for x in 0..row {
                    let [a, b, c, d] = rows.map(|row| row[x]);
                    code = (code << 1 & 0b1010_1010) | a << 6 | b << 4 | c << 2 | d;
                    if x > 0 && code != 0 && code != u8::MAX {
                        places.push([z0 + z, y0 + y, x0 + x - 1]);
                        codes.push(code);
                    }
                }
            }
        }
        (places, codes)
    }
}

/// The box round all points.
pub(super) fn bounding_box(points: &[[usize; 3]]) -> Option<VoxelBox> {
    let first = *points.first()?;
    let mut found = VoxelBox { start: first, end: first };
    for point in points {
        for (axis, index) in point.iter().enumerate() {
            found.start[axis] = found.start[axis].min(*index);
            found.end[axis] = found.end[axis].max(index + 1);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    /// A brick of 3 x 4 x 5 voxels: 60 less 1 x 2 x 3 inside; in each plane 20 less 2 x 3; corners 4 x 5 x 6 less 2 x 3 x 4.
    #[test]
    fn a_brick_ends_where_it_should() {
        let region = VoxelBox { start: [7, 5, 3], end: [10, 9, 8] };
        let brick = Padded::of(&RegionMask { region, voxels: Array3::from_elem([3, 4, 5], true) });
        assert_eq!(brick.border().len(), 60 - 6);
        assert_eq!(brick.outline().len(), 3 * (20 - 6));
        let (places, codes) = brick.corners();
        assert_eq!(places.len(), 120 - 24);
        assert!(places.is_sorted());
        assert_eq!((places[0], codes[0]), ([7, 5, 3], 1));
        assert_eq!((places[95], codes[95]), ([10, 9, 8], 128));
        // On the face of lowest z only the upper four voxels are inside.
        let on_face = places.iter().position(|place| *place == [7, 6, 4]);
        assert_eq!(codes[on_face.unwrap()], 0b0000_1111);
        // On the face of highest x only those of lower x.
        let on_face = places.iter().position(|place| *place == [8, 6, 8]);
        assert_eq!(codes[on_face.unwrap()], 0b1010_1010);
    }

    #[test]
    fn an_empty_mask_ends_nowhere() {
        let region = VoxelBox { start: [0; 3], end: [0; 3] };
        let empty = Padded::of(&RegionMask { region, voxels: Array3::from_elem([0; 3], false) });
        assert!(empty.border().is_empty() && empty.outline().is_empty() && empty.corners().0.is_empty());
    }
}
