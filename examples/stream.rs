//! Prints a text while it is written, whole characters only, and ends it before a stop string. `-- PATH` names a
//! checkpoint.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::io::Write;

use bitnet_burn::{GenerateOptions, Model, storyteller};
use burn::tensor::Device;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path, &device)?,
        None => storyteller::load(&device)?,
    };
    let prompt = model.encode("Once upon a time")?;
    let options = GenerateOptions {
        max_new_tokens: 64,
        stop: vec!["\n\n".into()],
        ..GenerateOptions::default()
    };

    let mut session = model.session(1, prompt.len(), &options)?;
    let mut stream = model.stream(&mut session, &prompt, &options)?;
    for piece in stream.by_ref() {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    let rate = stream.timings().decode_rate(1);
    println!(
        "\nended by {:?}, at {rate:.1} tokens per second",
        stream.stop()
    );
    Ok(())
}
