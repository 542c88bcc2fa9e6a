//! When a sequence of ids is over.
//!
//! Invariant: an end-of-sequence id counts as generated and wins over the limits, so that a complete answer is never
//! reported as cut off.

use std::time::Duration;

/// What ends a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopConditions {
    /// Ids that end it. They belong to the generated tokens.
    pub eos: Vec<u32>,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Most time to take.
    pub time_limit: Option<Duration>,
}

/// Why a sequence is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The model said so, with this id.
    EndOfSequence(u32),
    /// [`StopConditions::max_new_tokens`] are there.
    MaxNewTokens,
    /// [`StopConditions::time_limit`] is over.
    TimeLimit,
    /// A stop string has appeared in the text.
    StopString,
    /// Whoever reads it wants no more.
    Interrupted,
}

impl StopConditions {
    /// Conditions without a time limit.
    pub fn new(eos: &[u32], max_new_tokens: usize) -> Self {
        Self {
            eos: eos.to_vec(),
            max_new_tokens,
            time_limit: None,
        }
    }

    /// Whether the sequence is over after `last`, the newest of `n_generated` tokens, `elapsed` after the start.
    pub fn reason(&self, last: u32, n_generated: usize, elapsed: Duration) -> Option<StopReason> {
        if self.eos.contains(&last) {
            Some(StopReason::EndOfSequence(last))
        } else if n_generated >= self.max_new_tokens {
            Some(StopReason::MaxNewTokens)
        } else if self.time_limit.is_some_and(|limit| elapsed >= limit) {
            Some(StopReason::TimeLimit)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_sequence_wins_over_the_limits() {
        let mut stop = StopConditions::new(&[7, 9], 3);
        let (start, late) = (Duration::ZERO, Duration::from_secs(5));
        assert_eq!(stop.reason(1, 2, late), None);
        assert_eq!(stop.reason(1, 3, late), Some(StopReason::MaxNewTokens));
        assert_eq!(stop.reason(9, 3, late), Some(StopReason::EndOfSequence(9)));
        stop.time_limit = Some(late);
        assert_eq!(stop.reason(1, 2, start), None);
        assert_eq!(stop.reason(1, 2, late), Some(StopReason::TimeLimit));
        assert_eq!(stop.reason(7, 1, late), Some(StopReason::EndOfSequence(7)));
    }
}
