//! The front door for instances: nothing from a file or a socket reaches a parser but through here.
//!
//! Comes in: a Part 10 file, or a data set with its transfer syntax. Goes out: an [`Instance`] whose sizes are
//! bounded and whose structure is checked ([`check_structure`]) before the recursive reader of dicom-rs sees it.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use dicom_core::value::Value;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_encoding::TransferSyntaxIndex;
use dicom_encoding::text::SpecificCharacterSet;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use flate2::read::DeflateDecoder;

use super::structure::{
    Encoding, Layout, PixelDataPlace, StructureError, check_before_pixels, check_meta_group, check_structure,
    short_vr_of,
};
use super::{InvalidUid, TransferSyntaxUid};

const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const SPECIFIC_CHARACTER_SET: Tag = Tag(0x0008, 0x0005);
/// No attribute has this tag; a hidden Specific Character Set stands there while text is read as bytes.
const HIDDEN_CHARACTER_SET: Tag = Tag(0x0008, 0x0004);

/// How much an instance may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceLimits {
    /// Largest file or data set, bytes; also the largest one that deflated data may grow to.
    pub max_bytes: usize,
    /// Most that deflated data may grow, as a factor. Images seldom pass 100, a bomb reaches 1032.
    pub max_inflate_ratio: usize,
}

impl Default for InstanceLimits {
    /// 1 GiB, which holds an enhanced CT of 2000 frames of 512 x 512, and a factor of 250.
    fn default() -> Self {
        Self { max_bytes: 1 << 30, max_inflate_ratio: 250 }
    }
}

/// Why an instance was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The file could not be read.
    #[error("could not read the instance {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// Larger than allowed.
    #[error("the instance is larger than the limit of {max_bytes} bytes; raise the limit if it is genuine")]
    TooLarge {
        /// The limit, bytes.
        max_bytes: usize,
    },
    /// Neither a Part 10 file nor a bare data set.
    #[error("not a DICOM file: no DICM after 128 bytes (PS3.10 7.1), and no data set at the start either")]
    NotDicom,
    /// The file meta group does not say how the data set is encoded.
    #[error("the file meta information has no Transfer Syntax UID (0002,0010): the data set cannot be read")]
    NoTransferSyntax,
    /// The file meta group holds something that is no UID.
    #[error("Transfer Syntax UID (0002,0010) in the file meta information is not a UID")]
    TransferSyntax {
        /// What is wrong with it.
        source: InvalidUid,
    },
    /// Deflated data that does not inflate.
    #[error("the deflated data set is damaged: send it again")]
    Inflate {
        /// What the decoder says.
        source: std::io::Error,
    },
    /// Deflated data that grows too much.
    #[error("the deflated data set of {compressed} bytes grows beyond {allowed} bytes: refused as a bomb")]
    InflatesTooFar {
        /// Bytes that came in.
        compressed: usize,
        /// Bytes that were allowed to come out.
        allowed: usize,
    },
    /// The structure is unsound.
    #[error("damaged data set")]
    Structure {
        /// Where and how.
        #[source]
        source: StructureError,
    },
    /// The reader found a value it could not take.
    #[error("damaged data set")]
    Reader {
        /// What the reader says.
        #[source]
        source: Box<dicom_object::ReadError>,
    },
    /// The reader gave up without an answer.
    #[error("damaged data set: the reader gave up on it")]
    ReaderPanicked,
}

/// An instance of checked structure, still encoded.
#[derive(Debug, Clone)]
pub struct Instance {
    /// File meta information, then the data set; inflated if it was deflated, up to Pixel Data if those were left.
    bytes: Vec<u8>,
    /// Where the data set begins; the layout counts from there.
    data_set_start: usize,
    encoding: Encoding,
    layout: Layout,
    transfer_syntax_uid: TransferSyntaxUid,
    media_storage_sop_class: Option<String>,
}

/// Pixel data as it is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedPixels<'a> {
    /// Uncompressed samples, all frames, in the byte order of the data set.
    Native(&'a [u8]),
    /// Fragments of an encapsulated stream (PS3.5 A.4).
    Encapsulated {
        /// Basic offset table, often empty.
        offset_table: &'a [u8],
        /// Fragments in order.
        fragments: Vec<&'a [u8]>,
    },
}

