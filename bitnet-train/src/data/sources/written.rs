//! The built-in stories as samples: texts, texts with questions, or conversations.
//!
//! In a conversation, somebody shows a story and asks about it, or asks for a story first; which of both depends on the
//! number of the story. So a model learns to tell on request and to answer.

use std::fmt::{self, Display};

use bitnet_models::chat::Message;

use super::Sample;
use crate::data::stories::{Document, Stories};

/// How a story becomes a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The text of the story.
    Stories,
    /// The story with questions and answers below it, as one text.
    Questions,
    /// A conversation about the story.
    Dialogues,
}

impl Form {
    /// All forms.
    pub const ALL: &[Self] = &[Self::Stories, Self::Questions, Self::Dialogues];

    /// The form of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|form| form.to_string() == name)
    }

    /// The sample of a document; `number` is its place.
    pub fn sample(self, document: Document, number: u64) -> Sample {
        match self {
            Self::Stories => Sample::Text(document.story),
            Self::Questions => {
                let mut text = document.story;
                for pair in document.questions {
                    text += &format!("\n\nQuestion: {}\nAnswer: {}", pair.question, pair.answer);
                }
                Sample::Text(text)
            }
            Self::Dialogues => Sample::Chat(dialogue(document, number)),
        }
    }
}

impl Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Stories => "stories",
            Self::Questions => "questions",
            Self::Dialogues => "dialogues",
        })
    }
}

fn dialogue(document: Document, number: u64) -> Vec<Message> {
    let told = number % 2 == 1;
    let mut messages = Vec::new();
    let mut shown = Some(document.story);
    if told {
        let wish = format!("Tell me a story about this: {}.", document.about);
        messages.push(Message::new("user", wish));
        messages.extend(shown.take().map(|story| Message::new("assistant", story)));
    }
    for pair in document.questions {
        let asked = match shown.take() {
            Some(story) => format!("{story}\n\n{}", pair.question),
            None => pair.question,
        };
        messages.push(Message::new("user", asked));
        messages.push(Message::new("assistant", pair.answer));
    }
    messages
}

pub(super) fn samples(
    count: u64,
    seed: u64,
    form: Form,
) -> impl Iterator<Item = Result<Sample, crate::TrainError>> + Send {
    let numbered = (0..count).zip(Stories::new(seed));
    numbered.map(move |(number, document)| Ok(form.sample(document, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialogues_alternate_and_hold_the_story_once() {
        for (number, document) in (0..20).zip(Stories::new(1)) {
            let story = document.story.clone();
            let Sample::Chat(messages) = Form::Dialogues.sample(document, number) else {
                panic!("a conversation");
            };
            for (at, message) in messages.iter().enumerate() {
                assert_eq!(message.role, ["user", "assistant"][at % 2]);
            }
            let with_story = messages
                .iter()
                .filter(|message| message.content.contains(&story));
            assert_eq!((with_story.count(), messages.len() % 2), (1, 0));
        }
    }
}
