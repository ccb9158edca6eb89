//! House rules that the compiler does not keep: which layer may name which, where `unsafe` lives, how
//! small the library's tree is, what the README promises. Each rule is a function from texts to a
//! list of what is wrong, and has a test that feeds it something wrong.

#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use graph::{Layers, Library};
use serde_json::Value;
use source::code_only;

/// Most crates an embedder gets with `default-features = false`, this one included.
const CRATES_MAX: usize = 22;

/// Longest source file, in lines.
const LINES_MAX: usize = 1000;

/// What each part of `src/` may name. `""` is the public face in `lib.rs`.
const LAYERS: Layers<'static> = &[
    ("planted", &[]),
    ("sync", &[]),
    ("storage", &["sync"]),
    ("index", &["storage", "sync"]),
    ("engine", &["index", "storage", "sync"]),
    ("engines", &["", "engine"]),
    ("thread_pool", &[""]),
    ("protocol", &[]),
    ("future", &["", "engines", "thread_pool"]),
    ("server", &["", "engines", "protocol", "thread_pool"]),
    ("client", &["", "protocol"]),
];

/// Where `unsafe` may stand: maps, what is pinned of them, checksums, asking for memory ahead, an allocator that counts for a test,
/// and the C interfaces of what benches compare with.
const UNSAFE_HOMES: [&str; 6] = [
    "src/storage/raw/checksum.rs",
    "src/storage/raw/mmap.rs",
    "src/storage/raw/pinned.rs",
    "src/storage/raw/prefetch.rs",
    "format/tests/no_alloc.rs",
    "benches/compare/src/foreign.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything in the repository, by path: what git tracks or would; without git, every file that is
/// not a build product.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output();
    let names: Vec<String> = match listed {
        Ok(listed) if listed.status.success() => String::from_utf8(listed.stdout)
            .expect("file names are UTF-8")
            .split_terminator('\0')
            .map(str::to_owned)
            .collect(),
        _ => {
            let skipped = ["target", ".git", "artifacts", "coverage"];
            let walk = walkdir::WalkDir::new(root()).into_iter();
            walk.filter_entry(|e| !skipped.iter().any(|s| e.file_name() == *s))
                .filter_map(Result::ok)
                .filter(|entry| entry.file_type().is_file())
                .filter_map(|entry| {
                    let path = entry.path().strip_prefix(root()).ok()?;
                    Some(path.to_str()?.to_owned())
                })
                .collect()
        }
    };
    let read = |name: String| Some((name.clone(), std::fs::read(root().join(name)).ok()?));
    let files: BTreeMap<_, _> = names.into_iter().filter_map(read).collect();
    assert!(files.contains_key("Cargo.toml"), "the repository was found");
    files
}

/// The Rust files among them, as text.
fn rust_files() -> Vec<(String, String)> {
    repository()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .map(|(name, bytes)| (name, String::from_utf8(bytes).expect("source is UTF-8")))
        .collect()
}

/// The library's files, by path below `src/`; binaries are crates of their own.
fn library() -> Library {
    let below =
        |(name, text): (String, String)| Some((name.strip_prefix("src/")?.to_owned(), text));
    let sources: Vec<_> = rust_files().into_iter().filter_map(below).collect();
    Library::new(
        &sources
            .into_iter()
            .filter(|(name, _)| !name.starts_with("bin/"))
            .collect::<Vec<_>>(),
    )
}

