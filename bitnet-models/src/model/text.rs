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
