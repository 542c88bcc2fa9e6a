//! Every kind of story, and the passages that all of them share: beginnings, weather, small encounters, endings.
//!
//! A plot is a function that casts, tells and does. To add one, write it and add its line to [`PLOTS`]; a changed order
//! changes every story of a seed.

mod animals;
mod feelings;
mod making;
mod things;
mod ways;

use super::lexicon;
use super::tale::Tale;

/// A plot: what the story is about, and who tells it.
pub(super) type Plot = (&'static str, fn(&mut Tale));

pub(super) const PLOTS: &[Plot] = &[
    ("something is lost and found", things::lost),
    ("something breaks and is repaired", things::broken),
    ("something is lent and forgotten", things::lent),
    ("something is moved unseen", things::moved),
    ("two trade what they have", things::trade),
    ("a key and its box", things::key),
    ("a present for a birthday", feelings::present),
    ("a storm in the night", feelings::storm),
    ("a lie and the truth", feelings::lie),
    ("somebody new", feelings::newcomer),
    ("a quarrel", feelings::quarrel),
    ("one piece for two", feelings::share),
    ("a seed grows", making::garden),
    ("baking with a neighbour", making::baking),
    ("something to build", making::building),
    ("a race", ways::race),
    ("a delivery", ways::delivery),
    ("the way home", ways::astray),
    ("an animal in need", animals::rescue),
    ("a pet runs away", animals::runaway),
    ("a hungry guest", animals::guest),
];

/// Introduces the hero `a`, with a home, and sometimes the weather first.
fn opening(tale: &mut Tale) {
    tale.hero('a');
    tale.home('h', 'a');
    match tale.dice.below(4) {
        0 => tale.say(
            "[Once upon a time|Once|Long ago|Some time ago], there [was|lived] a [little|young|small] {a.kind} \
             named {a}. {A.he} [lived|had a home] {h}[ with {a.his} family|].",
        ),
        1 => tale.say(
            "{A} was a [little|young|cheerful|curious|quiet] {a.kind} who lived {h}.[ Everybody there knew {a.him}.|]",
        ),
        2 => tale.say(
            "[There was once|This is the story of] a [little|young|brave|kind] {a.kind}. {A.his} name was {a}, and \
             {a.he} lived {h}.",
        ),
        _ => tale.say(
            "In [a land far away|the days of our grandparents|a time not long ago], {a.one} called {a} lived {h}.",
        ),
    }
}

/// Today's weather, any.
fn weather(tale: &mut Tale) {
    let sky = tale.dice.pick(lexicon::SKIES);
    weather_of(tale, sky);
}

/// Today's weather, as the plot needs it.
fn weather_of(tale: &mut Tale, sky: &'static str) {
    tale.sky(sky);
    tale.word('s', sky);
    let detail = match sky {
        "sunny" => {
            "[The sun shone on the roofs|There was no cloud in the sky|The light was golden]."
        }
        "windy" => {
            "[The trees bent to and fro|The wind sang in the chimneys|Leaves flew through the air]."
        }
        "rainy" => {
            "[Drops ran down the windows|The paths were full of puddles|The rain did not stop]."
        }
        "cold" => {
            "[The puddles were frozen|Every breath made a little cloud|Ice covered the windows]."
        }
        "foggy" => {
            "[The trees looked like grey giants|It was hard to see the road|The world was white and quiet]."
        }
        "snowy" => {
            "[White flakes fell without a sound|Snow lay on every roof|The hills were white]."
        }
        "warm" => {
            "[Bees hummed around the flowers|The air smelled of hay|Birds sang in the trees]."
        }
        _ => {
            "[Grey clouds hung over the hills|The sun hid all morning|The sky was as grey as a stone]."
        }
    };
    tale.say("[One day|One morning|One Saturday|That morning], it was {s}.");
    if tale.dice.chance(60) {
        tale.say(detail);
    }
}

/// Something on the way that changes nothing, or nothing at all.
fn encounter(tale: &mut Tale) {
    match tale.dice.below(9) {
        0 => tale.say(
            "On the way, {a.he} saw a [snail|beetle|butterfly] on a [leaf|stone|fence] and \
             [wished it a good day|watched it for a while].",
        ),
        1 => tale.say("A [blackbird|cuckoo|lark] sang [somewhere|nearby], and {a} [whistled|hummed] back."),
        2 => tale.say(
            "[A farmer|The baker|The postman] waved from the other side of the road. \"[Good morning|Hello], {a}!\" \
             [he called|he said].",
        ),
        3 => tale.say("{A} [jumped over|walked around] a puddle and [laughed|went on]."),
        4 => tale.say("{A} counted [ten|twelve|seven] [steps|stones|trees] and then [began again|lost count]."),
        _ => {}
    }
}

/// The last words: the day is over, and sometimes there is something to learn.
fn closing(tale: &mut Tale, lesson: &str) {
    tale.paragraph();
    tale.say(
        "[In the evening|That night|When the stars came out|At the end of the day], {a} \
         [fell asleep with a smile|told {a.his} family everything|lay in bed and thought about the day\
         |looked out of the window and was content].",
    );
    if tale.dice.chance(55) {
        tale.say(lesson);
    }
}
