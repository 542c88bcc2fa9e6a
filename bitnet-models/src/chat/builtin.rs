//! Chat templates for models whose files carry none, or a wrong one.
//!
//! Order matters: the first whose special tokens the vocabulary has is chosen. The vocabulary of BitNet b1.58 2B4T has
//! Llama's header tokens too, so its own format comes first, for its architecture only.

/// A template, and how to tell that a model needs it.
#[derive(Debug)]
pub struct Builtin {
    /// The name to choose it by.
    pub name: &'static str,
    /// The Jinja text.
    pub source: &'static str,
    /// Special tokens that it writes.
    pub(super) marks: &'static [&'static str],
    /// Whether it is for the BitNet architecture alone.
    pub(super) bitnet_only: bool,
}

/// Every built-in template.
pub static BUILTIN: &[Builtin] = &[
    Builtin {
        name: "2b4t",
        source: concat!(
            "{% set loop_messages = messages %}{% for message in loop_messages %}",
            "{% set content = message['role'] | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}",
            "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
        ),
        marks: &["<|eot_id|>"],
        bitnet_only: true,
    },
    Builtin {
        name: "llama3",
        source: concat!(
            "{{ bos_token }}{% for message in messages %}",
            "{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' }}",
            "{{ message.content | trim ~ '<|eot_id|>' }}{% endfor %}",
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
        ),
        marks: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        bitnet_only: false,
    },
    Builtin {
        name: "chatml",
        source: concat!(
            "{% for message in messages %}",
            "{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}{% endfor %}",
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
        marks: &["<|im_start|>", "<|im_end|>"],
        bitnet_only: false,
    },
    Builtin {
        name: "falcon",
        source: concat!(
            "{% for message in messages %}{{ '<|' ~ message.role ~ '|>\n' ~ message.content }}",
            "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}",
            "{% if not (loop.last and message.role == 'assistant') %}{{ '\n' }}{% endif %}{% endfor %}",
            "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
        ),
        marks: &["<|user|>", "<|assistant|>"],
        bitnet_only: false,
    },
];

/// All names, for messages.
pub(super) fn names() -> String {
    let names: Vec<_> = BUILTIN.iter().map(|builtin| builtin.name).collect();
    names.join(", ")
}
