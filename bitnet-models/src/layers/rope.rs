//! Rotary position encoding in the checkpoints' rotate-half convention, with the scaling kinds of Llama 3 and Qwen.
//!
//! Position `p` turns the pair `(x[i], x[i + d/2])` by the angle `p · f[i]`, `f[i] = theta^(-2i/d)`, changed by the
//! scaling. Angles, cosines and sines are f32, as in the reference. Only the positions that a call needs are computed.
//!
//! Source: arXiv 2104.09864; YaRN: arXiv 2309.00071, eq. 19 to 23 and the attention factor `0.1 ln(s) + 1`.

use std::f64::consts::PI;

use bitnet_kernels::rotate;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// How rotation frequencies are changed for contexts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Ratio of the new context to the old.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth passage between.
    Llama3 {
        /// Ratio of the new context to the old.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of pre-training.
        original: f64,
    },
    /// YaRN, as Qwen uses it.
    Yarn {
        /// Ratio of the new context to the old.
        factor: f64,
        /// Context of pre-training.
        original: f64,
        /// Rotations in `original` above which a frequency is kept.
        beta_fast: f64,
        /// Rotations in `original` below which a frequency is divided.
        beta_slow: f64,
        /// Factor of cosine and sine.
        attention_factor: f64,
    },
    /// Each frequency divided by its own factor (GGUF's `rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// Rotary encoding of heads of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change for long contexts.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Frequencies `f[i]`, `head_dim / 2` of them, and the factor of cosine and sine.
    pub fn frequencies(&self, head_dim: usize) -> (Vec<f32>, f32) {
        let base = |i: usize| self.theta.powf(-2.0 * i as f64 / head_dim as f64);
        let half = 0..head_dim / 2;
        match &self.scaling {
            RopeScaling::None => (half.map(|i| base(i) as f32).collect(), 1.0),
            RopeScaling::Linear { factor } => {
                (half.map(|i| (base(i) / factor) as f32).collect(), 1.0)
            }
            RopeScaling::Factors(factors) => (
                half.map(|i| (base(i) / f64::from(factors[i])) as f32)
                    .collect(),
                1.0,
            ),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original,
            } => {
                let scaled = |i| {
                    let (frequency, rotations) = (base(i), original * base(i) / (2.0 * PI));
                    // 0 at the low boundary, 1 at the high one.
                    let smooth = ((rotations - low_freq_factor)
                        / (high_freq_factor - low_freq_factor))
                        .clamp(0.0, 1.0);
                    ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
                };
                (half.map(scaled).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                original,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                let dim = head_dim as f64;
                // The index whose frequency makes this many rotations within the original context.
                let index = |rotations: f64| {
                    dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let low = index(*beta_fast).floor().max(0.0);
                let high = index(*beta_slow).ceil().min(dim - 1.0);
                let width = if high > low { high - low } else { 0.001 };
                let scaled = |i| {
                    let kept = 1.0 - ((i as f64 - low) / width).clamp(0.0, 1.0);
                    (base(i) / factor * (1.0 - kept) + base(i) * kept) as f32
                };
                (half.map(scaled).collect(), *attention_factor as f32)
            }
        }
    }

    /// Cosines and sines of these positions, one row of the batch after the other.
    ///
    /// # Shapes
    ///
    /// - positions: `batch · seq_len` numbers
    /// - output: `[batch, 1, seq_len, head_dim / 2]`
    pub fn rotation(
        &self,
        head_dim: usize,
        positions: &[usize],
        batch: usize,
        device: &Device,
    ) -> Rotation {
        let (frequencies, factor) = self.frequencies(head_dim);
        let angles = positions
            .iter()
            .flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f))
            .collect();
        let shape = [batch, 1, positions.len() / batch, frequencies.len()];
        Rotation::new(angles, factor, shape, device)
    }

    /// Turns heads that stand at some position back by `distance` positions.
    pub fn back(&self, head_dim: usize, distance: usize, device: &Device) -> Rotation {
        let (frequencies, _) = self.frequencies(head_dim); // the factor is in the heads already
        let angles = frequencies.iter().map(|f| -(distance as f32) * f).collect();
        Rotation::new(angles, 1.0, [1, 1, 1, frequencies.len()], device)
    }
}

/// Cosines and sines of some positions.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    fn new(angles: Vec<f32>, factor: f32, shape: [usize; 4], device: &Device) -> Self {
        let table = |of: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| of(angle) * factor).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), device)
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Turns heads, in f32.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, heads, seq_len, head_dim]`
    /// - output: the same
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> RopeConfig {
        RopeConfig {
            theta: 10_000.0,
            scaling,
        }
    }

    #[test]
    fn plain_frequencies_fall_from_one_by_powers_of_theta() {
        let (frequencies, factor) = rope(RopeScaling::None).frequencies(4);
        assert_eq!((frequencies, factor), (vec![1.0, 0.01], 1.0));
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original: 64.0,
        };
        let (plain, _) = rope(RopeScaling::None).frequencies(8);
        let (scaled, _) = rope(scaling).frequencies(8);
        assert_eq!(scaled[0], plain[0]); // wavelength 6.3 < 64 / 4
        assert!(scaled[1] < plain[1] && scaled[1] > plain[1] / 8.0); // 62.8, between 16 and 64
        assert_eq!(scaled[3], plain[3] / 8.0); // 6283 > 64
    }

    #[test]
    fn yarn_keeps_high_frequencies_divides_low_ones_and_scales_the_rotation() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original: 128.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.25,
        };
        let (plain, _) = rope(RopeScaling::None).frequencies(64);
        let (scaled, factor) = rope(scaling).frequencies(64);
        assert_eq!((scaled[0], factor), (plain[0], 1.25));
        assert!((scaled[31] / (plain[31] / 4.0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn rotation_turns_pairs_half_a_head_apart() {
        let device = Device::default();
        let quarter = RopeConfig {
            theta: 1.0,
            scaling: RopeScaling::Linear {
                factor: 2.0 / std::f64::consts::PI,
            },
        };
        let x = Tensor::<4>::from_data(
            TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0], [1, 1, 1, 4]),
            &device,
        );
        let turned = quarter.rotation(4, &[1], 1, &device).apply(x);
        let expected = TensorData::new(vec![-3.0f32, -4.0, 1.0, 2.0], [1, 1, 1, 4]);
        turned
            .into_data()
            .assert_approx_eq::<f32>(&expected, Default::default());
    }
}
