//! Bytes and lengths after a power cut.

use super::*;

#[test]
fn an_unsynced_write_is_lost_or_kept_or_mixed_sector_by_sector() {
    let (fs, file) = durable("aaa");
    file.write_at(0, &sectors("bcd")).unwrap();
    let all = ["aaa", "aad", "aca", "acd", "baa", "bad", "bca", "bcd"];
    assert_eq!(outcomes(&fs), set(&all));
    let now = fs.log_len();
    let f = |survive| letters(&fs.image(now, survive).read("f").unwrap());
    assert_eq!(f(Survive::SyncedOnly), "aaa");
    assert_eq!(f(Survive::Everything), "bcd");
}

#[test]
fn a_sector_written_twice_survives_in_any_version() {
    let (fs, file) = durable("ax");
    file.write_at(0, &sectors("b")).unwrap();
    file.write_at(0, &sectors("c")).unwrap();
    assert_eq!(outcomes(&fs), set(&["ax", "bx", "cx"]));
}

#[test]
fn a_write_inside_a_sector_keeps_its_neighbours_in_every_version() {
    let (fs, file) = durable("a");
    file.write_at(0, b"b").unwrap();
    file.write_at(2, b"c").unwrap();
    let heads: BTreeSet<Vec<u8>> = images(&fs)
        .iter()
        .map(|image| image.read("f").unwrap()[..3].to_vec())
        .collect();
    let all = [&b"aaa"[..], b"baa", b"bac"].map(<[u8]>::to_vec);
    assert_eq!(heads, BTreeSet::from(all));
}

#[test]
fn what_was_synced_is_never_lost() {
    let (fs, file) = durable("aa");
    file.write_at(0, &sectors("bbb")).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["bbb"]));
    assert!(!fs.image(1, Survive::SyncedOnly).is_empty());
    file.write_at(512, &sectors("c")).unwrap();
    assert_eq!(outcomes(&fs), set(&["bbb", "bcb"]), "behind the sync");
}

#[test]
fn a_sync_covers_writes_of_every_handle_and_stores_through_the_map() {
    let (fs, file) = durable("....");
    let other = fs.open("f", Access::ReadWrite).unwrap();
    let (map, mut writer) = other.map(2048, Access::ReadWrite).unwrap();
    let record = sectors("bc");
    let (head, tail) = record.split_at(100);
    other.store(&mut writer, 512, &[head, tail]).unwrap();
    let all = ["....", ".b..", "..c.", ".bc."];
    assert_eq!(outcomes(&fs), set(&all), "a store is like a write");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&[".bc."]));

    writer.publish(2048);
    assert_eq!(letters(map.slice(0, 2048).unwrap()), ".bc.");
    let mut read = vec![0; 2048];
    file.read_exact_at(0, &mut read).unwrap();
    assert_eq!(letters(&read), ".bc.", "the map and reads agree");
    file.write_at(0, &sectors("a")).unwrap();
    assert_eq!(letters(map.slice(0, 2048).unwrap()), "abc.");
}

#[test]
fn an_allocated_tail_is_there_wholly_partly_or_not_and_reads_as_zero() {
    let (fs, file) = durable("a");
    file.allocate(2048).unwrap();
    assert_eq!(file.len().unwrap(), 2048);
    assert_eq!(outcomes(&fs), set(&["a", "a.", "a..", "a..."]));
    file.write_at(1024, &sectors("b")).unwrap();
    assert!(outcomes(&fs).is_superset(&set(&["a", "a..", "a.b", "a.b.", "a..."])));
    file.allocate(512).unwrap();
    assert_eq!(file.len().unwrap(), 2048, "allocating never shortens");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["a.b."]));
}

#[test]
fn a_file_that_grows_has_any_length_and_holes_where_bytes_were_lost() {
    let (fs, file) = durable("");
    file.write_at(0, &sectors("ab")).unwrap();
    let all = ["", ".", "a", "..", "a.", ".b", "ab"];
    assert_eq!(outcomes(&fs), set(&all));
}

