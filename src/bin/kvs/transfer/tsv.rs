//! Key, tab, value, a line each. Tab, line feed, carriage return and backslash in them stand as `\t`,
//! `\n`, `\r` and `\\`; every other byte stands for itself, UTF-8 or not.

use std::borrow::Cow;

type Bytes<'a> = Cow<'a, [u8]>;

/// Key and value of a line.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn parse(line: &[u8]) -> Result<(Bytes<'_>, Bytes<'_>), String> {
    let mut fields = line.split(|&byte| byte == b'\t');
    match (fields.next(), fields.next(), fields.next()) {
        (Some(key), Some(value), None) => Ok((unescaped(key)?, unescaped(value)?)),
        (_, None, _) => Err("no tab between key and value".to_owned()),
        _ => Err("more than one tab; a tab in a key or value is written `\\t`".to_owned()),
    }
}

fn unescaped(field: &[u8]) -> Result<Bytes<'_>, String> {
    if !field.contains(&b'\\') {
        return Ok(Cow::Borrowed(field));
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'\\') => b'\\',
                Some(other) => {
                    return Err(format!(
                        "`\\{}` is no escape; a backslash is written `\\\\`",
                        other.escape_ascii()
                    ));
                }
                None => return Err("a lone backslash at the end of a field".to_owned()),
            },
            byte => byte,
        });
    }
    Ok(Cow::Owned(bytes))
}

/// The line of a pair, line feed included.
pub fn write(key: &[u8], value: &[u8], to: &mut Vec<u8>) {
    escape(key, to);
    to.push(b'\t');
    escape(value, to);
    to.push(b'\n');
}

fn escape(mut bytes: &[u8], to: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b'\\');
    while let Some(at) = bytes.iter().position(special) {
        to.extend_from_slice(&bytes[..at]);
        to.extend_from_slice(match bytes[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        bytes = &bytes[at + 1..];
    }
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_come_back(
            key in "[\\\\\t\r\na]{0,6}".prop_map(String::into_bytes).boxed()
                .prop_union(any::<Vec<u8>>().boxed()),
            value: Vec<u8>,
        ) {
            let mut line = Vec::new();
            write(&key, &value, &mut line);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            let (k, v) = parse(&line).unwrap();
            prop_assert_eq!((&*k, &*v), (&key[..], &value[..]));
        }

        #[test]
        fn no_line_is_a_panic(line: Vec<u8>) {
            let _ = parse(&line);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, reason) in [
            (&b""[..], "no tab"),
            (b"key", "no tab"),
            (b"a\tb\tc", "more than one tab"),
            (b"a\\x\tb", "`\\x` is no escape"),
            (b"a\\\xff\tb", "`\\\\xff` is no escape"),
            (b"a\tb\\", "a lone backslash"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(reason), "{line:?}: {error}");
        }
        let (key, value) = parse(b"\t").unwrap();
        assert!(key.is_empty() && value.is_empty());
    }
}
