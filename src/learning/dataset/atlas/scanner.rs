//! How a patient was scanned: grid, sharpness, noise, calibration.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayViewMut2, Axis};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::organs::normal;
use super::substance::single;
use crate::settings::Synthetic;

/// A scanner and its reconstruction.
pub(super) struct Scanner {
    /// Spacing of its images, `(z, y, x)`, mm; never finer than the network's, which sees no more.
    pub(super) spacing_mm: [f64; 3],
    /// Voxels.
    pub(super) shape: [usize; 3],
    /// Over which a voxel averages, mm.
    pub(super) footprint_mm: [f32; 3],
    /// Part of each neighbour in plane that is added; negative sharpens.
    kernel: f32,
    /// Standard deviation of the noise in a body of [`USUAL_WIDTH_MM`].
    noise_hu: f32,
    /// Whether wide slices are noisier.
    attenuation: bool,
    gain: f32,
    offset_hu: f32,
    lowest_hu: f32,
    highest_hu: f32,
}

/// Slice distances of planning CT, mm.
const SLICES_MM: [f64; 8] = [1.0, 1.25, 2.0, 2.5, 2.5, 3.0, 3.0, 5.0];
/// A head's breadth.
const USUAL_WIDTH_MM: f32 = 170.0;
/// The noise's standard deviation doubles over this breadth (linear attenuation of water at 70 keV, 0.019 per mm; a wide
/// body is longer in one direction only).
const DOUBLES_OVER_MM: f32 = 150.0;

impl Scanner {
    /// Draws a scanner whose images cover `shape` voxels of the network's `spacing_mm`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred voxels")]
    pub(super) fn draw(
        spacing_mm: [f64; 3],
        shape: [usize; 3],
        varied: &Synthetic,
        rng: &mut impl Rng,
    ) -> Self {
        let thickness = SLICES_MM[rng.random_range(0..SLICES_MM.len())];
        let overlap = if rng.random_range(0..5) == 0 { 1.5 } else { 1.0 };
        // Every third one as coarse as collections made for dose prediction are.
        let pixel = if rng.random_range(0..3) == 0 { rng.random_range(3.5..=5.4_f64) } else { 1.0 };
        let sharpness = rng.random_range(0.35..=1.0_f64);
        let blur = rng.random_range(0.6..=2.2);
        let fine = |wanted: f64, own: f64| if wanted > own * 1.1 { wanted } else { own };
        let [z, y, x] = spacing_mm;
        let (spacing, footprint) = if varied.scanner {
            let psf = |own: f64| (pixel * sharpness).max(0.3 * own) + 0.6;
            ([fine(thickness, z), fine(pixel, y), fine(pixel, x)], [thickness * overlap, psf(y), psf(x)])
        } else {
            (spacing_mm, spacing_mm.map(|mm| mm * blur))
        };
        let covering = std::array::from_fn(|a| {
            let exact = (spacing[a] - spacing_mm[a]).abs() < 1e-9;
            let voxels = (shape[a] as f64 * spacing_mm[a] / spacing[a]).ceil() as usize;
            if exact { shape[a] } else { voxels + 1 }
        });
        let noise_hu = rng.random_range(1.0_f32..=3.2).exp();
        let plain_noise = rng.random_range(0.0_f32..=25.0);
        let kernel = rng.random_range(-0.12_f32..=0.2);
        let gain = 1.0 + 0.012 * single(normal(rng));
        let offset_hu = 5.0 * single(normal(rng));
        let lowest_hu = if rng.random_range(0..2) == 0 { -1024.0 } else { -1000.0 };
        let highest_hu = [3071.0, 3071.0, 2976.0, 1900.0][rng.random_range(0..4_usize)];
        let on = |value: f32, off: f32| if varied.scanner { value } else { off };
        Self {
            spacing_mm: spacing,
            shape: covering,
            footprint_mm: footprint.map(single),
            kernel: on(kernel, 0.0),
            noise_hu: on(noise_hu, plain_noise),
            attenuation: varied.scanner,
            gain: on(gain, 1.0),
            offset_hu: on(offset_hu, 0.0),
            lowest_hu: on(lowest_hu, -1024.0),
            highest_hu: on(highest_hu, 3071.0),
        }
    }

    /// Offset of a voxel's centre from the middle of the image, mm.
    pub(super) fn offset_mm(&self, axis: usize, voxel: usize) -> f64 {
        (voxel as f64 - (self.shape[axis] as f64 - 1.0) / 2.0) * self.spacing_mm[axis]
    }

