//! Structure templates: which structures a set holds, what they are called, and what is derived from what.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{SettingsError, StructureTemplate};
use crate::pipeline::rtstruct::{CodedConcept, InterpretedType};
use crate::pipeline::structures::{Directions, Margin, Planned, Reference, Source, StructurePlan, WIDEST_MM};
use crate::vocabulary::organ::Organ;

/// The shipped templates.
const SHIPPED: [(&str, &str); 3] = [
    ("head-and-neck", include_str!("../../config/templates/head-and-neck.yaml")),
    ("head-and-neck-planning", include_str!("../../config/templates/head-and-neck-planning.yaml")),
    ("kopf-hals", include_str!("../../config/templates/kopf-hals.yaml")),
];

/// The template of a program that nobody told otherwise.
pub const USUAL_TEMPLATE: &str = "head-and-neck";

/// How the body outline is called in a template.
const BODY: &str = "BODY";

/// Colors of structures that name none, in turn.
const COLORS: [[u8; 3]; 6] =
    [[255, 80, 80], [80, 255, 80], [90, 140, 255], [255, 200, 60], [255, 80, 255], [60, 255, 255]];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    character_set: Option<String>,
    structures: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    organ: Option<String>,
    body: Option<bool>,
    of: Option<String>,
    union: Option<Vec<String>>,
    intersection: Option<Vec<String>>,
    margin_mm: Option<Millimetres>,
    #[serde(default)]
    minus: Vec<String>,
    within: Option<String>,
    within_margin_mm: Option<Millimetres>,
    color: Option<[u8; 3]>,
    #[serde(rename = "type")]
    interpreted_type: Option<InterpretedType>,
    code: Option<Concept>,
    laterality: Option<Concept>,
    #[serde(default = "yes")]
    write: bool,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Millimetres {
    All(f64),
    Each(Each),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct Each {
    left: f64,
    right: f64,
    anterior: f64,
    posterior: f64,
    superior: f64,
    inferior: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Concept {
    value: String,
    scheme: String,
    meaning: String,
}

fn yes() -> bool {
    true
}

/// A template, and the dictionary of organs that it goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Names, colors, codes and synonyms of the organs.
    pub organs: StructureTemplate,
    /// Which structures a set holds.
    pub plan: StructurePlan,
    /// Whether it is a dictionary alone, with which every organ is written.
    pub is_dictionary: bool,
}

impl Template {
    /// A shipped template by name, else a file: a template, or a dictionary of organs like `config/organs.yaml`.
    ///
    /// # Errors
    /// [`SettingsError`], with the structure that is wrong and what is allowed.
    pub fn load(name_or_file: &str) -> Result<Self, SettingsError> {
        let path = Path::new(name_or_file);
        let is_dictionary = !is_shipped(name_or_file)
            && std::fs::read_to_string(path)
                .is_ok_and(|text| text.lines().any(|line| line.trim_end() == "organs:"));
        let organs =
            if is_dictionary { StructureTemplate::read(path)? } else { StructureTemplate::shipped()? };
        let plan = structure_plan(if is_dictionary { USUAL_TEMPLATE } else { name_or_file }, &organs)?;
        Ok(Self { organs, plan, is_dictionary })
    }
}

/// Whether a template goes by this name without a file.
#[must_use]
pub fn is_shipped(name: &str) -> bool {
    SHIPPED.iter().any(|(shipped, _)| *shipped == name)
}

/// A plan, whose organs get color and codes, and names where it gives none, from `organs`.
fn structure_plan(name_or_file: &str, organs: &StructureTemplate) -> Result<StructurePlan, SettingsError> {
    if let Some((_, yaml)) = SHIPPED.iter().find(|(name, _)| *name == name_or_file) {
        return parse(yaml, Path::new(name_or_file), organs);
    }
    let path = Path::new(name_or_file);
    let yaml = std::fs::read_to_string(path).map_err(|source| {
        let shipped: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        SettingsError::NoTemplate { name: name_or_file.to_owned(), shipped: shipped.join(", "), source }
    })?;
    parse(&yaml, path, organs)
}

fn parse(yaml: &str, path: &Path, organs: &StructureTemplate) -> Result<StructurePlan, SettingsError> {
    let file: File =
        serde_yaml::from_str(yaml).map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })?;
    let value = |key, found: &str, allowed| SettingsError::Value {
        path: path.to_owned(),
        key,
        found: found.to_owned(),
        allowed,
    };
    let mut reading = Reading { organs, indices: BTreeMap::new(), structures: Vec::new() };
    for entry in file.structures {
        let shown = entry.shown();
        reading.add(entry).map_err(|(key, allowed)| value(key, &shown, allowed))?;
    }
    if !reading.structures.iter().any(|planned| planned.written) {
        return Err(value("structures", "nothing to write", "at least one structure that is written"));
    }
    if let Some(set) = &file.character_set
        && !matches!(set.as_str(), "ISO_IR 100" | "ISO_IR 101" | "ISO_IR 109" | "ISO_IR 144" | "ISO_IR 192")
    {
        return Err(value("character_set", set, "ISO_IR 100, 101, 109, 144 or 192"));
    }
    Ok(StructurePlan { structures: reading.structures, character_set: file.character_set })
}

