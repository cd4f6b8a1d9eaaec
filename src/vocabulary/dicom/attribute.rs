//! Typed reading of attributes; errors name keyword, tag and instance.

use std::fmt;
use std::str::FromStr;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::value::Value;
use dicom_core::{PrimitiveValue, Tag};
use dicom_dictionary_std::StandardDataDictionary;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::InvalidUid;

/// An attribute as a person finds it again: keyword and tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute(pub Tag);

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match StandardDataDictionary.by_tag(self.0) {
            Some(entry) => write!(f, "{} {}", entry.alias(), self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Why an attribute could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// It is not in the data set.
    #[error("{attribute} is missing in {instance}")]
    Missing {
        /// The attribute.
        attribute: Attribute,
        /// The instance, as [`Attributes::new`] was told.
        instance: String,
    },
    /// It is there without a value.
    #[error("{attribute} is empty in {instance}")]
    Empty {
        /// The attribute.
        attribute: Attribute,
        /// The instance.
        instance: String,
    },
    /// The value is not of the kind that is needed.
    #[error("{attribute} should be {wanted}, found {found:?} in {instance}")]
    Value {
        /// The attribute.
        attribute: Attribute,
        /// What is needed.
        wanted: String,
        /// What is there, shortened.
        found: String,
        /// The instance.
        instance: String,
    },
    /// A UID that is none.
    #[error("{attribute} is not a UID in {instance}")]
    Uid {
        /// The attribute.
        attribute: Attribute,
        /// The instance.
        instance: String,
        /// What is wrong with it.
        source: InvalidUid,
    },
}

impl AttributeError {
    /// The attribute it is about.
    #[must_use]
    pub fn attribute(&self) -> Attribute {
        match self {
            Self::Missing { attribute, .. }
            | Self::Empty { attribute, .. }
            | Self::Value { attribute, .. }
            | Self::Uid { attribute, .. } => *attribute,
        }
    }
}

/// A data set, or an item of one, with a name for its instance.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    data_set: &'a InMemDicomObject,
    instance: &'a str,
}

impl<'a> Attributes<'a> {
    /// Reads from `data_set`; `instance` stands in errors (a path or a SOP Instance UID).
    #[must_use]
    pub fn new(data_set: &'a InMemDicomObject, instance: &'a str) -> Self {
        Self { data_set, instance }
    }

    /// Whether the attribute is there, with a value or without.
    #[must_use]
    pub fn has(&self, tag: Tag) -> bool {
        self.data_set.get(tag).is_some()
    }

    /// The text of an attribute without padding, `None` where it is missing or empty.
    #[must_use]
    pub fn optional_text(&self, tag: Tag) -> Option<String> {
        let text = self.data_set.get(tag)?.to_str().ok()?;
        let text = text.trim_matches([' ', '\0']);
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The text of an attribute without padding.
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty or not text.
    pub fn text(&self, tag: Tag) -> Result<String, AttributeError> {
        let element = self.element(tag)?;
        let Ok(text) = element.to_str() else { return Err(self.value(tag, "text", element)) };
        let text = text.trim_matches([' ', '\0']);
        if text.is_empty() { Err(self.empty(tag)) } else { Ok(text.to_owned()) }
    }

    /// The values of a multi-valued text attribute, empty where it is missing.
    #[must_use]
    pub fn texts(&self, tag: Tag) -> Vec<String> {
        let element = self.data_set.get(tag).and_then(|element| element.to_multi_str().ok());
        element.map_or_else(Vec::new, |texts| {
            texts.iter().map(|text| text.trim_matches([' ', '\0']).to_owned()).collect()
        })
    }

    /// A UID of the type that is asked for.
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty or no UID.
    pub fn uid<U: FromStr<Err = InvalidUid>>(&self, tag: Tag) -> Result<U, AttributeError> {
        let text = self.text(tag)?;
        text.parse().map_err(|source| AttributeError::Uid {
            attribute: Attribute(tag),
            instance: self.instance.to_owned(),
            source,
        })
    }

    /// A whole number (US, SS, UL, SL or IS).
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty or no whole number.
    pub fn integer(&self, tag: Tag) -> Result<i64, AttributeError> {
        let element = self.element(tag)?;
        if is_blank(element) {
            return Err(self.empty(tag));
        }
        let Ok(number) = element.to_int() else { return Err(self.value(tag, "a whole number", element)) };
        Ok(number)
    }

    /// A whole number in 0..=65535.
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty or out of that range.
    pub fn unsigned_short(&self, tag: Tag) -> Result<u16, AttributeError> {
        let number = self.integer(tag)?;
        let Ok(number) = u16::try_from(number) else {
            return Err(AttributeError::Value {
                attribute: Attribute(tag),
                wanted: "a whole number in 0..=65535".to_owned(),
                found: number.to_string(),
                instance: self.instance.to_owned(),
            });
        };
        Ok(number)
    }

    /// A finite number (DS, FL or FD).
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty or no finite number.
    pub fn number(&self, tag: Tag) -> Result<f64, AttributeError> {
        let [number] = self.numbers(tag)?;
        Ok(number)
    }

    /// Exactly `N` finite numbers (DS, FL or FD).
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty, or not `N` finite numbers.
    pub fn numbers<const N: usize>(&self, tag: Tag) -> Result<[f64; N], AttributeError> {
        let element = self.element(tag)?;
        if is_blank(element) {
            return Err(self.empty(tag));
        }
        let wanted = || self.value(tag, &format!("{N} finite numbers"), element);
        let Some(numbers) = numbers_of(element) else { return Err(wanted()) };
        let Ok(numbers) = <[f64; N]>::try_from(numbers) else { return Err(wanted()) };
        if numbers.iter().all(|number| number.is_finite()) { Ok(numbers) } else { Err(wanted()) }
    }

    /// The items of a sequence.
    ///
    /// # Errors
    /// [`AttributeError`] when it is missing, empty or no sequence.
    pub fn items(&self, tag: Tag) -> Result<Vec<Attributes<'a>>, AttributeError> {
        let element = self.element(tag)?;
        let Value::Sequence(sequence) = element.value() else {
            return Err(self.value(tag, "a sequence", element));
        };
        if sequence.items().is_empty() {
            return Err(self.empty(tag));
        }
        Ok(sequence.items().iter().map(|item| Attributes::new(item, self.instance)).collect())
    }

