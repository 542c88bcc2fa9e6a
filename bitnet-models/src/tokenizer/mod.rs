//! Text to ids and back. Knows neither models nor devices.

mod vocabulary;

pub use vocabulary::Vocabulary;
