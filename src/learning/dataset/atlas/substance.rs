//! What a patient's tissues look like: HU by tissue, contrast agent, texture.

use rand::{Rng, RngExt};

use super::N_TISSUES;
use super::organs::normal;
use crate::settings::Synthetic;

/// HU of one patient.
pub(super) struct Substance {
    /// By tissue.
    hu: [f32; N_TISSUES],
    /// Largest part of the texture, HU by tissue.
    texture: [f32; N_TISSUES],
    tile: Tile,
    /// Air inside is fluid where the coarse texture is above this.
    fluid_above: f32,
    /// Teeth are gone where it is above this.
    lost_above: f32,
    /// Fat deeper than this, mm from the skin as a negative number, is muscle ...
    lean_below: f32,
    /// ... where the coarse texture is above this.
    lean_above: f32,
}

/// Tissue numbers.
const INNER_AIR: usize = 1;
const FAT: usize = 3;
const MUSCLE: usize = 5;
const SOFT: usize = 19;
/// Never reached by a texture.
const NEVER: f32 = 1e3;
/// How much coarser fluid and gaps between teeth are than the texture of tissues.
const COARSER: f32 = 0.3;

impl Substance {
    pub(super) fn draw(table: &[(f64, f64); N_TISSUES], varied: &Synthetic, rng: &mut impl Rng) -> Self {
        let common = rng.random_range(-12.0..=12.0);
        let mut hu: [f64; N_TISSUES] = std::array::from_fn(|tissue| {
            let (mean, deviation) = table[tissue];
            let reach = (deviation * 0.8).clamp(10.0, 180.0);
            let own = rng.random_range(-reach..=reach);
            if tissue == 0 { -1000.0 } else { mean + common + own }
        });
        // Bone moves as one: the tube's voltage and the patient's age.
        let bone = rng.random_range(0.8..=1.2);
        for tissue in [6, 7, 8, 20] {
            hu[tissue] = (hu[tissue] - 60.0) * bone + 60.0;
        }
        let dose = rng.random_range(-0.5..=1.0_f64).max(0.0);
        let mut texture = [0.0; N_TISSUES];
        if varied.contrast {
            for (tissue, most) in CONTRAST_HU {
                hu[tissue] += dose * most * rng.random_range(0.6..=1.0);
            }
            for (tissue, most) in TEXTURE_HU {
                texture[tissue] = most * rng.random_range(0.0..=1.0_f32);
            }
        }
        let fluid = [NEVER, NEVER, 1.6, 1.1][rng.random_range(0..4_usize)];
        let lost = [NEVER, NEVER, NEVER, NEVER, 0.8, 0.3, 0.0, -NEVER][rng.random_range(0..8_usize)];
        let (fluid_above, lost_above) = if varied.disease { (fluid, lost) } else { (NEVER, NEVER) };
        // The atlases' muscles are incomplete; between those of a lean patient there is hardly any fat.
        let lean_below = rng.random_range(-14.0..=-3.0_f32);
        let lean_above = rng.random_range(-2.0..=1.5_f32);
        let tile = Tile::draw(rng);
        let lean_above = if varied.fat { lean_above } else { NEVER };
        Self { hu: hu.map(single), texture, tile, fluid_above, lost_above, lean_below, lean_above }
    }

    /// HU of a tissue at a place of the atlas, voxels, and its distance from the skin, mm.
    pub(super) fn at(&self, tissue: u8, [z, y, x, depth]: [f32; 4]) -> f32 {
        let place = [z, y, x];
        let coarse = || self.tile.at(place.map(|v| v * COARSER));
        let tissue = match usize::from(tissue) {
            INNER_AIR if self.fluid_above < NEVER && coarse() > self.fluid_above => SOFT,
            8 if self.lost_above < NEVER && coarse() > self.lost_above => SOFT,
            FAT if depth < self.lean_below && coarse() > self.lean_above => MUSCLE,
            tissue => tissue,
        };
        let texture = self.texture[tissue];
        self.hu[tissue] + if texture > 0.0 { texture * self.tile.at(place) } else { 0.0 }
    }
}

/// Enhancement at full dose: typical values of a scan about a minute after the injection.
const CONTRAST_HU: [(usize, f64); 8] =
    [(5, 10.0), (12, 30.0), (13, 50.0), (14, 70.0), (15, 170.0), (18, 5.0), (19, 45.0), (10, 4.0)];

/// Texture: strands of fat in muscle and parotid, marrow, air cells, vessels in fat.
const TEXTURE_HU: [(usize, f32); 9] =
    [(2, 80.0), (3, 25.0), (5, 30.0), (7, 150.0), (10, 6.0), (12, 40.0), (13, 20.0), (19, 25.0), (20, 300.0)];

const SIDE: usize = 32;

/// A cube of smooth noise that goes on for ever.
struct Tile {
    values: Vec<f32>,
    /// Cells per voxel of the atlas.
    pace: f32,
}

impl Tile {
    fn draw(rng: &mut impl Rng) -> Self {
        let mut values: Vec<f32> = (0..SIDE * SIDE * SIDE).map(|_| single(normal(rng) * 0.8)).collect();
        for stride in [1, SIDE, SIDE * SIDE] {
            let before = values.clone();
            let n = values.len();
            for (i, value) in values.iter_mut().enumerate() {
                // Along x and y this crosses into the next row; noise does not mind.
                *value = (before[(i + n - stride) % n] + before[i] + before[(i + stride) % n]) * 0.58;
            }
        }
        Self { values, pace: single(rng.random_range(0.25..=0.7)) }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "wrapped round")]
    fn at(&self, place: [f32; 3]) -> f32 {
        let cell = place.map(|v| ((v + 512.0).max(0.0) * self.pace) as usize % SIDE);
        self.values[(cell[0] * SIDE + cell[1]) * SIDE + cell[2]]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
pub(super) fn single(value: f64) -> f32 {
    value as f32
}
