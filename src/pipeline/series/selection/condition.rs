//! Conditions on a series: operators that know the VR of what they ask for.

use std::fmt;

use dicom_core::dictionary::DataDictionary;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::subject::Subject;

/// Keyword for who sent the series; it stands in no data set.
const CALLING_AE_TITLE: &str = "CallingAETitle";

/// What a condition asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Who sent the series.
    Calling,
    /// An attribute.
    Attribute { keyword: &'static str, tag: Tag, kind: Kind },
}

/// How values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Date,
    Code,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Date => "a date",
            Self::Code => "a code",
        })
    }
}

/// Why a condition cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCondition {
    /// Not in the dictionary.
    #[error(
        "{0:?} is no DICOM keyword: write it as PS3.6 does, such as SeriesDescription, or CallingAETitle"
    )]
    Keyword(String),
    /// Rules do not look at who the patient is.
    #[error("{0} says who the patient is, and no rule may ask for that")]
    Patient(String),
    /// A VR that nothing here compares.
    #[error("{keyword} has VR {vr}, which rules cannot compare")]
    Vr {
        /// Which keyword.
        keyword: String,
        /// Its VR.
        vr: String,
    },
    /// An operator for another kind of value.
    #[error("{keyword} is {kind}, for which {operator} means nothing; allowed: {allowed}")]
    Operator {
        /// Which keyword.
        keyword: String,
        /// What its values are.
        kind: String,
        /// What was asked.
        operator: &'static str,
        /// What could be.
        allowed: &'static str,
    },
    /// A value that the operator cannot take.
    #[error("{operator} of {keyword} is {found:?}, allowed: {allowed}")]
    Value {
        /// Which keyword.
        keyword: String,
        /// Which operator.
        operator: &'static str,
        /// What is there.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// None, or several, of what a condition can be.
    #[error(
        "a condition is one of all, any, not, or a keyword with exactly one operator \
         (equals, contains, matches, less, greater, between, before, after, code, present); found {0}"
    )]
    Shape(String),
}

/// What is compared with what.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// One of the values is one of these texts, capitals or not.
    Equals(Vec<String>),
    /// One of the values holds one of these texts, capitals or not.
    Contains(Vec<String>),
    /// One of the values has one of these forms: `*` stands for anything, `?` for one character.
    Matches(Vec<String>),
    /// One of the values is one of these numbers.
    Is(Vec<f64>),
    /// Less than.
    Less(f64),
    /// Greater than.
    Greater(f64),
    /// From, to, both included.
    Between(f64, f64),
    /// Before this day, `YYYYMMDD`.
    Before(String),
    /// After this day.
    After(String),
    /// From, to, both included.
    DateBetween(String, String),
    /// One of the codes, `SCHEME:VALUE`.
    Code(Vec<String>),
    /// There with a value, or not.
    Present(bool),
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Every one of them.
    All(Vec<Condition>),
    /// One of them.
    Any(Vec<Condition>),
    /// Not this one.
    Not(Box<Condition>),
    /// A comparison.
    Test(Test),
}

/// A comparison; made by [`Test::new`], which knows what each keyword is.
#[derive(Debug, Clone, PartialEq)]
pub struct Test {
    asked: Asked,
    operator: Operator,
}

/// An operator as it was written, before anybody knows what the keyword is.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Name of the operator.
    pub name: &'static str,
    /// Its values.
    pub values: Vec<String>,
}

