//! Our text in the CT's character set (PS3.3 C.12.1.1.2): the patient's bytes are copied, so the set is the patient's.

use dicom_core::PrimitiveValue;
use dicom_core::value::Value;
use dicom_dictionary_std::tags;
use dicom_encoding::text::{SpecificCharacterSet, TextCodec};
use dicom_object::InMemDicomObject;

/// Sets of one byte a character, and UTF-8: in these a byte below 80H is always ASCII, so no text can hold a hidden
/// backslash, and no code extension needs to be tracked.
const SIMPLE: [&str; 13] = [
    "ISO_IR 100",
    "ISO_IR 101",
    "ISO_IR 109",
    "ISO_IR 110",
    "ISO_IR 144",
    "ISO_IR 127",
    "ISO_IR 126",
    "ISO_IR 138",
    "ISO_IR 148",
    "ISO_IR 166",
    "ISO_IR 192",
    "ISO_IR 203",
    "ISO_IR 6",
];

/// The set that a structure set is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CharacterSet {
    /// Its defined term; `None` is ASCII, or a set that we write ASCII in.
    code: Option<String>,
    /// What Specific Character Set says, for messages.
    said: String,
    /// Whether Specific Character Set must be written, because the CT has none.
    is_ours: bool,
}

/// A text that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot be written in the CT's character set ({set}): use a template without such characters for this \
     scanner, or names: ascii for the destination"
)]
pub struct Unwritable {
    /// The text.
    pub text: String,
    /// Specific Character Set (0008,0005) as the CT has it.
    pub set: String,
}

impl CharacterSet {
    /// The CT's own set. Where it has none and all that is copied from it is ASCII, the template's is as good.
    pub(super) fn of(copied: &InMemDicomObject, of_template: Option<&str>) -> Self {
        let said = copied
            .get(tags::SPECIFIC_CHARACTER_SET)
            .and_then(|element| element.to_multi_str().ok())
            .map(|codes| codes.iter().map(|code| code.trim().to_owned()).collect::<Vec<_>>())
            .unwrap_or_default();
        let is_ascii = said.iter().all(|code| code.is_empty() || code == "ISO_IR 6");
        match (said.as_slice(), of_template) {
            (_, Some(wanted)) if is_ascii && all_ascii(copied) && SIMPLE.contains(&wanted) => {
                Self { code: Some(wanted.to_owned()), said: wanted.to_owned(), is_ours: true }
            }
            ([only], _) if SIMPLE.contains(&only.as_str()) => {
                Self { code: Some(only.clone()), said: only.clone(), is_ours: false }
            }
            _ => {
                let said = if said.is_empty() { "none, so ASCII".to_owned() } else { said.join("\\") };
                Self { code: None, said, is_ours: false }
            }
        }
    }

    /// The value of Specific Character Set where we must write it.
    pub(super) fn to_write(&self) -> Option<&str> {
        self.code.as_deref().filter(|_| self.is_ours)
    }

    /// # Errors
    /// [`Unwritable`] where the set cannot hold the text.
    pub(super) fn check(&self, text: &str) -> Result<(), Unwritable> {
        let unwritable = || Unwritable { text: text.to_owned(), set: self.said.clone() };
        self.bytes(text).map(drop).ok_or_else(unwritable)
    }

    /// A value as it is written: text where it is ASCII, else the bytes of this set. What the set cannot hold, which
    /// [`CharacterSet::check`] has excluded, becomes an underscore.
    pub(super) fn value(&self, text: &str) -> PrimitiveValue {
        if text.is_ascii() {
            return PrimitiveValue::from(text);
        }
        let plain =
            || text.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect::<String>().into_bytes();
        let mut bytes = self.bytes(text).unwrap_or_else(plain);
        if bytes.len() % 2 == 1 {
            bytes.push(b' ');
        }
        PrimitiveValue::U8(bytes.into())
    }

