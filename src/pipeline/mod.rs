//! From instances to an RTSTRUCT: data only moves down.

pub mod anatomy;
mod close_up;
pub mod contours;
pub mod delivery;
pub mod ingest;
pub mod network;
pub mod objects;
pub mod rtstruct;
pub mod series;
pub mod structures;
pub mod tls;
pub mod volume;

use std::collections::BTreeMap;

use self::anatomy::{
    AnatomySettings, Calibration, Doubt, Finding, Signs, agreement, examine, judge, merged, mirrored,
    mirrored_back, signs,
};
use self::close_up::Finer;
use self::contours::{RoiContours, TraceOptions, trace_all, volume_mm3};
use self::network::{Network, NetworkError, OrganMask};
use self::rtstruct::{Description, Identity, Origin, StructureSet};
use self::series::CtSeries;
use self::structures::{FoundStructure, StructurePlan, body_contours};
use self::volume::{HuVolume, NetworkInput, Views, VolumeError};
use crate::engine::graph::Preset;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::Grid;

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
}

/// A model ready to contour, and what a structure set says about it.
#[derive(Debug)]
pub struct ContouringModel {
    /// The graphs, loaded.
    pub network: Network,
    /// Those that look a second time, at small organs on a finer grid; [`fits`] the network.
    pub close_up: Option<Network>,
    /// Name in the registry.
    pub name: String,
    /// SHA-256 of its graphs, as the registry gives it.
    pub fingerprint: String,
    /// What its contours are worth by their signs; `None` leaves the judgement to rules.
    pub calibration: Option<Calibration>,
    /// Which rules of anatomy are held against what it finds.
    pub anatomy: AnatomySettings,
}

/// A contoured series.
#[derive(Debug, Clone)]
pub struct Contoured {
    /// The structure set, to be encoded in the format of each destination.
    pub structure_set: StructureSet,
    /// Every organ in class order with what was found of it.
    pub organs: Vec<ContouredOrgan>,
    /// The CT on its own grid, for pictures and masks.
    pub volume: HuVolume,
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
    /// What the rules of anatomy did or noticed.
    pub findings: Vec<Finding>,
    /// What the doubt was judged by; `None` where nothing was found.
    pub signs: Option<Signs>,
    /// Whether it needs a look, and why.
    pub doubt: Doubt,
}

/// The straight line: pixels, the network's view of them, masks, contours, structure set. The plan says which structures
/// it holds and what they are called; an organ that needs a look says so in its remark.
///
/// # Errors
/// [`ContourError`], by the room that gave up; also when not one organ was found.
pub fn contour_series(
    series: &CtSeries,
    model: &mut ContouringModel,
    plan: &StructurePlan,
    identity: Identity,
) -> Result<Contoured, ContourError> {
    let volume = HuVolume::read(series)?;
    let options = TraceOptions::DELIVERED;
    let organs = find_organs(&volume, model, options)?;
    if organs.iter().all(|found| found.contours.contours.is_empty()) {
        return Err(ContourError::NothingFound);
    }
    let rois = plan.rois(&found_structures(&organs), &volume.grid, &|| outline(&volume));
    let description = Description {
        label: "Oarlock".to_owned(),
        origin: Origin::Model {
            name: model.name.clone(),
            fingerprint: model.fingerprint.clone(),
            provider: model.network.provider().to_string(),
        },
    };
    let structure_set = StructureSet::describe(series, rois, description, identity);
    let structure_set = structure_set.in_character_set(plan.character_set.clone());
    Ok(Contoured { structure_set, organs, volume })
}

fn found_structures(organs: &[ContouredOrgan]) -> BTreeMap<Organ, FoundStructure> {
    let found = |organ: &ContouredOrgan| {
        let remark = organ.doubt.needs_a_look().then(|| organ.doubt.text());
        (organ.organ, FoundStructure { contours: organ.contours.clone(), remark })
    };
    organs.iter().map(found).collect()
}

/// The patient's outline, or why there is none.
#[must_use]
pub fn outline(volume: &HuVolume) -> FoundStructure {
    match body_contours(volume) {
        Ok(contours) => FoundStructure { contours, remark: None },
        Err(error) => FoundStructure { contours: RoiContours::default(), remark: Some(error.to_string()) },
    }
}

/// What the network saw of a patient, before any rule.
#[derive(Debug, Clone)]
pub struct Seen {
    /// At most one mask per organ, in class order: what is contoured.
    pub masks: Vec<OrganMask>,
    /// The network's answers about the patient and about the mirrored patient, back in the patient, where
    /// [`AnatomySettings::mirror`] asked for both.
    pub answers: Option<[Vec<OrganMask>; 2]>,
    /// The grid that the masks' boxes count in.
    pub grid: Grid,
}

/// The part of the line that knows no DICOM: every organ in class order with its contours on the planes of the image.
///
/// # Errors
/// [`ContourError::Volume`] or [`ContourError::Network`].
pub fn find_organs(
    volume: &HuVolume,
    model: &mut ContouringModel,
    options: TraceOptions,
) -> Result<Vec<ContouredOrgan>, ContourError> {
    let seen = look(volume, model)?;
    Ok(organs_of(&seen, volume, &model.anatomy, model.calibration.as_ref(), options))
}

/// Whether a network of one preset can look closer after one of another: it is for a window, the other is not, and its
/// grid divides the other's.
#[must_use]
pub fn fits(first: &Preset, second: &Preset) -> bool {
    let parts = || close_up::parts(first.spacing_mm, second.spacing_mm);
    first.close_up.is_none() && second.close_up.is_some() && parts().is_some()
}