    /// The first item of a sequence.
    ///
    /// # Errors
    /// As [`Attributes::items`].
    pub fn item(&self, tag: Tag) -> Result<Attributes<'a>, AttributeError> {
        let items = self.items(tag)?;
        items.first().copied().ok_or_else(|| self.empty(tag))
    }

    /// The data set that is read.
    #[must_use]
    pub fn data_set(&self) -> &'a InMemDicomObject {
        self.data_set
    }

    fn element(&self, tag: Tag) -> Result<&'a InMemElement, AttributeError> {
        self.data_set.get(tag).ok_or_else(|| AttributeError::Missing {
            attribute: Attribute(tag),
            instance: self.instance.to_owned(),
        })
    }

    fn empty(&self, tag: Tag) -> AttributeError {
        AttributeError::Empty { attribute: Attribute(tag), instance: self.instance.to_owned() }
    }

    fn value(&self, tag: Tag, wanted: &str, element: &InMemElement) -> AttributeError {
        let found = match element.value() {
            Value::Primitive(value) => value.to_str().chars().take(64).collect(),
            _ => "a sequence".to_owned(),
        };
        AttributeError::Value {
            attribute: Attribute(tag),
            wanted: wanted.to_owned(),
            found,
            instance: self.instance.to_owned(),
        }
    }
}

/// Text that came as one piece still holds its backslashes, so it is split here.
fn numbers_of(element: &InMemElement) -> Option<Vec<f64>> {
    match element.value() {
        Value::Primitive(value @ (PrimitiveValue::Str(_) | PrimitiveValue::Strs(_))) => {
            value.to_raw_str().split('\\').map(|text| text.trim_matches([' ', '\0']).parse().ok()).collect()
        }
        Value::Primitive(value) => value.to_multi_float64().ok(),
        _ => None,
    }
}

fn is_blank(element: &InMemElement) -> bool {
    match element.value() {
        Value::Primitive(PrimitiveValue::Empty) => true,
        Value::Primitive(PrimitiveValue::Str(text)) => text.trim_matches([' ', '\0']).is_empty(),
        Value::Primitive(PrimitiveValue::Strs(texts)) => {
            texts.iter().all(|text| text.trim_matches([' ', '\0']).is_empty())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, VR};
    use dicom_dictionary_std::tags;

    use super::*;
    use crate::vocabulary::dicom::SopInstanceUid;

    fn data_set() -> InMemDicomObject {
        InMemDicomObject::from_element_iter([
            DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, PrimitiveValue::from("1.2.3\0")),
            DataElement::new(tags::STUDY_INSTANCE_UID, VR::UI, PrimitiveValue::Empty),
            DataElement::new(tags::PIXEL_SPACING, VR::DS, PrimitiveValue::from("0.9\\1.3 ")),
            DataElement::new(tags::ROWS, VR::US, PrimitiveValue::from(512_u16)),
            DataElement::new(tags::RESCALE_SLOPE, VR::DS, PrimitiveValue::from("nan")),
        ])
    }

    #[test]
    fn values_come_typed() {
        let data_set = data_set();
        let attributes = Attributes::new(&data_set, "slice.dcm");
        assert_eq!(attributes.uid::<SopInstanceUid>(tags::SOP_INSTANCE_UID).unwrap().as_str(), "1.2.3");
        assert_eq!(attributes.numbers(tags::PIXEL_SPACING), Ok([0.9, 1.3]));
        assert_eq!(attributes.unsigned_short(tags::ROWS), Ok(512));
    }

    #[test]
    fn errors_name_keyword_tag_and_instance() {
        let data_set = data_set();
        let attributes = Attributes::new(&data_set, "slice.dcm");
        for (message, wanted) in [
            (
                attributes.text(tags::STUDY_INSTANCE_UID).unwrap_err(),
                "StudyInstanceUID (0020,000D) is empty in slice.dcm",
            ),
            (
                attributes.text(tags::SERIES_INSTANCE_UID).unwrap_err(),
                "SeriesInstanceUID (0020,000E) is missing in slice.dcm",
            ),
            (
                attributes.number(tags::RESCALE_SLOPE).unwrap_err(),
                "RescaleSlope (0028,1053) should be 1 finite numbers, found \"nan\" in slice.dcm",
            ),
            (
                attributes.numbers::<6>(tags::PIXEL_SPACING).unwrap_err(),
                "PixelSpacing (0028,0030) should be 6 finite numbers, found \"0.9\\\\1.3\" in slice.dcm",
            ),
        ] {
            assert_eq!(message.to_string(), wanted);
        }
    }
}
