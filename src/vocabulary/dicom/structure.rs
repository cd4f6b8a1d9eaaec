//! The shape of an encoded data set, checked without recursion before any recursive reader sees it.
//!
//! Comes in: bytes from a socket or a file. Goes out: a [`Layout`], whose promise is that every length lies
//! inside what has arrived, that items and delimiters stand where PS3.5 7.5 wants them, and that sequences nest
//! at most [`MAX_DEPTH`] deep.

use std::ops::Range;

use dicom_core::dictionary::DataDictionary;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

/// Deepest nesting of sequences. Real objects need 10 or so; a reader that recurses dies at some ten thousand.
pub const MAX_DEPTH: usize = 64;

/// Most elements of one data set, at any depth. A reader spends some hundred bytes on an element that takes
/// eight in the stream, so the count is bounded as well as the size.
pub const MAX_ELEMENTS: usize = 2_000_000;

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_DELIMITER: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_DELIMITER: Tag = Tag(0xFFFE, 0xE0DD);
const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);

/// How a data set is encoded once compression of the whole stream is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Implicit VR little endian.
    ImplicitLittle,
    /// Explicit VR little endian.
    ExplicitLittle,
    /// Explicit VR big endian (retired).
    ExplicitBig,
}

impl Encoding {
    /// The encoding under a transfer syntax; of a deflated one, the encoding of what comes out.
    #[must_use]
    pub fn of_transfer_syntax(uid: &str) -> Self {
        match uid {
            "1.2.840.10008.1.2" => Self::ImplicitLittle,
            "1.2.840.10008.1.2.2" => Self::ExplicitBig,
            _ => Self::ExplicitLittle,
        }
    }
}

/// Where the pixel data lies in the bytes that were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PixelDataPlace {
    /// Uncompressed samples.
    Native(Range<usize>),
    /// Fragments of an encapsulated stream (PS3.5 A.4), the basic offset table apart.
    Encapsulated {
        /// The basic offset table, often empty.
        offset_table: Range<usize>,
        /// Fragments in order.
        fragments: Vec<Range<usize>>,
    },
}

/// What the check found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Elements at the top level in order, each with its whole range, header included. Pixel Data is left out,
    /// and so is every element that holds a value of VR UN and undefined length: readers disagree on it.
    pub top_level: Vec<(Tag, Range<usize>)>,
    /// Top-level Pixel Data.
    pub pixel_data: Option<PixelDataPlace>,
    /// Where each Specific Character Set (0008,0005) begins, at any depth, outside of what `top_level` leaves out.
    pub character_sets: Vec<usize>,
    /// Elements at any depth.
    pub n_elements: usize,
}

/// Why bytes are no sound data set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StructureError {
    /// The stream stops in the middle of a header.
    #[error("the data set ends inside an element header at byte {position}: it was cut short; send it again")]
    CutInHeader {
        /// Offset from the start of the data set.
        position: usize,
    },
    /// A length reaches beyond what is there.
    #[error(
        "element {tag} at byte {position} claims {length} bytes where {available} are left: the data set is cut \
         short or damaged; send it again"
    )]
    TooLong {
        /// The element.
        tag: Tag,
        /// Offset of its header.
        position: usize,
        /// Length it claims.
        length: u32,
        /// Bytes left in what encloses it.
        available: usize,
    },
    /// Sequences within sequences.
    #[error(
        "sequences nest deeper than {MAX_DEPTH} levels at byte {position}, element {tag}: refused as hostile or damaged"
    )]
    TooDeep {
        /// The sequence that is one too deep.
        tag: Tag,
        /// Offset of its header.
        position: usize,
    },
    /// Too many elements.
    #[error("the data set holds more than {MAX_ELEMENTS} elements: refused as hostile or damaged")]
    TooManyElements,
    /// An item or delimiter where none may be, or something else where one must be.
    #[error("element {tag} at byte {position} stands where {wanted} was expected: the data set is damaged")]
    Misplaced {
        /// What was found.
        tag: Tag,
        /// Offset of its header.
        position: usize,
        /// What PS3.5 7.5 wants there.
        wanted: &'static str,
    },
    /// The stream ends while a sequence or an item of undefined length is open.
    #[error("the data set ends inside a sequence that is still open: it was cut short; send it again")]
    StillOpen,
    /// An undefined length on something that is no sequence.
    #[error(
        "element {tag} at byte {position} has an undefined length but is no sequence: the data set is damaged"
    )]
    UndefinedLength {
        /// The element.
        tag: Tag,
        /// Offset of its header.
        position: usize,
    },
}

