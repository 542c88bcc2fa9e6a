//! Training of BitNet b1.58 models with Burn.
//!
//! [`data`] turns texts, conversations and token lists into token shards, and shards into batches. What is read is
//! checked once, when it is opened; a batch is a pure function of data, configuration and position, so a run that is
//! resumed sees what the unbroken run would have seen.
//!
//! Deliberately absent: kernels (reached through layers only), argument parsing, printing.

pub mod data;
mod error;

pub use error::TrainError;
