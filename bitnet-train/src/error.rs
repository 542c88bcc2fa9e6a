//! The one error type of this crate.
//!
//! A message has four parts: the thing, what was found, what was expected, the way out. Variants follow what the user
//! can do about it. Mistakes of the calling program panic instead, as in Burn.

use std::path::{Path, PathBuf};

use bitnet_models::ModelError;

/// Why data or a training run was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, e.g. "open", "read", "write".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that is damaged, of an unknown kind, or in conflict with another one.
    #[error("{path}: {what}: found {found}, expected {expected}. {way_out}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// A line of a source that holds no sample.
    #[error("{path}, line {line}: found {found}, expected {expected}. {way_out}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: &'static str,
        /// What the user can do.
        way_out: &'static str,
    },
    /// Too little data, or a setting that makes no sense, alone or for this data.
    #[error("{what}: found {found}, expected {expected}. {way_out}")]
    Request {
        /// The setting or the data.
        what: &'static str,
        /// What was asked or given.
        found: String,
        /// What can be asked.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// A sample that cannot become ids.
    #[error("sample {number} of {sources}: {source}")]
    Sample {
        /// Its number, from 1.
        number: u64,
        /// The sources.
        sources: String,
        /// The reason, with the way out.
        source: Box<Self>,
    },
    /// A setting of a recipe.
    #[error("{file}: `{field}`: found {found}, expected {expected}. {way_out}")]
    Recipe {
        /// The recipe's file.
        file: String,
        /// The setting, its sections before it.
        field: String,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// Training that left the numbers.
    #[error("step {step}: found loss {loss}, first in {place}, expected finite numbers. {kept}")]
    Diverged {
        /// The step that was not done.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The first weight or activation that is not finite, in the order of their use.
        place: String,
        /// What was kept, and how to go on.
        kept: String,
    },
    /// A model, its tokenizer or its chat template.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl TrainError {
    /// For `map_err`: an [`Io`](Self::Io) error of this action on this path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }
}
