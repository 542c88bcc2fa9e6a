//! Training of BitNet b1.58 models with Burn.
//!
//! [`data`] turns texts, conversations and token lists into token shards, and shards into batches. What is read is
//! checked once, when it is opened; a batch is a pure function of data, configuration and position, so a run that is
//! resumed sees what the unbroken run would have seen. [`recipes`] are whole trainings, each one file with a visible loop;
//! losses, schedules, metrics and checkpoints are functions that every recipe may call.
//!
//! Deliberately absent: kernels (reached through layers only), argument parsing, printing, a trainer class.

pub mod checkpoint;
pub mod data;
mod error;
pub mod evaluate;
pub mod losses;
pub mod metrics;
pub mod model;
pub mod optimizer;
pub mod plot;
pub mod recipes;
pub mod schedule;

pub use error::TrainError;
