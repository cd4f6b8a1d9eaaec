//! One random look at a patient on the network's grid.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Axis};
use rand::{Rng, RngExt};

use super::elastic::Bend;
use super::{Case, OrganSet};
use crate::engine::graph::{CloseUp, Preset};
use crate::vocabulary::organ::Organ;

/// What the network trains on: an image with its masks on the network's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What messages call it.
    pub name: String,
    /// `2 (hu + 1024) / 4100 - 1`, axes `(z, y, x)`, sides multiples of 16; -1 outside the patient.
    pub image: Array3<f32>,
    /// Per voxel the bits of an [`OrganSet`], axes and shape of `image`.
    pub organs: Array3<u32>,
    /// Organs whose absence from `organs` means absence from the image.
    pub annotated: OrganSet,
}

/// How far a look may be from the patient as scanned. All distances are drawn evenly from `-x..=x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AugmentSettings {
    /// Probability that the patient is turned, scaled and bent at all; shift, mirror and values do not depend on it.
    pub share: f64,
    /// Rotation about z, and half of it about x and y, degrees.
    pub rotation_deg: f64,
    /// Relative change of size, the same for all axes, and a third of it per axis on top.
    pub scaling: f64,
    /// Shift of the crop `(z, y, x)`, mm.
    pub shift_mm: [f64; 3],
    /// Largest length of each of three waves that bend the patient, mm; their wavelengths are 80 to 240 mm.
    pub elastic_mm: f64,
    /// Standard deviation of a smooth noise that moves points within axial planes, and with probability one half each
    /// within sagittal and within coronal ones, mm.
    pub plane_elastic_mm: f64,
    /// Standard deviation of the Gaussian that smooths it, mm.
    pub plane_elastic_smoothness_mm: f64,
    /// Probability of a left-right mirror image with partners swapped.
    pub mirror: f64,
    /// Shift of all HU.
    pub shift_hu: f64,
    /// Largest standard deviation of white noise, HU.
    pub noise_hu: f64,
}

impl AugmentSettings {
    /// No change at all.
    pub const NONE: Self = Self {
        share: 1.0,
        rotation_deg: 0.0,
        scaling: 0.0,
        shift_mm: [0.0; 3],
        elastic_mm: 0.0,
        plane_elastic_mm: 0.0,
        plane_elastic_smoothness_mm: 0.0,
        mirror: 0.0,
        shift_hu: 0.0,
        noise_hu: 0.0,
    };
}

/// The grid of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleGrid<'a> {
    /// Spacing `(z, y, x)`, mm.
    pub spacing_mm: [f64; 3],
    /// Voxels on each axis; of a whole case at most so many.
    pub shape: [usize; 3],
    /// The window where it belongs, and the organs to keep, for a network that is not for whole scans.
    pub close_up: Option<&'a CloseUp>,
}

impl<'a> SampleGrid<'a> {
    /// The grid of a network for whole scans and all organs.
    #[must_use]
    pub fn whole(spacing_mm: [f64; 3], shape: [usize; 3]) -> Self {
        Self { spacing_mm, shape, close_up: None }
    }

    /// The grid of a preset's samples of this shape.
    #[must_use]
    pub fn of(preset: &'a Preset, shape: [usize; 3]) -> Self {
        Self { spacing_mm: preset.spacing_mm, shape, close_up: preset.close_up.as_ref() }
    }
}

/// Draws a crop of a case.
///
/// In plane the crop lies on the patient's middle, in z on a random voxel height of one annotated organ, so that
/// organs that few cases have are seen as often as those that all have; a close-up's lies where its organs say, and all
/// other organs count as annotated and absent. Image linear, masks nearest.
pub fn draw_sample(
    case: &Case,
    grid: SampleGrid<'_>,
    settings: &AugmentSettings,
    rng: &mut impl Rng,
) -> Sample {
    let mut view = View::draw(case, settings, rng);
    if let Some(middle) = grid.close_up.and_then(|close_up| middle_of(close_up, case)) {
        let spacing = case.grid.spacing_mm();
        view.centre = std::array::from_fn(|a| (middle[a] + view.shift_mm[a]) / spacing[a]);
    }
    let mut sample = view.look(case, grid.spacing_mm, grid.shape);
    if let Some(close_up) = grid.close_up {
        sample.keep(organs_of(close_up));
        sample.annotated = sample.annotated.union(organs_of(close_up).complement());
    }
    jitter_intensity(&mut sample.image, settings, rng);
    sample
}

