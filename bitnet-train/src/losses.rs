//! What training minimizes.
//!
//! Invariant: losses are computed in f32, whatever the logits are, and targets that are not learned add neither loss nor
//! gradient. A sum over parts of a batch, divided by what is learned in all of it, is the mean over the batch.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, DType, Int, Tensor};

/// How the losses of targets become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum, to be divided by the caller.
    Sum,
    /// Their mean; 0 if nothing is learned.
    Mean,
}

/// `−log softmax(logits)[target]` of the targets that are learned: those where `mask` is true, or all.
///
/// # Shapes
///
/// - logits: `[batch, seq_len, vocab]`
/// - targets, mask: `[batch, seq_len]`
/// - output: `[1]`
pub fn cross_entropy(
    logits: Tensor<3>,
    targets: Tensor<2, Int>,
    mask: Option<Tensor<2, Bool>>,
    reduction: Reduction,
) -> Tensor<1> {
    let [batch, seq_len, vocab] = logits.dims();
    let n = batch * seq_len;
    let logits = logits.cast(DType::F32).reshape([n, vocab]);
    let picked = log_softmax(logits, 1).gather(1, targets.reshape([n, 1])); // [n, 1]
    let (picked, learned) = match mask {
        None => (picked, n as i64),
        Some(mask) => {
            let left_out = mask.reshape([n, 1]).bool_not();
            let learned = match reduction {
                Reduction::Sum => 1, // not asked for: counting would wait for the device
                Reduction::Mean => n as i64 - left_out.clone().int().sum().into_scalar::<i64>(),
            };
            (picked.mask_fill(left_out, 0.0), learned)
        }
    };
    let sum = picked.sum().neg();
    match reduction {
        Reduction::Sum => sum,
        Reduction::Mean => sum / learned.max(1) as f64,
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_loss_is_the_negative_logarithm_of_the_target_and_masked_targets_count_nothing() {
        let device = Device::flex();
        // Probabilities 3/4 and 1/4, then equal ones.
        let row = [[3f32.ln(), 0.0], [0.0, 0.0]];
        let logits = Tensor::<2>::from_data(row, &device).unsqueeze::<3>();
        let targets = Tensor::<2, Int>::from_data([[0, 1]], &device);
        let loss = |mask: Option<[[bool; 2]; 1]>, reduction| {
            let mask = mask.map(|mask| Tensor::from_data(mask, &device));
            let loss = cross_entropy(logits.clone(), targets.clone(), mask, reduction);
            loss.into_scalar::<f32>()
        };
        let (first, second) = ((4f32 / 3.0).ln(), 2f32.ln());
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} and {b}");
        close(loss(None, Reduction::Sum), first + second);
        close(loss(None, Reduction::Mean), (first + second) / 2.0);
        close(loss(Some([[false, true]]), Reduction::Mean), second);
        close(loss(Some([[false, false]]), Reduction::Mean), 0.0);
    }
}
