//! From instances to an RTSTRUCT: data only moves down.

pub mod contours;
pub mod delivery;
pub mod ingest;
pub mod network;
pub mod rtstruct;
pub mod series;
pub mod volume;

use self::contours::{RoiContours, TraceOptions, trace_all, volume_mm3};
use self::network::{Network, NetworkError};
use self::rtstruct::{Description, EncodedStructureSet, Identity, Origin, Roi, RtstructError, StructureSet};
use self::series::CtSeries;
use self::volume::{HuVolume, NetworkInput, VolumeError};
use crate::vocabulary::organ::Organ;

/// Why a series has no structure set.
#[derive(Debug, thiserror::Error)]
pub enum ContourError {
    /// The pixels.
    #[error("the series cannot be contoured")]
    Volume(#[from] VolumeError),
    /// The network.
    #[error("the network did not run")]
    Network(#[from] NetworkError),
    /// Nothing recognised at all.
    #[error(
        "none of the 28 organs was found: does the series show a head and neck, and does the model fit this kind of CT?"
    )]
    NothingFound,
    /// The structure set.
    #[error("the structure set was not written")]
    Rtstruct(#[from] RtstructError),
}

/// A model ready to contour, and what a structure set says about it.
#[derive(Debug)]
pub struct ContouringModel {
    /// The graphs, loaded.
    pub network: Network,
    /// Name in the registry.
    pub name: String,
    /// SHA-256 of its graphs, as the registry gives it.
    pub fingerprint: String,
}

/// A contoured series.
#[derive(Debug, Clone)]
pub struct Contoured {
    /// The RTSTRUCT.
    pub structure_set: EncodedStructureSet,
    /// Every organ in class order with what was found of it.
    pub organs: Vec<ContouredOrgan>,
    /// The CT on its own grid, for pictures and masks.
    pub volume: HuVolume,
    /// What was changed or left out, one sentence each.
    pub notes: Vec<String>,
}

/// What was found of an organ.
#[derive(Debug, Clone, PartialEq)]
pub struct ContouredOrgan {
    /// Which.
    pub organ: Organ,
    /// Probability that the classifier gave its box, 0..=1; `None` where no box was found.
    pub detection_probability: Option<f32>,
    /// Volume inside the contours, mm3.
    pub volume_mm3: f64,
    /// The contours on the image planes; none where nothing was found.
    pub contours: RoiContours,
}

/// The straight line: pixels, the network's view of them, masks, contours, RTSTRUCT. `roi_of` gives a region its name,
/// color and codes. Each organ is contoured on its own, so that two may share voxels at a common border.
///
/// # Errors
/// [`ContourError`], by the room that gave up; also when not one organ was found.
pub fn contour_series(
    series: &CtSeries,
    model: &mut ContouringModel,
    roi_of: &dyn Fn(Organ, RoiContours) -> Roi,
    identity: Identity,
) -> Result<Contoured, ContourError> {
    let volume = HuVolume::read(series)?;
    let options = TraceOptions::DELIVERED;
    let organs = find_organs(&volume, &mut model.network, options)?;
    if organs.iter().all(|found| found.contours.contours.is_empty()) {
        return Err(ContourError::NothingFound);
    }
    let rois = organs.iter().map(|found| roi_of(found.organ, found.contours.clone())).collect();
    let description = Description {
        label: "Oarlock".to_owned(),
        origin: Origin::Model {
            name: model.name.clone(),
            fingerprint: model.fingerprint.clone(),
            provider: model.network.provider().to_string(),
        },
        holes: options.holes,
    };
    let set = StructureSet::describe(series, rois, description, identity);
    let structure_set = set.encode()?;
    Ok(Contoured { structure_set, organs, volume, notes: set.notes().to_vec() })
}

/// The part of the line that knows no DICOM: every organ in class order with its contours on the planes of the image.
///
/// # Errors
/// [`ContourError::Volume`] or [`ContourError::Network`].
pub fn find_organs(
    volume: &HuVolume,
    network: &mut Network,
    options: TraceOptions,
) -> Result<Vec<ContouredOrgan>, ContourError> {
    let windows = NetworkInput::windows(volume, &network.input_form())?;
    let input = network.most_promising(&windows)?;
    let masks = network.segment(input)?;
    let mut traced = trace_all(&masks, &input.grid, &volume.grid, options).into_iter().peekable();
    let organs = Organ::ALL.into_iter().map(|organ| {
        let contours =
            traced.next_if(|(of, _)| *of == organ).map(|(_, contours)| contours).unwrap_or_default();
        let detected = masks.iter().find(|mask| mask.organ == organ);
        ContouredOrgan {
            organ,
            detection_probability: detected.map(|mask| mask.detection_probability),
            volume_mm3: volume_mm3(&contours, &volume.grid),
            contours,
        }
    });
    Ok(organs.collect())
}