/// The whole case on the network's grid, padded with air to multiples of 16; of more voxels on an axis than the grid has
/// the top-most slices and the middle of rows and columns are kept. A close-up's window where its organs say.
#[must_use]
pub fn whole_sample(case: &Case, grid: SampleGrid<'_>) -> Sample {
    let SampleGrid { spacing_mm, shape: largest, close_up } = grid;
    let matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let view = |centre| View { matrix, bend: Bend::NONE, centre, shift_mm: [0.0; 3], mirrored: false };
    let sides = case.grid.shape();
    let source_mm = case.grid.spacing_mm();
    let shape: [usize; 3] = std::array::from_fn(|axis| {
        let voxels = index((sides[axis] as f64 * source_mm[axis] / spacing_mm[axis]).ceil());
        (voxels.div_ceil(16) * 16).clamp(16, largest[axis])
    });
    let mut centre = sides.map(|side| (side as f64 - 1.0) / 2.0);
    let excess_mm = sides[0] as f64 * source_mm[0] - shape[0] as f64 * spacing_mm[0];
    centre[0] += (excess_mm / 2.0 / source_mm[0]).max(0.0);
    let Some(close_up) = close_up else { return view(centre).look(case, spacing_mm, shape) };
    if let Some(middle) = middle_of(close_up, case) {
        centre = std::array::from_fn(|a| middle[a] / source_mm[a]);
    }
    let mut sample = view(centre).look(case, spacing_mm, close_up.window);
    sample.keep(organs_of(close_up));
    sample
}

impl Sample {
    fn keep(&mut self, own: OrganSet) {
        self.organs.mapv_inplace(|bits| bits & own.bits());
        self.annotated = self.annotated.intersection(own);
    }
}

/// The organs of a close-up.
pub(super) fn organs_of(close_up: &CloseUp) -> OrganSet {
    close_up.organs.iter().fold(OrganSet::EMPTY, |set, (organ, _)| set.union(OrganSet::of(*organ)))
}

/// Where a close-up's window belongs in a case, mm from its first voxel; `None` without any of its organs.
fn middle_of(close_up: &CloseUp, case: &Case) -> Option<[f64; 3]> {
    let spacing = case.grid.spacing_mm();
    let mut boxes = std::collections::BTreeMap::new();
    let own = organs_of(close_up).intersection(case.annotated);
    for ((z, y, x), bits) in case.organs.indexed_iter().filter(|(_, bits)| **bits & own.bits() != 0) {
        for organ in OrganSet::from_bits(*bits & own.bits()).iter() {
            let (low, high) = boxes.entry(organ).or_insert(([usize::MAX; 3], [0; 3]));
            for (axis, at) in [z, y, x].into_iter().enumerate() {
                low[axis] = at.min(low[axis]);
                high[axis] = at.max(high[axis]);
            }
        }
    }
    let middle = |(low, high): ([usize; 3], [usize; 3])| -> [f64; 3] {
        std::array::from_fn(|a| (low[a] + high[a]) as f64 / 2.0 * spacing[a])
    };
    let found: Vec<_> = boxes.into_iter().map(|(organ, sides)| (organ, middle(sides))).collect();
    close_up.middle(&found)
}

/// How the network's grid lies on the case: `source mm = rotation (network mm)`, both from their centres.
struct View {
    /// Rows of the matrix, `(z, y, x)`; scaling and mirror included.
    matrix: [[f64; 3]; 3],
    /// What bends the crop before it is turned.
    bend: Bend,
    /// Voxel of the case under the middle of the crop, `(z, y, x)`.
    centre: [f64; 3],
    /// How far that is from where the crop belongs, mm.
    shift_mm: [f64; 3],
    mirrored: bool,
}

impl View {
    fn draw(case: &Case, settings: &AugmentSettings, rng: &mut impl Rng) -> Self {
        let plain = settings.share < 1.0 && rng.random_range(0.0..1.0) >= settings.share;
        let form = if plain { &AugmentSettings::NONE } else { settings };
        let mut even = |reach: f64| if reach > 0.0 { rng.random_range(-reach..=reach) } else { 0.0 };
        let angles = [form.rotation_deg, form.rotation_deg / 2.0, form.rotation_deg / 2.0].map(&mut even);
        let common = 1.0 + even(form.scaling);
        let scale: [f64; 3] = std::array::from_fn(|_| common + even(form.scaling / 3.0));
        let shift = settings.shift_mm.map(&mut even);
        let mirrored = rng.random_range(0.0..1.0) < settings.mirror;
        let mut matrix = rotation(angles);
        for row in &mut matrix {
            for (axis, entry) in row.iter_mut().enumerate() {
                *entry *= scale[axis];
            }
        }
        if mirrored {
            matrix[2] = matrix[2].map(|entry| -entry);
        }
        let spacing = case.grid.spacing_mm();
        let mut centre = case.grid.shape().map(|side| (side as f64 - 1.0) / 2.0);
        if let Some(height) = height_of_one_organ(case, rng) {
            centre[0] = height;
        }
        for axis in 0..3 {
            centre[axis] += shift[axis] / spacing[axis];
        }
        Self { matrix, bend: Bend::draw(form, rng), centre, shift_mm: shift, mirrored }
    }

