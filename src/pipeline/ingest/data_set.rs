//! A data set's outline without recursion: is it whole, how deep is it nested, which instance is it?
//!
//! The readers that come later recurse into sequences, so nothing passes here that nests deeper than
//! [`MAX_DEPTH`] or ends in the middle of an element.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, uids};

/// Sequences within sequences that we take; structure sets and enhanced images need less than 10.
pub(crate) const MAX_DEPTH: usize = 64;

/// Explicit VR Big Endian: retired, and still in archives.
pub(super) const EXPLICIT_VR_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// A data set that inflates to more than this many times its deflated size is an attack, not an image.
const MAX_INFLATION: u64 = 1_100;

/// Why a data set is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataSetError {
    /// It stops inside an element or a sequence.
    #[error("the data set breaks off at byte {at}: send the instance again")]
    Truncated {
        /// Where.
        at: usize,
    },
    /// A delimiter or item where none can be, a value beyond its item, or no VR.
    #[error("the data set is not well formed at byte {at}: the sender's encoding is wrong")]
    Malformed {
        /// Where.
        at: usize,
    },
    /// Nested beyond [`MAX_DEPTH`].
    #[error("the data set nests more than {MAX_DEPTH} sequences: the sender's encoding is wrong")]
    TooDeep,
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
    /// SHA-free identity of the image: the pixel data's bytes, fragments and all.
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

