//! Compressed streams to stored samples: which decoder for which transfer syntax, and the checks before it.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dicom_encoding::TransferSyntaxIndex;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};
use dicom_encoding::transfer_syntax::Codec;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use hayro_jpeg2000::{DecodeError, DecodeSettings, DecoderContext, Image};

use super::decode::{PixelForm, Words};
use super::error::PixelError;
use super::{jpeg_extended, jpeg_ls};

/// Transfer Syntax UID, compressed stream and form of one frame to its samples.
type Decoder = fn(&str, &[u8], &PixelForm) -> Result<Words, PixelError>;

/// Decodes one frame. The size that the stream claims is compared with the attributes before anything is
/// allocated, and a panic of the decoder becomes an error.
pub(super) fn decode_words(uid: &str, stream: &[u8], form: &PixelForm) -> Result<Words, PixelError> {
    let (codec, decode): (_, Decoder) = match uid {
        "1.2.840.10008.1.2.5" => ("RLE", rle),
        "1.2.840.10008.1.2.4.51" => ("JPEG Extended", jpeg_extended),
        "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70" => ("JPEG lossless", jpeg_lossless),
        "1.2.840.10008.1.2.4.80" | "1.2.840.10008.1.2.4.81" => ("JPEG-LS", jpeg_ls),
        "1.2.840.10008.1.2.4.90" | "1.2.840.10008.1.2.4.91" => ("JPEG 2000", jpeg_2000),
        _ => return Err(not_decoded(uid)),
    };
    match catch_unwind(AssertUnwindSafe(|| decode(uid, stream, form))) {
        Ok(Ok(words)) if words.words.len() == form.n_pixels() => Ok(words),
        Ok(Ok(words)) => Err(differs(format!("{} pixels", words.words.len()), form)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(PixelError::Panicked { codec }),
    }
}

fn not_decoded(uid: &str) -> PixelError {
    let retired = "it is retired (PS3.5): have the sender transmit it uncompressed or lossless";
    let (name, why) = match uid {
        "1.2.840.10008.1.2.4.50" => ("JPEG Baseline 8 bit", "8 bit lossy pictures are too coarse for HU"),
        "1.2.840.10008.1.2.4.53" => ("JPEG Spectral Selection, Non-Hierarchical (Process 6 & 8)", retired),
        "1.2.840.10008.1.2.4.55" => ("JPEG Full Progression, Non-Hierarchical (Process 10 & 12)", retired),
        _ => ("unknown here", "have the sender transmit it uncompressed or lossless"),
    };
    PixelError::TransferSyntax { uid: uid.to_owned(), name, why }
}

fn differs(found: String, form: &PixelForm) -> PixelError {
    let wanted = format!("{} rows x {} columns of one sample", form.rows, form.columns);
    PixelError::StreamDiffers { found, wanted }
}

fn damaged(codec: &'static str, why: impl Into<String>) -> PixelError {
    PixelError::Stream { codec, why: why.into() }
}

/// RLE of 16 bits: one segment for the high bytes, one for the low ones, each packed (PS3.5 G.3 to G.5).
fn rle(_: &str, stream: &[u8], form: &PixelForm) -> Result<Words, PixelError> {
    let number = |idx: usize| {
        let bytes = stream.get(idx * 4..idx * 4 + 4)?;
        usize::try_from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).ok()
    };
    let (Some(2), Some(high), Some(low)) = (number(0), number(1), number(2)) else {
        return Err(damaged("RLE", "the header does not announce two segments"));
    };
    let segment =
        |range| stream.get(range).ok_or_else(|| damaged("RLE", "a segment lies outside the stream"));
    let high = unpack(segment(high..low)?, form.n_pixels())?;
    let low = unpack(segment(low..stream.len())?, form.n_pixels())?;
    let words = high.into_iter().zip(low).map(|(high, low)| u16::from_be_bytes([high, low])).collect();
    Ok(Words { words, bits: None })
}

