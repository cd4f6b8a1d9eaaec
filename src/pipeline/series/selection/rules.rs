//! Rules: the first one that takes a series says what is done with it.

use super::choice::Choice;
use super::condition::Condition;
use super::subject::Subject;

/// Values of Image Type of what was made from the slices of a scan: resliced, projected, drawn.
const REFORMATTED: [&str; 15] = [
    "MPR",
    "CPR",
    "CSA MPR",
    "MPR THICK RANGES",
    "REFORMATTED",
    "MIP",
    "MINIP",
    "MIN IP",
    "MAXIP",
    "AVERAGE",
    "3D",
    "VRT",
    "SSD",
    "PROJECTION IMAGE",
    "SCREEN SAVE",
];

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What it is called in records.
    pub name: String,
    /// What it takes; everything without one.
    pub when: Option<Condition>,
    /// What is then done. Its `rule` is the name.
    pub choice: Choice,
}

/// Kinds of series that are passed over before any rule is asked, by Image Type (0008,0008).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedOver {
    /// Scout views: a value LOCALIZER.
    pub localizers: bool,
    /// Reformatted, projected or rendered: a value such as MPR, MIP, 3D.
    pub reformatted: bool,
    /// Made from other images: the first value is DERIVED.
    pub derived: bool,
}

/// Rules in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What is passed over first.
    pub pass_over: PassedOver,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What a rule said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its name.
    pub rule: String,
    /// Whether it takes the series.
    pub takes: bool,
    /// Why, or why not.
    pub why: String,
}

/// What is done with a series, and what each rule that was asked said, the last one being that which took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What is done.
    pub choice: Choice,
    /// The rules that were asked, in their order.
    pub answers: Vec<Answer>,
}

impl Rules {
    /// What is done with a series.
    #[must_use]
    pub fn explain(&self, subject: &Subject) -> Explained {
        if let Some(reason) = self.pass_over.reason(subject) {
            return Explained { choice: passed_over(reason), answers: Vec::new() };
        }
        let mut answers = Vec::new();
        for rule in &self.rules {
            let said =
                rule.when.as_ref().map_or_else(|| Ok("it takes everything".to_owned()), |c| c.holds(subject));
            let takes = said.is_ok();
            let why = said.unwrap_or_else(|why| why);
            answers.push(Answer { rule: rule.name.clone(), takes, why });
            if takes {
                return Explained { choice: rule.choice.clone(), answers };
            }
        }
        let said: Vec<String> = answers.iter().map(|a| format!("{}: {}", a.rule, a.why)).collect();
        Explained { choice: passed_over(format!("no rule takes it ({})", said.join("; "))), answers }
    }
}

fn passed_over(reason: String) -> Choice {
    Choice { passed_over: Some(reason), ..Choice::default() }
}

