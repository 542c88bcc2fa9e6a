//! Scores texts that the model did not write: perplexity of a long one, and which of several answers is likeliest.
//! `-- PATH` names a checkpoint.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use bitnet_burn::models::ModelError;
use bitnet_burn::models::generation::Windows;
use bitnet_burn::{Model, storyteller};
use burn::tensor::Device;

fn main() -> Result<(), ModelError> {
    let device = Device::flex();
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path, &device)?,
        None => storyteller::load(&device)?,
    };

    let text = "One morning, it was cloudy. Anna wanted to bake a cake as a surprise. But there was no salt.";
    let likelihood = model.likelihood(text, Windows::new(16, 8)?)?;
    let (tokens, perplexity) = (likelihood.tokens, likelihood.perplexity());
    println!("perplexity {perplexity:.2} over {tokens} tokens");

    for answer in [" boy", " girl", " bridge"] {
        let likelihood =
            model.likelihood_after("Once upon a time, there lived a little", answer)?;
        let per_byte = likelihood.logprob / answer.len() as f64;
        println!(
            "{:8.3}  {per_byte:7.3} per byte  {answer:?}",
            likelihood.logprob
        );
    }
    Ok(())
}
