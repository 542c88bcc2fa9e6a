//! Generates token by token: ids, how likely each was, and why the text ended. `-- PATH` names a checkpoint.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use bitnet_burn::models::ModelError;
use bitnet_burn::{GenerateOptions, Model, storyteller};
use burn::tensor::Device;

fn main() -> Result<(), ModelError> {
    let device = Device::flex();
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path, &device)?,
        None => storyteller::load(&device)?,
    };
    let prompt = model.encode("Once upon a time")?;
    let mut options = GenerateOptions {
        max_new_tokens: 16,
        ..GenerateOptions::default()
    };
    options.sampling.temperature = 0.8;
    options.sampling.logprobs = Some(0);

    let mut session = model.session(1, prompt.len(), &options)?;
    let mut generation = model.generate(&mut session, &[&prompt], &options)?;
    for token in generation.by_ref() {
        let token = token?;
        let text = model.tokenizer()?.decode(&[token.id], false)?;
        let probability = token.logprob.unwrap_or(f32::NAN).exp();
        println!(
            "{:6}  {probability:.3}  {text:?}  {:?}",
            token.id, token.stop
        );
    }
    println!("{:?}", generation.timings());
    Ok(())
}