/// Checks lengths, nesting and delimiters of a whole data set, without file meta information, without recursion
/// and without copying a value.
///
/// A deflated data set must be inflated first (see `instance::inflate`), and then read as explicit little endian.
///
/// # Errors
/// [`StructureError`] with the place in the stream.
pub fn check_structure(bytes: &[u8], encoding: Encoding) -> Result<Layout, StructureError> {
    Walk::new(bytes, encoding).run(|_| false)
}

/// As [`check_structure`] for the file meta group at the start of `bytes`: stops before the first element of
/// another group, and gives where that is.
///
/// # Errors
/// [`StructureError`] with the place in the stream.
pub fn check_meta_group(bytes: &[u8]) -> Result<(Layout, usize), StructureError> {
    let mut walk = Walk::new(bytes, Encoding::ExplicitLittle);
    let layout = walk.run_on(|tag| tag.0 != 0x0002)?;
    Ok((layout, walk.position))
}

/// As [`check_structure`] for a data set of `length` bytes that ends with native Pixel Data, from its `start` alone:
/// it is sound then, and the layout is that of what stands before. `None` where all of it must be seen to know.
#[must_use]
pub fn check_before_pixels(start: &[u8], length: usize, encoding: Encoding) -> Option<Layout> {
    let mut walk = Walk::new(start, encoding);
    let layout = walk.run_on(|tag| tag == PIXEL_DATA).ok()?;
    let header = walk.header(encoding).ok()?;
    let n_bytes = usize::try_from(header.length).ok().filter(|_| header.length != UNDEFINED)?;
    let is_last = header.tag == PIXEL_DATA && walk.position.checked_add(n_bytes) == Some(length);
    (is_last && header.vr != VR::SQ).then_some(layout)
}

/// A sequence or an item that is open.
struct Open {
    is_item: bool,
    /// Where it ends, `None` for an undefined length.
    end: Option<usize>,
    encoding: Encoding,
}

struct Header {
    tag: Tag,
    vr: VR,
    length: u32,
    start: usize,
}

