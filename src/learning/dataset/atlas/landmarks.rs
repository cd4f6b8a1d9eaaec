//! Where things are in an atlas: what deformations turn about, found in the labels.

use ndarray::{Array3, Axis};

use super::LabelAtlas;
use super::skin::Skin;
use crate::vocabulary::organ::Organ;

/// Tissue number of teeth.
pub(super) const TOOTH: u8 = 8;

/// Places in an atlas, mm from its first voxel, `(z, y, x)`.
#[derive(Debug, Clone)]
pub(super) struct Landmarks {
    /// By organ index; `None` where the atlas lacks it.
    pub(super) organs: Vec<Option<OrganPlace>>,
    /// Where head and neck turn; `None` without a cord.
    pub(super) spine: Option<Spine>,
    /// Where the mouth opens; `None` without mandible or joints.
    pub(super) jaw: Option<Jaw>,
    /// The heads of the mandible.
    pub(super) condyles: Vec<Condyle>,
    /// Signed distance to the skin.
    pub(super) skin: Skin,
}

/// Bone inside a joint's label that patients are drawn with as mandible too.
#[derive(Debug, Clone)]
pub(super) struct Condyle {
    /// First voxel of the box that `voxels` fill.
    start: [usize; 3],
    voxels: Array3<bool>,
}

/// One organ's box and volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrganPlace {
    /// Middle of its box, mm.
    pub(super) centre: [f64; 3],
    /// Half the sides of its box, mm.
    pub(super) half: [f64; 3],
    /// Volume, cm3.
    pub(super) volume_cm3: f64,
    /// First and last slice.
    pub(super) slices: (usize, usize),
}

/// The spinal cord's course.
#[derive(Debug, Clone)]
pub(super) struct Spine {
    /// Row and column of the cord in every slice of the atlas, mm; beyond its ends those of the end.
    pub(super) line: Vec<[f64; 2]>,
    /// Height of the cord's upper end: where the skull begins, mm.
    pub(super) top: f64,
    /// Distance of the slices, mm.
    pub(super) slice: f64,
}

impl Spine {
    /// Row and column at a height, mm.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the slices first"
    )]
    pub(super) fn at(&self, z: f64) -> [f64; 2] {
        let last = (self.line.len() - 1) as f64;
        let place = (z / self.slice).clamp(0.0, last);
        let low = place.floor() as usize;
        let (a, b) = (self.line[low], self.line[(low + 1).min(self.line.len() - 1)]);
        let share = place - low as f64;
        [a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])]
    }
}

/// The hinge of the mandible.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jaw {
    /// Height and row of the axis through both joints, mm.
    pub(super) axis: [f64; 2],
    /// Column half way between the joints, mm.
    pub(super) middle: f64,
    /// Direction from the axis to between the teeth, degrees up from straight ahead.
    pub(super) bite_deg: f64,
    /// From the axis to the chin, mm.
    pub(super) reach: f64,
    /// From the middle to the widest place of the mandible, mm.
    pub(super) half_width: f64,
}

impl Landmarks {
    /// Looks through a whole atlas.
    pub(super) fn of(atlas: &LabelAtlas) -> Self {
        let organs = organs(&atlas.labels, atlas.spacing_mm);
        let jaw = jaw(&organs);
        let condyles =
            [Organ::TmjL, Organ::TmjR].into_iter().filter_map(|joint| condyle(atlas, joint)).collect();
        Self { spine: spine(atlas), jaw, condyles, skin: Skin::of(atlas), organs }
    }

    /// Whether a voxel of a joint is the head of the mandible.
    pub(super) fn is_condyle(&self, voxel: [usize; 3]) -> bool {
        self.condyles.iter().any(|condyle| {
            let at: [usize; 3] = std::array::from_fn(|a| voxel[a].wrapping_sub(condyle.start[a]));
            condyle.voxels.get(at) == Some(&true)
        })
    }

    /// The organ's place.
    pub(super) fn organ(&self, organ: Organ) -> Option<&OrganPlace> {
        self.organs[organ.index()].as_ref()
    }
}

fn organs(labels: &Array3<u8>, spacing: [f64; 3]) -> Vec<Option<OrganPlace>> {
    let mut found = vec![([usize::MAX; 3], [0; 3], 0_usize); Organ::COUNT];
    for ((z, y, x), label) in labels.indexed_iter().filter(|(_, label)| **label != 0) {
        let Some(organ) = Organ::from_class(usize::from(*label)) else { continue };
        let (low, high, n) = &mut found[organ.index()];
        for (axis, index) in [z, y, x].into_iter().enumerate() {
            low[axis] = low[axis].min(index);
            high[axis] = high[axis].max(index);
        }
        *n += 1;
    }
    let place = |(low, high, n): ([usize; 3], [usize; 3], usize)| {
        (n > 0).then(|| OrganPlace {
            centre: std::array::from_fn(|a| (low[a] + high[a]) as f64 / 2.0 * spacing[a]),
            half: std::array::from_fn(|a| (high[a] - low[a] + 1) as f64 / 2.0 * spacing[a]),
            volume_cm3: n as f64 * spacing.iter().product::<f64>() / 1000.0,
            slices: (low[0], high[0]),
        })
    };
    found.into_iter().map(place).collect()
}

