//! A corpus that needs no download: small coherent stories with questions, without end and always the same.
//!
//! A grammar of nested choices tells; a world of people, things, places and reasons keeps the telling consistent and
//! answers the questions. The plots and every sentence are ours.
//! Invariant: document `n` depends on the seed and `n` alone.

mod dice;
mod lexicon;
mod plots;
mod questions;
mod tale;
mod template;
mod world;

use dice::Dice;
use plots::PLOTS;
use tale::Tale;
use world::World;

/// A story, and what can be asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The kind of story: `something is lost and found`.
    pub about: &'static str,
    /// The text: paragraphs, an empty line between two.
    pub story: String,
    /// Questions with answers that follow from the story.
    pub questions: Vec<Question>,
}

/// A question about a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// The right answer, a sentence or two.
    pub answer: String,
}

/// Documents without end.
///
/// ```
/// use bitnet_train::data::Stories;
///
/// let third = Stories::new(7).nth(2).unwrap();
/// assert_eq!(third, Stories::new(7).skip(2).next().unwrap());
/// assert!(!third.questions.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct Stories {
    seed: u64,
    next: u64,
}

impl Stories {
    /// From the first document on.
    pub const fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }
}

impl Iterator for Stories {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        let (document, _) = tell(self.seed, self.next);
        self.next = self.next.wrapping_add(1);
        Some(document)
    }

    /// Skips without telling.
    fn nth(&mut self, n: usize) -> Option<Document> {
        self.next = self.next.wrapping_add(n as u64);
        self.next()
    }
}

