//! From texts to batches.
//!
//! Samples come out of [`sources`]; [`tokenizer`] learns a vocabulary from them; [`shards`] holds them as ids in mapped
//! files; [`batches`] cuts and shuffles these into what a step of training sees. [`stories`] is a corpus without a
//! file.
//!
//! ```
//! use bitnet_train::data::shards::{self, BuildOptions, TokenData};
//! use bitnet_train::data::sources::Sources;
//! use bitnet_train::data::tokenizer::Bpe;
//! use bitnet_train::data::batches::BatchConfig;
//!
//! # fn main() -> Result<(), bitnet_train::TrainError> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! let sources = Sources::new(vec!["stories:200".parse()?]);
//! let tokenizer = Bpe::new(500)?.train(&sources)?;
//! shards::build(&sources, &tokenizer, folder, &BuildOptions::default(), |_| ())?;
//!
//! let tokens = TokenData::open(folder)?.split("train")?;
//! let batches = BatchConfig::new(4, 64).init(tokens)?;
//! let first = batches.iter().next().unwrap();
//! assert_eq!(first.inputs.len(), 4 * 64);
//! # Ok(())
//! # }
//! ```

pub mod batches;
mod random;
pub mod shards;
pub mod sources;
pub mod stories;
pub mod tokenizer;

pub(crate) use random::keyed;
pub use stories::Stories;
