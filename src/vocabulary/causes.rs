//! Errors in words.

use std::error::Error;

/// An error with its causes on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn causes_follow_on_one_line() {
        let error = Outer("x".parse::<u8>().unwrap_err());
        assert_eq!(with_causes(&error), "outer: invalid digit found in string");
    }
}
