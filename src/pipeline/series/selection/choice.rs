//! What is to be done with a series.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a series stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others.
    Urgent,
    /// In the order of completion.
    #[default]
    Normal,
    /// After all others, and only within its window.
    OffPeak,
}

impl Priority {
    /// Less goes first.
    #[must_use]
    pub fn rank(self) -> i64 {
        match self {
            Self::Urgent => 0,
            Self::Normal => 1,
            Self::OffPeak => 2,
        }
    }
}

/// A part of the day in local time, `HH:MM-HH:MM`; it may span midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Minute of the day at which it opens.
    from: u16,
    /// Minute of the day at which it closes.
    until: u16,
}

const MINUTES_OF_A_DAY: u16 = 1_440;

impl Window {
    /// How many minutes after this minute of the day it opens; 0 while it is open.
    #[must_use]
    pub fn opens_in_minutes(&self, minute_of_day: u16) -> u16 {
        let minute = minute_of_day % MINUTES_OF_A_DAY;
        let is_open = if self.from <= self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        };
        if is_open { 0 } else { (self.from + MINUTES_OF_A_DAY - minute) % MINUTES_OF_A_DAY }
    }
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a window is written HH:MM-HH:MM, such as 22:00-06:00, and is not empty; found {0:?}")]
pub struct InvalidWindow(String);

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let minute = |time: &str| {
            let (hours, minutes) = time.trim().split_once(':')?;
            let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let parsed = text.split_once('-').and_then(|(from, until)| Some((minute(from)?, minute(until)?)));
        match parsed {
            Some((from, until)) if from != until => Ok(Self { from, until }),
            _ => Err(InvalidWindow(text.to_owned())),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until) = (self.from, self.until);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

impl Serialize for Window {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is to be done with a series. The default: what the settings say for all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Choice {
    /// The rule that took it; none without rules.
    pub rule: Option<String>,
    /// Model, where it is another than the settings'.
    pub model: Option<String>,
    /// Structure template, a shipped one or a file, where it is another than the settings'.
    pub template: Option<String>,
    /// Destinations by their names, where they are others than all of the settings'.
    pub destinations: Option<Vec<String>>,
    /// How it stands in the queue.
    pub priority: Priority,
    /// When an off-peak series may be worked at; always without one.
    pub window: Option<Window>,
    /// Contour it, deliver nowhere.
    pub dry_run: bool,
    /// Why nothing is done with it.
    pub passed_over: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_and_may_span_midnight() {
        let night: Window = "22:00-06:30".parse().unwrap();
        let minutes = |h: u16, m: u16| night.opens_in_minutes(h * 60 + m);
        assert_eq!([minutes(22, 0), minutes(23, 59), minutes(0, 0), minutes(6, 29)], [0; 4]);
        assert_eq!((minutes(6, 30), minutes(21, 59)), (15 * 60 + 30, 1));
        let noon: Window = "12:05-13:00".parse().unwrap();
        assert_eq!((noon.opens_in_minutes(13 * 60), noon.opens_in_minutes(12 * 60)), (23 * 60 + 5, 5));
        assert_eq!(night.to_string(), "22:00-06:30");
        for wrong in ["22:00", "24:00-06:00", "6-7", "06:00-06:00", "22:60-23:00"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_choice_comes_back_from_json_and_the_default_is_short() {
        let json = r#"{"rule":"neck","priority":"off_peak","window":"22:00-06:00","later":1}"#;
        let choice: Choice = serde_json::from_str(json).unwrap();
        assert_eq!((choice.priority, choice.window.unwrap().opens_in_minutes(0)), (Priority::OffPeak, 0));
        assert_eq!(serde_json::from_str::<Choice>("{}").unwrap(), Choice::default());
    }
}
