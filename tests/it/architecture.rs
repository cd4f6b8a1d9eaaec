//! What a room must not know, checked against the source.

use std::path::{Path, PathBuf};

use crate::wire::files;

fn sources() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
    let read = |path: PathBuf| (name(&path), std::fs::read_to_string(&path).unwrap());
    let found: Vec<_> = files(&root, "rs").into_iter().map(read).collect();
    assert!(found.len() > 100, "{} files", found.len());
    found
}

/// Lines of code that hold the word, with file and number; tests and comments do not count.
fn uses(sources: &[(String, String)], word: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (file, text) in sources {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (n, line) in code.lines().enumerate() {
            if holds_word(line, word) && !line.trim_start().starts_with("//") {
                found.push((file.clone(), format!("{file}:{}: {}", n + 1, line.trim())));
            }
        }
    }
    found
}

/// Whether the word stands in the line and is not the end of a longer one, as `ort::` is of `import::`.
fn holds_word(line: &str, word: &str) -> bool {
    let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| begins(at))
}

/// The word stands only in files that begin with one of these.
fn only_in(sources: &[(String, String)], word: &str, rooms: &[&str]) -> Vec<String> {
    let uses = uses(sources, word);
    assert!(!uses.is_empty(), "nobody uses {word:?} any more: correct this test");
    let outside = uses.into_iter().filter(|(file, _)| !rooms.iter().any(|room| file.starts_with(room)));
    outside.map(|(_, line)| line).collect()
}

#[test]
fn what_talks_to_the_world_stays_in_its_room() {
    let sources = sources();
    let rules: [(&str, &[&str]); 14] = [
        ("ort::", &["engine/runtime/"]),
        ("prost::", &["engine/graph/"]),
        ("dicom_ul::", &["pipeline/ingest/", "pipeline/delivery/"]),
        ("serde_yaml::", &["settings/"]),
        ("sqlx::", &["service/store/", "service/queue/"]),
        ("object_store::", &["pipeline/objects/"]),
        ("ureq::", &["engine/runtime/", "pipeline/delivery/"]),
        (
            "tokio::",
            &[
                "pipeline/ingest/",
                "pipeline/delivery/",
                "pipeline/objects/",
                "pipeline/tls/",
                "service/",
                "command/",
                "platform.rs",
            ],
        ),
        ("rustls::", &["pipeline/tls/"]),
        ("lettre::", &["pipeline/delivery/"]),
        ("std::os::", &["platform.rs"]),
        ("rustix::", &["platform.rs"]),
        ("fs4::", &["platform.rs"]),
        ("signal::", &["platform.rs"]),
    ];
    let broken: Vec<String> = rules.iter().flat_map(|(word, rooms)| only_in(&sources, word, rooms)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A room, and rooms that it must not import.
#[test]
fn no_arrow_points_back() {
    let sources = sources();
    let later: [(&str, &[&str]); 10] = [
        (
            "vocabulary/",
            &["engine", "pipeline", "service", "learning", "settings", "convert", "command", "picture"],
        ),
        ("engine/", &["pipeline", "service", "learning", "settings", "convert", "command", "picture"]),
        ("pipeline/", &["service", "learning", "settings", "convert", "command", "picture"]),
        ("service/", &["learning", "convert", "command", "picture"]),
        (
            "pipeline/ingest/",
            &["pipeline::series", "pipeline::volume", "pipeline::network", "pipeline::contours"],
        ),
        (
            "pipeline/series/",
            &["pipeline::volume", "pipeline::network", "pipeline::contours", "pipeline::rtstruct"],
        ),
        (
            "pipeline/volume/",
            &[
                "pipeline::network",
                "pipeline::anatomy",
                "pipeline::contours",
                "pipeline::rtstruct",
                "pipeline::delivery",
            ],
        ),
        (
            "pipeline/network/",
            &["pipeline::anatomy", "pipeline::contours", "pipeline::rtstruct", "pipeline::delivery"],
        ),
        ("pipeline/anatomy/", &["pipeline::contours", "pipeline::rtstruct", "pipeline::delivery"]),
        ("pipeline/contours/", &["pipeline::rtstruct", "pipeline::delivery"]),
    ];
    let mut broken = Vec::new();
    for (room, forbidden) in later {
        for word in forbidden {
            let uses = uses(&sources, &format!("crate::{word}"));
            broken.extend(uses.into_iter().filter(|(file, _)| file.starts_with(room)).map(|(_, line)| line));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// From the series to the structure set: value in, value out.
#[test]
fn the_line_asks_neither_the_clock_nor_chance() {
    let sources = sources();
    let rooms =
        ["volume/", "network/", "anatomy/", "contours/", "rtstruct/"].map(|room| format!("pipeline/{room}"));
    let words = [
        "Instant::now",
        "SystemTime",
        "now_utc",
        "now_local",
        "env::var",
        "Uuid::new",
        "rand::",
        "TcpStream",
    ];
    let mut broken = Vec::new();
    for word in words {
        let uses = uses(&sources, word);
        broken.extend(
            uses.into_iter().filter(|(f, _)| rooms.iter().any(|r| f.starts_with(r))).map(|(_, line)| line),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_file_can_be_proofread_in_one_sitting() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(file, lines)| format!("{file}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Nodes work while a migration is applied, and lock several tables in an order of their own: a migration that waits for a
/// second one could stand in a circle with them (decision 14).
#[test]
fn a_migration_changes_one_table_of_those_that_are_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service/store/migrations");
    let mut n_changed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap().to_uppercase();
        let text: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap()).collect();
        let text = text.join("\n");
        let words: Vec<&str> =
            text.split_whitespace().map(|word| word.trim_matches([';', '(', ','])).collect();
        let after = |first: &str, second: &str| -> std::collections::BTreeSet<&str> {
            words.windows(3).filter(|w| w[0] == first && w[1] == second).map(|w| w[2]).collect()
        };
        let made = after("CREATE", "TABLE");
        let indexed = words.windows(2).filter(|w| w[0] == "ON").map(|w| w[1].split('(').next().unwrap());
        let mut changed: std::collections::BTreeSet<&str> = indexed
            .chain(after("ALTER", "TABLE"))
            .chain(after("INSERT", "INTO"))
            .chain(after("DROP", "TABLE"))
            .collect();
        changed.extend(words.windows(2).filter(|w| w[0] == "UPDATE").map(|w| w[1]));
        changed.retain(|table| !made.contains(table) && *table != "CONFLICT");
        assert!(changed.len() < 2, "{}: {changed:?}", path.display());
        n_changed += changed.len();
    }
    assert!(n_changed > 1, "the test sees no change");
}
