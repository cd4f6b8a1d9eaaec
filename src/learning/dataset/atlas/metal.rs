//! Fillings, crowns and implants, and the streaks they throw.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayViewMut2, Axis};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::landmarks::TOOTH;
use super::organs::normal;
use super::scanner::Scanner;
use super::substance::single;
use crate::settings::Synthetic;

/// Metal in this patient's teeth.
pub(super) struct Metal {
    fillings: Vec<Filling>,
    /// HU of a streak beside its filling.
    strength: f32,
    /// Over which it fades, mm.
    fade_mm: f32,
}

struct Filling {
    /// Which of the tooth voxels, as a part of their number.
    tooth: f64,
    radius_mm: f32,
    /// How far up and down its streaks go, mm.
    reach_mm: f32,
}

impl Filling {
    fn draw(rng: &mut impl Rng) -> Self {
        Self {
            tooth: rng.random_range(0.0..1.0),
            radius_mm: rng.random_range(1.5..=4.5),
            reach_mm: rng.random_range(1.0..=6.0),
        }
    }
}

/// Directions of a streak pattern.
const DIRECTIONS: usize = 256;

/// HU that no scanner's 12 bits hold.
const METAL_HU: f32 = 4500.0;

impl Metal {
    /// None in half of all patients.
    pub(super) fn draw(varied: &Synthetic, rng: &mut impl Rng) -> Self {
        let n = if varied.dental_metal && rng.random_range(0..2) == 0 { rng.random_range(1..=7) } else { 0 };
        let fillings = (0..n).map(|_| Filling::draw(rng)).collect();
        Self {
            fillings,
            strength: rng.random_range(4.3_f32..=6.6).exp(),
            fade_mm: rng.random_range(12.0..=60.0),
        }
    }

    /// Puts metal into teeth and streaks round it.
    pub(super) fn apply(&self, hu: &mut Array3<f32>, tissues: &Array3<u8>, scanner: &Scanner, seed: u64) {
        if self.fillings.is_empty() {
            return;
        }
        let teeth: Vec<[usize; 3]> = tissues
            .indexed_iter()
            .filter(|(_, tissue)| **tissue == TOOTH)
            .map(|((z, y, x), _)| [z, y, x])
            .collect();
        if teeth.is_empty() {
            return;
        }
        let step = scanner.spacing_mm.map(single);
        let placed: Vec<([f32; 3], &Filling, Vec<f32>)> = self
            .fillings
            .iter()
            .enumerate()
            .map(|(n, filling)| {
                let at = teeth[part_of(filling.tooth, teeth.len())];
                (std::array::from_fn(|a| at[a] as f32 * step[a]), filling, pattern(seed ^ n as u64))
            })
            .collect();
        hu.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(z, mut plane)| {
            let z_mm = z as f32 * step[0];
            let mut before: Option<[f32; 2]> = None;
            for (n, (at, filling, common)) in placed.iter().enumerate() {
                let far = (z_mm - at[0]).abs();
                let height = filling.radius_mm + filling.reach_mm + step[0] / 2.0;
                if far > height {
                    continue;
                }
                // Neighbouring slices show much the same streaks, not quite.
                let own = pattern(seed ^ ((z * 31 + n + 1) as u64).wrapping_mul(0x2545_F491_4F6C_DD1D));
                let mixed: Vec<f32> = common.iter().zip(&own).map(|(a, b)| 0.8 * a + 0.6 * b).collect();
                let fainter = 1.0 - 0.7 * (far / height);
                self.streaks(&mut plane, [at[1], at[2]], [step[1], step[2]], &mixed, fainter * self.strength);
                if let Some(other) = before {
                    self.shade(&mut plane, [at[1], at[2]], other, [step[1], step[2]], fainter);
                }
                before = Some([at[1], at[2]]);
                if far < filling.radius_mm + step[0] / 2.0 {
                    fill(&mut plane, [at[1], at[2]], [step[1], step[2]], filling.radius_mm);
                }
            }
        });
    }

    fn streaks(
        &self,
        plane: &mut ArrayViewMut2<'_, f32>,
        at: [f32; 2],
        step: [f32; 2],
        pattern: &[f32],
        hu: f32,
    ) {
        for ((y, x), value) in plane.indexed_iter_mut() {
            let (dy, dx) = (y as f32 * step[0] - at[0], x as f32 * step[1] - at[1]);
            let far = dy.hypot(dx);
            if far < 5.0 * self.fade_mm {
                *value += hu * pattern[direction(dy, dx)] * (-far / self.fade_mm).exp();
            }
        }
    }

    /// Between two pieces of metal no ray gets through: a dark band.
    fn shade(&self, plane: &mut ArrayViewMut2<'_, f32>, a: [f32; 2], b: [f32; 2], step: [f32; 2], part: f32) {
        const HALF_WIDTH_MM: f32 = 4.0;
        let way = [b[0] - a[0], b[1] - a[1]];
        let length = way[0].hypot(way[1]).max(1.0);
        for ((y, x), value) in plane.indexed_iter_mut() {
            let d = [y as f32 * step[0] - a[0], x as f32 * step[1] - a[1]];
            let along = (d[0] * way[0] + d[1] * way[1]) / length;
            let across = (d[0] * way[1] - d[1] * way[0]).abs() / length;
            if (0.0..length).contains(&along) && across < HALF_WIDTH_MM {
                *value -= 0.8 * self.strength * part * (1.0 - across / HALF_WIDTH_MM);
            }
        }
    }
}

fn fill(plane: &mut ArrayViewMut2<'_, f32>, at: [f32; 2], step: [f32; 2], radius_mm: f32) {
    for ((y, x), value) in plane.indexed_iter_mut() {
        let far = (y as f32 * step[0] - at[0]).hypot(x as f32 * step[1] - at[1]);
        let share = ((radius_mm - far) / step[1] + 0.5).clamp(0.0, 1.0);
        *value += share * (METAL_HU - *value);
    }
}

/// Bright and dark by direction, mean 0, sharper than the eye would draw them.
fn pattern(seed: u64) -> Vec<f32> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let rough: Vec<f64> = (0..DIRECTIONS).map(|_| normal(&mut rng)).collect();
    let smooth = |i: usize| {
        (rough[(i + DIRECTIONS - 1) % DIRECTIONS] + rough[i] * 2.0 + rough[(i + 1) % DIRECTIONS]) / 2.4
    };
    let values: Vec<f64> = (0..DIRECTIONS).map(smooth).collect();
    let mean = values.iter().sum::<f64>() / DIRECTIONS as f64;
    values.into_iter().map(|v| single(v - mean)).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a full turn of directions")]
fn direction(dy: f32, dx: f32) -> usize {
    let turns = dy.atan2(dx) / std::f32::consts::TAU + 0.5;
    (turns * DIRECTIONS as f32) as usize % DIRECTIONS
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
fn part_of(part: f64, count: usize) -> usize {
    ((part * count as f64) as usize).min(count - 1)
}
