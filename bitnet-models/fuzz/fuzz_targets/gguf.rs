//! One GGUF file: container, metadata, configuration, tokenizer, tensors of every encoding.
//!
//! Input: the file. The fixtures of the tests are seeds.

#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: support::start(), |input: &[u8]| {
    support::open(&support::write(&[("model.gguf", input)]).join("model.gguf"));
});
