//! The protocol without a socket. Method: whatever pieces the bytes come in, the same requests and
//! replies come out; what is encoded is decoded again; and an independent implementation, the crate
//! `redis-protocol`, agrees on both. What is not the protocol, or too much of it, is refused by name.

use std::ops::Range;

use kvs::protocol::{
    Command, CommandError, DecodeStep, Limits, Output, ProtocolError, Reply, ReplyDecoder,
    RequestParser, Step, Version,
};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode as peer_decode;
use redis_protocol::resp2::types::OwnedFrame as Peer2;
use redis_protocol::resp3::decode::complete::decode as peer_decode3;
use redis_protocol::resp3::types::OwnedFrame as Peer3;

type Request = Vec<Vec<u8>>;

fn framed(request: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for arg in request {
        let arg = arg.as_ref();
        bytes.extend(format!("${}\r\n", arg.len()).bytes());
        bytes.extend(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// All requests of `bytes`, given to the parser in pieces that end at `cuts` (and at the end), with
/// what stopped it.
fn parse(bytes: &[u8], cuts: &[usize], limits: Limits) -> (Vec<Request>, Option<ProtocolError>) {
    let mut parser = RequestParser::new(limits);
    let mut requests = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut from = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let end = end.clamp(from, bytes.len());
        buffer.extend(&bytes[from..end]);
        from = end;
        loop {
            let (request, used): (Request, usize) = match parser.step(&buffer) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Request { args, used }) => {
                    let own = |range: &Range<usize>| buffer[range.clone()].to_vec();
                    (args.iter().map(own).collect(), used)
                }
                Err(error) => return (requests, Some(error)),
            };
            assert!(used > 0 && used <= buffer.len());
            buffer.drain(..used);
            requests.push(request);
        }
    }
    (requests, None)
}

fn at_once(bytes: &[u8]) -> (Vec<Request>, Option<ProtocolError>) {
    parse(bytes, &[], Limits::default())
}

fn byte_by_byte(bytes: &[u8]) -> (Vec<Request>, Option<ProtocolError>) {
    let every: Vec<usize> = (0..bytes.len()).collect();
    parse(bytes, &every, Limits::default())
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    vec(vec(vec(any::<u8>(), 0..40), 1..6), 1..6)
}

/// Bytes that look like the protocol in places.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        requests().prop_map(|requests| requests.iter().flat_map(|r| framed(r)).collect()),
        Just(b"\r\n".to_vec()),
        Just(b"PING\r\n".to_vec()),
        Just(b"*0\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        Just(b"*1\r\n".to_vec()),
        Just(b"$3\r\n".to_vec()),
        vec(
            prop::sample::select(b"*$\r\n0123456789-PINGping ".to_vec()),
            0..12
        ),
        vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn requests_come_out_as_they_went_in(requests in requests()) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| framed(request)).collect();
        let (found, error) = at_once(&bytes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(found, requests);
    }

    #[test]
    fn fed_byte_by_byte_equals_fed_at_once(bytes in nearly(), cuts in vec(0_usize..400, 0..8)) {
        let whole = at_once(&bytes);
        prop_assert_eq!(byte_by_byte(&bytes), whole.clone());
        let mut cuts = cuts;
        cuts.sort_unstable();
        prop_assert_eq!(parse(&bytes, &cuts, Limits::default()), whole);
    }

    #[test]
    fn requests_are_what_another_parser_says(bytes in nearly()) {
        let (ours, error) = at_once(&bytes);
        let mut rest = &bytes[..];
        for request in ours {
            // The peer knows no inline commands and no empty lines, and takes neither `*-1` nor what is
            // no bulk string for a request: step over the same request by our own framing.
            if request.is_empty() || rest[0] != b'*' {
                rest = &rest[1 + rest.iter().position(|byte| *byte == b'\n').unwrap()..];
                continue;
            }
            let (frame, used) = peer_decode(rest).unwrap().expect("the peer finds a frame too");
            let Peer2::Array(items) = frame else { panic!("the peer finds {frame:?}") };
            let strings: Vec<Vec<u8>> = items.into_iter().map(|item| match item {
                Peer2::BulkString(bytes) => bytes,
                other => panic!("the peer finds {other:?}"),
            }).collect();
            prop_assert_eq!(strings, request);
            rest = &rest[used..];
        }
        // Whole requests that the peer still finds are refused by us for a stated reason.
        if error.is_none() && rest.first() == Some(&b'*') {
            let whole = matches!(peer_decode(rest), Ok(Some((Peer2::Array(items), _)))
                if items.iter().all(|item| matches!(item, Peer2::BulkString(_))));
            prop_assert!(!whole, "we wait for more of {:?}", rest.escape_ascii().to_string());
        }
    }
}