/// Asks the network, then the one that looks closer, where there is one and the first found one of its organs. With [`AnatomySettings::mirror`] both are asked about the mirrored patient too.
///
/// # Errors
/// [`ContourError::Volume`] or [`ContourError::Network`].
pub fn look(volume: &HuVolume, model: &mut ContouringModel) -> Result<Seen, ContourError> {
    let views = Views::of(volume)?;
    let windows = views.windows(&model.network.input_form());
    let input = model.network.most_promising(&windows)?;
    let first = answers(&mut model.network, input, model.anatomy.mirror)?;
    let (answers, grid) = match &mut model.close_up {
        Some(network) => look_closer(&views, network, model.anatomy.mirror, first, &input.grid)?,
        None => (first, input.grid.clone()),
    };
    Ok(match answers {
        Answers { direct, mirror: None } => Seen { masks: direct, answers: None, grid },
        Answers { direct, mirror: Some(mirror) } => {
            Seen { masks: merged(&direct, &mirror), answers: Some([direct, mirror]), grid }
        }
    })
}

/// What a network says of a patient, and of the mirrored patient where it was asked, back in the patient.
#[derive(Debug)]
struct Answers {
    direct: Vec<OrganMask>,
    mirror: Option<Vec<OrganMask>>,
}

fn answers(network: &mut Network, input: &NetworkInput, mirror: bool) -> Result<Answers, NetworkError> {
    let direct = network.segment(input)?;
    let back = |masks| mirrored_back(masks, input.tensor.dim().2);
    let mirror = mirror.then(|| network.segment(&mirrored(input)).map(back)).transpose()?;
    Ok(Answers { direct, mirror })
}

/// The second look: what both saw, on the finer grid; the first's answers as they are where none of its organs was found.
fn look_closer(
    views: &Views<'_>,
    network: &mut Network,
    mirror: bool,
    first: Answers,
    grid: &Grid,
) -> Result<(Answers, Grid), NetworkError> {
    let finer = Finer::of(grid, network.preset().spacing_mm);
    let window = finer.as_ref().zip(network.preset().close_up.as_ref()).and_then(|(finer, close_up)| {
        let window = finer.window(close_up, grid, &first.direct)?;
        Some((window, finer.grid_of(window)?))
    });
    let (Some(finer), Some((window, on))) = (finer, window) else { return Ok((first, grid.clone())) };
    let second = answers(network, &views.on_grid(on), mirror)?;
    let mirror = first.mirror.zip(second.mirror);
    let joined = Answers {
        direct: finer.joined(&first.direct, second.direct, window),
        mirror: mirror.map(|(first, second)| finer.joined(&first, second, window)),
    };
    Ok((joined, finer.grid))
}

/// Rules, contours and doubt of what the network saw; every organ in class order.
#[must_use]
pub fn organs_of(
    seen: &Seen,
    volume: &HuVolume,
    anatomy: &AnatomySettings,
    calibration: Option<&Calibration>,
    options: TraceOptions,
) -> Vec<ContouredOrgan> {
    let measured = calibration.map(Calibration::organs).unwrap_or_default();
    let mut examined = examine(seen.masks.clone(), &seen.grid, &volume.grid, anatomy, &measured);
    let mut traced = trace_all(&examined.masks, &seen.grid, &volume.grid, options).into_iter().peekable();
    let mut organs: Vec<ContouredOrgan> = Organ::ALL
        .into_iter()
        .map(|organ| {
            let contours =
                traced.next_if(|(of, _)| *of == organ).map(|(_, contours)| contours).unwrap_or_default();
            let detected = examined.masks.iter().find(|mask| mask.organ == organ);
            ContouredOrgan {
                organ,
                detection_probability: detected.map(|mask| mask.detection_probability),
                volume_mm3: volume_mm3(&contours, &volume.grid),
                contours,
                findings: examined.findings.remove(&organ).unwrap_or_default(),
                signs: None,
                doubt: Doubt::default(),
            }
        })
        .collect();
    let volumes_cm3: Vec<f64> = organs.iter().map(|found| found.volume_mm3 / 1000.0).collect();
    for (found, volume_cm3) in organs.iter_mut().zip(&volumes_cm3) {
        // Where the sides were exchanged, the mask came under its partner's name.
        let exchanged = found.findings.contains(&Finding::SidesExchanged);
        let came_as = if exchanged { found.organ.mirrored() } else { found.organ };
        let of = |masks: &'_ [OrganMask], organ| masks.iter().find(|mask| mask.organ == organ).cloned();
        let Some(mask) = of(&seen.masks, came_as).filter(|_| *volume_cm3 > 0.0) else {
            found.doubt.reasons.extend(found.findings.iter().map(ToString::to_string));
            continue;
        };
        let mirror_dice = seen.answers.as_ref().map(|[direct, mirror]| {
            let (direct, mirror) = (of(direct, came_as), of(mirror, found.organ));
            direct.map_or(0.0, |direct| agreement(&direct, mirror.as_ref()))
        });
        let partner_cm3 = found.organ.partner().map(|partner| volumes_cm3[partner.index()]);
        let signs = signs(&mask, *volume_cm3, partner_cm3, &found.findings, mirror_dice);
        found.doubt = judge(found.organ, &signs, &found.findings, calibration);
        found.signs = Some(signs);
    }
    organs
}
