//! Which rules run.

use std::str::FromStr;

use serde::Deserialize;

/// The rules, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A paired organ lies on its side of the midsagittal plane.
    Sides,
    /// An organ is one piece, but for those that are two.
    OnePiece,
    /// The brain stem ends where the cord begins, at one height.
    BrainStemCord,
    /// No voxel belongs to two organs.
    Exclusive,
    /// What ends where the scan ends is marked.
    Truncated,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Sides, Self::OnePiece, Self::BrainStemCord, Self::Exclusive, Self::Truncated];

    /// Its key in the settings.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Sides => "sides",
            Self::OnePiece => "one_piece",
            Self::BrainStemCord => "brain_stem_cord",
            Self::Exclusive => "exclusive",
            Self::Truncated => "truncated",
        }
    }
}

/// The rules as the settings switch them; section `anatomy` of config/service.yaml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnatomySettings {
    /// [`Rule::Sides`].
    pub sides: bool,
    /// [`Rule::OnePiece`].
    pub one_piece: bool,
    /// [`Rule::BrainStemCord`].
    pub brain_stem_cord: bool,
    /// [`Rule::Exclusive`].
    pub exclusive: bool,
    /// Whether a lens is part of its eye too, which [`Rule::Exclusive`] then leaves alone.
    pub eye_includes_lens: bool,
    /// [`Rule::Truncated`].
    pub truncated: bool,
    /// Whether the network also looks at the mirrored patient, so that both answers are averaged and compared: twice the
    /// network's time.
    pub mirror: bool,
}

impl AnatomySettings {
    /// No rule at all.
    pub const NONE: Self = Self {
        sides: false,
        one_piece: false,
        brain_stem_cord: false,
        exclusive: false,
        eye_includes_lens: false,
        truncated: false,
        mirror: false,
    };

    fn switch(&mut self, rule: Rule) -> &mut bool {
        match rule {
            Rule::Sides => &mut self.sides,
            Rule::OnePiece => &mut self.one_piece,
            Rule::BrainStemCord => &mut self.brain_stem_cord,
            Rule::Exclusive => &mut self.exclusive,
            Rule::Truncated => &mut self.truncated,
        }
    }
}

impl Default for AnatomySettings {
    fn default() -> Self {
        Self {
            sides: true,
            one_piece: true,
            brain_stem_cord: true,
            exclusive: true,
            eye_includes_lens: false,
            truncated: true,
            mirror: false,
        }
    }
}

/// Which rules a command was asked for: `all`, `none`, `only=RULE,RULE` or `without=RULE,RULE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChoice {
    on: Vec<Rule>,
}

/// Why a text chooses no rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "wanted all, none, only=RULE,... or without=RULE,..., found {0:?}; the rules are sides, one_piece, brain_stem_cord, \
     exclusive, truncated"
)]
pub struct InvalidRuleChoice(String);

impl RuleChoice {
    /// Switches the rules of these settings; what is no rule stays.
    #[must_use]
    pub fn applied(&self, mut settings: AnatomySettings) -> AnatomySettings {
        for rule in Rule::ALL {
            *settings.switch(rule) = self.on.contains(&rule);
        }
        settings
    }
}

impl FromStr for RuleChoice {
    type Err = InvalidRuleChoice;

    fn from_str(text: &str) -> Result<Self, InvalidRuleChoice> {
        let invalid = || InvalidRuleChoice(text.to_owned());
        let named = |list: &str| -> Result<Vec<Rule>, InvalidRuleChoice> {
            list.split(',')
                .map(|key| Rule::ALL.into_iter().find(|rule| rule.key() == key.trim()).ok_or_else(invalid))
                .collect()
        };
        let on = match text.split_once('=') {
            None if text == "all" => Rule::ALL.to_vec(),
            None if text == "none" => Vec::new(),
            Some(("only", list)) => named(list)?,
            Some(("without", list)) => {
                let off = named(list)?;
                Rule::ALL.into_iter().filter(|rule| !off.contains(rule)).collect()
            }
            _ => return Err(invalid()),
        };
        Ok(Self { on })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_switch_rules_and_nothing_else() {
        let start = AnatomySettings { mirror: true, eye_includes_lens: true, ..AnatomySettings::NONE };
        let chosen = |text: &str| text.parse::<RuleChoice>().map(|choice| choice.applied(start));
        assert_eq!(chosen("none"), Ok(start));
        assert_eq!(
            chosen("only=sides,exclusive"),
            Ok(AnatomySettings { sides: true, exclusive: true, ..start })
        );
        let all = AnatomySettings { mirror: true, eye_includes_lens: true, ..AnatomySettings::default() };
        assert_eq!(chosen("all"), Ok(all));
        assert_eq!(chosen("without=truncated"), Ok(AnatomySettings { truncated: false, ..all }));
        for wrong in ["", "some", "only=", "only=sides,lungs", "without"] {
            let error = chosen(wrong).unwrap_err().to_string();
            assert!(error.contains("brain_stem_cord") && error.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
