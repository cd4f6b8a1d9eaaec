//! `oarlock compare`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use rayon::prelude::*;
use serde_json::json;

use super::comparison_table::comparison_lines;
use super::convert::masks_of_structure_set;
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::CompareArgs;
use crate::convert::{NamedMask, read_masks};
use crate::learning::evaluate::report::comparison_json;
use crate::learning::evaluate::{Comparison, compare};
use crate::pipeline::series::CtSeries;
use crate::settings::StructureTemplate;

/// Runs the command.
pub(super) fn run(args: CompareArgs, _runtime: &RuntimeChoice) -> CommandResult {
    let series = CtSeries::from_folder(&args.ct)?;
    let template = StructureTemplate::shipped()?;
    let (a, b) = (read(&args.a, &series)?, read(&args.b, &series)?);
    let (pairs, alone) = pair(&a, &b, &template);
    let compared: Vec<(String, Comparison)> =
        pairs.into_par_iter().map(|(name, a, b)| (name, compare(&a.mask, &b.mask, &series.grid))).collect();
    if compared.is_empty() {
        let names = |masks: &[NamedMask]| masks.iter().map(|m| m.name.clone()).collect::<Vec<_>>().join(", ");
        return Err(format!("no structure is in both: A has {}; B has {}", names(&a), names(&b)).into());
    }
    if args.json {
        let rois: BTreeMap<_, _> = compared.iter().map(|(name, c)| (name, comparison_json(c))).collect();
        say(serde_json::to_string_pretty(&json!({ "rois": rois, "only_in_one": alone }))?);
    } else {
        comparison_lines(&compared).iter().for_each(say);
        if !alone.is_empty() {
            say(format_args!("only in one of them: {}", alone.join(", ")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, series: &CtSeries) -> Result<Vec<NamedMask>, Box<dyn std::error::Error + Send + Sync>> {
    let is_dicom = path.is_file() && {
        let mut head = [0; 132];
        let mut file = std::fs::File::open(path)?;
        std::io::Read::read_exact(&mut file, &mut head).is_ok() && head[128..] == *b"DICM"
    };
    if is_dicom {
        return masks_of_structure_set(path, series);
    }
    let (masks, notes) = read_masks(path, &series.grid)?;
    for note in notes {
        tracing::warn!("{note}");
    }
    Ok(masks)
}

/// Structures of the same name, or of names for the same organ; and the names that are in one only.
fn pair<'m>(
    a: &'m [NamedMask],
    b: &'m [NamedMask],
    template: &StructureTemplate,
) -> (Vec<(String, &'m NamedMask, &'m NamedMask)>, Vec<String>) {
    let key = |name: &str| {
        template.organ_named(name).map_or_else(|| name.to_owned(), |entry| entry.roi_name.clone())
    };
    let mut others: BTreeMap<String, &NamedMask> = b.iter().map(|mask| (key(&mask.name), mask)).collect();
    let (mut pairs, mut alone) = (Vec::new(), Vec::new());
    for mask in a {
        let name = key(&mask.name);
        match others.remove(&name) {
            Some(other) => pairs.push((name, mask, other)),
            None => alone.push(mask.name.clone()),
        }
    }
    alone.extend(others.into_values().map(|mask| mask.name.clone()));
    (pairs, alone)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::vocabulary::space::RegionMask;

    #[test]
    fn names_for_one_organ_meet_and_the_rest_is_told() {
        let mask = |name: &str| NamedMask {
            name: name.to_owned(),
            mask: RegionMask::from_whole(Array3::from_elem([1, 2, 3], true).view()),
        };
        let a = [mask("Parotid_L"), mask("PTV 70"), mask("Larynx")];
        let b = [mask("PTV 70"), mask("parotid_LT"), mask("Skin")];
        let (pairs, alone) = pair(&a, &b, &StructureTemplate::shipped().unwrap());
        let names: Vec<&str> = pairs.iter().map(|(name, _, _)| name.as_str()).collect();
        assert_eq!(names, ["Parotid_L", "PTV 70"]);
        assert_eq!(pairs[0].2.name, "parotid_LT");
        assert_eq!(alone, ["Larynx", "Skin"]);
    }
}
