//! DICOMweb: storing over HTTP (STOW-RS, PS3.18 10.5).

mod answer;

use std::path::PathBuf;

use base64::Engine;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::Response;
use url::Url;

use super::destination::Receipt;
use super::http::{self, CertificatesError};
use super::scu::ScuTimeouts;
use super::secret::{SecretError, SecretSource};
use crate::pipeline::ingest::part10::{self, Part10Error};
use answer::{Answer, Fate};

/// The longest answer that is read: an instance's lines are some hundred bytes.
const LONGEST_ANSWER: u64 = 1 << 20;

/// A DICOMweb service to store at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StowService {
    /// Its address without `/studies`, such as `https://pacs.example/dicom-web`.
    pub url: Url,
    /// Who we are there.
    pub login: Option<Login>,
    /// Certificates (PEM) that its own must come from, instead of those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// How we log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// User and password (RFC 7617).
    Basic {
        /// User.
        user: String,
        /// Password.
        password: SecretSource,
    },
    /// A bearer token (RFC 6750).
    Bearer(SecretSource),
}

/// Why a service did not take something.
#[derive(Debug, thiserror::Error)]
pub enum StowError {
    /// No answer.
    #[error("{url} gave no answer: is the address right, does it run, is its certificate trusted here?")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A status that says nothing about the instance.
    #[error("{url} answers with HTTP status {status}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Status {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// Warning header or the beginning of the text.
        said: String,
    },
    /// The instance was refused.
    #[error("{url} refuses the instance: {reason}")]
    Refused {
        /// Where.
        url: String,
        /// Failure Reason (0008,1197) in words.
        reason: String,
        /// Whether it may pass later.
        may_pass_later: bool,
    },
    /// Some were stored, but not ours.
    #[error("{url} accepted the request, and its answer does not name the instance as stored")]
    NotNamed {
        /// Where.
        url: String,
    },
    /// Password or token.
    #[error("there is nothing to log in with")]
    Secret(#[source] SecretError),
    /// The file of certificates.
    #[error("the service cannot be trusted")]
    Certificates(#[source] CertificatesError),
    /// What should go is no Part 10 file.
    #[error("the file cannot be sent")]
    File(#[source] Part10Error),
}

impl StowError {
    /// Whether trying again is of no use until a person has changed something.
    ///
    /// A gateway answers 401, 403 and 404 as well while what lies behind it is set up or restarted, so these are tried
    /// again like everything that the service itself may get over.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                matches!(status, 300..=399 | 400 | 405 | 406 | 409 | 410 | 411 | 413 | 414 | 415 | 422 | 501)
            }
            Self::Refused { may_pass_later, .. } => !may_pass_later,
            Self::File(_) => true,
            Self::Unreachable { .. } | Self::NotNamed { .. } => false,
            Self::Secret(_) | Self::Certificates(_) => false,
        }
    }
}

/// Stores one Part 10 file.
///
/// # Errors
/// [`StowError`].
pub(super) fn store(
    service: &StowService,
    timeouts: ScuTimeouts,
    part10: &[u8],
) -> Result<Receipt, StowError> {
    let uid = part10::split(part10).map_err(StowError::File)?.sop_instance_uid;
    let (content_type, body) = multipart(part10);
    let url = service.at("studies");
    let mut request = service.agent(timeouts)?.post(&url).header("Content-Type", &content_type);
    request = request.header("Accept", "application/dicom+json, application/dicom+xml;q=0.5");
    if let Some(login) = service.authorization()? {
        request = request.header("Authorization", &login);
    }
    let unreachable = |source| StowError::Unreachable { url: url.clone(), source: Box::new(source) };
    let mut response = request.send(&body[..]).map_err(unreachable)?;
    let warning = header(&response, "Warning");
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec().unwrap_or_default();
    let answer = Answer::parse(&text);
    judge(status, uid.as_str(), &answer, warning, &text, &url)
}

/// What an answer means for the one instance that was sent (PS3.18 10.5.3).
fn judge(
    status: u16,
    uid: &str,
    answer: &Answer,
    warning: Option<String>,
    text: &[u8],
    url: &str,
) -> Result<Receipt, StowError> {
    let url = url.to_owned();
    match (answer.fate_of(uid), status) {
        (Some(Fate::Failed { reason, may_pass_later }), 200..=299 | 400..=499) => {
            Err(StowError::Refused { url, reason, may_pass_later })
        }
        (Some(Fate::Stored { warning }), 200..=299) => Ok(Receipt { warning }),
        (None, 200) => {
            let said = warning.unwrap_or_else(|| "no answer about the instance".to_owned());
            Ok(Receipt { warning: Some(format!("HTTP status 200, {said}")) })
        }
        (None, 201..=299) => Err(StowError::NotNamed { url }),
        _ => Err(StowError::Status { url, status, said: warning.unwrap_or_else(|| beginning(text)) }),
    }
}

