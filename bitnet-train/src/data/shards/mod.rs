//! Data as ids in mapped files: built once, opened at once, checked whole.
//!
//! A folder holds the tokenizer, shards of each split and `data.json`, which is written last: a folder with it is
//! complete. Invariant: in an open [`TokenData`], every id is below the vocabulary size and every shard was made with
//! the tokenizer beside it.

mod build;
mod encode;
mod format;
mod index;
mod read;
mod tokens;
mod write;

pub use build::{BuildOptions, Progress, build};
pub use index::{DATA, Index, ShardEntry, Split, SplitEntry, TRAIN, VALIDATION};
pub use read::TokenData;
pub use tokens::Tokens;
