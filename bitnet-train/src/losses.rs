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
    let losses = bitnet_kernels::cross_entropy(logits.reshape([n, vocab]), targets.reshape([n]));
    reduce(losses.reshape([n, 1]), mask, reduction)
}

/// `T² · KL(softmax(teacher / T) ‖ softmax(student / T))` of the targets that are learned; the factor keeps gradients of
/// one size at every temperature `T` (arXiv 1503.02531). No gradient reaches the teacher.
///
/// # Shapes
///
/// - student, teacher: `[batch, seq_len, vocab]`
/// - mask: `[batch, seq_len]`
/// - output: `[1]`
pub fn divergence(
    student: Tensor<3>,
    teacher: Tensor<3>,
    mask: Option<Tensor<2, Bool>>,
    temperature: f64,
    reduction: Reduction,
) -> Tensor<1> {
    let [batch, seq_len, vocab] = student.dims();
    let log = |logits: Tensor<3>| {
        let logits = logits.cast(DType::F32).reshape([batch * seq_len, vocab]);
        log_softmax(logits / temperature, 1)
    };
    let divergence = kullback_leibler(log(teacher).detach(), log(student)); // [n, 1]
    reduce(divergence * temperature.powi(2), mask, reduction)
}

/// How far a student's tokens are related to each other in another way than a teacher's: for queries, keys and values `A`,
/// each cut into relation heads of width `d`, the mean over rows of `KL(softmax(A·Aᵀ/√d) of the teacher ‖ the
/// student's)`, all three added. Relations have no causal mask. Source: arXiv 2012.15828, arXiv 2510.13998.
///
/// # Shapes
///
/// - student, teacher: `[batch, seq_len, width]` each; widths may differ
/// - output: `[1]`
///
/// # Panics
///
/// Panics if a width cannot be cut into `heads`.
pub fn relations(student: [Tensor<3>; 3], teacher: [Tensor<3>; 3], heads: usize) -> Tensor<1> {
    let pairs = student.into_iter().zip(teacher);
    let losses = pairs.map(|(student, teacher)| {
        let teacher = log_relations(teacher, heads).detach();
        kullback_leibler(teacher, log_relations(student, heads)).mean()
    });
    losses.reduce(Tensor::add).expect("three of them")
}

/// `log softmax(A·Aᵀ/√d)`, `[batch, heads, seq_len, seq_len]`.
fn log_relations(states: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, seq_len, width] = states.dims();
    assert!(
        heads > 0 && width.is_multiple_of(heads),
        "{heads} relation heads cannot divide a width of {width}"
    );
    let d = width / heads;
    let states = states.cast(DType::F32);
    let states = states.reshape([batch, seq_len, heads, d]).swap_dims(1, 2);
    let products = states.clone().matmul(states.swap_dims(2, 3));
    log_softmax(products / (d as f64).sqrt(), 3)
}

/// `Σ p·(log p − log q)` along the last dimension, which stays with size 1.
fn kullback_leibler<const D: usize>(log_p: Tensor<D>, log_q: Tensor<D>) -> Tensor<D> {
    (log_p.clone().exp() * (log_p - log_q)).sum_dim(D - 1)
}

