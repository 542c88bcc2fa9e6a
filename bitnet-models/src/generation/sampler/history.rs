//! The tokens of a sequence so far, counted.
//!
//! Invariant: `counts` holds how often each id occurs in `tokens`.

use std::collections::HashMap;

/// What the penalties know of a sequence, prompt included.
#[derive(Debug, Clone, Default)]
pub(in crate::generation) struct History {
    tokens: Vec<u32>,
    counts: HashMap<u32, u32>,
}

impl History {
    /// Becomes the history of `context`: counts what has been appended, or everything if `context` is another sequence.
    pub(super) fn follow(&mut self, context: &[u32]) {
        if !context.starts_with(&self.tokens) {
            self.clear();
        }
        for &id in &context[self.tokens.len()..] {
            self.push(id);
        }
    }

    /// Appends a token.
    pub(in crate::generation) fn push(&mut self, id: u32) {
        self.tokens.push(id);
        *self.counts.entry(id).or_default() += 1;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.counts.clear();
    }

    /// The tokens, in order.
    pub(in crate::generation) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Each id that occurs, once, with how often it does.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.counts.iter().map(|(&id, &count)| (id, count))
    }
}

impl<'a> FromIterator<&'a u32> for History {
    fn from_iter<I: IntoIterator<Item = &'a u32>>(tokens: I) -> Self {
        let mut history = Self::default();
        tokens.into_iter().for_each(|&id| history.push(id));
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_last_context_however_it_came_about() {
        let mut history = History::default();
        let contexts: [&[u32]; 6] = [&[], &[1, 2], &[1, 2, 1, 3], &[2, 1, 3], &[2], &[2, 2, 2]];
        for context in contexts {
            history.follow(context);
            let mut found: Vec<_> = history.counts().collect();
            found.sort_unstable();
            let expected: Vec<_> = (1..=3)
                .map(|id| (id, context.iter().filter(|&&x| x == id).count() as u32))
                .filter(|(_, count)| *count > 0)
                .collect();
            assert_eq!(found, expected, "{context:?}");
            assert_eq!(history.tokens(), context);
        }
    }
}
