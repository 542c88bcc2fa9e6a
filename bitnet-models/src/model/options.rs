//! Settings of a generation, with defaults that suit a conversation.

use std::time::Duration;

use bitnet_kernels::CacheFormat;
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::decoder::DecoderConfig;
use crate::generation::{ContextOptions, SamplingConfig, StopConditions};

/// How to continue a prompt. The default is greedy, up to 256 tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// How ids are chosen.
    pub sampling: SamplingConfig,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Goes on after the ids that end a text.
    pub ignore_eos: bool,
    /// Most time to take.
    pub time_limit: Option<Duration>,
    /// Positions of the cache; by default what prompt and answer need, up to the model's own context.
    pub context: Option<usize>,
    /// Number format of the cache.
    pub cache: CacheFormat,
    /// Prompt tokens fed at once.
    pub chunk: usize,
    /// Slides the context instead of refusing: keeps this many first tokens and forgets the oldest after them.
    pub sinks: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingConfig::default(),
            max_new_tokens: 256,
            stop: Vec::new(),
            ignore_eos: false,
            time_limit: None,
            context: None,
            cache: CacheFormat::F16,
            chunk: 256,
            sinks: None,
        }
    }
}

impl GenerateOptions {
    /// What ends a sequence of ids.
    pub fn stop_conditions(&self, end_ids: &[u32]) -> StopConditions {
        let eos = if self.ignore_eos { &[] } else { end_ids };
        StopConditions {
            time_limit: self.time_limit,
            ..StopConditions::new(eos, self.max_new_tokens)
        }
    }

    /// The context for prompts of up to `prompt_len` tokens.
    ///
    /// # Errors
    ///
    /// [`ModelError::ContextOverflow`] if the prompt leaves no room for a token, [`ModelError::Request`] if the context
    /// is longer than the model's.
    pub fn context_for(
        &self,
        config: &DecoderConfig,
        prompt_len: usize,
    ) -> Result<ContextOptions, ModelError> {
        // The last token that is generated is never fed.
        let wanted = prompt_len + self.max_new_tokens.saturating_sub(1);
        let capacity = self
            .context
            .unwrap_or_else(|| wanted.min(config.max_positions));
        if capacity > config.max_positions {
            return Err(ModelError::Request {
                what: "context",
                found: format!("{capacity} tokens"),
                expected: format!(
                    "at most {}, which the model was made for",
                    config.max_positions
                ),
                way_out: "Ask for less, or let the window slide".into(),
            });
        }
        if prompt_len > capacity && self.sinks.is_none() {
            let needed = prompt_len;
            return Err(ModelError::ContextOverflow { capacity, needed });
        }
        Ok(ContextOptions {
            capacity,
            cache: self.cache,
            chunk: self.chunk,
            sinks: self.sinks,
        })
    }
}