/// The losses of targets `[n, 1]` as one.
fn reduce(losses: Tensor<2>, mask: Option<Tensor<2, Bool>>, reduction: Reduction) -> Tensor<1> {
    let n = losses.dims()[0];
    let (losses, learned) = match mask {
        None => (losses, n as i64),
        Some(mask) => {
            let left_out = mask.reshape([n, 1]).bool_not();
            let learned = match reduction {
                Reduction::Sum => 1, // not asked for: counting would wait for the device
                Reduction::Mean => n as i64 - left_out.clone().int().sum().into_scalar::<i64>(),
            };
            (losses.mask_fill(left_out, 0.0), learned)
        }
    };
    match reduction {
        Reduction::Sum => losses.sum(),
        Reduction::Mean => losses.sum() / learned.max(1) as f64,
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::data::keyed;

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

    /// Numbers that look random, in −2..2.
    fn numbers(seed: u64, count: usize) -> Vec<f64> {
        let number = |at| (keyed(seed, at) >> 11) as f64 / (1u64 << 53) as f64;
        (0..count as u64).map(|at| 4.0 * number(at) - 2.0).collect()
    }

    fn log_softmax_of(row: &[f64]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x - sum.ln()).collect()
    }

    fn kl(teacher: &[f64], student: &[f64]) -> f64 {
        let (p, q) = (log_softmax_of(teacher), log_softmax_of(student));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    fn tensor(values: &[f64], shape: [usize; 3], device: &Device) -> Tensor<3> {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Compares a loss and its gradient with a plain function in f64 and its differences.
    fn compare(
        values: &[f64],
        shape: [usize; 3],
        found: impl Fn(Tensor<3>) -> Tensor<1>,
        plain: impl Fn(&[f64]) -> f64,
    ) {
        let device = Device::flex().autodiff();
        let x = tensor(values, shape, &device).require_grad();
        let loss = found(x.clone());
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let expected = plain(values);
        assert!(
            (value - expected).abs() < 1e-5 * expected.abs().max(1.0),
            "{value}, {expected}"
        );
        let gradients = loss.backward();
        let gradient = x.grad(&gradients).expect("it depends on x").into_data();
        for (at, found) in gradient.iter::<f64>().enumerate() {
            let moved = |step: f64| {
                let mut values = values.to_vec();
                values[at] += step;
                plain(&values)
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (found - expected).abs() < 1e-4,
                "at {at}: {found}, {expected}"
            );
        }
    }

    #[test]
    fn the_divergence_and_its_gradient_are_those_of_plain_loops() {
        let (shape, vocab, temperature) = ([2, 3, 5], 5, 2.5);
        let (student, teacher) = (numbers(1, 30), numbers(2, 30));
        let learned = [true, false, true, true, true, false];
        let device = Device::flex().autodiff();
        let mask = Tensor::<2, Bool>::from_data(TensorData::new(learned.to_vec(), [2, 3]), &device);
        let logits = tensor(&teacher, shape, &device);
        compare(
            &student,
            shape,
            |x| {
                divergence(
                    x,
                    logits.clone(),
                    Some(mask.clone()),
                    temperature,
                    Reduction::Mean,
                )
            },
            |x| {
                let cooled = |row: &[f64]| row.iter().map(|x| x / temperature).collect::<Vec<_>>();
                let rows = x.chunks(vocab).zip(teacher.chunks(vocab)).zip(learned);
                let losses = rows.filter(|(_, learned)| *learned);
                let losses = losses.map(|((x, t), _)| kl(&cooled(t), &cooled(x)));
                temperature.powi(2) * losses.sum::<f64>() / 4.0
            },
        );
        let same = divergence(logits.clone(), logits, None, temperature, Reduction::Sum);
        assert_eq!(same.into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn relations_and_their_gradient_are_those_of_plain_loops() {
        // The teacher is wider than the student.
        let ([batch, seq_len, width], wide, heads) = ([2, 3, 4], 8, 2);
        let student = numbers(3, batch * seq_len * width);
        let teacher = [4, 5, 6].map(|seed| numbers(seed, batch * seq_len * wide));
        // Row by row the products of one token's head with all tokens of its sequence.
        let products = |states: &[f64], width: usize| -> Vec<Vec<f64>> {
            let d = width / heads;
            let head = |b: usize, t: usize, h: usize| {
                let begin = (b * seq_len + t) * width + h * d;
                &states[begin..begin + d]
            };
            let mut rows = Vec::new();
            for (b, h, t) in (0..batch)
                .flat_map(|b| (0..heads).flat_map(move |h| (0..seq_len).map(move |t| (b, h, t))))
            {
                let product = |u| {
                    let pairs = head(b, t, h).iter().zip(head(b, u, h));
                    pairs.map(|(x, y)| x * y).sum::<f64>() / (d as f64).sqrt()
                };
                rows.push((0..seq_len).map(product).collect());
            }
            rows
        };
        let plain = |x: &[f64]| {
            let mine = products(x, width);
            let of = |teacher: &Vec<f64>| {
                let rows = products(teacher, wide);
                let sum: f64 = rows.iter().zip(&mine).map(|(t, x)| kl(t, x)).sum();
                sum / rows.len() as f64
            };
            teacher.iter().map(of).sum()
        };
        let device = Device::flex().autodiff();
        let others = [0, 1, 2].map(|at| tensor(&teacher[at], [batch, seq_len, wide], &device));
        compare(
            &student,
            [batch, seq_len, width],
            |x| relations([x.clone(), x.clone(), x], others.clone(), heads),
            plain,
        );
    }
}
