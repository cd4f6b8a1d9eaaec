//! One line per case and organ, for spreadsheets (RFC 4180).

use super::Evaluation;
use crate::learning::evaluate::Measure;
use crate::settings::StructureTemplate;

/// The table with its heading; what does not exist is an empty field.
pub(super) fn table(evaluation: &Evaluation, template: &StructureTemplate) -> String {
    let keys: Vec<&str> = Measure::ALL.into_iter().map(Measure::key).collect();
    let mut text = format!(
        "case,organ,outcome,{},added_path_voxels,truth_mm3,predicted_mm3,expected_dice,needs_a_look\r\n",
        keys.join(",")
    );
    for case in evaluation.evaluated() {
        for (organ, comparison) in &case.organs {
            let values = Measure::ALL.into_iter().map(|measure| measure.of(comparison));
            let text_of = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
            let values: Vec<String> = values.map(text_of).collect();
            let judged = case.judged.iter().find(|one| one.organ == *organ);
            text.push_str(&format!(
                "{},{},{},{},{},{},{},{},{}\r\n",
                field(&case.name),
                field(&template.entry(*organ).roi_name),
                comparison.outcome().word(),
                values.join(","),
                comparison.added_path.voxels,
                comparison.truth_mm3,
                comparison.predicted_mm3,
                text_of(judged.and_then(|one| one.expected_dice)),
                judged.map_or("", |one| if one.needs_a_look { "yes" } else { "no" })
            ));
        }
    }
    text
}

/// A text as a field; one that a spreadsheet would take for a formula gets an apostrophe.
fn field(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    let quoted = text.contains([',', '"', '\n', '\r']);
    if quoted { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::tests::evaluation;
    use super::*;

    #[test]
    fn lines_have_the_fields_of_the_heading() {
        let text = table(&evaluation(), &StructureTemplate::shipped().unwrap());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 4);
        assert!(lines[0].starts_with("case,organ,outcome,dice,surface_dice_1_mm"), "{}", lines[0]);
        assert_eq!(
            lines[1],
            "pt_1,Brainstem,found,0.8,0.4,0.6000000000000001,0.8,3,2.5,6,0.75,270,-0.16666666666666666,300,9000,7500,0.55,yes"
        );
        assert_eq!(lines[3], "\"pt_2, <b>\",Brainstem,missed,0,0,0,0,,,,,270,-1,300,9000,0,,");
        assert_eq!(lines[1].split(',').count(), lines[0].split(',').count());
        assert_eq!(field("=1+1"), "'=1+1");
        assert_eq!(field("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