// What is refused.

#[test]
fn what_is_not_the_protocol_is_refused_by_name() {
    use ProtocolError::*;
    let long = [b'1'; 64];
    let cases: Vec<(Vec<u8>, ProtocolError, &str)> = vec![
        (b"*x\r\n".to_vec(), ArrayLength, "invalid multibulk length"),
        (
            b"*1025\r\n".to_vec(),
            ArrayLength,
            "invalid multibulk length",
        ),
        (
            b"*9223372036854775808\r\n".to_vec(),
            ArrayLength,
            "invalid multibulk length",
        ),
        (b"*1\n".to_vec(), ArrayLength, "invalid multibulk length"),
        (
            b"*1\r\n:1\r\n".to_vec(),
            ExpectedBulk { got: b':' },
            "expected '$', got ':'",
        ),
        (
            b"*1\r\n*1\r\n".to_vec(),
            ExpectedBulk { got: b'*' },
            "expected '$', got '*'",
        ),
        (b"*1\r\n$-1\r\n".to_vec(), BulkLength, "invalid bulk length"),
        (
            b"*1\r\n$67108865\r\n".to_vec(),
            BulkLength,
            "invalid bulk length",
        ),
        (
            b"*1\r\n$18446744073709551615\r\n".to_vec(),
            BulkLength,
            "invalid bulk length",
        ),
        (
            b"*1\r\n$2\r\nabXY".to_vec(),
            ExpectedEnd,
            "expected CR LF after bulk",
        ),
        (
            b"*1\r\n$2\r\nab\rY".to_vec(),
            ExpectedEnd,
            "expected CR LF after bulk",
        ),
        (
            [b"*", &long[..]].concat(),
            HeaderTooLong,
            "too big count string",
        ),
        (
            [b"*1\r\n$", &long[..]].concat(),
            HeaderTooLong,
            "too big count string",
        ),
        (
            b"GET / HTTP/1.1\r\n".to_vec(),
            Inline,
            "inline commands other than PING are not accepted",
        ),
        (
            b"PING x\r\n".to_vec(),
            Inline,
            "inline commands other than PING are not accepted",
        ),
        (
            vec![b' '; 65],
            Inline,
            "inline commands other than PING are not accepted",
        ),
    ];
    for (bytes, error, text) in cases {
        let shown = bytes.escape_ascii().to_string();
        assert_eq!(at_once(&bytes).1, Some(error), "{shown}");
        assert_eq!(byte_by_byte(&bytes).1, Some(error), "{shown}");
        assert_eq!(error.to_string(), format!("Protocol error: {text}"));
    }
}

#[test]
fn inline_ping_and_empty_lines_are_accepted() {
    let (found, error) = at_once(b"PING\r\n\r\n ping \n\n*0\r\n*-1\r\n*1\r\n$4\r\nECHO\r\n");
    assert_eq!(error, None);
    let shown: Vec<String> = found
        .iter()
        .map(|request| {
            request
                .iter()
                .map(|arg| arg.escape_ascii().to_string())
                .collect()
        })
        .collect();
    assert_eq!(shown, ["PING", "", "ping", "", "", "", "ECHO"]);
}

#[test]
fn before_auth_little_is_accepted() {
    let stopped = |bytes: &[u8]| parse(bytes, &[], Limits::BEFORE_AUTH).1;
    assert_eq!(stopped(b"*10\r\n"), None);
    assert_eq!(
        stopped(b"*11\r\n"),
        Some(ProtocolError::ArrayLengthBeforeAuth)
    );
    assert_eq!(stopped(b"*1\r\n$16384\r\n"), None);
    assert_eq!(
        stopped(b"*1\r\n$16385\r\n"),
        Some(ProtocolError::BulkLengthBeforeAuth)
    );
}

