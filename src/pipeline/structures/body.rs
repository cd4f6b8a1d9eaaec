//! The patient's outline as contours.

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::SMALLEST_AREA_MM2;
use crate::pipeline::contours::{
    HoleForm, Plane, RoiContours, area, assemble, at_one_half, place, simplified,
};
use crate::pipeline::volume::{HuVolume, TISSUE_HU, VolumeError, body_mask};

/// Points closer than this to the outline without them go, mm.
const TOLERANCE_MM: f64 = 0.1;

/// The field passes one half over so many HU around the skin: as far apart as air and water.
const SOFT_HU: f32 = 1_000.0;

/// The skin, where the CT passes from tissue to air; what lies inside, air too, belongs to the body, so it has no holes.
///
/// # Errors
/// [`VolumeError`] where there is no body.
pub fn body_contours(volume: &HuVolume) -> Result<RoiContours, VolumeError> {
    let mask = body_mask(volume)?;
    let [_, spacing_y, spacing_x] = volume.grid.spacing_mm();
    let smallest = SMALLEST_AREA_MM2 / (spacing_y * spacing_x);
    let planes: Vec<_> = mask.axis_iter(Axis(0)).enumerate().collect();
    let contours = planes.into_par_iter().flat_map_iter(|(z, inside)| {
        let hu = volume.hu.index_axis(Axis(0), z);
        let mut field = Array2::<f32>::zeros(inside.dim());
        ndarray::Zip::from(&mut field).and(&inside).and(&hu).for_each(|field, inside, hu| {
            let of_hu = 0.5 + (f32::from(*hu) - TISSUE_HU) / SOFT_HU;
            *field = if *inside { of_hu.clamp(0.5, 1.0) } else { of_hu.clamp(0.0, 0.499) };
        });
        // Air inside lies beside tissue, not beside the skin.
        let mut rings = at_one_half(field.view());
        rings.retain(|ring| area(ring) >= smallest);
        let rings = simplified(rings, TOLERANCE_MM, [spacing_y, spacing_x]);
        place(assemble(rings), HoleForm::Xor, Plane { z, y0: 0, x0: 0 }, &volume.grid)
    });
    Ok(RoiContours { contours: contours.collect() })
}
