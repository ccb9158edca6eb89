//! Patterns of `KEYS`, `SCAN` and `CONFIG GET`: `*`, `?`, `[a-z]`, `[^x]`, `\` before any of those.

use crate::protocol::CommandError;

/// Longest pattern: bounds the steps that one key takes.
const BYTES_MAX: usize = 1024;

/// What one byte of a text, or any number of them, is compared with.
#[derive(Clone, Debug)]
enum Element {
    /// `*`: any bytes, also none.
    Many,
    /// `?`
    Any,
    Byte(u8),
    Class(Box<Class>),
}

/// The bytes that a class has, a bit for each.
type Class = [u64; 4];

impl Element {
    /// Whether it takes `byte`, if it takes one.
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Many => false,
            Self::Any => true,
            Self::Byte(same) => *same == byte,
            Self::Class(class) => class[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1,
        }
    }
}

/// A pattern that was read once, to be compared with many texts.
#[derive(Clone, Debug)]
pub struct Pattern<'a> {
    bytes: &'a [u8],
    elements: Vec<Element>,
}

impl<'a> Pattern<'a> {
    /// # Errors
    /// If it is longer than 1,024 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, CommandError> {
        if bytes.len() > BYTES_MAX {
            return Err(CommandError::Other("pattern is too long"));
        }
        let mut elements = Vec::new();
        let mut rest = bytes;
        while let [first, behind @ ..] = rest {
            rest = behind;
            elements.push(match (first, behind) {
                (b'*', _) if matches!(elements.last(), Some(Element::Many)) => continue,
                (b'*', _) => Element::Many,
                (b'?', _) => Element::Any,
                (b'\\', [escaped, behind @ ..]) => {
                    rest = behind;
                    Element::Byte(*escaped)
                }
                (b'[', _) => {
                    let (class, behind) = class(behind);
                    rest = behind;
                    Element::Class(Box::new(class))
                }
                (same, _) => Element::Byte(*same),
            });
        }
        Ok(Self { bytes, elements })
    }

    /// Whether `text` is like it. Steps: at most the product of both lengths.
    pub fn matches(&self, text: &[u8]) -> bool {
        let elements = self.elements.as_slice();
        let (mut p, mut t) = (0, 0);
        // Behind the last star, and where the text that it takes ends so far.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match elements.get(p) {
                Some(Element::Many) => {
                    star = Some((p + 1, t));
                    p += 1;
                    continue;
                }
                Some(element) if element.takes(text[t]) => {
                    (p, t) = (p + 1, t + 1);
                    continue;
                }
                _ => {}
            }
            // Not like this: let the last star take one more. An earlier one need not.
            let Some((behind, end)) = star else {
                return false;
            };
            star = Some((behind, end + 1));
            (p, t) = (behind, end + 1);
        }
        elements[p..]
            .iter()
            .all(|element| matches!(element, Element::Many))
    }

    /// The bytes that every key like it begins with.
    pub fn prefix(&self) -> &'a [u8] {
        let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
        let end = self.bytes.iter().position(special);
        &self.bytes[..end.unwrap_or(self.bytes.len())]
    }
}

/// The class whose bytes, behind its `[`, are the first of `rest`; and what is behind it. One without
/// an end ends with the pattern.
fn class(rest: &[u8]) -> (Class, &[u8]) {
    let (negated, mut rest) = match rest {
        [b'^', behind @ ..] => (true, behind),
        _ => (false, rest),
    };
    let mut class = [0; 4];
    let mut add = |byte: u8| class[usize::from(byte >> 6)] |= 1_u64 << (byte & 63);
    loop {
        rest = match rest {
            [] => break,
            [b']', behind @ ..] => {
                rest = behind;
                break;
            }
            [b'\\', escaped, behind @ ..] => {
                add(*escaped);
                behind
            }
            [from, b'-', to, behind @ ..] => {
                (*from.min(to)..=*from.max(to)).for_each(&mut add);
                behind
            }
            [same, behind @ ..] => {
                add(*same);
                behind
            }
        };
    }
    if negated {
        class = class.map(|bits| !bits);
    }
    (class, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(bytes: &[u8]) -> Pattern<'_> {
        Pattern::new(bytes).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        let like = |like: &str, text: &str| pattern(like.as_bytes()).matches(text.as_bytes());
        for (pattern, yes, no) in [
            ("", &[""][..], &["a"][..]),
            ("*", &["", "a", "abc"], &[]),
            ("a*", &["a", "ab"], &["", "b", "ba"]),
            ("*b", &["b", "ab", "bb"], &["", "ba"]),
            ("a*b*c", &["abc", "aXbYc", "abbcc"], &["ab", "acb", "abcd"]),
            ("h?llo", &["hello", "hallo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo"]),
            ("h[^e]llo", &["hallo", "hbllo"], &["hello"]),
            ("h[a-c]", &["ha", "hb", "hc"], &["hd", "h"]),
            ("h[c-a]", &["ha", "hc"], &["hd"]),
            ("[a\\]]", &["a", "]"], &["\\"]),
            ("\\*", &["*"], &["a", ""]),
            ("a\\", &["a\\"], &["a"]),
            ("[ab", &["a", "b"], &["c", ""]),
            ("*[a", &["a", "ba"], &["", "ab", "["]),
            ("[", &[], &["", "[", "a"]),
            ("[^", &["a", "["], &["", "ab"]),
            ("[^a-c]x", &["dx"], &["bx", "x"]),
            ("[a-]", &["]", "^", "a"], &["-", "b"]),
            ("[]a", &[], &["a", "]", "]a"]),
            ("[\\", &["\\"], &["", "["]),
            ("**", &["", "x"], &[]),
        ] {
            yes.iter()
                .for_each(|text| assert!(like(pattern, text), "{pattern} {text}"));
            no.iter()
                .for_each(|text| assert!(!like(pattern, text), "{pattern} {text}"));
        }
    }

    #[test]
    fn every_byte_is_in_its_classes_alone() {
        for byte in 0..=u8::MAX {
            for (like, wanted) in [
                (&[b'[', b'\\', byte, b']'][..], true),
                (&[b'[', b'^', b'\\', byte, b']'], false),
                (&[b'[', b'\\', byte.wrapping_add(1), b']'], false),
                (&[b'[', 0, b'-', 0xff, b']'], true),
                (b"?", true),
            ] {
                let found = pattern(like).matches(&[byte]);
                assert_eq!(found, wanted, "{byte} in {}", like.escape_ascii());
            }
        }
    }

    #[test]
    fn the_longest_patterns_take_no_longer() {
        let text = "a".repeat(65_535);
        let stars = "*a".repeat(511) + "b";
        let open = format!("*[{}", "b".repeat(1022));
        let many = format!("*{}b", "a".repeat(1022));
        for like in [stars, open, many] {
            assert!(!pattern(like.as_bytes()).matches(text.as_bytes()), "{like}");
        }
        assert!(Pattern::new(&[b'a'; 1025]).is_err());
    }

    #[test]
    fn a_prefix_is_what_stands_before_the_first_special_byte() {
        for (like, wanted) in [("abc", "abc"), ("ab*", "ab"), ("[a]", ""), ("a\\*", "a")] {
            assert_eq!(pattern(like.as_bytes()).prefix(), wanted.as_bytes());
        }
    }
}
