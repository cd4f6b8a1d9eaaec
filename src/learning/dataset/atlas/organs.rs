//! Organs grow, shrink and shift against what is around them.

use rand::{Rng, RngExt};

use super::landmarks::Landmarks;
use super::organ_sizes::{CORD_AREA, OTHER_DEVIATION, SIDE_DEVIATION, Size, size};
use crate::vocabulary::organ::Organ;

/// Least and most factor on one side of an organ; beyond, its surroundings would fold.
const FACTORS: (f64, f64) = (0.75, 1.35);
/// The surroundings move with the organ up to this multiple of its half side.
const REACH: f64 = 1.8;
/// Largest shift, as part of the half side and in mm.
const SHIFT: (f64, f64) = (0.15, 4.0);

/// Every organ's own change.
pub(super) struct OrganShapes {
    bumps: Vec<Bump>,
    /// Factor from patient to atlas on the cord's section.
    cord: f64,
}

/// Round one organ.
struct Bump {
    centre: [f64; 3],
    reach: [f64; 3],
    /// Atlas sides per patient sides, less 1.
    stretch: [f64; 3],
    shift: [f64; 3],
}

impl OrganShapes {
    /// `grown`: logarithm of patient sides per atlas sides at a place of the atlas, by build and proportions, which an
    /// organ of known size does not follow.
    pub(super) fn draw(
        landmarks: &Landmarks,
        grown: impl Fn([f64; 3]) -> [f64; 3],
        rng: &mut impl Rng,
    ) -> Self {
        let mut bumps = Vec::new();
        // Partners vary together for the most part: this many parts of the variance are common to all organs.
        let common = normal(rng) * 0.5;
        for organ in Organ::ALL {
            let (own, sides) = (normal(rng), [normal(rng), normal(rng), normal(rng)]);
            let shifts: [f64; 3] = std::array::from_fn(|_| rng.random_range(-1.0..=1.0));
            let Some(place) = landmarks.organ(organ) else { continue };
            if matches!(organ, Organ::SpinalCord | Organ::BrachialPlexus) {
                continue;
            }
            let grown = grown(place.centre);
            let (means, deviation): ([f64; 3], f64) = match size(organ) {
                Size::Volume(mean, deviation) => {
                    let side = ((mean / place.volume_cm3).ln() - grown.iter().sum::<f64>()) / 3.0;
                    ([side; 3], deviation)
                }
                Size::Sides(sides, deviation) => {
                    (std::array::from_fn(|a| (sides[a] / (2.0 * place.half[a])).ln() - grown[a]), deviation)
                }
                // A mandible is a bow: its sides vary far less than its volume, which is its thickness.
                Size::Unknown if organ == Organ::Mandible => ([0.0; 3], 0.1),
                Size::Unknown => ([0.0; 3], OTHER_DEVIATION),
            };
            let all = deviation * (common + own * 0.87) / 3.0;
            let factor: [f64; 3] = std::array::from_fn(|a| {
                (means[a] + all + SIDE_DEVIATION * sides[a]).exp().clamp(FACTORS.0, FACTORS.1)
            });
            bumps.push(Bump {
                centre: place.centre,
                reach: place.half.map(|half| half * REACH + 1.0),
                stretch: factor.map(|factor| 1.0 / factor - 1.0),
                shift: std::array::from_fn(|a| shifts[a] * (place.half[a] * SHIFT.0).min(SHIFT.1)),
            });
        }
        // The atlas's cord has a section of about 94 mm2.
        let stretched = landmarks.organ(Organ::SpinalCord).map_or([0.0; 3], |cord| grown(cord.centre));
        let mean = (CORD_AREA.0 / 94.0_f64).ln() - stretched[1] - stretched[2];
        let section = (mean + CORD_AREA.1 * normal(rng)) / 2.0;
        Self { bumps, cord: (-section).exp().clamp(1.0 / 1.3, 1.3) }
    }

    /// Where in the atlas this place of the patient is, both mm from the atlas's first voxel.
    pub(super) fn pull(&self, landmarks: &Landmarks, mut place: [f64; 3]) -> [f64; 3] {
        for bump in &self.bumps {
            let away: [f64; 3] = std::array::from_fn(|a| place[a] - bump.centre[a]);
            if (0..3).any(|a| away[a].abs() >= bump.reach[a]) {
                continue;
            }
            let far = (0..3).map(|a| (away[a] / bump.reach[a]).powi(2)).sum::<f64>();
            if far < 1.0 {
                let weight = 1.0 - smooth_step((far.sqrt() - 0.5) / 0.5);
                for a in 0..3 {
                    place[a] += weight * (away[a] * bump.stretch[a] + bump.shift[a]);
                }
            }
        }
        if let Some(spine) = landmarks.spine.as_ref().filter(|spine| place[0] < spine.top + 10.0) {
            const RADIUS_MM: f64 = 7.0;
            let [y, x] = spine.at(place[0]);
            let away = [place[1] - y, place[2] - x];
            let far = away[0].hypot(away[1]) / (RADIUS_MM * REACH);
            if far < 1.0 {
                let weight = 1.0 - smooth_step((far - 0.5) / 0.5);
                let fade = 1.0 - smooth_step((place[0] - spine.top) / 10.0);
                place[1] += weight * fade * away[0] * (self.cord - 1.0);
                place[2] += weight * fade * away[1] * (self.cord - 1.0);
            }
        }
        place
    }
}

/// 0 below 0, 1 above 1, smooth between.
pub(super) fn smooth_step(at: f64) -> f64 {
    let at = at.clamp(0.0, 1.0);
    at * at * (3.0 - 2.0 * at)
}

/// Nearly normal, standard deviation 1, never beyond 3.5.
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    let sum: f64 = (0..4).map(|_| rng.random_range(-1.0..=1.0)).sum();
    sum * 0.75_f64.sqrt()
}
