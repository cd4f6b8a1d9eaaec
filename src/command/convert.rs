//! `oarlock convert`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use rayon::prelude::*;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::ConvertArgs;
use crate::convert::{self, NamedMask};
use crate::pipeline::contours::{HoleForm, RoiContours, contours_of_mask, fill};
use crate::pipeline::outline;
use crate::pipeline::rtstruct::{
    self, Description, Format, Identity, InterpretedType, NotFound, Origin, Roi, StructureSet,
};
use crate::pipeline::series::CtSeries;
use crate::pipeline::structures::FoundStructure;
use crate::pipeline::volume::HuVolume;
use crate::service::mint::Mint;
use crate::settings::Template;
use crate::settings::destinations::FormatChoice;
use crate::vocabulary::organ::Organ;

/// Runs the command.
pub(super) fn run(args: ConvertArgs, _runtime: &RuntimeChoice) -> CommandResult {
    let series = CtSeries::from_folder(&args.ct)?;
    if is_mask_name(&args.output) { to_masks(&args, &series) } else { to_structure_set(&args, &series) }
}

/// Whether the output asks for masks: a folder, or a label map.
fn is_mask_name(output: &Path) -> bool {
    let text = output.to_string_lossy();
    output.is_dir() || text.ends_with('/') || text.ends_with(".nii.gz")
}

fn to_structure_set(args: &ConvertArgs, series: &CtSeries) -> CommandResult {
    let template = args.template.as_deref().map(Template::load).transpose()?;
    let (masks, notes) = convert::read_masks(&args.input, &series.grid)?;
    let format = format_of(args.format.as_deref(), args.holes)?;
    let (rois, character_set) = rois(&masks, template.as_ref(), series)?;
    drop(masks);
    let source = args.input.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let description = Description { label: "Oarlock masks".to_owned(), origin: Origin::Masks { source } };
    let mut mint = Mint::from_world();
    let made = mint.now();
    let set = StructureSet::describe(series, rois, description, Identity::mint(|| mint.bits(), made));
    let set = set.in_character_set(character_set);
    let encoded = set.encode(&format)?;
    for note in notes.iter().chain(&encoded.notes) {
        say(format!("note: {note}"));
    }
    std::fs::write(&args.output, &encoded.bytes)
        .map_err(|source| convert::ConvertError::Write { path: args.output.clone(), source })?;
    let n_written = set.rois().iter().filter(|roi| !roi.contours.contours.is_empty()).count();
    say(format!("{n_written} ROIs written to {}", args.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// The ROIs of the masks, and the character set of their names. With a plan its structures come first; of its organs,
/// those that no mask shows are left out. A mask that is no organ keeps its name.
fn rois(
    masks: &[NamedMask],
    template: Option<&Template>,
    series: &CtSeries,
) -> Result<(Vec<Roi>, Option<String>), Box<dyn std::error::Error + Send + Sync>> {
    let drawn: Vec<RoiContours> =
        masks.par_iter().map(|named| contours_of_mask(&named.mask, &series.grid, HoleForm::Xor)).collect();
    let (mut rois, mut others) = (Vec::new(), Vec::new());
    let mut organs: BTreeMap<Organ, FoundStructure> = BTreeMap::new();
    let plan = template.filter(|template| !template.is_dictionary).map(|template| &template.plan);
    for (index, (named, contours)) in masks.iter().zip(drawn).enumerate() {
        match template.and_then(|template| template.organs.organ_named(&named.name)) {
            Some(entry) if plan.is_some() && !organs.contains_key(&entry.organ) => {
                drop(organs.insert(entry.organ, FoundStructure { contours, remark: None }));
            }
            Some(entry) if plan.is_none() => others.push(entry.roi(contours)),
            _ => others.push(Roi {
                name: named.name.clone(),
                organ: None,
                color: color_of(index),
                interpreted_type: InterpretedType::Organ,
                code: None,
                laterality: None,
                contours,
                remark: None,
            }),
        }
    }
    if let Some(plan) = plan {
        let body =
            if plan.needs_body() { outline(&HuVolume::read(series)?) } else { FoundStructure::default() };
        rois = plan.rois(&organs, &series.grid, &|| body.clone());
        rois.retain(|roi| roi.organ.is_none_or(|organ| organs.contains_key(&organ)));
    }
    rois.append(&mut others);
    Ok((rois, plan.and_then(|plan| plan.character_set.clone())))
}

/// The format that is asked for, with holes as the argument says where it says so.
pub(super) fn format_of(
    name: Option<&str>,
    holes: Option<HoleForm>,
) -> Result<Format, Box<dyn std::error::Error + Send + Sync>> {
    let mut format = match name {
        Some(name) => FormatChoice::named(name)?.resolved(NotFound::LeaveOut),
        None => Format::default(),
    };
    format.holes = holes.unwrap_or(format.holes);
    Ok(format)
}

fn to_masks(args: &ConvertArgs, series: &CtSeries) -> CommandResult {
    let masks = masks_of_structure_set(&args.input, series)?;
    if args.output.to_string_lossy().ends_with(".nii.gz") {
        convert::write_label_map(&args.output, &masks, &series.grid)?;
        for (index, named) in masks.iter().enumerate() {
            say(format!("{} {}", index + 1, named.name));
        }
    } else {
        for path in convert::write_folder(&args.output, &masks, &series.grid)? {
            say(path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The masks of a structure set on the CT's grid; what is odd is said.
pub(super) fn masks_of_structure_set(
    path: &Path,
    series: &CtSeries,
) -> Result<Vec<NamedMask>, Box<dyn std::error::Error + Send + Sync>> {
    let set = rtstruct::read(path)?;
    let (rois, warnings) = set.on_series(series);
    for warning in set.warnings.iter().chain(&warnings) {
        tracing::warn!("{warning}");
    }
    let filled = rois.into_par_iter().map(|(name, roi)| {
        let mask = fill(&roi, &series.grid, rtstruct::FILL_RULE);
        NamedMask { name, mask }
    });
    Ok(filled.collect())
}

/// Colors that neighbours in a list do not share: hues a golden angle apart.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a color channel, 0..=255"
)]
fn color_of(index: usize) -> [u8; 3] {
    let hue = (index as f64 * 137.508) % 360.0;
    [0.0, 240.0, 120.0].map(|shift| {
        let channel = (((hue + shift) / 60.0) % 6.0 - 3.0).abs() - 1.0;
        (channel.clamp(0.0, 1.0) * 200.0 + 55.0) as u8
    })
}