struct Walk<'a> {
    bytes: &'a [u8],
    position: usize,
    encoding: Encoding,
    open: Vec<Open>,
    /// Start of the top-level element in hand, its tag, and whether it is passed on.
    current: Option<(Tag, usize)>,
    current_is_sound: bool,
    pending_character_sets: Vec<usize>,
    layout: Layout,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], encoding: Encoding) -> Self {
        let layout =
            Layout { top_level: Vec::new(), pixel_data: None, character_sets: Vec::new(), n_elements: 0 };
        Self {
            bytes,
            position: 0,
            encoding,
            open: Vec::new(),
            current: None,
            current_is_sound: true,
            pending_character_sets: Vec::new(),
            layout,
        }
    }

    fn run(mut self, stop: impl Fn(Tag) -> bool) -> Result<Layout, StructureError> {
        self.run_on(stop)
    }

    fn run_on(&mut self, stop: impl Fn(Tag) -> bool) -> Result<Layout, StructureError> {
        loop {
            self.close_what_ended();
            if self.open.is_empty() {
                self.finish_top_level();
                if self.position == self.bytes.len() || self.peek_tag().is_some_and(&stop) {
                    break;
                }
            } else if self.position == self.bytes.len() {
                return Err(StructureError::StillOpen);
            }
            self.layout.n_elements += 1;
            if self.layout.n_elements > MAX_ELEMENTS {
                return Err(StructureError::TooManyElements);
            }
            match self.open.last() {
                Some(Open { is_item: false, end, encoding }) => self.step_in_sequence(*end, *encoding)?,
                Some(Open { is_item: true, end, encoding }) => self.step_element(*end, *encoding)?,
                None => self.step_element(Some(self.bytes.len()), self.encoding)?,
            }
        }
        let empty =
            Layout { top_level: Vec::new(), pixel_data: None, character_sets: Vec::new(), n_elements: 0 };
        Ok(std::mem::replace(&mut self.layout, empty))
    }

    fn close_what_ended(&mut self) {
        while self.open.last().is_some_and(|open| open.end == Some(self.position)) {
            self.open.pop();
        }
    }

    fn finish_top_level(&mut self) {
        if let Some((tag, start)) = self.current.take() {
            if self.current_is_sound && tag != PIXEL_DATA {
                self.layout.top_level.push((tag, start..self.position));
                self.layout.character_sets.append(&mut self.pending_character_sets);
            }
            self.pending_character_sets.clear();
            self.current_is_sound = true;
        }
    }

    /// In a sequence only items may stand, and the delimiter of a sequence of undefined length.
    fn step_in_sequence(&mut self, end: Option<usize>, encoding: Encoding) -> Result<(), StructureError> {
        let header = self.header(encoding)?;
        let position = header.start;
        if header.tag == SEQUENCE_DELIMITER && end.is_none() {
            self.open.pop();
            return Ok(());
        }
        if header.tag != ITEM {
            return Err(StructureError::Misplaced { tag: header.tag, position, wanted: "an item" });
        }
        let item_end = self.end_of(&header)?;
        self.open.push(Open { is_item: true, end: item_end, encoding });
        Ok(())
    }

    /// In an item, or at the top, elements stand, and the delimiter of an item of undefined length.
    fn step_element(&mut self, end: Option<usize>, encoding: Encoding) -> Result<(), StructureError> {
        let header = self.header(encoding)?;
        let (tag, position) = (header.tag, header.start);
        if tag == ITEM_DELIMITER && end.is_none() {
            self.open.pop();
            return Ok(());
        }
        if tag.0 == 0xFFFE {
            return Err(StructureError::Misplaced { tag, position, wanted: "an element" });
        }
        let at_top = self.open.is_empty();
        if at_top {
            self.current = Some((tag, position));
        }
        if tag == Tag(0x0008, 0x0005) {
            self.pending_character_sets.push(position);
        }
        let value_end = self.end_of(&header)?;
        if tag == PIXEL_DATA && header.length == UNDEFINED {
            return self.encapsulated(at_top);
        }
        match (header.vr, value_end) {
            (VR::SQ, end) | (VR::UN, end @ None) => {
                let depth = self.open.iter().filter(|open| !open.is_item).count();
                if depth == MAX_DEPTH {
                    return Err(StructureError::TooDeep { tag, position });
                }
                // PS3.5 6.2.2 note 2: what stands in an UN of undefined length is implicit little endian.
                let unknown = header.vr == VR::UN && encoding != Encoding::ImplicitLittle;
                self.current_is_sound &= !unknown;
                let encoding = if unknown { Encoding::ImplicitLittle } else { encoding };
                self.open.push(Open { is_item: false, end, encoding });
            }
            (_, None) => return Err(StructureError::UndefinedLength { tag, position }),
            (_, Some(end)) => {
                if tag == PIXEL_DATA && at_top {
                    self.layout.pixel_data = Some(PixelDataPlace::Native(self.position..end));
                }
                self.position = end;
            }
        }
        Ok(())
    }

    /// Fragments up to the sequence delimiter; the first item is the basic offset table (PS3.5 A.4).
    fn encapsulated(&mut self, at_top: bool) -> Result<(), StructureError> {
        let mut items = Vec::new();
        loop {
            let header = self.header(self.encoding)?;
            let position = header.start;
            if header.tag == SEQUENCE_DELIMITER {
                break;
            }
            if header.tag != ITEM || header.length == UNDEFINED {
                return Err(StructureError::Misplaced { tag: header.tag, position, wanted: "a fragment" });
            }
            let value_start = self.position;
            let Some(end) = self.end_of(&header)? else { continue };
            items.push(value_start..end);
            self.position = end;
            if items.len() > MAX_ELEMENTS {
                return Err(StructureError::TooManyElements);
            }
        }
        if at_top {
            let mut fragments = items.into_iter();
            let offset_table = fragments.next().unwrap_or(0..0);
            let fragments = fragments.collect();
            self.layout.pixel_data = Some(PixelDataPlace::Encapsulated { offset_table, fragments });
        }
        Ok(())
    }

    /// Where a value that starts here ends, `None` for an undefined length.
    fn end_of(&self, header: &Header) -> Result<Option<usize>, StructureError> {
        if header.length == UNDEFINED {
            return Ok(None);
        }
        let available = self.limit().saturating_sub(self.position);
        match usize::try_from(header.length) {
            Ok(length) if length <= available => Ok(Some(self.position + length)),
            _ => Err(StructureError::TooLong {
                tag: header.tag,
                position: header.start,
                length: header.length,
                available,
            }),
        }
    }

    /// Where the innermost thing of defined length ends that is open.
    fn limit(&self) -> usize {
        self.open.iter().rev().find_map(|open| open.end).unwrap_or(self.bytes.len())
    }

    fn peek_tag(&self) -> Option<Tag> {
        let b: [u8; 4] = self.bytes.get(self.position..)?.first_chunk().copied()?;
        Some(tag_of(b, self.encoding))
    }

    fn header(&mut self, encoding: Encoding) -> Result<Header, StructureError> {
        let start = self.position;
        if self.limit().saturating_sub(start) < 8 {
            return Err(StructureError::CutInHeader { position: start });
        }
        let tag = tag_of(self.take(start)?, encoding);
        if tag.0 == 0xFFFE || encoding == Encoding::ImplicitLittle {
            let length = number_of(self.take(start)?, encoding);
            let vr = if tag.0 == 0xFFFE { VR::UN } else { vr_of(tag) };
            return Ok(Header { tag, vr, length, start });
        }
        let [v0, v1, l0, l1]: [u8; 4] = self.take(start)?;
        let vr = VR::from_binary([v0, v1]).unwrap_or(VR::UN);
        let length = if has_short_length(vr) {
            let short = [l0, l1];
            u32::from(if encoding == Encoding::ExplicitBig {
                u16::from_be_bytes(short)
            } else {
                u16::from_le_bytes(short)
            })
        } else {
            number_of(self.take(start)?, encoding)
        };
        Ok(Header { tag, vr, length, start })
    }

    fn take(&mut self, header_start: usize) -> Result<[u8; 4], StructureError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let taken = rest.first_chunk().copied();
        let taken = taken.ok_or(StructureError::CutInHeader { position: header_start })?;
        self.position += 4;
        Ok(taken)
    }
}

