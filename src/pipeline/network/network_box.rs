//! Boxes with continuous sides.

/// A box of the network, in voxels of its grid: centre and sides, integers at voxel centres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkBox {
    /// Centre, slice.
    pub z: f32,
    /// Centre, row.
    pub y: f32,
    /// Centre, column.
    pub x: f32,
    /// Side along z.
    pub d: f32,
    /// Side along y.
    pub h: f32,
    /// Side along x.
    pub w: f32,
}

impl NetworkBox {
    /// From `(z, y, x, d, h, w)`.
    #[must_use]
    pub fn from_array([z, y, x, d, h, w]: [f32; 6]) -> Self {
        Self { z, y, x, d, h, w }
    }

    /// As `(z, y, x, d, h, w)`.
    #[must_use]
    pub fn to_array(self) -> [f32; 6] {
        [self.z, self.y, self.x, self.d, self.h, self.w]
    }

    /// Where it begins and ends on each axis, `(z, y, x)`.
    #[must_use]
    pub fn corners(self) -> [[f32; 2]; 3] {
        [(self.z, self.d), (self.y, self.h), (self.x, self.w)]
            .map(|(centre, side)| [centre - side / 2.0, centre + side / 2.0])
    }

    /// Intersection over union with another box, 0..=1; sides are continuous, so no voxel is added to them.
    /// A box without volume meets nothing.
    #[must_use]
    pub fn iou(self, other: Self) -> f32 {
        let mut intersection = 1.0;
        for ([a0, a1], [b0, b1]) in self.corners().into_iter().zip(other.corners()) {
            let side = a1.min(b1) - a0.max(b0);
            if side.is_nan() || side <= 0.0 {
                return 0.0;
            }
            intersection *= side;
        }
        let volume = |b: Self| b.d * b.h * b.w;
        intersection / (volume(self) + volume(other) - intersection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sides (4, 6, 10) and (2, 6, 8), apart by (1, 2, 3): the meeting is 2 x 4 x 6 = 48 of 240 + 96 - 48.
    #[test]
    fn overlap_by_hand() {
        let a = NetworkBox::from_array([10.0, 20.0, 30.0, 4.0, 6.0, 10.0]);
        let b = NetworkBox::from_array([11.0, 22.0, 33.0, 2.0, 6.0, 8.0]);
        assert!((a.iou(b) - 48.0 / 288.0).abs() < 1e-6 && (b.iou(a) - a.iou(b)).abs() < 1e-7);
        assert!((a.iou(a) - 1.0).abs() < 1e-6);
        // They touch along y only.
        assert_eq!(a.iou(NetworkBox { y: 26.0, ..a }), 0.0);
    }
}
