//! Strings that end the text, found while it grows.
//!
//! Invariant: what may be shown does not depend on how the text is cut into pieces, and never holds a part of the stop
//! string that ends it. The string that is complete first wins; of two that end together, the longer.
//!
//! Method: the end of the text is held back while it could be the beginning of a stop string. Both are UTF-8, so such a
//! beginning starts between characters.

use super::sampler::refused;
use crate::ModelError;

/// Watches a growing text for stop strings.
///
/// ```
/// use bitnet_models::generation::StopStrings;
///
/// let mut stop = StopStrings::new(["\nUser:"])?;
/// assert_eq!(stop.push("Fine.\nUs"), "Fine.");
/// assert_eq!(stop.push("ually"), "\nUsually");
/// assert_eq!(stop.push(" so.\nUser: next"), " so.");
/// assert_eq!(stop.matched(), Some("\nUser:"));
/// # Ok::<(), bitnet_models::ModelError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
    matched: Option<usize>,
}

impl StopStrings {
    /// Watches for any of `strings`.
    ///
    /// # Errors
    ///
    /// An empty string, which every text contains.
    pub fn new<S: Into<String>>(strings: impl IntoIterator<Item = S>) -> Result<Self, ModelError> {
        let strings: Vec<String> = strings.into_iter().map(Into::into).collect();
        if strings.iter().any(String::is_empty) {
            return Err(refused(
                "stop string",
                "an empty one",
                "at least one character",
                "Leave it out",
            ));
        }
        Ok(Self {
            strings,
            ..Self::default()
        })
    }

    /// Takes the next piece of text and returns what may be shown now: nothing more once a stop string is there.
    pub fn push(&mut self, piece: &str) -> String {
        if self.matched.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.strings.iter().enumerate().filter_map(|(i, string)| {
            let start = self.held.find(string.as_str())?;
            Some((start + string.len(), start, i))
        });
        let shown = match found.min() {
            Some((_, start, i)) => {
                self.matched = Some(i);
                self.held.truncate(start);
                self.held.len()
            }
            None => self.shown(),
        };
        let rest = self.held.split_off(shown);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text has ended: returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that has appeared.
    pub fn matched(&self) -> Option<&str> {
        self.matched.map(|i| self.strings[i].as_str())
    }

    /// Watches a new text.
    pub fn reset(&mut self) {
        self.held.clear();
        self.matched = None;
    }

    /// How much of the held text cannot belong to a stop string.
    fn shown(&self) -> usize {
        let begins = |tail: &str| self.strings.iter().any(|string| string.starts_with(tail));
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        let held = starts.find(|&start| begins(&self.held[start..]));
        held.unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(strings: &[String], pieces: &[&str]) -> (String, Option<String>) {
        let mut stop = StopStrings::new(strings).unwrap();
        let mut text: String = pieces.iter().map(|piece| stop.push(piece)).collect();
        text += &stop.finish();
        (text, stop.matched().map(str::to_owned))
    }

    #[test]
    fn a_beginning_is_held_back_until_it_is_decided() {
        let mut stop = StopStrings::new(["</s>", "ab"]).unwrap();
        assert_eq!(stop.push("x<"), "x");
        assert_eq!(stop.push("/"), "");
        assert_eq!(stop.push("b</s"), "</b");
        assert_eq!(stop.finish(), "</s");
        stop.reset();
        assert_eq!(stop.push("oa"), "o");
        assert_eq!(stop.push("bc"), "");
        assert_eq!(stop.matched(), Some("ab"));
        assert_eq!(stop.push("more"), "");
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        let mut stop = StopStrings::new(["äö", "日本"]).unwrap();
        assert_eq!(stop.push("aä"), "a");
        assert_eq!(stop.push("ä日"), "ää");
        assert_eq!(stop.push("曜"), "日曜");
        assert_eq!(stop.push("日本"), "");
        assert_eq!(stop.matched(), Some("日本"));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        assert!(StopStrings::new(["a", ""]).is_err());
        let mut none = StopStrings::default();
        assert_eq!(none.push("text"), "text");
    }

    /// Up to the stop string that is complete first, character by character.
    fn naive(strings: &[String], text: &str) -> (String, Option<String>) {
        let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
        for end in ends {
            let here = strings.iter().filter(|s| text[..end].ends_with(*s));
            if let Some(string) = here.max_by_key(|s| s.len()) {
                return (text[..end - string.len()].to_owned(), Some(string.clone()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            strings in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,5}", 0..6),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let text = pieces.concat();
            prop_assert_eq!(shown(&strings, &pieces), naive(&strings, &text));
        }
    }
}