#[test]
fn a_truncated_file_comes_back_with_its_old_bytes() {
    let (fs, file) = durable("abc");
    file.set_len(512).unwrap();
    let seen = outcomes(&fs);
    assert!(seen.is_superset(&set(&["a", "ab", "abc"])), "{seen:?}");
    file.write_at(512, &sectors("d")).unwrap();
    let seen = outcomes(&fs);
    assert!(seen.is_superset(&set(&["abc", "ad", "adc"])), "{seen:?}");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["ad"]));
    file.allocate(1536).unwrap();
    assert_eq!(outcomes(&fs), set(&["ad", "ad."]), "cut off for good");
}

#[test]
fn bytes_cut_off_inside_a_sector_are_zero_when_the_file_grows_again() {
    let (fs, file) = durable("a");
    file.set_len(1).unwrap();
    file.set_len(3).unwrap();
    assert_eq!(fs.read("f"), b"a\0\0");
    file.sync_data().unwrap();
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    assert_eq!(image.read("f").unwrap(), b"a\0\0");
}

#[test]
fn zeros_written_over_the_end_of_a_short_file_are_as_durable_as_other_bytes() {
    let fs = SimFs::new();
    fs.put("f", b"abc");
    let file = fs.open("f", Access::ReadWrite).unwrap();
    file.write_at(0, &[0; 3]).unwrap();
    let heads: BTreeSet<Vec<u8>> = images(&fs).iter().filter_map(|i| i.read("f")).collect();
    assert_eq!(heads, BTreeSet::from([b"abc".to_vec(), vec![0; 3]]));
    file.sync_data().unwrap();
    assert_eq!(images(&fs), [fs.snapshot()]);
}

#[test]
fn emptying_a_file_while_opening_it_is_pending_too() {
    let (fs, file) = durable("ab");
    let emptied = fs.create_or_truncate("f").unwrap();
    assert_eq!(file.len().unwrap(), 0, "it is the same file");
    assert!(outcomes(&fs).is_superset(&set(&["", "ab"])));
    emptied.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&[""]));
}

#[test]
fn what_a_failed_sync_covered_never_becomes_durable_until_it_is_written_again() {
    let (fs, file) = durable("aa");
    file.write_at(0, &sectors("bb")).unwrap();
    fs.fail_at(0, Fault::once(Errno::IO));
    file.sync_data().unwrap_err();
    let all = set(&["aa", "ab", "ba", "bb"]);
    assert_eq!(outcomes(&fs), all);
    file.sync_data().unwrap();
    assert_eq!(letters(&fs.read("f")), "bb", "readers go on seeing it");
    assert_eq!(outcomes(&fs), all, "the later success covers nothing of it");
    file.write_at(0, &sectors("b")).unwrap();
    assert_eq!(outcomes(&fs), all, "written again, not synced");
    file.sync_data().unwrap();
    let rewritten = set(&["ba", "bb"]);
    assert_eq!(outcomes(&fs), rewritten, "only what was written again");
    file.write_at(0, &sectors("cc")).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["cc"]));
}

#[test]
fn a_length_behind_a_failed_sync_stays_in_doubt() {
    let (fs, file) = durable("a");
    file.allocate(2048).unwrap();
    fs.fail_at(0, Fault::once(Errno::IO));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    let seen = outcomes(&fs);
    assert!(seen.is_superset(&set(&["a", "a..."])), "{seen:?}");
    file.write_at(512, &sectors("b")).unwrap();
    file.sync_data().unwrap();
    let seen = outcomes(&fs);
    let readable = set(&["ab", "ab.", "ab.."]);
    assert_eq!(seen, readable, "as long as what was synced needs");
}

#[test]
fn a_killed_process_loses_nothing_and_makes_nothing_durable() {
    let (fs, file) = durable("a");
    file.write_at(0, &sectors("b")).unwrap();
    fs.crash_at(0);
    file.sync_data().unwrap_err();
    drop(file);
    fs.clear_faults();
    assert_eq!(letters(&fs.read("f")), "b");
    assert_eq!(outcomes(&fs), set(&["a", "b"]), "the next life can lose it");
    let file = fs.open("f", Access::ReadWrite).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["b"]));
}
