//! The patient's build and pose: how a place in the image lies in the atlas.
//!
//! Every step is a pull: from a place in the patient to the place in the atlas that it looks like.

use ndarray::Array4;
use rand::{Rng, RngExt};

use super::LabelAtlas;
use super::landmarks::{Landmarks, OrganPlace, Spine};
use super::organs::{OrganShapes, normal, smooth_step};
use super::pose::{OpenMouth, Pose};
use crate::engine::graph::CloseUp;
use crate::learning::dataset::augment::rotation;
use crate::settings::Synthetic;
use crate::vocabulary::organ::Organ;

/// One patient.
pub(super) struct Build<'a> {
    atlas: &'a LabelAtlas,
    landmarks: &'a Landmarks,
    matrix: [[f64; 3]; 3],
    /// Place in the posed patient under the middle of the image, mm from the atlas's first voxel.
    centre: [f64; 3],
    bends: [Bend; 2],
    proportions: Option<Proportions>,
    pose: Option<Pose>,
    mouth: Option<OpenMouth>,
    fat: Option<Fat>,
    organs: Option<OrganShapes>,
}

impl<'a> Build<'a> {
    pub(super) fn draw(
        atlas: &'a LabelAtlas,
        close_up: Option<&CloseUp>,
        varied: &Synthetic,
        rng: &mut impl Rng,
    ) -> Self {
        let landmarks = atlas.landmarks();
        let mut even = |reach: f64| rng.random_range(-reach..=reach);
        let angles = [8.0, 6.0, 8.0].map(&mut even);
        let mut size = 1.0 + even(0.08);
        let sides: [f64; 3] = std::array::from_fn(|_| 1.0 + even(0.05));
        let reach = if close_up.is_some() { CLOSE_UP_SHIFT_MM } else { [25.0, 14.0, 12.0] };
        let shift = reach.map(&mut even);
        let bends = [Bend::draw(45.0, 2.0..=6.0, rng), Bend::draw(20.0, 0.0..=2.2, rng)];
        let is_child = rng.random_range(0.0..1.0) < 0.08;
        if varied.sizes && is_child {
            size *= rng.random_range(0.78..=0.92);
        }
        let mut matrix = rotation(angles);
        for row in &mut matrix {
            (0..3).for_each(|axis| row[axis] /= size * sides[axis]);
        }
        let looked_at = close_up
            .and_then(|close_up| close_up.middle(&centres(landmarks)))
            .unwrap_or_else(|| looked_at(atlas, landmarks, rng));
        let spine = landmarks.spine.as_ref();
        let proportions = Proportions::draw(is_child, rng);
        let pose = Pose::draw(rng);
        let mouth = OpenMouth::draw(rng);
        let fat = Fat::draw(rng);
        let proportions = (varied.sizes && spine.is_some()).then_some(proportions);
        // Organs keep their own size: an adult's eye is as large in a long face as in a short one.
        let grown = |place: [f64; 3]| -> [f64; 3] {
            let own =
                proportions.as_ref().zip(spine).map_or([0.0; 3], |(parts, spine)| parts.grown(spine, place));
            let kept = if is_child { 0.5 } else { 1.0 };
            std::array::from_fn(|a| own[a] + (size * sides[a]).ln() * kept)
        };
        let organs = OrganShapes::draw(landmarks, grown, rng);
        let mut build = Self {
            atlas,
            landmarks,
            matrix,
            centre: looked_at,
            bends,
            proportions,
            pose: (varied.pose && spine.is_some()).then_some(pose),
            mouth: mouth.filter(|_| varied.open_mouth && landmarks.jaw.is_some()),
            fat: varied.fat.then_some(fat),
            organs: varied.organ_shapes.then_some(organs),
        };
        // Wherever pose and proportions have put that place, the image looks at it.
        for _ in 0..6 {
            let found = build.straightened(build.centre);
            (0..3).for_each(|a| build.centre[a] += looked_at[a] - found[a]);
        }
        (0..3).for_each(|a| build.centre[a] += shift[a]);
        build
    }

    /// From a place in the image, mm from its middle, to voxels of the atlas, `(z, y, x)`, and the distance from the
    /// atlas's skin there, mm, negative inside.
    pub(super) fn place(&self, offset_mm: [f64; 3]) -> [f64; 4] {
        let [coarse, fine] = self.bends.each_ref().map(|bend| bend.displacement(offset_mm));
        let moved: [f64; 3] = std::array::from_fn(|a| offset_mm[a] + coarse[a] + fine[a]);
        let turned: [f64; 3] = std::array::from_fn(|a| {
            self.centre[a] + (0..3).map(|b| self.matrix[a][b] * moved[b]).sum::<f64>()
        });
        let mut place = self.straightened(turned);
        if let Some((mouth, jaw)) = self.mouth.as_ref().zip(self.landmarks.jaw.as_ref()) {
            place = mouth.pull(jaw, place);
        }
        if let Some(fat) = &self.fat {
            place = fat.pull(self.landmarks, place);
        }
        if let Some(organs) = &self.organs {
            place = organs.pull(self.landmarks, place);
        }
        let depth = self.landmarks.skin.at(place).0;
        let [z, y, x]: [f64; 3] = std::array::from_fn(|a| place[a] / self.atlas.spacing_mm[a]);
        [z, y, x, depth]
    }

