//! Notices to other programs: JSON over HTTP, signed, without anything about a patient.
//!
//! A notice is for people and pagers, not a record: the records are the outbox and the jobs. It is tried three times and
//! then dropped with a line in the log; one that waits is gone when the service ends.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use url::Url;

use super::http;
use super::mail::Mail;
use super::scu::ScuTimeouts;
use super::secret::SecretSource;
use crate::vocabulary::causes::with_causes;

/// Notices that may wait; more are dropped.
const WAITING: usize = 256;

/// Before the second and the third attempt.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Notices in one mail, and how long one that is to be mailed waits for others.
const MOST_IN_A_MAIL: usize = 50;
const TOGETHER: Duration = Duration::from_secs(1);

/// Longest text in a notice, characters.
const LONGEST_TEXT: usize = 500;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A structure set was given up or held back, or a series failed or was refused.
    Failure,
    /// A structure set was delivered.
    Delivery,
    /// A series was contoured, and organs need a look.
    Doubt,
}

/// Something that a person may want to hear of at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// Series Instance UID of the CT, or the key of a delivery, which begins with it.
    pub subject: String,
    /// Name of the destination, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// One sentence: the reason, or what to look at.
    pub text: String,
}

/// Where notices go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Address that takes a POST.
    pub url: Url,
    /// Key of the signature; without it there is none.
    pub secret: Option<SecretSource>,
    /// Certificates (PEM) that its own must come from, instead of those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Which notices it gets.
    pub on: BTreeSet<NoticeKind>,
}

/// The end that notices are put in. Cheap to clone; without webhooks it takes everything and does nothing.
#[derive(Debug, Clone)]
pub struct Notices {
    to_webhooks: SyncSender<Notice>,
    to_mail: SyncSender<Notice>,
    audience: Audience,
}

/// Who is told; it may change. Unlike [`Notices`] it keeps no thread alive.
#[derive(Debug, Clone)]
pub struct Audience(Arc<Mutex<Listeners>>);

/// Programs and people that are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listeners {
    /// Addresses that take a POST.
    pub webhooks: Vec<Webhook>,
    /// People, over their mail servers.
    pub mail: Vec<Mail>,
}

impl Audience {
    /// From now on these are told.
    pub fn replace(&self, listeners: Listeners) {
        *self.lock() = listeners;
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notices {
    /// Starts threads that send notices on until every clone is dropped, and then what waits once each.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        listeners: Listeners,
        service: &str,
        timeouts: ScuTimeouts,
    ) -> std::io::Result<(Self, [JoinHandle<()>; 2])> {
        let audience = Audience(Arc::new(Mutex::new(listeners)));
        let thread = |name: &str, run: Sending| {
            let (sender, receiver) = sync_channel(WAITING);
            let (told, service) = (audience.clone(), service.to_owned());
            let work = move || run(&told, &service, timeouts, &receiver);
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
            Ok::<_, std::io::Error>((sender, thread))
        };
        let (to_webhooks, posting) = thread("notices", run)?;
        let (to_mail, mailing) = thread("mail", run_mail)?;
        Ok((Self { to_webhooks, to_mail, audience }, [posting, mailing]))
    }

    /// Who is told.
    #[must_use]
    pub fn audience(&self) -> Audience {
        self.audience.clone()
    }

    /// Puts a notice in; never waits.
    pub fn put(&self, notice: Notice) {
        let (is_posted, is_mailed) = {
            let told = self.audience.lock();
            (!told.webhooks.is_empty(), told.mail.iter().any(|mail| mail.on.contains(&notice.kind)))
        };
        for (sender, is_wanted) in [(&self.to_webhooks, is_posted), (&self.to_mail, is_mailed)] {
            if !is_wanted {
                continue;
            }
            match sender.try_send(notice.clone()) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(notice)) => {
                    tracing::warn!(kind = ?notice.kind, subject = notice.subject, "a notice was dropped, too many wait");
                }
            }
        }
    }
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'a> {
    /// Form of this body.
    version: u8,
    /// AE title of the service.
    service: &'a str,
    /// Seconds since 1970: what is old was sent again by somebody else.
    sent_s: u64,
    #[serde(flatten)]
    notice: &'a Notice,
}

