//! `oarlock segment`.

use std::process::ExitCode;
use std::time::Instant;

use ndarray::{Array3, s};
use rayon::prelude::*;
use serde_json::json;

use super::contouring::{contour, load_model, organ_records, practice};
use super::{CommandResult, RuntimeChoice};
use crate::cli::SegmentArgs;
use crate::convert::{NamedMask, write_label_map};
use crate::picture::{Outline, sheet};
use crate::pipeline::contours::fill;
use crate::pipeline::series::CtSeries;
use crate::pipeline::{Contoured, rtstruct};
use crate::service::OrganRecord;
use crate::settings::destinations::FormatChoice;
use crate::settings::{StructureTemplate, Template};
use crate::vocabulary::space::Grid;

/// Model of a program that nobody told otherwise.
const SHIPPED_MODEL: &str = "starter";

/// Runs the command.
pub(super) fn run(args: SegmentArgs, runtime: &RuntimeChoice) -> CommandResult {
    let series = CtSeries::from_folder(&args.ct_dir)?;
    let (anatomy, structure_set) = practice(&args.anatomy)?;
    let template = Template::load(args.template.as_deref().unwrap_or(&structure_set.template))?;
    let format = match &args.format {
        Some(name) => FormatChoice::named(name)?,
        None => FormatChoice::default(),
    };
    let format = format.resolved(structure_set.not_found);
    let bar = super::spinner("loading the model");
    let mut model = load_model(runtime, args.model.as_deref().unwrap_or(SHIPPED_MODEL))?;
    model.anatomy = anatomy;
    bar.set_message(format!("contouring {} slices on {}", series.slices.len(), model.network.provider()));
    let began = Instant::now();
    let contoured = contour(&series, &mut model, &template.plan)?;
    let seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let encoded = contoured.structure_set.encode(&format)?;
    write(&args.output, &encoded.bytes)?;
    let say = |line: &dyn std::fmt::Display| if args.json { super::tell(line) } else { super::say(line) };
    let records = organ_records(&contoured, &template);
    if args.json {
        super::say(serde_json::to_string_pretty(&json!({
            "output": args.output,
            "model": model.name,
            "fingerprint": model.fingerprint,
            "provider": model.network.provider().to_string(),
            "seconds": seconds,
            "organs": records,
            "notes": encoded.notes,
        }))?);
    } else {
        table(&records, model.calibration.is_some()).iter().for_each(|line| say(line));
    }
    let n_found = contoured.organs.iter().filter(|found| found.volume_mm3 > 0.0).count();
    say(&format_args!(
        "{n_found} of {} organs in {seconds:.1} s on {}, written to {}",
        contoured.organs.len(),
        model.network.provider(),
        args.output.display()
    ));
    if let Some(path) = &args.masks {
        let (masks, n_shared) = masks(&contoured, &template.organs, &series.grid);
        write_label_map(path, &masks, &series.grid)?;
        say(&format_args!(
            "label map written to {}: label n is the n-th organ of the list above that was found",
            path.display()
        ));
        if n_shared > 0 {
            say(&format_args!(
                "note: {n_shared} voxels lie in two organs; the label map gives them to the first"
            ));
        }
    }
    if let Some(path) = &args.picture {
        let outlines: Vec<Outline> = contoured
            .organs
            .par_iter()
            .map(|found| {
                let entry = template.organs.entry(found.organ);
                let mask = fill(&found.contours, &series.grid, rtstruct::FILL_RULE);
                let state = match mask.n_voxels() {
                    0 => "not found",
                    _ if found.doubt.needs_a_look() => "check",
                    _ => "",
                };
                let legend = format!("{:16} {state}", entry.roi_name);
                Outline { legend, color: entry.color, mask, truth: None }
            })
            .collect();
        let notes = ["R right, A anterior, H head".to_owned()];
        write(path, &sheet(&contoured.volume, &outlines, "Oarlock", &notes)?)?;
        say(&format_args!("picture written to {}", path.display()));
    }
    say(&"Research software: not for clinical use without review.");
    Ok(ExitCode::SUCCESS)
}

/// One line per organ, and below them why which one needs a look.
fn table(records: &[OrganRecord], is_calibrated: bool) -> Vec<String> {
    let mut lines = vec!["organ             detected   volume  expected DSC".to_owned()];
    for organ in records {
        let name = &organ.roi_name;
        let check = if organ.check.is_empty() {
            String::new()
        } else {
            format!("  check: {}", organ.check.join("; "))
        };
        lines.push(if organ.found {
            let detected = organ.detection_probability.unwrap_or_default() * 100.0;
            let expected = organ.expected_dsc.map_or_else(|| "-".to_owned(), |dsc| format!("{dsc:.2}"));
            format!("{name:16}  {detected:6.0} %  {:6.1} ml  {expected:>12}{check}", organ.volume_cm3)
        } else {
            format!("{name:16}  not found{check}")
        });
    }
    if !is_calibrated {
        lines.push(
            "The model has no calibration: no expected DSC, and organs to check by rules only.".to_owned(),
        );
    }
    lines
}

/// The organs found as masks on the image grid that share no voxel, and how many they shared before.
fn masks(contoured: &Contoured, template: &StructureTemplate, grid: &Grid) -> (Vec<NamedMask>, usize) {
    let found: Vec<_> = contoured.organs.iter().filter(|found| !found.contours.contours.is_empty()).collect();
    let filled = found.par_iter().map(|found| NamedMask {
        name: template.entry(found.organ).roi_name.clone(),
        mask: fill(&found.contours, grid, rtstruct::FILL_RULE),
    });
    let mut masks: Vec<NamedMask> = filled.collect();
    let mut taken = Array3::from_elem(grid.shape(), false);
    let mut n_shared = 0;
    for named in &mut masks {
        let [z, y, x] = [0, 1, 2].map(|axis| named.mask.region.start[axis]..named.mask.region.end[axis]);
        for (taken, voxel) in taken.slice_mut(s![z, y, x]).iter_mut().zip(&mut named.mask.voxels) {
            n_shared += usize::from(*taken && *voxel);
            *voxel &= !*taken;
            *taken |= *voxel;
        }
    }
    (masks, n_shared)
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| {
        format!("{} cannot be written ({error}): check the folder and the free space", path.display())
    })
}
