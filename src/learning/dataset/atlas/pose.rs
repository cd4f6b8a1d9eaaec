//! The neck bends, the shoulders move, the mouth opens.

use rand::{Rng, RngExt};

use super::landmarks::{Jaw, Spine};
use super::organs::smooth_step;
use crate::learning::dataset::augment::rotation;

/// Head against chest.
pub(super) struct Pose {
    /// About z, y, x at the skull, degrees, as a pull.
    angles: [f64; 3],
    /// How far the left and right shoulders are up, mm.
    shoulders: [f64; 2],
}

/// Patients under a mask have the chin up against the atlases, degrees: eyes 26 mm above the brain stem's middle in the
/// mean of the 20 patients of `organ_sizes`, 4 mm below it in the atlases.
const EXTENDED_DEG: f64 = 12.0;
/// The neck bends between these heights, mm above the top of the cord.
const BENDS_MM: (f64, f64) = (-110.0, 5.0);
/// The middle of the bend.
const PIVOT_MM: f64 = -60.0;
/// How much further down the neck goes with the head per mm in front of the spine: the chin is part of the head.
const SLANT: f64 = 0.45;

impl Pose {
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        // Small angles are commoner than large ones.
        let mut angle =
            |most: f64| (rng.random_range(-1.0..=1.0) + rng.random_range(-1.0..=1.0)) * most / 2.0;
        let angles = [angle(20.0), angle(9.0), EXTENDED_DEG + angle(22.0)];
        let both = rng.random_range(-25.0..=35.0);
        let shoulders = [both + rng.random_range(-8.0..=8.0), both + rng.random_range(-8.0..=8.0)];
        Self { angles, shoulders }
    }

    pub(super) fn pull(&self, spine: &Spine, place: [f64; 3]) -> [f64; 3] {
        let mut place = place;
        let height = place[0] - spine.top;
        let [y, x] = spine.at(place[0]);
        let aside = (place[2] - x).abs();
        let up = self.shoulders[usize::from(place[2] < x)];
        place[0] -= up * smooth_step((aside - 40.0) / 80.0) * smooth_step((-45.0 - height) / 60.0);
        let slanted = height + SLANT * (y - place[1]).max(0.0);
        let share = smooth_step((slanted - BENDS_MM.0) / (BENDS_MM.1 - BENDS_MM.0));
        if share <= 0.0 {
            return place;
        }
        let pivot_z = spine.top + PIVOT_MM;
        let [pivot_y, pivot_x] = spine.at(pivot_z);
        let pivot = [pivot_z, pivot_y, pivot_x];
        let matrix = rotation(self.angles.map(|angle| angle * share));
        std::array::from_fn(|a| pivot[a] + (0..3).map(|b| matrix[a][b] * (place[b] - pivot[b])).sum::<f64>())
    }
}

/// The mandible and what hangs on it, turned about the joints.
pub(super) struct OpenMouth {
    angle_deg: f64,
}

/// Just above the bite nothing moves, degrees.
const ABOVE_DEG: f64 = 3.0;
/// Just below it everything does.
const BELOW_DEG: f64 = 7.0;
/// Straight down is the branch of the mandible; further back less and less moves.
const BACK_DEG: (f64, f64) = (-95.0, -150.0);
/// Beyond the chin and beside the cheeks the movement fades over these, mm.
const FADES_MM: (f64, f64) = (60.0, 35.0);

impl OpenMouth {
    /// `None` for a shut mouth: every second one.
    pub(super) fn draw(rng: &mut impl Rng) -> Option<Self> {
        let angle_deg = rng.random_range(0.0..=15.0);
        (rng.random_range(0..2) == 1).then_some(Self { angle_deg })
    }

    pub(super) fn pull(&self, jaw: &Jaw, place: [f64; 3]) -> [f64; 3] {
        let (ahead, up) = (jaw.axis[1] - place[1], place[0] - jaw.axis[0]);
        let far = ahead.hypot(up);
        let angle = up.atan2(ahead).to_degrees();
        let high = jaw.bite_deg + ABOVE_DEG;
        if angle >= high || angle <= BACK_DEG.1 {
            return place;
        }
        let low = jaw.bite_deg - self.angle_deg - BELOW_DEG;
        let in_front = ((high - angle) / (high - low)).clamp(0.0, 1.0);
        let behind = smooth_step((angle - BACK_DEG.1) / (BACK_DEG.0 - BACK_DEG.1));
        let beyond = 1.0 - smooth_step((far - jaw.reach) / FADES_MM.0);
        let beside = 1.0 - smooth_step(((place[2] - jaw.middle).abs() - jaw.half_width - 5.0) / FADES_MM.1);
        let turned = (angle + self.angle_deg * in_front * behind * beyond * beside).to_radians();
        [jaw.axis[0] + far * turned.sin(), jaw.axis[1] - far * turned.cos(), place[2]]
    }
}
