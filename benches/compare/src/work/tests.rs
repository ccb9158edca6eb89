//! Every engine that is here does every kind of work, small; and what checks would notice.

use std::path::Path;

use super::*;
use crate::data::Shape;
use crate::engines::{KNOWN, Known};
use crate::rows::{Scale, Size, scenarios};

const SHAPE: Shape = Shape {
    keys: 1200,
    key_len: 16,
    value_len: 100,
};

fn job(engine: &str, dir: &Path, work: Work) -> Job {
    Job {
        engine: engine.to_owned(),
        work,
        shape: SHAPE,
        dir: dir.to_owned(),
        seed: 3,
        seconds: 2.0,
        cache: 64 << 20,
        warm: 0,
        members: None,
    }
}

fn present() -> impl Iterator<Item = &'static Known> {
    KNOWN.iter().filter(|known| engines::here(known.name))
}

#[test]
fn what_an_engine_stored_is_there_when_it_is_opened_again() {
    for known in present().filter(|known| known.can.files && known.can.reads) {
        for (work, stored) in [
            (
                Work::Fill {
                    batch: 1,
                    each: false,
                },
                Stored::Shuffled,
            ),
            (
                Work::Fill {
                    batch: 1000,
                    each: false,
                },
                Stored::Shuffled,
            ),
            (Work::Overwrite, Stored::Overwritten),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let outcome = run(&job(known.name, dir.path(), work)).unwrap();
            let done = outcome.get("done").unwrap() as u64;
            // Without optimisation some are so slow that they are cut.
            assert!(done > 0, "{}: {outcome:?}", known.name);
            assert!(outcome.get("disk_factor").unwrap() > 0.5, "{}", known.name);
            let work = Work::Verify { stored, done };
            let verified = run(&job(known.name, dir.path(), work)).unwrap();
            assert!(verified.get("verified").unwrap() > 0.0, "{}", known.name);
        }
    }
}

#[test]
fn gets_find_what_was_loaded_and_nothing_else() {
    for known in present().filter(|known| known.can.reads) {
        let dir = tempfile::tempdir().unwrap();
        if known.can.files {
            run(&job(known.name, dir.path(), Work::Load)).unwrap();
        }
        for (threads, missing) in [(1, false), (2, false), (1, true)] {
            let work = Work::Get { threads, missing };
            let outcome = run(&job(known.name, dir.path(), work)).unwrap();
            let expected = (SHAPE.keys * threads as u64) as f64;
            assert_eq!(outcome.get("done"), Some(expected), "{}", known.name);
            assert_eq!(outcome.get("samples"), Some(expected), "{}", known.name);
        }
    }
}

#[test]
fn durable_puts_are_all_stored_whoever_made_them() {
    for known in present().filter(|known| known.can.durable && known.can.reads) {
        let dir = tempfile::tempdir().unwrap();
        let of = |work| {
            let mut job = job(known.name, dir.path(), work);
            job.shape.keys = 60;
            run(&job).unwrap()
        };
        let done = of(Work::Durable { threads: 8 }).get("done").unwrap();
        assert!(done > 0.0 && done <= 60.0, "{}: {done}", known.name);
        of(Work::Verify {
            stored: Stored::Counted,
            done: done as u64,
        });
    }
}

/// A reader that fails as the process that it stands for would.
fn fails(job: Job) -> bool {
    std::panic::catch_unwind(|| run(&job)).is_err()
}

#[test]
fn a_value_that_is_missing_or_old_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let fill = Work::Fill {
        batch: 1,
        each: false,
    };
    let mut part = job("kvs", dir.path(), fill);
    // No time: cut at the 64th look at the clock, or before.
    part.seconds = 0.0;
    run(&part).unwrap();
    let verify = |stored, done| job("kvs", dir.path(), Work::Verify { stored, done });
    assert!(fails(verify(Stored::Shuffled, SHAPE.keys)));
    let dir = tempfile::tempdir().unwrap();
    run(&job("kvs", dir.path(), Work::Load)).unwrap();
    let verify = |stored, done| job("kvs", dir.path(), Work::Verify { stored, done });
    assert!(!fails(verify(Stored::Shuffled, SHAPE.keys)));
    // Loaded, never overwritten: its values are of another version.
    assert!(fails(verify(Stored::Overwritten, SHAPE.keys)));
}

#[test]
fn gets_of_values_that_were_overwritten_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    run(&job("kvs", dir.path(), Work::Overwrite)).unwrap();
    let get = Work::Get {
        threads: 1,
        missing: false,
    };
    assert!(fails(job("kvs", dir.path(), get)));
}

#[test]
fn threads_are_timed_from_the_first_beginning_to_the_last_end() {
    let (slept, cost) = together(&[30u64, 60], |ms| {
        std::thread::sleep(Duration::from_millis(*ms));
        *ms
    });
    assert_eq!(slept, [30, 60]);
    assert!((0.06..5.0).contains(&cost.seconds), "{cost:?}");
}

#[test]
fn lines_are_thinned_to_their_highest_points() {
    let samples: Vec<[f64; 2]> = (0..1000)
        .map(|n| [f64::from(n), f64::from(n % 7)])
        .collect();
    let thin = thinned(&samples);
    assert_eq!(thin.len(), 250);
    assert_eq!(thin[0], [0.0, 3.0]);
    assert_eq!(thin[1], [4.0, 6.0]);
    assert_eq!(thinned(&samples[..10]), samples[..10]);
}

#[test]
fn every_kind_of_work_of_every_row_runs_with_a_map() {
    // What needs files is not for it; those rows are run by `run --test`.
    let map = engines::known("map").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut ran = 0;
    for scenario in scenarios(&Scale::new(Size::Test, None)) {
        for stage in &scenario.stages {
            if scenario.fits(map) && scenario.stage_fits(map, stage) {
                let mut job = job("map", dir.path(), stage.work.clone());
                job.seconds = 0.05;
                let outcome = run(&job).unwrap();
                assert!(outcome.get("ops_per_s").unwrap() > 0.0, "{stage:?}");
                ran += 1;
            }
        }
    }
    assert!(ran > 20, "{ran}");
}