/// Output of a cargo command; the network is asked only if the registry's copy on disk is not enough.
fn cargo(args: &[&str]) -> String {
    let run = |more: &[&str]| {
        Command::new(env!("CARGO"))
            .args(args)
            .args(more)
            .current_dir(root())
            .output()
            .expect("cargo runs")
    };
    let mut output = run(&["--locked", "--offline"]);
    if !output.status.success() {
        output = run(&["--locked"]);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}: {errors}");
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn assert_nothing(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

// The tree of the bare library.

#[test]
fn the_library_alone_stays_small() {
    let tree = cargo(&[
        "tree",
        "--package",
        "kvs",
        "--no-default-features",
        "--edges",
        "normal,build",
        "--target",
        "x86_64-unknown-linux-gnu",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let crates = crates_of(&tree);
    assert!(
        crates.contains("kvs") && crates.contains("memmap2"),
        "{tree}"
    );
    assert!(
        !crates.contains("clap"),
        "the command line's parser is no part of the library"
    );
    assert!(
        crates.len() <= CRATES_MAX,
        "{} crates: {crates:?}",
        crates.len()
    );
}

/// Names in the output of `cargo tree --prefix none --format {p}`, each version once.
fn crates_of(tree: &str) -> BTreeSet<String> {
    let mut crates = BTreeSet::new();
    let mut versions = BTreeSet::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            // A second version of a crate is a second crate.
            let known = versions.iter().any(|(n, v)| n == name && v != version);
            versions.insert((name.to_owned(), version.to_owned()));
            crates.insert(match known {
                true => format!("{name} {version}"),
                false => name.to_owned(),
            });
        }
    }
    crates
}

#[test]
fn crates_are_counted_once_a_version() {
    let tree = "kvs v0.1.0 (/a/b)\nx v1.0.0\nx v1.0.0 (*)\nx v2.0.0\ny v1.0.0 (proc-macro)\n\n";
    assert_eq!(crates_of(tree).len(), 4);
}

// Layers and circles.

#[test]
fn layers_name_only_lower_layers() {
    assert_nothing(&library().against_the_order(LAYERS));
}

#[test]
fn files_need_each_other_in_no_circle() {
    let library = library();
    let needs = library.needs();
    let lines = |circle: BTreeSet<&str>| {
        let inside = needs.iter().filter(|(file, _)| circle.contains(*file));
        let line = |(file, all): (&&str, &BTreeSet<&str>)| {
            let in_circle: Vec<_> = all.intersection(&circle).collect();
            format!("{file} needs {in_circle:?}")
        };
        inside.map(line).collect::<Vec<_>>()
    };
    let circles: Vec<String> = library.cycles("").into_iter().flat_map(lines).collect();
    assert_nothing(&circles);
}

// `unsafe`.

#[test]
fn unsafe_lives_in_one_module_and_argues_its_case() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        if !UNSAFE_HOMES.contains(&name.as_str()) {
            wrong.extend(
                unsafe_lines(&text)
                    .iter()
                    .map(|line| format!("{name}:{line}: unsafe")),
            );
        }
        wrong.extend(
            unargued(&text)
                .iter()
                .map(|line| format!("{name}:{line}: no SAFETY note")),
        );
    }
    assert_nothing(&wrong);
    let format = std::fs::read_to_string(root().join("format/src/lib.rs")).unwrap();
    assert!(
        format.contains("#![forbid(unsafe_code)]"),
        "format/ forbids unsafe"
    );
}

/// Numbers of the lines with the word in code.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = code_only(text);
    let has = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe")
    };
    (1..)
        .zip(code.lines())
        .filter(|(_, line)| has(line))
        .map(|(n, _)| n)
        .collect()
}

/// Those of them without a `SAFETY:` comment (or a `# Safety` section) directly above, attributes
/// aside. The methods of an `unsafe impl` are argued for by the impl.
fn unargued(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let argued = |n: usize| {
        let above = lines[..n - 1].iter().rev();
        let mut note = above
            .skip_while(|line| line.starts_with("#["))
            .take_while(|line| line.starts_with("//"));
        note.any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
    };
    let in_impl = |n: usize| lines[n - 1].starts_with("unsafe fn") && text.contains("unsafe impl");
    unsafe_lines(text)
        .into_iter()
        .filter(|n| !argued(*n) && !in_impl(*n))
        .collect()
}

