//! Which files of a damaged store belong to it, and how far each of them counts.
//!
//! The manifest is believed as far as it is whole: every edit has a check of its own, so behind a
//! damaged one the later ones still say what they can. A segment file is known by the id and the salt
//! in its header, whatever it is called; if its header is lost, by its name and the salt in the
//! manifest. Without a manifest every file with a valid segment header counts.

use std::collections::BTreeMap;
use std::io;

use kvs_format::manifest::{Edit, Edits, HEADER_BYTES, Tail, decode_edit};
use kvs_format::name::{self, Name};
use kvs_format::record::{Kind, decode};
use kvs_format::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, PAGE_BYTES};
use kvs_format::segment::{SegmentHeader, SegmentKind};
use kvs_format::system::{FOOTER_RECORD_BYTES, LINK_RECORD_BYTES, Link};

use crate::engine::catalog::{Catalog, End, ID_MAX, SegmentMeta};
use crate::engine::error::{Error, Result};
use crate::engine::repair::window::Window;
use crate::engine::report::{Damage, Lost};
use crate::storage::fs::{Access, Fs, FsFile};

/// Longest manifest that is read at all.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// A segment to be read.
pub struct Item<F: Fs> {
    /// Name of its file, which may be that of another one.
    pub name: String,
    pub file: F::File,
    pub header: SegmentHeader,
    /// How it ends, if anything says so.
    pub end: Option<End>,
    /// Up to here it was whole once.
    pub whole: u64,
    /// LSN of the last record below `whole`.
    pub whole_lsn: Option<u64>,
    /// Records are looked for up to here, which the file has.
    pub limit: u64,
    /// The file once had this many bytes at least.
    pub allocated: u64,
    /// Bytes it has.
    pub len: u64,
    /// LSN of its first record, if the one before it says so.
    pub first_lsn: Option<u64>,
    link: Option<Link>,
}

/// What there is.
pub struct Inventory<F: Fs> {
    pub items: Vec<Item<F>>,
    /// Highest LSN the manifest states to be durable.
    pub durable_lsn: u64,
    /// What is wrong without anything being lost.
    pub damage: Vec<Damage>,
    pub lost: Vec<Lost>,
}

/// What the manifest says, as far as it is whole.
struct Read {
    catalog: Option<Catalog>,
    /// All of it is there.
    whole: bool,
    /// But for an edit at its end, of which a part is there.
    torn: bool,
}

/// A segment file as it is found.
struct Found<F: Fs> {
    /// The id in its name.
    id: u64,
    file: F::File,
    len: u64,
    header: Option<SegmentHeader>,
}

/// Looks at everything in `fs`.
///
/// # Errors
/// [`Error::Missing`] if nothing in the directory belongs to a store, [`Error::Io`] if it cannot be
/// listed.
pub fn inventory<F: Fs>(fs: &F) -> Result<Inventory<F>> {
    let names = fs.list().map_err(|source| Error::Io {
        op: "list the directory",
        path: fs.path().to_path_buf(),
        source,
    })?;
    let mut names: Vec<Name> = names.iter().filter_map(|n| name::parse(n)).collect();
    names.sort_by_key(|name| match name {
        Name::Segment(id) => *id,
        _ => 0,
    });
    let ids = names.iter().filter_map(|name| match name {
        Name::Segment(id) if *id <= ID_MAX => Some(*id),
        _ => None,
    });
    let ids: Vec<u64> = ids.collect();
    let has_manifest = names.contains(&Name::Manifest);
    if !has_manifest && ids.is_empty() {
        return Err(Error::Missing {
            path: fs.path_of(name::MANIFEST),
        });
    }
    let mut all = Inventory {
        items: Vec::new(),
        durable_lsn: 0,
        damage: Vec::new(),
        lost: Vec::new(),
    };
    let read = all.manifest(fs, has_manifest);
    all.durable_lsn = read.catalog.as_ref().map_or(0, |c| c.durable_lsn);
    let mut files = Vec::new();
    for id in ids {
        all.look(fs, id, &mut files);
    }
    all.assign(fs, &read, files);
    all.chain();
    Ok(all)
}

