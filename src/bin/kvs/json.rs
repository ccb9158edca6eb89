//! JSON objects with any bytes in them.
//!
//! Bytes that are UTF-8 stand as they are; other bytes stand in base64 under a member whose name
//! ends with `_b64`. So any bytes go out and come back, and text stays readable.

use std::io::Write;

use data_encoding::BASE64;

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
}
