//! The structure template: what each organ is called, its color and code, and under which names it comes in.

use std::path::Path;

use serde::Deserialize;

use super::SettingsError;
use crate::pipeline::contours::RoiContours;
use crate::pipeline::rtstruct::{CodedConcept, InterpretedType, Roi};
use crate::vocabulary::organ::Organ;

/// The template that is shipped; `config/organs.yaml`.
const SHIPPED: &str = include_str!("../../config/organs.yaml");

/// Names, colors and codes, one entry per organ.
#[derive(Debug, Clone, PartialEq)]
pub struct StructureTemplate {
    entries: Vec<OrganEntry>,
}

/// How one organ is written and recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct OrganEntry {
    /// Which organ.
    pub organ: Organ,
    /// ROI Name, at most 16 characters.
    pub roi_name: String,
    /// ROI Display Color: red, green, blue.
    pub color: [u8; 3],
    /// What it is.
    pub code: Option<CodedConcept>,
    /// Its side.
    pub laterality: Option<CodedConcept>,
    /// Other names for it.
    pub synonyms: Vec<String>,
    /// Plausible volume, cm3, from and to: for a doubt flag.
    pub volume_cm3: Option<[f64; 2]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateFile {
    organs: Vec<EntryInFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryInFile {
    organ: String,
    roi_name: String,
    color: [u8; 3],
    code: Option<ConceptInFile>,
    laterality: Option<ConceptInFile>,
    #[serde(default)]
    synonyms: Vec<String>,
    volume_cm3: Option<[f64; 2]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConceptInFile {
    value: String,
    scheme: String,
    meaning: String,
}

impl From<ConceptInFile> for CodedConcept {
    fn from(c: ConceptInFile) -> Self {
        Self { value: c.value, scheme: c.scheme, meaning: c.meaning }
    }
}

impl StructureTemplate {
    /// The template of `config/organs.yaml` as it was at compile time.
    ///
    /// # Errors
    /// Never, as a test checks the file; the type says it for callers that also read others.
    pub fn shipped() -> Result<Self, SettingsError> {
        Self::parse(SHIPPED, Path::new("config/organs.yaml"))
    }

    /// A template from a file.
    ///
    /// # Errors
    /// [`SettingsError`]: unreadable, not of this form, an organ unknown, twice or missing, a name too long or used
    /// for two organs.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let read = |source| SettingsError::Read { path: path.to_owned(), source };
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    fn parse(yaml: &str, path: &Path) -> Result<Self, SettingsError> {
        let file: TemplateFile = super::yaml::from_str(yaml)
            .map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })?;
        let wrong = |key, found: &str, allowed| SettingsError::Value {
            path: path.to_owned(),
            key,
            found: found.to_owned(),
            allowed,
        };
        let mut entries: Vec<OrganEntry> = Vec::with_capacity(Organ::COUNT);
        for e in file.organs {
            let organ = Organ::from_key(&e.organ)
                .ok_or_else(|| wrong("organ", &e.organ, "one of the 28, as the example has them"))?;
            if entries.iter().any(|other| other.organ == organ) {
                return Err(wrong("organ", &e.organ, "each organ once"));
            }
            if e.roi_name.is_empty() || e.roi_name.len() > 16 || !e.roi_name.is_ascii() {
                return Err(wrong("roi_name", &e.roi_name, "1 to 16 ASCII characters"));
            }
            entries.push(OrganEntry {
                organ,
                roi_name: e.roi_name,
                color: e.color,
                code: e.code.map(CodedConcept::from),
                laterality: e.laterality.map(CodedConcept::from),
                synonyms: e.synonyms,
                volume_cm3: e.volume_cm3,
            });
        }
        entries.sort_by_key(|entry| entry.organ);
        if entries.len() != Organ::COUNT {
            return Err(wrong(
                "organs",
                &format!("{} entries", entries.len()),
                "one entry for each of the 28",
            ));
        }
        let template = Self { entries };
        template.no_name_for_two().map_err(|name| wrong("synonyms", &name, "a name for one organ only"))?;
        Ok(template)
    }

    fn no_name_for_two(&self) -> Result<(), String> {
        let mut owners = std::collections::BTreeMap::new();
        for entry in &self.entries {
            for name in entry.names() {
                if owners.insert(plain(name), entry.organ).is_some_and(|other| other != entry.organ) {
                    return Err(name.to_owned());
                }
            }
        }
        Ok(())
    }

    /// The entry of an organ.
    #[must_use]
    pub fn entry(&self, organ: Organ) -> &OrganEntry {
        &self.entries[organ.index()]
    }

    /// The organ that goes by this name: whole names, without case and anything but letters and digits.
    #[must_use]
    pub fn organ_named(&self, name: &str) -> Option<&OrganEntry> {
        let wanted = plain(name);
        self.entries.iter().find(|entry| entry.names().any(|known| plain(known) == wanted))
    }
}

impl OrganEntry {
    /// Every name it goes by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [self.roi_name.as_str(), self.organ.paper_name()]
            .into_iter()
            .chain(self.synonyms.iter().map(String::as_str))
    }

    /// The ROI of this organ with these contours.
    #[must_use]
    pub fn roi(&self, contours: RoiContours) -> Roi {
        Roi {
            name: self.roi_name.clone(),
            organ: Some(self.organ),
            color: self.color,
            interpreted_type: InterpretedType::Organ,
            code: self.code.clone(),
            laterality: self.laterality.clone(),
            contours,
            remark: None,
        }
    }
}

/// What two names are compared by: letters and digits, small.
pub(crate) fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_template_knows_every_organ_and_no_derived_name() {
        let template = StructureTemplate::shipped().unwrap();
        let of = |name: &str| template.organ_named(name).map(|entry| entry.organ);
        assert_eq!(of("parotid_LT"), Some(Organ::ParotidL));
        assert_eq!(of("OPTIC N. RT"), Some(Organ::OpticNerveR));
        assert_eq!(of("Temporal lobe R"), Some(Organ::TemporalLobeR));
        for derived in ["Chiasm3", "oral_cavity-ptv", "Cord - Grow", "Cartlg_Thyroid", "Parotid_L +5mm", ""] {
            assert_eq!(of(derived), None, "{derived:?}");
        }
        let lens = template.entry(Organ::LensR);
        assert_eq!((lens.roi_name.as_str(), lens.color), ("Lens_R", [224, 255, 255]));
        let side = lens.laterality.as_ref().map(|c| c.meaning.as_str());
        assert_eq!(side, Some("Right"));
    }

    #[test]
    fn a_wrong_template_says_which_key() {
        let check = |from: &str, to: &str| {
            let yaml = SHIPPED.replacen(from, to, 1);
            StructureTemplate::parse(&yaml, Path::new("t.yaml")).unwrap_err().to_string()
        };
        assert!(check("roi_name: \"Lens_L\"", "roi_name: \"Lens_of_the_left_eye\"").contains("roi_name"));
        assert!(check("organ: EyeL", "organ: Nose").contains("Nose"));
        assert!(check("\"TRACHEA\"", "\"Larynx\"").contains("one organ only"));
    }
}
