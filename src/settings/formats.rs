//! How structure sets are written for a destination: the shipped forms of `config/destinations`, and what a site changes.

use serde::{Deserialize, Deserializer};

use crate::pipeline::contours::HoleForm;
use crate::pipeline::rtstruct::{Encoding, Format, Names, NotFound, Types};

/// The shipped forms.
const SHIPPED: [(&str, &str); 3] = [
    ("generic", include_str!("../../config/destinations/generic.yaml")),
    ("eclipse", include_str!("../../config/destinations/eclipse.yaml")),
    ("raystation", include_str!("../../config/destinations/raystation.yaml")),
];

/// A shipped form with changes. In settings: its name, or a mapping with `profile` and the keys that differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormatChoice(Keys);

/// Keys of a form; a key that is not there is as in what it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    profile: Option<String>,
    longest_name: Option<usize>,
    names: Option<Names>,
    types: Option<Types>,
    holes: Option<HoleForm>,
    not_found: Option<NotFound>,
    decimals: Option<u8>,
    transfer_syntax: Option<Encoding>,
    label: Option<String>,
    description: Option<String>,
}

/// Why a name is no form.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFormat {
    /// No such form.
    #[error("there is no format {name:?}: use generic, eclipse or raystation")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A value that is not allowed.
    #[error("{key} of a format: allowed is {allowed}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Not YAML of this form: only a shipped file can be that, and a test reads them.
    #[error("the format {name} cannot be read")]
    Yaml {
        /// Which.
        name: String,
        /// Line and reason.
        #[source]
        source: serde_yaml::Error,
    },
}

impl FormatChoice {
    /// A shipped form.
    ///
    /// # Errors
    /// [`InvalidFormat::Unknown`].
    pub fn named(name: &str) -> Result<Self, InvalidFormat> {
        let shipped = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
        let Some((_, yaml)) = shipped else { return Err(InvalidFormat::Unknown { name: name.to_owned() }) };
        let keys: Keys = serde_yaml::from_str(yaml)
            .map_err(|source| InvalidFormat::Yaml { name: name.to_owned(), source })?;
        Self(keys).checked()
    }

    /// The form in full; `not_found` is for forms that say nothing about it.
    #[must_use]
    pub fn resolved(&self, not_found: NotFound) -> Format {
        let (keys, usual) = (&self.0, Format::default());
        Format {
            longest_name: keys.longest_name.unwrap_or(usual.longest_name),
            names: keys.names.unwrap_or(usual.names),
            types: keys.types.unwrap_or(usual.types),
            holes: keys.holes.unwrap_or(usual.holes),
            not_found: keys.not_found.unwrap_or(not_found),
            decimals: keys.decimals.unwrap_or(usual.decimals),
            encoding: keys.transfer_syntax.unwrap_or(usual.encoding),
            label: keys.label.clone(),
            description: keys.description.clone(),
        }
    }

    fn checked(self) -> Result<Self, InvalidFormat> {
        let keys = &self.0;
        let value = |key, allowed| Err(InvalidFormat::Value { key, allowed });
        if keys.longest_name.is_some_and(|n| !(4..=64).contains(&n)) {
            return value("longest_name", "4 to 64");
        }
        if keys.decimals.is_some_and(|n| !(1..=4).contains(&n)) {
            return value("decimals", "1 to 4");
        }
        if keys.label.as_ref().is_some_and(|l| l.trim().is_empty() || l.chars().count() > 16) {
            return value("label", "1 to 16 characters");
        }
        if keys.description.as_ref().is_some_and(|d| d.chars().count() > 300) {
            return value("description", "at most 300 characters");
        }
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for FormatChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NameOrKeys {
            Name(String),
            Keys(serde_yaml::Value),
        }
        let keys = match NameOrKeys::deserialize(deserializer)? {
            NameOrKeys::Name(name) => return Self::named(&name).map_err(serde::de::Error::custom),
            // Read apart, so that a wrong key is named.
            NameOrKeys::Keys(value) => {
                serde_yaml::from_value::<Keys>(value).map_err(serde::de::Error::custom)?
            }
        };
        let base =
            Self::named(keys.profile.as_deref().unwrap_or("generic")).map_err(serde::de::Error::custom)?.0;
        let changed = Keys {
            profile: None,
            longest_name: keys.longest_name.or(base.longest_name),
            names: keys.names.or(base.names),
            types: keys.types.or(base.types),
            holes: keys.holes.or(base.holes),
            not_found: keys.not_found.or(base.not_found),
            decimals: keys.decimals.or(base.decimals),
            transfer_syntax: keys.transfer_syntax.or(base.transfer_syntax),
            label: keys.label.or(base.label),
            description: keys.description.or(base.description),
        };
        Self(changed).checked().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Format, String> {
        let choice: Result<FormatChoice, _> = serde_yaml::from_str(yaml);
        choice.map(|c| c.resolved(NotFound::EmptyRoi)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_shipped_forms_are_what_the_documents_say() {
        let default = Format { not_found: NotFound::EmptyRoi, ..Format::default() };
        assert_eq!(read("generic").unwrap(), default);
        assert_eq!(FormatChoice::default().resolved(NotFound::EmptyRoi), default);
        let eclipse = read("eclipse").unwrap();
        assert_eq!((eclipse.longest_name, eclipse.decimals, eclipse.not_found), (16, 2, NotFound::LeaveOut));
        assert_eq!((eclipse.types, eclipse.encoding), (Types::Organ, Encoding::Implicit));
        assert_eq!(read("raystation").unwrap().longest_name, 64);
    }

    #[test]
    fn a_site_changes_single_keys() {
        let changed = read("{profile: eclipse, holes: separate, longest_name: 20}").unwrap();
        let eclipse = read("eclipse").unwrap();
        assert_eq!(changed, Format { holes: HoleForm::Separate, longest_name: 20, ..eclipse.clone() });
        assert_ne!(changed.id(), eclipse.id());
        for (yaml, named) in [
            ("pinnacle", "generic, eclipse or raystation"),
            ("{decimals: 5}", "1 to 4"),
            ("{longest_name: 65}", "4 to 64"),
            ("{profile: eclipse, hole: xor}", "hole"),
            ("{holes: filled}", "keyhole"),
            ("{label: 'seventeen letters'}", "1 to 16"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
        }
    }
}
