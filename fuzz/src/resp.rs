//! The protocol: whatever pieces the bytes come in, the same comes out; what is accepted is what it
//! looks like; nothing is allocated by what is only announced.

use kvs::protocol::command::lookup;
use kvs::protocol::{
    Command, DecodeStep, Limits, Output, ProtocolError, Reply, ReplyDecoder, RequestParser, Step,
    Version, encode_request,
};

use crate::input::Input;

/// Longest reply of the targets: small, so that limits are reached.
const REPLY_BYTES_MAX: usize = 1 << 16;

type Request = Vec<Vec<u8>>;

fn parse(
    pieces: impl Iterator<Item = usize>,
    bytes: &[u8],
    limits: Limits,
) -> (Vec<Request>, Option<ProtocolError>) {
    let mut parser = RequestParser::new(limits);
    let (mut requests, mut start, mut end) = (Vec::new(), 0, 0);
    for piece in pieces {
        end = bytes.len().min(end + piece);
        loop {
            let rest = &bytes[start..end];
            match parser.step(rest) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Request { args, used }) => {
                    assert!(used > 0 && used <= rest.len());
                    assert!(args.len() <= limits.args);
                    let own = |range: &std::ops::Range<usize>| rest[range.clone()].to_vec();
                    requests.push(args.iter().map(own).collect());
                    start += used;
                }
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

/// Requests: in pieces as at once, and again the same once framed anew.
pub fn resp_request(input: &[u8]) {
    let mut input = Input(input);
    let limits = match input.u8() % 3 {
        0 => Limits::BEFORE_AUTH,
        1 => Limits {
            args: 4,
            arg_bytes: 16,
            request_bytes: 40,
            before_auth: false,
        },
        _ => Limits::default(),
    };
    let piece = usize::from(input.u8() % 16) + 1;
    let bytes = input.rest();
    let whole = parse([bytes.len()].into_iter(), bytes, limits);
    assert_eq!(parse((0..bytes.len()).map(|_| 1), bytes, limits), whole);
    let pieces = (0..bytes.len().div_ceil(piece)).map(|_| piece);
    assert_eq!(parse(pieces, bytes, limits), whole);

    let asked: Vec<Request> = whole.0.into_iter().filter(|r| !r.is_empty()).collect();
    let mut framed = Vec::new();
    asked
        .iter()
        .for_each(|request| encode_request(request, &mut framed));
    let again = parse([framed.len()].into_iter(), &framed, Limits::default());
    assert_eq!(again, (asked, None));
}

fn decode(bytes: &[u8], piece: usize) -> (Vec<Reply>, Option<ProtocolError>) {
    let mut decoder = ReplyDecoder::new(REPLY_BYTES_MAX);
    let (mut replies, mut start, mut end) = (Vec::new(), 0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        loop {
            match decoder.step(&bytes[start..end]) {
                Ok(DecodeStep::Reply { reply, used }) => {
                    start += used;
                    replies.push(reply);
                }
                Ok(DecodeStep::NeedMore { used }) => {
                    start += used;
                    break;
                }
                Err(error) => return (replies, Some(error)),
            }
            assert!(start <= end);
        }
    }
    (replies, None)
}

fn encode(replies: &[Reply], version: Version) -> Vec<u8> {
    let mut output = Output::new();
    for reply in replies {
        output.encode(reply.clone(), version);
    }
    let mut bytes = Vec::new();
    while !output.is_empty() {
        let first = output.first();
        assert!(!first.is_empty());
        bytes.extend(first);
        let len = first.len();
        output.advance(len);
    }
    bytes
}

/// What RESP3 does not tell apart: two kinds of nothing; and numbers that are none equal nothing.
fn plain(reply: Reply) -> Option<Reply> {
    let all = |items: Vec<Reply>| items.into_iter().map(plain).collect::<Option<Vec<_>>>();
    Some(match reply {
        Reply::NullArray => Reply::Null,
        Reply::Double(number) if number.is_nan() => return None,
        // Line ends in these are not sent.
        Reply::Error(text) if text.iter().any(|b| b"\r\n".contains(b)) => return None,
        Reply::Simple(text) if text.contains(&b'\r') => return None,
        Reply::Array(items) => Reply::Array(all(items)?),
        Reply::Set(items) => Reply::Set(all(items)?),
        Reply::Push(items) => Reply::Push(all(items)?),
        Reply::Map(pairs) => {
            let pair = |(key, value)| Some((plain(key)?, plain(value)?));
            Reply::Map(pairs.into_iter().map(pair).collect::<Option<_>>()?)
        }
        other => other,
    })
}

/// Replies: in pieces as at once; what was read is read again from what it is written as.
pub fn resp_reply(input: &[u8]) {
    let mut input = Input(input);
    let piece = usize::from(input.u8() % 16) + 1;
    let bytes = input.rest();
    let (whole, error) = decode(bytes, bytes.len().max(1));
    // Compared as text: a number that is none equals nothing.
    let shown = format!("{whole:?} {error:?}");
    for piece in [1, piece] {
        let (found, error) = decode(bytes, piece);
        assert_eq!(format!("{found:?} {error:?}"), shown);
    }
    let Some(whole) = whole.into_iter().map(plain).collect::<Option<Vec<_>>>() else {
        return;
    };
    let written = encode(&whole, Version::Resp3);
    if written.len() < REPLY_BYTES_MAX {
        assert_eq!(
            decode(&written, written.len().max(1)),
            (whole.clone(), None)
        );
        // RESP2 has no way to say some things, but what it says is well formed.
        let (replies, error) = decode(&encode(&whole, Version::Resp2), usize::MAX >> 1);
        assert_eq!((replies.len(), error), (whole.len(), None));
    }
}

/// Commands: any arguments are a command or an error that a client understands, of bounded length.
pub fn command(input: &[u8]) {
    let args: Vec<&[u8]> = input.split(|byte| *byte == b' ').take(64).collect();
    let spec = lookup(args[0]);
    match Command::parse(&args) {
        Ok(_) => {
            let spec = spec.expect("what is parsed is in the table");
            assert!(spec.takes(args.len()));
            for at in spec.key_positions(args.len()) {
                assert!(at > 0 && at < args.len());
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("ERR ") && text.len() < 4096, "{text}");
        }
    }
}
