//! Turns texts into unit vectors and compares them by their cosines. `-- PATH` names a checkpoint, best one made for
//! embeddings.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use bitnet_burn::models::ModelError;
use bitnet_burn::{Model, storyteller};
use burn::tensor::Device;

fn main() -> Result<(), ModelError> {
    let device = Device::flex();
    let model = match std::env::args().nth(1) {
        Some(path) => Model::load(path, &device)?,
        None => storyteller::load(&device)?,
    };

    let texts = ["A cat sleeps.", "A kitten is asleep.", "The train is late."];
    let vectors = model.embed(&texts)?;
    for (text, a) in texts.iter().zip(&vectors) {
        // Vectors of length 1: the dot product is the cosine.
        let cosine = |b: &Vec<f32>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosines: Vec<_> = vectors
            .iter()
            .map(|b| format!("{:6.3}", cosine(b)))
            .collect();
        println!("{}  {text}", cosines.join(" "));
    }
    Ok(())
}
