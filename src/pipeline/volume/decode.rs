//! Pixel data to Hounsfield units, one frame at a time.
//!
//! Every size is checked as a 64-bit product before anything is allocated, and a decoder that panics is one
//! refused instance.

use std::cell::RefCell;
use std::rc::Rc;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use ndarray::Array2;

use super::codec::decode_words;
use super::error::PixelError;
use crate::vocabulary::dicom::attribute::{AttributeError, Attributes};
use crate::vocabulary::dicom::instance::{EncodedPixels, Instance};
use crate::vocabulary::dicom::structure::Encoding;

/// Largest number of rows or columns.
pub const LARGEST_SIDE: u16 = 4096;

/// What padding and everything below becomes, HU: air. Scanners fill the corners outside of the field of view
/// with values such as -2000 or -3024 that are no attenuation, and -1024 is the lowest that 12 bits hold.
pub const AIR_HU: i16 = -1024;

/// Fewest bits that hold HU finely enough to tell one soft tissue from another.
const FEWEST_BITS: u16 = 10;

/// How the pixels of an instance are to be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PixelForm {
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) n_frames: usize,
    values: Values,
}

/// What the words of pixels mean.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Values {
    bits_stored: u16,
    signed: bool,
    slope: f64,
    intercept: f64,
    /// Words that are padding, both ends inside.
    padding: Option<[i64; 2]>,
}

thread_local! {
    /// The last table of each thread: slices of a series mostly need the same.
    static LAST: RefCell<Option<(Values, Rc<[i16]>)>> = const { RefCell::new(None) };
}

/// Samples of one frame as they are stored, and how many of the low bits of each are the value.
pub(super) struct Words {
    pub(super) words: Vec<u16>,
    /// `None`: as Bits Stored says.
    pub(super) bits: Option<u16>,
}

/// Hounsfield units of one frame (zero-based), rows x columns: rounded to whole ones, padding and everything
/// below [`AIR_HU`] as air, everything above 32767 as 32767. `name` stands in errors.
///
/// # Errors
/// [`PixelError`]: not a CT's pixel form, a transfer syntax that is not decoded, cut short, damaged.
pub fn hu_of_frame(instance: &Instance, frame: usize, name: &str) -> Result<Array2<i16>, PixelError> {
    let form = PixelForm::read(instance, frame, name)?;
    let mut hu = Array2::zeros([usize::from(form.rows), usize::from(form.columns)]);
    if let Some(pixels) = hu.as_slice_mut() {
        decode_into(instance, &form, frame, pixels)?;
    }
    Ok(hu)
}

/// As [`hu_of_frame`], into `hu`, which has rows x columns elements.
pub(super) fn decode_into(
    instance: &Instance,
    form: &PixelForm,
    frame: usize,
    hu: &mut [i16],
) -> Result<(), PixelError> {
    match instance.pixels().ok_or(PixelError::NoPixelData)? {
        EncodedPixels::Native(bytes) => {
            let bytes = native_frame(bytes, form, frame)?;
            let table = form.values.table();
            let pairs = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
            if instance.encoding() == Encoding::ExplicitBig {
                pairs.zip(hu).for_each(|(pair, hu)| *hu = table[usize::from(u16::from_be_bytes(pair))]);
            } else {
                pairs.zip(hu).for_each(|(pair, hu)| *hu = table[usize::from(u16::from_le_bytes(pair))]);
            }
        }
        EncodedPixels::Encapsulated { offset_table, fragments } => {
            let stream = frame_stream(offset_table, &fragments, form.n_frames, frame)?;
            let uid = instance.transfer_syntax_uid().as_str();
            let Words { words, bits } = decode_words(uid, &stream, form)?;
            let bits_stored = bits.unwrap_or(form.values.bits_stored);
            let table = Values { bits_stored, ..form.values }.table();
            words.into_iter().zip(hu).for_each(|(word, hu)| *hu = table[usize::from(word)]);
        }
    }
    Ok(())
}

