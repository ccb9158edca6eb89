//! Disks that promise less, and the list of everything that few pending writes may leave.

use super::*;

/// All images that harsh disks may leave now, of one grain and one kind of loss.
fn harsh(fs: &SimFs, grain: Grain, lost: Lost) -> Vec<Vec<u8>> {
    let image = |seed| fs.image(fs.log_len(), Survive::Harsh { seed, grain, lost });
    let file = |seed| image(seed).read("f").expect("its name is durable");
    let mut all: Vec<_> = SEEDS.map(file).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn single_bytes_survive_where_the_disk_promises_nothing_and_only_those_that_changed() {
    let (fs, file) = durable("a");
    file.write_at(0, b"xyz").unwrap();
    let heads: BTreeSet<Vec<u8>> = harsh(&fs, Grain::Byte, Lost::Old)
        .iter()
        .map(|f| {
            assert_eq!(f[3..], [b'a'; 509]);
            f[..3].to_vec()
        })
        .collect();
    let all = ["aaa", "aaz", "aya", "ayz", "xaa", "xaz", "xya", "xyz"];
    let all = all.iter().map(|head| head.as_bytes().to_vec()).collect();
    assert_eq!(heads, all);
}

#[test]
fn a_page_survives_as_it_was_at_one_moment() {
    let (fs, file) = durable("aaaaaaaaa");
    file.write_at(0, &sectors("bb")).unwrap();
    file.write_at(512, &sectors("c")).unwrap();
    file.write_at(4096, &sectors("d")).unwrap();
    file.write_at(0, &sectors("e")).unwrap();
    let seen = harsh(&fs, Grain::Page, Lost::Old);
    let seen: BTreeSet<String> = seen.iter().map(|f| letters(f)).collect();
    let all = ["aaaaaaaaa", "bbaaaaaaa", "bcaaaaaaa", "ecaaaaaaa"];
    let all = all.iter().flat_map(|page| {
        let other = format!("{}d", &page[..8]);
        [(*page).to_owned(), other]
    });
    assert_eq!(seen, all.collect());
}

#[test]
fn what_was_being_written_may_be_garbage_and_nothing_else() {
    let (fs, file) = durable("ab");
    file.write_at(100, b"new").unwrap();
    // The same bytes again: no risk.
    file.write_at(512, &sectors("b")).unwrap();
    let seen = harsh(&fs, Grain::Sector, Lost::Garbage);
    let mut garbage = 0;
    for f in &seen {
        assert_eq!((&f[..100], &f[512..]), (&[b'a'; 100][..], &[b'b'; 512][..]));
        assert_eq!(f[103..512], [b'a'; 409]);
        garbage += usize::from(&f[100..103] != b"new" && &f[100..103] != b"aaa");
    }
    assert!(garbage > 20, "{garbage} of {}", seen.len());
    file.sync_data().unwrap();
    assert_eq!(harsh(&fs, Grain::Sector, Lost::Garbage).len(), 1, "synced");
}

#[test]
fn a_file_that_grew_may_show_what_other_files_have_or_had_in_the_same_place() {
    let fs = SimFs::new();
    fs.put("f", &sectors("a"));
    fs.put("gone", &sectors("xyz"));
    fs.set_older(vec![Content::new(sectors("tuv"))]);
    fs.unlink("gone").unwrap();
    let file = fs.open("f", Access::ReadWrite).unwrap();
    file.write_at(1024, &sectors("c")).unwrap();
    let seen = harsh(&fs, Grain::Sector, Lost::Stale);
    let seen: BTreeSet<String> = seen.iter().map(|f| letters(f)).collect();
    let all = ["a", "a.", "ay", "au"];
    let longer = [
        "a..", "a.c", "ayc", "auc", "ayz", "auv", "ayv", "auz", "a.z", "a.v",
    ];
    let longer = longer.iter().chain(&["ay.", "au."]);
    assert_eq!(
        seen,
        all.iter().chain(longer).map(|f| (*f).to_owned()).collect()
    );

    // A sector that was synced comes back as it was.
    file.sync_data().unwrap();
    file.write_at(512, &sectors("bd")).unwrap();
    let seen = harsh(&fs, Grain::Sector, Lost::Stale);
    let seen: BTreeSet<String> = seen.iter().map(|f| letters(f)).collect();
    assert_eq!(
        seen,
        set(&["a.c", "ayc", "auc", "abc", "a.d", "ayd", "aud", "abd"])
    );
}

/// Recovery writes back what it found, zeros inside values too.
#[test]
fn zeros_that_were_synced_and_are_written_again_stay_zeros() {
    let fs = SimFs::new();
    fs.put("f", &sectors("a.b"));
    fs.put("other", &sectors("xyz"));
    let file = fs.open("f", Access::ReadWrite).unwrap();
    file.write_at(0, &sectors("a.b")).unwrap();
    let seen = harsh(&fs, Grain::Sector, Lost::Stale);
    let seen: Vec<String> = seen.iter().map(|f| letters(f)).collect();
    assert_eq!(seen, ["a.b"]);
}

#[test]
fn where_there_are_few_images_all_of_them_have_a_number() {
    let (fs, file) = durable("ab");
    file.write_at(0, &sectors("c")).unwrap();
    file.write_at(0, &sectors("d")).unwrap();
    file.write_at(512, &sectors("ef")).unwrap();
    fs.unlink("f").unwrap();
    let mut replay = fs.replay();
    replay.advance_to(fs.log_len());
    // One name, three versions of a sector, two of two others, two lengths.
    let count = 2 * 3 * 2 * 2 * 2;
    assert_eq!(replay.choices(count), Some(count));
    assert_eq!(replay.choices(count - 1), None);
    let image = |number| replay.clone().image(Survive::Choice { number });
    let all: BTreeSet<String> = (0..count)
        .map(|number| {
            image(number)
                .read("f")
                .map_or("-".to_owned(), |f| letters(&f))
        })
        .collect();
    let mut expected = set(&["-"]);
    for first in ["a", "c", "d"] {
        for rest in ["b", "e", "b.", "e.", "bf", "ef"] {
            expected.insert(format!("{first}{rest}"));
        }
    }
    assert_eq!(all, expected);
}

#[test]
fn what_is_done_during_a_sync_is_not_covered_by_it() {
    let (fs, file) = durable("a");
    file.write_at(0, &sectors("b")).unwrap();
    let late = fs.open("f", Access::ReadWrite).unwrap();
    fs.during_sync(1, move || late.write_at(0, &sectors("d")).unwrap());
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["b"]), "the one after this");
    file.write_at(0, &sectors("c")).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["c", "d"]));
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["d"]), "once");
    let early = fs.open("f", Access::ReadWrite).unwrap();
    fs.before_sync(0, move || early.write_at(0, &sectors("e")).unwrap());
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs), set(&["e"]), "before it began");
}
