//! What is outside the patient, and how much of it reaches the network.

use ndarray::parallel::prelude::*;
use ndarray::{Array2, Array3, ArrayView2, Axis};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::scanner::Scanner;
use super::substance::single;
use crate::settings::Synthetic;

/// Devices round a patient, and the outline beyond which the network is shown air.
pub(super) struct Outside {
    mask: Option<Mask>,
    /// Foam behind the head: how far in front of the body's back it reaches, mm; HU.
    headrest: Option<(f32, f32)>,
    /// Plane under the patient: distance from the back, mm; HU of its shell.
    couch: Option<(f32, f32)>,
    bolus: Option<Bolus>,
    /// Air from here on, mm from the skin; inference finds the body with a margin of 4 mm voxels, and a set of planning
    /// CTs was cut at the drawn skin.
    margin_mm: f32,
    /// Centre `(y, x)` and radius of the field of view, mm from the middle.
    field: Option<([f32; 2], f32)>,
}

/// A thermoplastic mask.
struct Mask {
    gap_mm: f32,
    thickness_mm: f32,
    hu: f32,
    /// As a part of the image's height.
    ends_at: f32,
    /// Behind the middle of the body, mm.
    reaches_back_mm: f32,
}

impl Mask {
    /// Part of a voxel of this side, so far from the skin, that the mask fills.
    fn share(&self, far: f32, side: f32) -> f32 {
        let (low, high) = (far - side / 2.0, far + side / 2.0);
        ((high.min(self.gap_mm + self.thickness_mm) - low.max(self.gap_mm)) / side).clamp(0.0, 1.0)
    }
}

/// A slab on the skin.
struct Bolus {
    /// As parts of the image.
    centre: [f32; 3],
    radius_mm: f32,
    thickness_mm: f32,
    hu: f32,
}

impl Bolus {
    fn holds(&self, voxel: [usize; 3], far: f32, scanner: &Scanner) -> bool {
        let away = |a: usize| {
            let middle = self.centre[a] * scanner.shape[a] as f32;
            ((voxel[a] as f32 - middle) * single(scanner.spacing_mm[a])).powi(2)
        };
        far < self.thickness_mm && (0..3).map(away).sum::<f32>() < self.radius_mm * self.radius_mm
    }
}

/// Shell of a couch, and the foam in it.
const SHELL_MM: f32 = 2.5;
const FOAM_HU: f32 = -930.0;

impl Outside {
    pub(super) fn draw(varied: &Synthetic, rng: &mut impl Rng) -> Self {
        let mask = Mask {
            gap_mm: rng.random_range(0.0..=5.0),
            thickness_mm: rng.random_range(1.6..=3.2),
            hu: rng.random_range(-250.0..=150.0),
            ends_at: rng.random_range(-0.2..=0.5),
            reaches_back_mm: rng.random_range(0.0..=50.0),
        };
        let headrest = (rng.random_range(5.0..=45.0), rng.random_range(-980.0..=-820.0));
        let couch = (rng.random_range(2.0..=40.0), rng.random_range(-500.0..=100.0));
        let bolus = Bolus {
            centre: std::array::from_fn(|_| rng.random_range(0.1..=0.9)),
            radius_mm: rng.random_range(25.0..=70.0),
            thickness_mm: rng.random_range(3.0..=10.0),
            hu: rng.random_range(-60.0..=90.0),
        };
        let mut often = |probability: f64| varied.devices && rng.random_range(0.0..1.0) < probability;
        let (has_mask, has_rest) = (often(0.6), often(0.6));
        let (has_couch, has_bolus) = (often(0.7), often(0.08));
        let margin_mm = match rng.random_range(0..20) {
            0..7 => 0.5,
            7..17 => rng.random_range(1.0..=8.0),
            _ => 1000.0,
        };
        let centre = [rng.random_range(-25.0..=25.0), rng.random_range(-25.0..=25.0)];
        let field = (centre, rng.random_range(85.0..=150.0));
        let is_narrow = rng.random_range(0.0..1.0) < 0.1;
        Self {
            mask: has_mask.then_some(mask),
            headrest: has_rest.then_some(headrest),
            couch: has_couch.then_some(couch),
            bolus: has_bolus.then_some(bolus),
            margin_mm: if varied.devices { margin_mm } else { 0.5 },
            field: (varied.field_of_view && is_narrow).then_some(field),
        }
    }