    /// What a value says. It may be text of which each character stands for a byte, or bytes; without a set that we know,
    /// a byte is a character.
    pub(super) fn text(&self, value: &PrimitiveValue) -> String {
        let bytes: Vec<u8> = match value {
            PrimitiveValue::U8(bytes) => bytes.to_vec(),
            text => text.to_raw_str().chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
        };
        let set = self.code.as_deref().and_then(SpecificCharacterSet::from_code);
        let decoded = set.and_then(|set| set.decode(&bytes).ok());
        decoded.unwrap_or_else(|| bytes.iter().copied().map(char::from).collect())
    }

    /// The bytes of a text, `None` where the set cannot hold it.
    fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        if text.is_ascii() {
            return Some(text.as_bytes().to_vec());
        }
        let set = SpecificCharacterSet::from_code(self.code.as_deref()?)?;
        let bytes = set.encode(text).ok()?;
        // An encoder that writes a substitute gives it away when it is read back.
        (set.decode(&bytes).ok()? == text).then_some(bytes)
    }
}

/// Whether every text of a data set is ASCII: what is not is held as bytes.
fn all_ascii(data_set: &InMemDicomObject) -> bool {
    data_set.iter().all(|element| match element.value() {
        Value::Sequence(sequence) => sequence.items().iter().all(all_ascii),
        Value::Primitive(PrimitiveValue::U8(bytes)) => bytes.is_ascii(),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, VR};

    use super::*;

    fn copied(set: Option<&str>, name: &[u8]) -> InMemDicomObject {
        let name = PrimitiveValue::U8(name.to_vec().into());
        let mut object =
            InMemDicomObject::from_element_iter([DataElement::new(tags::PATIENT_NAME, VR::PN, name)]);
        if let Some(set) = set {
            object.put(DataElement::new(tags::SPECIFIC_CHARACTER_SET, VR::CS, PrimitiveValue::from(set)));
        }
        object
    }

    #[test]
    fn text_goes_out_in_the_sets_own_bytes_or_not_at_all() {
        let latin = CharacterSet::of(&copied(Some("ISO_IR 100"), b"M\xfcller"), Some("ISO_IR 192"));
        assert_eq!(latin.value("Druese \u{fc}").to_bytes().as_ref(), b"Druese \xfc");
        assert_eq!(latin.value("Dr\u{fc}").to_bytes().as_ref(), b"Dr\xfc ");
        assert!(latin.check("\u{394}\u{3c1}").is_err() && latin.to_write().is_none());
        let utf8 = CharacterSet::of(&copied(Some("ISO_IR 192"), "M\u{fc}".as_bytes()), None);
        assert_eq!(utf8.value("\u{3c1}").to_bytes().as_ref(), "\u{3c1}".as_bytes());
        let japanese = CharacterSet::of(&copied(Some("\\ISO 2022 IR 87"), b"x"), Some("ISO_IR 192"));
        let refused = japanese.check("\u{fc}").unwrap_err().to_string();
        assert!(refused.contains("ISO 2022 IR 87") && japanese.check("Parotid_L").is_ok(), "{refused}");
    }

    /// Without a set of its own an ASCII patient may get the template's; any other may not, since nobody knows what its
    /// bytes mean.
    #[test]
    fn the_templates_set_is_for_patients_without_one() {
        let plain = CharacterSet::of(&copied(None, b"Mueller"), Some("ISO_IR 100"));
        assert_eq!(plain.to_write(), Some("ISO_IR 100"));
        assert!(plain.check("Dr\u{fc}se").is_ok());
        for (set, name) in [(None, &b"M\xfcller"[..]), (Some("ISO 2022 IR 87"), b"x")] {
            let other = CharacterSet::of(&copied(set, name), Some("ISO_IR 100"));
            assert!(other.to_write().is_none() && other.check("Dr\u{fc}se").is_err(), "{other:?}");
        }
    }
}
