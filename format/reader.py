#!/usr/bin/env python3
"""Reads a kvs store by SPEC.md alone: dumps it, or says what is wrong with it.

    python3 reader.py DIR             dump as NDJSON on stdout
    python3 reader.py --verify DIR    print problems only; exit status 1 if there are any
    python3 reader.py --kvx FILE      dump an export; exit status 1 if it is not whole

A second reader, sharing no code with the Rust one, so that a mistake must be made twice to go
unseen. It never writes. Python 3.8 or later, standard library only.

The dump
========

One JSON object per line: keys sorted, no spaces between tokens, ASCII only. Every object has
`type` and `file` (the file's name without a directory). Types of fields:

    u64, u32, ..   JSON number           hexN   N bytes as lower-case hexadecimal digits
    hex            bytes, any number     u32hex a number as eight hexadecimal digits
    T|null         T or null             [T]    array

Order: the manifest, then every live segment in the order of ids, then the hint file of every live
segment that has one, in the order of ids. No other file is read. Nothing follows a manifest that
is invalid or damaged.

type            other fields
--------------  -----------------------------------------------------------------------------------
manifest_header version u16, store_id hex16, salt hex16
manifest_invalid (none; instead of the header: missing, or its header is not valid)
edit            offset u64, size u64, seq u64, kind, and the fields of its kind:
                  "store"    hash_key hex16, next_id u64, next_lsn u64, shard_bits u8
                  "add"      id u64, salt hex16, allocated u64
                  "seal"     id, length, end_lsn, min_lsn, max_lsn, records: all u64
                  "compact"  outputs [{id u64, salt hex16, length u64, min_lsn u64, max_lsn u64,
                             records u64}], inputs [u64]
                  "forget"   ids [u64]
                  "opened"   id u64, allocated u64
                  "clean"    id u64, length u64, lsn u64
                  "cut"      id, end, end_lsn, next_lsn, min_lsn, max_lsn, records: all u64;
                             dropped [u64]
                  "poison"   durable_lsn u64
manifest_tail   end u64 (offset behind the last valid edit), verdict "clean" | "torn" | "damaged"

segment_header  version u16, id u64, kind "log" | "merged", salt hex16,
                state "sealed" | "cut" | "merged" | "clean" | "unsealed" (what the manifest says),
                limit u64 (records are read up to here: the length the manifest states, or the
                file's if that is shorter or the segment is "unsealed")
segment_invalid id u64 (instead of the header: missing, header not valid, or id, salt or kind are
                not those of the manifest; no records and no stop follow)
record          offset u64, size u64 (with padding), lsn u64, framing "alone" | "in_batch" |
                "batch_end", kind, key hex, value hex, expires_at u64|null, content u32hex,
                place u32hex; system records have their payload in value and also decoded:
                  "set", "set_expiring", "tombstone"    (nothing more)
                  "batch_head"  count u32, bytes u64
                  "mark"        durable_lsn u64, salt hex8
                  "link"        previous_id u64, previous_end u64, previous_lsn u64
                  "footer"      records u64, min_lsn u64, max_lsn u64, payload_bytes u64
segment_stop    offset u64 (behind the last record that counts; a batch counts whole or not at all,
                and no record of one that does not count is printed),
                next_lsn u64|null (LSN of a record there; null in a merged segment and if there is
                no record), clean bool ("unsealed": zeros or the file's end stand at offset;
                otherwise: offset is the length the manifest states)

hint_header     version u16, shard_bits u8, segment_id u64, salt hex16, covered u64, end_lsn u64,
                last_offset u64, last_place u32hex, count u64, hash_check u64, min_lsn u64,
                max_lsn u64
hint_invalid    (none; instead of all the others: length, check, header, or an entry that is out of
                order or range. Whether a valid one belongs to its segment is for --verify to say)
hint_entry      index u64 (from 0), fp hex16 (as in the file), lsn u64, offset u64, size u64,
                kind "set" | "set_expiring" | "tombstone"
hint_trailer    first_ms u64, bucket_ms u64, bytes [u64] (64 of them)

The LSN of the first record of a log segment is taken from its LINK; whether that LINK continues
the segment before is for --verify to say.

An export
=========

Lines of the same form. `kvx_stop` is the last line, whatever happened; a frame that is not valid is not
printed, and nothing behind it is read.

kvx_header      version u16
kvx_pair        offset u64, size u64, index u64, key hex, value hex, expires_at u64|null,
                body u32hex, head u32hex
kvx_end         offset u64, count u64, bytes u64, whole u32hex
kvx_stop        offset u64 (behind the last valid frame), whole bool (the end frame was there, and
                nothing behind it)

The problems
============

--verify prints lines of the same form, of type "problem": file, offset u64|null, grade, what (for a
person; do not parse it). Grades:

    corrupt      the store must not open: SPEC.md section 11, or its files contradict each other
    hint_unused  a hint that section 9 forbids to use; the store opens without it
    hint_wrong   a hint that would be used and says something else than its segment
    untidy       against SPEC.md, though no reader minds: padding or first page not zero

A torn tail that section 11 allows is no problem.
"""

import argparse
import functools
import json
import os
import struct
import sys
import zlib

PAGE = 4096
RECORD_HEADER = 24
U64_MAX = (1 << 64) - 1
VALUE_MAX = 4_294_836_224
CHUNK = 1 << 20

SET, SET_EXPIRING, TOMBSTONE, BATCH_HEAD, MARK, LINK, FOOTER = range(1, 8)
KINDS = {
    SET: "set",
    SET_EXPIRING: "set_expiring",
    TOMBSTONE: "tombstone",
    BATCH_HEAD: "batch_head",
    MARK: "mark",
    LINK: "link",
    FOOTER: "footer",
}
DATA = (SET, SET_EXPIRING, TOMBSTONE)
FRAMINGS = {0: "alone", 1: "in_batch", 2: "batch_end"}
# Value lengths of the kinds that have exactly one.
EXACT_VALUE = {TOMBSTONE: 0, BATCH_HEAD: 12, MARK: 16, LINK: 24, FOOTER: 32}


def aligned(length):
    return (length + 7) & ~7


def crc_of(*parts):
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def u64(number):
    return struct.pack("<Q", number)


# Fingerprint (SPEC.md section 10) -------------------------------------------------------------


