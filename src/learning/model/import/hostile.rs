//! Files that mean harm: each is refused at once, nothing in it runs, and all together take little memory.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "one process tells the other, and a skipped test says so"
)]

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::{CheckpointFile, ImportError};

/// A pickle of protocol 2 with this body.
fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat()
}

/// `{'state_dict': {'w': tensor}}` of a storage of `count` numbers, seen from `start` with `shape` and `strides`.
fn state_dict(count: u64, start: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let number = |value: u64| [&b"\x8a\x08"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[u64]| {
        [b"(".to_vec(), values.iter().flat_map(|value| number(*value)).collect(), b"t".to_vec()].concat()
    };
    let storage =
        [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), number(count)].concat();
    let tensor = [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        storage,
        b"tQ".to_vec(),
        number(start),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)Rt".to_vec(),
        b"R".to_vec(),
    ];
    pickle(
        &[b"}".to_vec(), text("state_dict"), b"}".to_vec(), text("w"), tensor.concat(), b"ss".to_vec()]
            .concat(),
    )
}

type Entries<'a> = [(&'a str, Vec<u8>, zip::CompressionMethod)];

fn archive(entries: &Entries<'_>) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes, method) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default().compression_method(*method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const STORED: zip::CompressionMethod = zip::CompressionMethod::Stored;
const DEFLATED: zip::CompressionMethod = zip::CompressionMethod::Deflated;

/// A PyTorch archive with this pickle and a storage of four numbers.
fn torch_archive(pickle: Vec<u8>) -> Vec<u8> {
    archive(&[("m/data.pkl", pickle, STORED), ("m/data/0", vec![0; 16], STORED)])
}

/// PyTorch's old format with this object, up to the keys.
fn old_format(object: &[u8], keys: &[u8]) -> Vec<u8> {
    let magic = pickle(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
    [magic.as_slice(), &pickle(b"M\xe9\x03"), &pickle(b"}"), object, keys].concat()
}

fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 16]].concat()
}

/// A directory of 65535 entries, all of them the same file.
fn many_entries() -> Vec<u8> {
    let one = archive(&[("m/data.pkl", pickle(b"}"), STORED)]);
    let start = one.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let end = one.windows(4).position(|four| four == b"PK\x05\x06").unwrap();
    let directory = one[start..end].repeat(65_535);
    let mut last = one[end..].to_vec();
    last[8..12].fill(0xff);
    last[12..16].copy_from_slice(&u32::try_from(directory.len()).unwrap().to_le_bytes());
    [&one[..start], &directory, &last].concat()
}

/// An archive whose storage is said to have four gigabytes, in both of its headers.
fn sizes_that_lie() -> Vec<u8> {
    let mut bytes = torch_archive(state_dict(1 << 29, 0, &[1 << 29], &[1]));
    let name = b"m/data/0";
    let places: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert_eq!(places.len(), 2);
    // The two sizes end 4 bytes before the name in the local header, 22 before it in the directory.
    bytes[places[0] - 12..places[0] - 4].copy_from_slice(&[0, 0, 0, 0x80, 0, 0, 0, 0x80]);
    bytes[places[1] - 26..places[1] - 18].copy_from_slice(&[0, 0, 0, 0x80, 0, 0, 0, 0x80]);
    bytes
}

