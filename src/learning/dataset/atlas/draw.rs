//! A patient of an atlas on the network's grid.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Axis};
use rand::{Rng, RngExt};

use super::LabelAtlas;
use super::build::Build;
use super::field::{Field, Line};
use super::masses::Masses;
use super::metal::Metal;
use super::outside::Outside;
use super::scanner::Scanner;
use super::substance::{Substance, single};
use crate::learning::dataset::augment::{normalised, organs_of};
use crate::learning::dataset::{OrganSet, Sample, SampleGrid};
use crate::settings::Synthetic;
use crate::vocabulary::organ::Organ;

/// Distance of the nodes of the deformation, mm.
const NODE_MM: f64 = 6.0;

/// Outside the patient, HU.
const AIR_HU: f32 = -1024.0;

impl LabelAtlas {
    /// Draws a patient on a grid: the same numbers from `rng`, the same
    /// patient. The grid lies about any organ's height, or about the window of a close-up, which has its organs alone.
    pub fn draw(&self, grid: SampleGrid<'_>, varied: &Synthetic, rng: &mut impl Rng) -> Sample {
        let SampleGrid { spacing_mm, shape, close_up } = grid;
        let build = Build::draw(self, close_up, varied, rng);
        let substance = Substance::draw(&self.hu, varied, rng);
        let scanner = Scanner::draw(spacing_mm, shape, varied, rng);
        let masses = Masses::draw(varied, rng);
        let metal = Metal::draw(varied, rng);
        let outside = Outside::draw(varied, rng);
        let slices = scanned_slices(shape[0], varied, rng);
        let (seed, is_mirrored) = (rng.next_u64(), rng.random_range(0..2) == 1);

        let half_mm = std::array::from_fn(|a| shape[a] as f64 * spacing_mm[a] / 2.0 + scanner.spacing_mm[a]);
        let field = Field::over(half_mm, NODE_MM, |offset_mm| build.place(offset_mm));
        let (mut hu, tissues) = self.look(&field, &substance, &scanner);
        let is_body = tissues.mapv(|tissue| tissue != 0);
        masses.apply(&mut hu, &tissues, &scanner);
        metal.apply(&mut hu, &tissues, &scanner, seed);
        outside.furnish(&mut hu, &is_body, &scanner, seed);
        scanner.develop(&mut hu, &is_body, seed);
        outside.cut(&mut hu, &is_body, &scanner, AIR_HU);
        let mut image = scanner.on_grid(hu, spacing_mm, shape);
        let mut organs = self.organs(&field, spacing_mm, shape);
        if let Some(close_up) = close_up {
            let own = organs_of(close_up);
            organs.mapv_inplace(|bits| bits & own.bits());
        }
        image.mapv_inplace(normalised);
        for z in (0..shape[0]).filter(|z| !slices.contains(z)) {
            image.index_axis_mut(Axis(0), z).fill(-1.0);
            organs.index_axis_mut(Axis(0), z).fill(0);
        }
        if is_mirrored {
            image.invert_axis(Axis(2));
            organs.invert_axis(Axis(2));
            image = image.as_standard_layout().into_owned();
            organs = organs.mapv(|bits| OrganSet::from_bits(bits).mirrored().bits());
            organs = organs.as_standard_layout().into_owned();
        }
        Sample { name: self.name.clone(), image, organs, annotated: OrganSet::ALL }
    }

    /// HU of every voxel of the scanner, without noise, and the tissue at its centre.
    fn look(&self, field: &Field, substance: &Substance, scanner: &Scanner) -> (Array3<f32>, Array3<u8>) {
        let mut hu = Array3::zeros(scanner.shape);
        let mut tissues = Array3::zeros(scanner.shape);
        let points = FOOTPRINT
            .map(|point| -> [f32; 3] { std::array::from_fn(|a| point[a] * scanner.footprint_mm[a]) });
        let planes =
            hu.axis_iter_mut(Axis(0)).into_par_iter().zip(tissues.axis_iter_mut(Axis(0))).enumerate();
        planes.for_each(|(z, (mut plane, mut tissues))| {
            let z_mm = scanner.offset_mm(0, z);
            for (y, (mut row, mut tissues)) in
                plane.outer_iter_mut().zip(tissues.outer_iter_mut()).enumerate()
            {
                let line = field.line(z_mm, scanner.offset_mm(1, y));
                for (x, (value, tissue)) in row.iter_mut().zip(tissues.iter_mut()).enumerate() {
                    let x_mm = single(scanner.offset_mm(2, x));
                    (*value, *tissue) = self.voxel(&line, x_mm, &points, substance);
                }
            }
        });
        (hu, tissues)
    }