    fn look(&self, case: &Case, spacing_mm: [f64; 3], shape: [usize; 3]) -> Sample {
        let source_mm = case.grid.spacing_mm();
        let middle = shape.map(|side| (side as f64 - 1.0) / 2.0);
        let bend = self.bend.on_grid(spacing_mm, shape);
        let mut image = Array3::from_elem(shape, -1.0_f32);
        let mut organs = Array3::zeros(shape);
        image.axis_iter_mut(Axis(0)).into_par_iter().zip(organs.axis_iter_mut(Axis(0))).enumerate().for_each(
            |(z, (mut plane, mut labels))| {
                for ((y, x), value) in plane.indexed_iter_mut() {
                    let offset: [f64; 3] =
                        std::array::from_fn(|a| ([z, y, x][a] as f64 - middle[a]) * spacing_mm[a]);
                    let offset = bend.moved(offset, [z, y, x]);
                    let at: [f64; 3] = std::array::from_fn(|a| {
                        let mm: f64 = (0..3).map(|b| self.matrix[a][b] * offset[b]).sum();
                        self.centre[a] + mm / source_mm[a]
                    });
                    if let Some(voxel) = nearest(at, case.organs.dim()) {
                        labels[[y, x]] = case.organs[voxel];
                        *value = normalised(linear(&case.hu, at));
                    }
                }
            },
        );
        let mut annotated = case.annotated;
        if self.mirrored {
            organs.mapv_inplace(|bits| OrganSet::from_bits(bits).mirrored().bits());
            annotated = annotated.mirrored();
        }
        Sample { name: case.name.clone(), image, organs, annotated }
    }
}

/// `2 (hu + 1024) / 4100 - 1`; source: Tang et al. 2019, Methods.
pub(crate) fn normalised(hu: f32) -> f32 {
    2.0 * (hu + 1024.0) / 4100.0 - 1.0
}

/// Slice index of a random voxel height of one annotated organ, `None` without any.
fn height_of_one_organ(case: &Case, rng: &mut impl Rng) -> Option<f64> {
    let organs: Vec<Organ> = case.annotated.iter().collect();
    if organs.is_empty() {
        return None;
    }
    let bit = OrganSet::of(organs[rng.random_range(0..organs.len())]).bits();
    let heights: Vec<usize> = (0..case.organs.dim().0)
        .filter(|z| case.organs.index_axis(Axis(0), *z).iter().any(|voxel| voxel & bit != 0))
        .collect();
    (!heights.is_empty()).then(|| heights[rng.random_range(0..heights.len())] as f64)
}

