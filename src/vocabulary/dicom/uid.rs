//! Unique identifiers (PS3.5 section 9), each kind a type of its own.

use std::fmt;
use std::str::FromStr;

/// Why a text is no UID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUid {
    /// The value is there but has no characters.
    #[error("the UID is empty; the sender must give every object an identifier")]
    Empty,
    /// PS3.5 9.1 allows 64 characters.
    #[error("the UID has {length} characters, PS3.5 allows 64; the sender must correct it")]
    TooLong {
        /// Characters found.
        length: usize,
    },
    /// Only digits and dots, no empty component.
    #[error("the UID holds something other than numbers between single dots; the sender must correct it")]
    Syntax,
}

/// Checks length and characters. Leading zeros in a component break PS3.5 but occur in stored archives
/// and harm nothing, so they pass.
fn check(text: &str) -> Result<(), InvalidUid> {
    if text.is_empty() {
        return Err(InvalidUid::Empty);
    }
    if text.len() > 64 {
        return Err(InvalidUid::TooLong { length: text.len() });
    }
    let component_ok = |c: &str| !c.is_empty() && c.bytes().all(|b| b.is_ascii_digit());
    if text.split('.').all(component_ok) { Ok(()) } else { Err(InvalidUid::Syntax) }
}

macro_rules! uid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Parses a value as it stands in a data set: trailing NULs and spaces (padding) are dropped.
            ///
            /// # Errors
            /// [`InvalidUid`] when the rest is not a UID by PS3.5 9.1.
            pub fn parse(text: &str) -> Result<Self, InvalidUid> {
                let text = text.trim_end_matches(['\0', ' ']);
                check(text)?;
                Ok(Self(text.to_owned()))
            }

            /// Mints a UID under the root 2.25 from 128 random bits (PS3.5 B.2).
            #[must_use]
            pub fn mint(random: u128) -> Self {
                Self(format!("2.25.{random}"))
            }

            /// The dotted text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidUid;
            fn from_str(text: &str) -> Result<Self, InvalidUid> {
                Self::parse(text)
            }
        }
    };
}

uid_type!(
    /// Study Instance UID (0020,000D).
    StudyInstanceUid
);
uid_type!(
    /// Series Instance UID (0020,000E).
    SeriesInstanceUid
);
uid_type!(
    /// SOP Class UID (0008,0016).
    SopClassUid
);
uid_type!(
    /// SOP Instance UID (0008,0018).
    SopInstanceUid
);
uid_type!(
    /// Frame of Reference UID (0020,0052).
    FrameOfReferenceUid
);
uid_type!(
    /// Transaction UID (0008,1195).
    TransactionUid
);
uid_type!(
    /// Transfer Syntax UID (0002,0010).
    TransferSyntaxUid
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_goes_and_the_rest_is_checked() {
        assert_eq!(SopInstanceUid::parse("1.2.3\0").unwrap().as_str(), "1.2.3");
        for bad in ["", "1..2", ".1", "1.", "../../x", "1.2/3", "1.2.a", "1.2.3\\1"] {
            assert!(SopInstanceUid::parse(bad).is_err(), "{bad:?} passed");
        }
        let long = "1.".repeat(32) + "1";
        assert_eq!(SopInstanceUid::parse(&long), Err(InvalidUid::TooLong { length: 65 }));
    }

    #[test]
    fn the_largest_minted_uid_fits() {
        let uid = SopInstanceUid::mint(u128::MAX);
        assert_eq!(SopInstanceUid::parse(uid.as_str()), Ok(uid));
    }
}
