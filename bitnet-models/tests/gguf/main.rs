//! GGUF: files of the reference tools against the checkpoints that they were made from, our own files read back, and
//! damaged files.

mod bonsai;
mod builder;
mod encodings;
mod hostile;
mod reference;
mod source;
mod writing;