#[test]
fn all_arguments_together_have_a_limit() {
    let limits = Limits {
        request_bytes: 100,
        ..Limits::default()
    };
    let small = framed(&[[b'a'; 40], [b'b'; 40]]);
    assert_eq!(parse(&small, &[], limits).1, None);
    let large = framed(&[[b'a'; 40], [b'b'; 40], [b'c'; 40]]);
    assert_eq!(
        parse(&large, &[], limits).1,
        Some(ProtocolError::RequestLength)
    );
}

#[test]
fn nested_arrays_are_refused_at_the_second_level() {
    // 200,000 levels end the process with other parsers.
    let bytes = b"*1\r\n".repeat(200_000);
    assert_eq!(
        at_once(&bytes).1,
        Some(ProtocolError::ExpectedBulk { got: b'*' })
    );
    let mut decoder = ReplyDecoder::new(64 << 20);
    assert_eq!(decoder.step(&bytes), Err(ProtocolError::TooDeep));
}

// Replies.

fn text() -> impl Strategy<Value = Vec<u8>> {
    "[ -~]{0,12}".prop_map(String::into_bytes)
}

/// What both versions of the protocol tell apart.
fn leaf2() -> impl Strategy<Value = Reply> {
    prop_oneof![
        text().prop_map(|text| Reply::Simple(text.into())),
        text().prop_map(|text| Reply::Error(text.into())),
        any::<i64>().prop_map(Reply::Integer),
        vec(any::<u8>(), 0..40).prop_map(Reply::Bulk),
        (8_000_usize..20_000).prop_map(|len| Reply::Value(vec![b'v'; len])),
        Just(Reply::Null),
    ]
}

fn reply2() -> impl Strategy<Value = Reply> {
    leaf2().prop_recursive(4, 24, 5, |inner| vec(inner, 0..5).prop_map(Reply::Array))
}

fn reply3() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        4 => leaf2(),
        1 => any::<bool>().prop_map(Reply::Bool),
        1 => any::<f64>().prop_filter("NaN equals nothing", |n| !n.is_nan()).prop_map(Reply::Double),
        1 => "-?[0-9]{1,30}".prop_map(|digits| Reply::BigNumber(digits.into_bytes())),
        1 => vec(any::<u8>(), 0..20).prop_map(|text| Reply::Verbatim(*b"txt", text)),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Reply::Array),
            vec(inner.clone(), 0..5).prop_map(Reply::Set),
            vec(inner.clone(), 0..5).prop_map(Reply::Push),
            vec((inner.clone(), inner), 0..4).prop_map(Reply::Map),
        ]
    })
}

/// As it looks to who reads it: a stored value is a string like any other.
fn seen(reply: Reply) -> Reply {
    let all = |items: Vec<Reply>| items.into_iter().map(seen).collect();
    match reply {
        Reply::Value(bytes) => Reply::Bulk(bytes),
        Reply::Array(items) => Reply::Array(all(items)),
        Reply::Set(items) => Reply::Set(all(items)),
        Reply::Push(items) => Reply::Push(all(items)),
        Reply::Map(pairs) => {
            Reply::Map(pairs.into_iter().map(|(k, v)| (seen(k), seen(v))).collect())
        }
        other => other,
    }
}

/// What waits in `output`, taken in writes of at most `step` bytes.
fn drain(mut output: Output<Vec<u8>>, step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !output.is_empty() {
        let mut left = step;
        let before = bytes.len();
        for slice in output.slices() {
            let taken = &slice[..slice.len().min(left)];
            bytes.extend(taken);
            left -= taken.len();
        }
        assert!(
            bytes.len() > before,
            "{} bytes wait, none is offered",
            output.len()
        );
        output.advance(bytes.len() - before);
    }
    assert_eq!(output.pieces(), 0, "no empty pieces are left");
    bytes
}

