//! From generated tokens to pieces of text: whole characters only, and nothing of a stop string.

use crate::ModelError;
use crate::generation::{Generation, StopReason, StopStrings, Timings, Token};
use crate::tokenizer::{DecodeStream, Tokenizer};

/// The text of one row.
#[derive(Debug)]
pub struct Text<'m> {
    decoder: DecodeStream<'m>,
    stops: StopStrings,
}

impl<'m> Text<'m> {
    /// Text that ends before any of `stops`.
    ///
    /// # Errors
    ///
    /// An empty stop string.
    pub fn new(tokenizer: &'m Tokenizer, stops: &[String]) -> Result<Self, ModelError> {
        Ok(Self {
            decoder: tokenizer.decode_stream(true),
            stops: StopStrings::new(stops.iter().cloned())?,
        })
    }

    /// What a token adds to the text, and whether a stop string has ended it.
    ///
    /// # Errors
    ///
    /// An id that the tokenizer does not know.
    pub fn push(&mut self, token: &Token) -> Result<(String, bool), ModelError> {
        let ends = matches!(token.stop, Some(StopReason::EndOfSequence(_)));
        let piece = if ends {
            String::new()
        } else {
            self.decoder.push(token.id)?
        };
        let mut text = self.stops.push(&piece);
        if token.stop.is_some() {
            text.push_str(&self.finish()?);
        }
        Ok((text, self.stops.matched().is_some()))
    }

    /// Ends the text where it is: what was held back, because it could have become a stop string or another character.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<String, ModelError> {
        let rest = self.decoder.flush()?;
        Ok(self.stops.push(&rest) + &self.stops.finish())
    }
}

/// An iterator over pieces of text.
#[derive(Debug)]
pub struct TextStream<'s, 'm> {
    generation: Generation<'s, 'm>,
    text: Text<'m>,
    stop: Option<StopReason>,
    ids: Vec<u32>,
}

impl<'s, 'm> TextStream<'s, 'm> {
    pub(super) const fn new(generation: Generation<'s, 'm>, text: Text<'m>) -> Self {
        Self {
            generation,
            text,
            stop: None,
            ids: Vec::new(),
        }
    }

    /// Why it ended, once it has.
    pub const fn stop(&self) -> Option<StopReason> {
        self.stop
    }

    /// The ids so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What it has taken so far.
    pub const fn timings(&self) -> Timings {
        self.generation.timings()
    }

    /// Ends it from outside, and returns the text that was held back. Does nothing once it has ended.
    ///
    /// # Errors
    ///
    /// As [`Text::finish`].
    pub fn interrupt(&mut self) -> Result<String, ModelError> {
        if self.stop.is_some() {
            return Ok(String::new());
        }
        self.generation.stop(0);
        self.stop = Some(StopReason::Interrupted);
        self.text.finish()
    }

    /// The next token with the text that it completes, which may be empty.
    pub fn next_token(&mut self) -> Option<Result<(Token, String), ModelError>> {
        let token = match self.generation.next()? {
            Ok(token) => token,
            Err(error) => return Some(Err(error)),
        };
        self.ids.push(token.id);
        self.stop = token.stop;
        match self.text.push(&token) {
            Ok((text, stopped)) => {
                if stopped {
                    self.generation.stop(token.row);
                    self.stop = Some(StopReason::StopString);
                }
                Some(Ok((token, text)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for TextStream<'_, '_> {
    type Item = Result<String, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_token()? {
                Ok((_, text)) if text.is_empty() => {}
                Ok((_, text)) => return Some(Ok(text)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{GenerateOptions, Model};

    fn token(id: u32) -> Token {
        Token {
            row: 0,
            id,
            logprob: None,
            top: Vec::new(),
            stop: None,
        }
    }

    #[test]
    fn what_was_held_back_is_shown_when_the_text_ends() {
        let model = Model::random("tiny", &Device::flex()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        // A token per byte: the end could become the stop string, and the last byte a character.
        for (text, shown, rest) in [(&b"xab"[..], "x", "ab"), (b"xa\xE2", "x", "a\u{FFFD}")] {
            let mut stream = Text::new(tokenizer, &["abc".to_owned()]).unwrap();
            let pieces = text
                .iter()
                .map(|&byte| stream.push(&token(byte.into())).unwrap().0);
            assert_eq!(pieces.collect::<String>(), shown);
            assert_eq!(stream.finish().unwrap(), rest);
        }
    }

    #[test]
    fn an_interrupted_stream_has_said_all_that_its_ids_say() {
        let model = Model::random("tiny", &Device::flex()).unwrap();
        let mut options = GenerateOptions::default();
        options.sampling.temperature = 1.0;
        for count in 1..8 {
            let mut session = model.session(1, 1, &options).unwrap();
            let mut stream = model.stream(&mut session, &[7], &options).unwrap();
            let mut text = String::new();
            for _ in 0..count {
                text += &stream.next_token().unwrap().unwrap().1;
            }
            text += &stream.interrupt().unwrap();
            assert_eq!(stream.stop(), Some(StopReason::Interrupted));
            assert!(stream.next_token().is_none());
            assert_eq!(stream.interrupt().unwrap(), "", "once");
            let ids = stream.ids();
            assert_eq!(ids.len(), count);
            assert_eq!(text, model.tokenizer().unwrap().decode(ids, true).unwrap());
        }
    }
}
