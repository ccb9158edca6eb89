//! Which file of the library needs which: for the order of the layers and for import cycles.
//!
//! A `pub use` is a window, not a need: who imports a name through it needs the file where the name
//! lives. So a module's `mod.rs` may show its children and be used by them.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Mention, mentions};

/// Name of a layer, then the layers it may name. `""` is the crate root: the public face.
pub type Layers<'a> = &'a [(&'a str, &'a [&'a str])];

/// The files of the library, by the module each of them is.
pub struct Library {
    files: BTreeMap<Vec<String>, (String, Vec<Mention>)>,
}

/// `storage/sim/mod.rs` -> `[storage, sim]`.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

impl Library {
    /// Of files given by path below `src/` and text.
    pub fn new(sources: &[(String, String)]) -> Self {
        let modules: Vec<Vec<String>> = sources.iter().map(|(file, _)| module_of(file)).collect();
        let mut files = BTreeMap::new();
        for ((file, text), module) in sources.iter().zip(&modules) {
            let children: Vec<String> = modules
                .iter()
                .filter(|other| other.len() == module.len() + 1 && other.starts_with(module))
                .filter_map(|other| other.last().cloned())
                .collect();
            let found = mentions(text, module, &children);
            files.insert(module.clone(), (file.clone(), found));
        }
        Self { files }
    }

    /// Every line that names a layer it may not name.
    pub fn against_the_order(&self, layers: Layers<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        let tops: BTreeSet<&String> = self.files.keys().filter_map(|m| m.first()).collect();
        for (module, (file, mentions)) in &self.files {
            let Some(own) = module.first() else { continue };
            let Some((_, allowed)) = layers.iter().find(|(name, _)| name == own) else {
                wrong.push(format!(
                    "{file}: `{own}` has no place in the order of the layers"
                ));
                continue;
            };
            for mention in mentions {
                let target = match mention.path.first() {
                    Some(top) if tops.contains(top) => top.as_str(),
                    _ => "",
                };
                if target != own && !allowed.contains(&target) {
                    wrong.push(format!("{file}: names crate::{}", mention.path.join("::")));
                }
            }
        }
        wrong
    }

    /// The file where the name at the end of `path` lives.
    fn home(&self, path: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        // A chain of windows is short; the bound only ends a circle.
        for _ in 0..8 {
            let cut = (0..=path.len())
                .rev()
                .find(|n| self.files.contains_key(&path[..*n]));
            let (module, rest) = path.split_at(cut.unwrap_or(0));
            let shown = self.files.get(module).and_then(|(_, mentions)| {
                mentions.iter().find_map(|mention| {
                    let name = mention.exported_as.as_ref()?;
                    let rest = rest.strip_prefix(&name[..])?;
                    Some([&mention.path[..], rest].concat())
                })
            });
            match shown {
                Some(behind) if !rest.is_empty() => path = behind,
                _ => return module.to_vec(),
            }
        }
        path
    }

    /// File -> files it needs, tests left out.
    pub fn needs(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (module, (file, mentions)) in &self.files {
            let needed = needs.entry(file).or_default();
            if module.iter().any(|part| part == "tests") {
                continue;
            }
            for mention in mentions
                .iter()
                .filter(|m| !m.in_test && m.exported_as.is_none())
            {
                if let Some((other, _)) = self.files.get(&self.home(&mention.path))
                    && other != file
                {
                    needed.insert(other);
                }
            }
        }
        needs
    }

    /// Sets of files below `folder` each of which needs, over however many steps, all others of its
    /// set.
    pub fn cycles(&self, folder: &str) -> Vec<BTreeSet<&str>> {
        let needs = self.needs();
        let reach = |from: &'_ str| {
            let mut seen = BTreeSet::new();
            let mut todo: Vec<&str> = needs.get(from).into_iter().flatten().copied().collect();
            while let Some(file) = todo.pop() {
                if seen.insert(file) {
                    todo.extend(needs.get(file).into_iter().flatten());
                }
            }
            seen
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            needs.keys().map(|file| (*file, reach(file))).collect();
        let mut cycles: Vec<BTreeSet<&str>> = Vec::new();
        for (file, seen) in &reached {
            let done = cycles.iter().any(|cycle| cycle.contains(file));
            if file.starts_with(folder) && seen.contains(file) && !done {
                let back = |other: &&&str| reached[**other].contains(file);
                cycles.push(seen.iter().filter(back).copied().collect());
            }
        }
        cycles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(sources: &[(&str, &str)]) -> Library {
        let own = |(file, text): &(&str, &str)| (file.to_string(), text.to_string());
        Library::new(&sources.iter().map(own).collect::<Vec<_>>())
    }

    const LAYERS: Layers<'static> = &[("low", &[]), ("high", &["low"]), ("face", &[""])];

    #[test]
    fn a_lower_layer_may_not_name_a_higher_one_in_any_form() {
        let good = library(&[
            ("lib.rs", "pub use high::X; pub use face::Y;"),
            ("low/mod.rs", "use std::io; //! crate::high"),
            (
                "high/mod.rs",
                "use crate::low::A; fn f() { crate::low::b() }",
            ),
            ("face/mod.rs", "use crate::X;"),
        ]);
        assert_eq!(good.against_the_order(LAYERS), [""; 0]);
        for bad in [
            "use crate::high::X;",
            "use crate::{high, low};",
            "use super::high;",
            "use crate::X;",
            "fn f() { crate::high::x() }",
            "#[cfg(test)] mod tests { fn f() { super::super::high::x() } }",
        ] {
            let library = library(&[("low/mod.rs", bad), ("high/mod.rs", "")]);
            assert_eq!(library.against_the_order(LAYERS).len(), 1, "{bad}");
        }
        let stranger = library(&[("other/mod.rs", "")]);
        assert_eq!(stranger.against_the_order(LAYERS).len(), 1);
    }

    #[test]
    fn circles_are_found_through_windows_and_only_there() {
        let window = library(&[
            ("a/mod.rs", "mod b; mod c; pub use b::B;"),
            ("a/b.rs", "use crate::a::c::C;"),
            ("a/c.rs", "#[cfg(test)] mod tests { use crate::a::B; }"),
        ]);
        assert!(window.cycles("a/").is_empty(), "{:?}", window.cycles("a/"));
        let circle = library(&[
            ("a/mod.rs", "mod b; mod c; pub use b::B;"),
            ("a/b.rs", "use crate::a::c::C;"),
            ("a/c.rs", "use crate::a::B;"),
        ]);
        let expected = BTreeSet::from(["a/b.rs", "a/c.rs"]);
        assert_eq!(circle.cycles("a/"), [expected]);
    }
}
