//! What a data set's structures are called, and which of ours they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::SettingsError;
use super::organs::plain;
use crate::vocabulary::organ::Organ;

/// The maps that are shipped, by name; `config/datasets/`.
const SHIPPED: [(&str, &str); 7] = [
    ("any", include_str!("../../config/datasets/any.yaml")),
    ("uanet-28", include_str!("../../config/datasets/uanet-28.yaml")),
    ("pddca", include_str!("../../config/datasets/pddca.yaml")),
    ("han-seg", include_str!("../../config/datasets/han-seg.yaml")),
    ("totalsegmentator", include_str!("../../config/datasets/totalsegmentator.yaml")),
    ("deepmind-tcia", include_str!("../../config/datasets/deepmind-tcia.yaml")),
    ("openkbp", include_str!("../../config/datasets/openkbp.yaml")),
];

/// How a data set is read; see config/datasets/any.yaml for every key.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetMap {
    /// Licence and source, for the model card.
    pub licence: Option<String>,
    /// Where the files lie, for a set of one folder per case.
    pub files: Option<FilePattern>,
    /// Names of the values of label maps that have none.
    pub labels: BTreeMap<u16, String>,
    /// Our organ by name of theirs.
    organs: BTreeMap<String, Organ>,
    /// Organs that are several structures of theirs.
    pub joins: Vec<Join>,
    /// Structures of theirs that are two organs, left and right.
    pub pairs: Vec<Pair>,
    ignore: BTreeSet<String>,
    /// Whether names that are not in the map are looked up in the structure template.
    pub synonyms: bool,
    /// Whether a mask without a voxel says that the organ is not there, rather than that something went wrong.
    pub empty_is_absent: bool,
    patients: BTreeMap<String, String>,
}

/// Where the files of a case lie in its folder: `{case}` is the folder's name, `{organ}` the organ's; the ending of a
/// format is left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePattern {
    /// The image, such as `img`.
    pub image: String,
    /// One mask per organ, such as `structures/{organ}`.
    pub organ: String,
}

/// An organ that is several structures of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Ours.
    pub organ: Organ,
    /// Theirs; all of them are needed.
    pub of: Vec<String>,
}