    /// Adds the devices.
    pub(super) fn furnish(&self, hu: &mut Array3<f32>, is_body: &Array3<bool>, scanner: &Scanner, seed: u64) {
        let n_slices = single(scanner.shape[0] as f64);
        let [_, step_y, step_x] = scanner.spacing_mm.map(single);
        let back = is_body.indexed_iter().filter(|(_, inside)| **inside).map(|((_, y, _), _)| y).max();
        let back = back.unwrap_or(scanner.shape[1]) as f32 * step_y;
        let planes = hu.axis_iter_mut(Axis(0)).into_par_iter().zip(is_body.axis_iter(Axis(0))).enumerate();
        planes.for_each(|(z, (mut plane, body))| {
            let mut rng = Pcg64::seed_from_u64(seed ^ z as u64);
            let distance = distance_to(body, [step_y, step_x]);
            let holds_body = |row: &usize| body.row(*row).iter().any(|inside| *inside);
            let rows = 0..body.nrows();
            let Some((front, behind)) = rows.clone().find(holds_body).zip(rows.rev().find(holds_body)) else {
                return;
            };
            let ends = [front, behind].map(|row| row as f32 * step_y);
            let has_mask = self.mask.as_ref().filter(|mask| z as f32 / n_slices > mask.ends_at);
            for ((y, x), value) in plane.indexed_iter_mut() {
                let far = distance[[y, x]];
                if far <= 0.0 {
                    continue;
                }
                let row_mm = y as f32 * step_y;
                if let Some((_, foam)) = self.headrest.filter(|(depth, _)| row_mm > ends[1] - depth) {
                    *value = value.max(foam);
                }
                if let Some((below, shell)) = self.couch.filter(|(below, _)| row_mm > back + below) {
                    *value = value.max(if row_mm < back + below + SHELL_MM { shell } else { FOAM_HU });
                }
                if let Some(mask) =
                    has_mask.filter(|mask| row_mm < (ends[0] + ends[1]) / 2.0 + mask.reaches_back_mm)
                {
                    let share = mask.share(far, step_x) * rng.random_range(0.5..=1.0);
                    *value += share * (mask.hu - *value).max(0.0);
                }
                if let Some(bolus) = self.bolus.as_ref().filter(|bolus| bolus.holds([z, y, x], far, scanner))
                {
                    *value = bolus.hu;
                }
            }
        });
    }

    /// Sets to `air` what the network is not shown.
    pub(super) fn cut(&self, hu: &mut Array3<f32>, is_body: &Array3<bool>, scanner: &Scanner, air: f32) {
        let [_, step_y, step_x] = scanner.spacing_mm.map(single);
        hu.axis_iter_mut(Axis(0)).into_par_iter().zip(is_body.axis_iter(Axis(0))).for_each(
            |(mut plane, body)| {
                let distance = distance_to(body, [step_y, step_x]);
                for ((y, x), value) in plane.indexed_iter_mut() {
                    let beyond = self.field.is_some_and(|(centre, radius)| {
                        let [dy, dx] = [scanner.offset_mm(1, y), scanner.offset_mm(2, x)].map(single);
                        (dy - centre[0]).hypot(dx - centre[1]) > radius
                    });
                    if beyond || distance[[y, x]] > self.margin_mm {
                        *value = air;
                    }
                }
            },
        );
    }
}

/// Distance of each pixel to the nearest one inside, mm, over eight neighbours in two sweeps; what is shut in counts as
/// inside.
fn distance_to(inside: ArrayView2<'_, bool>, [step_y, step_x]: [f32; 2]) -> Array2<f32> {
    let (h, w) = inside.dim();
    let slant = step_y.hypot(step_x);
    let mut distance = inside.mapv(|inside| if inside { 0.0 } else { 1e4_f32 });
    for y in 0..h {
        for x in 0..w {
            let mut best = distance[[y, x]];
            if x > 0 {
                best = best.min(distance[[y, x - 1]] + step_x);
            }
            if y > 0 {
                best = best.min(distance[[y - 1, x]] + step_y);
                if x > 0 {
                    best = best.min(distance[[y - 1, x - 1]] + slant);
                }
                if x + 1 < w {
                    best = best.min(distance[[y - 1, x + 1]] + slant);
                }
            }
            distance[[y, x]] = best;
        }
    }
    for y in (0..h).rev() {
        for x in (0..w).rev() {
            let mut best = distance[[y, x]];
            if x + 1 < w {
                best = best.min(distance[[y, x + 1]] + step_x);
            }
            if y + 1 < h {
                best = best.min(distance[[y + 1, x]] + step_y);
                if x + 1 < w {
                    best = best.min(distance[[y + 1, x + 1]] + slant);
                }
                if x > 0 {
                    best = best.min(distance[[y + 1, x - 1]] + slant);
                }
            }
            distance[[y, x]] = best;
        }
    }
    distance
}
