//! What rules look at: the attributes of one instance of a series, and who sent it.

use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_core::value::Value;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use crate::vocabulary::dicom::instance::{InstanceError, InstanceLimits, read_attributes};

/// A series as rules see it.
#[derive(Debug, Clone)]
pub struct Subject {
    attributes: InMemDicomObject,
    calling_ae_title: Option<String>,
}

impl Subject {
    /// Reads an instance; its pixels are left alone.
    ///
    /// # Errors
    /// [`InstanceError`] where it cannot be read.
    pub fn read(path: &Path, calling_ae_title: Option<&str>) -> Result<Self, InstanceError> {
        let attributes = read_attributes(path, InstanceLimits::default())?.data_set()?;
        Ok(Self::new(attributes, calling_ae_title))
    }

    /// A series by one of its instances: the one in the middle, or another where that is a localizer, as one among the
    /// slices of a scan may be. `None` for a series without instances.
    ///
    /// # Errors
    /// [`InstanceError`] where an instance cannot be read.
    pub fn of_series(
        paths: &[PathBuf],
        calling_ae_title: Option<&str>,
    ) -> Result<Option<Self>, InstanceError> {
        let mut middle = None;
        for place in [paths.len() / 2, 0, paths.len().saturating_sub(1)] {
            let Some(path) = paths.get(place) else { continue };
            let subject = Self::read(path, calling_ae_title)?;
            if !subject.image_type().iter().any(|value| value == "LOCALIZER") {
                return Ok(Some(subject));
            }
            middle.get_or_insert(subject);
        }
        Ok(middle)
    }

    /// From attributes that were read already.
    #[must_use]
    pub fn new(attributes: InMemDicomObject, calling_ae_title: Option<&str>) -> Self {
        Self { attributes, calling_ae_title: calling_ae_title.map(str::to_owned) }
    }

    pub(super) fn calling_ae_title(&self) -> Option<String> {
        self.calling_ae_title.clone()
    }

    /// Values of an attribute as text, without padding and without empty ones.
    pub(super) fn texts(&self, tag: Tag) -> Vec<String> {
        let element = self.attributes.get(tag);
        let texts = element.and_then(|element| element.to_multi_str().ok());
        let trimmed = |text: &String| text.trim_matches([' ', '\0']).to_owned();
        let texts = texts.map(|texts| texts.iter().map(trimmed).filter(|text| !text.is_empty()).collect());
        texts.unwrap_or_default()
    }

    /// `SCHEME:VALUE` of each item of a code sequence (PS3.3 8.8).
    pub(super) fn codes(&self, tag: Tag) -> Vec<String> {
        let Some(Value::Sequence(items)) = self.attributes.get(tag).map(|element| element.value()) else {
            return Vec::new();
        };
        let code = |item: &InMemDicomObject| {
            let text = |tag| {
                let text = item.get(tag)?.to_str().ok()?.trim_matches([' ', '\0']).to_owned();
                (!text.is_empty()).then_some(text)
            };
            let value = text(tags::CODE_VALUE).or_else(|| text(tags::LONG_CODE_VALUE))?;
            Some(format!("{}:{value}", text(tags::CODING_SCHEME_DESIGNATOR)?))
        };
        items.items().iter().filter_map(code).collect()
    }

    /// Image Type (0008,0008), in capitals.
    pub(super) fn image_type(&self) -> Vec<String> {
        self.texts(tags::IMAGE_TYPE).iter().map(|value| value.to_uppercase()).collect()
    }
}