/// What must agree, besides the pixels, for two instances of one UID to be the same image: the identifiers, the
/// patient (ID, name, birth date) and the geometry (position, orientation, frame, size, spacing, rescale).
const SHOWN: [Tag; 17] = [
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    SERIES_INSTANCE_UID,
    Tag(0x0010, 0x0010),
    Tag(0x0010, 0x0020),
    Tag(0x0010, 0x0030),
    Tag(0x0020, 0x0032),
    Tag(0x0020, 0x0037),
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

/// Walks the whole data set, encoded in this transfer syntax.
///
/// `max_bytes` bounds what a deflated one may expand to.
pub(crate) fn outline(
    bytes: &[u8],
    transfer_syntax: &str,
    max_bytes: u64,
    keep: Keep,
) -> Result<Outline, DataSetError> {
    match transfer_syntax {
        uids::IMPLICIT_VR_LITTLE_ENDIAN => Walk::new(bytes, Encoding::ImplicitLittle, keep).run(),
        EXPLICIT_VR_BIG_ENDIAN => Walk::new(bytes, Encoding::ExplicitBig, keep).run(),
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN => {
            let inflated = inflate(bytes, max_bytes)?;
            Walk::new(&inflated, Encoding::ExplicitLittle, keep).run()
        }
        _ => Walk::new(bytes, Encoding::ExplicitLittle, keep).run(),
    }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    ImplicitLittle,
    ExplicitLittle,
    ExplicitBig,
}

#[derive(Debug, Clone, Copy)]
enum Container {
    /// Elements: the data set itself or an item.
    Elements,
    /// Items of elements.
    Sequence,
    /// Items of bytes: encapsulated pixel data, which began at this byte.
    Fragments(usize),
}

#[derive(Debug, Clone, Copy)]
struct Open {
    container: Container,
    encoding: Encoding,
    /// Where it ends, `None` where a delimiter says so.
    end: Option<usize>,
    /// No value inside reaches beyond this.
    limit: usize,
}

struct Header {
    tag: Tag,
    vr: Option<VR>,
    /// `None`: undefined.
    length: Option<usize>,
    value_at: usize,
}

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);
const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    open: Vec<Open>,
    keep: Keep,
    outline: Outline,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], encoding: Encoding, keep: Keep) -> Self {
        let limit = bytes.len();
        let whole = Open { container: Container::Elements, encoding, end: Some(limit), limit };
        Self { bytes, at: 0, open: vec![whole], keep, outline: Outline::default() }
    }

    fn run(mut self) -> Result<Outline, DataSetError> {
        while let Some(open) = self.open.last().copied() {
            if open.end == Some(self.at) {
                self.open.pop();
                continue;
            }
            if self.at >= open.limit {
                return Err(DataSetError::Truncated { at: self.at });
            }
            match open.container {
                Container::Elements => self.element(open)?,
                Container::Sequence => self.item(open)?,
                Container::Fragments(began) => self.pixel_fragment(open, began)?,
            }
        }
        Ok(self.outline)
    }

    fn element(&mut self, open: Open) -> Result<(), DataSetError> {
        let header = self.header(open.encoding)?;
        if header.tag == ITEM_END && open.end.is_none() {
            self.at = header.value_at;
            self.open.pop();
            return Ok(());
        }
        if header.tag.group() == 0xFFFE {
            return Err(DataSetError::Malformed { at: self.at });
        }
        let is_sequence = match header.vr {
            Some(vr) => vr == VR::SQ,
            None => is_sequence_by_dictionary(header.tag),
        };
        let started = self.at;
        self.at = header.value_at;
        match header.length {
            None if header.tag == PIXEL_DATA && header.vr.is_some() && !is_sequence => {
                self.push(Container::Fragments(started), open.encoding, None, open.limit)
            }
            // UN of undefined length holds a sequence in implicit VR little endian (PS3.5 6.2.2, note).
            None if header.vr == Some(VR::UN) => {
                self.push(Container::Sequence, Encoding::ImplicitLittle, None, open.limit)
            }
            None if is_sequence || header.vr.is_none() => {
                self.push(Container::Sequence, open.encoding, None, open.limit)
            }
            None => Err(DataSetError::Malformed { at: started }),
            Some(length) => {
                let value = self.value(length, open.limit, started)?;
                if is_sequence {
                    return self.push(Container::Sequence, open.encoding, Some(value.end), value.end);
                }
                if self.open.len() == 1 {
                    self.note(header.tag, value.clone());
                }
                self.at = value.end;
                Ok(())
            }
        }
    }

    fn item(&mut self, open: Open) -> Result<(), DataSetError> {
        let header = self.header(open.encoding)?;
        let started = self.at;
        self.at = header.value_at;
        match (header.tag, header.length) {
            (SEQUENCE_END, _) if open.end.is_none() => {
                self.open.pop();
                Ok(())
            }
            (ITEM, None) => self.push(Container::Elements, open.encoding, None, open.limit),
            (ITEM, Some(length)) => {
                let value = self.value(length, open.limit, started)?;
                self.push(Container::Elements, open.encoding, Some(value.end), value.end)
            }
            _ => Err(DataSetError::Malformed { at: started }),
        }
    }

    fn pixel_fragment(&mut self, open: Open, began: usize) -> Result<(), DataSetError> {
        let header = self.header(open.encoding)?;
        let started = self.at;
        self.at = header.value_at;
        match (header.tag, header.length) {
            (SEQUENCE_END, _) => {
                self.open.pop();
                if self.open.len() == 1 {
                    self.note(PIXEL_DATA, began..self.at);
                }
                Ok(())
            }
            (ITEM, Some(length)) => {
                self.at = self.value(length, open.limit, started)?.end;
                Ok(())
            }
            _ => Err(DataSetError::Malformed { at: started }),
        }
    }

    fn value(&self, length: usize, limit: usize, started: usize) -> Result<Range<usize>, DataSetError> {
        match self.at.checked_add(length) {
            Some(end) if end <= limit => Ok(self.at..end),
            Some(end) if end <= self.bytes.len() => Err(DataSetError::Malformed { at: started }),
            _ => Err(DataSetError::Truncated { at: started }),
        }
    }

    fn push(
        &mut self,
        container: Container,
        encoding: Encoding,
        end: Option<usize>,
        limit: usize,
    ) -> Result<(), DataSetError> {
        // A sequence and its item are two containers.
        if self.open.len() > 2 * MAX_DEPTH {
            return Err(DataSetError::TooDeep);
        }
        self.open.push(Open { container, encoding, end, limit });
        Ok(())
    }

    fn note(&mut self, tag: Tag, value: Range<usize>) {
        if tag == PIXEL_DATA {
            if self.keep == Keep::Pixels {
                self.outline.pixel_data = Some(self.bytes[value].to_vec());
            }
        } else if SHOWN.contains(&tag) {
            self.outline.values.insert(tag, self.bytes[value].to_vec());
        }
    }

    fn header(&self, encoding: Encoding) -> Result<Header, DataSetError> {
        let at = self.at;
        let truncated = DataSetError::Truncated { at };
        let Some((head, rest)) = self.bytes[at..].split_first_chunk::<8>() else { return Err(truncated) };
        let [g0, g1, e0, e1, a, b, c, d] = *head;
        let big = encoding == Encoding::ExplicitBig;
        let u16_of = |two: [u8; 2]| if big { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) };
        let u32_of = |four: [u8; 4]| if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) };
        let tag = Tag(u16_of([g0, g1]), u16_of([e0, e1]));
        let found = |vr, length: u32, value_at| {
            let defined = usize::try_from(length).ok().filter(|_| length != UNDEFINED);
            Header { tag, vr, length: defined, value_at }
        };
        if tag.group() == 0xFFFE || encoding == Encoding::ImplicitLittle {
            return Ok(found(None, u32_of([a, b, c, d]), at + 8));
        }
        if !(a.is_ascii_uppercase() && b.is_ascii_uppercase()) {
            return Err(DataSetError::Malformed { at });
        }
        // A VR that we do not know has the long form (PS3.5 6.2).
        let vr = VR::from_binary([a, b]).unwrap_or(VR::UN);
        if has_short_length(vr) {
            return Ok(found(Some(vr), u16_of([c, d]).into(), at + 8));
        }
        let Some((length, _)) = rest.split_first_chunk::<4>() else { return Err(truncated) };
        Ok(found(Some(vr), u32_of(*length), at + 12))
    }
}

