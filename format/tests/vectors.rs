//! Golden files: what this crate reads in `vectors/` is what `reader.py`, written from `SPEC.md`
//! alone, printed of them. The lines are compared byte for byte; `reader.py` describes them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use kvs_format::FORMAT_VERSION;
use kvs_format::hash::HashKey;
use kvs_format::hint::{HintEntry, HintRef, hash_check};
use kvs_format::kvx::{self, Decoder, Encoder};
use kvs_format::manifest::{Edit, EditRef, Edits, MergedBody, Tail};
use kvs_format::name;
use kvs_format::record::{Framing, Kind, RecordRef};
use kvs_format::scan::{Scanner, Step};
use kvs_format::segment::{SegmentHeader, SegmentKind};
use kvs_format::system::{BatchHead, Footer, Link, Mark};
use zerocopy::byteorder::little_endian::U64;

fn vector(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn lines(path: &str) -> Vec<String> {
    let text = String::from_utf8(vector(path)).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// One JSON object; keys come out sorted.
struct Line(BTreeMap<&'static str, String>);

impl Line {
    fn new(file: &str, type_: &str) -> Self {
        Self(BTreeMap::new()).text("file", file).text("type", type_)
    }

    /// A number, or anything that is JSON already.
    fn put(mut self, name: &'static str, value: impl Display) -> Self {
        self.0.insert(name, value.to_string());
        self
    }

    fn text(self, name: &'static str, value: impl Display) -> Self {
        self.put(name, format!("\"{value}\""))
    }

    fn bytes(self, name: &'static str, value: &[u8]) -> Self {
        self.text(name, hex(value))
    }

    fn ids(self, name: &'static str, ids: &[U64]) -> Self {
        let ids: Vec<String> = ids.iter().map(|id| id.get().to_string()).collect();
        self.put(name, format!("[{}]", ids.join(",")))
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields: Vec<String> = self.0.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        write!(f, "{{{}}}", fields.join(","))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kind_name(kind: u8) -> &'static str {
    match Kind::from_byte(kind).unwrap() {
        Kind::Set => "set",
        Kind::SetExpiring => "set_expiring",
        Kind::Tombstone => "tombstone",
        Kind::BatchHead => "batch_head",
        Kind::Mark => "mark",
        Kind::Link => "link",
        Kind::Footer => "footer",
    }
}

fn merged_object(merged: &MergedBody) -> String {
    let line = Line(BTreeMap::new())
        .put("id", merged.id)
        .bytes("salt", &merged.salt)
        .put("length", merged.length)
        .put("min_lsn", merged.min_lsn)
        .put("max_lsn", merged.max_lsn)
        .put("records", merged.records);
    line.to_string()
}

fn edit_line(edit: &EditRef<'_>) -> Line {
    let line = Line::new("MANIFEST", "edit")
        .put("offset", edit.offset)
        .put("size", edit.size)
        .put("seq", edit.seq);
    match edit.edit {
        Edit::Store(body) => line
            .text("kind", "store")
            .bytes("hash_key", &body.hash_key)
            .put("next_id", body.next_id)
            .put("next_lsn", body.next_lsn)
            .put("shard_bits", body.shard_bits),
        Edit::Add(body) => line
            .text("kind", "add")
            .put("id", body.id)
            .bytes("salt", &body.salt)
            .put("allocated", body.allocated),
        Edit::Seal(body) => line
            .text("kind", "seal")
            .put("id", body.id)
            .put("length", body.length)
            .put("end_lsn", body.end_lsn)
            .put("min_lsn", body.min_lsn)
            .put("max_lsn", body.max_lsn)
            .put("records", body.records),
        Edit::Compact { outputs, inputs } => {
            let outputs: Vec<String> = outputs.iter().map(merged_object).collect();
            line.text("kind", "compact")
                .put("outputs", format!("[{}]", outputs.join(",")))
                .ids("inputs", inputs)
        }
        Edit::Forget { ids } => line.text("kind", "forget").ids("ids", ids),
        Edit::Opened(body) => line
            .text("kind", "opened")
            .put("id", body.id)
            .put("allocated", body.allocated),
        Edit::Clean(body) => line
            .text("kind", "clean")
            .put("id", body.id)
            .put("length", body.length)
            .put("lsn", body.lsn),
        Edit::Cut { cut, dropped } => line
            .text("kind", "cut")
            .put("id", cut.id)
            .put("end", cut.end)
            .put("end_lsn", cut.end_lsn)
            .put("next_lsn", cut.next_lsn)
            .put("min_lsn", cut.min_lsn)
            .put("max_lsn", cut.max_lsn)
            .put("records", cut.records)
            .ids("dropped", dropped),
        Edit::Poison(body) => line
            .text("kind", "poison")
            .put("durable_lsn", body.durable_lsn),
    }
}

fn manifest_lines(bytes: &[u8]) -> Vec<String> {
    let (header, mut edits) = Edits::new(bytes).unwrap();
    let head = Line::new("MANIFEST", "manifest_header")
        .put("version", FORMAT_VERSION)
        .bytes("store_id", &header.store_id)
        .bytes("salt", &header.salt);
    let mut out = vec![head.to_string()];
    out.extend(edits.by_ref().map(|edit| edit_line(&edit).to_string()));
    let Tail::Clean { end } = edits.tail() else {
        panic!("{:?}", edits.tail());
    };
    let tail = Line::new("MANIFEST", "manifest_tail").put("end", end);
    out.push(tail.text("verdict", "clean").to_string());
    out
}

fn record_line(file: &str, record: &RecordRef<'_>) -> Line {
    let framing = match record.header.framing {
        Framing::Single => "alone",
        Framing::InBatch => "in_batch",
        Framing::BatchEnd => "batch_end",
    };
    let expires_at = record
        .expires_at
        .map_or("null".to_owned(), |at| at.to_string());
    let line = Line::new(file, "record")
        .put("offset", record.offset)
        .put("size", record.header.size())
        .put("lsn", record.header.lsn)
        .text("framing", framing)
        .text("kind", kind_name(record.header.kind as u8))
        .bytes("key", record.key)
        .bytes("value", record.value)
        .put("expires_at", expires_at)
        .text("content", format!("{:08x}", record.header.content))
        .text("place", format!("{:08x}", record.header.place));
    match record.header.kind {
        Kind::Set | Kind::SetExpiring | Kind::Tombstone => line,
        Kind::BatchHead => {
            let head = BatchHead::of(record).unwrap();
            line.put("count", head.count).put("bytes", head.bytes)
        }
        Kind::Mark => {
            let mark = Mark::of(record).unwrap();
            line.put("durable_lsn", mark.durable_lsn)
                .bytes("salt", &mark.salt)
        }
        Kind::Link => {
            let link = Link::of(record).unwrap();
            line.put("previous_id", link.previous_id)
                .put("previous_end", link.previous_end)
                .put("previous_lsn", link.previous_lsn)
        }
        Kind::Footer => {
            let footer = Footer::of(record).unwrap();
            line.put("records", footer.records)
                .put("min_lsn", footer.min_lsn)
                .put("max_lsn", footer.max_lsn)
                .put("payload_bytes", footer.payload_bytes)
        }
    }
}

/// Lines of a segment whose records reach to the end of its file.
fn segment_lines(bytes: &[u8], state: &str) -> Vec<String> {
    let header = SegmentHeader::decode(bytes).unwrap();
    let file = name::segment(header.id).to_string();
    let kind = match header.kind {
        SegmentKind::Log => "log",
        SegmentKind::Merged => "merged",
    };
    let head = Line::new(&file, "segment_header")
        .put("version", FORMAT_VERSION)
        .put("id", header.id)
        .text("kind", kind)
        .bytes("salt", &header.salt)
        .text("state", state)
        .put("limit", bytes.len());
    let mut out = vec![head.to_string()];
    let mut scanner = Scanner::new(&header, bytes.len() as u64, 0);
    loop {
        match scanner.step(&bytes[scanner.offset() as usize..]) {
            Step::Record(record) => out.push(record_line(&file, &record).to_string()),
            Step::NeedMore(bytes) => panic!("{file} needs {bytes} bytes"),
            Step::Stop(stop) => {
                assert_eq!(stop.reason, None, "{file}");
                let next_lsn = match header.kind {
                    SegmentKind::Log => stop.next_lsn.to_string(),
                    SegmentKind::Merged => "null".to_owned(),
                };
                let line = Line::new(&file, "segment_stop")
                    .put("offset", stop.offset)
                    .put("next_lsn", next_lsn)
                    .put("clean", stop.offset == bytes.len() as u64);
                out.push(line.to_string());
                return out;
            }
        }
    }
}

fn entry_line(file: &str, index: usize, entry: &HintEntry) -> String {
    let line = Line::new(file, "hint_entry")
        .put("index", index)
        .bytes("fp", &entry.fingerprint().to_bytes())
        .put("lsn", entry.lsn())
        .put("offset", entry.offset())
        .put("size", entry.size())
        .text("kind", kind_name(entry.kind_byte()));
    line.to_string()
}

fn hint_lines(bytes: &[u8]) -> Vec<String> {
    let hint = HintRef::decode(bytes).unwrap();
    let header = hint.header;
    let file = name::hint(header.segment_id).to_string();
    let head = Line::new(&file, "hint_header")
        .put("version", FORMAT_VERSION)
        .put("shard_bits", header.shard_bits)
        .put("segment_id", header.segment_id)
        .bytes("salt", &header.salt)
        .put("covered", header.covered)
        .put("end_lsn", header.end_lsn)
        .put("last_offset", header.last_offset)
        .text("last_place", format!("{:08x}", header.last_place))
        .put("count", header.count)
        .put("hash_check", header.hash_check)
        .put("min_lsn", header.min_lsn)
        .put("max_lsn", header.max_lsn);
    let mut out = vec![head.to_string()];
    let entries = hint.entries.iter().enumerate();
    out.extend(entries.map(|(index, entry)| entry_line(&file, index, entry)));
    let buckets = hint.expiry.bytes.map(|bytes| bytes.to_string()).join(",");
    let trailer = Line::new(&file, "hint_trailer")
        .put("first_ms", hint.expiry.first_ms)
        .put("bucket_ms", hint.expiry.bucket_ms)
        .put("bytes", format!("[{buckets}]"));
    out.push(trailer.to_string());
    out
}

/// Every entry's fingerprint is that of the key in the record it points to, and none is missing.
fn assert_hint_is_of(hint: &[u8], segment: &[u8]) {
    let key = HashKey::from_bytes(&std::array::from_fn(|i| i as u8));
    let hint = HintRef::decode(hint).unwrap();
    assert_eq!(hint.header.hash_check, hash_check(&key));
    let header = SegmentHeader::decode(segment).unwrap();
    assert_eq!(
        (hint.header.segment_id, hint.header.salt),
        (header.id, header.salt)
    );
    let mut scanner = Scanner::new(&header, hint.header.covered, 0);
    let mut data = 0;
    let mut last = None;
    while let Step::Record(record) = scanner.step(&segment[scanner.offset() as usize..]) {
        last = Some((record.offset, record.header.lsn, record.header.place));
        if record.header.kind.is_data() {
            data += 1;
            let entries = hint.entries_of(key.fingerprint(record.key));
            let of_record = |entry: &&HintEntry| entry.offset() == record.offset;
            let entry = entries.iter().find(of_record).unwrap();
            assert_eq!(entry.lsn(), record.header.lsn);
            assert_eq!(entry.size(), record.header.size());
            assert_eq!(entry.kind_byte(), record.header.kind as u8);
        }
    }
    assert_eq!(data, hint.entries.len());
    let bound_to = (
        hint.header.last_offset,
        hint.header.end_lsn,
        hint.header.last_place,
    );
    assert_eq!(last, Some(bound_to));
}

#[test]
fn the_log_segment_reads_as_the_other_reader_reads_it() {
    let bytes = vector("segment-log.seg");
    assert_eq!(segment_lines(&bytes, "sealed"), lines("segment-log.ndjson"));
}

#[test]
fn the_merged_segment_reads_as_the_other_reader_reads_it() {
    let bytes = vector("segment-merged.seg");
    assert_eq!(
        segment_lines(&bytes, "merged"),
        lines("segment-merged.ndjson")
    );
}

#[test]
fn the_manifest_reads_as_the_other_reader_reads_it() {
    let bytes = vector("manifest.bin");
    assert_eq!(manifest_lines(&bytes), lines("manifest.ndjson"));
    let kinds: Vec<u8> = Edits::new(&bytes)
        .unwrap()
        .1
        .map(|edit| edit.edit.kind())
        .collect();
    assert!(
        (1..=9).all(|kind| kinds.contains(&kind)),
        "every kind of edit: {kinds:?}"
    );
}

#[test]
fn the_hint_reads_as_the_other_reader_reads_it_and_belongs_to_its_segment() {
    let bytes = vector("hint.bin");
    assert_eq!(hint_lines(&bytes), lines("hint.ndjson"));
    assert_hint_is_of(&bytes, &vector("segment-log.seg"));
}

#[test]
fn the_store_reads_as_the_other_reader_reads_it() {
    let mut all = manifest_lines(&vector("store-v1/MANIFEST"));
    for (id, state) in [(1, "sealed"), (3, "merged"), (4, "clean")] {
        let bytes = vector(&format!("store-v1/{}", name::segment(id)));
        all.extend(segment_lines(&bytes, state));
    }
    let hint = vector(&format!("store-v1/{}", name::hint(1)));
    all.extend(hint_lines(&hint));
    assert_eq!(all, lines("store-v1.ndjson"));
    assert_hint_is_of(&hint, &vector(&format!("store-v1/{}", name::segment(1))));
}

fn export_lines(bytes: &[u8]) -> Vec<String> {
    let file = "export.kvx";
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    let hex_at = |at: u64, from: usize| {
        let at = at as usize + from;
        format!(
            "{:08x}",
            u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
        )
    };
    loop {
        let at = decoder.offset();
        let line = match decoder.step(&bytes[at as usize..]).unwrap() {
            kvx::Step::NeedMore(need) => {
                assert_eq!((need, at), (0, bytes.len() as u64));
                let stop = Line::new(file, "kvx_stop")
                    .put("offset", at)
                    .put("whole", true);
                out.push(stop.to_string());
                return out;
            }
            kvx::Step::Header { .. } => Line::new(file, "kvx_header").put("version", kvx::VERSION),
            kvx::Step::Pair { pair, used } => Line::new(file, "kvx_pair")
                .put("offset", at)
                .put("size", used)
                .put("index", out.len() - 1)
                .bytes("key", pair.key)
                .bytes("value", pair.value)
                .put(
                    "expires_at",
                    pair.expires_at.map_or("null".into(), |at| at.to_string()),
                )
                .text("head", hex_at(at, 0))
                .text("body", hex_at(at, 4)),
            kvx::Step::End { count, .. } => Line::new(file, "kvx_end")
                .put("offset", at)
                .put("count", count)
                .put("bytes", at)
                .text("whole", hex_at(at, kvx::FRAME_BYTES + 16)),
        };
        out.push(line.to_string());
    }
}

#[test]
fn the_export_reads_as_the_other_reader_reads_it() {
    assert_eq!(export_lines(&vector("export.kvx")), lines("export.ndjson"));
}

#[test]
fn the_export_is_what_the_encoder_writes_of_its_pairs() {
    let every: Vec<u8> = (0..=255).collect();
    let pairs: [(&[u8], &[u8], Option<u64>); 4] = [
        (b"apple", b"red", None),
        (b"", b"", None),
        (b"melon", b"green", Some(1_700_000_000_000)),
        (&every, b"\xff\0\n", None),
    ];
    let mut encoder = Encoder::new();
    let mut bytes = Encoder::header().to_vec();
    for (key, value, expires_at) in pairs {
        bytes.extend_from_slice(&encoder.pair(key, value, expires_at).unwrap());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    assert_eq!(encoder.count(), 4);
    bytes.extend_from_slice(&encoder.end());
    assert_eq!(bytes, vector("export.kvx"));
}

#[test]
fn the_log_segment_says_what_was_put_into_it() {
    // Not through the dump: a mistake in both readers would not be seen there.
    let bytes = vector("segment-log.seg");
    assert_eq!(&bytes[..8], b"kvs-seg\0");
    assert_eq!(
        &bytes[8..24],
        [1, 0, 1, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(&bytes[24..40], [0xA1; 16]);
    // The record behind the LINK: LSN 2, framing 0, kind 1, lengths 5 and 3.
    let apple = &bytes[4144..4176];
    assert_eq!(
        &apple[8..24],
        [2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 0, 3, 0, 0, 0]
    );
    assert_eq!(&apple[24..], b"applered");
    // The expiring one, behind a record without key and value.
    let melon = &bytes[4200..4248];
    assert_eq!(&melon[16..24], [0, 2, 5, 0, 5, 0, 0, 0]);
    assert_eq!(&melon[24..32], 1_700_000_000_000u64.to_le_bytes());
    assert_eq!(&melon[32..42], b"melongreen");
    assert_eq!(bytes.len(), 4496);
}
