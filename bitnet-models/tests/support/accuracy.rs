//! How far logits of a reduced number format are from those of f32, on the same tokens.

use bitnet_kernels::CacheFormat;
use bitnet_models::decoder::Decoder;
use bitnet_models::generation::{
    ContextOptions, Generation, SamplingConfig, Session, StopConditions,
};
use burn::tensor::Tensor;

/// A text that the model itself writes at temperature 1, so that its own perplexity is exp of its entropy and every
/// model has a text, whatever its vocabulary. Token 1 and `length` more.
pub(crate) fn written_by(decoder: &Decoder, length: usize) -> Vec<u32> {
    let context = ContextOptions {
        cache: CacheFormat::F32,
        ..ContextOptions::new(length)
    };
    let mut session = Session::new(decoder, 1, context).expect("a context");
    let sampling = SamplingConfig {
        temperature: 1.0,
        ..SamplingConfig::default()
    };
    let stop = StopConditions::new(&[], length);
    let tokens = Generation::new(&mut session, &[&[1]], &sampling, &stop).expect("a request");
    let tokens = tokens.map(|token| token.expect("a token").id);
    std::iter::once(1).chain(tokens).collect()
}

/// The hidden states that predict each token of `ids` but the first: `[ids.len() - 1, hidden_size]`.
pub(crate) fn states(decoder: &Decoder, ids: &[u32], cache: CacheFormat) -> Tensor<2> {
    let length = ids.len() - 1;
    let context = ContextOptions {
        cache,
        chunk: length,
        ..ContextOptions::new(length)
    };
    let mut session = Session::new(decoder, 1, context).expect("a context");
    let mut states = None;
    session
        .feed_each(&[&ids[..length]], |_, hidden, _| {
            states = Some(hidden.squeeze_dim(0));
            Ok(())
        })
        .expect("a context that is long enough");
    states.expect("one chunk")
}

/// What became of the logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deviation {
    /// Largest difference of a logit, in units of `spread`.
    pub(crate) max: f64,
    /// Root of the mean squared difference, in units of `spread`.
    pub(crate) rms: f64,
    /// Standard deviation of the f32 logits of a position, its root mean square over all positions.
    pub(crate) spread: f64,
    /// Mean of `Σ p (ln p - ln q)` over positions, p of f32, in nats.
    pub(crate) divergence: f64,
    /// Positions whose most likely token is the same, of 1.
    pub(crate) agreement: f64,
    /// Perplexity of the text with f32, and with the reduced format.
    pub(crate) perplexity: [f64; 2],
}

impl Deviation {
    /// Compares rows of `vocab` logits, each of which predicts the token of `next` at its place.
    pub(crate) fn of(exact: &[f32], found: &[f32], next: &[u32]) -> Self {
        assert_eq!(exact.len(), found.len());
        let (count, vocab) = (next.len() as f64, exact.len() / next.len());
        let (mut max, mut squares, mut variance) = (0f64, 0f64, 0f64);
        let (mut divergence, mut agreeing, mut surprise) = (0f64, 0f64, [0f64; 2]);
        let rows = exact.chunks_exact(vocab).zip(found.chunks_exact(vocab));
        for ((exact, found), &id) in rows.zip(next) {
            for (a, b) in exact.iter().zip(found) {
                let difference = f64::from(*a) - f64::from(*b);
                max = max.max(difference.abs());
                squares += difference * difference;
            }
            let mean = exact.iter().map(|&x| f64::from(x)).sum::<f64>() / vocab as f64;
            let square = |x: &f32| (f64::from(*x) - mean).powi(2);
            variance += exact.iter().map(square).sum::<f64>() / vocab as f64;
            let [p, q] = [log_softmax(exact), log_softmax(found)];
            divergence += p
                .iter()
                .zip(&q)
                .map(|(p, q)| p.exp() * (p - q))
                .sum::<f64>();
            agreeing += f64::from(u8::from(best(exact) == best(found)));
            surprise[0] -= p[id as usize];
            surprise[1] -= q[id as usize];
        }
        let spread = (variance / count).sqrt();
        Self {
            max: max / spread,
            rms: (squares / (count * vocab as f64)).sqrt() / spread,
            spread,
            divergence: divergence.max(0.0) / count, // below zero by rounding alone
            agreement: agreeing / count,
            perplexity: surprise.map(|nats| (nats / count).exp()),
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    let shift = largest + sum.ln();
    logits.iter().map(|&x| f64::from(x) - shift).collect()
}

fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, at| if logits[at] > logits[best] { at } else { best })
}
