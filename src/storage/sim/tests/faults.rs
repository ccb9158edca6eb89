//! Calls that fail on purpose.

use super::*;

#[test]
fn every_fallible_call_is_counted_and_can_be_failed() {
    type Run = fn(&SimFs, &SimFile) -> std::io::Result<()>;
    let all: [(Call, Run); 16] = [
        (Call::List, |fs, _| fs.list().map(drop)),
        (Call::Create, |fs, _| fs.create("new").map(drop)),
        (Call::CreateOrTruncate, |fs, _| {
            fs.create_or_truncate("f").map(drop)
        }),
        (Call::Open, |fs, _| fs.open("f", Access::Read).map(drop)),
        (Call::Rename, |fs, _| fs.rename("f", "g")),
        (Call::Unlink, |fs, _| fs.unlink("f")),
        (Call::SyncDir, |fs, _| fs.sync_dir()),
        (Call::Len, |_, f| f.len().map(drop)),
        (Call::Allocated, |_, f| f.allocated().map(drop)),
        (Call::Allocate, |_, f| f.allocate(9000)),
        (Call::SetLen, |_, f| f.set_len(1)),
        (Call::ReadAt, |_, f| f.read_at(0, &mut [0]).map(drop)),
        (Call::WriteAt, |_, f| f.write_at(0, b"new")),
        (Call::SyncData, |_, f| f.sync_data()),
        (Call::Map, |_, f| f.map(512, Access::ReadWrite).map(drop)),
        (Call::Store, |fs, f| {
            let before = fs.snapshot();
            let (_, mut writer) = crate::storage::raw::mmap::Map::new(
                // A map of the file, made without a call.
                f.memory(),
                512,
                Access::ReadWrite,
            )?;
            let stored = f.store(&mut writer, 0, &[b"n", b"ew"]);
            assert_eq!(stored.is_ok(), fs.snapshot() != before);
            stored
        }),
    ];
    for (call, run) in all {
        let (fs, file) = durable("a");
        let before = fs.snapshot();
        fs.fail_at(0, Fault::once(Errno::NOSPC));
        let error = run(&fs, &file).expect_err("planned");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{call:?}");
        assert_eq!((fs.calls(), fs.fired()), (1, 1), "{call:?}");
        assert_eq!(fs.snapshot(), before, "{call:?}: nothing was done");
        run(&fs, &file).unwrap_or_else(|error| panic!("{call:?}: once is over: {error}"));
        assert_eq!((fs.calls(), fs.fired()), (2, 1), "{call:?}");

        let (fs, file) = durable("a");
        fs.fail_call(call, 0, Fault::forever(Errno::IO));
        for times in 1..4 {
            run(&fs, &file).expect_err("for ever");
            assert_eq!(fs.fired(), times, "{call:?}");
        }
    }
}

/// Ten calls; which of them failed.
fn failed(fs: &SimFs) -> Vec<usize> {
    let failed = |n: &usize| match n % 2 {
        0 => fs.list().is_err(),
        _ => fs.sync_dir().is_err(),
    };
    (0..10).filter(failed).collect()
}

#[test]
fn the_kth_call_from_now_fails_once_or_for_ever() {
    let fs = SimFs::new();
    assert_eq!(failed(&fs), []);
    assert_eq!(fs.calls(), 10);
    for k in 0..10 {
        fs.fail_at(k as u64, Fault::once(Errno::INTR));
        assert_eq!(failed(&fs), [k]);
        fs.fail_at(k as u64, Fault::forever(Errno::INTR));
        assert_eq!(failed(&fs), Vec::from_iter(k..10));
        assert_eq!((fs.calls(), fs.fired()), (10, 10 - k as u64));
    }
    fs.fail_at(10, Fault::forever(Errno::IO));
    assert_eq!(failed(&fs), []);
    fs.fail_call(Call::SyncDir, 1, Fault::once(Errno::IO));
    assert_eq!(failed(&fs), [3], "only one kind of call is counted");
    fs.clear_faults();
    assert_eq!(failed(&fs), []);
}

