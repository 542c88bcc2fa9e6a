//! What changes from step to step: the learning rate, the weight decay, and how far weights are quantized.
//!
//! Invariant: everything is a pure function of the step, so that a schedule has no state to save and a resumed run goes
//! on as the unbroken one. Burn's schedulers count for themselves, which is why they are not used here.

use serde::{Deserialize, Serialize};

/// What a step multiplies the configured learning rate and weight decay with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// Of the learning rate.
    pub lr: f64,
    /// Of the weight decay.
    pub weight_decay: f64,
}

/// The course of the learning rate. All begin with a linear rise over `warmup` steps; `floor` is the part of the
/// learning rate that is left at the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Stays.
    Constant {
        /// Steps to rise.
        #[serde(default)]
        warmup: u64,
    },
    /// Falls in a straight line.
    Linear {
        /// Steps to rise.
        #[serde(default)]
        warmup: u64,
        /// What is left.
        #[serde(default)]
        floor: f64,
    },
    /// Falls as half a cosine (arXiv 1608.03983).
    Cosine {
        /// Steps to rise.
        #[serde(default)]
        warmup: u64,
        /// What is left.
        #[serde(default)]
        floor: f64,
    },
    /// Warm-up, stable, decay: stays, then falls in a straight line over the last `decay` steps (arXiv 2404.06395).
    Wsd {
        /// Steps to rise.
        #[serde(default)]
        warmup: u64,
        /// Steps to fall.
        decay: u64,
        /// What is left.
        #[serde(default)]
        floor: f64,
    },
    /// BitNet's: a cosine from a high rate, abandoned at `switch` for a second cosine from a far lower one; from there on
    /// without weight decay, so that trits settle (arXiv 2504.12285). At half of the steps the first has come to ½.
    TwoStage {
        /// Steps to rise.
        #[serde(default)]
        warmup: u64,
        /// Which part of the steps belongs to the first stage.
        #[serde(default = "half")]
        switch: f64,
        /// Where the second stage begins, as a part of the learning rate.
        #[serde(default = "quarter")]
        second: f64,
        /// What is left.
        #[serde(default)]
        floor: f64,
    },
}

fn half() -> f64 {
    0.5
}

fn quarter() -> f64 {
    0.25
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine {
            warmup: 0,
            floor: 0.1,
        }
    }
}

impl Schedule {
    /// The factors of a step, counted from 0, of a run of so many steps.
    pub fn at(&self, step: u64, steps: u64) -> Factors {
        let warmup = self.warmup();
        let lr = if step < warmup {
            (step + 1) as f64 / warmup as f64
        } else {
            self.after_warmup(step, warmup, steps)
        };
        let decays = !matches!(self, Self::TwoStage { switch, .. } if step >= part(*switch, steps));
        Factors {
            lr,
            weight_decay: f64::from(u8::from(decays)),
        }
    }

    /// Steps to rise.
    pub const fn warmup(&self) -> u64 {
        match *self {
            Self::Constant { warmup }
            | Self::Linear { warmup, .. }
            | Self::Cosine { warmup, .. }
            | Self::Wsd { warmup, .. }
            | Self::TwoStage { warmup, .. } => warmup,
        }
    }

    /// The settings that are parts of something, by name.
    pub(crate) fn parts(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::Constant { .. } => Vec::new(),
            Self::Linear { floor, .. } | Self::Cosine { floor, .. } | Self::Wsd { floor, .. } => {
                vec![("schedule.floor", floor)]
            }
            Self::TwoStage {
                switch,
                second,
                floor,
                ..
            } => vec![
                ("schedule.switch", switch),
                ("schedule.second", second),
                ("schedule.floor", floor),
            ],
        }
    }

    fn after_warmup(&self, step: u64, warmup: u64, steps: u64) -> f64 {
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Linear { floor, .. } => 1.0 - (1.0 - floor) * done(step, warmup, steps),
            Self::Cosine { floor, .. } => cosine(1.0, floor, done(step, warmup, steps)),
            Self::Wsd { decay, floor, .. } => {
                let begin = steps.saturating_sub(decay).max(warmup);
                1.0 - (1.0 - floor) * done(step, begin, steps)
            }
            Self::TwoStage {
                switch,
                second,
                floor,
                ..
            } => match part(switch, steps).max(warmup) {
                at if step < at => cosine(1.0, floor, done(step, warmup, steps)),
                at => cosine(second, floor, done(step, at, steps)),
            },
        }
    }
}

fn part(fraction: f64, steps: u64) -> u64 {
    (fraction * steps as f64).round() as u64
}

/// Which part of the way from `begin` to the last step is done.
fn done(step: u64, begin: u64, steps: u64) -> f64 {
    let way = steps.saturating_sub(begin + 1).max(1);
    (step.saturating_sub(begin) as f64 / way as f64).clamp(0.0, 1.0)
}

