//! Which structures a set holds, and what each is made of.

use super::FoundStructure;
use super::margin::Margin;
use crate::pipeline::rtstruct::{CodedConcept, InterpretedType, Roi};
use crate::vocabulary::organ::Organ;

/// The structures of a set, in the order in which they are written and made.
#[derive(Debug, Clone, PartialEq)]
pub struct StructurePlan {
    /// Each may use those before it.
    pub structures: Vec<Planned>,
    /// Specific Character Set of names, where the CT has none.
    pub character_set: Option<String>,
}

/// One structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// ROI Name wanted.
    pub name: String,
    /// ROI Display Color: red, green, blue.
    pub color: [u8; 3],
    /// What it is to a planning system.
    pub interpreted_type: InterpretedType,
    /// What it is.
    pub code: Option<CodedConcept>,
    /// Its side.
    pub laterality: Option<CodedConcept>,
    /// What it begins as.
    pub source: Source,
    /// Then it grows or shrinks.
    pub margin: Option<Margin>,
    /// Then these are taken away.
    pub minus: Vec<Reference>,
    /// Then it is cut to this, itself grown or shrunk before.
    pub within: Option<(Reference, Option<Margin>)>,
    /// Whether it becomes an ROI, or only others use it.
    pub written: bool,
}

/// What a structure begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Another one.
    One(Reference),
    /// Everything that is in any of them.
    Union(Vec<Reference>),
    /// What is in all of them.
    Intersection(Vec<Reference>),
}

/// Something that a structure is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// An organ that the model draws.
    Organ(Organ),
    /// The patient's outline.
    Body,
    /// An earlier structure of the plan.
    Structure(usize),
}

impl StructurePlan {
    /// Whether any structure needs the patient's outline.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.structures
            .iter()
            .any(|planned| planned.operands().any(|reference| *reference == Reference::Body))
    }

    /// The name under which an organ is written as it is, where the plan does that.
    #[must_use]
    pub fn of_organ(&self, organ: Organ) -> Option<&Planned> {
        let is_it =
            |planned: &&Planned| planned.is_plain() && planned.source == Source::One(Reference::Organ(organ));
        self.structures.iter().find(is_it)
    }

    /// What a person calls it.
    pub(super) fn name_of(&self, reference: &Reference) -> String {
        match reference {
            Reference::Organ(organ) => self.of_organ(*organ).map_or_else(|| organ.key(), |p| p.name.clone()),
            Reference::Body => "the body outline".to_owned(),
            Reference::Structure(index) => self.structures[*index].name.clone(),
        }
    }
}

impl Planned {
    /// Everything that it is made of.
    pub(super) fn operands(&self) -> impl Iterator<Item = &Reference> {
        let source = match &self.source {
            Source::One(reference) => std::slice::from_ref(reference),
            Source::Union(all) | Source::Intersection(all) => all.as_slice(),
        };
        source.iter().chain(&self.minus).chain(self.within.iter().map(|(reference, _)| reference))
    }

    /// Whether it is its source, unchanged.
    fn is_plain(&self) -> bool {
        self.margin.is_none() && self.minus.is_empty() && self.within.is_none()
    }

    pub(super) fn roi(&self, found: FoundStructure) -> Roi {
        let organ = match self.source {
            Source::One(Reference::Organ(organ)) if self.is_plain() => Some(organ),
            _ => None,
        };
        Roi {
            name: self.name.clone(),
            organ,
            color: self.color,
            interpreted_type: self.interpreted_type,
            code: self.code.clone(),
            laterality: self.laterality.clone(),
            contours: found.contours,
            remark: found.remark,
        }
    }
}
