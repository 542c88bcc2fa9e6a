//! From logits to ids: prefill, decode, stop. Knows ids, never text.