fn cosine(from: f64, to: f64, done: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// How float weights become ternary in the course of a run: λ of [`BitLinear::set_blend`](bitnet_models::BitLinear::set_blend).
/// Every course reaches 1 after `steps`, and what is trained from there on is the ternary model.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Blend {
    /// Ternary from the first step on.
    #[default]
    None,
    /// `x`, the part of `steps` that is done, at most 1.
    Linear {
        /// Until ternary.
        steps: u64,
    },
    /// `σ(k·(x − ½))`, moved and stretched to begin at 0 and end at 1.
    Sigmoid {
        /// Until ternary.
        steps: u64,
        /// `k`.
        #[serde(default = "ten")]
        steepness: f64,
    },
    /// `(e^(k·x) − 1) / (e^k − 1)`: slow first.
    Exponential {
        /// Until ternary.
        steps: u64,
        /// `k`.
        #[serde(default = "four")]
        steepness: f64,
    },
}

fn ten() -> f64 {
    10.0
}

fn four() -> f64 {
    4.0
}

impl Blend {
    /// λ of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let steps = self.steps();
        if step >= steps {
            return 1.0;
        }
        let x = step as f64 / steps as f64;
        match *self {
            Self::None => 1.0,
            Self::Linear { .. } => x,
            Self::Sigmoid { steepness, .. } => {
                let sigmoid = |x: f64| 1.0 / (1.0 + (-steepness * (x - 0.5)).exp());
                (sigmoid(x) - sigmoid(0.0)) / (sigmoid(1.0) - sigmoid(0.0))
            }
            Self::Exponential { steepness, .. } => (steepness * x).exp_m1() / steepness.exp_m1(),
        }
    }

    /// How steep it is, if it is curved.
    pub(crate) const fn steepness(&self) -> Option<f64> {
        match *self {
            Self::None | Self::Linear { .. } => None,
            Self::Sigmoid { steepness, .. } | Self::Exponential { steepness, .. } => {
                Some(steepness)
            }
        }
    }

    /// Steps until everything is ternary.
    pub const fn steps(&self) -> u64 {
        match *self {
            Self::None => 0,
            Self::Linear { steps }
            | Self::Sigmoid { steps, .. }
            | Self::Exponential { steps, .. } => steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(schedule: Schedule, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| schedule.at(step, steps).lr).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        let close = found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{found:?}, expected {expected:?}");
    }

    #[test]
    fn courses_rise_and_fall_as_computed_by_hand() {
        let warmup = 2;
        assert_close(
            &course(Schedule::Constant { warmup }, 4),
            &[0.5, 1.0, 1.0, 1.0],
        );
        let linear = Schedule::Linear { warmup, floor: 0.2 };
        assert_close(&course(linear, 5), &[0.5, 1.0, 1.0, 0.6, 0.2]);
        let cosine = Schedule::Cosine {
            warmup: 0,
            floor: 0.0,
        };
        assert_close(
            &course(cosine, 5),
            &[1.0, 0.5 + 0.125f64.sqrt(), 0.5, 0.5 - 0.125f64.sqrt(), 0.0],
        );
        let wsd = Schedule::Wsd {
            warmup: 1,
            decay: 3,
            floor: 0.0,
        };
        assert_close(&course(wsd, 6), &[1.0, 1.0, 1.0, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn the_second_stage_begins_lower_and_has_no_weight_decay() {
        let schedule = Schedule::TwoStage {
            warmup: 0,
            switch: 0.5,
            second: 0.25,
            floor: 0.0,
        };
        let factors: Vec<Factors> = (0..10).map(|step| schedule.at(step, 10)).collect();
        assert!(factors[4].lr > 0.5 && factors[5].lr == 0.25);
        assert!(factors[9].lr < 1e-12);
        let decays: Vec<f64> = factors.iter().map(|factors| factors.weight_decay).collect();
        assert_eq!(decays, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn blends_begin_float_rise_and_end_ternary() {
        let steps = 8;
        for blend in [
            Blend::Linear { steps },
            Blend::Sigmoid {
                steps,
                steepness: 10.0,
            },
            Blend::Exponential {
                steps,
                steepness: 4.0,
            },
        ] {
            let course: Vec<f64> = (0..10).map(|step| blend.at(step)).collect();
            assert_eq!(
                (course[0], course[8], course[9]),
                (0.0, 1.0, 1.0),
                "{blend:?}"
            );
            assert!(
                course[..9].is_sorted_by(|a, b| a < b),
                "{blend:?}: {course:?}"
            );
        }
        assert_eq!(Blend::Linear { steps }.at(2), 0.25);
        assert_eq!(Blend::None.at(0), 1.0);
    }
}