/// Whether the last record of the file is a FOOTER: the segment was finished.
fn has_footer<F: Fs>(found: &Found<F>, header: &SegmentHeader) -> bool {
    let Some(offset) = found.len.checked_sub(FOOTER_RECORD_BYTES) else {
        return false;
    };
    let mut bytes = [0u8; FOOTER_RECORD_BYTES as usize];
    let read = found.file.read_exact_at(offset, &mut bytes);
    let record = read.map(|()| decode(&header.place_key(), offset, &bytes));
    matches!(record, Ok(Ok(Some(record))) if record.header.kind == Kind::Footer)
}

/// What it means that edits are missing.
const UNKNOWN: &str = "which segments had been removed is not known: what they held may be back";

impl<F: Fs> Inventory<F> {
    fn damaged(&mut self, fs: &F, name: &str, offset: u64, reason: impl Into<String>) {
        self.damage.push(Damage {
            file: fs.path_of(name),
            offset,
            reason: reason.into(),
        });
    }

    fn lost(&mut self, fs: &F, name: &str, range: (u64, u64), records: Option<u64>, why: &str) {
        self.lost.push(Lost {
            file: fs.path_of(name),
            offset: range.0,
            bytes: range.1.saturating_sub(range.0),
            lsns: None,
            records,
            reason: why.to_owned(),
        });
    }

    fn manifest(&mut self, fs: &F, exists: bool) -> Read {
        let mut read = Read {
            catalog: None,
            whole: false,
            torn: false,
        };
        if !exists {
            let why = format!("the file is missing; {UNKNOWN}");
            self.lost(fs, name::MANIFEST, (0, 0), None, &why);
            return read;
        }
        let bytes = fs.open(name::MANIFEST, Access::Read).and_then(|file| {
            let len = file.len()?;
            if len > MANIFEST_BYTES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(Window::new(&file, len).whole())
        });
        let (bytes, unreadable) = match bytes {
            Ok(read) => read,
            Err(error) => {
                let why = format!("{error}; {UNKNOWN}");
                self.lost(fs, name::MANIFEST, (0, 0), None, &why);
                return read;
            }
        };
        let len = bytes.len() as u64;
        let (header, mut edits) = match Edits::new(&bytes) {
            Ok(opened) => opened,
            Err(reason) => {
                let why = format!("{reason}; {UNKNOWN}");
                self.lost(fs, name::MANIFEST, (0, len), None, &why);
                return read;
            }
        };
        let mut end = HEADER_BYTES as u64;
        for edit in edits.by_ref() {
            match (&mut read.catalog, edit.edit) {
                (None, Edit::Store(store)) => read.catalog = Some(Catalog::new(store)),
                (Some(catalog), edit) => apply(catalog, &edit),
                (None, _) => {}
            }
            end = edit.offset + edit.size;
        }
        // What cannot be read reads as zeros, which is how the end looks.
        let unreadable = unreadable.first().map(|(_, _, error)| error.to_string());
        let reason = match edits.tail() {
            Tail::Damaged { reason, .. } => Some(reason.to_string()),
            _ if unreadable.is_some() => unreadable,
            _ if read.catalog.is_none() => Some("it does not say which store this is".to_owned()),
            _ => None,
        };
        read.whole = reason.is_none();
        if let Tail::Torn { .. } = edits.tail() {
            // Of a life that was cut off here, and without effect; or damaged since.
            read.torn = true;
            self.damaged(fs, name::MANIFEST, end, "the last edit is not whole");
        }
        let Some(reason) = reason else {
            return read;
        };
        // What whole edits there are behind the damage.
        let key = header.place_key();
        let from = end;
        let mut first_whole = len;
        while end < len {
            match decode_edit(&key, end, &bytes[end as usize..]) {
                Ok(edit) => {
                    first_whole = first_whole.min(end);
                    match (&mut read.catalog, edit.edit) {
                        (None, Edit::Store(store)) => read.catalog = Some(Catalog::new(store)),
                        (Some(catalog), edit) => apply(catalog, &edit),
                        (None, _) => {}
                    }
                    end += edit.size;
                }
                Err(_) => end += 8,
            }
        }
        let why = format!("{reason}; {UNKNOWN}");
        self.lost(fs, name::MANIFEST, (from, first_whole), None, &why);
        read
    }