/// Reads a Part 10 file; a file without preamble or without file meta information is taken where its start is
/// a data set beyond doubt.
///
/// # Errors
/// [`InstanceError`]: not DICOM, too large, cut short, nested too deep, a deflate bomb, damaged.
pub fn read_instance(path: &Path, limits: InstanceLimits) -> Result<Instance, InstanceError> {
    let (file, length) = open(path, limits)?;
    read_rest(path, file, length, Vec::new(), limits)
}

/// Bytes of a file that are looked at before the whole is: attributes of a CT take some thousand, with what its
/// maker adds ten thousand and more.
const START: usize = 1 << 15;

/// As [`read_instance`] for who needs no pixels: of a file that ends with native Pixel Data only what stands before
/// is read, and [`Instance::pixels`] is `None` then. It refuses what [`read_instance`] refuses.
///
/// # Errors
/// As [`read_instance`].
pub fn read_attributes(path: &Path, limits: InstanceLimits) -> Result<Instance, InstanceError> {
    let (mut file, length) = open(path, limits)?;
    let mut start = Vec::with_capacity(START);
    let read = file.by_ref().take(START as u64).read_to_end(&mut start);
    read.map_err(|source| InstanceError::Read { path: path.to_owned(), source })?;
    match before_pixels(&start, length) {
        Some((meta, layout)) => Ok(instance(start, meta, layout)),
        None => read_rest(path, file, length, start, limits),
    }
}

/// Opens a file and gives its length, bytes, within the limit.
fn open(path: &Path, limits: InstanceLimits) -> Result<(File, usize), InstanceError> {
    let failed = |source| InstanceError::Read { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(InstanceError::NotAFile { path: path.to_owned() });
    }
    let length = usize::try_from(metadata.len()).ok().filter(|length| *length <= limits.max_bytes);
    let length = length.ok_or(InstanceError::TooLarge { max_bytes: limits.max_bytes })?;
    Ok((File::open(path).map_err(failed)?, length))
}

/// Reads what follows `start` of a file that had `length` bytes when it was opened, and may have more now.
fn read_rest(
    path: &Path,
    file: File,
    length: usize,
    mut start: Vec<u8>,
    limits: InstanceLimits,
) -> Result<Instance, InstanceError> {
    start.reserve_exact((length + 1).saturating_sub(start.len()));
    let most = limits.max_bytes.saturating_add(1).saturating_sub(start.len());
    let read = file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut start);
    read.map_err(|source| InstanceError::Read { path: path.to_owned(), source })?;
    parse_instance(start, limits)
}

/// What the file meta group says, and the layout of what stands before native Pixel Data with which a file of
/// `length` bytes ends; `None` where all of the file must be read to know whether it is sound.
fn before_pixels(start: &[u8], length: usize) -> Option<(Meta, Layout)> {
    let meta = meta_of(start).ok()??;
    if meta.transfer_syntax_uid.as_str() == DEFLATED {
        return None;
    }
    let encoding = Encoding::of_transfer_syntax(meta.transfer_syntax_uid.as_str());
    let data_set_length = length.checked_sub(meta.length)?;
    let layout = check_before_pixels(start.get(meta.length..)?, data_set_length, encoding)?;
    Some((meta, layout))
}

/// What stands before a data set.
struct Meta {
    /// Bytes, with the preamble.
    length: usize,
    transfer_syntax_uid: TransferSyntaxUid,
    media_storage_sop_class: Option<String>,
}