struct Reading<'a> {
    organs: &'a StructureTemplate,
    /// Names, small letters, to places in `structures`.
    indices: BTreeMap<String, usize>,
    structures: Vec<Planned>,
}

/// A key and what it allows.
type Wrong = (&'static str, &'static str);

impl Reading<'_> {
    fn add(&mut self, entry: Entry) -> Result<(), Wrong> {
        let source = self.source(&entry)?;
        let of_organ = match &source {
            Source::One(Reference::Organ(organ)) if entry.organ.is_some() => Some(self.organs.entry(*organ)),
            _ => None,
        };
        let is_body = entry.body.is_some();
        let usual_name = of_organ.map(|organ| organ.roi_name.clone()).or(is_body.then(|| BODY.to_owned()));
        let name = entry.name.clone().or(usual_name).ok_or(("name", "a name for what is derived"))?;
        let is_named = !name.trim().is_empty() && name.chars().count() <= 64;
        if !is_named || name.chars().any(|c| c.is_control() || c == '\\') {
            return Err(("name", "1 to 64 characters without a backslash"));
        }
        let margin = entry.margin_mm.map(margin_of).transpose()?;
        let within = match (&entry.within, entry.within_margin_mm) {
            (None, None) => None,
            (None, Some(_)) => return Err(("within_margin_mm", "a margin of what is named under within")),
            (Some(name), inset) => Some((self.reference(name)?, inset.map(margin_of).transpose()?)),
        };
        let minus = entry.minus.iter().map(|name| self.reference(name)).collect::<Result<_, _>>()?;
        let index = self.structures.len();
        let concept = |c: &Concept| CodedConcept {
            value: c.value.clone(),
            scheme: c.scheme.clone(),
            meaning: c.meaning.clone(),
        };
        let codes = [entry.code.as_ref().map(concept), entry.laterality.as_ref().map(concept)];
        let is_changed = margin.is_some() || within.is_some() || !entry.minus.is_empty();
        let [code, laterality] = match (codes, of_organ) {
            ([None, None], Some(organ)) if !is_changed => [organ.code.clone(), organ.laterality.clone()],
            (codes, _) => codes,
        };
        let usual_type = if is_body { InterpretedType::External } else { InterpretedType::Organ };
        let usual_color = of_organ.map_or(COLORS[index % COLORS.len()], |organ| organ.color);
        if self.indices.insert(name.to_lowercase(), index).is_some() {
            return Err(("name", "each name once, whatever its case"));
        }
        self.structures.push(Planned {
            name,
            color: entry.color.unwrap_or(usual_color),
            interpreted_type: entry.interpreted_type.unwrap_or(usual_type),
            code,
            laterality,
            source,
            margin,
            minus,
            within,
            written: entry.write,
        });
        Ok(())
    }

    fn source(&self, entry: &Entry) -> Result<Source, Wrong> {
        let all = |names: &[String]| -> Result<Vec<Reference>, Wrong> {
            if names.len() < 2 {
                return Err(("union or intersection", "at least two structures"));
            }
            names.iter().map(|name| self.reference(name)).collect()
        };
        match (&entry.organ, entry.body, &entry.of, &entry.union, &entry.intersection) {
            (Some(organ), None, None, None, None) => {
                let organ = Organ::from_key(organ)
                    .ok_or(("organ", "one of the 28, as config/organs.yaml has them"))?;
                Ok(Source::One(Reference::Organ(organ)))
            }
            (None, Some(true), None, None, None) => Ok(Source::One(Reference::Body)),
            (None, None, Some(name), None, None) => Ok(Source::One(self.reference(name)?)),
            (None, None, None, Some(names), None) => Ok(Source::Union(all(names)?)),
            (None, None, None, None, Some(names)) => Ok(Source::Intersection(all(names)?)),
            _ => Err(("structures", "one of organ, body: true, of, union, intersection in each")),
        }
    }

    /// An earlier structure of the template before an organ of that key; an earlier name wins, so that a structure made
    /// of a changed organ is made of the changed one where it is called by that name.
    fn reference(&self, name: &str) -> Result<Reference, Wrong> {
        if let Some(index) = self.indices.get(&name.to_lowercase()) {
            return Ok(Reference::Structure(*index));
        }
        match Organ::from_key(name) {
            Some(organ) => Ok(Reference::Organ(organ)),
            None if name == BODY => Ok(Reference::Body),
            None => Err((
                "of, union, intersection, minus or within",
                "an organ's key, BODY, or a name from above",
            )),
        }
    }
}

impl Entry {
    /// What a person finds it again by.
    fn shown(&self) -> String {
        let found = self.name.clone().or_else(|| self.organ.clone());
        found.unwrap_or_else(|| {
            if self.body.is_some() { BODY.to_owned() } else { "a structure without name".to_owned() }
        })
    }
}

