//! Bytes in text: keys on the command line, and members of JSON objects.
//!
//! Bytes that are UTF-8 stand as they are; other bytes stand in base64 under a member whose name
//! ends with `_b64`. So any bytes go out and come back, and text stays readable.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::exit::Failure;

/// How a key stands on the command line and in lines of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Plain,
    /// Hexadecimal digits.
    Hex,
    /// Base64 with padding, RFC 4648 section 4.
    Base64,
}

impl Coding {
    /// The bytes that an argument stands for.
    pub fn decode(self, argument: &OsStr) -> Result<Cow<'_, [u8]>, Failure> {
        let bytes = argument.as_bytes();
        let (decoded, name) = match self {
            Self::Plain => return Ok(Cow::Borrowed(bytes)),
            Self::Hex => (HEXLOWER_PERMISSIVE.decode(bytes), "hexadecimal"),
            Self::Base64 => (BASE64.decode(bytes), "base64"),
        };
        match decoded {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(error) => Err(Failure::Usage(format!(
                "the key `{}` is not {name}: {error}",
                argument.display()
            ))),
        }
    }

    /// The text that stands for `bytes`.
    pub fn encode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Plain => Cow::Borrowed(bytes),
            Self::Hex => Cow::Owned(HEXLOWER.encode(bytes).into_bytes()),
            Self::Base64 => Cow::Owned(BASE64.encode(bytes).into_bytes()),
        }
    }
}

/// One JSON object that is being written: members in the order they come.
pub struct Object<'a> {
    to: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object behind what `to` holds.
    pub fn new(to: &'a mut Vec<u8>) -> Self {
        to.push(b'{');
        Self { to, empty: true }
    }

    /// Our own names need no escaping.
    fn name(&mut self, name: &str, suffix: &str) {
        if !self.empty {
            self.to.push(b',');
        }
        self.empty = false;
        self.to.push(b'"');
        self.to.extend_from_slice(name.as_bytes());
        self.to.extend_from_slice(suffix.as_bytes());
        self.to.extend_from_slice(b"\":");
    }

    /// A member `name` with text, or `name_b64` with what is no text.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                self.name(name, "");
                string(self.to, text);
            }
            Err(_) => {
                self.name(name, "_b64");
                self.to.push(b'"');
                let from = self.to.len();
                self.to.resize(from + BASE64.encode_len(bytes.len()), 0);
                BASE64.encode_mut(bytes, &mut self.to[from..]);
                self.to.push(b'"');
            }
        }
        self
    }

    /// A member with text.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.name(name, "");
        string(self.to, text);
        self
    }

    /// A member with anything whose `Display` is JSON: a number, a boolean, null, an array of these.
    pub fn plain(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        use io::Write;
        self.name(name, "");
        // Writing into a Vec cannot fail.
        let _ = write!(self.to, "{value}");
        self
    }

    /// A member with an array of objects, each written by `write`.
    pub fn objects<T>(
        &mut self,
        name: &str,
        items: &[T],
        write: impl Fn(&T, &mut Object<'_>),
    ) -> &mut Self {
        self.name(name, "");
        self.to.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.to.push(b',');
            }
            let mut object = Object::new(self.to);
            write(item, &mut object);
            object.end();
        }
        self.to.push(b']');
        self
    }

    /// Ends the object; no line feed.
    pub fn end(self) {
        self.to.push(b'}');
    }
}

fn string(to: &mut Vec<u8>, text: &str) {
    // A string is always JSON, and a Vec takes everything.
    let written = serde_json::to_writer(to, text);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(write: impl FnOnce(&mut Object<'_>)) -> String {
        let mut to = Vec::new();
        let mut object = Object::new(&mut to);
        write(&mut object);
        object.end();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn text_stands_as_it_is_and_bytes_in_base64() {
        let line = object(|o| {
            o.bytes("key", "grün \"\n".as_bytes())
                .bytes("value", b"\xff\0");
        });
        assert_eq!(line, r#"{"key":"grün \"\n","value_b64":"/wA="}"#);
        assert_eq!(object(|_| {}), "{}");
        let nested = object(|o| {
            o.plain("n", 1).objects("list", &[1, 2], |i, o| {
                o.plain("i", i);
            });
        });
        assert_eq!(nested, r#"{"n":1,"list":[{"i":1},{"i":2}]}"#);
    }

    #[test]
    fn keys_are_decoded_or_refused_by_name() {
        let decode = |coding: Coding, text: &str| {
            let decoded = coding.decode(OsStr::new(text)).map(Cow::into_owned);
            decoded.map_err(|failure| format!("{failure:?}"))
        };
        assert_eq!(decode(Coding::Plain, "00"), Ok(b"00".to_vec()));
        assert_eq!(decode(Coding::Hex, "00fF"), Ok(vec![0, 255]));
        assert_eq!(decode(Coding::Base64, "AP8="), Ok(vec![0, 255]));
        assert_eq!(decode(Coding::Hex, ""), Ok(vec![]));
        for (coding, wrong) in [
            (Coding::Hex, "0"),
            (Coding::Hex, "zz"),
            (Coding::Base64, "AP8"),
        ] {
            let error = decode(coding, wrong).unwrap_err();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let every: Vec<u8> = (0..=255).collect();
        for coding in [Coding::Plain, Coding::Hex, Coding::Base64] {
            let text = coding.encode(&every);
            assert_eq!(
                &*coding.decode(OsStr::from_bytes(&text)).unwrap(),
                &every[..]
            );
        }
    }
}
