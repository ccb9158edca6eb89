//! Every command with too few and too many arguments, with numbers that are none, with keys that are no
//! text, in both versions of the protocol: what Redis answers, byte for byte.
//!
//! What differs on purpose stands in `differences.txt`, a pattern and a reason a line; a line that
//! nothing differs by any more fails. What the engine lacks is said so (`not supported by engine`), and
//! is no difference.

use std::collections::{BTreeMap, BTreeSet};

use kvs::protocol::command::TABLE;

use crate::{Bare, Kvs, Redis, is_there};

/// Not numbers, or not for everybody.
const NUMBERS: &[&str] = &[
    "",
    "x",
    "1.5",
    "-",
    "+1",
    " 1",
    "1 ",
    "01",
    "-0",
    "0x10",
    "1e3",
    "nan",
    "inf",
    "-1",
    "0",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "99999999999999999999999",
    "4294967296",
];

/// `#` stands for one of them.
const NUMBER_FORMS: &[&str] = &[
    "INCRBY n #",
    "DECRBY n #",
    "INCRBYFLOAT n #",
    "GETRANGE s # 2",
    "GETRANGE s 1 #",
    "SETRANGE s # x",
    "SET k v EX #",
    "SET k v PX #",
    "SET k v EXAT #",
    "SET k v PXAT #",
    "GETEX s EX #",
    "SETEX k # v",
    "PSETEX k # v",
    "EXPIRE s #",
    "PEXPIRE s #",
    "EXPIREAT s #",
    "PEXPIREAT s #",
    "SELECT #",
    "HELLO #",
    "SCAN #",
    "SCAN 0 COUNT #",
    "COPY s k DB #",
    "CLIENT KILL ID #",
];

/// `?` stands for a key that is no text.
const KEY_FORMS: &[&str] = &[
    "GET ?",
    "SET ? v",
    "SET ? v GET",
    "SETNX ? v",
    "GETSET ? v",
    "GETDEL ?",
    "APPEND ? v",
    "STRLEN ?",
    "GETRANGE ? 0 -1",
    "SETRANGE ? 1 v",
    "INCR ?",
    "DEL ?",
    "UNLINK ? s",
    "EXISTS ? ?",
    "TOUCH ? s",
    "TYPE ?",
    "RENAME s ?",
    "RENAME ? s",
    "RENAMENX s ?",
    "COPY s ?",
    "COPY ? s",
    "MGET ? s",
    "MSET ? v s v",
    "MSETNX ? v",
    "WATCH ?",
    "ECHO ?",
    "PING ?",
    "TTL ?",
    "PERSIST ?",
    "EXPIRETIME ?",
    "? s",
    "CLIENT ?",
    "CONFIG ?",
    "COMMAND ?",
    "KEYS ?",
    "SET s v ?",
    "AUTH ?",
    "CLIENT SETNAME ?",
];

const KEYS: &[&[u8]] = &[
    b"",
    b"\0",
    b"\xff\xfe",
    b"a\r\n+OK\r\n",
    b"\x1b[2J",
    b"a b'\"\\",
    &[b'k'; 300],
];

type Request = Vec<Vec<u8>>;

fn words(line: &str) -> Request {
    line.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for spec in TABLE {
        // Ours alone.
        if spec.name.starts_with("kvs.") {
            continue;
        }
        let least = spec.arity.unsigned_abs() as usize;
        for count in 1..=least + 2 {
            // Any key is right.
            if spec.name == "randomkey" && count == 1 {
                continue;
            }
            let others = ["s", "n", "k", "x", "y"];
            let mut request = words(&spec.name.to_uppercase());
            request.extend((1..count).map(|at| others[at - 1].as_bytes().to_vec()));
            requests.push(request);
        }
    }
    for form in NUMBER_FORMS {
        for number in NUMBERS {
            let request = form.split(' ');
            let word = |word: &str| if word == "#" { *number } else { word }.as_bytes().to_vec();
            requests.push(request.map(word).collect());
        }
    }
    for form in KEY_FORMS {
        for key in KEYS {
            let word = |word: &str| match word {
                "?" => key.to_vec(),
                word => word.as_bytes().to_vec(),
            };
            requests.push(form.split(' ').map(word).collect());
        }
    }
    requests
}

fn shown(request: &Request) -> String {
    let quoted = |arg: &Vec<u8>| match arg.is_empty() {
        true => "''".to_owned(),
        false => arg.escape_ascii().to_string(),
    };
    request.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// The lines of `differences.txt`: pattern, reason.
fn accepted() -> BTreeMap<&'static str, &'static str> {
    let lines = include_str!("differences.txt").lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" => ").expect("pattern => reason"))
        .collect()
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len())
                .filter(|at| text.is_char_boundary(*at))
                .any(|at| is_like(rest, &text[at..]))
        }),
    }
}