/// PS3.5 7.1.2, table 7.1-2.
fn has_short_length(vr: VR) -> bool {
    !matches!(
        vr,
        VR::OB
            | VR::OD
            | VR::OF
            | VR::OL
            | VR::OV
            | VR::OW
            | VR::SQ
            | VR::SV
            | VR::UC
            | VR::UN
            | VR::UR
            | VR::UT
            | VR::UV
    )
}

fn is_sequence_by_dictionary(tag: Tag) -> bool {
    StandardDataDictionary.by_tag(tag).is_some_and(|entry| entry.vr() == VirtualVr::Exact(VR::SQ))
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
    fn depth_is_bounded_without_recursion() {
        for defined in [false, true] {
            assert!(outline_of(&nested(MAX_DEPTH, defined)).is_ok());
            assert_eq!(outline_of(&nested(MAX_DEPTH + 1, defined)), Err(DataSetError::TooDeep));
        }
        assert_eq!(outline_of(&nested(50_000, false)), Err(DataSetError::TooDeep));
    }

    #[test]
    fn lengths_beyond_the_data_and_stray_items_are_errors() {
        let huge = [0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0, 0xFE, 255, 255, 255, 1, 2];
        assert_eq!(outline_of(&huge), Err(DataSetError::Truncated { at: 0 }));
        let stray = [0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0];
        assert_eq!(outline_of(&stray), Err(DataSetError::Malformed { at: 0 }));
        let beyond_its_item = explicit(
            [0x40, 0, 0x30, 0xA7],
            b"SQ",
            &[&[0xFE, 0xFF, 0, 0xE0, 8, 0, 0, 0], &[8, 0, 0x18, 0, b'U', b'I', 4, 0][..], b"1.23"].concat(),
        );
        assert!(matches!(outline_of(&beyond_its_item), Err(DataSetError::Malformed { .. })));
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
