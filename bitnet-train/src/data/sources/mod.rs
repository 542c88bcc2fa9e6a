//! Where samples come from: text files, JSON Lines, the built-in stories.
//!
//! A source is a description that can be opened again and again; each time it streams the same samples in the same
//! order, one document or line in memory. Errors name file and line.

mod jsonl;
mod text;
mod written;

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnet_models::chat::Message;

use crate::TrainError;

pub use written::Form;

/// What one document of training data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sample {
    /// Text; all of it is learned.
    Text(String),
    /// A conversation; what the assistant says is learned.
    Chat(Vec<Message>),
    /// Ids of the tokenizer in use, nothing added to them. With a mask, one entry for each id, only marked ids are
    /// learned.
    Ids {
        /// The ids.
        ids: Vec<u32>,
        /// Which of them are learned.
        mask: Option<Vec<bool>>,
    },
}

impl Sample {
    /// Characters of text, or ids: by this measure, a fraction of a source is found.
    pub fn len(&self) -> u64 {
        let count = |text: &str| text.chars().count() as u64;
        match self {
            Self::Text(text) => count(text),
            Self::Chat(messages) => messages.iter().map(|message| count(&message.content)).sum(),
            Self::Ids { ids, .. } => ids.len() as u64,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The texts in it; ids have none.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Chat(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
            Self::Ids { .. } => Vec::new(),
        }
    }
}

/// One source of samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A text file, cut into documents at each separator; without one, it is one document. A document is read and
    /// encoded in one piece: files that are large for the memory need a separator.
    Text {
        /// The file.
        path: PathBuf,
        /// What stands between documents, such as `<|endoftext|>`.
        separator: Option<String>,
    },
    /// JSON Lines: objects with `messages`, `text`, or `input_ids` (or `ids`) with optional `labels` or `mask`.
    JsonLines(PathBuf),
    /// The first documents of [`Stories`](super::Stories).
    Stories {
        /// How many.
        count: u64,
        /// Which stories.
        seed: u64,
        /// How they are put into samples.
        form: Form,
    },
}

/// The samples of one pass over a source.
pub type Samples = Box<dyn Iterator<Item = Result<Sample, TrainError>> + Send>;

impl Source {
    /// A pass over the samples.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn samples(&self) -> Result<Samples, TrainError> {
        Ok(match self {
            Self::Text { path, separator } => Box::new(text::open(path, separator.as_deref())?),
            Self::JsonLines(path) => Box::new(jsonl::open(path)?),
            Self::Stories { count, seed, form } => Box::new(written::samples(*count, *seed, *form)),
        })
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Text { path, .. } | Self::JsonLines(path) => path.display().fmt(f),
            Self::Stories { count, seed, form } => write!(f, "{form}:{count}:{seed}"),
        }
    }
}

/// A file by its ending (`.jsonl`, `.ndjson`, else text without separator), or `FORM:COUNT[:SEED]` with the [`Form`] of
/// built-in stories.
impl FromStr for Source {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let mut parts = text.splitn(3, ':');
        if let (Some(form), Some(count)) = (parts.next().and_then(Form::named), parts.next()) {
            let count = count.replace('_', "").parse();
            let seed = parts.next().map_or(Ok(0), str::parse);
            return match (count, seed) {
                (Ok(count), Ok(seed)) => Ok(Self::Stories { count, seed, form }),
                _ => Err(TrainError::Request {
                    what: "source",
                    found: format!("`{text}`"),
                    expected: format!("{form}:COUNT or {form}:COUNT:SEED"),
                    way_out: format!("Write {form}:10000 for ten thousand"),
                }),
            };
        }
        let path = PathBuf::from(text);
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        Ok(match ending.to_str() {
            Some("jsonl" | "ndjson") => Self::JsonLines(path),
            _ => Self::Text {
                path,
                separator: None,
            },
        })
    }
}

/// Several sources, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    list: Vec<Source>,
    skip_bad: bool,
    skipped: Arc<AtomicU64>,
}

impl Sources {
    /// All samples of these, in order.
    pub fn new(list: Vec<Source>) -> Self {
        Self {
            list,
            ..Self::default()
        }
    }

    /// Whether lines that hold no sample are left out and counted, instead of ending the pass. What the disk refuses is
    /// an error all the same.
    pub fn with_skip_bad(mut self, skip_bad: bool) -> Self {
        self.skip_bad = skip_bad;
        self
    }

    /// Bad lines of the latest pass.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// A pass over all samples that are not empty.
    pub fn samples(&self) -> Samples {
        self.skipped.store(0, Ordering::Relaxed);
        let (skip_bad, skipped) = (self.skip_bad, Arc::clone(&self.skipped));
        let list = self.list.clone().into_iter();
        let all = list.flat_map(|source| -> Samples {
            match source.samples() {
                Ok(samples) => samples,
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        });
        Box::new(all.filter(move |sample| match sample {
            Ok(sample) => !sample.is_empty(),
            Err(TrainError::Line { .. }) if skip_bad => {
                skipped.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(_) => true,
        }))
    }
}

impl Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (at, source) in self.list.iter().enumerate() {
            let between = if at == 0 { "" } else { ", " };
            write!(f, "{between}{source}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_names() {
        let parse = |text: &str| text.parse::<Source>().unwrap();
        let stories = |form, count, seed| Source::Stories { count, seed, form };
        assert_eq!(parse("stories:1_000"), stories(Form::Stories, 1000, 0));
        assert_eq!(parse("dialogues:5:9"), stories(Form::Dialogues, 5, 9));
        assert_eq!(parse("a.JSONL"), Source::JsonLines("a.JSONL".into()));
        assert!(matches!(parse("stories.txt"), Source::Text { .. }));
        assert_eq!(parse("dialogues:5:9").to_string(), "dialogues:5:9");
        let error = "stories:many".parse::<Source>().unwrap_err().to_string();
        assert!(error.contains("expected stories:COUNT"), "{error}");
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_name_and_never_skipped() {
        let sources = Sources::new(vec!["nowhere.jsonl".parse().unwrap()]).with_skip_bad(true);
        let error = sources.samples().next().unwrap().unwrap_err().to_string();
        assert!(error.starts_with("nowhere.jsonl: cannot open"), "{error}");
    }
}