/// Whether the service answers a search of one study, and lets us in.
///
/// # Errors
/// [`StowError`].
pub(super) fn reach(service: &StowService, timeouts: ScuTimeouts) -> Result<String, StowError> {
    let url = service.at("studies?limit=1");
    let mut request = service.agent(timeouts)?.get(&url).header("Accept", "application/dicom+json");
    if let Some(login) = service.authorization()? {
        request = request.header("Authorization", &login);
    }
    let unreachable = |source| StowError::Unreachable { url: url.clone(), source: Box::new(source) };
    let mut response = request.call().map_err(unreachable)?;
    match response.status().as_u16() {
        status @ (200..=299) => Ok(format!("{} answers with HTTP status {status}", service.url)),
        // A service that only stores may know no search, but it is there and has let us in.
        status @ (404 | 405 | 406 | 501) => {
            Ok(format!("{} is there and has no search (HTTP status {status})", service.url))
        }
        status => {
            let text = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec();
            Err(StowError::Status { url, status, said: beginning(&text.unwrap_or_default()) })
        }
    }
}

impl StowService {
    fn agent(&self, timeouts: ScuTimeouts) -> Result<Agent, StowError> {
        http::agent(self.ca_file.as_deref(), timeouts).map_err(StowError::Certificates)
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.url.as_str().trim_end_matches('/'))
    }

    fn authorization(&self) -> Result<Option<String>, StowError> {
        Ok(match &self.login {
            None => None,
            Some(Login::Basic { user, password }) => {
                let password = password.read().map_err(StowError::Secret)?;
                let both = format!("{user}:{}", password.expose());
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both)))
            }
            Some(Login::Bearer(token)) => {
                Some(format!("Bearer {}", token.read().map_err(StowError::Secret)?.expose()))
            }
        })
    }
}

/// The request's type and body (PS3.18 8.6.1.2.1). The boundary is a hash of the content, which does not hold it.
fn multipart(part10: &[u8]) -> (String, Vec<u8>) {
    let hash: String = Sha256::digest(part10).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let boundary = format!("oarlock-{hash}");
    let head = format!("--{boundary}\r\nContent-Type: application/dicom\r\n\r\n");
    let body = [head.as_bytes(), part10, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
    (format!("multipart/related; type=\"application/dicom\"; boundary={boundary}"), body)
}

fn header(response: &Response<ureq::Body>, name: &str) -> Option<String> {
    let text = response.headers().get(name)?.to_str().ok()?;
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// The first words of a text answer, without what could disturb a log. Services answer with their own words here, not
/// with the patient's.
fn beginning(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://pacs/studies";

    fn judged(status: u16, text: &str) -> Result<Receipt, StowError> {
        judge(status, "1.2.80", &Answer::parse(text.as_bytes()), None, text.as_bytes(), URL)
    }

    fn item(key: &str, inner: &str) -> String {
        format!(
            r#"{{"{key}": {{"vr": "SQ", "Value": [{{"00081155": {{"vr": "UI", "Value": ["1.2.80"]}} {inner} }}]}}}}"#
        )
    }

    #[test]
    fn an_answer_is_one_of_four_words() {
        assert_eq!(judged(200, &item("00081199", "")).unwrap(), Receipt::default());
        let warned =
            judged(202, &item("00081199", r#", "00081196": {"vr": "US", "Value": [45056]}"#)).unwrap();
        assert!(warned.warning.as_ref().unwrap().contains("B000H"), "{warned:?}");
        let reason = |code: u32| format!(r#", "00081197": {{"vr": "US", "Value": [{code}]}}"#);
        let full = judged(409, &item("00081198", &reason(0xA700))).unwrap_err();
        assert!(!full.is_permanent() && full.to_string().contains("A700H"), "{full}");
        for code in [0xA900, 0xC000, 0x0122, 0x0124, 0xC122] {
            let never = judged(202, &item("00081198", &reason(code))).unwrap_err();
            assert!(never.is_permanent(), "{never}");
        }
    }

    #[test]
    fn a_status_without_words_about_the_instance_decides_alone() {
        assert!(judged(200, "").unwrap().warning.is_some());
        for (status, permanent) in [
            (202, false),
            (301, true),
            (400, true),
            (401, false),
            (404, false),
            (413, true),
            (415, true),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let error = judged(status, "<html>Bad\u{7}Gateway</html>").unwrap_err();
            assert_eq!(error.is_permanent(), permanent, "{error}");
            assert!(!error.to_string().contains('\u{7}'));
        }
    }

    #[test]
    fn the_body_is_one_part_between_its_boundaries() {
        let (content_type, body) = multipart(b"DICM--oarlock-");
        let boundary = content_type.rsplit('=').next().unwrap();
        let text = String::from_utf8(body).unwrap();
        let expected = format!(
            "--{boundary}\r\nContent-Type: application/dicom\r\n\r\nDICM--oarlock-\r\n--{boundary}--\r\n"
        );
        assert_eq!(text, expected);
    }
}
