//! `oarlock convert`.

use std::path::Path;
use std::process::ExitCode;

use rayon::prelude::*;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{ConvertArgs, HoleArg};
use crate::convert::{self, NamedMask};
use crate::pipeline::contours::{HoleForm, contours_of_mask, fill};
use crate::pipeline::rtstruct::{self, Description, Identity, NotFound, Origin, Roi, StructureSet};
use crate::pipeline::series::CtSeries;
use crate::service::mint::Mint;
use crate::settings::StructureTemplate;

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
    let template = args.template.as_deref().map(StructureTemplate::read).transpose()?;
    let (masks, notes) = convert::read_masks(&args.input, &series.grid)?;
    let holes = match args.holes {
        HoleArg::Keyhole => HoleForm::Keyhole,
        HoleArg::Xor => HoleForm::Xor,
        HoleArg::Separate => HoleForm::Separate,
    };
    let rois: Vec<Roi> = masks
        .par_iter()
        .enumerate()
        .map(|(index, named)| {
            let contours = contours_of_mask(&named.mask, &series.grid, holes);
            match template.as_ref().and_then(|template| template.organ_named(&named.name)) {
                Some(entry) => entry.roi(contours),
                None => Roi {
                    name: named.name.clone(),
                    organ: None,
                    color: color_of(index),
                    code: None,
                    laterality: None,
                    contours,
                    remark: None,
                },
            }
        })
        .collect();
    drop(masks);
    let source = args.input.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let description = Description {
        label: "Oarlock masks".to_owned(),
        origin: Origin::Masks { source },
        holes,
        not_found: NotFound::LeaveOut,
    };
    let mut mint = Mint::from_world();
    let made = mint.now();
    let set = StructureSet::describe(series, rois, description, Identity::mint(|| mint.bits(), made));
    for note in notes.iter().map(String::as_str).chain(set.notes().iter().map(String::as_str)) {
        say(format!("note: {note}"));
    }
    let encoded = set.encode()?;
    std::fs::write(&args.output, &encoded.bytes)
        .map_err(|source| convert::ConvertError::Write { path: args.output.clone(), source })?;
    say(format!("{} ROIs written to {}", set.rois().len(), args.output.display()));
    Ok(ExitCode::SUCCESS)
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
