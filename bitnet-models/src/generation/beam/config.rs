//! Settings of a beam search, and what values they can have.
//!
//! Invariant: JSON says `early_stopping` as transformers does, by `true`, `false` or `"never"`.

use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::generation::sampler::refused;

/// Settings of a beam search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeamConfig {
    /// How many beams live, and how many sequences come out.
    pub beams: usize,
    /// Exponent of the length that divides a score. Scores are negative: above 0 favours long sequences.
    pub length_penalty: f64,
    /// When the finished sequences are good enough.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamConfig {
    fn default() -> Self {
        Self {
            beams: 4,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
        }
    }
}

impl BeamConfig {
    /// Whether every setting makes sense.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        if self.beams == 0 {
            return Err(refused("beams", 0, "at least 1", "1 is greedy decoding"));
        }
        if !self.length_penalty.is_finite() {
            let (expected, way_out) = ("a finite number", "1 scores by the mean");
            return Err(refused(
                "length_penalty",
                self.length_penalty,
                expected,
                way_out,
            ));
        }
        Ok(())
    }
}

/// When a search with as many finished sequences as beams is over. In JSON `true`, `false` or `"never"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Wording", into = "Wording")]
pub enum EarlyStopping {
    /// At once (`true`).
    Full,
    /// When the best beam, ending now, could not beat the worst finished sequence (`false`).
    #[default]
    Estimate,
    /// The same, with the best beam at the maximum length if the length penalty favours length (`"never"`).
    Never,
}

/// How JSON says it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wording {
    Flag(bool),
    Word(String),
}

impl TryFrom<Wording> for EarlyStopping {
    type Error = String;

    fn try_from(wording: Wording) -> Result<Self, String> {
        match wording {
            Wording::Flag(true) => Ok(Self::Full),
            Wording::Flag(false) => Ok(Self::Estimate),
            Wording::Word(word) if word == "never" => Ok(Self::Never),
            Wording::Word(word) => Err(format!(
                "early_stopping: found \"{word}\", expected true, false or \"never\""
            )),
        }
    }
}

impl From<EarlyStopping> for Wording {
    fn from(early_stopping: EarlyStopping) -> Self {
        match early_stopping {
            EarlyStopping::Full => Self::Flag(true),
            EarlyStopping::Estimate => Self::Flag(false),
            EarlyStopping::Never => Self::Word("never".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_stopping_is_read_as_it_is_written() {
        for (json, expected) in [
            ("true", EarlyStopping::Full),
            ("false", EarlyStopping::Estimate),
            ("\"never\"", EarlyStopping::Never),
        ] {
            let found: EarlyStopping = serde_json::from_str(json).unwrap();
            assert_eq!(found, expected);
            assert_eq!(serde_json::to_string(&found).unwrap(), json);
        }
        assert!(serde_json::from_str::<EarlyStopping>("\"always\"").is_err());
    }
}