/// A structure of theirs that is two organs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Theirs.
    pub name: String,
    /// Ours at the patient's left.
    pub left: Organ,
    /// Ours at the patient's right.
    pub right: Organ,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    licence: Option<String>,
    files: Option<FilePattern>,
    #[serde(default)]
    labels: BTreeMap<u16, String>,
    #[serde(default)]
    organs: BTreeMap<String, String>,
    #[serde(default)]
    joins: Vec<JoinInFile>,
    #[serde(default)]
    pairs: Vec<PairInFile>,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default = "yes")]
    synonyms: bool,
    #[serde(default)]
    empty_is_absent: bool,
    #[serde(default)]
    patients: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinInFile {
    organ: String,
    of: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairInFile {
    name: String,
    left: String,
    right: String,
}

impl DatasetMap {
    /// A shipped map by name, else one from a file.
    ///
    /// # Errors
    /// [`SettingsError`]: unreadable, not of this form, an organ that is none, a name with two meanings.
    pub fn named_or_read(name: &Path) -> Result<Self, SettingsError> {
        if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| Path::new(shipped) == name) {
            return Self::parse(text, name);
        }
        let text = std::fs::read_to_string(name).map_err(|source| {
            let shipped: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
            SettingsError::NoMap { path: name.to_owned(), shipped: shipped.join(", "), source }
        })?;
        Self::parse(&text, name)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let file: InFile = super::yaml::from_str(text)
            .map_err(|source| SettingsError::Yaml { path: path.to_owned(), source })?;
        let wrong = |key, found: &str, allowed| SettingsError::Value {
            path: path.to_owned(),
            key,
            found: found.to_owned(),
            allowed,
        };
        const ORGANS: &str = "one of the 28, named as in config/organs.yaml";
        let organ =
            |key: &'static str, name: &str| Organ::from_key(name).ok_or_else(|| wrong(key, name, ORGANS));
        let mut seen = BTreeSet::new();
        let mut once = |name: &str| {
            let fresh = !plain(name).is_empty() && seen.insert(plain(name));
            if fresh {
                Ok(())
            } else {
                Err(wrong("name", name, "a name with letters or digits, in one place only"))
            }
        };
        let mut organs = BTreeMap::new();
        for (theirs, ours) in &file.organs {
            once(theirs)?;
            organs.insert(plain(theirs), organ("organs", ours)?);
        }
        let mut joins = Vec::new();
        for join in file.joins {
            join.of.iter().try_for_each(|name| once(name))?;
            if join.of.len() < 2 {
                return Err(wrong("joins.of", &join.of.join(", "), "two names or more"));
            }
            joins.push(Join { organ: organ("joins.organ", &join.organ)?, of: join.of });
        }
        let mut pairs = Vec::new();
        for pair in file.pairs {
            once(&pair.name)?;
            let (left, right) = (organ("pairs.left", &pair.left)?, organ("pairs.right", &pair.right)?);
            if left.partner() != Some(right) {
                return Err(wrong("pairs.right", &pair.right, "the partner of the left one"));
            }
            pairs.push(Pair { name: pair.name, left, right });
        }
        file.ignore.iter().try_for_each(|name| once(name))?;
        if let Some(files) = &file.files
            && (!files.organ.contains("{organ}") || files.image.contains("{organ}"))
        {
            return Err(wrong(
                "files",
                &files.organ,
                "an organ pattern with {organ}, an image pattern without",
            ));
        }
        Ok(Self {
            licence: file.licence,
            files: file.files,
            labels: file.labels,
            organs,
            joins,
            pairs,
            ignore: file.ignore.iter().map(|name| plain(name)).collect(),
            synonyms: file.synonyms,
            empty_is_absent: file.empty_is_absent,
            patients: file.patients,
        })
    }

    /// Our organ by a name of theirs: letters and digits count, capitals do not.
    #[must_use]
    pub fn organ_named(&self, name: &str) -> Option<Organ> {
        self.organs.get(&plain(name)).copied()
    }

    /// Whether a name is known to be none of ours.
    #[must_use]
    pub fn ignores(&self, name: &str) -> bool {
        self.ignore.contains(&plain(name))
    }

    /// The patient of a case: its own name unless the map says more.
    #[must_use]
    pub fn patient_of<'a>(&'a self, case: &'a str) -> &'a str {
        self.patients.get(case).map_or(case, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_maps_are_valid_and_each_has_its_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/datasets");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), SHIPPED.len());
        for (name, _) in SHIPPED {
            DatasetMap::named_or_read(Path::new(name)).unwrap();
        }
        let han_seg = DatasetMap::named_or_read(Path::new("han-seg")).unwrap();
        assert_eq!(han_seg.organ_named("OAR_OPTICNRV_L"), None);
        assert_eq!(han_seg.joins.iter().find(|join| join.organ == Organ::EyeR).unwrap().of[1], "Eye_PR");
        let any = DatasetMap::named_or_read(Path::new("any")).unwrap();
        assert!(any.synonyms && any.patient_of("0727a") == "0727a");
    }

    #[test]
    fn a_wrong_map_says_which_key() {
        let check = |text: &str| DatasetMap::parse(text, Path::new("m.yaml")).unwrap_err().to_string();
        assert!(check("organs: { Nose: Nose }").contains("one of the 28"));
        assert!(check("organs: { \"Eye L\": EyeL, Eye_L: EyeL }").contains("one place only"));
        assert!(check("pairs: [{ name: Eyes, left: EyeL, right: LensR }]").contains("partner"));
        assert!(check("joins: [{ organ: Mandible, of: [Jaw] }]").contains("two names"));
        assert!(check("files: { image: img, organ: structures/x }").contains("{organ}"));
        assert!(check("organ: {}").contains("not as the example"));
        let missing = DatasetMap::named_or_read(Path::new("no-such-map")).unwrap_err().to_string();
        assert!(missing.contains("han-seg"), "{missing}");
    }
}