/// The file meta group; `None` where there is none.
fn meta_of(bytes: &[u8]) -> Result<Option<Meta>, InstanceError> {
    let start = if bytes.get(128..132) == Some(b"DICM") {
        132
    } else if bytes.starts_with(&[0x02, 0x00]) {
        0
    } else {
        return Ok(None);
    };
    let meta = bytes.get(start..).unwrap_or_default();
    let (layout, length) = check_meta_group(meta).map_err(structure)?;
    let text_of = |tag: Tag| meta_text(meta, &layout, tag);
    let transfer_syntax = text_of(Tag(0x0002, 0x0010)).ok_or(InstanceError::NoTransferSyntax)?;
    let transfer_syntax_uid = TransferSyntaxUid::parse(&transfer_syntax)
        .map_err(|source| InstanceError::TransferSyntax { source })?;
    let media_storage_sop_class = text_of(Tag(0x0002, 0x0002));
    Ok(Some(Meta { length: start + length, transfer_syntax_uid, media_storage_sop_class }))
}

/// As [`read_instance`], from the bytes of a file.
///
/// # Errors
/// As [`read_instance`].
pub fn parse_instance(bytes: Vec<u8>, limits: InstanceLimits) -> Result<Instance, InstanceError> {
    if bytes.len() > limits.max_bytes {
        return Err(InstanceError::TooLarge { max_bytes: limits.max_bytes });
    }
    match meta_of(&bytes)? {
        Some(meta) => parse_encoded(bytes, meta, limits),
        None => parse_bare(bytes),
    }
}

/// As [`parse_instance`], from a data set as it came over an association: no file meta information.
///
/// # Errors
/// As [`read_instance`].
pub fn parse_data_set(
    bytes: Vec<u8>,
    transfer_syntax_uid: TransferSyntaxUid,
    limits: InstanceLimits,
) -> Result<Instance, InstanceError> {
    if bytes.len() > limits.max_bytes {
        return Err(InstanceError::TooLarge { max_bytes: limits.max_bytes });
    }
    let meta = Meta { length: 0, transfer_syntax_uid, media_storage_sop_class: None };
    parse_encoded(bytes, meta, limits)
}

/// Inflates the data set of transfer syntax Deflated Explicit VR Little Endian, within limits.
///
/// # Errors
/// [`InstanceError::Inflate`] and [`InstanceError::InflatesTooFar`].
pub fn inflate(compressed: &[u8], limits: InstanceLimits) -> Result<Vec<u8>, InstanceError> {
    // A megabyte is free: the factor of a tiny header says nothing.
    let by_ratio = compressed.len().saturating_mul(limits.max_inflate_ratio).saturating_add(1 << 20);
    let allowed = by_ratio.min(limits.max_bytes);
    let mut inflated = Vec::new();
    let most = u64::try_from(allowed).unwrap_or(u64::MAX).saturating_add(1);
    DeflateDecoder::new(compressed)
        .take(most)
        .read_to_end(&mut inflated)
        .map_err(|source| InstanceError::Inflate { source })?;
    if inflated.len() > allowed {
        return Err(InstanceError::InflatesTooFar { compressed: compressed.len(), allowed });
    }
    Ok(inflated)
}

impl Instance {
    /// The transfer syntax it came in.
    #[must_use]
    pub fn transfer_syntax_uid(&self) -> &TransferSyntaxUid {
        &self.transfer_syntax_uid
    }

    /// Media Storage SOP Class UID (0002,0002) as text, unchecked: says what an object is that says nothing itself.
    #[must_use]
    pub fn media_storage_sop_class(&self) -> Option<&str> {
        self.media_storage_sop_class.as_deref()
    }

    /// Byte order and VR of the data set.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The data set without Pixel Data, text decoded by its Specific Character Set.
    ///
    /// # Errors
    /// [`InstanceError::Reader`] for a value that dicom-rs cannot take.
    pub fn data_set(&self) -> Result<InMemDicomObject, InstanceError> {
        let mut bytes = Vec::new();
        for (tag, range) in &self.layout.top_level {
            self.copy_element(*tag, range, &mut bytes);
        }
        self.parse(&bytes, SpecificCharacterSet::default())
    }