    /// Adds noise, then what the kernel does to all of it, then calibration; cut to what the image can hold.
    pub(super) fn develop(&self, hu: &mut Array3<f32>, is_body: &Array3<bool>, seed: u64) {
        let planes = hu.axis_iter_mut(Axis(0)).into_par_iter().zip(is_body.axis_iter(Axis(0))).enumerate();
        planes.for_each(|(z, (mut plane, body))| {
            let mut rng = Pcg64::seed_from_u64(seed ^ (z as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let widest = body.outer_iter().map(|row| row.iter().filter(|inside| **inside).count()).max();
            let width_mm = single(widest.unwrap_or(0) as f64 * self.spacing_mm[2]);
            let excess = ((width_mm - USUAL_WIDTH_MM) / DOUBLES_OVER_MM).clamp(-0.7, 1.5);
            let deviation = if self.attenuation { self.noise_hu * excess.exp2() } else { self.noise_hu };
            // Shoulders starve the rays that run along them: noise becomes streaks from side to side.
            let streaks = if self.attenuation { excess.max(0.0) * self.noise_hu * 0.7 } else { 0.0 };
            let mut trail = 0.0_f32;
            for value in &mut plane {
                let bits = rng.next_u64();
                // Eight bytes together: mean 1020, standard deviation 209.
                let sum: u32 = bits.to_le_bytes().into_iter().map(u32::from).sum();
                let drawn = (sum as f32 - 1020.0) / 209.0;
                trail = 0.88 * trail + 0.47 * drawn;
                *value += deviation * drawn + streaks * trail;
            }
            filter(&mut plane, self.kernel);
            for value in &mut plane {
                let read = (*value + 1000.0) * self.gain - 1000.0 + self.offset_hu;
                *value = read.clamp(self.lowest_hu, self.highest_hu);
            }
        });
    }

    /// The images on the network's grid, linear between voxels, `(z, y, x)`.
    pub(super) fn on_grid(&self, hu: Array3<f32>, spacing_mm: [f64; 3], shape: [usize; 3]) -> Array3<f32> {
        let same =
            (0..3).all(|a| (self.spacing_mm[a] - spacing_mm[a]).abs() < 1e-9 && self.shape[a] == shape[a]);
        if same {
            return hu;
        }
        let [z, y, x]: [Vec<(usize, usize, f32)>; 3] = std::array::from_fn(|a| {
            (0..shape[a])
                .map(|n| self.between(a, (n as f64 - (shape[a] as f64 - 1.0) / 2.0) * spacing_mm[a]))
                .collect()
        });
        let mut out = Array3::zeros(shape);
        out.axis_iter_mut(Axis(0)).into_par_iter().zip(&z).for_each(|(mut plane, (below, above, up))| {
            let mut slice = hu.index_axis(Axis(0), *below).to_owned();
            slice.zip_mut_with(&hu.index_axis(Axis(0), *above), |low, high| *low += up * (high - *low));
            for (mut row, (before, after, down)) in plane.outer_iter_mut().zip(&y) {
                let at = |x: usize| slice[[*before, x]] + down * (slice[[*after, x]] - slice[[*before, x]]);
                for (value, (left, right, across)) in row.iter_mut().zip(&x) {
                    *value = at(*left) + across * (at(*right) - at(*left));
                }
            }
        });
        out
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the voxels first"
    )]
    fn between(&self, axis: usize, mm: f64) -> (usize, usize, f32) {
        let last = (self.shape[axis] - 1) as f64;
        let at = (mm / self.spacing_mm[axis] + last / 2.0).clamp(0.0, last);
        let low = at as usize;
        (low, (low + 1).min(self.shape[axis] - 1), single(at - low as f64))
    }
}

/// Adds a part of both neighbours along rows, then along columns.
fn filter(plane: &mut ArrayViewMut2<'_, f32>, part: f32) {
    if part.abs() < 1e-3 {
        return;
    }
    for axis in [Axis(0), Axis(1)] {
        for mut lane in plane.lanes_mut(axis) {
            let n = lane.len();
            let mut before = lane[0];
            for i in 0..n {
                let (here, after) = (lane[i], lane[(i + 1).min(n - 1)]);
                lane[i] = here + part * (before + after - 2.0 * here);
                before = here;
            }
        }
    }
}
