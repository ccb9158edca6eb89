//! Names after a power cut.

use super::*;

/// What each of the possible directories consists of: `name=letters`.
fn directories(fs: &SimFs) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for image in images(fs) {
        let file =
            |(name, content): (&str, &Content)| format!("{name}={}", letters(&content.to_vec()));
        all.insert(image.iter().map(file).collect::<Vec<_>>().join(" "));
    }
    all
}

fn create(fs: &SimFs, name: &str, letters: &str) {
    let file = fs.create(name).unwrap();
    file.write_at(0, &sectors(letters)).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn a_created_file_may_be_gone_though_it_was_synced() {
    let fs = SimFs::new();
    create(&fs, "f", "a");
    assert_eq!(outcomes(&fs), set(&["-", "a"]));
    fs.sync_dir().unwrap();
    assert_eq!(outcomes(&fs), set(&["a"]));
}

#[test]
fn a_synced_name_may_lack_its_bytes() {
    let fs = SimFs::new();
    let file = fs.create("f").unwrap();
    file.write_at(0, &sectors("a")).unwrap();
    fs.sync_dir().unwrap();
    assert_eq!(outcomes(&fs), set(&["", ".", "a"]));
}

#[test]
fn a_rename_leaves_the_old_files_or_the_new_and_is_never_half() {
    let fs = SimFs::new();
    fs.put("new", &sectors("n"));
    fs.put("old", &sectors("o"));
    fs.rename("new", "old").unwrap();
    assert_eq!(directories(&fs), set(&["new=n old=o", "old=n"]));
    fs.sync_dir().unwrap();
    assert_eq!(directories(&fs), set(&["old=n"]));
}

#[test]
fn a_rename_may_survive_before_the_bytes_of_its_file() {
    let fs = SimFs::new();
    fs.put("old", &sectors("o"));
    let file = fs.create("new").unwrap();
    file.write_at(0, &sectors("n")).unwrap();
    fs.rename("new", "old").unwrap();
    let seen = directories(&fs);
    // Nothing; the creation; the rename with, and without, its bytes.
    let some = ["old=o", "new=n old=o", "old=n", "old="];
    assert!(seen.is_superset(&set(&some)), "{seen:?}");
}

#[test]
fn of_unlinked_files_any_may_come_back_with_their_bytes() {
    let fs = SimFs::new();
    for name in ["a", "b", "c"] {
        fs.put(name, &sectors(name));
    }
    for name in ["a", "b", "c"] {
        fs.unlink(name).unwrap();
    }
    assert!(fs.names().is_empty());
    let all = [
        "",
        "a=a",
        "b=b",
        "c=c",
        "a=a b=b",
        "a=a c=c",
        "b=b c=c",
        "a=a b=b c=c",
    ];
    assert_eq!(directories(&fs), set(&all));
    fs.sync_dir().unwrap();
    assert_eq!(directories(&fs), set(&[""]));
}

#[test]
fn mixes_dice_names_too() {
    let fs = SimFs::new();
    for name in ["a", "b", "c", "d"] {
        fs.create(name).unwrap();
    }
    let mut replay = fs.replay();
    replay.advance_to(4);
    let mixes = SEEDS.map(|seed| replay.image(Survive::Mix { seed }).names());
    assert_eq!(mixes.collect::<BTreeSet<_>>().len(), 16, "every subset");
}

#[test]
fn changes_of_one_name_keep_their_order() {
    let fs = SimFs::new();
    create(&fs, "f", "a");
    fs.unlink("f").unwrap();
    create(&fs, "f", "b");
    assert_eq!(outcomes(&fs), set(&["-", "a", "b"]));
    let mut replay = fs.replay();
    replay.advance_to(fs.log_len());
    let contents = Contents::Synced;
    for mask in 4..8 {
        let f = replay.image(Survive::Names { mask, contents }).read("f");
        assert_eq!(letters(&f.unwrap()), "b", "mask {mask:#b}: the last wins");
    }
    fs.sync_dir().unwrap();
    assert_eq!(outcomes(&fs), set(&["b"]));
}

#[test]
fn names_behind_a_failed_sync_of_the_directory_stay_in_doubt() {
    let fs = SimFs::new();
    create(&fs, "f", "a");
    fs.fail_at(0, Fault::once(Errno::IO));
    fs.sync_dir().unwrap_err();
    create(&fs, "g", "b");
    fs.sync_dir().unwrap();
    assert_eq!(directories(&fs), set(&["g=b", "f=a g=b"]));
    assert_eq!(fs.pending_names(fs.log_len()), 1);
    // Done again, and synced, it is certain, and the old doubt cannot undo it.
    fs.unlink("f").unwrap();
    fs.sync_dir().unwrap();
    assert_eq!(directories(&fs), set(&["g=b"]));
}

#[test]
fn few_pending_names_are_tried_in_every_subset_and_many_in_64() {
    let fs = SimFs::new();
    let names = "abcdefghijklmnopqrstuvwxyz";
    for (count, name) in names.chars().enumerate() {
        fs.create(&name.to_string()).unwrap();
        let mut replay = fs.replay();
        replay.advance_to(count + 1);
        assert_eq!(replay.pending_names(), count + 1);
        let contents = Contents::Synced;
        let masks = replay.name_masks();
        let subsets: BTreeSet<Vec<String>> = masks
            .iter()
            .map(|&mask| replay.image(Survive::Names { mask, contents }).names())
            .collect();
        assert_eq!(masks.len(), NAME_SUBSETS.min(1 << (count + 1)));
        assert_eq!(replay.name_masks(), masks, "the same masks every time");
        match count < NAMES_EXHAUSTIVE_MAX {
            true => assert_eq!(subsets.len(), masks.len()),
            false => {
                assert!(subsets.contains(&vec![]), "none of {count}");
                assert!(subsets.contains(&fs.names()), "all of {count}");
                assert!(subsets.len() > 40, "{} of {count}", subsets.len());
            }
        }
    }
}