/// Name, bytes, and a part of what the refusal says.
fn files(marker: &Path) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let touch = text(&format!("touch {}", marker.display()));
    let system = |head: &str, tail: &[u8]| pickle(&[head.as_bytes(), &touch, tail].concat());
    let call = system("cposix\nsystem\n", b"\x85R");
    let flood = |byte: &[u8]| torch_archive(pickle(&byte.repeat((1 << 20) / byte.len() - 16)));
    let opcode = |bytes: &[u8]| torch_archive(pickle(bytes));
    let described = |what: &str| safetensors(&format!("{{\"a\": {what}}}"));
    vec![
        ("os.system by GLOBAL and REDUCE", torch_archive(call.clone()), "posix.system"),
        ("the same in the old format", call.clone(), "posix.system"),
        ("the same behind the marks of the old format", old_format(&call, b""), "posix.system"),
        ("builtins.exec", opcode(b"cbuiltins\nexec\n"), "builtins.exec"),
        ("a module of PyTorch that loads", opcode(b"ctorch.storage\n_load_from_bytes\n"), "_load_from_bytes"),
        (
            "STACK_GLOBAL",
            opcode(&[&text("os")[..], &text("system"), b"\x93", &touch, b"\x85R"].concat()),
            "os.system",
        ),
        ("INST", opcode(&[b"(", &touch[..], b"ios\nsystem\n"].concat()), "0x69"),
        ("OBJ", opcode(b"(ccollections\nOrderedDict\no"), "0x6f"),
        ("NEWOBJ", opcode(b"ccollections\nOrderedDict\n)\x81"), "0x81"),
        ("NEWOBJ_EX", opcode(b"ccollections\nOrderedDict\n)}\x92"), "0x92"),
        ("BUILD of a function", opcode(b"ccollections\nOrderedDict\n}b"), "0x62"),
        ("a persistent name as text", opcode(b"Pwhatever\n"), "0x50"),
        ("a persistent name that is no storage", opcode(&[&touch[..], b"Q"].concat()), "needs a tuple"),
        ("an extension", opcode(b"\x82\x01"), "0x82"),
        (
            "a tensor made with a function for a storage",
            opcode(b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nFloatStorage\nK\x00)))tR"),
            "rebuild no tensor",
        ),
        (
            "an ordered dictionary made of something",
            opcode(b"ccollections\nOrderedDict\n(]tR"),
            "rebuild no tensor",
        ),
        ("tuples in tuples", flood(b"\x85"), "too little"),
        (
            "tuples in tuples, a million deep",
            torch_archive(pickle(&[b")".to_vec(), b"\x85".repeat(1_000_000)].concat())),
            "100000 values",
        ),
        (
            "lists that hold themselves many times over",
            torch_archive(pickle(&[&b"]q\x00"[..], &b"(h\x00h\x00h\x00h\x00eq\x00".repeat(50_000)].concat())),
            "other than a dictionary",
        ),
        ("a million values", flood(b"N"), "100000 values"),
        ("a million marks", flood(b"("), "too little on the stack"),
        (
            "a million memories",
            torch_archive(pickle(&[b"}".to_vec(), b"\x94".repeat(1_000_000)].concat())),
            "100000 values",
        ),
        (
            "sides copied again and again",
            torch_archive(pickle(
                &[
                    &b"ctorch\nSize\nq\x00("[..],
                    &b"K\x01".repeat(9),
                    b"t\x85q\x01",
                    &b"h\x00h\x01R".repeat(9),
                ]
                .concat(),
            )),
            "rebuild no tensor",
        ),
        ("a whole number of two gigabytes", opcode(b"\x8b\xff\xff\xff\x7f"), "0x8b"),
        ("a text of 2^63 bytes", opcode(b"\x8d\x00\x00\x00\x00\x00\x00\x00\x80"), "0x8d"),
        ("a text of four gigabytes", opcode(b"X\xff\xff\xff\xff"), "4294967295 bytes"),
        (
            "a pickle that unpacks to 32 MB",
            archive(&[("m/data.pkl", vec![b'N'; 32 << 20], DEFLATED)]),
            "100000 values",
        ),
        (
            "numbers that are packed",
            archive(&[
                ("m/data.pkl", state_dict(4, 0, &[4], &[1]), STORED),
                ("m/data/0", vec![0; 16], DEFLATED),
            ]),
            "compressed",
        ),
        ("sizes that lie", sizes_that_lie(), "found"),
        ("65535 entries", many_entries(), "directory is too long"),
        (
            "a tensor that reaches out of its storage",
            torch_archive(state_dict(4, 3, &[2], &[1])),
            "beyond its storage",
        ),
        (
            "a tensor that starts at 2^63",
            torch_archive(state_dict(4, 1 << 63, &[2], &[1])),
            "rebuild no tensor",
        ),
        (
            "a tensor that starts at 2^62",
            torch_archive(state_dict(4, 1 << 62, &[2], &[1])),
            "beyond its storage",
        ),
        (
            "sides whose product overflows",
            torch_archive(state_dict(4, 0, &[1 << 40, 1 << 40], &[1 << 40, 1])),
            "beyond its storage",
        ),
        ("a view that repeats one number", torch_archive(state_dict(4, 0, &[1 << 30], &[0])), "gaps"),
        ("as many strides as sides, less one", torch_archive(state_dict(4, 0, &[2, 2], &[1])), "w, "),
        (
            "an old file with a storage of 2^61 numbers",
            old_format(
                &state_dict(1 << 61, 0, &[1], &[1]),
                &[&pickle(&[&b"]"[..], &text("0"), b"a"].concat())[..], &(1_u64 << 61).to_le_bytes()]
                    .concat(),
            ),
            "cut short",
        ),
        (
            "an old file that ends before its numbers",
            old_format(&state_dict(4, 0, &[4], &[1]), &pickle(&[&b"]"[..], &text("0"), b"a"].concat())),
            "cut short",
        ),
        (
            "a safetensors header of 2^63 bytes",
            [&(1_u64 << 63).to_le_bytes()[..], b"{}"].concat(),
            "header of 9223372036854775808",
        ),
        ("a header that is nested", safetensors(&"{\"a\":".repeat(100_000)), "no tensors"),
        (
            "a header of many empty objects",
            safetensors(&format!(
                "{{{}\"z\":{{}}}}",
                (0..80_000).map(|n| format!("\"{n}\":{{}},")).collect::<String>()
            )),
            "without type",
        ),
        (
            "a header of a long list",
            described(&format!("{{\"shape\":[{}0]}}", "0,".repeat(400_000))),
            "without type",
        ),
        (
            "sides in a header that overflow",
            described(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}"#),
            "as stated",
        ),
        (
            "places that run backwards",
            described(r#"{"dtype":"F32","shape":[2],"data_offsets":[16,8]}"#),
            "as stated",
        ),
        (
            "places beyond the end",
            described(
                r#"{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}"#,
            ),
            "as stated",
        ),
        (
            "numbers of a type nobody knows",
            described(r#"{"dtype":"S8","shape":[16],"data_offsets":[0,16]}"#),
            "type S8",
        ),
    ]
}