#[test]
fn unsafe_without_a_reason_is_noticed() {
    let good = "// SAFETY: 1. because.\n// 2. and so.\nlet a = unsafe { x };\n\
                /// # Safety\n/// b\n#[inline]\npub unsafe fn f() {}\n// unsafe \"unsafe\"\n";
    assert_eq!(unsafe_lines(good), [3, 7]);
    assert_eq!(unargued(good), [0; 0]);
    let bad = "// SAFETY: 1.\nlet a = 1;\nlet b = unsafe { y };\n";
    assert_eq!(unargued(bad), [3]);
    assert_eq!(unsafe_lines("#![deny(unsafe_code)]\n"), [0; 0]);
}

// Versions of the compiler.

#[test]
fn no_dependency_asks_for_a_newer_compiler_than_we_do() {
    let metadata = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--all-features",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    assert_nothing(&newer_than_ours(&metadata));
}

/// Packages that building any member needs, with a higher `rust-version` than the member's own.
fn newer_than_ours(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|p| (text(&p["id"]), p))
        .collect();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|n| (text(&n["id"]), n))
        .collect();
    let ours = (1, 89, 0);
    let mut todo: Vec<String> = list(&metadata["workspace_members"])
        .iter()
        .map(text)
        .collect();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if let Some(wanted) = packages[&id]["rust_version"].as_str()
            && version(wanted) > ours
        {
            wrong.push(format!("{id} asks for Rust {wanted}"));
        }
        for dependency in list(&nodes[&id]["deps"]) {
            let needed = list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"] != "dev");
            if needed {
                todo.push(text(&dependency["pkg"]));
            }
        }
    }
    assert!(seen.len() > 3 || packages.len() <= 3, "the tree was walked");
    wrong
}

fn version(text: &str) -> (u64, u64, u64) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

#[test]
fn a_dependency_that_asks_for_more_is_noticed() {
    let metadata = serde_json::json!({
        "workspace_members": ["us"],
        "packages": [
            {"id": "us", "rust_version": "1.89"},
            {"id": "needed", "rust_version": "1.89.1"},
            {"id": "dev", "rust_version": "1.95"},
        ],
        "resolve": {"nodes": [
            {"id": "us", "deps": [
                {"pkg": "needed", "dep_kinds": [{"kind": null}]},
                {"pkg": "dev", "dep_kinds": [{"kind": "dev"}]},
            ]},
            {"id": "needed", "deps": []},
            {"id": "dev", "deps": []},
        ]},
    });
    assert_eq!(newer_than_ours(&metadata), ["needed asks for Rust 1.89.1"]);
}

// Texts.

/// Words of the place where this was made, in pieces so that they do not stand here.
fn strange_words() -> Vec<String> {
    let pieces = [
        ["../sha", "red"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/fa", "rm/"],
        ["artif", "actory"],
    ];
    pieces.iter().map(|pieces| pieces.concat()).collect()
}

/// Lines of `text` that speak of something other than the product.
fn strange_lines(text: &str) -> Vec<usize> {
    let words = strange_words();
    let officer = ["C", "EO"].concat();
    let strange = |line: &str| {
        words.iter().any(|word| line.contains(word))
            || line
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| word == officer)
    };
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| strange(line))
        .map(|(n, _)| n)
        .collect()
}

#[test]
fn the_product_speaks_of_itself_alone() {
    let mut wrong = Vec::new();
    for (name, bytes) in repository() {
        if !name.ends_with("Cargo.lock") {
            let text = String::from_utf8_lossy(&bytes);
            wrong.extend(
                strange_lines(&text)
                    .iter()
                    .map(|line| format!("{name}:{line}")),
            );
        }
    }
    assert_nothing(&wrong);
}

#[test]
fn strange_words_are_noticed() {
    for word in strange_words() {
        assert_eq!(strange_lines(&format!("a\nsee {word}x for more\nb")), [2]);
    }
    assert_eq!(strange_lines(&["the C", "EO says"].concat()), [1]);
    assert_eq!(strange_lines("a network/path, workspace/, OCEOL"), [0; 0]);
}