    fn look(&mut self, fs: &F, id: u64, files: &mut Vec<Found<F>>) {
        let name = name::segment(id);
        let opened = fs
            .open(&name, Access::Read)
            .and_then(|file| Ok((file.len()?, file)));
        let (len, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.lost(fs, &name, (0, 0), None, &error.to_string());
                return;
            }
        };
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        let header = file.read_exact_at(0, &mut bytes);
        let header = header
            .ok()
            .and_then(|()| SegmentHeader::decode(&bytes).ok());
        files.push(Found {
            id,
            file,
            len,
            header,
        });
    }

    /// Which file is which segment.
    fn assign(&mut self, fs: &F, read: &Read, files: Vec<Found<F>>) {
        let live = read.catalog.as_ref().map(|catalog| &catalog.live);
        let known = |header: &SegmentHeader| {
            let meta = live?.get(&header.id)?;
            (meta.salt == header.salt && meta.kind == header.kind).then_some(*meta)
        };
        let mut taken: BTreeMap<u64, ()> = BTreeMap::new();
        let (mut rest, mut nameless) = (Vec::new(), Vec::new());
        for found in files {
            let name = name::segment(found.id).to_string();
            match found.header {
                Some(header) => match known(&header) {
                    Some(meta) if taken.insert(header.id, ()).is_none() => {
                        if header.id != found.id {
                            let what = format!("it is segment {:016x}", header.id);
                            self.damaged(fs, &name, 0, what);
                        }
                        self.add(name, found.file, found.len, header, Some(meta), read);
                    }
                    Some(_) => self.damaged(fs, &name, 0, "a second copy of a segment"),
                    None => rest.push(found),
                },
                None => nameless.push(found),
            }
        }
        // Files without a header, by name.
        for found in nameless {
            let name = name::segment(found.id).to_string();
            let meta = live.and_then(|live| live.get(&found.id)).copied();
            match meta.filter(|_| !taken.contains_key(&found.id)) {
                Some(meta) => {
                    taken.insert(meta.id, ());
                    self.damaged(
                        fs,
                        &name,
                        0,
                        "its header is damaged; the manifest has its salt",
                    );
                    let header = SegmentHeader {
                        kind: meta.kind,
                        id: meta.id,
                        salt: meta.salt,
                    };
                    self.add(name, found.file, found.len, header, Some(meta), read);
                }
                // Of a whole manifest: never used, or removed.
                None if read.whole => {}
                None => {
                    let why = "its header is damaged, and nothing else has its salt";
                    self.lost(fs, &name, (0, found.len), None, why);
                }
            }
        }
        let catalog = read.catalog.as_ref();
        // A log segment is used only when the manifest knows it.
        let used = |found: &Found<F>| {
            let (Some(header), Some(catalog)) = (found.header, catalog) else {
                return false;
            };
            header.id > catalog.newest_log && self.link_of(found, &header).is_some()
        };
        let whole = read.whole && !rest.iter().any(used);
        if read.whole && !whole {
            let why =
                format!("it does not know a segment that was used: its end is lost; {UNKNOWN}");
            self.lost(fs, name::MANIFEST, (0, 0), None, &why);
        }
        for found in rest {
            let Some(header) = found.header else { continue };
            let name = name::segment(found.id).to_string();
            let merged = header.kind == SegmentKind::Merged;
            let removed = catalog.is_some_and(|c| {
                c.retired.contains(&header.id)
                    || (whole && header.id <= c.newest_log && !(read.torn && merged))
                    || c.live.contains_key(&header.id)
            });
            // A compaction's output without its edit, a segment not yet used; or the edit is lost. An
            // output that is whole may be one of the edit that is not.
            let written = self.link_of(&found, &header).is_some();
            let listed = read.torn && merged && has_footer(&found, &header);
            let counts =
                !removed && !taken.contains_key(&header.id) && (!whole || written || listed);
            if counts {
                taken.insert(header.id, ());
                self.add(name, found.file, found.len, header, None, read);
            } else if live.is_some_and(|live| live.contains_key(&header.id)) {
                self.damaged(fs, &name, 0, "a segment of another store");
            }
        }
        for meta in live.into_iter().flat_map(BTreeMap::values) {
            if taken.contains_key(&meta.id) {
                continue;
            }
            let name = name::segment(meta.id).to_string();
            let length = meta.end.map_or(meta.allocated, |end| end.length);
            let records = meta.end.map(|end| end.records);
            self.lost(fs, &name, (0, length), records, "the file is missing");
        }
        self.items.sort_by_key(|item| item.header.id);
    }

    fn link_of(&self, found: &Found<F>, header: &SegmentHeader) -> Option<(Link, u64)> {
        link(&found.file, header)
    }

    fn add(
        &mut self,
        name: String,
        file: F::File,
        len: u64,
        header: SegmentHeader,
        meta: Option<SegmentMeta>,
        read: &Read,
    ) {
        let end = meta.and_then(|meta| meta.end);
        let clean = read.catalog.as_ref().and_then(|c| c.clean);
        let clean = clean.filter(|clean| meta.is_some() && clean.id.get() == header.id);
        let (whole, whole_lsn) = match (end, clean) {
            (Some(end), _) => (end.length, Some(end.end_lsn)),
            (None, Some(clean)) => (clean.length.get(), Some(clean.lsn.get())),
            (None, None) => (0, None),
        };
        let limit = end.map_or(len, |end| end.length.min(len));
        self.items.push(Item {
            link: link(&file, &header).map(|(link, _)| link),
            name,
            file,
            header,
            end,
            whole,
            whole_lsn,
            limit,
            allocated: meta.filter(|_| end.is_none()).map_or(0, |m| m.allocated),
            len,
            first_lsn: None,
        });
    }

    /// What the LINK of a log segment says of the one before it.
    fn chain(&mut self) {
        let mut said: BTreeMap<u64, Link> = BTreeMap::new();
        for item in &self.items {
            if let Some(link) = item.link {
                said.insert(link.previous_id.get(), link);
            }
        }
        let mut next_lsn = None;
        for item in &mut self.items {
            if item.header.kind != SegmentKind::Log {
                continue;
            }
            item.first_lsn = next_lsn;
            if let (None, Some(link)) = (item.end, said.get(&item.header.id)) {
                let end = link.previous_end.get();
                if (PAGE_BYTES..=kvs_format::SEGMENT_BYTES_MAX).contains(&end) {
                    (item.whole, item.limit) = (end, end.min(item.len));
                    item.whole_lsn = Some(link.previous_lsn.get());
                }
            }
            next_lsn = match item.end {
                Some(end) => Some(end.cut.unwrap_or(end.end_lsn.saturating_add(1))),
                None => item.whole_lsn.map(|lsn| lsn.saturating_add(1)),
            };
        }
    }
}