fn margin_of(mm: Millimetres) -> Result<Margin, Wrong> {
    let each = match mm {
        Millimetres::All(mm) => Directions::all(mm),
        Millimetres::Each(e) => Directions {
            left: e.left,
            right: e.right,
            anterior: e.anterior,
            posterior: e.posterior,
            superior: e.superior,
            inferior: e.inferior,
        },
    };
    let sides = [each.left, each.right, each.anterior, each.posterior, each.superior, each.inferior];
    let within = |limit: std::ops::RangeInclusive<f64>| sides.iter().all(|mm| limit.contains(mm));
    if within(0.0..=WIDEST_MM) {
        Ok(Margin::Grow(each))
    } else if within(-WIDEST_MM..=0.0) {
        Ok(Margin::Shrink(Directions {
            left: -each.left,
            right: -each.right,
            anterior: -each.anterior,
            posterior: -each.posterior,
            superior: -each.superior,
            inferior: -each.inferior,
        }))
    } else {
        Err(("margin_mm", "0 to 100 mm in every direction, or -100 to 0 in every direction"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<StructurePlan, String> {
        let organs = StructureTemplate::shipped().unwrap();
        parse(yaml, Path::new("t.yaml"), &organs).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error} {cause}")
        })
    }

    #[test]
    fn the_shipped_templates_hold_what_they_say() {
        let organs = StructureTemplate::shipped().unwrap();
        let usual = structure_plan(USUAL_TEMPLATE, &organs).unwrap();
        assert_eq!(usual.structures.len(), Organ::COUNT);
        for (planned, organ) in usual.structures.iter().zip(Organ::ALL) {
            let entry = organs.entry(organ);
            assert_eq!(
                (&planned.name, planned.color, &planned.code),
                (&entry.roi_name, entry.color, &entry.code)
            );
        }
        let planning = structure_plan("head-and-neck-planning", &organs).unwrap();
        assert!(planning.needs_body() && !usual.needs_body());
        let cord = planning.structures.iter().find(|p| p.name == "SpinalCord_PRV05").unwrap();
        assert_eq!(cord.margin, Some(Margin::Grow(Directions::all(5.0))));
        assert!(planning.structures.iter().all(|p| p.name.len() <= 16));
        let german = structure_plan("kopf-hals", &organs).unwrap();
        assert_eq!(german.character_set.as_deref(), Some("ISO_IR 100"));
        assert_eq!(german.of_organ(Organ::SpinalCord).unwrap().name, "R\u{fc}ckenmark");
        assert!(german.structures.iter().all(|p| p.name.chars().count() <= 16));
    }

    #[test]
    fn the_document_can_be_copied() {
        let text = include_str!("../../docs/templates.md");
        let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let plan = read(example).unwrap();
        assert!(plan.structures.len() >= 8 && plan.needs_body());
    }

    #[test]
    fn a_wrong_template_says_which_structure_and_what_is_allowed() {
        for (yaml, named) in [
            ("structures: []", "at least one"),
            ("structures: [{organ: Nose}]", "Nose"),
            ("structures: [{organ: EyeL}, {organ: EyeL}]", "each name once"),
            ("structures: [{organ: EyeL, name: Eye}, {organ: EyeR, name: eYE}]", "each name once"),
            ("structures: [{of: EyeL, margin_mm: 3}]", "a name for what is derived"),
            ("structures: [{name: A, of: B}]", "a name from above"),
            ("structures: [{name: A, of: EyeL, union: [EyeL, EyeR]}]", "one of organ"),
            ("structures: [{name: A, union: [EyeL]}]", "at least two"),
            ("structures: [{name: A, of: EyeL, margin_mm: 101}]", "0 to 100"),
            (
                "structures: [{name: A, of: EyeL, margin_mm: {left: 1, right: -1, anterior: 0, posterior: 0, superior: 0, inferior: 0}}]",
                "in every direction",
            ),
            ("structures: [{name: A, of: EyeL, margin: 3}]", "margin"),
            ("structures: [{name: A, of: EyeL, type: PRV}]", "PRV"),
            ("structures: [{name: A, of: EyeL, within_margin_mm: 3}]", "under within"),
            ("structures: [{name: 'A\\B', of: EyeL}]", "backslash"),
            ("structures: [{organ: EyeL, write: false}]", "at least one"),
            ("{character_set: ISO_IR 13, structures: [{organ: EyeL}]}", "ISO_IR 100"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
        }
    }

    #[test]
    fn a_name_from_above_is_before_the_organs_key() {
        let plan = read(
            "structures: [{name: EyeL, of: EyeR}, {name: A, of: eyel, write: false}, {name: B, of: LensL, within: A}]",
        )
        .unwrap();
        assert_eq!(plan.structures[1].source, Source::One(Reference::Structure(0)));
        assert_eq!(plan.structures[2].within, Some((Reference::Structure(1), None)));
    }
}