impl PixelForm {
    /// Reads and checks the attributes that say how pixels are stored.
    pub(super) fn read(instance: &Instance, frame: usize, name: &str) -> Result<Self, PixelError> {
        let attribute = |source: AttributeError| PixelError::Attribute { source };
        let data_set = instance
            .data_set_of_bytes(|tag| tag.0 == 0x0028 || tag.0 == 0x5200)
            .map_err(|error| PixelError::DataSet { why: error.to_string() })?;
        let attributes = Attributes::new(&data_set, name);
        let short = |tag: Tag| attributes.unsigned_short(tag).map_err(attribute);

        let (rows, columns) = (short(tags::ROWS)?, short(tags::COLUMNS)?);
        let side_ok = |side: u16| (1..=LARGEST_SIDE).contains(&side);
        if !(side_ok(rows) && side_ok(columns)) {
            return Err(PixelError::Size { rows, columns, largest: LARGEST_SIDE });
        }
        let samples =
            if attributes.has(tags::SAMPLES_PER_PIXEL) { short(tags::SAMPLES_PER_PIXEL)? } else { 1 };
        must(samples == 1, "SamplesPerPixel (0028,0002)", samples, "1")?;
        let photometric = attributes.text(tags::PHOTOMETRIC_INTERPRETATION).map_err(attribute)?;
        must(
            photometric == "MONOCHROME2",
            "PhotometricInterpretation (0028,0004)",
            photometric,
            "MONOCHROME2",
        )?;
        let stored = short(tags::BITS_STORED)?;
        let bits_ok = (FEWEST_BITS..=16).contains(&stored);
        must(bits_ok, "BitsStored (0028,0101)", stored, "10 to 16 (8 bit lossy pictures are too coarse)")?;
        let allocated = short(tags::BITS_ALLOCATED)?;
        must(allocated == 16, "BitsAllocated (0028,0100)", allocated, "16")?;
        let high = short(tags::HIGH_BIT)?;
        must(high + 1 == stored, "HighBit (0028,0102)", high, "BitsStored - 1")?;
        let representation = short(tags::PIXEL_REPRESENTATION)?;
        must(representation <= 1, "PixelRepresentation (0028,0103)", representation, "0 or 1")?;

        let n_frames = attributes.optional_text(tags::NUMBER_OF_FRAMES);
        let n_frames = n_frames.and_then(|text| text.parse().ok()).unwrap_or(1);
        let rescale = rescale_of(attributes, frame);
        let slope = rescale.number(tags::RESCALE_SLOPE).map_err(attribute)?;
        let intercept = rescale.number(tags::RESCALE_INTERCEPT).map_err(attribute)?;
        must(slope > 0.0, "RescaleSlope (0028,1053)", slope, "more than 0")?;
        let rescale_type = rescale.optional_text(tags::RESCALE_TYPE).unwrap_or_default();
        // US is "unspecified" (PS3.3 C.11.1.1.2); the values are judged once the volume is there.
        let type_ok = ["", "HU", "US"].contains(&rescale_type.as_str());
        must(type_ok, "RescaleType (0028,1054)", rescale_type, "HU")?;
        Ok(Self {
            rows,
            columns,
            n_frames,
            values: Values {
                bits_stored: stored,
                signed: representation == 1,
                slope,
                intercept,
                padding: padding_of(attributes),
            },
        })
    }

    /// Pixels of a frame.
    pub(super) fn n_pixels(&self) -> usize {
        usize::from(self.rows) * usize::from(self.columns)
    }
}

impl Values {
    /// Hounsfield units of each word.
    fn table(self) -> Rc<[i16]> {
        LAST.with_borrow_mut(|last| match last {
            Some((values, table)) if *values == self => Rc::clone(table),
            _ => Rc::clone(&last.insert((self, self.new_table())).1),
        })
    }

    fn new_table(&self) -> Rc<[i16]> {
        let bits = u32::from(self.bits_stored.clamp(1, 16));
        (0..=u16::MAX)
            .map(|word| {
                if self.is_padding(word) {
                    return AIR_HU;
                }
                let value = i32::from(word) & ((1 << bits) - 1);
                let negative = self.signed && value >> (bits - 1) == 1;
                let value = if negative { value - (1 << bits) } else { value };
                let hu = (self.slope * f64::from(value) + self.intercept).round_ties_even();
                rounded_hu(hu)
            })
            .collect()
    }

