//! A folder of a configuration and weights, both made up.
//!
//! Input: two bytes of length, so many bytes of `config.json`, the rest is `model.safetensors`. A seed is made of a
//! small checkpoint: `(printf '\x6b\x00'; cat config.json model.safetensors)` for a configuration of 107 bytes.

#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: support::start(), |input: &[u8]| {
    let Some((length, rest)) = input.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, weights) = rest.split_at(length);
    let files = [("config.json", config), ("model.safetensors", weights)];
    support::open(support::write(&files));
});