    /// The elements for which `keep` is true, without Pixel Data, every byte of text as the character of that
    /// number (ISO 8859-1), so that writing it with that character set gives back the bytes that came.
    ///
    /// Specific Character Set itself stays where it is, with its value.
    ///
    /// # Errors
    /// As [`Instance::data_set`].
    pub fn data_set_of_bytes(&self, keep: impl Fn(Tag) -> bool) -> Result<InMemDicomObject, InstanceError> {
        let element_byte = if self.encoding == Encoding::ExplicitBig { 3 } else { 2 };
        let mut bytes = Vec::new();
        for (tag, range) in self.layout.top_level.iter().filter(|(tag, _)| keep(*tag)) {
            let start = bytes.len();
            self.copy_element(*tag, range, &mut bytes);
            for position in self.layout.character_sets.iter().filter(|position| range.contains(position)) {
                bytes[start + (position - range.start) + element_byte] = 0x04;
            }
        }
        let mut data_set = self.parse(&bytes, SpecificCharacterSet::ISO_IR_100)?;
        show_character_sets(&mut data_set);
        Ok(data_set)
    }

    /// Pixel Data, `None` where the instance has none at its top level or they were not read ([`read_attributes`]).
    #[must_use]
    pub fn pixels(&self) -> Option<EncodedPixels<'_>> {
        Some(match self.layout.pixel_data.as_ref()? {
            PixelDataPlace::Native(range) => EncodedPixels::Native(self.slice(range)),
            PixelDataPlace::Encapsulated { offset_table, fragments } => EncodedPixels::Encapsulated {
                offset_table: self.slice(offset_table),
                fragments: fragments.iter().map(|range| self.slice(range)).collect(),
            },
        })
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[self.data_set_start + range.start..self.data_set_start + range.end]
    }

    /// Copies an element of the top level. One that an archive stored as UN, not knowing it, gets the VR of the
    /// dictionary back; its value is the same in explicit little endian (PS3.5 6.2.2 note 2).
    fn copy_element(&self, tag: Tag, range: &Range<usize>, bytes: &mut Vec<u8>) {
        let element = self.slice(range);
        if self.encoding == Encoding::ExplicitLittle
            && element.get(4..6) == Some(b"UN")
            && let Some(vr) = short_vr_of(tag)
            && let Some(value) = element.get(12..)
            && let Ok(length) = u16::try_from(value.len())
        {
            bytes.extend_from_slice(&element[..4]);
            bytes.extend_from_slice(vr.to_string().as_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(value);
        } else {
            bytes.extend_from_slice(element);
        }
    }

    fn parse(&self, bytes: &[u8], cs: SpecificCharacterSet) -> Result<InMemDicomObject, InstanceError> {
        let uid = match self.encoding {
            Encoding::ImplicitLittle => "1.2.840.10008.1.2",
            Encoding::ExplicitLittle => "1.2.840.10008.1.2.1",
            Encoding::ExplicitBig => "1.2.840.10008.1.2.2",
        };
        let transfer_syntax =
            TransferSyntaxRegistry.get(uid).expect("the registry holds the three plain syntaxes");
        let read = || InMemDicomObject::read_dataset_with_ts_cs(bytes, transfer_syntax, cs);
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(result) => result.map_err(|source| InstanceError::Reader { source: Box::new(source) }),
            Err(_) => Err(InstanceError::ReaderPanicked),
        }
    }
}

fn structure(source: StructureError) -> InstanceError {
    InstanceError::Structure { source }
}

fn parse_encoded(
    mut bytes: Vec<u8>,
    mut meta: Meta,
    limits: InstanceLimits,
) -> Result<Instance, InstanceError> {
    if meta.transfer_syntax_uid.as_str() == DEFLATED {
        bytes = inflate(&bytes[meta.length..], limits)?;
        meta.length = 0;
    }
    let encoding = Encoding::of_transfer_syntax(meta.transfer_syntax_uid.as_str());
    let layout = check_structure(&bytes[meta.length..], encoding).map_err(structure)?;
    Ok(instance(bytes, meta, layout))
}

fn instance(bytes: Vec<u8>, meta: Meta, layout: Layout) -> Instance {
    Instance {
        bytes,
        data_set_start: meta.length,
        encoding: Encoding::of_transfer_syntax(meta.transfer_syntax_uid.as_str()),
        layout,
        transfer_syntax_uid: meta.transfer_syntax_uid,
        media_storage_sop_class: meta.media_storage_sop_class,
    }
}