/// The reply to `request` on a connection of its own, over a few known keys.
fn answer(addr: std::net::SocketAddr, version: u8, request: &Request) -> Vec<u8> {
    let mut bare = Bare::connect(addr);
    let mut before = vec![words("DEL k x y z")];
    before.extend(KEYS.iter().map(|key| vec![b"DEL".to_vec(), key.to_vec()]));
    before.push(words("MSET s hello n 10"));
    if version == 3 {
        before.push(words("HELLO 3"));
    }
    let count = before.len();
    before.push(request.clone());
    bare.send(&before);
    for _ in 0..count {
        bare.reply();
    }
    bare.reply().1
}

/// Whether both walked keys: what is found from which cursor on, and in which order, hangs on the seeds
/// of two hashes, which are others in every run.
fn are_scans(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    let walks = |reply: &[u8]| reply.starts_with(b"*2\r\n");
    request[0].eq_ignore_ascii_case(b"SCAN") && walks(ours) && walks(theirs)
}

#[test]
fn every_command_refuses_what_redis_refuses_in_the_same_words() {
    if !is_there("redis-server") {
        return;
    }
    let (redis, kvs) = (Redis::start(), Kvs::start());
    let accepted = accepted();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    let (mut same, mut lacking) = (0, 0);
    let requests = requests();
    for version in [2, 3] {
        for request in &requests {
            let theirs = answer(redis.addr, version, request);
            let ours = answer(kvs.addr, version, request);
            let line = shown(request);
            if ours == theirs || are_scans(request, &ours, &theirs) {
                same += 1;
                continue;
            }
            if ours.ends_with(b"not supported by engine 'kvs'\r\n") {
                lacking += 1;
                continue;
            }
            match accepted.keys().find(|pattern| is_like(pattern, &line)) {
                Some(pattern) => drop(used.insert(*pattern)),
                None => wrong.push(format!(
                    "RESP{version} {line}: {} for {}",
                    ours.escape_ascii(),
                    theirs.escape_ascii()
                )),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let stale: Vec<_> = accepted.keys().filter(|p| !used.contains(*p)).collect();
    assert!(stale.is_empty(), "nothing differs by {stale:?} any more");
    println!(
        "{} commands, twice: {same} replies the same, {lacking} lacking, {} accepted differences",
        requests.len(),
        accepted.len()
    );
    assert!(requests.len() >= 400 && same > 2 * lacking);
}

/// What a transaction sees of itself: as in Redis, all that it has changed so far.
#[test]
fn whatever_counts_or_lists_keys_sees_what_its_transaction_has_done() {
    if !is_there("redis-server") {
        return;
    }
    let (redis, kvs) = (Redis::start(), Kvs::start());
    let script = [
        "SET old 1",
        "SET gone 1",
        "MULTI",
        "DBSIZE",
        "SET new 1",
        "DBSIZE",
        "KEYS n*",
        "DEL gone",
        "DBSIZE",
        "KEYS g*",
        "SCAN 0 MATCH new COUNT 1000",
        "SCAN 0 MATCH gone COUNT 1000",
        "EXISTS new gone old",
        "RENAME old older",
        "KEYS old*",
        "DBSIZE",
        "SET older 2 XX",
        "SET gone 3 NX",
        "KEYS gone",
        "DBSIZE",
        "DEL new older gone",
        "DBSIZE",
        "KEYS *",
        "RANDOMKEY",
        "SCAN 0 COUNT 1000",
        "EXEC",
        "DBSIZE",
        "KEYS *",
    ];
    for version in ["HELLO 2", "HELLO 3"] {
        let told = [redis.addr, kvs.addr].map(|addr| {
            let mut bare = Bare::connect(addr);
            let mut requests = vec![words(version)];
            requests.extend(script.iter().map(|line| words(line)));
            bare.send(&requests);
            let replies = requests.iter().map(|_| bare.reply().1);
            // Not the greeting.
            replies.skip(1).collect::<Vec<_>>()
        });
        let [theirs, ours] = &told;
        for ((line, theirs), ours) in script.iter().zip(theirs).zip(ours) {
            let (theirs, ours) = (theirs.escape_ascii(), ours.escape_ascii());
            assert_eq!(ours.to_string(), theirs.to_string(), "{version}, {line}");
        }
    }
}