impl Test {
    /// A comparison of a keyword's values with what was written.
    ///
    /// # Errors
    /// [`InvalidCondition`], which says what is allowed.
    pub fn new(keyword: &str, written: &Written) -> Result<Self, InvalidCondition> {
        let (asked, kind) = asked(keyword)?;
        let value = |allowed| InvalidCondition::Value {
            keyword: keyword.to_owned(),
            operator: written.name,
            found: written.values.join(", "),
            allowed,
        };
        let texts = || written.values.clone();
        let numbers = || -> Result<Vec<f64>, InvalidCondition> {
            let number = |text: &String| text.parse().ok().filter(|n: &f64| n.is_finite());
            written.values.iter().map(number).collect::<Option<_>>().ok_or_else(|| value("numbers"))
        };
        let days = || -> Result<Vec<String>, InvalidCondition> {
            let day = |text: &String| day_of(text);
            written.values.iter().map(day).collect::<Option<_>>().ok_or_else(|| value("days as YYYY-MM-DD"))
        };
        if written.values.is_empty() {
            return Err(value("at least one value"));
        }
        let operator = match (written.name, kind) {
            ("present", _) => match written.values[0].as_str() {
                "true" => Operator::Present(true),
                "false" => Operator::Present(false),
                _ => return Err(value("true or false")),
            },
            ("equals", Kind::Text) => Operator::Equals(texts()),
            ("contains", Kind::Text) => Operator::Contains(texts()),
            ("matches", Kind::Text) => Operator::Matches(texts()),
            ("equals", Kind::Number) => Operator::Is(numbers()?),
            ("less", Kind::Number) => match numbers()?[..] {
                [limit] => Operator::Less(limit),
                _ => return Err(value("one number")),
            },
            ("greater", Kind::Number) => match numbers()?[..] {
                [limit] => Operator::Greater(limit),
                _ => return Err(value("one number")),
            },
            ("between", Kind::Number) => match numbers()?[..] {
                [from, to] if from <= to => Operator::Between(from, to),
                _ => return Err(value("two numbers, the smaller first")),
            },
            ("before", Kind::Date) => match &days()?[..] {
                [day] => Operator::Before(day.clone()),
                _ => return Err(value("one day")),
            },
            ("after", Kind::Date) => match &days()?[..] {
                [day] => Operator::After(day.clone()),
                _ => return Err(value("one day")),
            },
            ("between", Kind::Date) => match &days()?[..] {
                [from, to] if from <= to => Operator::DateBetween(from.clone(), to.clone()),
                _ => return Err(value("two days, the earlier first")),
            },
            ("equals", Kind::Date) => match &days()?[..] {
                [day] => Operator::DateBetween(day.clone(), day.clone()),
                _ => return Err(value("one day")),
            },
            ("code", Kind::Code) if written.values.iter().all(|code| code.contains(':')) => {
                Operator::Code(texts())
            }
            ("code", Kind::Code) => return Err(value("SCHEME:VALUE, such as SCT:69536005")),
            (operator, _) => {
                return Err(InvalidCondition::Operator {
                    keyword: keyword.to_owned(),
                    kind: kind.to_string(),
                    operator,
                    allowed: match kind {
                        Kind::Text => "equals, contains, matches, present",
                        Kind::Number => "equals, less, greater, between, present",
                        Kind::Date => "equals, before, after, between, present",
                        Kind::Code => "code, present",
                    },
                });
            }
        };
        Ok(Self { asked, operator })
    }

    fn holds(&self, subject: &Subject) -> Result<String, String> {
        let (name, values) = match &self.asked {
            Asked::Calling => (CALLING_AE_TITLE, subject.calling_ae_title().into_iter().collect()),
            Asked::Attribute { keyword, tag, kind: Kind::Code } => (*keyword, subject.codes(*tag)),
            Asked::Attribute { keyword, tag, .. } => (*keyword, subject.texts(*tag)),
        };
        if let Operator::Present(wanted) = self.operator {
            let is_there = !values.is_empty();
            let said = format!("{name} is {}", if is_there { "there" } else { "absent" });
            return if is_there == wanted { Ok(said) } else { Err(said) };
        }
        if values.is_empty() {
            return Err(format!("{name} is absent"));
        }
        let said = format!("{name} is {}", values.join("\\"));
        if values.iter().any(|value| self.operator.takes(value)) {
            return Ok(said);
        }
        Err(format!("{said}, not {}", self.operator))
    }
}