fn tag_of([a, b, c, d]: [u8; 4], encoding: Encoding) -> Tag {
    if encoding == Encoding::ExplicitBig {
        Tag(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    } else {
        Tag(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }
}

fn number_of(bytes: [u8; 4], encoding: Encoding) -> u32 {
    if encoding == Encoding::ExplicitBig { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

/// VRs whose length takes 16 bits (PS3.5 7.1.2).
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

/// The VR that a reader of implicit VR takes from its dictionary.
fn vr_of(tag: Tag) -> VR {
    if tag == PIXEL_DATA || (tag.0 >> 8 == 0x60 && tag.1 == 0x3000) {
        return VR::OW;
    }
    StandardDataDictionary.by_tag(tag).map_or(VR::UN, |entry| entry.vr.relaxed())
}

/// The VR of a tag in the dictionary, if it is one whose length takes 16 bits.
pub(super) fn short_vr_of(tag: Tag) -> Option<VR> {
    Some(vr_of(tag)).filter(|vr| has_short_length(*vr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit_sequence(levels: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..levels {
            bytes.extend([0x08, 0x00, 0x40, 0x11, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
            bytes.extend([0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
        }
        for _ in 0..levels {
            bytes.extend([0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]);
        }
        bytes
    }

    /// (0008,1140) as implicit VR, with defined lengths, innermost first.
    fn implicit_sequence(levels: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..levels {
            let length = u32::try_from(bytes.len()).unwrap();
            let mut outer = vec![0x08, 0x00, 0x40, 0x11];
            outer.extend((length + 8).to_le_bytes());
            outer.extend([0xFE, 0xFF, 0x00, 0xE0]);
            outer.extend(length.to_le_bytes());
            outer.extend(bytes);
            bytes = outer;
        }
        bytes
    }

    #[test]
    fn sixty_four_levels_pass_and_more_are_refused() {
        for (encoding, make) in [
            (Encoding::ExplicitLittle, explicit_sequence as fn(usize) -> Vec<u8>),
            (Encoding::ImplicitLittle, implicit_sequence),
        ] {
            let layout = check_structure(&make(64), encoding).unwrap();
            assert_eq!(layout.top_level.len(), 1);
            for levels in [65, 300] {
                let refused = check_structure(&make(levels), encoding);
                assert!(matches!(refused, Err(StructureError::TooDeep { .. })), "{levels}: {refused:?}");
            }
        }
        let refused = check_structure(&explicit_sequence(50_000), Encoding::ExplicitLittle);
        assert!(matches!(refused, Err(StructureError::TooDeep { .. })), "{refused:?}");
    }

    #[test]
    fn a_length_beyond_the_bytes_is_named() {
        let bytes = [0x10, 0x00, 0x10, 0x00, b'P', b'N', 9, 0, b'A', b'^', b'B'];
        let refused = check_structure(&bytes, Encoding::ExplicitLittle);
        let wanted =
            StructureError::TooLong { tag: Tag(0x0010, 0x0010), position: 0, length: 9, available: 3 };
        assert_eq!(refused, Err(wanted));
    }

    #[test]
    fn every_cut_of_a_sound_stream_is_refused_or_shorter() {
        let whole = explicit_sequence(3);
        for cut in 1..whole.len() {
            assert!(check_structure(&whole[..cut], Encoding::ExplicitLittle).is_err(), "cut at {cut} passed");
        }
    }

    /// Whatever byte is changed: a data set that is believed by its start is sound.
    #[test]
    fn what_stands_before_pixels_is_believed_only_of_a_sound_data_set() {
        let mut whole = explicit_sequence(2);
        whole.extend([0x28, 0x00, 0x10, 0x00, b'U', b'S', 2, 0, 9, 0]);
        whole.extend([0xE0, 0x7F, 0x10, 0x00, b'O', b'W', 0, 0, 40, 0, 0, 0]);
        let start = whole.len();
        whole.extend([0; 40]);
        let encoding = Encoding::ExplicitLittle;
        for cut in 0..=whole.len() {
            let found = check_before_pixels(&whole[..cut], whole.len(), encoding);
            assert_eq!(found.is_some(), cut >= start, "{cut} bytes of it");
            assert_eq!(
                check_before_pixels(&whole, cut, encoding).is_some(),
                cut == whole.len(),
                "{cut} bytes"
            );
        }
        let mut n_believed = 0;
        for place in 0..start {
            for byte in 0..=u8::MAX {
                let mut changed = whole.clone();
                changed[place] = byte;
                let Some(found) = check_before_pixels(&changed[..start], changed.len(), encoding) else {
                    continue;
                };
                n_believed += 1;
                let sound = check_structure(&changed, encoding);
                assert_eq!(sound.map(|layout| layout.top_level), Ok(found.top_level), "{byte} at {place}");
            }
        }
        assert!(n_believed > start);
    }

    #[test]
    fn stray_delimiters_are_refused() {
        for stray in [[0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0], [0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]] {
            let refused = check_structure(&stray, Encoding::ExplicitLittle);
            assert!(matches!(refused, Err(StructureError::Misplaced { .. })), "{refused:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            for encoding in [Encoding::ImplicitLittle, Encoding::ExplicitLittle, Encoding::ExplicitBig] {
                if let Ok(layout) = check_structure(&bytes, encoding) {
                    for (_, range) in layout.top_level {
                        proptest::prop_assert!(range.end <= bytes.len());
                    }
                }
            }
        }
    }
}
