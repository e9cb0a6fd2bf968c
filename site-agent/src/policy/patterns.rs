//! Names of tensors by patterns: `["*", "!label_embedding.*"]`. A star stands for any characters; a name
//! is let through if a pattern fits it and none with `!` does. No pattern lets nothing through.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// The most patterns.
const PATTERNS_MAX: usize = 256;

/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 256;

/// Which names are let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    allowed: Vec<String>,
    denied: Vec<String>,
}

impl Patterns {
    /// Every name.
    pub fn all() -> Patterns {
        Patterns { allowed: vec!["*".to_owned()], denied: Vec::new() }
    }

    /// Whether `name` is let through.
    pub fn allow(&self, name: &str) -> bool {
        let fits = |pattern: &String| fits(pattern, name);
        self.allowed.iter().any(fits) && !self.denied.iter().any(fits)
    }
}

/// Whether the whole of `name` is what `pattern` says.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    // Splitting gives one part at least.
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
        let said = Vec::<String>::deserialize(deserializer)?;
        if said.len() > PATTERNS_MAX || said.iter().any(|p| p.len() > PATTERN_BYTES_MAX) {
            let most = format!("{PATTERNS_MAX} patterns of {PATTERN_BYTES_MAX} bytes");
            return Err(D::Error::custom(format!("tensors has more than {most}")));
        }
        let mut patterns = Patterns::default();
        for pattern in said {
            match pattern.strip_prefix('!') {
                Some(denied) => patterns.denied.push(denied.to_owned()),
                None => patterns.allowed.push(pattern),
            }
        }
        Ok(patterns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(said: &[&str]) -> Patterns {
        serde_json::from_value(said.into()).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters_and_a_denied_name_stays_whatever_allows_it() {
        for (pattern, name, is_fit) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*b", "aab", true),
            ("a*b", "abc", false),
            ("ab*b", "ab", false),
            ("*.weight", "input_blocks.0.0.weight", true),
            ("out.*.weight", "out.0.0.weight", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axcxb", false),
            ("*", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(fits(pattern, name), is_fit, "{pattern} {name}");
        }
        let some = patterns(&["out.*", "time_embed.*", "!*.bias"]);
        assert!(some.allow("out.0.weight") && some.allow("time_embed.0.weight"));
        assert!(!some.allow("out.0.bias") && !some.allow("input_blocks.0.weight"));
        assert!(!Patterns::default().allow("out.0.weight"));
        assert!(!patterns(&["!out.*"]).allow("time_embed.0.weight"), "denying allows nothing");
    }

    #[test]
    fn more_patterns_than_anybody_writes_are_refused() {
        let many = vec!["*"; PATTERNS_MAX + 1];
        assert!(serde_json::from_value::<Patterns>(many.into()).is_err());
        let long = "x".repeat(PATTERN_BYTES_MAX + 1);
        assert!(serde_json::from_value::<Patterns>(vec![long].into()).is_err());
    }
}
