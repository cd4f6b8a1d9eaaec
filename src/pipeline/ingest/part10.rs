//! The head of a Part 10 file (PS3.10 7.1): written by us, with a preamble of zeros, and split from the data set.

use super::spool::Incoming;
use crate::vocabulary::dicom::{
    AeTitle, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, InvalidUid, SopClassUid, SopInstanceUid,
    TransferSyntaxUid,
};

/// Why bytes are no Part 10 file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Part10Error {
    /// No "DICM" after 128 bytes.
    #[error("it does not hold DICM after 128 bytes, so it is no DICOM file")]
    NoPrefix,
    /// File meta information that breaks off or is not explicit VR.
    #[error("its file meta information is broken at byte {at}")]
    Malformed {
        /// Where.
        at: usize,
    },
    /// A UID of the file meta information is missing or none.
    #[error("{keyword} in its file meta information is no UID")]
    Uid {
        /// DICOM keyword.
        keyword: &'static str,
        /// Why.
        #[source]
        source: InvalidUid,
    },
}

/// A Part 10 file in its parts.
#[derive(Debug)]
pub(crate) struct Part10<'a> {
    /// Media Storage SOP Class UID (0002,0002).
    pub(crate) sop_class_uid: SopClassUid,
    /// Media Storage SOP Instance UID (0002,0003).
    pub(crate) sop_instance_uid: SopInstanceUid,
    /// Transfer Syntax UID (0002,0010).
    pub(crate) transfer_syntax_uid: TransferSyntaxUid,
    /// Source Application Entity Title (0002,0016).
    pub(crate) source_ae_title: Option<AeTitle>,
    /// Everything after the file meta information.
    pub(crate) data_set: &'a [u8],
}

/// Splits a file; `bytes` may stop anywhere after the file meta information.
pub(crate) fn split(bytes: &[u8]) -> Result<Part10<'_>, Part10Error> {
    if bytes.get(128..132) != Some(b"DICM") {
        return Err(Part10Error::NoPrefix);
    }
    let (mut class, mut instance, mut syntax, mut source) = ("", "", "", "");
    let mut at = 132;
    while let Some([2, 0, e0, e1, v0, v1, rest @ ..]) =
        bytes.get(at..).filter(|rest| rest.starts_with(&[2, 0]))
    {
        let malformed = Part10Error::Malformed { at };
        let (head, length) = match ([*v0, *v1], rest) {
            ([b'O', b'B' | b'W'] | [b'U', b'N' | b'T'], [_, _, a, b, c, d, ..]) => {
                (12, usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])))
            }
            (_, [a, b, ..]) => (8, Ok(usize::from(u16::from_le_bytes([*a, *b])))),
            _ => return Err(malformed),
        };
        let end = length.ok().and_then(|length| length.checked_add(at + head));
        let Some(value) = end.and_then(|end| bytes.get(at + head..end)) else { return Err(malformed) };
        let text = || std::str::from_utf8(value).unwrap_or_default();
        match u16::from_le_bytes([*e0, *e1]) {
            0x0002 => class = text(),
            0x0003 => instance = text(),
            0x0010 => syntax = text(),
            0x0016 => source = text(),
            _ => {}
        }
        at += head + value.len();
    }
    let uid = |keyword| move |source| Part10Error::Uid { keyword, source };
    Ok(Part10 {
        sop_class_uid: SopClassUid::parse(class).map_err(uid("MediaStorageSOPClassUID"))?,
        sop_instance_uid: SopInstanceUid::parse(instance).map_err(uid("MediaStorageSOPInstanceUID"))?,
        transfer_syntax_uid: TransferSyntaxUid::parse(syntax).map_err(uid("TransferSyntaxUID"))?,
        source_ae_title: source.parse().ok(),
        data_set: &bytes[at..],
    })
}

/// Preamble, prefix and file meta information for a data set.
pub(crate) fn header(incoming: &Incoming<'_>) -> Vec<u8> {
    let mut meta = Vec::with_capacity(400);
    meta.extend([2, 0, 1, 0, b'O', b'B', 0, 0, 2, 0, 0, 0, 0, 1]);
    text(&mut meta, 0x0002, *b"UI", incoming.sop_class_uid.as_str());
    text(&mut meta, 0x0003, *b"UI", incoming.sop_instance_uid.as_str());
    text(&mut meta, 0x0010, *b"UI", incoming.transfer_syntax_uid.as_str());
    text(&mut meta, 0x0012, *b"UI", IMPLEMENTATION_CLASS_UID);
    text(&mut meta, 0x0013, *b"SH", IMPLEMENTATION_VERSION_NAME);
    text(&mut meta, 0x0016, *b"AE", incoming.calling_ae_title.as_str());
    let length = u32::try_from(meta.len()).expect("seven short elements");
    let mut header = vec![0; 128];
    header.extend(b"DICM");
    header.extend([2, 0, 0, 0, b'U', b'L', 4, 0]);
    header.extend(length.to_le_bytes());
    header.extend(meta);
    header
}

fn text(out: &mut Vec<u8>, element: u16, vr: [u8; 2], value: &str) {
    let padded = value.len() + value.len() % 2;
    let length = u16::try_from(padded).expect("UIDs, titles and names have at most 64 characters");
    out.extend([2, 0]);
    out.extend(element.to_le_bytes());
    out.extend(vr);
    out.extend(length.to_le_bytes());
    out.extend(value.as_bytes());
    if padded > value.len() {
        out.push(if vr == *b"UI" { 0 } else { b' ' });
    }
}