    fn straightened(&self, mut place: [f64; 3]) -> [f64; 3] {
        if let Some(spine) = &self.landmarks.spine {
            if let Some(proportions) = &self.proportions {
                place = proportions.pull(spine, place);
            }
            if let Some(pose) = &self.pose {
                place = pose.pull(spine, place);
            }
        }
        place
    }
}

/// How far the window of a close-up may be from where it belongs, mm.
const CLOSE_UP_SHIFT_MM: [f64; 3] = [12.0, 10.0, 10.0];

/// Middles of all organs, mm.
fn centres(landmarks: &Landmarks) -> Vec<(Organ, [f64; 3])> {
    let centre = |organ| Some((organ, landmarks.organ(organ)?.centre));
    Organ::ALL.into_iter().filter_map(centre).collect()
}

/// The middle of the patient at the height of a random slice of a random organ, mm.
fn looked_at(atlas: &LabelAtlas, landmarks: &Landmarks, rng: &mut impl Rng) -> [f64; 3] {
    let sides: [usize; 3] = atlas.labels.dim().into();
    let mut at: [f64; 3] = std::array::from_fn(|a| (sides[a] as f64 - 1.0) / 2.0 * atlas.spacing_mm[a]);
    let there: Vec<&OrganPlace> = landmarks.organs.iter().flatten().collect();
    if !there.is_empty() {
        let (first, last) = there[rng.random_range(0..there.len())].slices;
        let z = rng.random_range(first..=last);
        at[0] = z as f64 * atlas.spacing_mm[0];
        if let Some([y, x]) = atlas.body_middle(z) {
            (at[1], at[2]) = (y * atlas.spacing_mm[1], x * atlas.spacing_mm[2]);
        }
    }
    at
}

/// A smooth random displacement on knots.
struct Bend {
    knot_mm: f64,
    /// mm, axes (component, z, y, x), round the middle of the image.
    knots: Array4<f64>,
}

/// Knots reach this far from the middle, mm.
const BEND_REACH_MM: f64 = 210.0;

impl Bend {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a handful of knots")]
    fn draw(knot_mm: f64, amplitude_mm: std::ops::RangeInclusive<f64>, rng: &mut impl Rng) -> Self {
        let amplitude = rng.random_range(amplitude_mm);
        let n = (2.0 * BEND_REACH_MM / knot_mm).ceil() as usize + 1;
        let knots = Array4::from_shape_simple_fn((3, n, n, n), || amplitude * rng.random_range(-1.0..=1.0));
        Self { knot_mm, knots }
    }

    /// Smooth between the eight knots around.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the knots first")]
    fn displacement(&self, offset_mm: [f64; 3]) -> [f64; 3] {
        let n = self.knots.dim().1;
        let last = (n - 1) as f64;
        let at = offset_mm.map(|mm| (mm / self.knot_mm + last / 2.0).clamp(0.0, last - 1e-6));
        let low = at.map(|v| v as usize);
        let share: [f64; 3] = std::array::from_fn(|a| smooth_step(at[a] - low[a] as f64));
        let mut sum = [0.0; 3];
        for corner in 0..8_usize {
            let up: [usize; 3] = std::array::from_fn(|a| corner >> a & 1);
            let weight: f64 = (0..3).map(|a| if up[a] == 1 { share[a] } else { 1.0 - share[a] }).product();
            for (component, total) in sum.iter_mut().enumerate() {
                *total += weight * self.knots[[component, low[0] + up[0], low[1] + up[1], low[2] + up[2]]];
            }
        }
        sum
    }
}

/// Head, face and neck, and chest against each other; atlas sides per patient sides.
struct Proportions {
    /// Along the body: head, neck, chest.
    along: [f64; 3],
    /// From side to side.
    across: [f64; 3],
    /// From the spine forwards.
    ahead: [f64; 3],
    /// From the spine backwards.
    behind: [f64; 3],
}

/// From the top of the cord down: the neck ends, mm.
const NECK_MM: f64 = 110.0;
/// Above the top of the cord: the face begins, at the height of the eyes, mm.
const FACE_TOP_MM: f64 = 40.0;

/// Patient sides per atlas sides in the mean: skull, face and neck, chest. The brains of both atlases are as large as
/// patients', their faces are short and narrow: distances between brain stem, eyes, parotids, submandibular glands and
/// mandible were matched to the 20 patients of `organ_sizes` (docs/synthetic.md).
const MEAN_ALONG: [f64; 3] = [1.0, 1.12, 1.05];
const MEAN_ACROSS: [f64; 3] = [1.0, 1.16, 1.08];
const MEAN_AHEAD: [f64; 3] = [1.02, 1.24, 1.1];
const MEAN_BEHIND: [f64; 3] = [0.97, 1.06, 1.05];

