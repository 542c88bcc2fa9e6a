//! Questions about a finished story, answered from its world alone.
//!
//! Only what has one answer is asked: where a thing is at the end, the last reason for a feeling, a helper who was the
//! only one. At most four questions a story, of different kinds.

use super::Question;
use super::dice::Dice;
use super::lexicon;
use super::tale::{person_form, place_form, thing_form};
use super::template::{capital, render};
use super::world::{Fact, Whereabouts, World};

const MOST: usize = 4;

/// Some questions in any order.
pub(super) fn ask(world: &World, story: &str, dice: &mut Dice) -> Vec<Question> {
    // A plot may leave a word out that the world knows; then nobody can know the answer.
    let told = |word: &str| story.contains(word);
    let mut all: Vec<(String, String)> = Vec::new();
    things(world, &told, &mut all);
    for fact in &world.facts {
        if !matches!(fact, Fact::Why(_, feeling, _) if !told(feeling)) {
            about(fact, world, &mut all);
        }
    }
    for person in &world.people {
        let (name, he) = (&person.name, capital(&person_form(person, "he")));
        let lasting = |feeling: &&str| told(feeling) && lexicon::GOOD_FEELINGS.contains(feeling);
        if let Some(feeling) = person.feeling.filter(lasting) {
            all.push((
                format!("How did {name} feel [at the end|in the end|when it was over]?"),
                format!("[{he}|{name}] was {feeling}."),
            ));
        }
        if told(person.kind) {
            all.push((
                format!("Who [was|is] {name}?"),
                format!("[{he}|{name}] was {}.", article_of(person.kind)),
            ));
        }
    }
    if let Some(sky) = world.sky.filter(|sky| told(sky)) {
        all.push((
            "[What was the weather like|How was the weather]?".to_owned(),
            format!("It was {sky}."),
        ));
    }
    dice.shuffle(&mut all);
    all.truncate(MOST);
    let plain = |_, _: &str| unreachable!("questions are written out");
    all.into_iter()
        .map(|(question, answer)| Question {
            question: render(&question, dice, &plain),
            answer: render(&answer, dice, &plain),
        })
        .collect()
}

/// Where each thing is, who has it, and what it looks like.
fn things(world: &World, told: &impl Fn(&str) -> bool, all: &mut Vec<(String, String)>) {
    for thing in &world.things {
        let (the, noun) = (thing_form(thing, ""), thing.noun);
        match thing.at {
            Whereabouts::With(person) => {
                let name = &world.people[person].name;
                all.push((
                    format!("Who [has|had] {the} [at the end|in the end|when the story ends]?"),
                    format!("{name} [has {the}|has it]."),
                ));
            }
            Whereabouts::At(place) => all.push((
                format!("Where is {the} [at the end|in the end|when the story ends]?"),
                format!("[It|The {noun}] is {}.", place_form(place, "in")),
            )),
            Whereabouts::Gone | Whereabouts::Unknown => {}
        }
        if lexicon::COLOURS.contains(&thing.adjective) && told(thing.adjective) {
            let colour = thing.adjective;
            all.push((
                format!("What colour [was|is] {the}?"),
                format!("[It|The {noun}] was {colour}."),
            ));
        }
    }
}

fn about(fact: &Fact, world: &World, all: &mut Vec<(String, String)>) {
    let name = |id: usize| &world.people[id].name;
    let form = |id: usize, form| person_form(&world.people[id], form);
    let he = |id: usize| capital(&form(id, "he"));
    let pair = match fact {
        Fact::Why(who, feeling, why) => (
            format!("Why was {} {feeling}?", name(*who)),
            format!("[Because|{} was {feeling} because] {why}.", he(*who)),
        ),
        Fact::Wanted(who, what) => (
            format!("What did {} want?", name(*who)),
            format!("[{}|{}] wanted {what}.", he(*who), name(*who)),
        ),
        Fact::Helped(helper, helped, how) => {
            let others = |other: &&Fact| matches!(other, Fact::Helped(_, h, _) if h == helped);
            let asked = if world.facts.iter().filter(others).count() == 1 {
                format!(
                    "[Who helped {1}?|How did {0} help {1}?]",
                    name(*helper),
                    name(*helped)
                )
            } else {
                format!("How did {} help {}?", name(*helper), name(*helped))
            };
            let who = format!("{} helped {}", name(*helper), form(*helped, "him"));
            (asked, format!("{who}: {how}."))
        }
        Fact::Found(finder, thing, place) => {
            let the = thing_form(&world.things[*thing], "");
            (
                format!(
                    "[Who found {the}?|Where was {the} found?|Where did {} find {the}?]",
                    name(*finder)
                ),
                format!("{} found it {}.", name(*finder), place_form(place, "in")),
            )
        }
        Fact::Gave(from, to, thing) => {
            let the = thing_form(&world.things[*thing], "");
            (
                format!(
                    "[Who gave {the} to {1}?|What did {0} give to {1}?|To whom did {0} give {the}?]",
                    name(*from),
                    name(*to)
                ),
                format!("{} gave {the} to {}.", name(*from), name(*to)),
            )
        }
        Fact::Lived(who, home) => (
            format!("Where did {} live?", name(*who)),
            format!("[{}|{}] lived {home}.", he(*who), name(*who)),
        ),
        Fact::Pet(owner, kind, pet) => (
            format!("What was the {kind}[| of {}] called?", name(*owner)),
            format!("[It was called|Its name was|The {kind} was called] {pet}."),
        ),
    };
    all.push(pair);
}

fn article_of(kind: &str) -> String {
    format!("{} {kind}", lexicon::article(kind))
}