fn refusal(path: &Path) -> Result<(), ImportError> {
    let file = CheckpointFile::open(path, "state_dict")?;
    file.tensors.iter().try_for_each(|tensor| file.values(tensor).map(drop))
}

/// Names the folder of files in the process that opens them.
const CHILD: &str = "OARLOCK_HOSTILE_FILES";
/// Most memory that this process may have had, kB; without opening anything it has some twenty megabytes.
const MOST_MEMORY_KB: u64 = 100_000;

/// The files are opened by a process of their own, so that the memory of nothing else counts.
#[test]
fn hostile_files_are_refused_at_once_and_take_no_memory() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return open_all(Path::new(&folder));
    }
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("somebody was here");
    let mut wanted = Vec::new();
    for (number, (name, bytes, why)) in files(&marker).into_iter().enumerate() {
        std::fs::write(dir.path().join(format!("{number:03}")), bytes).unwrap();
        wanted.push((name, why));
    }
    let own_name = "learning::model::import::hostile::hostile_files_are_refused_at_once_and_take_no_memory";
    let own = std::env::current_exe().unwrap();
    let run = std::process::Command::new(own)
        .args(["--exact", own_name, "--nocapture", "--test-threads", "1"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}{}", String::from_utf8_lossy(&run.stderr));
    let lines: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("opened ")).collect();
    assert_eq!(lines.len(), wanted.len(), "{told}");
    for (line, (name, why)) in lines.iter().zip(wanted) {
        let (milliseconds, error) = line.split_once(' ').unwrap();
        assert!(error.contains(why), "{name}: {error}");
        assert!(milliseconds.parse::<u64>().unwrap() < 5_000, "{name}: {milliseconds} ms");
    }
    assert!(!marker.exists(), "something ran");
    let most = told
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .map(|line| line.trim().trim_end_matches(" kB"));
    match most.map(|most| most.parse::<u64>().unwrap()) {
        Some(most) => assert!(most < MOST_MEMORY_KB, "{most} kB"),
        None => eprintln!("SKIPPED the memory of hostile files: this system does not tell it"),
    }
}

fn open_all(folder: &Path) {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let start = Instant::now();
        let error = refusal(&path).expect_err("it is hostile").to_string();
        println!("\nopened {} {error}", start.elapsed().as_millis());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, ..Default::default() })]
    /// Files of PyTorch with some bytes changed, put in or taken out anywhere.
    #[test]
    fn changed_files_end(
        old in proptest::prelude::any::<bool>(),
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0_u8..3, proptest::prelude::any::<u8>()), 1..6),
    ) {
        let name = if old { "small.old.pth" } else { "small.zip.pth" };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/checkpoints");
        let mut bytes = std::fs::read(folder.join(name)).unwrap();
        for (at, kind, value) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        drop(refusal(&path));
    }
}
