//! Beam search over a model: the search decides, the session follows its beams.

use std::time::Instant;

use super::{
    BeamConfig, BeamSearch, ContextOptions, Hypothesis, SamplingConfig, Session, StopConditions,
};
use crate::ModelError;
use crate::decoder::Decoder;

/// The best continuations of a prompt, best first. When the time is over, the beams that live count as finished.
///
/// # Errors
///
/// Settings that make no sense, an empty prompt, a model without an output head, [`ModelError::ContextOverflow`].
pub fn beam_search(
    decoder: &Decoder,
    prompt: &[u32],
    beams: &BeamConfig,
    sampling: &SamplingConfig,
    stop: &StopConditions,
    context: ContextOptions,
) -> Result<Vec<Hypothesis>, ModelError> {
    decoder.check_head()?;
    let vocab = decoder.config().vocab_size;
    let mut search = BeamSearch::new(beams, sampling, stop, vocab, prompt)?;
    // One row is fed the prompt; then the others become its copies. Rows without a live beam are fed nothing.
    let mut session = Session::new(decoder, beams.beams, context)?;
    let mut fed: Vec<Vec<u32>> = vec![Vec::new(); beams.beams];
    fed[0] = prompt.to_vec();
    let started = Instant::now();
    let in_time = || {
        stop.time_limit
            .is_none_or(|limit| started.elapsed() < limit)
    };
    while !search.is_done() && in_time() {
        let rows: Vec<&[u32]> = fed.iter().map(Vec::as_slice).collect();
        let hidden = session.feed(&rows)?.narrow(0, 0, search.live());
        let logits = decoder.logits(hidden).into_data();
        let mut logits: Vec<f32> = logits.try_into_vec().expect("logits are f32");
        let next = search.step(&mut logits)?;
        let mut parents: Vec<usize> = next.iter().map(|next| next.parent).collect();
        fed = next.iter().map(|next| vec![next.token]).collect();
        parents.resize(beams.beams, 0);
        fed.resize(beams.beams, Vec::new());
        if !search.is_done() {
            session.select(&parents);
        }
    }
    Ok(search.finish())
}
