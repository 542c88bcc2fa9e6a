//! The one error type of this crate.
//!
//! A message has four parts: the thing, what was found, what was expected, the way out. Variants follow what the user
//! can do about it. Mistakes of the calling program (a wrong rank into `forward`) panic instead, as in Burn.

use std::path::{Path, PathBuf};

use bitnet_kernels::KernelError;

/// Why a checkpoint, a text or a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
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
    /// A tensor that is missing, damaged, or of another shape or type than the model needs.
    #[error("{path}: tensor `{name}`: found {found}, expected {expected}. {way_out}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor, by the name that the file gives it.
        name: String,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// The values of a ternary tensor were refused.
    #[error("{path}: tensor `{name}`: {source}", path = path.display())]
    Ternary {
        /// The file.
        path: PathBuf,
        /// The tensor, by the name that the file gives it.
        name: String,
        /// The reason, with the way out.
        source: KernelError,
    },
    /// A key of the configuration that is missing, of the wrong type, or asks for something unsupported.
    #[error("{path}: config key `{key}`: found {found}, expected {expected}. {way_out}", path = path.display())]
    Config {
        /// The file that holds the configuration.
        path: PathBuf,
        /// The key; nested ones with dots.
        key: String,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// Text that cannot be turned into ids or back: the tokenizer, a chat template, a message.
    #[error("{what}: found {found}, expected {expected}. {way_out}")]
    Text {
        /// The part of the tokenizer or template.
        what: String,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// A setting of a request (sampling, generation, loading) that makes no sense, alone or for this model.
    #[error("{what}: found {found}, expected {expected}. {way_out}")]
    Request {
        /// The setting.
        what: &'static str,
        /// What was asked.
        found: String,
        /// What can be asked.
        expected: String,
        /// What the user can do.
        way_out: String,
    },
    /// Prompt and answer do not fit the context.
    #[error(
        "the context has room for {capacity} tokens, and {needed} are needed. Shorten the prompt, ask for fewer tokens, \
         or slide the window (which forgets the oldest)"
    )]
    ContextOverflow {
        /// Tokens that the cache holds.
        capacity: usize,
        /// Tokens that the request needs.
        needed: usize,
    },
}

impl ModelError {
    /// For `map_err`: an [`Io`](Self::Io) error of this action on this path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    /// For `map_err`: the refusal of a ternary tensor.
    pub fn ternary(path: &Path, name: &str) -> impl FnOnce(KernelError) -> Self {
        let (path, name) = (path.to_path_buf(), name.to_owned());
        move |source| Self::Ternary { path, name, source }
    }
}
