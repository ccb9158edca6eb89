//! Reading Rust source well enough for house rules: what is code, and which paths it names.
//!
//! Not a parser. Comments, strings and character literals are blanked out, the rest is cut into
//! words and signs, and paths that start in this crate (`crate::`, `super::`, `self::`, a child
//! module's name) are collected, `use` trees expanded.

/// `text` with comments and the insides of literals replaced by spaces; lines stay where they are.
pub fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while i < chars.len() {
        let rest = &chars[i..];
        let after_word = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_');
        let len = match rest {
            ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest, '"'),
            ['r' | 'b' | 'c', ..] if !after_word => raw_string(rest).unwrap_or(0),
            // 'x' and '\n' are literals, 'a is a lifetime.
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest, '\''),
            _ => 0,
        };
        match len {
            0 => {
                out.push(chars[i]);
                i += 1;
            }
            _ => {
                rest[..len].iter().for_each(|c| blank(&mut out, *c));
                i += len;
            }
        }
    }
    out
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match rest[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] if depth == 1 => return i + 2,
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    i
}

fn quoted(rest: &[char], end: char) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != end {
        i += if rest[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

/// `r"…"`, `br#"…"#`, `b"…"`, `b'…'`, `c"…"`; `None` if it is something else.
fn raw_string(rest: &[char]) -> Option<usize> {
    let prefix = rest
        .iter()
        .take_while(|c| matches!(c, 'r' | 'b' | 'c'))
        .count();
    let raw = rest[..prefix].contains(&'r');
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    match rest.get(prefix + hashes)? {
        '"' if raw => {
            let start = prefix + hashes + 1;
            let closes =
                |i: usize| rest[i] == '"' && rest[i + 1..].iter().take(hashes).all(|c| *c == '#');
            let end = (start..rest.len()).find(|i| closes(*i))?;
            Some(end + 1 + hashes)
        }
        quote @ ('"' | '\'') if hashes == 0 => Some(prefix + quoted(&rest[prefix..], *quote)),
        _ => None,
    }
}

/// A path into this crate that a file names.
#[derive(Debug, PartialEq, Eq)]
pub struct Mention {
    /// From the crate root, without `crate`; the last segment of a glob is `*`.
    pub path: Vec<String>,
    /// For `pub use`: inline modules of the file, then the name it gets there.
    pub exported_as: Option<Vec<String>>,
    /// Inside `#[cfg(test)] mod … { }`.
    pub in_test: bool,
}

/// Words, and signs one by one (`::` is one sign).
fn tokens(code: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            let mut word = String::from(c);
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(c);
            }
            out.push(word);
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            out.push("::".into());
        } else if !c.is_whitespace() {
            out.push(c.into());
        }
    }
    out
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Paths into the crate that `text`, the file of `module` with these child modules, names.
pub fn mentions(text: &str, module: &[String], children: &[String]) -> Vec<Mention> {
    let tokens = tokens(&code_only(text));
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    let mut found = Vec::new();
    // One entry per open brace: the inline module it opens, and whether that is a test.
    let mut braces: Vec<(Option<String>, bool)> = Vec::new();
    let mut test_next = false;
    let mut i = 0;
    while i < tokens.len() {
        let inline: Vec<String> = braces.iter().filter_map(|(name, _)| name.clone()).collect();
        let in_test = braces.iter().any(|(_, test)| *test);
        let here = [module, &inline].concat();
        let children = if inline.is_empty() { children } else { &[] };
        let resolve = |path: &[String]| absolute(path, &here, children);
        match at(i) {
            "#" if (i..i + 7)
                .map(at)
                .eq(["#", "[", "cfg", "(", "test", ")", "]"]) =>
            {
                test_next = true;
                i += 7;
            }
            "mod" if at(i + 2) == "{" => {
                braces.push((Some(at(i + 1).to_owned()), test_next));
                test_next = false;
                i += 3;
            }
            "use" if at(i + 1) != "<" => {
                let exported = at(i.wrapping_sub(1)) == "pub" || at(i.wrapping_sub(1)) == ")";
                let end = (i..tokens.len())
                    .find(|i| at(*i) == ";")
                    .unwrap_or(tokens.len());
                let mut tree = Vec::new();
                use_tree(&tokens[i + 1..end], &[], &mut tree);
                for (path, name) in tree {
                    let Some(path) = resolve(&path) else { continue };
                    let glob = path.last().is_some_and(|last| last == "*");
                    let exported_as = (exported && !glob).then(|| [&inline[..], &[name]].concat());
                    found.push(Mention {
                        path,
                        exported_as,
                        in_test,
                    });
                }
                test_next = false;
                i = end + 1;
            }
            "{" => {
                braces.push((None, false));
                i += 1;
            }
            "}" => {
                braces.pop();
                i += 1;
            }
            word if is_word(word)
                && at(i + 1) == "::"
                && !["::", "."].contains(&at(i.wrapping_sub(1))) =>
            {
                let mut path = vec![word.to_owned()];
                i += 1;
                while at(i) == "::" && is_word(at(i + 1)) {
                    path.push(at(i + 1).to_owned());
                    i += 2;
                }
                if let Some(path) = resolve(&path) {
                    found.push(Mention {
                        path,
                        exported_as: None,
                        in_test,
                    });
                }
            }
            ";" => {
                test_next = false;
                i += 1;
            }
            _ => i += 1,
        }
    }
    found
}

