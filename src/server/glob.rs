//! Patterns of `KEYS`, `SCAN` and `CONFIG GET`: `*`, `?`, `[a-z]`, `[^x]`, `\` before any of those.

/// Whether `text` is like `pattern`. Time: at most the product of both lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and where the text that it takes ends so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(_) => {
                if let Some(next) = one(pattern, p, text[t]) {
                    (p, t) = (next, t + 1);
                    continue;
                }
            }
            None => {}
        }
        // Not like this: let the last star take one more. An earlier one need not.
        let Some((behind, end)) = star else {
            return false;
        };
        star = Some((behind, end + 1));
        (p, t) = (behind, end + 1);
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Position behind the element at `p` if it takes `byte`.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        b'[' => {
            let (found, next) = class(pattern, p + 1, byte);
            found.then_some(next)
        }
        same => (same == byte).then_some(p + 1),
    }
}

/// Whether the class that begins at `p` has `byte`, and the position behind it. One without an end
/// ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match &pattern[p.min(pattern.len())..] {
            [] => return (found != negated, pattern.len()),
            [b']', ..] => return (found != negated, p + 1),
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                p += 2;
            }
            [from, b'-', to, ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                p += 3;
            }
            [same, ..] => {
                found |= *same == byte;
                p += 1;
            }
        }
    }
}

/// The bytes that every key like `pattern` begins with.
pub fn prefix(pattern: &[u8]) -> &[u8] {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let end = pattern.iter().position(special);
    &pattern[..end.unwrap_or(pattern.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        let like = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
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
            ("**", &["", "x"], &[]),
        ] {
            yes.iter()
                .for_each(|text| assert!(like(pattern, text), "{pattern} {text}"));
            no.iter()
                .for_each(|text| assert!(!like(pattern, text), "{pattern} {text}"));
        }
    }

    #[test]
    fn many_stars_take_no_longer() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(20_000).as_bytes()));
    }

    #[test]
    fn a_prefix_is_what_stands_before_the_first_special_byte() {
        for (pattern, wanted) in [("abc", "abc"), ("ab*", "ab"), ("[a]", ""), ("a\\*", "a")] {
            assert_eq!(prefix(pattern.as_bytes()), wanted.as_bytes());
        }
    }
}