impl Operator {
    fn takes(&self, value: &str) -> bool {
        let number = || value.trim().parse::<f64>().ok();
        let lower = || value.trim().to_lowercase();
        match self {
            Self::Equals(wanted) => wanted.iter().any(|text| text.trim().to_lowercase() == lower()),
            Self::Contains(wanted) => wanted.iter().any(|text| lower().contains(&text.to_lowercase())),
            Self::Matches(wanted) => wanted.iter().any(|form| has_form(&lower(), &form.to_lowercase())),
            Self::Is(wanted) => number().is_some_and(|n| wanted.iter().any(|w| (n - w).abs() < SAME_NUMBER)),
            Self::Less(limit) => number().is_some_and(|n| n < *limit),
            Self::Greater(limit) => number().is_some_and(|n| n > *limit),
            Self::Between(from, to) => number().is_some_and(|n| (*from..=*to).contains(&n)),
            Self::Before(day) => day_of(value).is_some_and(|found| found < *day),
            Self::After(day) => day_of(value).is_some_and(|found| found > *day),
            Self::DateBetween(from, to) => day_of(value).is_some_and(|found| *from <= found && found <= *to),
            Self::Code(wanted) => wanted.iter().any(|code| code.eq_ignore_ascii_case(value)),
            Self::Present(_) => true,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(texts) | Self::Code(texts) => f.write_str(&texts.join(" or ")),
            Self::Contains(texts) => write!(f, "with {} in it", texts.join(" or ")),
            Self::Matches(forms) => write!(f, "of the form {}", forms.join(" or ")),
            Self::Is(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                f.write_str(&numbers.join(" or "))
            }
            Self::Less(limit) => write!(f, "less than {limit}"),
            Self::Greater(limit) => write!(f, "greater than {limit}"),
            Self::Between(from, to) => write!(f, "from {from} to {to}"),
            Self::Before(day) => write!(f, "before {day}"),
            Self::After(day) => write!(f, "after {day}"),
            Self::DateBetween(from, to) => write!(f, "from {from} to {to}"),
            Self::Present(wanted) => f.write_str(if *wanted { "there" } else { "absent" }),
        }
    }
}

impl Condition {
    /// Whether it holds, and in words why, or why not.
    ///
    /// # Errors
    /// The words that say why it does not hold.
    pub fn holds(&self, subject: &Subject) -> Result<String, String> {
        match self {
            Self::Test(test) => test.holds(subject),
            Self::Not(condition) => match condition.holds(subject) {
                Ok(why) => Err(why),
                Err(why) => Ok(why),
            },
            Self::All(conditions) => {
                let said: Vec<String> =
                    conditions.iter().map(|condition| condition.holds(subject)).collect::<Result<_, _>>()?;
                Ok(said.join("; "))
            }
            Self::Any(conditions) => {
                let mut failed = Vec::new();
                for condition in conditions {
                    match condition.holds(subject) {
                        Ok(why) => return Ok(why),
                        Err(why) => failed.push(why),
                    }
                }
                Err(failed.join("; "))
            }
        }
    }
}

/// Numbers nearer than this are the same: DS has at most 16 digits, and people write 1.25 for 1.2500001.
const SAME_NUMBER: f64 = 1e-6;

fn asked(keyword: &str) -> Result<(Asked, Kind), InvalidCondition> {
    if keyword == CALLING_AE_TITLE {
        return Ok((Asked::Calling, Kind::Text));
    }
    let entry = StandardDataDictionary.by_name(keyword);
    let entry = entry.ok_or_else(|| InvalidCondition::Keyword(keyword.to_owned()))?;
    let tag = entry.tag.inner();
    let vr = entry.vr.relaxed();
    if vr == VR::PN || IDENTIFYING.contains(&tag) {
        return Err(InvalidCondition::Patient(keyword.to_owned()));
    }
    let kind = match vr {
        VR::AE | VR::AS | VR::CS | VR::LO | VR::LT | VR::SH | VR::ST | VR::UC | VR::UI | VR::UT => Kind::Text,
        VR::DS | VR::IS | VR::FL | VR::FD | VR::US | VR::SS | VR::UL | VR::SL => Kind::Number,
        VR::DA => Kind::Date,
        VR::SQ => Kind::Code,
        other => {
            return Err(InvalidCondition::Vr {
                keyword: keyword.to_owned(),
                vr: other.to_string().to_owned(),
            });
        }
    };
    Ok((Asked::Attribute { keyword: entry.alias, tag, kind }, kind))
}