/// Expands a `use` tree into paths and the names they get.
fn use_tree(tokens: &[String], prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let mut depth = 0;
    let mut start = 0;
    for i in 0..=tokens.len() {
        match tokens.get(i).map(String::as_str) {
            Some("{") => depth += 1,
            Some("}") => depth -= 1,
            Some(",") | None if depth == 0 => {
                use_branch(&tokens[start..i], prefix, out);
                start = i + 1;
            }
            _ => {}
        }
    }
}

fn use_branch(tokens: &[String], prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let mut path = prefix.to_vec();
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i].as_str() {
            "::" => {}
            "{" => return use_tree(&tokens[i + 1..tokens.len() - 1], &path, out),
            "as" => {
                out.push((path, tokens[i + 1].clone()));
                return;
            }
            "self" if !path.is_empty() => {}
            word => path.push(word.to_owned()),
        }
        i += 1;
    }
    if let Some(name) = path.last().cloned() {
        out.push((path, name));
    }
}

/// The path from the crate root; `None` for one into another crate.
fn absolute(path: &[String], here: &[String], children: &[String]) -> Option<Vec<String>> {
    let mut base = here.to_vec();
    let rest = match path.first()?.as_str() {
        "crate" => {
            base.clear();
            &path[1..]
        }
        "self" => &path[1..],
        "super" => {
            let ups = path.iter().take_while(|s| *s == "super").count();
            base.truncate(here.len().saturating_sub(ups));
            &path[ups..]
        }
        child if children.iter().any(|c| c == child) => path,
        _ => return None,
    };
    base.extend_from_slice(rest);
    Some(base)
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = r##"a // crate::x
/* b /* c */ d */ "e \" f" r#"g " h"# 'i' '\'' &'life b"j" b'k' m"##;
    let code = code_only(text);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "&'life", "m"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn every_way_to_name_a_module_is_found() {
    let text = "
        use crate::storage::{fs::{Fs, File as F}, map::*, self};
        pub use child::Thing;
        use std::io;
        fn f() -> super::Up { crate::index::get(child::x(), other::y(), a.crate_x) }
        #[cfg(test)]
        mod tests { use super::*; use crate::top; }
        mod plain { fn g() { super::super::h() } }
    ";
    let module = ["engine".to_owned(), "core".to_owned()];
    let found = mentions(text, &module, &["child".to_owned()]);
    let shown: Vec<String> = found
        .iter()
        .map(|m| {
            let test = if m.in_test { " (test)" } else { "" };
            let name = m
                .exported_as
                .as_ref()
                .map(|n| format!(" as {}", n.join("::")));
            format!("{}{}{test}", m.path.join("::"), name.unwrap_or_default())
        })
        .collect();
    assert_eq!(
        shown,
        [
            "storage::fs::Fs",
            "storage::fs::File",
            "storage::map::*",
            "storage",
            "engine::core::child::Thing as Thing",
            "engine::Up",
            "index::get",
            "engine::core::child::x",
            "engine::core::* (test)",
            "top (test)",
            "engine::h",
        ]
    );
}
