//! The model card that every run writes by itself.

use super::checkpoint::Checkpoint;
use super::validation::Validation;
use crate::settings::TrainRecipe;
use crate::vocabulary::organ::Organ;

/// Markdown: what the model is, what it was trained on, what was measured, what it must not be used for.
///
/// `notices` are the licences of its data sets, `n_choosing` patients chose the checkpoint; `validation` is of
/// `n_patients` others.
pub(super) fn card(
    recipe: &TrainRecipe,
    notices: &[String],
    chosen: &Checkpoint,
    [n_choosing, n_patients]: [usize; 2],
    validation: &Validation,
) -> String {
    let starts: Vec<String> = recipe.start_from.iter().map(|file| file.display().to_string()).collect();
    let began = match starts.as_slice() {
        [] => String::new(),
        [one] => format!(" It began with the weights of {one}."),
        several => format!(" It began with the mean of the weights of {}.", several.join(", ")),
    };
    let mut text = format!(
        "# {}\n\nUa-Net (Tang et al. 2019), preset `{}`, made by `oarlock train` alone.\n\
         {} training steps, each of one crop of {:?} voxels (z, y, x) of a patient drawn at random, seed {}.{began}\n\n\
         ## Trained on\n\n",
        recipe.name, recipe.preset, chosen.step, recipe.crop, chosen.seed
    );
    for notice in recipe.notices.iter().chain(notices) {
        text.push_str(&format!("- {notice}\n"));
    }
    if recipe.notices.is_empty() && notices.is_empty() {
        text.push_str("The recipe names no sources.\n");
    }
    text.push_str("\n## Measured\n\n");
    text.push_str(&measured(chosen, [n_choosing, n_patients], validation));
    text.push_str(MUST_NOT);
    text
}

const MUST_NOT: &str = "\n## What it must not be used for\n\n\
    It must not be used for treatment, for planning, or for any decision about a patient: nothing it draws was validated \
    in a clinic.\n\
    It must not be quoted as the accuracy of the method: data and training time are far from those of the paper.\n\
    An organ without a figure above was never measured on a real patient: take its contour for a demonstration that \
    data flows, not for anatomy.\n";

fn measured(chosen: &Checkpoint, [n_choosing, n_patients]: [usize; 2], validation: &Validation) -> String {
    if validation.dice.is_empty() {
        return "Not measured on any held-out patient.\n".to_owned();
    }
    let chosen_by = chosen.validation.map_or_else(
        || "no validation chose the checkpoint".to_owned(),
        |mean| format!("{n_choosing} others chose the checkpoint, with {mean:.3}"),
    );
    let mut text = format!(
        "Dice on {n_patients} patients that neither trained nor chose the checkpoint ({chosen_by}): the whole chain on the \
         network's own grid, against that grid's version of the truth. An organ that was not found counts as 0.\n\n\
         | organ | mean DSC | cases | found |\n| --- | --- | --- | --- |\n"
    );
    for (organ, mean) in validation.means() {
        let (found, cases) = validation.found(organ);
        text.push_str(&format!("| {} | {mean:.3} | {cases} | {found} |\n", organ.paper_name()));
    }
    let unknown = Organ::COUNT - validation.dice.len();
    text.push_str(&format!(
        "\nMean over organs {:.3}. The other {unknown} organs were not measured.\n",
        validation.mean()
    ));
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::graph::{Adam, Preset, Weights};

    /// Larynx 0.5 and 0 (not found), mandible 0.75: means 0.25 and 0.75, together 0.5.
    #[test]
    fn the_card_tells_what_was_measured_and_what_it_is_not_for() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/starter.yaml");
        let recipe = TrainRecipe::read(&path).unwrap();
        let weights = Weights::start(&Preset::starter(), 1);
        let chosen =
            Checkpoint { step: 77, seed: 1, validation: None, weights, average: None, adam: Adam::default() };
        let dice = [(Organ::Larynx, vec![0.5, 0.0]), (Organ::Mandible, vec![0.75])];
        let notices = ["Clinic of test, own use".to_owned()];
        let n_found = [(Organ::Larynx, 1), (Organ::Mandible, 1)];
        let text = card(
            &recipe,
            &notices,
            &chosen,
            [16, 3],
            &Validation { dice: dice.into_iter().collect(), n_found: n_found.into_iter().collect() },
        );
        for wanted in [
            "77 training steps",
            "Dice on 3 patients that neither trained",
            "| Larynx | 0.250 | 2 | 1 |",
            "| Mandible | 0.750 | 1 | 1 |",
            "Mean over organs 0.500. The other 26",
            "MIT",
            "CC BY 4.0",
            "- Clinic of test, own use",
            "must not be used for treatment",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        let unmeasured = card(&recipe, &[], &chosen, [0, 0], &Validation::default());
        assert!(unmeasured.contains("Not measured"), "{unmeasured}");
    }
}
