//! The targets over their stored inputs and over some random ones, and proof that they can fail.

use std::collections::BTreeSet;
use std::path::Path;

use crate::store::check;
use crate::workload::{Oracle, bases};
use crate::{
    command, hint, kvx, manifest, ndjson, record, recovery, repair, resp_reply, resp_request,
    segment_scan, store_model, tsv,
};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 13] = [
    ("record", record),
    ("segment_scan", segment_scan),
    ("manifest", manifest),
    ("hint", hint),
    ("kvx", kvx),
    ("ndjson", ndjson),
    ("tsv", tsv),
    ("recovery", recovery),
    ("repair", repair),
    ("store_model", store_model),
    ("resp_request", resp_request),
    ("resp_reply", resp_reply),
    ("command", command),
];

#[test]
fn stored_inputs_pass() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let files = std::fs::read_dir(corpus.join(name)).expect("every target has stored inputs");
        let mut count = 0;
        for file in files {
            let path = file.expect("the directory can be listed").path();
            println!("{}", path.display());
            target(&std::fs::read(path).expect("an input can be read"));
            count += 1;
        }
        assert!(count > 3, "{name} has too few stored inputs");
    }
}

/// splitmix64 (Steele, Lea, Flood, 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[test]
fn random_inputs_pass() {
    for (name, target) in TARGETS {
        let rounds = match name {
            "recovery" | "repair" => 1500,
            "store_model" => 300,
            _ => 3000,
        };
        for round in 0..rounds {
            let mut state = round;
            let len = random(&mut state) % 64;
            let mut input: Vec<u8> = (0..len).map(|_| random(&mut state) as u8).collect();
            // Half of the stores damaged only, not forged: that is where most is promised.
            if matches!(name, "recovery" | "repair") && round % 2 == 0 && input.len() > 2 {
                input[2] = 0;
            }
            println!("{name} {round} {input:?}");
            target(&input);
        }
    }
}

#[test]
fn every_good_store_passes_undamaged() {
    let bases = bases();
    assert!(bases.images.len() > 100 && bases.oracle.states.len() > 20);
    let kinds: BTreeSet<&str> = bases
        .images
        .iter()
        .flat_map(|files| files.keys())
        .map(|name| {
            name.rsplit_once('.')
                .map_or(name.as_str(), |(_, kind)| kind)
        })
        .collect();
    assert_eq!(kinds, BTreeSet::from(["MANIFEST", "hint", "seg", "tmp"]));
    for files in &bases.images {
        check(files, Some(&bases.oracle));
    }
}

#[test]
#[should_panic(expected = "never written under")]
fn a_wrong_value_is_noticed() {
    let bases = bases();
    let forgetful = Oracle {
        states: bases.oracle.states.clone(),
        ..Oracle::default()
    };
    check(&bases.images[0], Some(&forgetful));
}

#[test]
#[should_panic(expected = "never a state")]
fn a_lost_write_is_noticed() {
    let bases = bases();
    let mut states = bases.oracle.states.clone();
    states.retain(|state| !state.contains_key(&b"b"[..]));
    check(
        &bases.images[0],
        Some(&Oracle {
            states,
            values: bases.oracle.values.clone(),
        }),
    );
}