def siphash_1_3_128(key, data):
    """The 16 output bytes of SipHash-1-3-128."""
    mask = U64_MAX
    k0, k1 = struct.unpack("<QQ", key)
    v0 = k0 ^ 0x736F6D6570736575
    v1 = k1 ^ 0x646F72616E646F6D ^ 0xEE
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573

    def rotl(x, b):
        return ((x << b) | (x >> (64 - b))) & mask

    def sip_round(v0, v1, v2, v3):
        v0 = (v0 + v1) & mask
        v1 = rotl(v1, 13) ^ v0
        v0 = rotl(v0, 32)
        v2 = (v2 + v3) & mask
        v3 = rotl(v3, 16) ^ v2
        v0 = (v0 + v3) & mask
        v3 = rotl(v3, 21) ^ v0
        v2 = (v2 + v1) & mask
        v1 = rotl(v1, 17) ^ v2
        v2 = rotl(v2, 32)
        return v0, v1, v2, v3

    whole = len(data) & ~7
    tail = data[whole:] + bytes(7 - (len(data) - whole)) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", data[:whole] + tail):
        v3 ^= word
        v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= 0xEE
    for _ in range(3):
        v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    low = v0 ^ v1 ^ v2 ^ v3
    v1 ^= 0xDD
    for _ in range(3):
        v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    return struct.pack("<QQ", low, v0 ^ v1 ^ v2 ^ v3)


INDEX_BITS = 0x0FFC007FFFFF0000


@functools.cache
def secrets(key):
    """The four secret words of a store."""
    return [int.from_bytes(siphash_1_3_128(key, u64(n))[:8], "little") for n in range(4)]