type Sending = fn(&Audience, &str, ScuTimeouts, &Receiver<Notice>);

/// Mails what comes within a moment together, so that a destination that dies fills nobody's mailbox.
fn run_mail(audience: &Audience, service: &str, timeouts: ScuTimeouts, notices: &Receiver<Notice>) {
    while let Ok(first) = notices.recv() {
        let mut together = vec![first];
        while together.len() < MOST_IN_A_MAIL
            && let Ok(notice) = notices.recv_timeout(TOGETHER)
        {
            together.push(notice);
        }
        for notice in &mut together {
            notice.text = notice.text.chars().take(LONGEST_TEXT).collect();
        }
        let people = audience.lock().mail.clone();
        for mail in people {
            let wanted: Vec<&Notice> = together.iter().filter(|n| mail.on.contains(&n.kind)).collect();
            if wanted.is_empty() {
                continue;
            }
            let mut waits = WAITS.iter();
            while let Err(why) = super::mail::send(&mail, service, timeouts, &wanted) {
                match waits.next() {
                    Some(wait) => std::thread::sleep(*wait),
                    None => {
                        let (host, n_notices) = (&mail.host, wanted.len());
                        tracing::error!(host, n_notices, why, "a mail was not taken and is dropped");
                        break;
                    }
                }
            }
        }
    }
}

fn run(audience: &Audience, service: &str, timeouts: ScuTimeouts, notices: &Receiver<Notice>) {
    while let Ok(mut notice) = notices.recv() {
        notice.text = notice.text.chars().take(LONGEST_TEXT).collect();
        let webhooks = audience.lock().webhooks.clone();
        for webhook in webhooks.iter().filter(|webhook| webhook.on.contains(&notice.kind)) {
            let mut waits = WAITS.iter();
            while let Err(why) = post(webhook, service, timeouts, &notice) {
                match waits.next() {
                    Some(wait) => std::thread::sleep(*wait),
                    None => {
                        let host = webhook.url.host_str().unwrap_or_default();
                        tracing::error!(
                            host,
                            subject = notice.subject,
                            why,
                            "a notice was not taken and is dropped"
                        );
                        break;
                    }
                }
            }
        }
    }
}

fn post(webhook: &Webhook, service: &str, timeouts: ScuTimeouts, notice: &Notice) -> Result<(), String> {
    let sent_s =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let body = Body { version: 1, service, sent_s, notice };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let agent = http::agent(webhook.ca_file.as_deref(), timeouts).map_err(|error| with_causes(&error))?;
    let mut request = agent.post(webhook.url.as_str()).header("Content-Type", "application/json");
    if let Some(secret) = &webhook.secret {
        let secret = secret.read().map_err(|error| with_causes(&error))?;
        request = request.header("X-Oarlock-Signature", &signature(secret.expose().as_bytes(), &body));
    }
    let response = request.send(&body[..]).map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200..=299 => Ok(()),
        status => Err(format!("HTTP status {status}")),
    }
}

/// `sha256=` and the HMAC-SHA-256 (RFC 2104) of the body in hexadecimal.
fn signature(key: &[u8], body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return String::new() };
    mac.update(body);
    let code = mac.finalize().into_bytes();
    code.iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_signature_is_that_of_the_rfc() {
        let signed = signature(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(signed, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_notice_holds_what_it_says_and_nothing_else() {
        let notice = Notice {
            kind: NoticeKind::Failure,
            subject: "1.2.50 v1".to_owned(),
            destination: Some("TPS@h:104".to_owned()),
            text: "held back".to_owned(),
        };
        let body = Body { version: 1, service: "OARLOCK", sent_s: 7, notice: &notice };
        let json = serde_json::to_value(&body).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["destination", "kind", "sent_s", "service", "subject", "text", "version"]);
        assert_eq!(json["kind"], "failure");
    }
}