#[test]
fn source_files_are_short_and_say_why_they_exist() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        wrong.extend(badly_shaped(&name, &text));
    }
    assert_nothing(&wrong);
}

fn badly_shaped(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        wrong.push(format!("{name}: {lines} lines"));
    }
    let product = name.starts_with("src/") || name.starts_with("format/src/");
    if product && !text.starts_with("//!") {
        wrong.push(format!("{name}: does not begin with what it is for"));
    }
    wrong
}

#[test]
fn long_and_silent_files_are_noticed() {
    assert_eq!(badly_shaped("src/a.rs", "//! A.\n"), [""; 0]);
    assert_eq!(badly_shaped("src/a.rs", "use b;\n").len(), 1);
    assert_eq!(
        badly_shaped("tests/a.rs", &"\n".repeat(LINES_MAX + 1)).len(),
        1
    );
}

// The README.

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect(name)
}

#[test]
fn the_readme_opens_with_two_commands_and_names_only_tests_that_exist() {
    let readme = read("README.md");
    assert_nothing(&readme_faults(&readme, |file| {
        std::fs::read_to_string(root().join(PathBuf::from(file))).ok()
    }));
}

/// What is wrong with a README: its opening, and tests named `` `tests/file.rs::name` `` or files
/// named `` `tests/file.rs` `` that `file` does not give.
fn readme_faults(readme: &str, file: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let commands: Vec<&str> = readme
        .lines()
        .skip_while(|line| !line.starts_with("```"))
        .skip(1)
        .take_while(|line| !line.starts_with("```"))
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .collect();
    if commands != ["cargo run --release -- demo", "cargo test --workspace"] {
        wrong.push(format!("README begins with {commands:?}"));
    }
    let before = readme.lines().take_while(|line| !line.starts_with("```"));
    if before.filter(|line| !line.trim().is_empty()).count() > 1 {
        wrong.push("README has more than a title above its two commands".into());
    }
    if !readme.contains(r#"kvs = { version = "0.1", default-features = false }"#) {
        wrong.push("README does not show the library alone".into());
    }
    for quoted in readme.split('`').skip(1).step_by(2) {
        let (path, test) = quoted.split_once("::").unwrap_or((quoted, ""));
        let looks_like_one = (path.starts_with("tests/") || path.starts_with("format/"))
            && path.ends_with(".rs")
            && !path.contains(char::is_whitespace);
        if !looks_like_one {
            continue;
        }
        match file(path) {
            None => wrong.push(format!("README names {path}, which does not exist")),
            Some(text) if !test.is_empty() && !text.contains(&format!("fn {test}(")) => {
                wrong.push(format!("README names {test}, which is not in {path}"));
            }
            Some(_) => {}
        }
    }
    wrong
}

#[test]
fn a_readme_that_promises_too_much_is_noticed() {
    let good = "# kvs\n\n```sh\ncargo run --release -- demo   # 30 s\ncargo test --workspace\n```\n\
                kvs = { version = \"0.1\", default-features = false }\n`tests/a.rs::b`, `tests/a.rs`";
    let file = |name: &str| (name == "tests/a.rs").then(|| "fn b() {}".to_owned());
    assert_eq!(readme_faults(good, file), [""; 0]);
    assert_eq!(readme_faults(&good.replace("::b", "::c"), file).len(), 1);
    assert_eq!(
        readme_faults(&good.replace("tests/a.rs`", "tests/z.rs`"), file).len(),
        1
    );
    assert_eq!(
        readme_faults(&good.replace("demo ", "demos "), file).len(),
        1
    );
    assert_eq!(
        readme_faults(&good.replace("\n\n```", "\n\nMany words.\n\n```"), file).len(),
        1
    );
}
