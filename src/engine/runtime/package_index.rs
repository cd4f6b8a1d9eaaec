//! Files of the Python package index that the user has configured for pip.
//!
//! Reads pip's own settings (environment, then its files), asks the index as PEP 503 and PEP 691 say, and hands a
//! file over only with the size and SHA-256 that were asked for. No Python is involved.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use url::Url;

/// Index of everybody who has configured none.
const PYPI: &str = "https://pypi.org/simple";

/// Longest page of an index, bytes.
const LONGEST_PAGE: u64 = 64 << 20;

/// One file, known before it is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedFile {
    /// Project on the index.
    pub project: &'static str,
    /// File name.
    pub file: &'static str,
    /// SHA-256, hexadecimal.
    pub sha256: &'static str,
    /// Bytes.
    pub size: u64,
}

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// No index has the file.
    #[error("{file} is on none of the package indices asked: {asked}; set PIP_INDEX_URL to one that has it")]
    NotThere {
        /// Which file.
        file: &'static str,
        /// Each index with what it said.
        asked: String,
    },
    /// The transfer failed.
    #[error(
        "{url} was not fetched: check the network, HTTPS_PROXY, and PIP_CERT for a proxy with its own certificate"
    )]
    Transfer {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The stream broke, or the disk.
    #[error("{url} was not stored: check the network and the free space")]
    Copy {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Other bytes than were pinned.
    #[error(
        "{url} has {found_size} bytes with SHA-256 {found}, wanted {wanted_size} with {wanted}: it was changed on the way or on the index, and is not used"
    )]
    Other {
        /// From where.
        url: String,
        /// SHA-256 that came.
        found: String,
        /// SHA-256 that is pinned.
        wanted: &'static str,
        /// Bytes that came, counted up to one more than wanted.
        found_size: u64,
        /// Bytes that are pinned.
        wanted_size: u64,
    },
    /// A setting.
    #[error("the certificates in {path} cannot be used: name a PEM file in PIP_CERT, or unset it")]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What pip is told, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSettings {
    /// Indices in order of asking.
    pub urls: Vec<String>,
    /// Certificates to trust instead of the system's, PEM.
    pub certificates: Option<PathBuf>,
}

impl IndexSettings {
    /// From the environment and pip's files: `PIP_INDEX_URL`, `PIP_EXTRA_INDEX_URL`, `PIP_CERT`, then `[global]` of
    /// `PIP_CONFIG_FILE`, the user's and the system's `pip.conf`.
    #[must_use]
    pub fn of_user() -> Self {
        let files: Vec<String> =
            config_files().iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        Self::from_sources(|name| std::env::var(name).ok(), &files)
    }

    fn from_sources(environment: impl Fn(&str) -> Option<String>, files: &[String]) -> Self {
        let value = |name: &str| {
            let variable = format!("PIP_{}", name.to_uppercase().replace('-', "_"));
            let set = environment(&variable).filter(|text| !text.trim().is_empty());
            set.or_else(|| files.iter().find_map(|text| in_global(text, name)))
        };
        let mut urls = vec![value("index-url").unwrap_or_else(|| PYPI.to_owned()).trim().to_owned()];
        urls.extend(value("extra-index-url").unwrap_or_default().split_whitespace().map(str::to_owned));
        Self { urls, certificates: value("cert").map(|path| PathBuf::from(path.trim())) }
    }

    /// Fetches a file into `to`, telling `progress` how many bytes have come.
    ///
    /// # Errors
    /// [`IndexError`]; `to` then holds nothing of use.
    pub fn fetch(
        &self,
        wanted: &IndexedFile,
        to: &mut impl Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), IndexError> {
        let agent = self.agent()?;
        let mut asked = Vec::new();
        for index in &self.urls {
            match address_of(&agent, index, wanted) {
                Ok(url) => return download(&agent, &url, wanted, to, progress),
                Err(why) => asked.push(format!("{} ({why})", without_login(index))),
            }
        }
        Err(IndexError::NotThere { file: wanted.file, asked: asked.join(", ") })
    }