    fn is_padding(&self, word: u16) -> bool {
        let Some([low, high]) = self.padding else { return false };
        let value = if self.signed { i64::from(word.cast_signed()) } else { i64::from(word) };
        (low..=high).contains(&value)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i16 in the same line")]
fn rounded_hu(hu: f64) -> i16 {
    hu.clamp(f64::from(AIR_HU), f64::from(i16::MAX)) as i16
}

fn must(
    holds: bool,
    attribute: &'static str,
    found: impl std::fmt::Display,
    wanted: &'static str,
) -> Result<(), PixelError> {
    if holds { Ok(()) } else { Err(PixelError::Form { attribute, found: found.to_string(), wanted }) }
}

/// Where the rescale of a frame stands: in its own functional group, the shared one, or the instance itself.
fn rescale_of(attributes: Attributes<'_>, frame: usize) -> Attributes<'_> {
    let group = tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE;
    let own = attributes.items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).ok();
    let own = own.and_then(|frames| frames.get(frame)?.item(group).ok());
    let shared = || attributes.item(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).ok()?.item(group).ok();
    own.or_else(shared).unwrap_or(attributes)
}

/// Pixel Padding Value and its Range Limit (PS3.3 C.7.5.1.1.2). Their VR follows the pixels', which readers of
/// implicit VR cannot know, so the number is taken as 16 bits and read with the pixels' sign.
fn padding_of(attributes: Attributes<'_>) -> Option<[i64; 2]> {
    let signed = attributes.integer(tags::PIXEL_REPRESENTATION).ok()? == 1;
    let word = |tag: Tag| {
        let word = u16::try_from(attributes.integer(tag).ok()?.rem_euclid(1 << 16)).ok()?;
        Some(if signed { i64::from(word.cast_signed()) } else { i64::from(word) })
    };
    let value = word(tags::PIXEL_PADDING_VALUE)?;
    let limit = word(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(value);
    Some([value.min(limit), value.max(limit)])
}

fn native_frame<'a>(bytes: &'a [u8], form: &PixelForm, frame: usize) -> Result<&'a [u8], PixelError> {
    let size = form.n_pixels() as u64 * 2;
    let start = size.saturating_mul(frame as u64);
    let wanted = start.saturating_add(size);
    let range = usize::try_from(start).ok().zip(usize::try_from(wanted).ok());
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or(PixelError::TooShort {
        frame: frame + 1,
        found: bytes.len() as u64,
        wanted,
    })
}

/// The compressed stream of one frame: all fragments of a single frame, one fragment per frame, or what the
/// basic offset table says (PS3.5 A.4).
fn frame_stream(
    offset_table: &[u8],
    fragments: &[&[u8]],
    n_frames: usize,
    frame: usize,
) -> Result<Vec<u8>, PixelError> {
    let lost = PixelError::Fragments { n_fragments: fragments.len(), n_frames, frame: frame + 1 };
    if fragments.is_empty() || frame >= n_frames {
        return Err(lost);
    }
    if n_frames == 1 {
        return Ok(fragments.concat());
    }
    if fragments.len() == n_frames {
        return Ok(fragments[frame].to_vec());
    }
    let offsets: Vec<u64> = offset_table
        .chunks_exact(4)
        .map(|o| u64::from(u32::from_le_bytes([o[0], o[1], o[2], o[3]])))
        .collect();
    let Some(start) = offsets.get(frame).copied() else { return Err(lost) };
    let end = offsets.get(frame + 1).copied().unwrap_or(u64::MAX);
    let mut position = 0_u64;
    let mut stream = Vec::new();
    for fragment in fragments {
        if (start..end).contains(&position) {
            stream.extend_from_slice(fragment);
        }
        // An item header of eight bytes stands before each fragment.
        position += 8 + fragment.len() as u64;
    }
    if stream.is_empty() { Err(lost) } else { Ok(stream) }
}
