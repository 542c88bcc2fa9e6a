//! One packed file of our own: table of contents, metadata, tokenizer, codes and scales.
//!
//! Input: the file. `bitnet-burn convert` makes seeds of the fixtures of the tests.

#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: support::start(), |input: &[u8]| {
    support::open(&support::write(&[("model.bpk", input)]).join("model.bpk"));
});