/// What tells one patient from another, besides every name: values of rules are shown to people and kept. With Other
/// Patient IDs and Medical Record Locator, both retired.
const IDENTIFYING: [Tag; 8] = [
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    Tag(0x0010, 0x1000),
    tags::ACCESSION_NUMBER,
    tags::PATIENT_ADDRESS,
    tags::ISSUER_OF_PATIENT_ID,
    Tag(0x0010, 0x1090),
    tags::PATIENT_TELEPHONE_NUMBERS,
];

/// `YYYYMMDD` of a day written so or as `YYYY-MM-DD`.
fn day_of(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let month_and_day = (digits.get(4..6)?.parse::<u8>().ok()?, digits.get(6..8)?.parse::<u8>().ok()?);
    let is_day = digits.len() == 8
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (1..=12).contains(&month_and_day.0)
        && (1..=31).contains(&month_and_day.1);
    is_day.then_some(digits)
}

/// Wildcard matching as PS3.4 C.2.2.2.4 has it: `*` anything, `?` one character. Bounded by text times form.
fn has_form(text: &str, form: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for wanted in form.chars() {
        let mut next = vec![false; text.len() + 1];
        if wanted == '*' {
            let mut any = false;
            for (at, was) in reached.iter().enumerate() {
                any |= *was;
                next[at] = any;
            }
        } else {
            for (at, found) in text.iter().enumerate() {
                next[at + 1] = reached[at] && (wanted == '?' || wanted == *found);
            }
        }
        reached = next;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(keyword: &str, name: &'static str, values: &[&str]) -> Result<Test, InvalidCondition> {
        Test::new(keyword, &Written { name, values: values.iter().map(|v| (*v).to_owned()).collect() })
    }

    #[test]
    fn an_operator_that_does_not_fit_the_vr_is_refused_with_what_is_allowed() {
        for (keyword, operator, values, said) in [
            ("SliceThickness", "contains", &["1"][..], "is a number"),
            ("SeriesDescription", "less", &["1"], "equals, contains, matches"),
            ("SliceThickness", "between", &["3", "1"], "the smaller first"),
            ("SliceThickness", "less", &["thin"], "numbers"),
            ("StudyDate", "after", &["last week"], "YYYY-MM-DD"),
            ("AnatomicRegionSequence", "equals", &["neck"], "is a code"),
            ("AnatomicRegionSequence", "code", &["69536005"], "SCHEME:VALUE"),
            ("SeriesDescriptoin", "equals", &["x"], "no DICOM keyword"),
            ("PatientName", "contains", &["a"], "who the patient is"),
            ("PatientID", "equals", &["1"], "who the patient is"),
            ("PixelData", "present", &["true"], "VR"),
            ("Modality", "equals", &[], "at least one value"),
            ("Modality", "present", &["yes"], "true or false"),
        ] {
            let error = test(keyword, operator, values).unwrap_err().to_string();
            assert!(error.contains(said), "{keyword} {operator}: {error}");
        }
    }

    #[test]
    fn wildcards_match_the_whole_text() {
        for (text, form, wanted) in [
            ("neck 1.5 b30f", "neck*", true),
            ("neck 1.5 b30f", "*b3?f", true),
            ("neck", "nec", false),
            ("", "*", true),
            ("", "?", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*a*a*a*a*c", false),
        ] {
            assert_eq!(has_form(text, form), wanted, "{text:?} {form:?}");
        }
    }

    #[test]
    fn days_and_numbers_compare_as_such() {
        let day = |name, values: &[&str]| test("StudyDate", name, values).unwrap().operator;
        assert!(
            day("after", &["2026-01-31"]).takes("20260201")
                && !day("after", &["2026-01-31"]).takes("20260131")
        );
        assert!(day("between", &["2026-01-01", "2026-01-31"]).takes("20260131"));
        let number = |name, values: &[&str]| test("SliceThickness", name, values).unwrap().operator;
        assert!(number("between", &["0.5", "3"]).takes("3.0000 ") && !number("less", &["3"]).takes("3"));
        assert!(number("equals", &["1.25", "2"]).takes("2.00") && !number("greater", &["10"]).takes("9"));
    }
}
