//! The Store Instances Response (PS3.18 I.2): DICOM JSON (annex F) or Native DICOM Model XML (PS3.19 A.1).

use serde_json::Value;

/// Referenced SOP Sequence: what is stored.
const STORED: &str = "00081199";
/// Failed SOP Sequence: what is not.
const FAILED: &str = "00081198";
const REFERENCED_SOP_INSTANCE_UID: &str = "00081155";
const WARNING_REASON: &str = "00081196";
const FAILURE_REASON: &str = "00081197";

/// What an answer says about instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    stored: Vec<Line>,
    failed: Vec<Line>,
}

/// An instance, and the reason beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    uid: Option<String>,
    reason: Option<u16>,
}

/// What became of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is stored.
    Stored {
        /// With a warning.
        warning: Option<String>,
    },
    /// It is not.
    Failed {
        /// Why, in words.
        reason: String,
        /// Whether it may pass later.
        may_pass_later: bool,
    },
}

impl Answer {
    /// Reads either form; what is neither says nothing.
    pub(super) fn parse(text: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(text) {
            Ok(json) => Self::of_json(&json),
            Err(_not_json) => Self::of_xml(&String::from_utf8_lossy(text)).unwrap_or_default(),
        }
    }

    /// What it says about one instance. A failure without a UID means the one that was sent.
    pub(super) fn fate_of(&self, uid: &str) -> Option<Fate> {
        let is_it = |line: &&Line| line.uid.as_deref() == Some(uid);
        if let Some(line) = self.failed.iter().find(|line| is_it(line) || line.uid.is_none()) {
            let reason = line.reason.map_or_else(|| "no reason given".to_owned(), in_words);
            return Some(Fate::Failed { reason, may_pass_later: line.reason.is_none_or(may_pass_later) });
        }
        let line = self.stored.iter().find(is_it)?;
        Some(Fate::Stored { warning: line.reason.map(in_words) })
    }

    fn of_json(json: &Value) -> Self {
        let mut answer = Self::default();
        let data_sets = json.as_array().map_or_else(|| std::slice::from_ref(json), Vec::as_slice);
        for data_set in data_sets {
            let lines = |sequence: &str, reason: &str| -> Vec<Line> {
                let items = data_set[sequence]["Value"].as_array().map(Vec::as_slice).unwrap_or_default();
                let first = |item: &Value, tag: &str| item[tag]["Value"][0].clone();
                let line = |item: &Value| Line {
                    uid: first(item, REFERENCED_SOP_INSTANCE_UID).as_str().map(str::to_owned),
                    reason: code(&first(item, reason)),
                };
                items.iter().map(line).collect()
            };
            answer.stored.extend(lines(STORED, WARNING_REASON));
            answer.failed.extend(lines(FAILED, FAILURE_REASON));
        }
        answer
    }

    fn of_xml(text: &str) -> Option<Self> {
        let document = roxmltree::Document::parse(text).ok()?;
        let attribute = |node: roxmltree::Node<'_, '_>, tag: &str| {
            node.tag_name().name() == "DicomAttribute" && node.attribute("tag") == Some(tag)
        };
        let value = |item: roxmltree::Node<'_, '_>, tag: &str| {
            let element = item.children().find(|node| attribute(*node, tag))?;
            let value = element.children().find(|node| node.tag_name().name() == "Value")?;
            value.text().map(|text| text.trim().to_owned())
        };
        let lines = |sequence: &str, reason: &str| {
            let sequences = document.root_element().children().filter(|node| attribute(*node, sequence));
            let items = sequences.flat_map(|node| node.children()).filter(|n| n.tag_name().name() == "Item");
            let line = |item| Line {
                uid: value(item, REFERENCED_SOP_INSTANCE_UID),
                reason: value(item, reason).and_then(|text| text.parse().ok()),
            };
            items.map(line).collect::<Vec<_>>()
        };
        Some(Self { stored: lines(STORED, WARNING_REASON), failed: lines(FAILED, FAILURE_REASON) })
    }
}

/// A number; some services write it as text.
fn code(value: &Value) -> Option<u16> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u16::try_from(number).ok()
}

/// Out of resources (A7xx) and processing failure (0110H) may pass (PS3.18 table I.2-2); the others do not.
fn may_pass_later(reason: u16) -> bool {
    matches!(reason, 0x0110 | 0xA700..=0xA7FF)
}

fn in_words(reason: u16) -> String {
    let meaning = match reason {
        0x0110 => ": processing failure",
        0x0122 => ": SOP class not supported",
        0x0124 => ": not authorized",
        0xA700..=0xA7FF => ": out of resources",
        0xA900..=0xA9FF => ": the data set does not match its SOP class",
        0xB000 => ": coercion of data elements",
        0xB006 => ": elements discarded",
        0xB007 => ": the data set does not match its SOP class",
        0xC000..=0xC121 | 0xC123..=0xCFFF => ": cannot understand",
        0xC122 => ": transfer syntax not supported",
        _ => "",
    };
    format!("status {reason:04X}H{meaning}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PS3.18 describes it and Orthanc writes it.
    const XML: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
  <DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence">
    <Item number="1">
      <DicomAttribute tag="00081150" vr="UI"><Value number="1">1.2.840.10008.5.1.4.1.1.481.3</Value></DicomAttribute>
      <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.81</Value></DicomAttribute>
      <DicomAttribute tag="00081197" vr="US"><Value number="1">272</Value></DicomAttribute>
    </Item>
  </DicomAttribute>
  <DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">
    <Item number="1">
      <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.80</Value></DicomAttribute>
      <DicomAttribute tag="00081196" vr="US"><Value number="1">45062</Value></DicomAttribute>
    </Item>
  </DicomAttribute>
</NativeDicomModel>"#;

    #[test]
    fn xml_says_the_same_as_json() {
        let json = r#"{"00081198": {"vr": "SQ", "Value": [{"00081155": {"Value": ["1.2.81"]}, "00081197": {"Value": [272]}}]},
            "00081199": {"vr": "SQ", "Value": [{"00081155": {"Value": ["1.2.80"]}, "00081196": {"Value": ["45062"]}}]}}"#;
        let (xml, json) = (Answer::parse(XML.as_bytes()), Answer::parse(json.as_bytes()));
        assert_eq!(xml, json);
        let Some(Fate::Stored { warning: Some(warning) }) = xml.fate_of("1.2.80") else { panic!("{xml:?}") };
        assert_eq!(warning, "status B006H: elements discarded");
        let failed = xml.fate_of("1.2.81");
        assert!(matches!(failed, Some(Fate::Failed { may_pass_later: true, .. })), "{failed:?}");
        assert_eq!(xml.fate_of("1.2.82"), None);
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        for text in ["", "null", "[]", "[[1]]", "{\"00081199\": 5}", "<html>", "<a><b/></a>", "\u{0}"] {
            assert_eq!(Answer::parse(text.as_bytes()), Answer::default(), "{text:?}");
        }
        let deep = "<a>".repeat(5_000);
        assert_eq!(Answer::parse(deep.as_bytes()), Answer::default());
    }
}