impl PassedOver {
    fn reason(&self, subject: &Subject) -> Option<String> {
        let image_type = subject.image_type();
        let shown = image_type.join("\\");
        let holds = |wanted: &[&str]| image_type.iter().any(|value| wanted.contains(&value.as_str()));
        if self.localizers && holds(&["LOCALIZER"]) {
            return Some(format!("a localizer (ImageType {shown})"));
        }
        if self.reformatted && holds(&REFORMATTED) {
            return Some(format!("reformatted or rendered (ImageType {shown})"));
        }
        if self.derived && image_type.first().is_some_and(|value| value == "DERIVED") {
            return Some(format!("derived from other images (ImageType {shown})"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::condition::{Test, Written};
    use super::*;
    use dicom_core::value::DataSetSequence;
    use dicom_core::{DataElement, PrimitiveValue, VR};
    use dicom_dictionary_std::tags;
    use dicom_object::InMemDicomObject;

    fn subject(image_type: &str, description: &str, thickness: &str) -> Subject {
        let code = InMemDicomObject::from_element_iter([
            DataElement::new(tags::CODE_VALUE, VR::SH, PrimitiveValue::from("69536005 ")),
            DataElement::new(tags::CODING_SCHEME_DESIGNATOR, VR::SH, PrimitiveValue::from("SCT")),
        ]);
        let image_type = image_type.split('\\').map(str::to_owned).collect();
        let attributes = InMemDicomObject::from_element_iter([
            DataElement::new(tags::IMAGE_TYPE, VR::CS, PrimitiveValue::Strs(image_type)),
            DataElement::new(tags::MODALITY, VR::CS, PrimitiveValue::from("CT")),
            DataElement::new(tags::SERIES_DESCRIPTION, VR::LO, PrimitiveValue::from(description)),
            DataElement::new(tags::SLICE_THICKNESS, VR::DS, PrimitiveValue::from(thickness)),
            DataElement::new(tags::ANATOMIC_REGION_SEQUENCE, VR::SQ, DataSetSequence::from(vec![code])),
        ]);
        Subject::new(attributes, Some("CT1"))
    }

    fn test(keyword: &str, name: &'static str, values: &[&str]) -> Condition {
        let written = Written { name, values: values.iter().map(|v| (*v).to_owned()).collect() };
        Condition::Test(Test::new(keyword, &written).unwrap())
    }

    fn rules() -> Rules {
        let rule = |name: &str, when| Rule {
            name: name.to_owned(),
            when,
            choice: Choice { rule: Some(name.to_owned()), ..Choice::default() },
        };
        let neck = Condition::All(vec![
            test("CallingAETitle", "equals", &["ct1"]),
            Condition::Any(vec![
                test("SeriesDescription", "contains", &["neck"]),
                test("AnatomicRegionSequence", "code", &["SCT:45048000"]),
            ]),
            test("SliceThickness", "between", &["0.5", "3"]),
        ]);
        let head = Condition::All(vec![
            test("AnatomicRegionSequence", "code", &["SCT:69536005"]),
            Condition::Not(Box::new(test("ConvolutionKernel", "present", &["true"]))),
        ]);
        let pass_over = PassedOver { localizers: true, reformatted: true, derived: true };
        Rules { pass_over, rules: vec![rule("neck", Some(neck)), rule("head", Some(head))] }
    }

    #[test]
    fn the_first_rule_that_takes_it_decides_and_each_says_why() {
        let explained = rules().explain(&subject("ORIGINAL\\PRIMARY\\AXIAL", "HEAD AND NECK", "1.5 "));
        assert_eq!(explained.choice.rule.as_deref(), Some("neck"));
        assert_eq!(
            explained.answers[0].why,
            "CallingAETitle is CT1; SeriesDescription is HEAD AND NECK; SliceThickness is 1.5"
        );
        let explained = rules().explain(&subject("ORIGINAL\\PRIMARY\\AXIAL", "Neck", "5"));
        assert_eq!(explained.choice.rule.as_deref(), Some("head"));
        let said: Vec<_> = explained.answers.iter().map(|a| (a.takes, a.why.as_str())).collect();
        assert_eq!(
            said,
            [
                (false, "SliceThickness is 5, not from 0.5 to 3"),
                (true, "AnatomicRegionSequence is SCT:69536005; ConvolutionKernel is absent")
            ]
        );
    }

    #[test]
    fn localizers_and_what_is_reformatted_or_derived_are_passed_over_with_the_reason() {
        for (image_type, said) in [
            ("ORIGINAL\\PRIMARY\\LOCALIZER", "a localizer"),
            ("DERIVED\\SECONDARY\\MPR", "reformatted"),
            ("DERIVED\\PRIMARY\\AXIAL", "derived"),
        ] {
            let explained = rules().explain(&subject(image_type, "neck", "2"));
            let reason = explained.choice.passed_over.unwrap();
            assert!(reason.contains(said) && reason.contains(image_type), "{reason}");
        }
        let mut rules = rules();
        rules.pass_over.derived = false;
        let choice = rules.explain(&subject("DERIVED\\PRIMARY\\AXIAL", "neck", "2")).choice;
        assert_eq!(choice.rule.as_deref(), Some("neck"));
    }

    #[test]
    fn a_series_that_no_rule_takes_is_passed_over_with_what_each_said() {
        let mut rules = rules();
        rules.rules.pop();
        let reason =
            rules.explain(&subject("ORIGINAL\\PRIMARY\\AXIAL", "Thorax", "2")).choice.passed_over.unwrap();
        assert!(reason.contains("neck: SeriesDescription is Thorax, not with neck in it"), "{reason}");
    }
}