    fn agent(&self) -> Result<Agent, IndexError> {
        let roots = match &self.certificates {
            Some(path) => RootCerts::Specific(Arc::new(certificates(path)?)),
            None => RootCerts::PlatformVerifier,
        };
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_recv_body(Some(Duration::from_secs(3_600)))
            .user_agent(concat!("oarlock/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(config.into())
    }
}

/// Where pip keeps its settings, the most specific first.
fn config_files() -> Vec<PathBuf> {
    let named = std::env::var_os("PIP_CONFIG_FILE").map(PathBuf::from);
    let base = directories::BaseDirs::new();
    let of_user = base.iter().flat_map(|dirs| {
        [
            dirs.config_dir().join("pip/pip.conf"),
            dirs.home_dir().join(".pip/pip.conf"),
            dirs.config_dir().join("pip/pip.ini"),
        ]
    });
    named.into_iter().chain(of_user).chain(["/etc/pip.conf".into(), "/etc/xdg/pip/pip.conf".into()]).collect()
}

/// The value of a key in the section `[global]`.
fn in_global(text: &str, key: &str) -> Option<String> {
    let mut is_global = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_global = line == "[global]";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_global)
            && name.trim().replace('_', "-") == key
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, IndexError> {
    let failed = |why: String| IndexError::Certificates { path: path.to_owned(), why };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(failed(error.to_string()))),
        })
        .collect::<Result<_, _>>()?;
    if found.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(found) }
}

/// An index's address as messages may show it.
fn without_login(index: &str) -> String {
    let Ok(mut url) = Url::parse(index) else { return "an address that cannot be read".to_owned() };
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_or_else(|()| "an address without host".to_owned(), |()| url.to_string())
}

/// Where the index keeps the file, or why not.
fn address_of(agent: &Agent, index: &str, wanted: &IndexedFile) -> Result<Url, String> {
    let page = Url::parse(&format!("{}/{}/", index.trim_end_matches('/'), wanted.project));
    let page = page.map_err(|error| error.to_string())?;
    let accepted = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";
    let mut response =
        agent.get(page.as_str()).header("Accept", accepted).call().map_err(|error| error.to_string())?;
    let text = response.body_mut().with_config().limit(LONGEST_PAGE).read_to_string();
    let text = text.map_err(|error| error.to_string())?;
    let link = in_json(&text, wanted.file).or_else(|| in_html(&text, wanted.file));
    let link = link.ok_or_else(|| format!("it does not list {}", wanted.file))?;
    let url = page.join(&link).map_err(|error| error.to_string())?;
    // An index on the net must not lead to files of this machine.
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(format!("it leads to {}", url.scheme()))
    }
}

fn in_json(text: &str, file: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Page {
        files: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        filename: String,
        url: String,
    }
    let page: Page = serde_json::from_str(text).ok()?;
    page.files.into_iter().find(|entry| entry.filename == file).map(|entry| entry.url)
}

/// The link of an HTML page whose last part is the file.
fn in_html(text: &str, file: &str) -> Option<String> {
    let links = text.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split(quote).next()
    });
    let is_it = |link: &&str| link.split(['#', '?']).next().and_then(|l| l.rsplit('/').next()) == Some(file);
    let mut links = links;
    links.find(is_it).map(|link| link.replace("&amp;", "&"))
}

