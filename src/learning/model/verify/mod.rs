//! Whether a model gives the numbers that the original gave.

mod compare;
mod npz;

use ndarray::Array3;

pub use compare::{Difference, Largest, Ours, differences};
pub use npz::{Array, Arrays, NpzError};

use crate::engine::graph::Preset;
use crate::engine::graph::preset::INPUT_MULTIPLE;
use crate::pipeline::network::refinement::Detection;
use crate::pipeline::network::{NetworkBox, Trace};
use crate::pipeline::volume::NetworkInput;
use crate::vocabulary::space::{Grid, InvalidGrid, PatientPoint};

/// Why an archive holds no input.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No volume.
    #[error(
        "wanted volume_hu with the axes (z, y, x), found {found}: write it with numpy.savez(..., volume_hu=...)"
    )]
    Volume {
        /// What is there.
        found: String,
    },
    /// Sides that no grid has.
    #[error("volume_hu cannot be an input")]
    Grid(#[source] InvalidGrid),
}

/// The network's input from `volume_hu`: no resampling, no body mask; filled up with air to multiples of 16.
///
/// # Errors
/// [`VerifyError`] where there is no volume of three axes.
pub fn input_of(arrays: &Arrays, preset: &Preset) -> Result<NetworkInput, VerifyError> {
    let volume = arrays.get("volume_hu");
    let found = volume.map_or_else(|| "none".to_owned(), |volume| format!("sides {:?}", volume.shape));
    let Some(Array { shape, values }) = volume else { return Err(VerifyError::Volume { found }) };
    let [d, h, w] = shape[..] else { return Err(VerifyError::Volume { found }) };
    let sides = [d, h, w].map(|side| side.next_multiple_of(INPUT_MULTIPLE));
    let grid = Grid::axial(sides, preset.spacing_mm, PatientPoint::lps_mm(0.0, 0.0, 0.0));
    let grid = grid.map_err(VerifyError::Grid)?;
    let mut tensor = Array3::from_elem(sides, -1.0);
    for (at, hu) in values.iter().enumerate() {
        tensor[[at / (h * w), at / w % h, at % w]] = 2.0 * (hu + 1024.0) / 4100.0 - 1.0;
    }
    Ok(NetworkInput { tensor, grid })
}

/// A trace under the names of the archive; box rows are `(batch, probability, z, y, x, d, h, w)`, detections with the
/// class at the end, crop boxes `(batch, z0, y0, x0, z1, y1, x1, class)`.
#[must_use]
pub fn ours(trace: &Trace) -> Ours {
    let map = |array: &ndarray::Array4<f32>| {
        let mut shape = vec![1];
        shape.extend(array.shape());
        Array { shape, values: array.iter().copied().collect() }
    };
    let row = |probability: f32, around: NetworkBox| {
        let mut row = vec![0.0, probability];
        row.extend(around.to_array());
        row
    };
    let table =
        |width: usize, rows: Vec<Vec<f32>>| Array { shape: vec![rows.len(), width], values: rows.concat() };
    let proposals = trace.proposals.iter().map(|p| row(p.probability, p.around)).collect();
    let rows = |all: &[Detection]| {
        let with_class = all.iter().map(|found| {
            let mut row = row(found.probability, found.around);
            row.push(class_number(found.organ.class()));
            row
        });
        table(9, with_class.collect())
    };
    let crops = trace.masks.iter().zip(&trace.detections).map(|((region, _), found)| {
        let corners = region.start.iter().chain(&region.end).map(|corner| class_number(*corner));
        [0.0].into_iter().chain(corners).chain([class_number(found.organ.class())]).collect()
    });
    let two = |array: &ndarray::Array2<f32>| Array {
        shape: array.shape().to_vec(),
        values: array.iter().copied().collect(),
    };
    let mut all = vec![
        ("f2".to_owned(), map(&trace.f2)),
        ("f4".to_owned(), map(&trace.f4)),
        ("f8".to_owned(), map(&trace.f8)),
        ("rpn_logits".to_owned(), map(&trace.logits)),
        ("rpn_deltas".to_owned(), map(&trace.deltas)),
        ("proposals".to_owned(), table(8, proposals)),
        ("rcnn_logits".to_owned(), two(&trace.class_logits)),
        ("rcnn_deltas".to_owned(), two(&trace.box_deltas)),
        ("detections".to_owned(), rows(&trace.detections)),
        ("crop_boxes".to_owned(), table(8, crops.collect())),
    ];
    for (at, (_, logit)) in trace.masks.iter().enumerate() {
        let array = Array { shape: logit.shape().to_vec(), values: logit.iter().copied().collect() };
        all.push((format!("mask_logits_{at}"), array));
    }
    Ours { arrays: Arrays::of(all), refined: rows(&trace.refined) }
}

/// Whether an array of this name is read from an archive and compared.
#[must_use]
pub fn is_known(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "volume_hu",
        "f2",
        "f4",
        "f8",
        "rpn_logits",
        "rpn_deltas",
        "proposals",
        "rcnn_logits",
        "rcnn_deltas",
        "detections",
        "crop_boxes",
    ];
    NAMES.contains(&name) || name.strip_prefix("mask_logits_").is_some_and(|rest| rest.parse::<u16>().is_ok())
}

fn class_number(number: usize) -> f32 {
    u16::try_from(number).map_or(f32::NAN, f32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: &[f32]) -> Array {
        Array { shape: shape.to_vec(), values: values.to_vec() }
    }

    /// 17 slices become 32; the 16 that are new are air.
    #[test]
    fn the_volume_goes_in_as_it_is() {
        let volume: Vec<f32> = (0..17 * 16 * 16).map(|at| (at % 3000) as f32 - 1024.0).collect();
        let arrays = Arrays::of([("volume_hu".to_owned(), array(&[17, 16, 16], &volume))]);
        let input = input_of(&arrays, &Preset::reference()).unwrap();
        assert_eq!(input.tensor.dim(), (32, 16, 16));
        assert!(
            (input.tensor[[3, 4, 5]] - (2.0 * ((3 * 256 + 4 * 16 + 5) as f32) / 4100.0 - 1.0)).abs() < 1e-6
        );
        assert!((input.tensor[[17, 4, 5]] + 1.0).abs() < 1e-9);
        assert!(input_of(&Arrays::default(), &Preset::reference()).is_err());
    }
}