impl Proportions {
    fn draw(is_child: bool, rng: &mut impl Rng) -> Self {
        // A child's head is large for its face, neck and shoulders.
        let child = if is_child { [1.0, 0.9, 0.85] } else { [1.0; 3] };
        let mut factors = |means: [f64; 3], deviations: [f64; 3]| -> [f64; 3] {
            std::array::from_fn(|n| 1.0 / (means[n] * child[n] * (deviations[n] * normal(rng)).exp()))
        };
        Self {
            along: factors(MEAN_ALONG, [0.03, 0.08, 0.06]),
            across: factors(MEAN_ACROSS, [0.03, 0.06, 0.07]),
            ahead: factors(MEAN_AHEAD, [0.03, 0.06, 0.07]),
            behind: factors(MEAN_BEHIND, [0.03, 0.07, 0.07]),
        }
    }

    /// Factors across, ahead and behind at a height above the top of the cord and a distance behind it, mm. The face
    /// hangs in front of the skull: what is further ahead belongs to it from higher up.
    fn sideways(&self, height: f64, away: f64) -> [f64; 3] {
        let to_face = smooth_step((55.0 - height + 0.8 * (-away).clamp(0.0, 60.0)) / 60.0);
        let to_chest = smooth_step((-60.0 - height) / 90.0);
        let mixed =
            |[head, neck, chest]: [f64; 3]| head + (neck - head) * to_face + (chest - neck) * to_chest;
        [mixed(self.across), mixed(self.ahead), mixed(self.behind)]
    }

    /// Logarithm of patient sides per atlas sides `(z, y, x)` at a place of the atlas.
    fn grown(&self, spine: &Spine, place: [f64; 3]) -> [f64; 3] {
        let height = place[0] - spine.top;
        let [y, _] = spine.at(place[0]);
        let along = if height > FACE_TOP_MM {
            self.along[0]
        } else if height > -NECK_MM {
            self.along[1]
        } else {
            self.along[2]
        };
        let [across, ahead, behind] = self.sideways(height, place[1] - y);
        let lengthwise = if place[1] < y { ahead } else { behind };
        [along, lengthwise, across].map(|factor| -factor.ln())
    }

    fn pull(&self, spine: &Spine, place: [f64; 3]) -> [f64; 3] {
        let height = place[0] - spine.top;
        let [head, neck, chest] = self.along;
        let (upper, lower) = (FACE_TOP_MM, -NECK_MM);
        let z = spine.top
            + if height > upper {
                (height - upper) * head + upper * neck
            } else if height > lower {
                height * neck
            } else {
                (height - lower) * chest + lower * neck
            };
        let [y, x] = spine.at(place[0]);
        let [to_y, to_x] = spine.at(z);
        let away = place[1] - y;
        let [across, ahead, behind] = self.sideways(height, away);
        // Smooth from one factor to the other across the spine.
        let lengthwise = ahead + (behind - ahead) * smooth_step((away + 15.0) / 30.0);
        [z, to_y + away * lengthwise, to_x + (place[2] - x) * across]
    }
}

/// The layer under the skin.
struct Fat {
    /// How far the skin moves outwards below the head, mm.
    growth_mm: f64,
    /// Part of it on the scalp.
    scalp: f64,
}

/// The layer that is stretched or pressed, mm below the skin, and the skin that is not.
const LAYER_MM: f64 = 12.0;
const RIGID_MM: f64 = 3.0;

impl Fat {
    fn draw(rng: &mut impl Rng) -> Self {
        let thin_or_thick = rng.random_range(-0.4..=1.0_f64);
        let growth_mm = if thin_or_thick < 0.0 { thin_or_thick * 10.0 } else { thin_or_thick.powi(2) * 14.0 };
        Self { growth_mm, scalp: rng.random_range(0.05..=0.35) }
    }

    fn pull(&self, landmarks: &Landmarks, place: [f64; 3]) -> [f64; 3] {
        let (distance, outwards) = landmarks.skin.at(place);
        if distance < -LAYER_MM {
            return place;
        }
        let below_head = landmarks
            .spine
            .as_ref()
            .map_or(1.0, |spine| 1.0 - smooth_step((place[0] - spine.top + 10.0) / 60.0));
        let grown = self.growth_mm * (self.scalp + (1.0 - self.scalp) * below_head);
        let to = if distance > grown - RIGID_MM {
            distance - grown
        } else {
            let soft = LAYER_MM - RIGID_MM;
            (distance + LAYER_MM) * soft / (soft + grown) - LAYER_MM
        };
        std::array::from_fn(|a| place[a] + (to - distance) * outwards[a])
    }
}