fn download(
    agent: &Agent,
    url: &Url,
    wanted: &IndexedFile,
    to: &mut impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), IndexError> {
    let shown = without_login(url.as_str());
    let transfer = |source| IndexError::Transfer { url: shown.clone(), source: Box::new(source) };
    let copy = |source| IndexError::Copy { url: shown.clone(), source };
    let mut response = agent.get(url.as_str()).call().map_err(transfer)?;
    // One byte more than wanted is enough to know that it is another file.
    let mut body = response.body_mut().with_config().limit(u64::MAX).reader().take(wanted.size + 1);
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let n = body.read(&mut buffer).map_err(copy)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n]).map_err(copy)?;
        size += n as u64;
        progress(size);
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == wanted.sha256 && size == wanted.size {
        return Ok(());
    }
    Err(IndexError::Other {
        url: shown,
        found,
        wanted: wanted.sha256,
        found_size: size,
        wanted_size: wanted.size,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;

    use super::*;

    /// An index on loopback: `answer` gives the content type and body of a path, `None` is 404.
    pub(in super::super) fn index(
        answer: impl Fn(&str) -> Option<(&'static str, Vec<u8>)> + Send + 'static,
    ) -> IndexSettings {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(64) {
                let mut stream = stream.unwrap();
                let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
                let mut request = String::new();
                if reader.read_line(&mut request).is_err() {
                    continue;
                }
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let path = request.split(' ').nth(1).unwrap_or_default();
                let reply = match answer(path) {
                    Some((kind, body)) => {
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                            body.len()
                        );
                        [head.into_bytes(), body].concat()
                    }
                    None => {
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
                    }
                };
                // The other side may have hung up.
                drop(stream.write_all(&reply));
            }
        });
        IndexSettings { urls: vec![format!("http://{address}/simple")], certificates: None }
    }

    fn file() -> IndexedFile {
        let digest: String = Sha256::digest(b"wheel of thing").iter().map(|b| format!("{b:02x}")).collect();
        IndexedFile { project: "thing", file: "thing-1.0-cp312.whl", sha256: digest.leak(), size: 14 }
    }

    fn fetch(settings: &IndexSettings, file: &IndexedFile) -> Result<Vec<u8>, IndexError> {
        let mut bytes = Vec::new();
        settings.fetch(file, &mut bytes, &mut |_| {}).map(|()| bytes)
    }

    const HTML: &str =
        "<a href='/files/other.whl'>x</a><a href=\"../../files/thing-1.0-cp312.whl#sha256=aa\">y</a>";

    #[test]
    fn both_forms_of_an_index_lead_to_the_file() {
        let html = index(|path| match path {
            "/simple/thing/" => Some(("text/html", HTML.into())),
            "/files/thing-1.0-cp312.whl" => Some(("application/zip", b"wheel of thing".to_vec())),
            _ => None,
        });
        assert_eq!(fetch(&html, &file()).unwrap(), b"wheel of thing");
        let json = index(|path| match path {
            "/simple/thing/" => {
                let page = r#"{"meta": {}, "files": [{"filename": "thing-1.0-cp312.whl", "url": "/f/t"}]}"#;
                Some(("application/vnd.pypi.simple.v1+json", page.into()))
            }
            "/f/t" => Some(("application/zip", b"wheel of thing".to_vec())),
            _ => None,
        });
        assert_eq!(fetch(&json, &file()).unwrap(), b"wheel of thing");
    }

    #[test]
    fn other_bytes_fewer_bytes_and_more_bytes_are_refused() {
        for body in [&b"wheel of thinG"[..], b"wheel of", b"wheel of thing and a long rest"] {
            let settings = index(move |path| match path {
                "/simple/thing/" => Some(("text/html", HTML.into())),
                _ => Some(("application/zip", body.to_vec())),
            });
            let error = fetch(&settings, &file()).unwrap_err();
            let IndexError::Other { found_size, .. } = error else { panic!("{error:?}") };
            assert_eq!(found_size, body.len().min(15) as u64);
        }
    }

    #[test]
    fn an_index_without_the_file_is_named_without_its_password() {
        let mut settings =
            index(|path| (path == "/simple/thing/").then(|| ("text/html", b"<a href='x.whl'>".to_vec())));
        settings.urls[0] = settings.urls[0].replace("http://", "http://me:secret@");
        settings.urls.push("http://127.0.0.1:9/simple".to_owned());
        let error = fetch(&settings, &file()).unwrap_err().to_string();
        assert!(
            error.contains("does not list thing-1.0-cp312.whl") && error.contains("127.0.0.1:9"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        let leading_home =
            index(|_| Some(("text/html", b"<a href='file:///etc/thing-1.0-cp312.whl'>".to_vec())));
        assert!(fetch(&leading_home, &file()).unwrap_err().to_string().contains("leads to file"));
    }

    #[test]
    fn settings_come_from_the_environment_before_the_files() {
        let files = [
            "[install]\nindex-url = http://wrong\n[global]\nindex_url = http://a/simple\ncert=/ca.pem\n"
                .to_owned(),
            "[global]\nindex-url = http://b\nextra-index-url = http://c http://d\n".to_owned(),
        ];
        let none = |_: &str| None;
        let found = IndexSettings::from_sources(none, &files);
        assert_eq!(found.urls, ["http://a/simple", "http://c", "http://d"]);
        assert_eq!(found.certificates, Some("/ca.pem".into()));
        let set = |name: &str| (name == "PIP_INDEX_URL").then(|| "http://e".to_owned());
        assert_eq!(IndexSettings::from_sources(set, &files).urls[0], "http://e");
        assert_eq!(IndexSettings::from_sources(none, &[]).urls, [PYPI]);
    }
}
