//! Decoding takes no memory: what a session allocates is there after the first tokens, whatever follows.
//!
//! The only test of its program, because it counts the heap of the whole process.

use bitnet_models::Model;
use bitnet_models::generation::{
    ContextOptions, Generation, SamplingConfig, Session, StopConditions,
};
use burn::tensor::Device;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tokens after which every buffer exists.
const BEGINNING: usize = 50;
const TOKENS: usize = 2000;
/// Each token's own record, and lists that double now and then.
const PER_TOKEN: usize = 64;

#[test]
fn two_thousand_tokens_leave_the_heap_as_it_was_after_fifty() {
    let model = Model::random("tiny", &Device::flex()).unwrap();
    let context = ContextOptions::new(TOKENS + 8);
    let mut session = Session::new(model.decoder(), 1, context).unwrap();
    let (sampling, stop) = (SamplingConfig::default(), StopConditions::new(&[], TOKENS));
    let prompt: Vec<u32> = (0..8).collect();
    let tokens = Generation::new(&mut session, &[&prompt], &sampling, &stop).unwrap();
    let (mut early, mut largest, mut count) = (0, 0, 0);
    for token in tokens {
        token.unwrap();
        count += 1;
        match count {
            ..=BEGINNING => early = MEMORY.current_usage(),
            _ => largest = largest.max(MEMORY.current_usage()),
        }
    }
    assert_eq!(count, TOKENS);
    let grown = largest.saturating_sub(early);
    assert!(
        grown <= TOKENS * PER_TOKEN,
        "{grown} bytes more than {early}"
    );
}
