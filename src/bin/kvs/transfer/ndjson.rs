//! One JSON object a line: `{"key":"..","value":".."}`, with `key_b64` and `value_b64` in base64 for
//! bytes that are not UTF-8 (RFC 4648 section 4, with padding).
//!
//! A key that expires has a third member, `expires_at`, in milliseconds since 1970.
//!
//! Members come in any order; one of each pair must be there, nothing else may.

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::Deserialize;

use crate::json::Object;

/// A string that borrows from the line unless it has escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `key` and `value`")]
struct Line<'a> {
    #[serde(borrow)]
    key: Option<Text<'a>>,
    #[serde(borrow)]
    key_b64: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
    #[serde(borrow)]
    value_b64: Option<Text<'a>>,
    expires_at: Option<u64>,
}

/// Borrowed from the line where they stand in it as they are.
pub type Bytes<'a> = Cow<'a, [u8]>;

/// A key, its value, and when it expires.
pub type Pair<'a> = (Bytes<'a>, Bytes<'a>, Option<u64>);

/// The pair of a line; `None` for a blank one.
///
/// # Errors
/// What is wrong with it, for a person, with the column if that is known.
pub fn parse(line: &[u8]) -> Result<Option<Pair<'_>>, String> {
    let Some(line) = object::<Line<'_>>(line)? else {
        return Ok(None);
    };
    Ok(Some((
        bytes("key", line.key, line.key_b64)?,
        bytes("value", line.value, line.value_b64)?,
        line.expires_at,
    )))
}

/// The object that a line is; `None` for a blank one.
pub(super) fn object<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<Option<T>, String> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    // Its elements would be taken for the fields.
    if line.trim_ascii_start().starts_with(b"[") {
        return Err("column 1: an object is expected".to_owned());
    }
    let object = serde_json::from_slice(line).map_err(|error| {
        // The line's number is ours to say, its own is always 1.
        let text = error.to_string();
        match text.rsplit_once(" at line ") {
            Some((reason, _)) => format!("column {}: {reason}", error.column()),
            None => text,
        }
    })?;
    Ok(Some(object))
}

pub(super) fn bytes<'a>(
    name: &str,
    text: Option<Text<'a>>,
    base64: Option<Text<'a>>,
) -> Result<Bytes<'a>, String> {
    match (text, base64) {
        (Some(Text(Cow::Borrowed(text))), None) => Ok(Cow::Borrowed(text.as_bytes())),
        (Some(Text(Cow::Owned(text))), None) => Ok(Cow::Owned(text.into_bytes())),
        (None, Some(Text(base64))) => BASE64
            .decode(base64.as_bytes())
            .map(Cow::Owned)
            .map_err(|error| format!("`{name}_b64` is not base64: {error}")),
        (None, None) => Err(format!("neither `{name}` nor `{name}_b64`")),
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_b64`")),
    }
}

/// The line of a pair, line feed included.
pub fn write(key: &[u8], value: &[u8], expires_at: Option<u64>, to: &mut Vec<u8>) {
    let mut object = Object::new(to);
    object.bytes("key", key).bytes("value", value);
    if let Some(ms) = expires_at {
        object.plain("expires_at", ms);
    }
    object.end();
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (key, value, expires_at) = parse(line.as_bytes())?.expect("not blank");
        assert_eq!(expires_at, None);
        Ok((key.into_owned(), value.into_owned()))
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(key: Vec<u8>, value: Vec<u8>, text: String, at: Option<u64>) {
            for (key, value) in [(&key[..], &value[..]), (text.as_bytes(), &value), (&key, text.as_bytes())] {
                let mut line = Vec::new();
                write(key, value, at, &mut line);
                prop_assert_eq!(line.pop(), Some(b'\n'));
                prop_assert!(!line.contains(&b'\n'));
                let (k, v, expires_at) = parse(&line).unwrap().unwrap();
                prop_assert_eq!((&*k, &*v, expires_at), (key, value, at));
            }
        }

        #[test]
        fn no_line_is_a_panic(line: Vec<u8>) {
            let _ = parse(&line);
        }
    }

    #[test]
    fn members_come_in_any_order_and_blank_lines_are_none() {
        assert_eq!(
            parsed(r#" {"value_b64":"/wA=","key":"\u0061\n"} "#),
            Ok((b"a\n".to_vec(), vec![255, 0]))
        );
        assert_eq!(parse(b" \t\r"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, reason) in [
            ("{", "column 1: EOF while parsing an object"),
            (
                "1",
                "column 1: invalid type: integer `1`, expected an object with `key` and `value`",
            ),
            ("{}", "neither `key` nor `key_b64`"),
            (r#"{"key":"a"}"#, "neither `value` nor `value_b64`"),
            (
                r#"{"key":"a","key_b64":"YQ==","value":""}"#,
                "both `key` and `key_b64`",
            ),
            (
                r#"{"key":"a","value_b64":"YQ"}"#,
                "`value_b64` is not base64: ",
            ),
            (
                r#"{"key":"a","key":"b","value":""}"#,
                "duplicate field `key`",
            ),
            (r#"{"key":"a","value":"b","ttl":1}"#, "unknown field `ttl`"),
            (r#"{"key":"a","value":1}"#, "invalid type: integer `1`"),
            (
                r#"{"key":"a","value":"b","expires_at":-1}"#,
                "invalid value: integer `-1`, expected u64",
            ),
            (
                r#"{"key":"a","value":"b"} x"#,
                "column 25: trailing characters",
            ),
            (r#"{"key":"\ud800","value":""}"#, "hex escape"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
            assert!(!error.contains("line 1"), "{error}");
        }
        assert!(parse(b"{\"key\":\"\xff\",\"value\":\"\"}").is_err());
    }
}