#[test]
fn a_failing_write_applies_what_the_plan_says() {
    for (effect, left) in [
        (Effect::None, "aa"),
        (Effect::Half, "ba"),
        (Effect::Whole, "bb"),
    ] {
        let fault = Fault::once(Errno::NOSPC).after(effect);
        let (fs, file) = durable("aa");
        fs.fail_at(0, fault);
        file.write_at(0, &sectors("bb")).unwrap_err();
        assert_eq!(letters(&fs.read("f")), left);

        let (fs, file) = durable("aa");
        let (_, mut writer) = file.map(1024, Access::ReadWrite).unwrap();
        fs.fail_at(0, fault);
        let parts: [&[u8]; 2] = [&sectors("b"), &sectors("b")];
        file.store(&mut writer, 0, &parts).unwrap_err();
        assert_eq!(letters(&fs.read("f")), left);
        let everything = fs.image(fs.log_len(), Survive::Everything);
        assert_eq!(everything, fs.snapshot(), "{effect:?}: as recorded");
    }
}

#[test]
fn a_failing_call_may_have_done_its_work() {
    let (fs, file) = durable("a");
    fs.fail_at(0, Fault::forever(Errno::IO).after(Effect::Whole));
    fs.create("new").unwrap_err();
    fs.rename("f", "g").unwrap_err();
    file.set_len(100).unwrap_err();
    assert_eq!(fs.names(), ["g", "new"]);
    assert_eq!(fs.read("g").len(), 100);
    file.sync_data().unwrap_err();
    fs.sync_dir().unwrap_err();
    let image = |survive| fs.image(fs.log_len(), survive);
    assert_eq!(image(Survive::Everything), fs.snapshot());
    let synced = image(Survive::SyncedOnly);
    assert_eq!(synced.names(), ["f"], "a failing sync never did its work");
    assert_eq!(synced.get("f").unwrap().len(), 512);
}

#[test]
fn a_crash_stops_everything_and_records_nothing() {
    let (fs, file) = durable("a");
    fs.crash_at(2);
    file.write_at(0, &sectors("b")).unwrap();
    file.sync_data().unwrap();
    file.write_at(0, &sectors("c")).unwrap_err();
    fs.unlink("f").unwrap_err();
    file.read_at(0, &mut [0]).unwrap_err();
    assert_eq!((fs.calls(), fs.fired(), fs.log_len()), (5, 3, 2));
    assert_eq!(outcomes(&fs), set(&["b"]));
    fs.clear_faults();
    file.write_at(0, &sectors("c")).unwrap();
    assert_eq!(letters(&fs.read("f")), "c");
}

#[test]
fn what_the_real_file_system_refuses_is_refused_here() {
    let (fs, _) = durable("a");
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    use std::io::ErrorKind::{AlreadyExists, NotFound, PermissionDenied};
    assert_eq!(kind(fs.create("f").map(drop)), AlreadyExists);
    assert_eq!(kind(fs.open("g", Access::Read).map(drop)), NotFound);
    assert_eq!(kind(fs.rename("g", "f")), NotFound);
    assert_eq!(kind(fs.unlink("g")), NotFound);
    let reader = fs.open("f", Access::Read).unwrap();
    reader.write_at(0, b"x").unwrap_err();
    reader.set_len(0).unwrap_err();
    reader.allocate(4096).unwrap_err();
    let mapped = reader.map(512, Access::ReadWrite).map(drop);
    assert_eq!(kind(mapped), PermissionDenied);
    reader.map(512, Access::Read).unwrap();
    assert_eq!(fs.log_len(), 0, "refused calls change nothing");
}

#[test]
#[should_panic(expected = "store at 512..1024 of a file 512 bytes long")]
fn a_store_behind_the_end_of_the_file_is_a_bug_of_the_caller() {
    let (_, file) = durable("a");
    let (_, mut writer) = file.map(4096, Access::ReadWrite).unwrap();
    let _ = file.store(&mut writer, 512, &[&sectors("b")]);
}