/// A data set without file meta information: it must start in group 0008 and be sound to its last byte in the
/// encoding that its first element shows.
fn parse_bare(bytes: Vec<u8>) -> Result<Instance, InstanceError> {
    let Some([0x08, 0x00, _, _, v0, v1, _, _]) = bytes.first_chunk().copied() else {
        return Err(InstanceError::NotDicom);
    };
    let (encoding, uid) = if VR::from_binary([v0, v1]).is_some() {
        (Encoding::ExplicitLittle, "1.2.840.10008.1.2.1")
    } else {
        (Encoding::ImplicitLittle, "1.2.840.10008.1.2")
    };
    let Ok(layout) = check_structure(&bytes, encoding) else { return Err(InstanceError::NotDicom) };
    let transfer_syntax_uid =
        TransferSyntaxUid::parse(uid).map_err(|source| InstanceError::TransferSyntax { source })?;
    let meta = Meta { length: 0, transfer_syntax_uid, media_storage_sop_class: None };
    Ok(instance(bytes, meta, layout))
}

/// The text of an element of the file meta group with VR UI: eight bytes of header, then the value.
fn meta_text(meta: &[u8], layout: &Layout, tag: Tag) -> Option<String> {
    let (_, range) = layout.top_level.iter().find(|(found, _)| *found == tag)?;
    let value = meta.get(range.start + 8..range.end)?;
    Some(String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned())
}