fn tell(seed: u64, number: u64) -> (Document, World) {
    let mut dice = Dice::new(seed, number);
    let (about, plot) = PLOTS[dice.below(PLOTS.len())];
    let mut tale = Tale::new(dice);
    plot(&mut tale);
    let (story, world, mut dice) = tale.finish();
    let questions = questions::ask(&world, &story, &mut dice);
    let document = Document {
        about,
        story,
        questions,
    };
    (document, world)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::tale::{place_form, thing_form};
    use super::world::Whereabouts;
    use super::*;

    fn thousand() -> Vec<Document> {
        Stories::new(3).take(1000).collect()
    }

    /// Every text of a document.
    fn texts(document: &Document) -> Vec<&str> {
        let answers = document.questions.iter();
        let answers = answers.flat_map(|q| [q.question.as_str(), q.answer.as_str()]);
        [document.story.as_str()]
            .into_iter()
            .chain(answers)
            .collect()
    }

    #[test]
    fn a_document_depends_on_seed_and_number_alone() {
        let some: Vec<Document> = Stories::new(3).take(20).collect();
        assert_eq!(Stories::new(3).nth(17).unwrap(), some[17]);
        assert_ne!(Stories::new(4).nth(17).unwrap(), some[17]);
    }

    #[test]
    fn every_plot_is_told_and_at_least_twelve_are_there() {
        let told: HashSet<_> = thousand().iter().map(|document| document.about).collect();
        assert!(PLOTS.len() >= 12);
        assert_eq!(told.len(), PLOTS.len());
    }

    #[test]
    fn texts_are_well_formed() {
        for document in thousand() {
            for text in texts(&document) {
                assert!(
                    !text.contains("  ") && !text.contains(" \n") && !text.contains("\n "),
                    "{text}"
                );
                assert!(!text.contains(['[', ']', '{', '}', '|']), "{text}");
                assert!(
                    ![
                        " .",
                        " ,",
                        " !",
                        " ?",
                        ",,",
                        "..",
                        ",.",
                        " a a ",
                        " the the "
                    ]
                    .iter()
                    .any(|bad| text.contains(bad)),
                    "{text}"
                );
                assert_eq!(text.trim(), text);
                for paragraph in text.split("\n\n") {
                    assert_eq!(paragraph.matches('"').count() % 2, 0, "{paragraph}");
                    assert!(paragraph.ends_with(['.', '!', '?', '"']), "{paragraph}");
                    let first = paragraph.trim_start_matches('"').chars().next().unwrap();
                    assert!(first.is_uppercase(), "{paragraph}");
                }
            }
        }
    }

    /// Splits into words with the punctuation that clings to them.
    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn sentences_begin_with_capitals_and_speech_too() {
        for document in thousand() {
            for text in texts(&document) {
                for pair in words(text).windows(2) {
                    // After a closing quote, `she said` may follow.
                    if pair[0].ends_with(['.', '!', '?']) {
                        let first = pair[1].trim_start_matches('"').chars().next().unwrap();
                        assert!(first.is_uppercase(), "{} {} in {text}", pair[0], pair[1]);
                    }
                }
                let mut open = false;
                for (at, _) in text.match_indices('"') {
                    open = !open;
                    let next = text[at + 1..].chars().next();
                    let goes_on = text[..at].ends_with(", ");
                    if open && !goes_on {
                        assert!(next.is_some_and(char::is_uppercase), "{text}");
                    }
                    if !open {
                        assert!(text[..at].ends_with(['.', ',', '!', '?']), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn articles_agree_with_the_next_word() {
        for document in thousand() {
            for text in texts(&document) {
                for pair in words(text).windows(2) {
                    let next = pair[1].to_ascii_lowercase();
                    let vowel = (next.starts_with(['a', 'e', 'i', 'o', 'u'])
                        || next.starts_with("hour"))
                        && !["one", "used", "useful"]
                            .iter()
                            .any(|word| next.starts_with(word));
                    match pair[0].trim_start_matches('"') {
                        "a" | "A" => assert!(!vowel, "{} {} in {text}", pair[0], pair[1]),
                        "an" | "An" => assert!(vowel, "{} {} in {text}", pair[0], pair[1]),
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn stories_differ_in_wording_and_none_is_told_twice() {
        let stories = thousand();
        let distinct: HashSet<_> = stories.iter().map(|document| &document.story).collect();
        assert_eq!(distinct.len(), 1000);
        let mut grams: HashMap<&[&str], usize> = HashMap::new();
        let split: Vec<Vec<&str>> = stories
            .iter()
            .map(|document| words(&document.story))
            .collect();
        for gram in split.iter().flat_map(|words| words.windows(5)) {
            *grams.entry(gram).or_default() += 1;
        }
        let all: usize = grams.values().sum();
        let ratio = grams.len() as f64 / all as f64;
        assert!(ratio > 0.2, "distinct 5-grams: {ratio:.3} of {all}");
        let bare = |word: &&str| {
            word.trim_matches(|c: char| !c.is_alphabetic())
                .to_lowercase()
        };
        let vocabulary: HashSet<String> = split.iter().flatten().map(bare).collect();
        assert!(vocabulary.len() > 700, "{} words", vocabulary.len());
    }

    #[test]
    fn answers_are_true_in_the_world_and_name_what_the_story_names() {
        let mut checked = 0;
        for number in 0..1000 {
            let (document, world) = tell(3, number);
            assert!(!document.questions.is_empty());
            for Question { question, answer } in &document.questions {
                for thing in &world.things {
                    let asked = question.contains(&format!("the {}", thing.noun));
                    assert!(!asked || document.story.contains(thing.noun), "{question}");
                    let the = thing_form(thing, "");
                    let place = question.starts_with(&format!("Where is {the} "));
                    let holder = question.starts_with(&format!("Who has {the} "))
                        || question.starts_with(&format!("Who had {the} "));
                    let expected = match thing.at {
                        Whereabouts::With(person) if holder => &world.people[person].name,
                        Whereabouts::At(at) if place => &place_form(at, "in"),
                        _ if place || holder => panic!("{question} about {thing:?}"),
                        _ => continue,
                    };
                    assert!(answer.contains(expected), "{question} {answer}: {expected}");
                    checked += 1;
                }
                let kinds = ["Who was ", "Who is "]
                    .iter()
                    .any(|ask| question.starts_with(ask));
                let kind = answer.trim_end_matches('.').rsplit(' ').next().unwrap();
                assert!(
                    !kinds || document.story.contains(kind),
                    "{question} {answer}"
                );
                let named = |word: &&str| document.story.contains(word.trim_end_matches('.'));
                let names = answer
                    .split(' ')
                    .skip(1)
                    .filter(|word| word.starts_with(char::is_uppercase));
                assert!(
                    names
                        .clone()
                        .all(|name| named(&name.trim_end_matches([':', ',']))),
                    "{answer}\n{}",
                    document.story
                );
            }
        }
        assert!(checked > 300, "{checked} answers");
    }
}