/// Mean row and column of a label in a plane, voxels.
pub(super) fn middle_of(labels: &Array3<u8>, z: usize, label: u8) -> Option<[f64; 2]> {
    let plane = labels.index_axis(Axis(0), z);
    let (mut n, mut sum) = (0.0, [0.0; 2]);
    for ((y, x), _) in plane.indexed_iter().filter(|(_, found)| **found == label) {
        n += 1.0;
        sum = [sum[0] + y as f64, sum[1] + x as f64];
    }
    (n > 0.0).then(|| sum.map(|sum| sum / n))
}

fn spine(atlas: &LabelAtlas) -> Option<Spine> {
    let cord = u8::try_from(Organ::SpinalCord.class()).ok()?;
    let [slice, row, column] = atlas.spacing_mm;
    let found: Vec<Option<[f64; 2]>> =
        (0..atlas.labels.dim().0).map(|z| middle_of(&atlas.labels, z, cord)).collect();
    let top = found.iter().rposition(Option::is_some)?;
    let mut line = Vec::with_capacity(found.len());
    let mut last = found.iter().flatten().next().copied()?;
    for place in &found {
        last = place.unwrap_or(last);
        line.push([last[0] * row, last[1] * column]);
    }
    Some(Spine { line, top: top as f64 * slice, slice })
}

/// The joints of the atlases are the top of the condyle and 3.2 mm round it, so bone that deep inside is the condyle.
#[expect(clippy::cast_possible_truncation, reason = "a few voxels")]
fn condyle(atlas: &LabelAtlas, joint: Organ) -> Option<Condyle> {
    const ROUND_MM: f64 = 3.2;
    const BONE: [u8; 2] = [6, 7];
    let (joint, mandible) = (u8::try_from(joint.class()).ok()?, u8::try_from(Organ::Mandible.class()).ok()?);
    let mut places = atlas.labels.indexed_iter().filter(|(_, label)| **label == joint).map(|(at, _)| at);
    let first = places.next()?;
    let mut start = [first.0, first.1, first.2];
    let mut end = start;
    for (z, y, x) in places {
        for (a, index) in [z, y, x].into_iter().enumerate() {
            start[a] = start[a].min(index);
            end[a] = end[a].max(index);
        }
    }
    let reach = atlas.spacing_mm.map(|mm| (ROUND_MM / mm).round().max(1.0) as isize);
    let is_deep = |at: [usize; 3]| {
        (0..6).all(|side| {
            let mut there = at;
            let way = reach[side / 2] * if side % 2 == 0 { 1 } else { -1 };
            there[side / 2] = there[side / 2].wrapping_add_signed(way);
            atlas.labels.get(there).is_some_and(|label| *label == joint || *label == mandible)
        })
    };
    let sides: [usize; 3] = std::array::from_fn(|a| end[a] + 1 - start[a]);
    let voxels = Array3::from_shape_fn(sides, |(z, y, x)| {
        let at = [start[0] + z, start[1] + y, start[2] + x];
        atlas.labels[at] == joint && BONE.contains(&atlas.tissues[at]) && is_deep(at)
    });
    Some(Condyle { start, voxels })
}

fn jaw(organs: &[Option<OrganPlace>]) -> Option<Jaw> {
    let place = |organ: Organ| organs[organ.index()].as_ref();
    let (left, right) = (place(Organ::TmjL)?, place(Organ::TmjR)?);
    let (mandible, mouth) = (place(Organ::Mandible)?, place(Organ::OralCavity)?);
    let axis = [0, 1].map(|a| (left.centre[a] + right.centre[a]) / 2.0);
    let middle = (left.centre[2] + right.centre[2]) / 2.0;
    // The oral cavity ends at the hard palate; between the teeth is about a centimetre lower.
    let bite = [mouth.centre[0] + mouth.half[0] - 10.0, mouth.centre[1]];
    let ahead = axis[1] - bite[1];
    let chin = [
        axis[0] - (mandible.centre[0] - mandible.half[0]),
        axis[1] - (mandible.centre[1] - mandible.half[1]),
    ];
    (ahead > 10.0).then(|| Jaw {
        axis,
        middle,
        bite_deg: (bite[0] - axis[0]).atan2(ahead).to_degrees(),
        reach: chin[0].hypot(chin[1]),
        half_width: mandible.half[2],
    })
}
