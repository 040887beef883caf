//! Patterns for rule ids. A `*` matches any run of characters.

/// Whether `text` matches `pattern`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_matches_anything() {
        for pattern in ["del.twice", "del.*", "*", "*twice", "d*l.t*e", "**", "del.twice*"] {
            assert!(matches(pattern, "del.twice"), "{pattern}");
        }
        for pattern in ["", "del", "del.*x", "*add*", "del.twice.*"] {
            assert!(!matches(pattern, "del.twice"), "{pattern}");
        }
    }
}
