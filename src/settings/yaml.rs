//! YAML text to values, after a look at its shape: the parser's time grows with the square of the nesting.

use serde::de::{DeserializeOwned, Error};

/// Brackets within brackets. Our files need three; at 200 000 the parser takes minutes.
const MAX_DEPTH: usize = 64;

/// Reads a value from YAML text.
pub(super) fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, serde_yaml::Error> {
    // Brackets in comments and strings are counted too, which no sensible file of ours minds.
    let mut depth = 0_usize;
    for (line, byte) in text.lines().enumerate().flat_map(|(n, line)| line.bytes().map(move |b| (n + 1, b))) {
        depth = match byte {
            b'[' | b'{' => depth + 1,
            b']' | b'}' => depth.saturating_sub(1),
            _ => depth,
        };
        if depth > MAX_DEPTH {
            return Err(serde_yaml::Error::custom(format_args!(
                "line {line} opens more than {MAX_DEPTH} brackets within each other"
            )));
        }
    }
    serde_yaml::from_str(text)
}