/// The LINK that a log segment begins with, and its own LSN.
fn link<F: FsFile>(file: &F, header: &SegmentHeader) -> Option<(Link, u64)> {
    let mut bytes = [0u8; LINK_RECORD_BYTES as usize];
    file.read_exact_at(PAGE_BYTES, &mut bytes).ok()?;
    let record = decode(&header.place_key(), PAGE_BYTES, &bytes).ok()??;
    let is_link = header.kind == SegmentKind::Log && record.header.kind == Kind::Link;
    let link = Link::of(&record).ok().filter(|_| is_link)?;
    Some((link, record.header.lsn))
}

/// Applies an edit, or as much of it as makes sense when others are missing.
fn apply(catalog: &mut Catalog, edit: &Edit<'_>) {
    if catalog.apply(edit).is_ok() {
        return;
    }
    let gone = match *edit {
        Edit::Compact { outputs, inputs } => {
            // Each output without the inputs: that it was said at all counts.
            for output in outputs {
                let _ = catalog.apply(&Edit::Compact {
                    outputs: std::slice::from_ref(output),
                    inputs: &[],
                });
            }
            inputs
        }
        Edit::Forget { ids } => ids,
        Edit::Cut { dropped, .. } => dropped,
        _ => return,
    };
    for id in gone {
        catalog.live.remove(&id.get());
        catalog.retired.insert(id.get());
    }
}
