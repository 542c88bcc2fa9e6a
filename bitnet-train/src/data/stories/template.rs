//! Sentences with choices: `[One|Another] day, {a} saw {t.a}.`
//!
//! `[x|y]` is one of its parts, nested as needed, perhaps empty; `{key.form}` is a name, noun or pronoun of the tale's
//! cast. A key in upper case begins a sentence. Templates are ours, so a wrong one is a bug and panics.

use super::dice::Dice;

/// Writes one version of a template; `resolve(key, form)` knows the cast.
pub(super) fn render(
    template: &str,
    dice: &mut Dice,
    resolve: &impl Fn(char, &str) -> String,
) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['[', '{']) {
        out.push_str(&rest[..at]);
        let inner = &rest[at + 1..];
        if rest[at..].starts_with('{') {
            let (reference, after) = inner.split_once('}').expect("a reference is closed");
            out.push_str(&referred(reference, resolve));
            rest = after;
        } else {
            let (parts, after) = alternatives(inner);
            let part = parts[dice.below(parts.len())];
            out.push_str(&render(part, dice, resolve));
            rest = after;
        }
    }
    out + rest
}

fn referred(reference: &str, resolve: &impl Fn(char, &str) -> String) -> String {
    let (key, form) = reference.split_once('.').unwrap_or((reference, ""));
    let key = key.chars().next().expect("a reference has a key");
    let text = resolve(key.to_ascii_lowercase(), form);
    if key.is_ascii_uppercase() {
        capital(&text)
    } else {
        text
    }
}

/// The parts up to the matching bracket, and what follows it.
fn alternatives(inner: &str) -> (Vec<&str>, &str) {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth > 0 => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&inner[begin..at]);
                begin = at + 1;
            }
            ']' => {
                parts.push(&inner[begin..at]);
                return (parts, &inner[at + 1..]);
            }
            _ => {}
        }
    }
    panic!("a choice is not closed: [{inner}");
}

/// With its first letter in upper case.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn choices_nest_and_capitals_begin_sentences() {
        let mut dice = Dice::new(1, 1);
        let resolve = |key, form: &str| format!("{key}{form}");
        let seen: BTreeSet<String> = (0..100)
            .map(|_| render("{A.he} [x|[y|z][!|]] {b}.", &mut dice, &resolve))
            .collect();
        let all = ["Ahe x b.", "Ahe y b.", "Ahe y! b.", "Ahe z b.", "Ahe z! b."];
        assert_eq!(seen, all.map(str::to_owned).into());
    }
}
