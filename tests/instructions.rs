//! What is said of instruction counts beside those on file: `benches/instructions.rs` counts, this is the
//! comparison alone. Method: counts made up for each case.

#[path = "../benches/instructions/baseline.rs"]
mod baseline;

use baseline::{Baseline, Counts, TOLERANCE, TOLERANCE_OTHER, Verdict, compare};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn counts(all: &[(&str, f64)]) -> Counts {
    let pairs = all.iter().map(|(name, count)| ((*name).to_owned(), *count));
    pairs.collect()
}

fn on_file() -> Baseline {
    let mut file = Baseline::default();
    file.insert(TARGET, "1.92.0", counts(&[("get", 50.0)]));
    file.insert(TARGET, "1.100.0", counts(&[("get", 100.0), ("put", 200.0)]));
    file
}

fn verdict(rustc: &str, now: &[(&str, f64)]) -> Verdict {
    let file = on_file();
    let chosen = file.choose(TARGET, rustc).expect("there are some");
    compare(&chosen, &counts(now))
}

#[test]
fn more_than_the_tolerance_is_worse_and_less_is_better() {
    let same = verdict("1.100.0", &[("get", 102.9), ("put", 194.1)]);
    assert_eq!((same.worse.len(), same.better.len()), (0, 0), "{same:?}");
    let more = verdict("1.100.0", &[("get", 103.1), ("put", 200.0)]);
    assert_eq!(more.worse, ["get"]);
    assert!(more.better.is_empty());
    assert!(more.table.contains("+3.1 %"), "{}", more.table);
    let less = verdict("1.100.0", &[("get", 100.0), ("put", 193.0)]);
    assert!(less.worse.is_empty());
    assert_eq!(less.better, ["put"]);
}

#[test]
fn an_operation_on_one_side_only_is_worse() {
    let gone = verdict("1.100.0", &[("get", 100.0)]);
    assert_eq!(gone.worse, ["put"]);
    let new = verdict("1.100.0", &[("get", 100.0), ("put", 200.0), ("scan", 1.0)]);
    assert_eq!(new.worse, ["scan"]);
}

#[test]
fn an_unknown_compiler_is_compared_with_the_newest_and_allowed_more() {
    let file = on_file();
    for (rustc, beside, tolerance) in [
        ("1.100.0", "1.100.0", TOLERANCE),
        ("1.92.0", "1.92.0", TOLERANCE),
        ("1.101.0", "1.100.0", TOLERANCE_OTHER),
        ("1.102.0-nightly", "1.100.0", TOLERANCE_OTHER),
    ] {
        let chosen = file.choose(TARGET, rustc).expect("there are some");
        assert_eq!((chosen.rustc, chosen.tolerance), (beside, tolerance));
    }
    let other = verdict("1.101.0", &[("get", 124.0), ("put", 251.0)]);
    assert_eq!(other.worse, ["put"]);
    assert_eq!(file.choose("aarch64-unknown-linux-gnu", "1.100.0"), None);
}

#[test]
fn the_file_says_what_was_written_and_writing_again_replaces() {
    let mut file = on_file();
    assert_eq!(Baseline::parse(&file.to_text()), Ok(file.clone()));
    file.insert(TARGET, "1.100.0", counts(&[("get", 7.0)]));
    let chosen = file.choose(TARGET, "1.100.0").expect("there are some");
    assert_eq!(*chosen.counts, counts(&[("get", 7.0)]));
    assert_eq!(
        file.choose(TARGET, "1.92.0").map(|c| c.counts["get"]),
        Some(50.0)
    );
}

#[test]
fn a_file_that_makes_no_sense_is_refused_with_the_place() {
    for (text, place) in [
        ("", "EOF"),
        ("[]", "the file: not an object"),
        (r#"{"t": 1}"#, "t: not an object"),
        (r#"{"t": {"1.100.0": []}}"#, "t, 1.100.0: not an object"),
        (
            r#"{"t": {"1.100.0": {"get": "7"}}}"#,
            "t, 1.100.0, get: not a number above 0",
        ),
        (
            r#"{"t": {"1.100.0": {"get": 0}}}"#,
            "t, 1.100.0, get: not a number above 0",
        ),
    ] {
        let error = Baseline::parse(text).expect_err(text);
        assert!(error.contains(place), "{text}: {error}");
    }
}

#[test]
fn the_file_in_the_repository_can_be_read() {
    let file = Baseline::parse(include_str!("../benches/instructions.json")).expect("it is good");
    let chosen = file.choose(TARGET, "1.89.0").expect("there are some");
    for name in ["put", "get", "miss", "iterate"] {
        assert!(chosen.counts[name] > 10.0, "{name}");
    }
}
