//! Which instance a data set is, and whether it is whole: looked at without recursion.
//!
//! The readers that come later recurse into sequences, so nothing passes here that
//! [`check_structure`] refuses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use dicom_core::Tag;
use dicom_dictionary_std::uids;

use crate::vocabulary::dicom::structure::{Encoding, PixelDataPlace, StructureError, check_structure};

/// Explicit VR Big Endian: retired, and still in archives.
pub(super) const EXPLICIT_VR_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// A data set that inflates to more than this many times its deflated size is an attack, not an image: deflate
/// reaches 1032 at most.
const MAX_INFLATION: u64 = 1_100;

/// Why a data set is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataSetError {
    /// It is cut, damaged or nested too deep.
    #[error("the data set is not well formed")]
    Structure(#[source] StructureError),
    /// The deflated stream is broken or expands without end.
    #[error("the deflated data set cannot be inflated within {limit} bytes: send it uncompressed")]
    Inflate {
        /// Bytes allowed.
        limit: u64,
    },
}

/// What a data set says about itself at its top level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Outline {
    values: BTreeMap<Tag, Vec<u8>>,
    /// The bytes of Pixel Data: the value, or all fragments with their items.
    pub(crate) pixel_data: Option<Vec<u8>>,
}

impl Outline {
    /// A top-level value as text, without padding; empty where absent.
    pub(crate) fn text(&self, tag: Tag) -> Cow<'_, str> {
        let value = self.values.get(&tag).map(Vec::as_slice).unwrap_or_default();
        let end = value.iter().rposition(|b| !matches!(b, 0 | b' ')).map_or(0, |last| last + 1);
        String::from_utf8_lossy(&value[..end])
    }

    /// Whether two outlines show the same image in the same place of the same patient.
    pub(crate) fn is_same_image(&self, other: &Self) -> bool {
        self.pixel_data == other.pixel_data && SHOWN.iter().all(|tag| self.text(*tag) == other.text(*tag))
    }
}

/// What identifies an instance.
pub(crate) const SOP_CLASS_UID: Tag = Tag(0x0008, 0x0016);
pub(crate) const SOP_INSTANCE_UID: Tag = Tag(0x0008, 0x0018);
pub(crate) const STUDY_INSTANCE_UID: Tag = Tag(0x0020, 0x000D);
pub(crate) const SERIES_INSTANCE_UID: Tag = Tag(0x0020, 0x000E);
/// Whose it is; for the audit trail and for comparisons, never for a log.
pub(crate) const PATIENT_ID: Tag = Tag(0x0010, 0x0020);
pub(crate) const PATIENT_NAME: Tag = Tag(0x0010, 0x0010);

/// Where an instance lies, and how many its series has.
pub(crate) const IMAGE_POSITION: Tag = Tag(0x0020, 0x0032);
pub(crate) const IMAGE_ORIENTATION: Tag = Tag(0x0020, 0x0037);
pub(crate) const NUMBER_OF_SERIES_RELATED_INSTANCES: Tag = Tag(0x0020, 0x1209);

/// What kind of image it is.
pub(crate) const IMAGE_TYPE: Tag = Tag(0x0008, 0x0008);

/// What is kept besides [`SHOWN`].
const TOLD: [Tag; 2] = [IMAGE_TYPE, NUMBER_OF_SERIES_RELATED_INSTANCES];

/// What must agree, besides the pixels, for two instances of one UID to be the same image: the identifiers, the
/// patient (ID, name, birth date) and the geometry (position, orientation, frame, size, spacing, rescale).
const SHOWN: [Tag; 17] = [
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    SERIES_INSTANCE_UID,
    PATIENT_NAME,
    PATIENT_ID,
    Tag(0x0010, 0x0030),
    IMAGE_POSITION,
    IMAGE_ORIENTATION,
    Tag(0x0020, 0x0052),
    Tag(0x0028, 0x0010),
    Tag(0x0028, 0x0011),
    Tag(0x0028, 0x0030),
    Tag(0x0028, 0x0103),
    Tag(0x0028, 0x1052),
    Tag(0x0028, 0x1053),
    Tag(0x0018, 0x5100),
];

/// How much of the pixel data an outline keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Identifiers only.
    Values,
    /// The pixel data too, for a comparison.
    Pixels,
}

/// Checks the whole data set, encoded in this transfer syntax, and reads what identifies it.
///
/// `max_bytes` bounds what a deflated one may expand to.
pub(crate) fn outline(
    bytes: &[u8],
    transfer_syntax: &str,
    max_bytes: u64,
    keep: Keep,
) -> Result<Outline, DataSetError> {
    let bytes = if transfer_syntax == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        Cow::Owned(inflate(bytes, max_bytes)?)
    } else {
        Cow::Borrowed(bytes)
    };
    let encoding = Encoding::of_transfer_syntax(transfer_syntax);
    let layout = check_structure(&bytes, encoding).map_err(DataSetError::Structure)?;
    let is_kept = |tag: &Tag| SHOWN.contains(tag) || TOLD.contains(tag);
    let shown = layout.top_level.iter().filter(|(tag, _)| is_kept(tag));
    let values = shown.map(|(tag, element)| (*tag, bytes[value_of(element)].to_vec())).collect();
    let place = layout.pixel_data.filter(|_| keep == Keep::Pixels);
    let pixel_data = place.map(|place| match place {
        PixelDataPlace::Native(value) => bytes[value].to_vec(),
        PixelDataPlace::Encapsulated { fragments, .. } => {
            fragments.into_iter().flat_map(|f| &bytes[f]).copied().collect()
        }
    });
    Ok(Outline { values, pixel_data })
}

