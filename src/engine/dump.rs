//! A store's files as NDJSON, by this engine's own decoders: what `format/reader.py`, written from
//! the specification alone, must print byte for byte. The schema stands at the head of that script.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use kvs_format::FORMAT_VERSION;
use kvs_format::hint::{HintEntry, HintRef};
use kvs_format::manifest::{Edit, Edits, MergedBody, Tail};
use kvs_format::name;
use kvs_format::record::{Framing, Kind, RecordRef};
use kvs_format::scan::Scanner;
use kvs_format::segment::SegmentKind;
use kvs_format::system::{BatchHead, Footer, Link, Mark};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::catalog::{Catalog, SegmentMeta, replay};
use crate::engine::scan::walk;
use crate::engine::segment::read_header;
use crate::storage::fs::{Access, Fs, FsFile};

/// One JSON object; keys come out sorted.
struct Object(BTreeMap<&'static str, String>);

impl Object {
    fn new(kind: &str, file: &str) -> Self {
        Self(BTreeMap::new()).text("type", kind).text("file", file)
    }

    fn raw(mut self, key: &'static str, value: String) -> Self {
        self.0.insert(key, value);
        self
    }

    fn num(self, key: &'static str, value: impl Into<u64>) -> Self {
        self.raw(key, value.into().to_string())
    }

    fn text(self, key: &'static str, value: &str) -> Self {
        self.raw(key, format!("\"{value}\""))
    }

    fn hex(self, key: &'static str, bytes: &[u8]) -> Self {
        let mut text = String::new();
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        self.text(key, &text)
    }

    fn ids(self, key: &'static str, ids: &[U64]) -> Self {
        let list: Vec<String> = ids.iter().map(|id| id.get().to_string()).collect();
        self.raw(key, format!("[{}]", list.join(",")))
    }

    fn json(&self) -> String {
        let fields: Vec<String> = self.0.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn read_all<F: Fs>(fs: &F, name: &str) -> io::Result<Vec<u8>> {
    let file = fs.open(name, Access::Read)?;
    let mut bytes = vec![0u8; file.len()? as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Dumps the store in `fs`, which must be one that opens.
///
/// # Errors
/// What reading or writing said; damaged manifests are [`io::ErrorKind::InvalidData`].
pub fn dump<F: Fs>(fs: &F, out: &mut impl Write) -> io::Result<()> {
    let bytes = read_all(fs, name::MANIFEST)?;
    let invalid = |what: &dyn std::fmt::Debug| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{what:?}"))
    };
    let (header, mut edits) = Edits::new(&bytes).map_err(|e| invalid(&e))?;
    let of = |kind: &str| Object::new(kind, name::MANIFEST);
    let mut put = |object: Object| writeln!(out, "{}", object.json());
    put(of("manifest_header")
        .num("version", FORMAT_VERSION)
        .hex("store_id", &header.store_id)
        .hex("salt", &header.salt))?;
    for edit in edits.by_ref() {
        let object = of("edit")
            .num("offset", edit.offset)
            .num("size", edit.size)
            .num("seq", edit.seq);
        put(edit_object(object, &edit.edit))?;
    }
    let (end, verdict) = match edits.tail() {
        Tail::Clean { end } => (end, "clean"),
        Tail::Torn { end } => (end, "torn"),
        Tail::Damaged { offset, .. } => (offset, "damaged"),
    };
    put(of("manifest_tail").num("end", end).text("verdict", verdict))?;
    let catalog = replay(&bytes).map_err(|e| invalid(&e))?.catalog;
    for meta in catalog.live.values() {
        dump_segment(fs, &catalog, meta, &mut put)?;
    }
    for id in catalog.live.keys() {
        let name = name::hint(*id).to_string();
        if let Ok(bytes) = read_all(fs, &name) {
            let hint = HintRef::decode(&bytes).map_err(|e| invalid(&e))?;
            dump_hint(&name, &hint, &mut put)?;
        }
    }
    Ok(())
}

fn edit_object(object: Object, edit: &Edit<'_>) -> Object {
    match edit {
        Edit::Store(b) => object
            .text("kind", "store")
            .hex("hash_key", &b.hash_key)
            .num("next_id", b.next_id)
            .num("next_lsn", b.next_lsn)
            .num("shard_bits", b.shard_bits),
        Edit::Add(b) => object
            .text("kind", "add")
            .num("id", b.id)
            .hex("salt", &b.salt)
            .num("allocated", b.allocated),
        Edit::Seal(b) => object
            .text("kind", "seal")
            .num("id", b.id)
            .num("length", b.length)
            .num("end_lsn", b.end_lsn)
            .num("min_lsn", b.min_lsn)
            .num("max_lsn", b.max_lsn)
            .num("records", b.records),
        Edit::Compact { outputs, inputs } => {
            let list: Vec<String> = outputs.iter().map(merged_json).collect();
            object
                .text("kind", "compact")
                .raw("outputs", format!("[{}]", list.join(",")))
                .ids("inputs", inputs)
        }
        Edit::Forget { ids } => object.text("kind", "forget").ids("ids", ids),
        Edit::Opened(b) => object
            .text("kind", "opened")
            .num("id", b.id)
            .num("allocated", b.allocated),
        Edit::Clean(b) => object
            .text("kind", "clean")
            .num("id", b.id)
            .num("length", b.length)
            .num("lsn", b.lsn),
        Edit::Cut { cut, dropped } => object
            .text("kind", "cut")
            .num("id", cut.id)
            .num("end", cut.end)
            .num("end_lsn", cut.end_lsn)
            .num("next_lsn", cut.next_lsn)
            .num("min_lsn", cut.min_lsn)
            .num("max_lsn", cut.max_lsn)
            .num("records", cut.records)
            .ids("dropped", dropped),
        Edit::Poison(b) => object
            .text("kind", "poison")
            .num("durable_lsn", b.durable_lsn),
    }
}

fn merged_json(body: &MergedBody) -> String {
    Object(BTreeMap::new())
        .num("id", body.id)
        .hex("salt", &body.salt)
        .num("length", body.length)
        .num("min_lsn", body.min_lsn)
        .num("max_lsn", body.max_lsn)
        .num("records", body.records)
        .json()
}

fn dump_segment<F: Fs>(
    fs: &F,
    catalog: &Catalog,
    meta: &SegmentMeta,
    put: &mut impl FnMut(Object) -> io::Result<()>,
) -> io::Result<()> {
    let name = name::segment(meta.id).to_string();
    let file = fs.open(&name, Access::Read)?;
    let file_len = file.len()?;
    let header = read_header(fs, &file, &name, meta.id)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{e:?}")))?;
    let clean = catalog.clean.filter(|clean| clean.id.get() == meta.id);
    let (state, limit, sealed) = match (meta.kind, meta.end, clean) {
        (SegmentKind::Merged, Some(end), _) => ("merged", end.length, true),
        (_, Some(end), _) if end.cut.is_some() => ("cut", end.length, true),
        (_, Some(end), _) => ("sealed", end.length, true),
        (_, None, Some(clean)) => ("clean", clean.length.get(), true),
        (_, None, None) => ("unsealed", file_len, false),
    };
    let kind = match header.kind {
        SegmentKind::Log => "log",
        SegmentKind::Merged => "merged",
    };
    put(Object::new("segment_header", &name)
        .num("version", FORMAT_VERSION)
        .num("id", header.id)
        .text("kind", kind)
        .hex("salt", &header.salt)
        .text("state", state)
        .num("limit", limit))?;
    let mut scanner = Scanner::new(&header, limit, 0);
    // A batch counts whole or not at all: its records are held back until the last has come.
    let mut held: Vec<Object> = Vec::new();
    let mut any = false;
    let stop = walk(&file, &mut scanner, |record| -> io::Result<()> {
        held.push(record_object(&name, record));
        if record.header.framing != Framing::InBatch {
            any = true;
            for object in held.drain(..) {
                put(object)?;
            }
        }
        Ok(())
    })?;
    let next_lsn = match header.kind == SegmentKind::Log && any {
        true => stop.next_lsn.to_string(),
        false => "null".to_owned(),
    };
    let whole = match sealed {
        true => stop.offset == limit,
        false => stop.reason.is_none(),
    };
    put(Object::new("segment_stop", &name)
        .num("offset", stop.offset)
        .raw("next_lsn", next_lsn)
        .raw("clean", whole.to_string()))
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Set => "set",
        Kind::SetExpiring => "set_expiring",
        Kind::Tombstone => "tombstone",
        Kind::BatchHead => "batch_head",
        Kind::Mark => "mark",
        Kind::Link => "link",
        Kind::Footer => "footer",
    }
}

fn record_object(name: &str, record: &RecordRef<'_>) -> Object {
    let header = &record.header;
    let expires_at = record
        .expires_at
        .map_or("null".to_owned(), |at| at.to_string());
    let framing = match header.framing {
        Framing::Single => "alone",
        Framing::InBatch => "in_batch",
        Framing::BatchEnd => "batch_end",
    };
    let object = Object::new("record", name)
        .num("offset", record.offset)
        .num("size", header.size())
        .num("lsn", header.lsn)
        .text("framing", framing)
        .text("kind", kind_name(header.kind))
        .hex("key", record.key)
        .hex("value", record.value)
        .raw("expires_at", expires_at)
        .text("content", &format!("{:08x}", header.content))
        .text("place", &format!("{:08x}", header.place));
    match header.kind {
        Kind::Set | Kind::SetExpiring | Kind::Tombstone => object,
        Kind::BatchHead => match BatchHead::of(record) {
            Ok(head) => object
                .num("count", head.count.get())
                .num("bytes", head.bytes),
            Err(_) => object,
        },
        Kind::Mark => match Mark::of(record) {
            Ok(mark) => object
                .num("durable_lsn", mark.durable_lsn)
                .hex("salt", &mark.salt),
            Err(_) => object,
        },
        Kind::Link => match Link::of(record) {
            Ok(link) => object
                .num("previous_id", link.previous_id)
                .num("previous_end", link.previous_end)
                .num("previous_lsn", link.previous_lsn),
            Err(_) => object,
        },
        Kind::Footer => match Footer::of(record) {
            Ok(footer) => object
                .num("records", footer.records)
                .num("min_lsn", footer.min_lsn)
                .num("max_lsn", footer.max_lsn)
                .num("payload_bytes", footer.payload_bytes),
            Err(_) => object,
        },
    }
}

fn dump_hint(
    name: &str,
    hint: &HintRef<'_>,
    put: &mut impl FnMut(Object) -> io::Result<()>,
) -> io::Result<()> {
    let h = &hint.header;
    put(Object::new("hint_header", name)
        .num("version", FORMAT_VERSION)
        .num("shard_bits", h.shard_bits)
        .num("segment_id", h.segment_id)
        .hex("salt", &h.salt)
        .num("covered", h.covered)
        .num("end_lsn", h.end_lsn)
        .num("last_offset", h.last_offset)
        .text("last_place", &format!("{:08x}", h.last_place))
        .num("count", h.count)
        .num("hash_check", h.hash_check)
        .num("min_lsn", h.min_lsn)
        .num("max_lsn", h.max_lsn))?;
    for (index, entry) in hint.entries.iter().enumerate() {
        put(entry_object(name, index as u64, entry))?;
    }
    let bytes: Vec<U64> = hint.expiry.bytes.iter().map(|b| U64::new(*b)).collect();
    put(Object::new("hint_trailer", name)
        .num("first_ms", hint.expiry.first_ms)
        .num("bucket_ms", hint.expiry.bucket_ms)
        .ids("bytes", &bytes))
}

fn entry_object(name: &str, index: u64, entry: &HintEntry) -> Object {
    let kind = Kind::from_byte(entry.kind_byte()).map_or("invalid", kind_name);
    Object::new("hint_entry", name)
        .num("index", index)
        .hex("fp", &entry.as_bytes()[..16])
        .num("lsn", entry.lsn())
        .num("offset", entry.offset())
        .num("size", entry.size())
        .text("kind", kind)
}