/// Puts every hidden Specific Character Set back under its own tag. The depth is bounded by the structure check.
fn show_character_sets(data_set: &mut InMemDicomObject) {
    if let Some(hidden) = data_set.take(HIDDEN_CHARACTER_SET) {
        let value = hidden.to_bytes().unwrap_or_default();
        let value = String::from_utf8_lossy(&value).trim_end_matches(['\0', ' ']).to_owned();
        data_set.put(DataElement::new(SPECIFIC_CHARACTER_SET, VR::CS, PrimitiveValue::from(value)));
    }
    let sequences: Vec<Tag> = data_set
        .iter()
        .filter(|element| matches!(element.value(), Value::Sequence(_)))
        .map(dicom_core::header::Header::tag)
        .collect();
    for tag in sequences {
        let updated = data_set.update_value(tag, |value| {
            if let Some(items) = value.items_mut() {
                items.iter_mut().for_each(show_character_sets);
            }
        });
        debug_assert!(updated, "the tag was listed a line above");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use dicom_dictionary_std::tags;
    use flate2::Compression;
    use flate2::write::DeflateEncoder;

    use super::*;

    fn part10(transfer_syntax: &str, data_set: &[u8]) -> Vec<u8> {
        let mut uid = transfer_syntax.as_bytes().to_vec();
        if uid.len() % 2 == 1 {
            uid.push(0);
        }
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        bytes.extend([0x02, 0x00, 0x10, 0x00, b'U', b'I', u8::try_from(uid.len()).unwrap(), 0]);
        bytes.extend(uid);
        bytes.extend(data_set);
        bytes
    }

    /// Specific Character Set ISO_IR 192, then a name with a character of two bytes.
    const NAME: &[u8] = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192\x10\x00\x10\x00PN\x06\x00M\xc3\xbcl\\r";

    #[test]
    fn text_is_decoded_or_kept_as_bytes() {
        let instance =
            parse_instance(part10("1.2.840.10008.1.2.1", NAME), InstanceLimits::default()).unwrap();
        let decoded = instance.data_set().unwrap();
        assert_eq!(decoded.element(tags::PATIENT_NAME).unwrap().to_raw_str().unwrap(), "Mül\\r");
        let kept = instance.data_set_of_bytes(|_| true).unwrap();
        assert_eq!(kept.element(tags::PATIENT_NAME).unwrap().to_raw_str().unwrap(), "M\u{c3}\u{bc}l\\r");
        assert_eq!(kept.element(tags::SPECIFIC_CHARACTER_SET).unwrap().to_str().unwrap(), "ISO_IR 192");
    }

    #[test]
    fn deflated_data_is_read_and_a_bomb_is_not() {
        let deflate = |bytes: &[u8]| {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let limits = InstanceLimits::default();
        let instance = parse_instance(part10(DEFLATED, &deflate(NAME)), limits).unwrap();
        assert!(instance.data_set().unwrap().get(tags::PATIENT_NAME).is_some());
        let bomb = part10(DEFLATED, &deflate(&vec![0; 50_000_000]));
        assert!(matches!(parse_instance(bomb, limits), Err(InstanceError::InflatesTooFar { .. })));
    }

    #[test]
    fn attributes_are_read_without_native_pixels_and_nothing_else_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instance.dcm");
        let limits = InstanceLimits::default();
        let pixels = |vr: &[u8], length: u32, bytes: &[u8]| {
            let mut data_set = NAME.to_vec();
            data_set.extend([0xE0, 0x7F, 0x10, 0x00]);
            data_set.extend(vr);
            data_set.extend([0, 0]);
            data_set.extend(length.to_le_bytes());
            data_set.extend(bytes);
            data_set
        };
        let native = pixels(b"OW", 100_000, &[7; 100_000]);
        let padded = [native.as_slice(), b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0\0\0"].concat();
        let item = [b"\xfe\xff\x00\xe0\x00\x90\x00\x00".as_slice(), &[7; 0x9000]].concat();
        let end = b"\xfe\xff\xdd\xe0\0\0\0\0".as_slice();
        let fragments =
            pixels(b"OB", u32::MAX, &[b"\xfe\xff\x00\xe0\0\0\0\0".as_slice(), &item, end].concat());
        let sequence = pixels(b"SQ", 0x9008, &item);
        let late = [
            NAME,
            &[b"\x20\x00\x00\x40LT\x00\xf0".as_slice(), &[b'a'; 0xf000]].concat(),
            &native[NAME.len()..],
        ];
        let late = late.concat();
        let with_length = |length: u32| pixels(b"OW", length, &[7; 100_000]);
        for (name, data_set, is_sound, has_pixels) in [
            ("native", native.clone(), true, false),
            ("native, with padding behind", padded, true, true),
            ("fragments", fragments.clone(), true, true),
            ("fragments without an end", fragments[..fragments.len() - 8].to_vec(), false, false),
            ("a sequence under the tag of pixels", sequence, false, false),
            ("more than the start before pixels", late, true, true),
            ("cut short", with_length(100_002), false, false),
            ("a rest behind", with_length(99_998), false, false),
            ("all but the last byte", native[..native.len() - 1].to_vec(), false, false),
        ] {
            std::fs::write(&path, part10("1.2.840.10008.1.2.1", &data_set)).unwrap();
            match (read_attributes(&path, limits), read_instance(&path, limits)) {
                (Ok(start), Ok(whole)) => {
                    assert!(is_sound, "{name}");
                    assert_eq!(start.data_set().unwrap(), whole.data_set().unwrap(), "{name}");
                    assert_eq!(
                        (start.pixels().is_some(), whole.pixels().is_some()),
                        (has_pixels, true),
                        "{name}"
                    );
                }
                (Err(start), Err(whole)) => {
                    assert!(!is_sound, "{name}: {start}");
                    assert_eq!(format!("{start:?}"), format!("{whole:?}"), "{name}");
                }
                (start, whole) => panic!("{name}: {:?} but {:?}", start.err(), whole.err()),
            }
        }
    }

    #[test]
    fn every_cut_gives_an_answer() {
        let whole = part10("1.2.840.10008.1.2.1", NAME);
        for cut in 0..whole.len() {
            if let Ok(instance) = parse_instance(whole[..cut].to_vec(), InstanceLimits::default()) {
                instance.data_set().unwrap();
            }
        }
    }

    #[test]
    fn what_is_not_dicom_is_said_to_be_so() {
        let limits = InstanceLimits::default();
        for bytes in [b"".to_vec(), b"hello".to_vec(), vec![0; 500], b"\x08\x00 this is no data set".to_vec()]
        {
            assert!(matches!(parse_instance(bytes, limits), Err(InstanceError::NotDicom)));
        }
        assert!(parse_instance(NAME.to_vec(), limits).is_ok(), "a bare data set");
    }
}