/// The value of a whole element: all that is kept has a header of 8 bytes, implicit or explicit.
fn value_of(element: &Range<usize>) -> Range<usize> {
    (element.start + 8).min(element.end)..element.end
}

fn inflate(bytes: &[u8], max_bytes: u64) -> Result<Vec<u8>, DataSetError> {
    let deflated = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let limit = max_bytes.min(deflated.saturating_mul(MAX_INFLATION));
    let mut inflated = Vec::new();
    let read =
        flate2::read::DeflateDecoder::new(bytes).take(limit.saturating_add(1)).read_to_end(&mut inflated);
    match read {
        Ok(n) if u64::try_from(n).is_ok_and(|n| n <= limit) => Ok(inflated),
        _ => Err(DataSetError::Inflate { limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(tag: [u8; 4], vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let mut bytes = [&tag[..], vr].concat();
        if matches!(vr, b"SQ" | b"OB" | b"OW" | b"UN") {
            bytes.extend([0, 0]);
            bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        } else {
            bytes.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        }
        [bytes, value.to_vec()].concat()
    }

    fn outline_of(bytes: &[u8]) -> Result<Outline, DataSetError> {
        outline(bytes, uids::EXPLICIT_VR_LITTLE_ENDIAN, 1 << 20, Keep::Pixels)
    }

    /// Items `n` deep, of undefined or defined length.
    fn nested(n: usize, defined: bool) -> Vec<u8> {
        if !defined {
            let open = [
                0x40, 0, 0x30, 0xA7, b'S', b'Q', 0, 0, 255, 255, 255, 255, 0xFE, 0xFF, 0, 0xE0, 255, 255,
                255, 255,
            ];
            let close = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];
            return [open.repeat(n), close.repeat(n)].concat();
        }
        (0..n).fold(Vec::new(), |inner, _| {
            let length = u32::try_from(inner.len()).unwrap().to_le_bytes();
            explicit([0x40, 0, 0x30, 0xA7], b"SQ", &[&[0xFE, 0xFF, 0, 0xE0], &length[..], &inner].concat())
        })
    }

    fn ct() -> Vec<u8> {
        [
            explicit([8, 0, 0x18, 0], b"UI", b"1.2.3.4\0"),
            nested(3, true),
            nested(2, false),
            explicit([0x20, 0, 0x0E, 0], b"UI", b"1.2.8\0"),
            explicit([0xE0, 0x7F, 0x10, 0], b"OW", &[7, 1, 9, 4]),
        ]
        .concat()
    }

    #[test]
    fn the_outline_has_the_identifiers_and_the_pixels() {
        let outline = outline_of(&ct()).unwrap();
        assert_eq!(outline.text(SOP_INSTANCE_UID), "1.2.3.4");
        assert_eq!(outline.text(SERIES_INSTANCE_UID), "1.2.8");
        assert_eq!(outline.pixel_data, Some(vec![7, 1, 9, 4]));
        assert_eq!(outline.text(STUDY_INSTANCE_UID), "");
    }

    #[test]
    fn every_cut_inside_an_element_is_seen() {
        let whole = ct();
        let boundaries: Vec<usize> = [16, 16 + nested(3, true).len()]
            .into_iter()
            .chain([whole.len() - 16 - 14, whole.len() - 16])
            .collect();
        for cut in 1..whole.len() {
            assert_eq!(outline_of(&whole[..cut]).is_ok(), boundaries.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn what_nests_without_end_is_refused() {
        assert!(matches!(outline_of(&nested(50_000, false)), Err(DataSetError::Structure(_))));
        assert!(outline_of(&nested(9, true)).is_ok());
    }

    #[test]
    fn the_same_data_set_deflated_and_big_endian_and_implicit() {
        let mut deflate =
            flate2::read::DeflateEncoder::new(&[0_u8; 3_000_000][..], flate2::Compression::best());
        let mut bomb = Vec::new();
        deflate.read_to_end(&mut bomb).unwrap();
        let outcome = outline(&bomb, uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, 1 << 20, Keep::Values);
        assert_eq!(outcome, Err(DataSetError::Inflate { limit: 1 << 20 }));
        let mut whole = Vec::new();
        flate2::read::DeflateEncoder::new(&ct()[..], flate2::Compression::fast())
            .read_to_end(&mut whole)
            .unwrap();
        let outcome =
            outline(&whole, uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, 1 << 20, Keep::Values).unwrap();
        assert_eq!(outcome.text(SERIES_INSTANCE_UID), "1.2.8");
        let big = [0, 8, 0, 0x18, b'U', b'I', 0, 4, b'1', b'.', b'2', b'0'];
        let outcome = outline(&big, EXPLICIT_VR_BIG_ENDIAN, 1 << 20, Keep::Values).unwrap();
        assert_eq!(outcome.text(SOP_INSTANCE_UID), "1.20");
        let implicit = [8, 0, 0x18, 0, 4, 0, 0, 0, b'1', b'.', b'2', b'0'];
        let outcome = outline(&implicit, uids::IMPLICIT_VR_LITTLE_ENDIAN, 1 << 20, Keep::Values).unwrap();
        assert_eq!(outcome.text(SOP_INSTANCE_UID), "1.20");
    }
}
