//! The data of a recipe: a folder of prepared data, which is built on the first run if the recipe says from what.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::require;
use crate::TrainError;
use crate::data::batches::{Packing, Sampling};
use crate::data::shards::{self, BuildOptions, DATA, Split, TokenData};
use crate::data::sources::{Source, Sources};
use crate::data::tokenizer::{Bpe, Characters, TokenizerBundle};

/// What to learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where the prepared data lies, or will lie.
    pub folder: PathBuf,
    /// What it is built from if it is not there: files, `stories:N`, `questions:N`, `dialogues:N`.
    #[serde(default)]
    pub sources: Vec<String>,
    /// What stands between the documents of text files.
    pub separator: Option<String>,
    /// Tokens of the vocabulary that is learned from the sources; one for each character if not given.
    pub vocab_size: Option<usize>,
    /// Which part is for validation.
    #[serde(default = "a_hundredth")]
    pub validation: f64,
    /// Whether that is the end of the sources instead of samples from everywhere.
    #[serde(default)]
    pub tail: bool,
    /// The order of rows.
    #[serde(default)]
    pub sampling: Sampling,
    /// The cutting of rows.
    #[serde(default)]
    pub packing: Packing,
}

const fn a_hundredth() -> f64 {
    0.01
}

impl DataConfig {
    /// Proves what its types do not. Names of fields begin with `section`.
    pub(super) fn check(&self, file: &str, section: &str) -> Result<(), TrainError> {
        require(
            file,
            self.sampling != Sampling::Sequential,
            &format!("{section}sampling"),
            "sequential",
            "shuffled or random_windows: a sequential pass ends",
        )
    }

    /// The data, if it is there.
    ///
    /// # Errors
    ///
    /// Data that is damaged, or from other sources.
    pub fn existing(&self) -> Result<Option<TokenData>, TrainError> {
        if !self.folder.join(DATA).exists() {
            return Ok(None);
        }
        let data = TokenData::open(&self.folder)?;
        let (found, wanted) = (&data.index().sources, self.sources.join(", "));
        if !self.sources.is_empty() && *found != self.all()?.to_string() {
            return Err(TrainError::File {
                path: self.folder.clone(),
                what: "prepared data".to_owned(),
                found: format!("that of {found}"),
                expected: format!("that of {wanted}, as `data.sources` says"),
                way_out: "Name another `data.folder`, or remove this one".to_owned(),
            });
        }
        Ok(Some(data))
    }

    /// The data, built if it is not there: with this tokenizer, or one that is learned.
    ///
    /// # Errors
    ///
    /// As [`existing`](Self::existing), and what building refuses.
    pub fn prepared(&self, given: Option<TokenizerBundle>) -> Result<TokenData, TrainError> {
        if let Some(data) = self.existing()? {
            return Ok(data);
        }
        if self.sources.is_empty() {
            return Err(TrainError::File {
                path: self.folder.clone(),
                what: "prepared data".to_owned(),
                found: "none".to_owned(),
                expected: DATA.to_owned(),
                way_out: "Prepare it, or name `data.sources` to prepare it from".to_owned(),
            });
        }
        let sources = self.all()?;
        let tokenizer = match (given, self.vocab_size) {
            (Some(given), _) => given,
            (None, Some(size)) => Bpe::new(size)?.train(&sources)?,
            (None, None) => Characters::train(&sources)?,
        };
        let fraction = self.validation;
        let split = match self.tail {
            true => Split::Tail { fraction },
            false => Split::Samples { fraction, seed: 0 },
        };
        let options = BuildOptions::default().with_split(split);
        shards::build(&sources, &tokenizer, &self.folder, &options, |_| ())?;
        TokenData::open(&self.folder)
    }

    fn all(&self) -> Result<Sources, TrainError> {
        let source = |name: &String| -> Result<Source, TrainError> {
            Ok(match name.parse()? {
                Source::Text { path, .. } => Source::Text {
                    path,
                    separator: self.separator.clone(),
                },
                other => other,
            })
        };
        let list = self.sources.iter().map(source).collect::<Result<_, _>>()?;
        Ok(Sources::new(list))
    }
}
