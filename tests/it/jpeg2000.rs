//! JPEG 2000 codestreams as OpenJPEG writes them, each option of its encoder, with what goes in (lossless) or what OpenJPEG
//! itself decodes (lossy) as the truth; and streams that end too early.

use std::path::Path;
use std::process::{Command, Stdio};

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use oarlock::pipeline::volume::{PixelError, hu_of_frame};
use oarlock::vocabulary::dicom::instance::{InstanceLimits, read_instance};

use crate::support::peer;
use crate::wire::CT;

const ROWS: usize = 37;
const COLUMNS: usize = 61;

/// Bits, and whether samples are signed.
type Form = (u32, bool);

/// Nothing symmetric, and every bit used; no less than air.
fn image((bits, is_signed): Form) -> Vec<i32> {
    let (low, high) = if is_signed { (-(1 << (bits - 1)), 1 << (bits - 1)) } else { (0, 1 << bits) };
    let (low, high) = (low.max(-1024), high.min(32_768));
    let pixel = |at: usize| {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        let wave = (row as f64 / 5.0).sin() + (column as f64 / 9.0).cos() + row as f64 / 40.0;
        let texture = (at * 7919 % 101) as i32 - 50;
        (low + ((wave + 2.0) / 5.0 * f64::from(high - low)) as i32 + texture).clamp(low, high - 1)
    };
    let mut pixels: Vec<i32> = (0..ROWS * COLUMNS).map(pixel).collect();
    (pixels[3], pixels[COLUMNS]) = (low, high - 1);
    pixels
}

