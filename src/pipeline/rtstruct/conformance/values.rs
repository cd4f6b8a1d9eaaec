//! What each value representation allows (PS3.5 6.2): length, characters, form.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::header::Header;
use dicom_core::value::Value;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::super::characters::CharacterSet;
use crate::vocabulary::dicom::SopInstanceUid;
use crate::vocabulary::dicom::attribute::Attribute;

/// Every element at any depth whose value breaks its representation. `is_copied` names elements that are the CT's own:
/// those must agree with the CT more than with PS3.5.
pub(super) fn check(
    object: &InMemDicomObject,
    characters: &CharacterSet,
    is_copied: &dyn Fn(&InMemElement) -> bool,
) -> Vec<String> {
    let mut broken = Vec::new();
    for element in object {
        if !is_copied(element) {
            walk(element, characters, "", &mut broken);
        }
    }
    broken
}

fn walk(element: &InMemElement, characters: &CharacterSet, place: &str, broken: &mut Vec<String>) {
    let tag = element.tag();
    match element.value() {
        Value::Sequence(sequence) => {
            for (n, item) in sequence.items().iter().enumerate() {
                let place = format!("{place}{} item {}: ", Attribute(tag), n + 1);
                item.iter().for_each(|element| walk(element, characters, &place, broken));
            }
        }
        _ => {
            if let Err(why) = check_element(element, characters) {
                broken.push(format!("{place}{} {why}", Attribute(tag)));
            }
        }
    }
}

/// Whether a value is one of its representation; if not, why.
pub(in super::super) fn check_element(
    element: &InMemElement,
    characters: &CharacterSet,
) -> Result<(), String> {
    let (tag, vr) = (element.tag(), element.vr());
    if let Some(wanted) = vr_of(tag)
        && wanted != vr
    {
        return Err(format!("has VR {vr:?}, the standard says {wanted:?}"));
    }
    let Value::Primitive(value) = element.value() else { return Ok(()) };
    let text = characters.text(value);
    let text = text.trim_end_matches(['\0', ' ']);
    if matches!(vr, VR::ST | VR::LT | VR::UT) {
        return text_of(vr, text);
    }
    text.split('\\').try_for_each(|value| one(vr, value.trim_matches(' ')))
}

/// The VR of the standard, `None` for unknown tags and for those whose VR depends on others.
fn vr_of(tag: Tag) -> Option<VR> {
    match StandardDataDictionary.by_tag(tag)?.vr() {
        VirtualVr::Exact(vr) => Some(vr),
        _ => None,
    }
}

fn text_of(vr: VR, text: &str) -> Result<(), String> {
    let longest = match vr {
        VR::ST => 1_024,
        VR::LT => 10_240,
        _ => usize::MAX,
    };
    let control = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t' | '\u{c}' | '\u{1b}');
    limit(text, longest)?;
    if text.chars().any(control) { Err("holds a control character".to_owned()) } else { Ok(()) }
}

fn one(vr: VR, value: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("is no {what}"));
    let all = |allowed: fn(char) -> bool| value.chars().all(allowed);
    if value.is_empty() {
        return Ok(());
    }
    match vr {
        VR::CS => {
            limit(value, 16)?;
            let ok = all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, ' ' | '_'));
            if ok { Ok(()) } else { wrong("code string: capital letters, digits, space, underscore") }
        }
        VR::SH => printable(value, 16),
        VR::LO => printable(value, 64),
        VR::PN => value.split('=').try_for_each(|group| printable(group, 64)),
        VR::AE => printable(value, 16),
        VR::DA => {
            if value.len() == 8 && all(|c| c.is_ascii_digit()) && is_date(value) {
                Ok(())
            } else {
                wrong("date YYYYMMDD")
            }
        }
        VR::TM => {
            if is_time(value) {
                Ok(())
            } else {
                wrong("time HHMMSS.FFFFFF")
            }
        }
        VR::IS => match value.parse::<i32>() {
            Ok(_) if value.len() <= 12 => Ok(()),
            _ => wrong("whole number of at most 12 characters"),
        },
        VR::DS => match value.parse::<f64>() {
            Ok(number) if value.len() <= 16 && number.is_finite() => Ok(()),
            _ => wrong("decimal number of at most 16 characters"),
        },
        VR::AS => {
            let (number, unit) = value.split_at(value.len().min(3));
            let ok = number.chars().all(|c| c.is_ascii_digit()) && matches!(unit, "D" | "W" | "M" | "Y");
            if ok { Ok(()) } else { wrong("age such as 034Y") }
        }
        VR::UI => {
            let padded_zero = |part: &str| part.len() > 1 && part.starts_with('0');
            match SopInstanceUid::parse(value) {
                Ok(_) if !value.split('.').any(padded_zero) => Ok(()),
                _ => wrong("UID"),
            }
        }
        _ => Ok(()),
    }
}

fn limit(value: &str, longest: usize) -> Result<(), String> {
    let length = value.chars().count();
    if length <= longest { Ok(()) } else { Err(format!("has {length} characters, {longest} are allowed")) }
}

fn printable(value: &str, longest: usize) -> Result<(), String> {
    limit(value, longest)?;
    // Escape switches between character sets.
    let control = |c: char| c.is_control() && c != '\u{1b}';
    if value.chars().any(control) { Err("holds a control character".to_owned()) } else { Ok(()) }
}

fn is_date(value: &str) -> bool {
    let number =
        |range: std::ops::Range<usize>| value.get(range).and_then(|digits| digits.parse::<u8>().ok());
    matches!(number(4..6), Some(1..=12)) && matches!(number(6..8), Some(1..=31))
}

fn is_time(value: &str) -> bool {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let pair = |at: usize, most: u8| match whole.get(at..at + 2) {
        Some(digits) => digits.parse::<u8>().is_ok_and(|n| n <= most),
        None => true,
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let fraction_ok = (1..=6).contains(&fraction.len()) && digits(fraction);
    let is_whole = matches!(whole.len(), 2 | 4 | 6) && digits(whole);
    is_whole && fraction_ok && pair(0, 23) && pair(2, 59) && pair(4, 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_representation_takes_its_own_and_nothing_else() {
        for (vr, good, bad) in [
            (VR::CS, "AUTO_1 X", "Auto"),
            (VR::SH, "sixteen letters!", "seventeen letters"),
            (VR::LO, "x", "bell\u{7}"),
            (VR::PN, "A^B=A^B", "a\u{7}^b"),
            (VR::DA, "20240229", "2024-02-29"),
            (VR::DA, "19991231", "19991331"),
            (VR::TM, "235960.123456", "2460"),
            (VR::TM, "07", "7"),
            (VR::IS, "-2147483648", "1.5"),
            (VR::DS, "-1.23456789e-10", "0.12345678901234567"),
            (VR::DS, "7", "nan"),
            (VR::AS, "034Y", "34Y"),
            (VR::UI, "1.2.30", "1.02.3"),
            (VR::UI, "2.25.0", "1..2"),
        ] {
            assert_eq!(one(vr, good), Ok(()), "{vr:?} {good:?}");
            assert!(one(vr, bad).is_err(), "{vr:?} {bad:?}");
        }
        assert!(text_of(VR::ST, &"x".repeat(1_025)).is_err());
        assert!(text_of(VR::ST, "two\r\nlines").is_ok());
    }
}
