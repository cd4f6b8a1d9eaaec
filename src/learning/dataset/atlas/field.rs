//! The way from the image to the atlas on coarse nodes, straight between them.
//!
//! A place is `(z, y, x)` in voxels of the atlas, and the distance from the atlas's skin, mm.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Axis};

/// Places in an atlas, voxels, on nodes round the middle of an image.
pub(super) struct Field {
    /// Offset of the first node from the middle of the image, mm.
    first_mm: [f64; 3],
    step_mm: f64,
    places: Array3<[f32; 4]>,
}

impl Field {
    /// Nodes `step_mm` apart that cover `half_mm` on both sides of the middle.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few dozen nodes")]
    pub(super) fn over(half_mm: [f64; 3], step_mm: f64, pull: impl Fn([f64; 3]) -> [f64; 4] + Sync) -> Self {
        let sides = half_mm.map(|half| (2.0 * half / step_mm).ceil() as usize + 2);
        let first_mm: [f64; 3] = std::array::from_fn(|a| -((sides[a] - 1) as f64) / 2.0 * step_mm);
        let mut places = Array3::from_elem(sides, [0.0; 4]);
        places.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(z, mut plane)| {
            for ((y, x), place) in plane.indexed_iter_mut() {
                let offset = std::array::from_fn(|a| first_mm[a] + [z, y, x][a] as f64 * step_mm);
                *place = pull(offset).map(|v| v as f32);
            }
        });
        Self { first_mm, step_mm, places }
    }

    /// Everything along x at a height and row, mm from the middle.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the nodes first")]
    pub(super) fn line(&self, z_mm: f64, y_mm: f64) -> Line {
        let sides: [usize; 3] = self.places.dim().into();
        let place = |axis: usize, mm: f64| {
            let at = ((mm - self.first_mm[axis]) / self.step_mm).clamp(0.0, (sides[axis] - 1) as f64 - 1e-6);
            (at as usize, (at - at.floor()) as f32)
        };
        let ((z, up), (y, down)) = (place(0, z_mm), place(1, y_mm));
        let per_mm = 1.0 / self.step_mm as f32;
        let node = |z: usize, y: usize, x: usize| self.places[[z, y, x]];
        let mut line = Line {
            first_mm: self.first_mm[2] as f32,
            per_mm,
            places: Vec::with_capacity(sides[2]),
            along_z: Vec::with_capacity(sides[2]),
            along_y: Vec::with_capacity(sides[2]),
        };
        for x in 0..sides[2] {
            let (a, b) = (node(z, y, x), node(z, y + 1, x));
            let (c, d) = (node(z + 1, y, x), node(z + 1, y + 1, x));
            let low: [f32; 4] = std::array::from_fn(|i| a[i] + down * (b[i] - a[i]));
            let high: [f32; 4] = std::array::from_fn(|i| c[i] + down * (d[i] - c[i]));
            line.places.push(std::array::from_fn(|i| low[i] + up * (high[i] - low[i])));
            line.along_z.push(std::array::from_fn(|i| (high[i] - low[i]) * per_mm));
            line.along_y
                .push(std::array::from_fn(|i| ((1.0 - up) * (b[i] - a[i]) + up * (d[i] - c[i])) * per_mm));
        }
        line
    }
}

/// The field along one row.
pub(super) struct Line {
    first_mm: f32,
    per_mm: f32,
    places: Vec<[f32; 4]>,
    along_z: Vec<[f32; 4]>,
    along_y: Vec<[f32; 4]>,
}

/// A place in the atlas, voxels, and how it changes per mm of the image along z, y and x.
pub(super) struct Spot {
    pub(super) place: [f32; 4],
    pub(super) slopes: [[f32; 4]; 3],
}

impl Line {
    pub(super) fn place(&self, x_mm: f32) -> [f32; 4] {
        let (low, share) = self.node(x_mm);
        let (a, b) = (self.places[low], self.places[low + 1]);
        std::array::from_fn(|i| a[i] + share * (b[i] - a[i]))
    }

    pub(super) fn spot(&self, x_mm: f32) -> Spot {
        let (low, share) = self.node(x_mm);
        let (a, b) = (self.places[low], self.places[low + 1]);
        let along_x: [f32; 4] = std::array::from_fn(|i| (b[i] - a[i]) * self.per_mm);
        Spot {
            place: std::array::from_fn(|i| a[i] + share * (b[i] - a[i])),
            slopes: [self.along_z[low], self.along_y[low], along_x],
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the nodes first")]
    fn node(&self, x_mm: f32) -> (usize, f32) {
        let last = (self.places.len() - 1) as f32;
        let at = ((x_mm - self.first_mm) * self.per_mm).clamp(0.0, last - 1e-3);
        (at as usize, at - at.floor())
    }
}
