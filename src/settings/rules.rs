//! Rules of selection; config/rules.yaml documents every key.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ServiceSettings, SettingsError};
use crate::pipeline::series::{
    Choice, Condition, InvalidCondition, PassedOver, Priority, Rule, Rules, Test, Window, Written,
};

/// Why a rule cannot be.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRule {
    /// A condition that cannot be.
    #[error("rule {rule:?} has a condition that cannot be")]
    Condition {
        /// Which rule.
        rule: String,
        /// Why.
        #[source]
        source: InvalidCondition,
    },
    /// A value that is not allowed.
    #[error("rule {rule:?}: {key} is {found}, allowed: {allowed}")]
    Value {
        /// Which rule.
        rule: String,
        /// Which key.
        key: &'static str,
        /// What is there.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    pass_over: PassOver,
    rules: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PassOver {
    localizers: bool,
    reformatted: bool,
    derived: bool,
}

impl Default for PassOver {
    fn default() -> Self {
        Self { localizers: true, reformatted: true, derived: true }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    when: Option<ConditionEntry>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    template: Option<PathBuf>,
    #[serde(default)]
    destinations: Option<Vec<String>>,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    window: Option<Window>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    pass_over: Option<String>,
}

/// A condition as it is written: a group, or a keyword with one operator.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConditionEntry {
    all: Option<Vec<ConditionEntry>>,
    any: Option<Vec<ConditionEntry>>,
    not: Option<Box<ConditionEntry>>,
    keyword: Option<String>,
    equals: Option<Values>,
    contains: Option<Values>,
    matches: Option<Values>,
    less: Option<Values>,
    greater: Option<Values>,
    between: Option<Values>,
    before: Option<Values>,
    after: Option<Values>,
    code: Option<Values>,
    present: Option<Values>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Values {
    One(Scalar),
    Many(Vec<Scalar>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Truth(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Truth(truth) => truth.to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

impl ConditionEntry {
    fn condition(&self) -> Result<Condition, InvalidCondition> {
        let operators = [
            ("equals", &self.equals),
            ("contains", &self.contains),
            ("matches", &self.matches),
            ("less", &self.less),
            ("greater", &self.greater),
            ("between", &self.between),
            ("before", &self.before),
            ("after", &self.after),
            ("code", &self.code),
            ("present", &self.present),
        ];
        let mut written =
            operators.iter().filter_map(|(name, values)| values.as_ref().map(|values| (*name, values)));
        let (first, second) = (written.next(), written.next());
        match (&self.all, &self.any, &self.not, &self.keyword, first, second) {
            (Some(all), None, None, None, None, None) => Ok(Condition::All(conditions(all)?)),
            (None, Some(any), None, None, None, None) => Ok(Condition::Any(conditions(any)?)),
            (None, None, Some(not), None, None, None) => Ok(Condition::Not(Box::new(not.condition()?))),
            (None, None, None, Some(keyword), Some((name, values)), None) => {
                let values = match values {
                    Values::One(value) => vec![value.text()],
                    Values::Many(values) => values.iter().map(Scalar::text).collect(),
                };
                Ok(Condition::Test(Test::new(keyword, &Written { name, values })?))
            }
            _ => {
                let groups =
                    [("all", self.all.is_some()), ("any", self.any.is_some()), ("not", self.not.is_some())];
                let names =
                    groups.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| (*name).to_owned());
                let keyword = self.keyword.iter().map(|keyword| format!("keyword {keyword}"));
                let operators = first.into_iter().chain(second).map(|(name, _)| name.to_owned());
                let found: Vec<String> = names.chain(keyword).chain(operators).collect();
                let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
                Err(InvalidCondition::Shape(found))
            }
        }
    }
}

fn conditions(written: &[ConditionEntry]) -> Result<Vec<Condition>, InvalidCondition> {
    if written.is_empty() {
        return Err(InvalidCondition::Shape("an empty group".to_owned()));
    }
    written.iter().map(ConditionEntry::condition).collect()
}

/// Reads and checks the rules of a service's settings; `None` where they name no file.
///
/// # Errors
/// [`SettingsError`], which names file and rule, and says what is allowed.
pub fn load_rules(settings: &ServiceSettings) -> Result<Option<Rules>, SettingsError> {
    let Some(path) = &settings.rules else { return Ok(None) };
    let read = |source| SettingsError::Read { path: path.clone(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    let file: File =
        super::yaml::from_str(&text).map_err(|source| SettingsError::Yaml { path: path.clone(), source })?;
    let mut rules: Vec<Rule> = Vec::new();
    for entry in file.rules {
        if entry.name.is_empty() || rules.iter().any(|rule| rule.name == entry.name) {
            return Err(wrong(path, &entry.name, "name", &entry.name, "a name that no other rule has"));
        }
        rules.push(entry.rule(path, settings)?);
    }
    if rules.is_empty() {
        let allowed =
            "at least one rule; without the key `rules` of the service's settings every series is taken";
        return Err(SettingsError::Value {
            path: path.clone(),
            key: "rules",
            found: "empty".to_owned(),
            allowed,
        });
    }
    let PassOver { localizers, reformatted, derived } = file.pass_over;
    Ok(Some(Rules { pass_over: PassedOver { localizers, reformatted, derived }, rules }))
}

impl Entry {
    fn rule(self, path: &Path, settings: &ServiceSettings) -> Result<Rule, SettingsError> {
        let condition = |source| SettingsError::Rule {
            path: path.to_owned(),
            source: Box::new(InvalidRule::Condition { rule: self.name.clone(), source }),
        };
        let when = self.when.as_ref().map(ConditionEntry::condition).transpose().map_err(condition)?;
        let known: Vec<String> = settings.destinations.iter().map(|d| d.to.name.clone()).collect();
        for destination in self.destinations.iter().flatten() {
            if !known.contains(destination) {
                let allowed = "one of `destinations` in the service's settings, written the same";
                return Err(wrong(path, &self.name, "destinations", destination, allowed));
            }
        }
        if self.window.is_some() && self.priority != Priority::OffPeak {
            return Err(wrong(path, &self.name, "window", "there", "a window only with priority: off_peak"));
        }
        let beside = |template: &PathBuf| match template.to_str() {
            Some(name) if super::is_shipped(name) => template.clone(),
            _ => path.parent().unwrap_or(Path::new("")).join(template),
        };
        Ok(Rule {
            when,
            choice: Choice {
                rule: Some(self.name.clone()),
                model: self.model,
                template: self.template.as_ref().map(|template| beside(template).display().to_string()),
                destinations: self.destinations,
                priority: self.priority,
                window: self.window,
                dry_run: self.dry_run,
                passed_over: self.pass_over,
            },
            name: self.name,
        })
    }
}

fn wrong(path: &Path, rule: &str, key: &'static str, found: &str, allowed: &'static str) -> SettingsError {
    let source = InvalidRule::Value { rule: rule.to_owned(), key, found: found.to_owned(), allowed };
    SettingsError::Rule { path: path.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::service::DestinationSettings;
    use crate::vocabulary::causes::with_causes;
    use crate::vocabulary::dicom::Peer;

    fn load(text: &str) -> Result<Rules, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let settings = ServiceSettings {
            rules: Some(file.path().to_owned()),
            destinations: vec![DestinationSettings::from("ECLIPSE@10.0.0.5:104".parse::<Peer>().unwrap())],
            ..ServiceSettings::default()
        };
        load_rules(&settings).map(Option::unwrap).map_err(|error| with_causes(&error))
    }

    /// The example is one that loads, and shows every key and operator.
    #[test]
    fn the_example_loads_and_shows_every_key() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/rules.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let rules = load(&text).unwrap();
        assert!(rules.rules.len() > 2);
        for word in [
            "localizers",
            "reformatted",
            "derived",
            "name",
            "when",
            "model",
            "template",
            "destinations",
            "priority",
            "window",
            "dry_run",
            "pass_over",
            "all",
            "any",
            "not",
            "keyword",
            "equals",
            "contains",
            "matches",
            "less",
            "greater",
            "between",
            "before",
            "after",
            "code",
            "present",
            "urgent",
            "normal",
            "off_peak",
            "CallingAETitle",
        ] {
            assert!(text.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_rule_and_what_is_allowed() {
        for (text, said) in [
            ("rules: []", &["at least one rule"][..]),
            ("rules: [{name: a}, {name: a}]", &["rule \"a\"", "no other rule has"]),
            ("rules: [{name: a, whem: {}}]", &["whem", "when"]),
            ("rules: [{name: a, when: {}}]", &["rule \"a\"", "exactly one operator", "found nothing"]),
            ("rules: [{name: a, when: {keyword: Modality, equals: CT, contains: C}}]", &["equals, contains"]),
            ("rules: [{name: a, when: {all: []}}]", &["an empty group"]),
            (
                "rules: [{name: a, when: {keyword: SliceThickness, contains: 3}}]",
                &["a number", "less, greater"],
            ),
            ("rules: [{name: a, destinations: [TPS@h:1]}]", &["TPS@h:1", "written the same"]),
            ("rules: [{name: a, window: '22:00-06:00'}]", &["off_peak"]),
            ("rules: [{name: a, priority: off_peak, window: '22-6'}]", &["HH:MM-HH:MM"]),
            ("rules: [{name: a, priority: soon}]", &["soon", "urgent"]),
        ] {
            let error = load(text).unwrap_err();
            assert!(said.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }
}