/// The codestream of OpenJPEG's encoder, and what its decoder makes of it.
fn encoded(folder: &Path, form: Form, options: &str) -> (Vec<u8>, Vec<i32>) {
    let words: Vec<u8> = image(form).iter().flat_map(|pixel| (*pixel as u16).to_le_bytes()).collect();
    let path = |name: &str| folder.join(name).display().to_string();
    let (raw, stream, back) = (path("image.rawl"), path("image.j2k"), path("back.rawl"));
    std::fs::write(&raw, words).unwrap();
    let sign = if form.1 { 's' } else { 'u' };
    let size = format!("{COLUMNS},{ROWS},1,{},{sign}", form.0);
    let mut encode = Command::new("opj_compress");
    encode.args(["-i", &raw, "-o", &stream, "-F", &size]).args(options.split_whitespace());
    let mut decode = Command::new("opj_decompress");
    decode.args(["-i", &stream, "-o", &back]);
    for command in [&mut encode, &mut decode] {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let number = |pair: &[u8]| {
        // Only as many low bits are written as a sample has.
        let word = i32::from(u16::from_le_bytes([pair[0], pair[1]]));
        if form.1 && word >> (form.0 - 1) & 1 == 1 { word | -1 << form.0 } else { word }
    };
    let back = std::fs::read(back).unwrap().chunks_exact(2).map(number).collect();
    (std::fs::read(stream).unwrap(), back)
}

fn decoded(folder: &Path, (bits, is_signed): Form, stream: &[u8]) -> Result<Vec<i32>, PixelError> {
    let mut data_set = InMemDicomObject::new_empty();
    let mut short = |tag: (u16, u16), value: u32| {
        let value = PrimitiveValue::from(u16::try_from(value).unwrap());
        data_set.put(DataElement::new(Tag::from(tag), VR::US, value));
    };
    short((0x0028, 0x0002), 1);
    short((0x0028, 0x0010), ROWS as u32);
    short((0x0028, 0x0011), COLUMNS as u32);
    short((0x0028, 0x0100), 16);
    short((0x0028, 0x0101), bits);
    short((0x0028, 0x0102), bits - 1);
    short((0x0028, 0x0103), is_signed.into());
    for (tag, vr, value) in [
        ((0x0008, 0x0016), VR::UI, CT),
        ((0x0008, 0x0018), VR::UI, "1.2.3"),
        ((0x0008, 0x0060), VR::CS, "CT"),
        ((0x0028, 0x0004), VR::CS, "MONOCHROME2"),
        ((0x0028, 0x1052), VR::DS, "0"),
        ((0x0028, 0x1053), VR::DS, "1"),
    ] {
        data_set.put(DataElement::new(Tag::from(tag), vr, PrimitiveValue::from(value)));
    }
    let mut fragment = stream.to_vec();
    fragment.resize(stream.len().next_multiple_of(2), 0);
    let fragments = PixelFragmentSequence::new(vec![0_u32], vec![fragment]);
    data_set.put(DataElement::new(Tag(0x7FE0, 0x0010), VR::OB, fragments));
    let meta = FileMetaTableBuilder::new().transfer_syntax("1.2.840.10008.1.2.4.91");
    let path = folder.join("instance.dcm");
    data_set.with_meta(meta).unwrap().write_to_file(&path).unwrap();
    let instance = read_instance(&path, InstanceLimits::default()).unwrap();
    hu_of_frame(&instance, 0, "instance").map(|hu| hu.iter().map(|hu| i32::from(*hu)).collect())
}

#[test]
fn what_openjpeg_writes_is_read_to_the_unit() {
    if peer("jpeg2000", "opj_compress").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let forms = [(12, false), (12, true), (16, false), (16, true), (10, false)];
    let lossless = [
        "",
        "-n 1",
        "-n 4 -p RPCL -SOP -EPH",
        "-p PCRL -n 3 -c [32,32],[16,16] -b 8,8",
        "-p CPRL -t 23,17 -n 3 -PLT -TLM",
        "-p RLCP -t 32,32 -n 4 -TP R",
        "-r 20,8,2,1",
        "-M 1",
        "-M 38",
        "-M 63",
        "-d 5,3 -T 2,1 -t 40,30 -n 3",
    ];
    for form in forms {
        for options in lossless {
            let (stream, back) = encoded(folder.path(), form, options);
            let ours = decoded(folder.path(), form, &stream);
            let ours = ours.unwrap_or_else(|error| panic!("{form:?} {options}: {error:?}"));
            assert!(ours == image(form), "{form:?} {options}");
            assert!(back == image(form), "OpenJPEG itself: {form:?} {options}");
        }
        for options in ["-I -r 4", "-I -q 45,60 -n 3", "-r 6", "-I -r 3 -t 32,32 -n 4"] {
            let (stream, back) = encoded(folder.path(), form, options);
            let ours = decoded(folder.path(), form, &stream).unwrap();
            // The irreversible transform is of floats, whose last bits are each decoder's own.
            let back: Vec<i32> = back.into_iter().map(|pixel| pixel.clamp(-1024, 32_767)).collect();
            let most = ours.iter().zip(&back).map(|(ours, back)| (ours - back).abs()).max().unwrap();
            assert!(most <= 1, "{form:?} {options}: up to {most} from OpenJPEG");
            let lost = |decoded: &[i32]| -> i32 {
                decoded.iter().zip(image(form)).map(|(decoded, pixel)| (decoded - pixel).abs()).sum()
            };
            let (ours, theirs) = (lost(&ours), lost(&back));
            assert!(theirs > 0 && ours * 100 <= theirs * 101, "{form:?} {options}: {ours} {theirs}");
        }
    }
}

#[test]
fn a_stream_that_ends_too_early_is_refused_and_nothing_made_up() {
    if peer("jpeg2000", "opj_compress").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let form = (12, true);
    for options in ["", "-p RPCL -SOP -EPH", "-r 20,1", "-t 32,32 -n 4"] {
        let (stream, _) = encoded(folder.path(), form, options);
        for twentieth in 1..20 {
            let cut = &stream[..stream.len() * twentieth / 20];
            let error = decoded(folder.path(), form, cut).expect_err("a cut stream was taken");
            assert!(!matches!(error, PixelError::Panicked { .. }), "{options} at {twentieth}/20: {error}");
        }
    }
}