fn unpack(mut packed: &[u8], wanted: usize) -> Result<Vec<u8>, PixelError> {
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let Some((control, rest)) = packed.split_first() else {
            return Err(damaged("RLE", "a segment ends before the last pixel"));
        };
        let control = control.cast_signed();
        let cut = || damaged("RLE", "a segment ends inside a run");
        packed = if control >= 0 {
            let length = usize::from(control.unsigned_abs()) + 1;
            let (literal, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
            bytes.extend_from_slice(literal);
            rest
        } else if control > i8::MIN {
            let (byte, rest) = rest.split_first().ok_or_else(cut)?;
            bytes.resize(bytes.len() + usize::from(control.unsigned_abs()) + 1, *byte);
            rest
        } else {
            rest
        };
    }
    bytes.truncate(wanted);
    Ok(bytes)
}

fn jpeg_lossless(uid: &str, stream: &[u8], form: &PixelForm) -> Result<Words, PixelError> {
    let codec = "JPEG lossless";
    let size = jpeg_ls::frame_size(stream).ok_or_else(|| damaged(codec, "it has no frame header"))?;
    if (size.rows, size.columns, size.components) != (form.rows, form.columns, 1) {
        return Err(differs(size.to_string(), form));
    }
    if size.bits <= 8 {
        return Err(differs(size.to_string(), form));
    }
    Ok(Words { words: through_registry(codec, uid, stream, form)?, bits: None })
}

fn jpeg_extended(_: &str, stream: &[u8], form: &PixelForm) -> Result<Words, PixelError> {
    let codec = "JPEG Extended";
    let size = jpeg_ls::frame_size(stream).ok_or_else(|| damaged(codec, "it has no frame header"))?;
    if (size.rows, size.columns, size.components, size.bits) != (form.rows, form.columns, 1, 12) {
        return Err(differs(size.to_string(), form));
    }
    let words = jpeg_extended::decode(stream).map_err(|error| damaged(codec, error.to_string()))?;
    Ok(Words { words, bits: None })
}

fn jpeg_ls(_: &str, stream: &[u8], form: &PixelForm) -> Result<Words, PixelError> {
    let codec = "JPEG-LS";
    let size = jpeg_ls::frame_size(stream).ok_or_else(|| damaged(codec, "it has no frame header"))?;
    if (size.rows, size.columns, size.components) != (form.rows, form.columns, 1) {
        return Err(differs(size.to_string(), form));
    }
    let words = jpeg_ls::decode(stream).map_err(|error| damaged(codec, error.to_string()))?;
    Ok(Words { words, bits: None })
}

/// JPEG 2000. The codestream says itself how many bits a sample has, and is right where Bits Stored is not; an
/// unsigned codestream under Pixel Representation 1 holds two's complement of that many bits.
fn jpeg_2000(_: &str, stream: &[u8], form: &PixelForm) -> Result<Words, PixelError> {
    let codec = "JPEG 2000";
    let samples = codestream_samples(stream, form)?;
    let settings = DecodeSettings { strict: true, ..DecodeSettings::default() };
    let failed = |error: DecodeError| damaged(codec, error.to_string());
    let image = Image::new(stream, &settings).map_err(failed)?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(failed)?;
    let [component] = decoded.components() else {
        return Err(differs(format!("{} components", decoded.components().len()), form));
    };
    // The decoder lifts signed samples as if they were unsigned (ISO 15444-1 G.1).
    let (span, lift) = (1_i32 << samples.bits, if samples.are_signed { 1 << (samples.bits - 1) } else { 0 });
    let words = component.samples().iter().map(|&sample| low_bits(sample, span, lift)).collect();
    Ok(Words { words, bits: Some(samples.bits) })
}

/// The nearest value in 0..span, less `lift`, in as many low bits as span has values for.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..2^16 before")]
fn low_bits(sample: f32, span: i32, lift: i32) -> u16 {
    let value = (sample.round_ties_even() as i32).clamp(0, span - 1) - lift;
    (value & (span - 1)) as u16
}