/// Rotation about z, y and x in turn, matrix in `(z, y, x)` order.
pub(super) fn rotation([about_z, about_y, about_x]: [f64; 3]) -> [[f64; 3]; 3] {
    let (sz, cz) = about_z.to_radians().sin_cos();
    let (sy, cy) = about_y.to_radians().sin_cos();
    let (sx, cx) = about_x.to_radians().sin_cos();
    let rz = [[1.0, 0.0, 0.0], [0.0, cz, sz], [0.0, -sz, cz]];
    let ry = [[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]];
    let rx = [[cx, sx, 0.0], [-sx, cx, 0.0], [0.0, 0.0, 1.0]];
    product(rz, product(ry, rx))
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

/// The voxel whose centre is nearest, `None` outside the volume.
pub(super) fn nearest(at: [f64; 3], (d, h, w): (usize, usize, usize)) -> Option<[usize; 3]> {
    let mut voxel = [0; 3];
    for (axis, side) in [d, h, w].into_iter().enumerate() {
        let rounded = at[axis].round();
        if rounded < 0.0 || rounded >= side as f64 {
            return None;
        }
        voxel[axis] = index(rounded);
    }
    Some(voxel)
}

/// Linear between the eight neighbours; the border value goes on for half a voxel.
fn linear(hu: &Array3<i16>, at: [f64; 3]) -> f32 {
    let (d, h, w) = hu.dim();
    let sides = [d, h, w];
    let low: [usize; 3] = std::array::from_fn(|a| index(at[a].max(0.0)).min(sides[a] - 1));
    let high: [usize; 3] = std::array::from_fn(|a| (low[a] + 1).min(sides[a] - 1));
    let share: [f32; 3] = std::array::from_fn(|a| single((at[a] - low[a] as f64).clamp(0.0, 1.0)));
    let value = |z: usize, y: usize, x: usize| f32::from(hu[[z, y, x]]);
    let row = |z: usize, y: usize| value(z, y, low[2]) * (1.0 - share[2]) + value(z, y, high[2]) * share[2];
    let plane = |z: usize| row(z, low[1]) * (1.0 - share[1]) + row(z, high[1]) * share[1];
    plane(low[0]) * (1.0 - share[0]) + plane(high[0]) * share[0]
}

/// Shifts the patient's values and adds noise; air outside stays air.
fn jitter_intensity(image: &mut Array3<f32>, settings: &AugmentSettings, rng: &mut impl Rng) {
    if settings.shift_hu <= 0.0 && settings.noise_hu <= 0.0 {
        return;
    }
    let shift = rng.random_range(-1.0..=1.0) * settings.shift_hu;
    let spread = rng.random_range(0.0..=1.0) * settings.noise_hu;
    for value in image.iter_mut().filter(|v| **v > -0.95) {
        // The sum of three even draws is near enough to a normal one; its standard deviation is 1.
        let noise: f64 = (0..3).map(|_| rng.random_range(-1.0..=1.0)).sum();
        *value = (*value + single((shift + spread * noise) * 2.0 / 4100.0)).clamp(-1.0, 1.0);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
pub(super) fn single(value: f64) -> f32 {
    value as f32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "callers pass indices of a volume"
)]
fn index(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::vocabulary::space::{Grid, PatientPoint};

    fn case() -> Case {
        let mut organs = Array3::zeros((5, 7, 11));
        organs[[2, 3, 8]] = OrganSet::of(Organ::ParotidL).bits();
        let hu = Array3::from_shape_fn((5, 7, 11), |(z, y, x)| i16::try_from(100 * z + 10 * y + x).unwrap());
        let grid = Grid::axial([5, 7, 11], [3.0, 1.0, 2.0], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        Case { name: "tiny".into(), hu, organs, annotated: OrganSet::of(Organ::ParotidL), grid }
    }

    /// The organ's slice, 2, is also the middle, so nothing moves; voxels outside stay air.
    #[test]
    fn a_look_without_change_is_the_case_itself() {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(3);
        let sample = draw_sample(
            &case(),
            SampleGrid::whole([3.0, 1.0, 2.0], [5, 7, 13]),
            &AugmentSettings::NONE,
            &mut rng,
        );
        assert!((sample.image[[1, 2, 4]] - normalised(123.0)).abs() < 1e-6);
        assert_eq!(sample.organs[[2, 3, 9]], OrganSet::of(Organ::ParotidL).bits());
        assert!((sample.image[[1, 2, 0]] + 1.0).abs() < 1e-6);
    }

    /// At half the spacing, voxel 5 of 13 lies 0.5 source voxels left of the middle 5: 4.5 of the source.
    #[test]
    fn a_finer_grid_is_interpolated_linearly() {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(3);
        let sample = draw_sample(
            &case(),
            SampleGrid::whole([3.0, 1.0, 1.0], [5, 7, 13]),
            &AugmentSettings::NONE,
            &mut rng,
        );
        assert!((sample.image[[1, 2, 5]] - normalised(124.5)).abs() < 1e-6);
    }

    /// 5 x 7 x 11 voxels of 3 x 1 x 2 mm at 0.9, 1, 1 mm: 16.7, 7, 22 voxels: 32, 16, 32; 16 slices keep the top 14.4 mm.
    #[test]
    fn a_whole_case_is_padded_or_keeps_its_top() {
        let whole = whole_sample(&case(), SampleGrid::whole([0.9, 1.0, 1.0], [64, 64, 64]));
        assert_eq!(whole.image.dim(), (32, 16, 32));
        let top = whole_sample(&case(), SampleGrid::whole([0.9, 1.0, 1.0], [16, 64, 64]));
        assert_eq!(top.image.dim(), (16, 16, 32));
        // The highest source slice, 4, spans the last 3 mm: slices 13, 14 and 15.
        let middle = |z: usize| top.image[[z, 8, 16]];
        assert!(
            (middle(15) - normalised(435.0 + 0.0)).abs() < 0.02 && middle(0) < middle(15),
            "{}",
            middle(15)
        );
    }

    #[test]
    fn a_mirror_image_swaps_the_partners() {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(3);
        let settings = AugmentSettings { mirror: 1.0, ..AugmentSettings::NONE };
        let sample =
            draw_sample(&case(), SampleGrid::whole([3.0, 1.0, 2.0], [5, 7, 11]), &settings, &mut rng);
        assert_eq!(sample.organs[[2, 3, 2]], OrganSet::of(Organ::ParotidR).bits());
        assert_eq!(sample.annotated, OrganSet::of(Organ::ParotidR));
        assert!((sample.image[[1, 2, 0]] - normalised(130.0)).abs() < 1e-6);
    }

    /// An eye whose middle is voxel (20, 10, 30) of 3 x 1 x 2 mm, a parotid beside it: the window's middle lies where an
    /// eye's window has it, the parotid goes, and of what nobody drew only the other close organs stay unknown.
    #[test]
    fn a_close_up_of_a_case_lies_where_its_organs_say() {
        let shape = [40, 60, 60];
        let mut organs = Array3::zeros(shape);
        for z in 18..=22 {
            organs[[z, 10, 30]] = OrganSet::of(Organ::EyeL).bits();
        }
        organs[[20, 11, 30]] = OrganSet::of(Organ::ParotidL).bits();
        let annotated = OrganSet::of(Organ::EyeL).union(OrganSet::of(Organ::ParotidL));
        let grid = Grid::axial(shape, [3.0, 1.0, 2.0], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        let case = Case { name: "eye".into(), hu: Array3::zeros(shape), organs, annotated, grid };
        let preset = Preset::close_up();
        let on = SampleGrid::of(&preset, preset.largest_input);
        let mut rng = rand_pcg::Pcg64::seed_from_u64(3);
        let trained = draw_sample(&case, on, &AugmentSettings::NONE, &mut rng);
        let whole = whole_sample(&case, on);
        // The eye's usual place is (4, -32, 27) mm from the middle, (31.5, 55.5, 63.5).
        let at = [(31.5, 4.0, 1.5), (55.5, -32.0, 1.25), (63.5, 27.0, 1.25)]
            .map(|(middle, mm, spacing): (f64, f64, f64)| (middle + mm / spacing).round() as usize);
        for sample in [&trained, &whole] {
            assert_eq!(sample.image.dim(), (64, 112, 128));
            assert_eq!(sample.organs[at], OrganSet::of(Organ::EyeL).bits(), "{at:?}");
            assert_eq!(
                sample.organs.iter().fold(0, |all, bits| all | bits),
                OrganSet::of(Organ::EyeL).bits()
            );
        }
        assert_eq!(whole.annotated, OrganSet::of(Organ::EyeL));
        let unknown = trained.annotated.complement();
        assert!(unknown.contains(Organ::EyeR) && unknown.contains(Organ::OpticChiasm));
        assert!(!unknown.contains(Organ::EyeL) && !unknown.contains(Organ::Larynx));
        assert_eq!(unknown.iter().count(), 11);
    }

    /// With a share of 0.5 about half of the looks have the patient's own form, with 0 all have.
    #[test]
    fn some_looks_keep_the_patients_form() {
        let look = |settings: &AugmentSettings, seed| {
            let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
            draw_sample(&case(), SampleGrid::whole([3.0, 1.0, 2.0], [5, 7, 11]), settings, &mut rng).image
        };
        let own = look(&AugmentSettings::NONE, 0);
        let count = |share: f64| {
            let settings = AugmentSettings { share, scaling: 0.2, ..AugmentSettings::NONE };
            (0..200).filter(|seed| look(&settings, *seed) == own).count()
        };
        assert_eq!(count(0.0), 200);
        assert!((75..=125).contains(&count(0.5)), "{}", count(0.5));
        assert_eq!(count(1.0), 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_look() {
        let settings = AugmentSettings {
            share: 0.9,
            rotation_deg: 10.0,
            scaling: 0.1,
            shift_mm: [4.0; 3],
            elastic_mm: 3.0,
            plane_elastic_mm: 2.0,
            plane_elastic_smoothness_mm: 9.0,
            mirror: 0.5,
            shift_hu: 20.0,
            noise_hu: 10.0,
        };
        let look = |seed| {
            let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
            draw_sample(&case(), SampleGrid::whole([3.0, 1.0, 2.0], [16, 16, 16]), &settings, &mut rng)
        };
        assert_eq!(look(5), look(5));
        assert_ne!(look(5), look(6));
    }
}
