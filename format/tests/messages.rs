//! What a person reads about damaged bytes. Goal: every reason is one plain line that names the numbers it
//! carries. Method: all of them, with numbers that nothing else in the sentence could be.

use kvs_format::{DecodeError, FORMAT_VERSION};

#[test]
fn every_reason_is_one_line_with_its_numbers() {
    let (stored, computed) = (0xBEEF_0001, 0x0000_CAFE);
    let (expected, found) = (70_001, 80_002);
    let version = FORMAT_VERSION.to_string();
    let checks = ["beef0001", "0000cafe"];
    let all: [(DecodeError, &[&str]); 16] = [
        (
            DecodeError::Truncated {
                need: expected,
                have: found,
            },
            &["70001", "80002"],
        ),
        (DecodeError::BadMagic, &["magic"]),
        (
            DecodeError::BadVersion { found: 60_003 },
            &["60003", &version],
        ),
        (DecodeError::BadCrc { stored, computed }, &checks),
        (DecodeError::BadPlace { stored, computed }, &checks),
        (DecodeError::BadContent { stored, computed }, &checks),
        (
            DecodeError::BadLsn { expected, found },
            &["80002 where 70001"],
        ),
        (
            DecodeError::BadKind {
                kind: 201,
                framing: 202,
            },
            &["kind 201", "framing 202"],
        ),
        (
            DecodeError::BadLength {
                found,
                allowed: expected,
            },
            &["80002 where 70001"],
        ),
        (DecodeError::BadBatch, &["batch"]),
        (DecodeError::NotZero, &["zero"]),
        (
            DecodeError::WrongId { expected, found },
            &["segment 80002", "expected 70001"],
        ),
        (DecodeError::WrongIdentity, &["another store"]),
        (DecodeError::AfterEnd, &["behind the end"]),
        (DecodeError::NotBound, &["hint"]),
        (DecodeError::BadEntry { index: found }, &["entry 80002"]),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (reason, says) in all {
        let text = reason.to_string();
        for part in says {
            assert!(text.contains(part), "{reason:?}: {text}");
        }
        assert!(text.is_ascii() && !text.contains('\n') && text.len() < 100);
        assert!(!text.ends_with('.'), "{text}");
        assert!(seen.insert(text), "{reason:?} reads like another");
    }
}