def index_hash(key, data):
    """The 33 bits by which a key is found."""
    s0, s1, s2, s3 = secrets(key)

    def fold(a, b):
        product = a * b
        return (product ^ (product >> 64)) & U64_MAX

    n = len(data)
    a = b = x = 0
    if n > 16:
        for i in range(0, n - 16, 16):
            first, second = struct.unpack_from("<QQ", data, i)
            x = fold(first ^ s2, second ^ s3 ^ x)
        a, b = struct.unpack_from("<QQ", data, n - 16)
    elif n >= 8:
        a, b = struct.unpack("<QQ", data[:8] + data[n - 8 :])
    elif n >= 4:
        a, b = struct.unpack("<II", data[:4] + data[n - 4 :])
    elif n > 0:
        a = data[0] | data[n // 2] << 8 | data[n - 1] << 16
    return fold(fold(a ^ s0, b ^ x ^ s1) ^ s2, n ^ s3) & INDEX_BITS


def fingerprint(key, data):
    """The 16 bytes by which a key is told from others."""
    low, high = struct.unpack("<QQ", siphash_1_3_128(key, data))
    return struct.pack("<QQ", low & ~INDEX_BITS | index_hash(key, data), high)


# Files ----------------------------------------------------------------------------------------


class File:
    """A file read at offsets; a missing one has `size` None."""

    def __init__(self, directory, name):
        self.name = name
        try:
            self.file = open(os.path.join(directory, name), "rb", buffering=1 << 16)
        except FileNotFoundError:
            self.file = None
            self.size = None
            return
        self.size = os.fstat(self.file.fileno()).st_size

    def read(self, offset, length):
        """At most `length` bytes from `offset` on; fewer at the end of the file."""
        self.file.seek(offset)
        return self.file.read(length)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file is not None:
            self.file.close()


def segment_name(id_):
    return f"{id_:016x}.seg"


def hint_name(id_):
    return f"{id_:016x}.hint"


def id_of_name(name, suffix):
    """The id in a file name of ours, or None."""
    digits = name[: -len(suffix)]
    if not name.endswith(suffix) or len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


# Manifest (sections 7 and 8) ------------------------------------------------------------------


class Invalid(Exception):
    """Bytes that are not what they should be; says what is wrong."""


def check_common_header(head, magic, what):
    """Magic, check and version of a 64-byte header."""
    if len(head) < 64:
        raise Invalid(f"{what} header: {len(head)} bytes of 64")
    if head[:8] != magic:
        raise Invalid(f"{what} header: magic")
    if struct.unpack_from("<I", head, 60)[0] != crc_of(head[:60]):
        raise Invalid(f"{what} header: check")
    version = struct.unpack_from("<H", head, 8)[0]
    if version != 1:
        raise Invalid(f"{what} header: version {version}")


def ids_of(body):
    if len(body) % 8:
        raise Invalid("edit: ids are not a multiple of 8 bytes")
    return [id_ for (id_,) in struct.iter_unpack("<Q", body)]


def fields(layout, names, body):
    if len(body) != struct.calcsize(layout):
        raise Invalid(f"edit: body of {len(body)} bytes")
    return dict(zip(names.split(), struct.unpack(layout, body)))


def decode_body(kind, body):
    """Name and fields of an edit's body; byte strings stand for salts and keys."""
    if kind == 1:
        out = fields("<16sQQB7s", "hash_key next_id next_lsn shard_bits zero", body)
        if out.pop("zero") != bytes(7):
            raise Invalid("STORE: reserved bytes are not zero")
        if out["shard_bits"] > 10:
            raise Invalid("STORE: shard bits")
        return "store", out
    if kind == 2:
        return "add", fields("<Q16sQ", "id salt allocated", body)
    if kind == 3:
        return "seal", fields("<6Q", "id length end_lsn min_lsn max_lsn records", body)
    if kind == 4:
        if len(body) < 8:
            raise Invalid("COMPACT: no counts")
        outputs, inputs = struct.unpack_from("<II", body)
        if len(body) != 8 + 56 * outputs + 8 * inputs:
            raise Invalid("COMPACT: counts do not fit the body")
        at = 8 + 56 * outputs
        names = "id salt length min_lsn max_lsn records"
        return "compact", {
            "outputs": [fields("<Q16s4Q", names, body[i : i + 56]) for i in range(8, at, 56)],
            "inputs": ids_of(body[at:]),
        }
    if kind == 5:
        return "forget", {"ids": ids_of(body)}
    if kind == 6:
        return "opened", fields("<QQ", "id allocated", body)
    if kind == 7:
        return "clean", fields("<QQQ", "id length lsn", body)
    if kind == 8:
        names = "id end end_lsn next_lsn min_lsn max_lsn records"
        out = fields("<7Q", names, body[:56])
        out["dropped"] = ids_of(body[56:])
        return "cut", out
    if kind == 9:
        return "poison", fields("<Q", "durable_lsn", body)
    raise Invalid(f"edit: kind {kind}")


class Manifest:
    """A manifest's bytes, walked once by `edits`; `tail` holds after that."""

    def __init__(self, data):
        self.data = data
        check_common_header(data[:64], b"kvs-man\0", "manifest")
        if any(data[10:16]) or any(data[48:60]):
            raise Invalid("manifest header: reserved bytes are not zero")
        self.store_id = data[16:32]
        self.salt = data[32:48]
        self.end = 64
        self.tail = None

    def whole_edit(self, at):
        """The edit at `at`, whatever its seq."""
        head = self.data[at : at + 24]
        if len(head) < 24:
            raise Invalid("edit: cut off")
        crc, length, seq, kind, zero = struct.unpack("<IIQB7s", head)
        if at + aligned(24 + length) > len(self.data):
            raise Invalid("edit: cut off")
        rest = self.data[at + 4 : at + 24 + length]
        if crc != crc_of(self.store_id, self.salt, u64(at), rest):
            raise Invalid("edit: check")
        if zero != bytes(7):
            raise Invalid("edit: reserved bytes are not zero")
        name, body = decode_body(kind, rest[20:])
        return {"offset": at, "size": aligned(24 + length), "seq": seq, "kind": name}, body

    def edits(self):
        expected = None
        while True:
            try:
                edit, body = self.whole_edit(self.end)
            except Invalid:
                break
            if expected is not None and edit["seq"] != expected:
                break
            expected = min(edit["seq"] + 1, U64_MAX)
            self.end += edit["size"]
            yield edit, body
        if not any(self.data[self.end :]):
            self.tail = "clean"
            return
        self.tail = "torn"
        for at in range(self.end, len(self.data) - 23, 8):
            try:
                edit, _ = self.whole_edit(at)
            except Invalid:
                continue
            if expected is None or edit["seq"] > expected:
                self.tail = "damaged"
                return


class Segment:
    """What the manifest says of a live segment."""

    def __init__(self, id_, kind, salt):
        self.id = id_
        self.name = segment_name(id_)
        self.kind = kind
        self.salt = salt
        self.state = "unsealed"
        self.length = None  # where its records end, if the manifest says so
        self.vouched = None  # a hint may cover up to here
        self.allocated = 0
        self.summary = None  # (records, min LSN, max LSN) as the manifest has them
        self.end_lsn = None
        self.next_lsn = None  # LSN of the record after its last


class State:
    """The manifest's edits, applied."""

    def __init__(self, problem=lambda offset, what: None):
        self.problem = problem
        self.store = None
        self.live = {}
        self.known = set()
        self.ended = {}  # log segment id -> (end, LSN of its last record, LSN of the next record)
        self.clean = None
        self.last_clean_id = None
        self.durable = 0

    def _new(self, offset, segment):
        if segment.id == 0 or segment.id in self.known:
            self.problem(offset, f"segment id {segment.id} is 0 or used twice")
        self.known.add(segment.id)
        self.live[segment.id] = segment

    def _unsealed(self, offset, id_, what):
        segment = self.live.get(id_)
        if segment is None or segment.state != "unsealed" or segment.kind != "log":
            self.problem(offset, f"{what} of segment {id_}, which is no live unsealed log segment")
            return None
        return segment

    def _summary(self, offset, body, what):
        records, low, high = body["records"], body["min_lsn"], body["max_lsn"]
        if (records == 0) != (low == 0) or (low == 0) != (high == 0) or low > high:
            self.problem(offset, f"{what}: records, min and max LSN contradict each other")
        return records, low, high

    def _end(self, segment, state, length, body, next_lsn):
        segment.state = state
        segment.length = segment.vouched = length
        segment.end_lsn = body["end_lsn"]
        segment.next_lsn = next_lsn
        self.ended[segment.id] = (length, body["end_lsn"], next_lsn)

    def apply(self, edit, body):
        at, kind = edit["offset"], edit["kind"]
        if (self.store is None) != (kind == "store"):
            self.problem(at, "the first edit is no STORE, or another one is")
        if kind in ("add", "opened", "cut", "poison"):
            self.clean = None
        if kind == "store":
            self.store = self.store or body
        elif kind == "add":
            segment = Segment(body["id"], "log", body["salt"])
            segment.allocated = body["allocated"]
            self._new(at, segment)
        elif kind == "seal":
            summary = self._summary(at, body, "SEAL")
            self.durable = max(self.durable, body["end_lsn"])
            segment = self._unsealed(at, body["id"], "SEAL")
            if segment is not None:
                segment.summary = summary
                self._end(segment, "sealed", body["length"], body, body["end_lsn"] + 1)
        elif kind == "compact":
            for output in body["outputs"]:
                segment = Segment(output["id"], "merged", output["salt"])
                segment.state = "merged"
                segment.length = segment.vouched = output["length"]
                segment.summary = self._summary(at, output, "COMPACT")
                segment.end_lsn = output["max_lsn"]
                self.durable = max(self.durable, output["max_lsn"])
                self._new(at, segment)
            for id_ in body["inputs"]:
                segment = self.live.pop(id_, None)
                if segment is None or segment.state == "unsealed":
                    self.problem(at, f"COMPACT: input {id_} is no live sealed segment")
        elif kind == "forget":
            for id_ in body["ids"]:
                segment = self.live.pop(id_, None)
                if segment is not None and segment.state != "unsealed":
                    self.problem(at, f"FORGET of segment {id_}, which is live and sealed")
                if id_ not in self.known:
                    self.problem(at, f"FORGET of segment {id_}, which never was")
        elif kind == "opened":
            segment = self._unsealed(at, body["id"], "OPENED")
            if body["id"] != self.last_clean_id:
                self.problem(at, "OPENED names another segment than the last CLEAN")
            if segment is not None:
                segment.length = None
                segment.allocated = body["allocated"]
        elif kind == "clean":
            self.durable = max(self.durable, body["lsn"])
            self.clean = body
            self.last_clean_id = body["id"]
            unsealed = sorted(i for i, s in self.live.items() if s.state == "unsealed")
            if unsealed != [body["id"]] * (body["id"] != 0):
                self.problem(at, f"CLEAN of segment {body['id']} with unsealed {unsealed}")
            if body["id"]:
                segment = self._unsealed(at, body["id"], "CLEAN")
                if segment is not None:
                    segment.allocated = 0
                    segment.length = segment.vouched = body["length"]
        elif kind == "poison":
            self.durable = max(self.durable, body["durable_lsn"])
        elif kind == "cut":
            self.durable = max(self.durable, body["end_lsn"])
            summary = self._summary(at, body, "CUT")
            segment = self._unsealed(at, body["id"], "CUT")
            if body["next_lsn"] <= body["end_lsn"]:
                self.problem(at, "CUT: next LSN is not behind end LSN")
            if segment is not None:
                segment.summary = summary
                self._end(segment, "cut", body["end"], body, body["next_lsn"])
            for id_ in body["dropped"]:
                if self._unsealed(at, id_, "CUT: drop") is not None:
                    del self.live[id_]
        unsealed = [i for i, s in self.live.items() if s.state == "unsealed"]
        logs = sorted(i for i, s in self.live.items() if s.kind == "log")
        if len(unsealed) > 3 or sorted(unsealed) != logs[len(logs) - len(unsealed) :]:
            # A rewritten manifest may list them in any order: said once, at its end.
            self.order_problem = at
        else:
            self.order_problem = None

    def finish(self, tail):
        if tail == "torn":
            self.clean = None
        for segment in self.live.values():
            if segment.state != "unsealed":
                continue
            if self.clean is not None and self.clean["id"] == segment.id:
                segment.state = "clean"
                segment.next_lsn = self.clean["lsn"] + 1
            else:
                segment.length = None

    def in_order(self):
        return [self.live[id_] for id_ in sorted(self.live)]


# Segments (sections 2 to 6) -------------------------------------------------------------------


def check_segment_header(head):
    """Kind, id and salt of a segment header."""
    check_common_header(head, b"kvs-seg\0", "segment")
    if any(head[11:16]) or any(head[40:60]):
        raise Invalid("segment header: reserved bytes are not zero")
    if head[10] not in (1, 2):
        raise Invalid(f"segment header: kind {head[10]}")
    kind = "log" if head[10] == 1 else "merged"
    return kind, struct.unpack_from("<Q", head, 16)[0], head[24:40]


def check_segment_file(file, segment):
    """Raises Invalid unless the file is the segment that the manifest names."""
    if file.size is None:
        raise Invalid("file is missing")
    kind, id_, salt = check_segment_header(file.read(0, 64))
    if id_ != segment.id:
        raise Invalid(f"header names segment {id_}")
    if salt != segment.salt:
        raise Invalid("salt is not the manifest's")
    if kind != segment.kind:
        raise Invalid(f"a {kind} segment where the manifest says {segment.kind}")


class Record:
    __slots__ = "offset size lsn framing kind key value expires_at content place padding".split()

    def payload(self):
        """Decoded fields of a system record."""
        if self.kind == BATCH_HEAD:
            return dict(zip(("count", "bytes"), struct.unpack("<IQ", self.value)))
        if self.kind == MARK:
            return {"durable_lsn": struct.unpack_from("<Q", self.value)[0], "salt": self.value[8:]}
        if self.kind == LINK:
            names = ("previous_id", "previous_end", "previous_lsn")
            return dict(zip(names, struct.unpack("<QQQ", self.value)))
        if self.kind == FOOTER:
            names = ("records", "min_lsn", "max_lsn", "payload_bytes")
            return dict(zip(names, struct.unpack("<QQQQ", self.value)))
        return {}


class Scan:
    """Iterates over the records of a segment that count; then offset, next_lsn, reason hold."""

    def __init__(self, file, kind, id_, salt, limit, offset=PAGE, next_lsn=None):
        self.file = file
        self.log = kind == "log"
        self.salt = salt
        self.place_start = crc_of(salt, u64(id_))
        self.limit = limit
        self.offset = offset
        self.next_lsn = next_lsn
        self.reason = None  # None: zeros or the limit
        self.rejected_at = None
        self.footer = False

    def record(self, at, lsn):
        """The record at `at`, None at the end; section 3, steps 1 to 5."""
        left = max(self.limit - at, 0)
        head = self.file.read(at, min(RECORD_HEADER, left))
        if not any(head):
            return None
        if len(head) < RECORD_HEADER:
            raise Invalid("record: header is cut off")
        place, content, found, framing, kind, key_len, value_len = struct.unpack("<IIQBBHI", head)
        if place != zlib.crc32(head[4:], zlib.crc32(u64(at), self.place_start)):
            raise Invalid("record: place check")
        if found == 0:
            raise Invalid("record: LSN 0")
        if self.log and lsn is not None and found != lsn:
            raise Invalid(f"record: LSN {found} where {lsn} must stand")
        if kind not in KINDS or framing not in FRAMINGS:
            raise Invalid(f"record: kind {kind}, framing {framing}")
        if framing != 1 if kind == BATCH_HEAD else (kind > BATCH_HEAD and framing != 0):
            raise Invalid(f"record: framing {framing} of a {KINDS[kind]}")
        if self.log:
            if (kind == LINK) != (at == PAGE):
                raise Invalid("record: a LINK elsewhere than first, or another record first")
        elif framing != 0 or not (kind in DATA or kind == FOOTER):
            raise Invalid(f"record: {KINDS[kind]}, framing {framing} in a merged segment")
        if kind not in DATA and key_len != 0:
            raise Invalid("record: system record with a key")
        if value_len > VALUE_MAX or value_len != EXACT_VALUE.get(kind, value_len):
            raise Invalid(f"record: {KINDS[kind]} with a value of {value_len} bytes")
        extension = 8 if kind == SET_EXPIRING else 0
        length = extension + key_len + value_len
        size = aligned(RECORD_HEADER + length)
        if size > left:
            raise Invalid("record: reaches beyond the end")
        tail = self.file.read(at + RECORD_HEADER, size - RECORD_HEADER)
        if len(tail) < size - RECORD_HEADER:
            raise Invalid("record: is cut off")
        body = tail[:length]
        if content != crc_of(head[17:], body):
            raise Invalid("record: content check")
        record = Record()
        record.offset, record.size, record.lsn = at, size, found
        record.framing, record.kind = framing, kind
        record.content, record.place = content, place
        record.expires_at = struct.unpack_from("<Q", body)[0] if extension else None
        record.key = body[extension : extension + key_len]
        record.value = body[extension + key_len :]
        record.padding = tail[length:]
        if kind == MARK:
            mark = record.payload()
            if mark["salt"] != self.salt[:8] or mark["durable_lsn"] >= found:
                raise Invalid("MARK: other salt, or claims its own LSN or a later one")
        if kind == LINK and record.payload()["previous_lsn"] >= found:
            raise Invalid("LINK: names its own LSN or a later one")
        return record

    def check_batch(self, head):
        """Raises Invalid unless the batch of this head is whole; section 5."""
        batch = head.payload()
        if batch["count"] == 0:
            raise Invalid("batch: of no records")
        at, lsn, left = head.offset + head.size, head.lsn + 1, batch["bytes"]
        for number in range(batch["count"], 0, -1):
            self.rejected_at = at
            record = self.record(at, lsn)
            if record is None:
                raise Invalid("batch: ends early")
            if record.kind not in DATA or record.framing != (2 if number == 1 else 1):
                raise Invalid("batch: kind or framing of a record in it")
            at, lsn, left = at + record.size, lsn + 1, left - record.size
            if left < 0:
                raise Invalid("batch: more bytes than its head says")
        if left:
            raise Invalid("batch: fewer bytes than its head says")

    def __iter__(self):
        in_batch = 0
        while True:
            self.rejected_at = self.offset
            try:
                record = self.record(self.offset, self.next_lsn)
                if record is None:
                    return
                if self.footer:
                    raise Invalid("record: behind a FOOTER")
                if record.kind == BATCH_HEAD:
                    self.check_batch(record)
                    in_batch = record.payload()["count"] + 1
                elif record.framing != 0 and in_batch == 0:
                    raise Invalid("record: framing of a batch outside of one")
            except Invalid as invalid:
                self.reason = str(invalid)
                return
            in_batch = max(in_batch - 1, 0)
            self.footer = record.kind == FOOTER
            self.offset += record.size
            self.next_lsn = min(record.lsn + 1, U64_MAX)
            yield record


def scan_of(file, segment):
    limit = file.size if segment.length is None else min(segment.length, file.size)
    return Scan(file, segment.kind, segment.id, segment.salt, limit)


def stop_is_clean(scan, segment):
    if segment.length is None:
        return scan.reason is None
    return scan.offset == segment.length


def marks_behind(file, segment, start):
    """(offset, durable LSN) of every whole MARK at a multiple of 8 from `start` on; section 11."""
    pattern = struct.pack("<BBHI", 0, MARK, 0, 16)
    scan = Scan(file, segment.kind, segment.id, segment.salt, file.size)
    base = start
    while base + 40 <= file.size:
        # 16 bytes before the pattern and 16 behind it: chunks overlap by one record.
        chunk = file.read(base, CHUNK + 40)
        at = chunk.find(pattern)
        while 0 <= at < CHUNK + 16:
            offset = base + at - 16
            if at >= 16 and offset % 8 == 0 and offset != PAGE:
                try:
                    record = scan.record(offset, None)
                    yield offset, record.payload()["durable_lsn"]
                except Invalid:
                    pass
            at = chunk.find(pattern, at + 1)
        base += CHUNK


# Hints (section 9) ----------------------------------------------------------------------------


class Hint:
    """A hint file whose length, check, header and order of entries hold."""

    NAMES = (
        "magic version shard_bits zero_a segment_id salt covered end_lsn last_offset last_place "
        "zero_b count hash_check min_lsn max_lsn zero_c"
    ).split()

    def __init__(self, file):
        self.file = file
        if file.size < 128 + 532:
            raise Invalid(f"hint: {file.size} bytes")
        head = file.read(0, 128)
        self.header = dict(zip(self.NAMES, struct.unpack("<8sHB5sQ16sQQQI4sQQQQ24s", head)))
        header = self.header
        if header["magic"] != b"kvs-hnt\0":
            raise Invalid("hint: magic")
        if file.size != 128 + 32 * header["count"] + 532:
            raise Invalid(f"hint: {file.size} bytes with {header['count']} entries")
        crc, at = 0, 0
        while at < file.size - 4:
            chunk = file.read(at, min(CHUNK, file.size - 4 - at))
            crc = zlib.crc32(chunk, crc)
            at += len(chunk)
        if struct.unpack("<I", file.read(at, 4))[0] != crc:
            raise Invalid("hint: check")
        if header["version"] != 1:
            raise Invalid(f"hint: version {header['version']}")
        if any(header["zero_a"] + header["zero_b"] + header["zero_c"]):
            raise Invalid("hint: reserved bytes are not zero")
        if header["shard_bits"] > 10:
            raise Invalid("hint: shard bits")
        trailer = struct.unpack("<66Q", file.read(file.size - 532, 528))
        self.first_ms, self.bucket_ms, self.bytes = trailer[0], trailer[1], list(trailer[2:])
        previous = None
        mask = (1 << header["shard_bits"]) - 1
        for entry in self.entries():
            low, high = struct.unpack("<QQ", entry["fp"])
            key = ((low >> 50) & mask, low, high, -entry["lsn"], -entry["offset"])
            in_range = (
                PAGE <= entry["offset"]
                and RECORD_HEADER <= entry["size"]
                and entry["offset"] + entry["size"] <= header["covered"]
                and entry["kind"] in DATA
                and 1 <= entry["lsn"]
                and header["min_lsn"] <= entry["lsn"] <= header["max_lsn"]
            )
            if not in_range or (previous is not None and key <= previous):
                raise Invalid(f"hint: entry {entry['index']} is out of order or range")
            previous = key

    def entries(self):
        step = CHUNK // 32
        for first in range(0, self.header["count"], step):
            count = min(step, self.header["count"] - first)
            chunk = self.file.read(128 + 32 * first, 32 * count)
            for i, (fp, lsn, granule, rest) in enumerate(struct.iter_unpack("<16sQII", chunk)):
                yield {
                    "index": first + i,
                    "fp": fp,
                    "lsn": lsn,
                    "offset": granule * 8,
                    "size": (rest >> 3) * 8,
                    "kind": rest & 7,
                }


# Dump -----------------------------------------------------------------------------------------


def hex_bytes(value):
    """Byte strings as hexadecimal, inside lists and objects too."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [hex_bytes(item) for item in value]
    if isinstance(value, dict):
        return {name: hex_bytes(item) for name, item in value.items()}
    return value


def put(type_, file, **rest):
    line = hex_bytes({"type": type_, "file": file, **rest})
    sys.stdout.write(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n")


def read_manifest(directory):
    with File(directory, "MANIFEST") as file:
        if file.size is None:
            raise Invalid("file is missing")
        return Manifest(file.read(0, file.size))


def dump_segment(directory, segment):
    with File(directory, segment.name) as file:
        try:
            check_segment_file(file, segment)
        except Invalid:
            put("segment_invalid", file.name, id=segment.id)
            return
        scan = scan_of(file, segment)
        put(
            "segment_header",
            file.name,
            version=1,
            id=segment.id,
            kind=segment.kind,
            salt=segment.salt,
            state=segment.state,
            limit=scan.limit,
        )
        for record in scan:
            put(
                "record",
                file.name,
                offset=record.offset,
                size=record.size,
                lsn=record.lsn,
                framing=FRAMINGS[record.framing],
                kind=KINDS[record.kind],
                key=record.key,
                value=record.value,
                expires_at=record.expires_at,
                content=f"{record.content:08x}",
                place=f"{record.place:08x}",
                **record.payload(),
            )
        put(
            "segment_stop",
            file.name,
            offset=scan.offset,
            next_lsn=scan.next_lsn if scan.log else None,
            clean=stop_is_clean(scan, segment),
        )


def dump_hint(directory, segment):
    with File(directory, hint_name(segment.id)) as file:
        if file.size is None:
            return
        try:
            hint = Hint(file)
        except Invalid:
            put("hint_invalid", file.name)
            return
        header = {n: v for n, v in hint.header.items() if not n.startswith(("zero", "magic"))}
        header["last_place"] = f"{header['last_place']:08x}"
        put("hint_header", file.name, **header)
        for entry in hint.entries():
            put("hint_entry", file.name, **{**entry, "kind": KINDS[entry["kind"]]})
        put(
            "hint_trailer",
            file.name,
            first_ms=hint.first_ms,
            bucket_ms=hint.bucket_ms,
            bytes=hint.bytes,
        )


def dump(directory):
    name = "MANIFEST"
    try:
        manifest = read_manifest(directory)
    except Invalid:
        put("manifest_invalid", name)
        return
    put("manifest_header", name, version=1, store_id=manifest.store_id, salt=manifest.salt)
    state = State()
    for edit, body in manifest.edits():
        put("edit", name, **edit, **body)
        state.apply(edit, body)
    put("manifest_tail", name, end=manifest.end, verdict=manifest.tail)
    if manifest.tail == "damaged":
        return
    state.finish(manifest.tail)
    for segment in state.in_order():
        dump_segment(directory, segment)
    for segment in state.in_order():
        dump_hint(directory, segment)


# Verify ---------------------------------------------------------------------------------------


class Problems:
    def __init__(self):
        self.count = 0

    def put(self, grade, file, offset, what):
        self.count += 1
        put("problem", file, grade=grade, offset=offset, what=what)


class Reading:
    """What reading one segment found; constant size."""

    def __init__(self):
        self.readable = False
        self.offset = PAGE
        self.next_lsn = None
        self.reason = None
        self.link = None
        self.link_lsn = None
        self.last_kind = None
        self.last_lsn = None
        self.records = self.low = self.high = self.payload = 0
        self.covered = None  # data records below the hint's `covered`
        self.marks = 0  # highest durable LSN of a MARK


def verify_segment(directory, segment, covered, problems):
    """Everything that one segment and what the manifest says of it can tell."""
    reading = Reading()
    reading.covered = 0

    def corrupt(offset, what):
        problems.put("corrupt", segment.name, offset, what)

    with File(directory, segment.name) as file:
        try:
            check_segment_file(file, segment)
        except Invalid as invalid:
            corrupt(0, str(invalid))
            return reading
        reading.readable = True
        if any(file.read(64, PAGE - 64)):
            problems.put("untidy", segment.name, 64, "the rest of the first page is not zero")
        least = max(PAGE, segment.length or 0, segment.allocated if segment.length is None else 0)
        if file.size < least:
            corrupt(file.size, f"file has {file.size} bytes of {least}")
        if file.size > 1 << 32 or (segment.length or 0) > 1 << 32:
            corrupt(None, "longer than 4 GiB")
        scan = scan_of(file, segment)
        footer = None
        for record in scan:
            if any(record.padding):
                problems.put("untidy", segment.name, record.offset, "padding is not zero")
            if record.kind in DATA:
                reading.records += 1
                reading.low = min(reading.low or record.lsn, record.lsn)
                reading.high = max(reading.high, record.lsn)
                reading.payload += record.size
                if covered is not None and record.offset < covered:
                    reading.covered += 1
            elif record.kind == MARK:
                reading.marks = max(reading.marks, record.payload()["durable_lsn"])
            elif record.kind == LINK:
                reading.link, reading.link_lsn = record.payload(), record.lsn
            elif record.kind == FOOTER:
                footer = record
            reading.last_kind, reading.last_lsn = record.kind, record.lsn
        reading.offset, reading.reason = scan.offset, scan.reason
        reading.next_lsn = scan.next_lsn
        if footer is not None:
            said = tuple(footer.payload().values())
            if said != (reading.records, reading.low, reading.high, reading.payload):
                corrupt(footer.offset, "FOOTER does not agree with the records before it")
            if not scan.log and footer.lsn != reading.high:
                corrupt(footer.offset, "FOOTER of a merged segment: LSN is not the max LSN")
        if reading.link is not None:
            link = reading.link
            zeros = [value == 0 for value in link.values()]
            if link["previous_id"] >= segment.id or (any(zeros) and zeros[0] != all(zeros)):
                corrupt(PAGE, "LINK names an impossible predecessor")
        if segment.length is None:
            for _, durable in marks_behind(file, segment, scan.offset):
                reading.marks = max(reading.marks, durable)
            return reading
        if scan.offset != segment.length:
            what = scan.reason or "no record"
            corrupt(scan.offset, f"{what}, below the length {segment.length} of the manifest")
            return reading
        if segment.state in ("sealed", "merged"):
            if footer is None:
                corrupt(scan.offset, "does not end with a FOOTER")
        if segment.state in ("sealed", "cut") and reading.last_lsn not in (None, segment.end_lsn):
            corrupt(scan.offset, f"last LSN is not {segment.end_lsn}")
        if segment.summary not in (None, (reading.records, reading.low, reading.high)):
            corrupt(None, "records, min or max LSN are not those of the manifest")
        if segment.state == "clean":
            if reading.last_lsn != segment.next_lsn - 1:
                corrupt(scan.offset, "last LSN is not that of CLEAN")
            args = (file, "log", segment.id, segment.salt, file.size)
            if next(iter(Scan(*args, scan.offset, scan.next_lsn)), None) is not None:
                problems.put("corrupt", "MANIFEST", None, "a record follows the end that CLEAN says")
    return reading


def verify_order(state, readings, problems):
    """How the log segments continue each other, and section 11 for those not sealed."""
    durable = state.durable
    ended = dict(state.ended)
    for segment in state.in_order():
        if segment.state in ("unsealed", "clean"):
            durable = max(durable, readings[segment.id].marks)
    for segment in state.in_order():
        reading = readings[segment.id]
        if segment.kind != "log" or segment.state in ("unsealed",) or reading.link is None:
            continue
        what = link_problem(segment, reading, ended)
        if what:
            problems.put("corrupt", segment.name, PAGE, what)
    tail = [segment for segment in state.in_order() if segment.state == "unsealed"]
    expected = state.store["next_lsn"] if state.store else 1
    expected = max([expected] + [next_lsn for _, _, next_lsn in ended.values()])
    for i, segment in enumerate(tail):
        reading = readings[segment.id]
        if not reading.readable:
            return
        what = "LINK is missing" if reading.link is None else link_problem(segment, reading, ended)
        offset, next_lsn = reading.offset, reading.next_lsn
        if what is None and reading.link_lsn != expected:
            what = f"LINK has LSN {reading.link_lsn} where {expected} must stand"
        if what is not None:
            # Nothing of this segment counts; the log ends before it.
            offset, next_lsn = PAGE, expected
        following = readings[tail[i + 1].id] if i + 1 < len(tail) else None
        goes_on = (
            what is None
            and following is not None
            and following.link is not None
            and following.link["previous_id"] == segment.id
            and following.link["previous_end"] == offset
            and following.link["previous_lsn"] == next_lsn - 1
            and following.link_lsn == next_lsn
            and reading.last_kind == FOOTER
        )
        if next_lsn <= durable and not goes_on:
            reason = what or reading.reason or "no record"
            reason += f" where LSN {next_lsn} must stand; LSNs up to {durable} are durable"
            problems.put("corrupt", segment.name, offset, reason)
            return
        if not goes_on:
            return
        ended[segment.id] = (offset, next_lsn - 1, next_lsn)
        expected = next_lsn


def link_problem(segment, reading, ended):
    """What is wrong with a LINK, as far as the ends of earlier segments are known."""
    link = reading.link
    before = max((id_ for id_ in ended if id_ < segment.id), default=None)
    if before is None:
        return None
    if link["previous_id"] != before:
        return f"LINK names segment {link['previous_id']} where {before} is the one before"
    end, end_lsn, next_lsn = ended[before]
    if (link["previous_end"], link["previous_lsn"]) != (end, end_lsn):
        return "LINK names another end of the segment before"
    if reading.link_lsn != next_lsn:
        return f"LINK has LSN {reading.link_lsn} where {next_lsn} must stand"
    return None


def verify_hint(directory, segment, reading, store, problems):
    """Whether a hint may be used and, if so, whether it is right."""
    with File(directory, hint_name(segment.id)) as file, File(directory, segment.name) as records:
        if file.size is None or not reading.readable:
            return
        try:
            hint = Hint(file)
        except Invalid as invalid:
            problems.put("hint_unused", file.name, None, str(invalid))
            return
        header = hint.header
        covered = header["covered"]
        scan = Scan(records, segment.kind, segment.id, segment.salt, covered)
        unused = None
        if (header["segment_id"], header["salt"]) != (segment.id, segment.salt):
            unused = "of another segment"
        elif segment.vouched is None or covered > segment.vouched:
            unused = "covers more than the manifest vouches for"
        elif store is None or header["shard_bits"] != store["shard_bits"]:
            unused = "other shard bits than the store"
        elif u64(header["hash_check"]) != fingerprint(store["hash_key"], b"kvs-hnt\0")[:8]:
            unused = "other hash key than the store"
        else:
            try:
                last = scan.record(header["last_offset"], None)
                if last is None or (last.lsn, last.place, last.offset + last.size) != (
                    header["end_lsn"],
                    header["last_place"],
                    covered,
                ):
                    unused = "last record is another"
            except Invalid as invalid:
                unused = f"last record: {invalid}"
        if unused:
            problems.put("hint_unused", file.name, None, unused)
            return

        def wrong(offset, what):
            problems.put("hint_wrong", file.name, offset, what)

        low = high = 0
        buckets = [0] * 64
        for entry in hint.entries():
            at = 128 + 32 * entry["index"]
            low, high = min(low or entry["lsn"], entry["lsn"]), max(high, entry["lsn"])
            try:
                record = scan.record(entry["offset"], None)
            except Invalid as invalid:
                wrong(at, f"entry points to offset {entry['offset']}: {invalid}")
                continue
            if record is None:
                wrong(at, f"entry points to offset {entry['offset']}: no record")
                continue
            said = (entry["lsn"], entry["size"], entry["kind"])
            if said != (record.lsn, record.size, record.kind):
                wrong(at, "LSN, size or kind is not the record's")
            if entry["fp"] != fingerprint(store["hash_key"], record.key):
                wrong(at, "fingerprint is not that of the record's key")
            if record.expires_at is not None:
                if hint.bucket_ms == 0:
                    wrong(at, "record expires, but the histogram is empty")
                else:
                    bucket = max(0, record.expires_at - hint.first_ms) // hint.bucket_ms
                    buckets[min(bucket, 63)] += record.size
        if (low, high) != (header["min_lsn"], header["max_lsn"]):
            wrong(88, "min or max LSN is not that of the entries")
        # Entries are distinct and each is a record: equal counts mean that none is missing.
        if header["count"] != reading.covered:
            wrong(72, f"{header['count']} entries of {reading.covered} data records")
        if buckets != hint.bytes:
            wrong(128 + 32 * header["count"] + 16, "histogram is not that of the records")


def verify_strangers(directory, state, problems):
    """Segment files that no edit names: section 11, last rows."""
    for name in sorted(os.listdir(directory)):
        id_ = id_of_name(name, ".seg")
        if id_ is None or id_ in state.known:
            continue
        with File(directory, name) as file:
            try:
                kind, found, salt = check_segment_header(file.read(0, 64))
                scan = Scan(file, kind, id_, salt, file.size)
                if kind == "log" and found == id_ and scan.record(PAGE, None) is not None:
                    problems.put("corrupt", "MANIFEST", None, f"{name} has records and no ADD")
            except Invalid:
                continue


def verify(directory):
    problems = Problems()
    try:
        manifest = read_manifest(directory)
    except Invalid as invalid:
        problems.put("corrupt", "MANIFEST", 0, str(invalid))
        return problems.count
    state = State(lambda offset, what: problems.put("corrupt", "MANIFEST", offset, what))
    for edit, body in manifest.edits():
        state.apply(edit, body)
        padding = manifest.data[edit["offset"] : edit["offset"] + edit["size"]]
        length = struct.unpack_from("<I", padding, 4)[0]
        if any(padding[24 + length :]):
            problems.put("untidy", "MANIFEST", edit["offset"], "padding is not zero")
    if manifest.tail == "damaged":
        problems.put("corrupt", "MANIFEST", manifest.end, "invalid edit with a valid one behind it")
        return problems.count
    if state.store is None:
        problems.put("corrupt", "MANIFEST", manifest.end, "no STORE")
    elif state.order_problem is not None:
        what = "more than three log segments are unsealed, or not the last ones"
        problems.put("corrupt", "MANIFEST", state.order_problem, what)
    state.finish(manifest.tail)
    readings = {}
    for segment in state.in_order():
        covered = None
        with File(directory, hint_name(segment.id)) as file:
            if file.size is not None and file.size >= 128:
                covered = struct.unpack("<Q", file.read(40, 8))[0]
        readings[segment.id] = verify_segment(directory, segment, covered, problems)
    verify_order(state, readings, problems)
    for segment in state.in_order():
        verify_hint(directory, segment, readings[segment.id], state.store, problems)
    verify_strangers(directory, state, problems)
    return problems.count


# Export (SPEC.md section 15) -------------------------------------------------------------------


def kvx_frame(stream, index):
    """The next frame: all its bytes and its fields."""
    frame = stream.read(24)
    if len(frame) < 24:
        raise Invalid("frame: cut off")
    head, body_crc, found, kind, zero, key_len, value_len = struct.unpack("<IIQBBHI", frame)
    if head != crc_of(frame[4:]):
        raise Invalid("frame: check of the head")
    if found != index or zero != 0 or value_len > VALUE_MAX or kind not in (1, 2, 3):
        raise Invalid("frame: index, kind or length")
    if kind == 3 and (key_len, value_len) != (0, 24):
        raise Invalid("end: lengths")
    size = (8 if kind == 2 else 0) + key_len + value_len
    body = stream.read(size)
    if len(body) < size or body_crc != crc_of(body):
        raise Invalid("frame: cut off, or check of the body")
    return frame + body, kind, key_len, head, body_crc


def dump_kvx(path):
    """True if the export is whole."""
    name = os.path.basename(path)
    at, index, whole = 0, 0, 0
    complete = False
    with open(path, "rb") as stream:
        try:
            header = stream.read(16)
            if len(header) < 16 or header[:8] != b"kvs-kvx\0":
                raise Invalid("export header: magic")
            version, zero, crc = struct.unpack("<HHI", header[8:])
            if crc != crc_of(header[:12]) or version != 1 or zero != 0:
                raise Invalid("export header")
            put("kvx_header", name, version=version)
            at, whole = 16, crc_of(header)
            while True:
                data, kind, key_len, head, crc = kvx_frame(stream, index)
                body = data[24:]
                if kind == 3:
                    count, length, stored, zero = struct.unpack("<QQII", body)
                    if (count, length, stored, zero) != (index, at, whole, 0):
                        raise Invalid("end: not what was read")
                    put("kvx_end", name, offset=at, count=count, bytes=length,
                        whole=f"{stored:08x}")
                    at += len(data)
                    complete = stream.read(1) == b""
                    break
                expires_at = None
                if kind == 2:
                    expires_at, body = struct.unpack("<Q", body[:8])[0], body[8:]
                put("kvx_pair", name, offset=at, size=len(data), index=index, key=body[:key_len],
                    value=body[key_len:], expires_at=expires_at, body=f"{crc:08x}",
                    head=f"{head:08x}")
                at += len(data)
                whole = zlib.crc32(data, whole)
                index += 1
        except Invalid:
            pass
    put("kvx_stop", name, offset=at, whole=complete)
    return complete


def main():
    parser = argparse.ArgumentParser(
        description="Reads a kvs store as SPEC.md describes it: dumps it as NDJSON, or verifies it.",
        epilog="The lines are described at the top of this file. Status: 0, 1 if --verify found "
        "problems, 2 if the directory cannot be read.",
    )
    parser.add_argument("directory", metavar="DIR", help="the store's directory")
    parser.add_argument(
        "--kvx", action="store_true", help="DIR is an export; exit status 1 if it is not whole"
    )
    parser.add_argument(
        "--verify", action="store_true", help="print problems only; exit status 1 if there are any"
    )
    args = parser.parse_args()
    if not args.kvx and not os.path.isdir(args.directory):
        parser.error(f"not a directory: {args.directory}")
    try:
        if args.kvx:
            whole = dump_kvx(args.directory)
            sys.stdout.flush()
            return 0 if whole else 1
        if args.verify:
            return 1 if verify(args.directory) else 0
        dump(args.directory)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        print(f"reader.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
