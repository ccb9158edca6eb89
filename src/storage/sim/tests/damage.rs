//! Looking at files, damaging them, images, and the record.

use super::*;

#[test]
fn damage_is_seen_by_readers_and_by_maps_and_is_durable() {
    let (fs, file) = durable("ab");
    let (map, mut writer) = file.map(1024, Access::ReadWrite).unwrap();
    writer.publish(1024);
    file.write_at(0, &sectors("c")).unwrap();
    fs.edit("f", |bytes| bytes[600] = 7);
    assert_eq!(map.slice(600, 1).unwrap(), [7]);
    assert_eq!(fs.log_len(), 0, "the record starts anew");
    assert_eq!(images(&fs), [fs.snapshot()]);
    fs.edit("f", |bytes| bytes.truncate(512));
    assert_eq!(letters(&fs.read("f")), "c");
    fs.edit("f", |bytes| bytes.extend_from_slice(&sectors("d......e")));
    assert_eq!(letters(&fs.read("f")), "cd......e");
    fs.edit("f", |bytes| bytes[512..].fill(0));
    assert_eq!(letters(&fs.read("f")), "c........");
    assert_eq!(images(&fs), [fs.snapshot()]);
}

#[test]
fn files_are_put_copied_and_removed_by_hand() {
    let (fs, file) = durable("a");
    fs.copy("f", "g");
    fs.put("f", &sectors("b"));
    let mut byte = [0];
    file.read_exact_at(0, &mut byte).unwrap();
    assert_eq!(byte, *b"a", "an open handle keeps the file it had");
    assert!(fs.remove("g"));
    assert!(!fs.remove("g"));
    fs.put("h", b"");
    assert_eq!(fs.names(), ["f", "h"]);
    assert_eq!(outcomes(&fs), set(&["b"]));
    assert_eq!(images(&fs), [fs.snapshot()]);
    fs.unlink("h").unwrap();
    fs.put("h", b"again");
    assert_eq!(images(&fs), [fs.snapshot()]);
    // A file without a name goes on, unrecorded.
    file.write_at(0, b"x").unwrap();
    assert_eq!(images(&fs), [fs.snapshot()]);
}

#[test]
fn an_image_becomes_a_directory_with_nothing_pending() {
    let (fs, file) = durable("a");
    file.allocate(1 << 20).unwrap();
    file.write_at(5000, b"b").unwrap();
    file.write_at(500_000, b"behind a hole").unwrap();
    fs.create("g").unwrap();
    for image in images(&fs) {
        let next = SimFs::from_image(&image);
        assert_eq!(next.snapshot(), image);
        assert_eq!(images(&next), [image]);
    }
    // Files made in the next life have numbers of their own.
    let next = SimFs::from_image(&fs.snapshot());
    let new = next.create("new").unwrap();
    new.write_at(0, &sectors("c")).unwrap();
    assert_eq!(fs.read("f"), next.read("f"));
    assert_eq!(
        next.image(2, Survive::Everything).read("f"),
        Some(fs.read("f"))
    );
}

#[test]
fn images_are_equal_if_names_lengths_and_bytes_are() {
    let image = |name: &str, bytes: &[u8], len| {
        let mut image = Image::new();
        image.put(name, Content::with_len(bytes.to_vec(), len));
        image
    };
    let one = image("f", b"ab", 10_000);
    let mut padded = b"ab".to_vec();
    padded.resize(10_000, 0);
    let same = image("f", &padded, 10_000);
    assert_eq!((&one, one.digest()), (&same, same.digest()));
    assert_eq!(same.read("f").unwrap(), padded);
    for other in [
        image("g", b"ab", 10_000),
        image("f", b"ab", 10_001),
        image("f", b"ac", 10_000),
        Image::new(),
    ] {
        assert_ne!(one, other);
        assert_ne!(one.digest(), other.digest());
    }
    assert_eq!(Content::with_len(b"abc".to_vec(), 2).to_vec(), b"ab");
    let mut edited = one.clone();
    edited.edit("f", |bytes| bytes[9_999] = 1);
    assert_eq!(edited.get("f").unwrap().bytes().len(), 10_000);
    assert!(edited.remove("f").is_some() && edited.is_empty());
}

#[test]
fn the_record_reads_line_by_line() {
    let fs = SimFs::new();
    fs.put("old", b"");
    let file = fs.create("new").unwrap();
    file.allocate(4096).unwrap();
    file.write_at(64, b"12345").unwrap();
    fs.fail_at(1, Fault::once(Errno::IO));
    file.sync_data().unwrap();
    fs.sync_dir().unwrap_err();
    fs.rename("new", "old").unwrap();
    file.set_len(69).unwrap();
    fs.fail_at(0, Fault::once(Errno::IO).after(Effect::Half));
    file.write_at(0, b"123456").unwrap_err();
    fs.create_or_truncate("old").unwrap();
    fs.unlink("old").unwrap();
    let expected = [
        "   0 create new #1",
        "   1 allocate new #1 4096",
        "   2 write new #1 64+5",
        "   3 sync_data new #1",
        "   4 sync_dir FAILED",
        "   5 rename new -> old",
        "   6 set_len old #1 69",
        "   7 write old #1 0+3 FAILED, but applied",
        "   8 truncate old #1",
        "   9 unlink old",
    ];
    assert_eq!(fs.log_lines(), expected);
    assert_eq!(fs.log().len(), fs.log_len());
}

#[test]
fn nothing_is_recorded_while_recording_is_off() {
    let (fs, file) = durable("a");
    fs.set_recording(false);
    file.write_at(0, &sectors("b")).unwrap();
    fs.create("g").unwrap();
    assert_eq!(fs.log_len(), 0);
    fs.set_recording(true);
    assert_eq!(images(&fs), [fs.snapshot()], "starts from what is there");
    file.write_at(0, &sectors("c")).unwrap();
    assert_eq!(outcomes(&fs), set(&["b", "c"]));
}

#[test]
fn a_crash_says_how_to_make_its_image_again() {
    let (mask, contents) = (5, Contents::Latest);
    let (seed, number) = (3, 9);
    let mut all = vec![
        (Survive::SyncedOnly, "17/synced".to_owned()),
        (Survive::Everything, "17/everything".to_owned()),
        (Survive::Mix { seed }, "17/mix:3".to_owned()),
        (Survive::Choice { number }, "17/choice:9".to_owned()),
        (
            Survive::Names { mask, contents },
            "17/names:latest:0x5".to_owned(),
        ),
    ];
    for grain in Grain::ALL {
        for lost in Lost::ALL {
            let survive = Survive::Harsh { seed, grain, lost };
            all.push((survive, format!("17/{grain}:{lost}:3")));
        }
    }
    for (survive, text) in all {
        let crash = Crash { cut: 17, survive };
        assert_eq!(crash.to_string(), text);
        assert_eq!(text.parse(), Ok(crash));
    }
    for wrong in ["", "17", "x/synced", "1/mix", "1/mix:x", "1/bit:old:1"] {
        assert!(wrong.parse::<Crash>().is_err(), "{wrong:?}");
    }
}

#[test]
fn the_dice_are_the_published_splitmix64() {
    // The first outputs for seed 1234567 of the reference program (Vigna, splitmix64.c).
    let mut rng = rng::Rng::new(0, 0);
    rng.set_state(1_234_567);
    assert_eq!(
        [rng.next(), rng.next()],
        [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
    );
}