/// How samples stand in a JPEG 2000 codestream.
struct CodestreamSamples {
    bits: u16,
    are_signed: bool,
}

/// Its samples from the SIZ marker, once its sizes are the attributes' (ISO 15444-1 A.5.1).
fn codestream_samples(stream: &[u8], form: &PixelForm) -> Result<CodestreamSamples, PixelError> {
    let codec = "JPEG 2000";
    let head = &stream[..stream.len().min(4096)];
    let siz = head.windows(4).position(|bytes| bytes == [0xFF, 0x4F, 0xFF, 0x51]);
    let siz = siz.and_then(|start| head.get(start + 8..start + 8 + 37));
    let siz = siz.ok_or_else(|| damaged(codec, "it has no size marker at the start"))?;
    let number = |at: usize| u64::from(u32::from_be_bytes([siz[at], siz[at + 1], siz[at + 2], siz[at + 3]]));
    let (width, height) = (number(0).checked_sub(number(8)), number(4).checked_sub(number(12)));
    let (tile_width, tile_height) = (number(16), number(20));
    let components = u16::from_be_bytes([siz[32], siz[33]]);
    let wanted = (Some(u64::from(form.columns)), Some(u64::from(form.rows)), 1);
    if (width, height, components) != wanted || siz[35] != 1 || siz[36] != 1 {
        return Err(differs(format!("{height:?} rows x {width:?} columns of {components} samples"), form));
    }
    // A tile smaller than 16 x 16 serves nobody but an attacker; the number of tiles bounds the work.
    if tile_width < u64::from(form.columns.min(16)) || tile_height < u64::from(form.rows.min(16)) {
        return Err(damaged(codec, format!("tiles of {tile_height} rows x {tile_width} columns")));
    }
    let (bits, are_signed) = (u16::from(siz[34] & 0x7F) + 1, siz[34] & 0x80 != 0);
    if !(8..=16).contains(&bits) {
        return Err(damaged(codec, format!("{bits} bits per sample")));
    }
    Ok(CodestreamSamples { bits, are_signed })
}

/// One frame through the decoder that dicom-rs registers for the transfer syntax.
fn through_registry(
    codec: &'static str,
    uid: &str,
    stream: &[u8],
    form: &PixelForm,
) -> Result<Vec<u16>, PixelError> {
    let Some(Codec::EncapsulatedPixelData(Some(reader), _)) =
        TransferSyntaxRegistry.get(uid).map(|transfer_syntax| transfer_syntax.codec())
    else {
        return Err(not_decoded(uid));
    };
    let mut bytes = Vec::new();
    let one = OneFrame { uid, stream, rows: form.rows, columns: form.columns };
    reader.decode_frame(&one, 0, &mut bytes).map_err(|error| damaged(codec, error.to_string()))?;
    Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
}

/// A frame as the decoders of dicom-rs want to see it.
struct OneFrame<'a> {
    uid: &'a str,
    stream: &'a [u8],
    rows: u16,
    columns: u16,
}

impl PixelDataObject for OneFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.uid
    }
    fn rows(&self) -> Option<u16> {
        Some(self.rows)
    }
    fn cols(&self) -> Option<u16> {
        Some(self.columns)
    }
    fn samples_per_pixel(&self) -> Option<u16> {
        Some(1)
    }
    fn bits_allocated(&self) -> Option<u16> {
        Some(16)
    }
    fn bits_stored(&self) -> Option<u16> {
        Some(16)
    }
    fn photometric_interpretation(&self) -> Option<&str> {
        Some("MONOCHROME2")
    }
    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }
    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }
    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.stream))
    }
    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        None
    }
    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        Some(RawPixelData { fragments: vec![self.stream.to_vec()].into(), offset_table: Vec::new().into() })
    }
}
