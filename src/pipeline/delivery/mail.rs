//! Notices by mail: plain text over SMTP, without anything about a patient. What comes together goes in one mail.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Message, SmtpTransport, Transport};

use super::scu::ScuTimeouts;
use super::secret::SecretSource;
use super::webhook::{Notice, NoticeKind};
use crate::vocabulary::causes::with_causes;

/// An address that a mail can go to or come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailAddress(Mailbox);

impl std::str::FromStr for MailAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error| format!("{text:?} is no mail address: {error}"))
    }
}

/// How the way to a mail server is kept secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailEncryption {
    /// TLS after STARTTLS; a server without it gets no mail.
    StartTls,
    /// TLS from the start.
    Tls,
    /// None.
    None,
}

/// Who is told by mail, and over which server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Host name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the way there is kept secret.
    pub encryption: MailEncryption,
    /// User and where the password lies.
    pub login: Option<(String, SecretSource)>,
    /// Certificates (PEM) that the server's must come from, instead of those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// From whom.
    pub from: MailAddress,
    /// To whom; at least one.
    pub to: Vec<MailAddress>,
    /// Which notices.
    pub on: BTreeSet<NoticeKind>,
}

/// Sends these notices in one mail. Blocks.
pub(super) fn send(
    mail: &Mail,
    service: &str,
    timeouts: ScuTimeouts,
    notices: &[&Notice],
) -> Result<(), String> {
    let message = message(mail, service, notices)?;
    let mut transport = SmtpTransport::builder_dangerous(&mail.host)
        .port(mail.port)
        .timeout(Some(timeouts.answer))
        .hello_name(ClientId::Domain(hello_name()))
        .tls(tls(mail)?);
    if let Some((user, password)) = &mail.login {
        let password = password.read().map_err(|error| with_causes(&error))?;
        transport = transport.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
    }
    transport.build().send(&message).map(drop).map_err(|error| with_causes(&error))
}

fn tls(mail: &Mail) -> Result<Tls, String> {
    if mail.encryption == MailEncryption::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(mail.host.clone());
    if let Some(path) = &mail.ca_file {
        let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let authority = Certificate::from_pem(&pem).map_err(|error| with_causes(&error))?;
        parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(authority);
    }
    let parameters = parameters.build_rustls().map_err(|error| with_causes(&error))?;
    Ok(match mail.encryption {
        MailEncryption::StartTls => Tls::Required(parameters),
        MailEncryption::Tls | MailEncryption::None => Tls::Wrapper(parameters),
    })
}

fn message(mail: &Mail, service: &str, notices: &[&Notice]) -> Result<Message, String> {
    let mut text = String::new();
    for notice in notices {
        let destination = notice.destination.as_deref().unwrap_or("-");
        let lines = [
            ("what", word(notice.kind)),
            ("series", &notice.subject),
            ("destination", destination),
            ("text", &notice.text),
        ];
        for (name, value) in lines {
            // Control characters, line ends among them, are no part of any of these.
            let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "{service}, an Oarlock service; `oarlock jobs show SERIES` says more. Nobody reads answers.\n"
    ));
    let subject = match notices {
        [one] => format!("{service}: {}", word(one.kind)),
        several => format!("{service}: {} notices", several.len()),
    };
    let domain = mail.from.0.email.domain();
    let mut message: MessageBuilder = Message::builder()
        .from(mail.from.0.clone())
        .subject(subject)
        .message_id(Some(format!("<{}@{domain}>", uuid::Uuid::new_v4().simple())))
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        message = message.to(to.0.clone());
    }
    message.body(text).map_err(|error| with_causes(&error))
}

fn word(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Failure => "failure",
        NoticeKind::Delivery => "delivery",
        NoticeKind::Doubt => "doubt",
    }
}

fn hello_name() -> String {
    let name = crate::platform::host_name();
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    if is_name { name } else { "localhost".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_says_what_the_notices_say_and_no_text_becomes_a_header() {
        let mail = Mail {
            host: "h".to_owned(),
            port: 25,
            encryption: MailEncryption::None,
            login: None,
            ca_file: None,
            from: "Oarlock <oarlock@hospital.example>".parse().unwrap(),
            to: vec!["a@hospital.example".parse().unwrap(), "b@hospital.example".parse().unwrap()],
            on: BTreeSet::from([NoticeKind::Failure]),
        };
        let notice = |text: &str| Notice {
            kind: NoticeKind::Failure,
            subject: "1.2.50 v1".to_owned(),
            destination: Some("TPS@h:104".to_owned()),
            text: text.to_owned(),
        };
        let (one, two) = (notice("held back\r\nBcc: x@y.example\r\n\r\nmore"), notice("given up"));
        let text = |notices: &[&Notice]| {
            String::from_utf8(message(&mail, "OARLOCK", notices).unwrap().formatted()).unwrap()
        };
        let single = text(&[&one]);
        assert!(single.contains("Subject: OARLOCK: failure\r\n"), "{single}");
        assert!(
            single.contains("series: 1.2.50 v1\r\n") && single.contains("b@hospital.example"),
            "{single}"
        );
        assert!(!single.contains("\nBcc:"), "{single}");
        assert!(text(&[&one, &two]).contains("Subject: OARLOCK: 2 notices\r\n"));
        assert!("no address".parse::<MailAddress>().is_err());
    }
}