    /// HU of a voxel: the mean over points of its footprint, few of them where they all agree.
    fn voxel(
        &self,
        line: &Line,
        x_mm: f32,
        points: &[[f32; 3]; N_POINTS],
        substance: &Substance,
    ) -> (f32, u8) {
        let spot = line.spot(x_mm);
        let at = |point: &[f32; 3]| -> [f32; 4] {
            std::array::from_fn(|i| {
                spot.place[i]
                    + point[0] * spot.slopes[0][i]
                    + point[1] * spot.slopes[1][i]
                    + point[2] * spot.slopes[2][i]
            })
        };
        let middle = self.tissue(spot.place);
        let mut sum = 0.0;
        let mut agree = true;
        for point in &points[..N_PROBES] {
            let place = at(point);
            let tissue = self.tissue(place);
            agree &= tissue == middle;
            sum += substance.at(tissue, place);
        }
        if agree {
            return (sum / N_PROBES as f32, middle);
        }
        for point in &points[N_PROBES..] {
            let place = at(point);
            sum += substance.at(self.tissue(place), place);
        }
        (sum / N_POINTS as f32, middle)
    }

    /// Organs at the centres of the network's voxels.
    fn organs(&self, field: &Field, spacing_mm: [f64; 3], shape: [usize; 3]) -> Array3<u32> {
        let bits: [u32; 256] = std::array::from_fn(|label| {
            Organ::from_class(label).map_or(0, |organ| OrganSet::of(organ).bits())
        });
        let joints = OrganSet::of(Organ::TmjL).union(OrganSet::of(Organ::TmjR)).bits();
        let mandible = OrganSet::of(Organ::Mandible).bits();
        let landmarks = self.landmarks();
        let offset_mm =
            |axis: usize, n: usize| (n as f64 - (shape[axis] as f64 - 1.0) / 2.0) * spacing_mm[axis];
        let mut organs = Array3::zeros(shape);
        organs.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(z, mut plane)| {
            for (y, mut row) in plane.outer_iter_mut().enumerate() {
                let line = field.line(offset_mm(0, z), offset_mm(1, y));
                for (x, organs) in row.iter_mut().enumerate() {
                    let label = voxel(line.place(single(offset_mm(2, x))), self.labels.dim());
                    let Some(at) = label else { continue };
                    *organs = bits[usize::from(self.labels[at])];
                    if *organs & joints != 0 && landmarks.is_condyle(at) {
                        *organs |= mandible;
                    }
                }
            }
        });
        organs
    }

    fn tissue(&self, place: [f32; 4]) -> u8 {
        voxel(place, self.tissues.dim()).map_or(0, |at| self.tissues[at])
    }
}

const N_POINTS: usize = 12;
/// The first ones lie far out on all sides.
const N_PROBES: usize = 4;

/// Points spread evenly through a box of side 1 round the middle, `(z, y, x)`: corners of two tetrahedra, then the faces.
const FOOTPRINT: [[f32; 3]; N_POINTS] = [
    [0.36, 0.36, 0.36],
    [0.36, -0.36, -0.36],
    [-0.36, 0.36, -0.36],
    [-0.36, -0.36, 0.36],
    [-0.2, -0.2, -0.2],
    [-0.2, 0.2, 0.2],
    [0.2, -0.2, 0.2],
    [0.2, 0.2, -0.2],
    [0.0, 0.45, 0.08],
    [0.08, -0.45, 0.0],
    [0.45, 0.0, -0.08],
    [-0.45, 0.08, 0.0],
];

/// The voxel whose centre is nearest, `None` outside.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked not to be negative")]
fn voxel([z, y, x, _]: [f32; 4], (d, h, w): (usize, usize, usize)) -> Option<[usize; 3]> {
    let [z, y, x] = [z, y, x].map(|v| v + 0.5);
    if z < 0.0 || y < 0.0 || x < 0.0 {
        return None;
    }
    let at = [z as usize, y as usize, x as usize];
    (at[0] < d && at[1] < h && at[2] < w).then_some(at)
}

/// Slices that have CT: scans end anywhere, three in five of them within the image at each end.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
fn scanned_slices(n_slices: usize, varied: &Synthetic, rng: &mut impl Rng) -> std::ops::Range<usize> {
    let mut cut = || {
        let part = rng.random_range(0.0..=0.36_f64);
        if rng.random_range(0..5) < 3 { (part * n_slices as f64) as usize } else { 0 }
    };
    let (below, above) = (cut(), cut());
    if varied.field_of_view { below..n_slices - above } else { 0..n_slices }
}