fn encoded(replies: &[Reply], version: Version) -> Vec<u8> {
    let mut output = Output::new();
    for reply in replies {
        output.encode(reply.clone(), version);
    }
    drain(output, usize::MAX)
}

fn decode(bytes: &[u8], piece: usize) -> (Vec<Reply>, Option<ProtocolError>) {
    let mut decoder = ReplyDecoder::new(1 << 20);
    let (mut replies, mut buffer) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend(piece);
        loop {
            match decoder.step(&buffer) {
                Ok(DecodeStep::Reply { reply, used }) => {
                    buffer.drain(..used);
                    replies.push(reply);
                }
                Ok(DecodeStep::NeedMore { used }) => {
                    buffer.drain(..used);
                    break;
                }
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

fn of_peer2(frame: Peer2) -> Reply {
    match frame {
        Peer2::SimpleString(text) => Reply::Simple(text.into()),
        Peer2::Error(text) => Reply::Error(text.into_bytes().into()),
        Peer2::Integer(number) => Reply::Integer(number),
        Peer2::BulkString(bytes) => Reply::Bulk(bytes),
        Peer2::Array(items) => Reply::Array(items.into_iter().map(of_peer2).collect()),
        Peer2::Null => Reply::Null,
    }
}

/// `None` for what the peer keeps in a hashed collection, hence without order and repetitions.
fn of_peer3(frame: Peer3) -> Option<Reply> {
    let all = |items: Vec<Peer3>| items.into_iter().map(of_peer3).collect::<Option<Vec<_>>>();
    Some(match frame {
        Peer3::BlobString { data, .. } => Reply::Bulk(data),
        Peer3::SimpleString { data, .. } => Reply::Simple(data.into()),
        Peer3::SimpleError { data, .. } => Reply::Error(data.into_bytes().into()),
        Peer3::Boolean { data, .. } => Reply::Bool(data),
        Peer3::Null => Reply::Null,
        Peer3::Number { data, .. } => Reply::Integer(data),
        Peer3::Double { data, .. } => Reply::Double(data),
        Peer3::BigNumber { data, .. } => Reply::BigNumber(data),
        Peer3::VerbatimString { data, .. } => Reply::Verbatim(*b"txt", data),
        Peer3::Array { data, .. } => Reply::Array(all(data)?),
        Peer3::Push { data, .. } => Reply::Push(all(data)?),
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn replies_come_out_as_they_went_in(
        replies in vec(reply3(), 1..4),
        piece in 1_usize..50,
        step in 1_usize..30_000,
    ) {
        let bytes = encoded(&replies, Version::Resp3);
        let mut output = Output::new();
        for reply in &replies {
            output.encode(reply.clone(), Version::Resp3);
        }
        output.detach();
        prop_assert_eq!(&drain(output, step), &bytes, "the same bytes however they are taken");
        let wanted: Vec<Reply> = replies.into_iter().map(seen).collect();
        for piece in [piece, bytes.len()] {
            let (found, error) = decode(&bytes, piece);
            prop_assert_eq!(error, None);
            prop_assert_eq!(&found, &wanted);
        }
    }

    #[test]
    fn replies_in_pieces_equal_replies_at_once(
        bytes in vec(prop::sample::select(b"+-:$*%~>|=!_#,(\r\n0123tf".to_vec()), 0..60),
    ) {
        prop_assert_eq!(decode(&bytes, 1), decode(&bytes, bytes.len()));
    }

    #[test]
    fn another_decoder_reads_our_resp2(reply in reply2()) {
        let bytes = encoded(std::slice::from_ref(&reply), Version::Resp2);
        let (frame, used) = peer_decode(&bytes).unwrap().expect("a whole frame");
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(of_peer2(frame), seen(reply));
    }

    #[test]
    fn another_decoder_reads_our_resp3(reply in reply3()) {
        let bytes = encoded(std::slice::from_ref(&reply), Version::Resp3);
        // A string with line ends is one of the peer's own, and so is an empty verbatim text.
        let Ok(Some((frame, used))) = peer_decode3(&bytes) else {
            let shown = bytes.escape_ascii().to_string();
            prop_assert!(shown.contains("~") || shown.contains("%") || shown.contains("="), "{}", shown);
            return Ok(());
        };
        prop_assert_eq!(used, bytes.len());
        if let Some(found) = of_peer3(frame) {
            prop_assert_eq!(found, seen(reply));
        }
    }
}

#[test]
fn resp2_says_with_what_it_has_what_resp3_says_apart() {
    let flat = |reply: Reply| String::from_utf8(encoded(&[reply], Version::Resp2)).unwrap();
    let pair = (Reply::bulk(*b"k"), Reply::Bool(true));
    assert_eq!(flat(Reply::Map(vec![pair])), "*2\r\n$1\r\nk\r\n:1\r\n");
    assert_eq!(flat(Reply::Set(vec![Reply::Null])), "*1\r\n$-1\r\n");
    assert_eq!(flat(Reply::Push(vec![])), "*0\r\n");
    assert_eq!(flat(Reply::NullArray), "*-1\r\n");
    assert_eq!(flat(Reply::Double(1.5)), "$3\r\n1.5\r\n");
    assert_eq!(flat(Reply::BigNumber(b"12".to_vec())), "$2\r\n12\r\n");
    assert_eq!(flat(Reply::Verbatim(*b"txt", b"a".to_vec())), "$1\r\na\r\n");
    assert_eq!(
        flat(Reply::Error(b"ERR a\r\n+OK".as_slice().into())),
        "-ERR a  +OK\r\n"
    );
}

#[test]
fn large_values_are_sent_from_where_they_are() {
    struct Counted(std::sync::Arc<Vec<u8>>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let bytes = std::sync::Arc::new(vec![b'x'; 100_000]);
    let mut output = Output::new();
    output.encode(Reply::Value(Counted(bytes.clone())), Version::Resp2);
    assert_eq!(output.slices()[1].as_ptr(), bytes.as_ptr(), "no copy");
    assert_eq!(std::sync::Arc::strong_count(&bytes), 2);
    output.detach();
    assert_eq!(
        std::sync::Arc::strong_count(&bytes),
        1,
        "let go when asked to"
    );
    assert_eq!(output.len(), 9 + 100_000 + 2);
}

#[test]
fn malformed_replies_are_refused_by_name() {
    for (bytes, error) in [
        (&b"?\r\n"[..], ProtocolError::UnknownType { got: b'?' }),
        (b"\n", ProtocolError::UnknownType { got: b'\n' }),
        (b":1x\r\n", ProtocolError::BadReply),
        (b"$-2\r\n", ProtocolError::BadReply),
        (b"#x\r\n", ProtocolError::BadReply),
        (b"(1.5\r\n", ProtocolError::BadReply),
        (b"=3\r\ntxt\r\n", ProtocolError::BadReply),
        (b"+a\n", ProtocolError::ExpectedEnd),
        (b"$1\r\nabc", ProtocolError::ExpectedEnd),
        (b"$1048577\r\n", ProtocolError::ReplyLength),
        (b"*9223372036854775807\r\n", ProtocolError::ReplyLength),
    ] {
        assert_eq!(decode(bytes, 1).1, Some(error), "{}", bytes.escape_ascii());
    }
    let endless = vec![b'+'; 2 << 20];
    assert!(decode(&endless, 4096).1.is_some());
}

#[test]
fn attributes_are_read_and_dropped() {
    let (found, error) = decode(
        b"|1\r\n+ttl\r\n:3600\r\n*2\r\n:1\r\n|1\r\n+a\r\n+b\r\n:2\r\n",
        1,
    );
    assert_eq!(error, None);
    assert_eq!(
        found,
        [Reply::Array(vec![Reply::Integer(1), Reply::Integer(2)])]
    );
}

// Commands.

fn command_error(args: &[&str]) -> String {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    match Command::parse(&args) {
        Err(error) => error.to_string(),
        Ok(command) => panic!("{command:?}"),
    }
}

#[test]
fn errors_are_told_in_the_words_of_redis() {
    for (args, text) in [
        (
            &["foo"][..],
            "ERR unknown command 'foo', with args beginning with: ",
        ),
        (
            &["foo", "a", "b"],
            "ERR unknown command 'foo', with args beginning with: 'a' 'b' ",
        ),
        (&["get"], "ERR wrong number of arguments for 'get' command"),
        (
            &["GET", "a", "b"],
            "ERR wrong number of arguments for 'get' command",
        ),
        (
            &["ping", "a", "b"],
            "ERR wrong number of arguments for 'ping' command",
        ),
        (
            &["mset", "a"],
            "ERR wrong number of arguments for 'mset' command",
        ),
        (
            &["mset", "a", "b", "c"],
            "ERR wrong number of arguments for 'mset' command",
        ),
        (&["set", "a", "b", "nx", "xx"], "ERR syntax error"),
        (&["set", "a", "b", "ex", "1", "keepttl"], "ERR syntax error"),
        (&["set", "a", "b", "ex"], "ERR syntax error"),
        (
            &["set", "a", "b", "ex", "x"],
            "ERR value is not an integer or out of range",
        ),
        (
            &["set", "a", "b", "ex", "0"],
            "ERR invalid expire time in 'set' command",
        ),
        (
            &["set", "a", "b", "ex", "9223372036854775807"],
            "ERR invalid expire time in 'set' command",
        ),
        (
            &["setex", "a", "-1", "b"],
            "ERR invalid expire time in 'setex' command",
        ),
        (
            &["incrby", "a", "01"],
            "ERR value is not an integer or out of range",
        ),
        (
            &["decrby", "a", "-9223372036854775808"],
            "ERR decrement would overflow",
        ),
        (&["incrbyfloat", "a", "x"], "ERR value is not a valid float"),
        (&["setrange", "a", "-1", "b"], "ERR offset is out of range"),
        (&["scan", "x"], "ERR invalid cursor"),
        (&["scan", "-"], "ERR invalid cursor"),
        (&["scan", "0", "count", "0"], "ERR syntax error"),
        (
            &["select", "x"],
            "ERR value is not an integer or out of range",
        ),
        (
            &["client", "foo"],
            "ERR unknown subcommand 'foo'. Try CLIENT HELP.",
        ),
        (
            &["client", "setname"],
            "ERR wrong number of arguments for 'client|setname' command",
        ),
        (
            &["config", "rewrite"],
            "ERR unknown subcommand 'rewrite'. Try CONFIG HELP.",
        ),
        (
            &["command", "foo"],
            "ERR unknown subcommand 'foo'. Try COMMAND HELP.",
        ),
        (
            &["hello", "x"],
            "ERR Protocol version is not an integer or out of range",
        ),
        (&["hello", "3", "foo"], "ERR Syntax error in HELLO option"),
        (
            &["expire", "a", "1", "nx", "gt"],
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ),
        (&["kvs.cas", "a", "b", "c"], "ERR syntax error"),
    ] {
        assert_eq!(command_error(args), text);
    }
}

#[test]
fn what_is_said_back_is_bounded() {
    let long = "x".repeat(1 << 20);
    assert!(command_error(&[&long, &long, &long]).len() < 500);
    assert!(command_error(&["client", &long]).len() < 500);
    assert_eq!(Command::parse(&[]), Err(CommandError::Syntax));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Every name with any arguments is a command or an error, and its keys are arguments.
    #[test]
    fn no_arguments_panic(
        name in prop::sample::select(kvs::protocol::command::TABLE),
        args in vec(prop_oneof![
            vec(any::<u8>(), 0..8),
            prop::sample::select(vec!["0", "1", "-1", "NX", "GET", "EX", "COUNT", "AUTH", "INFO",
                "KILL", "SET", "ABSENT", "VALUE", "DEL", "9223372036854775807"])
                .prop_map(|word| word.as_bytes().to_vec()),
        ], 0..7),
    ) {
        let mut all: Vec<&[u8]> = vec![name.name.as_bytes()];
        all.extend(args.iter().map(Vec::as_slice));
        match Command::parse(&all) {
            Ok(_) => {
                prop_assert!(name.takes(all.len()));
                prop_assert!(name.key_positions(all.len()).all(|at| at > 0 && at < all.len()));
            }
            Err(error) => prop_assert!(error.to_string().starts_with("ERR ")),
        }
    }
}
