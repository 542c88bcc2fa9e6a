//! A sample as ids, with what begins and ends it and a mask of what is learned.
//!
//! Texts stay text: what spells a special token becomes no special token. In a conversation, the ids that the
//! assistant's messages add to the rendered prompt are learned, their end tokens among them.

use bitnet_models::chat::{ChatTemplate, Message};
use bitnet_models::tokenizer::{Special, Tokenizer};

use crate::TrainError;
use crate::data::sources::Sample;
use crate::data::tokenizer::TokenizerBundle;

/// The ids of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    /// `None` if all are learned.
    pub(super) mask: Option<Vec<bool>>,
}

pub(super) fn encode(sample: &Sample, bundle: &TokenizerBundle) -> Result<Encoded, TrainError> {
    let tokenizer = bundle.tokenizer();
    match sample {
        Sample::Text(text) => {
            let mut ids = tokenizer.encode_prompt(text, Special::AsText)?;
            if let Some(&end) = tokenizer
                .eos_ids()
                .first()
                .filter(|&end| ids.last() != Some(end))
            {
                ids.push(end);
            }
            Ok(Encoded { ids, mask: None })
        }
        Sample::Chat(messages) => {
            let template = bundle.template().ok_or_else(|| TrainError::Request {
                what: "conversation",
                found: "a tokenizer without a chat template".to_owned(),
                expected: "one with special tokens for conversations".to_owned(),
                way_out: "Train a BPE tokenizer, give one with a chat template, or leave the conversations out".to_owned(),
            })?;
            chat(messages, template, tokenizer)
        }
        Sample::Ids { ids, mask } => {
            let vocab_size = tokenizer.vocab_size();
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(TrainError::Request {
                    what: "ids of a sample",
                    found: id.to_string(),
                    expected: format!("ids below {vocab_size}, the size of the vocabulary"),
                    way_out: "Give the tokenizer that the ids were made with".to_owned(),
                });
            }
            Ok(Encoded {
                ids: ids.clone(),
                mask: mask.clone(),
            })
        }
    }
}

fn chat(
    messages: &[Message],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
) -> Result<Encoded, TrainError> {
    let render = |until: usize, prompt: bool| {
        template.chat_ids(tokenizer, &messages[..until], prompt, Special::AsText)
    };
    let ids = render(messages.len(), false)?;
    let mut mask = vec![false; ids.len()];
    for (at, _) in messages
        .iter()
        .enumerate()
        .filter(|(_, m)| m.role == "assistant")
    {
        // An id that spans the border of prompt and answer belongs to the answer.
        let begin = common(&ids, &render(at, true)?);
        let end = if at + 1 == messages.len() {
            ids.len()
        } else {
            common(&ids, &render(at + 1, false)?)
        };
        mask.get_mut(begin..end).unwrap_or_default().fill(true);
    }
    Ok(Encoded {
        ids,
        mask: Some(mask),
    })
}

/// The length of the longest common beginning.
fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter()
        .zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sources::{Form, Source, Sources};
    use crate::data::tokenizer::Bpe;

    fn bundle() -> TokenizerBundle {
        let source = Source::Stories {
            count: 20,
            seed: 0,
            form: Form::Stories,
        };
        Bpe::new(400)
            .unwrap()
            .train(&Sources::new(vec![source]))
            .unwrap()
    }

    #[test]
    fn texts_begin_and_end_and_spell_no_special_token() {
        let bundle = bundle();
        let (begin, end) = (
            bundle.tokenizer().bos_id().unwrap(),
            bundle.tokenizer().eos_ids()[0],
        );
        let text = "A <|eot_id|> was there.";
        let encoded = encode(&Sample::Text(text.into()), &bundle).unwrap();
        let (first, rest) = encoded.ids.split_first().unwrap();
        let (last, inner) = rest.split_last().unwrap();
        assert_eq!((*first, *last), (begin, end));
        assert!(
            inner
                .iter()
                .all(|id| !bundle.tokenizer().eos_ids().contains(id))
        );
        assert_eq!(bundle.tokenizer().decode(inner, false).unwrap(), text);
        assert_eq!(encoded.mask, None);
    }

    #[test]
    fn only_what_the_assistant_says_is_learned_with_its_end() {
        let bundle = bundle();
        let say = |(role, content)| Message::new(role, content);
        let messages = [
            ("user", "Who are you?"),
            ("assistant", "Tom."),
            ("user", "Why?"),
            ("assistant", "I am a fox."),
        ];
        let sample = Sample::Chat(messages.map(say).to_vec());
        let Encoded {
            ids,
            mask: Some(mask),
        } = encode(&sample, &bundle).unwrap()
        else {
            panic!("a mask");
        };
        let learned: Vec<u32> = ids
            .iter()
            .zip(&mask)
            .filter(|(_, mask)| **mask)
            .map(|(id, _)| *id)
            .collect();
        let text = bundle.tokenizer().decode(&learned, false).unwrap();
        assert_eq!(text, "Tom.<|eot_id|>I am a fox.<|eot_id|>");
    }

    #[test]
    fn ids_of_another_vocabulary_are_refused() {
        let sample = Sample::Ids {
            ids: vec![3, 400],
            mask: None,
        };
        let error = encode(&sample, &bundle()).unwrap_err().to_string();
        assert!(
            error.contains("found 400, expected ids below 400"),
            "{error}"
        );
    }
}
