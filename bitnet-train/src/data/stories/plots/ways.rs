//! Plots along a way: a race, an errand, a walk that leads too far.

use super::super::tale::Tale;
use super::{closing, encounter, opening, weather, weather_of};

pub(super) fn race(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.elder('e');
    tale.place('p');
    tale.place('q');
    tale.toy('t');
    tale.has('e', 't');
    tale.say("[Every year|Each summer] there was a race from {p} to {q}. {E} gave the winner a prize: this year, it was {t.a}.");
    tale.wanted('a', "to win the race");
    tale.say("{A} wanted to win. {A.he} [ran every day|practised before breakfast|ran up and down the stairs].[ \"I am faster,\" said {b}, {b.one} with long legs.|]");
    tale.paragraph();
    weather(tale);
    tale.say("[On the day of the race, everybody came.|It was the day of the race.] \"[Ready, steady, go|One, two, three]!\" called {e}. {A} and {b} [were soon in front|left all the others behind].");
    tale.say("[Halfway|Just before the end], {b} [stumbled|fell over a root] and [cried out|held {b.his} knee].");
    tale.feel('b', "hurt", "{b.he} had fallen");
    if tale.dice.chance(60) {
        tale.say("{A} could have run on. But {a.he} [stopped|turned back]. \"[Lean on me|Take my hand],\" {a.he} said. [Slowly|Step by step], they went on together.");
        tale.helped('a', 'b', "{a.he} stopped and led {b.him} to the end");
        tale.hero('c');
        tale.say("Others ran past them. {C}, {c.one}, [was first|won the race].");
        tale.say("{E} gave {t} to {c}.");
        tale.give('e', 'c', 't');
        tale.feel('c', "happy", "{c.he} had won the race");
        tale.feel('b', "grateful", "{a} had stopped for {b.him}");
        tale.feel('a', "content", "{a.he} had helped {b}");
        tale.say("{C} was happy, and {b} was grateful. And {a}? {A} was content. \"[There is a race every year|I can win another time],\" {a.he} said. \"A friend cannot wait.\"");
    } else {
        tale.say("{A} did not see it and ran on. [Nobody was in front of {a.him}.|The way was free.] {A.he} won!");
        tale.give('e', 'a', 't');
        tale.say(
            "{E} gave {t} to {a}. Only then did {a} see [{b.his} torn trousers|that {b} limped].",
        );
        tale.say("\"[Does it hurt|Are you all right]?\" {a.he} asked. {B} was sad. \"[I practised so much|I wanted it so much],\" {b.he} said.");
        tale.feel('b', "sad", "{b.he} had fallen in the race");
        if tale.dice.chance(50) {
            tale.give('a', 'b', 't');
            tale.say("{A} thought for a moment. Then {a.he} gave {t} to {b}. \"[You were faster until you fell|Half of it was luck],\" {a.he} said.");
            tale.feel('b', "happy", "{a} had given {b.him} the prize");
            tale.say("{B} was happy again.");
        } else {
            tale.say("\"[Next year you will win|Let us practise together],\" said {a}, and {b} [nodded|smiled a little].");
            tale.feel('a', "happy", "{a.he} had won the race");
        }
    }
    closing(
        tale,
        "[There are things that matter more than winning.|Whoever runs can fall.]",
    );
}

pub(super) fn delivery(tale: &mut Tale) {
    opening(tale);
    tale.elder('e');
    tale.elder('g');
    tale.place('p');
    tale.thing('t', "letter", &["thick", "important", "urgent"]);
    tale.has('e', 't');
    tale.paragraph();
    weather(tale);
    tale.say("{E} [called|came to] {a}. \"[Can you do something for me|I need a fast messenger],\" {e.he} said. \"[Take this letter to {g}|{G} must have this letter today]. You will find {g.him} {p.in}.\"");
    tale.give('e', 'a', 't');
    tale.wanted('a', "to bring the letter to {g}");
    tale.say("{A} put {t} into {a.his} [bag|jacket] and [set out|went off] at once.");
    encounter(tale);
    tale.hero('b');
    match tale.dice.below(3) {
        0 => {
            tale.say("At the river, the bridge was [gone|broken]. The water was [deep|wild]. {A} did not know what to do.");
            tale.feel('a', "desperate", "the bridge was gone");
            tale.say("{A.he} was desperate. \"[Do you want to cross|Where do you want to go]?\" somebody asked. It was {b}, {b.one} with a [small boat|raft].");
            tale.say(
                "{B} rowed {a.him} across.[ \"It costs nothing,\" said {b}. \"Only a smile.\"|]",
            );
            tale.helped('b', 'a', "{b.he} rowed {a.him} across the river");
        }
        1 => {
            tale.say("Then the path split in two. [There was no sign.|The sign had fallen down.] {A} did not know the way.");
            tale.feel('a', "confused", "{a.he} did not know the way");
            tale.say("{A.he} was confused. Luckily, {b}, {b.one}, [came along|sat on a wall]. \"Left,\" said {b}, \"[always left|and then past the oak].\"");
            tale.helped('b', 'a', "{b.he} told {a.him} the way");
        }
        _ => {
            tale.say("Suddenly, [a gust of wind|the wind] [tore|took] the letter out of {a.his} hand and blew it into a tree.");
            tale.feel('a', "desperate", "the wind had taken the letter");
            tale.say("{A} was desperate. The branches were too high. But {b}, {b.one} who [climbed well|was not afraid of heights], climbed up and brought it down.");
            tale.helped('b', 'a', "{b.he} climbed up and got the letter");
        }
    }
    tale.paragraph();
    tale.say("[Before sunset|Late in the afternoon|At last], {a} came {p.to}. {G} was there and [waited already|was just going to leave].");
    tale.give('a', 'g', 't');
    tale.say("{A} gave {g.him} {t}. {G} [opened it|read it] and [laughed out loud|wiped away a tear]. \"[My sister is coming to visit|I am invited to a wedding|My brother is well again]!\" {g.he} said.");
    tale.feel('g', "happy", "the letter brought good news");
    tale.food('f');
    tale.has('g', 'f');
    tale.say("{G} was happy and gave {a} {f.a} for the way back.");
    tale.give('g', 'a', 'f');
    closing(
        tale,
        "[Who carries good news walks with light feet.|Every way has somebody who helps.]",
    );
}

pub(super) fn astray(tale: &mut Tale) {
    opening(tale);
    tale.word_of(
        'w',
        &["butterfly", "hare", "blue bird", "dragonfly", "deer"],
    );
    tale.elder('e');
    tale.place('p');
    tale.paragraph();
    weather_of(tale, "foggy");
    tale.wanted('a', "to follow the {w}");
    tale.say("{A} [played outside|picked berries] and saw {w.a}. {A.he} wanted to follow it. [Left and right it went|Deeper and deeper they went], past [tall trees|grey rocks], until {a.he} could not see the house any more.");
    tale.say("[Then the {w} was gone.|Suddenly the {w} disappeared.] {A} turned around. Everything looked the same.");
    tale.feel('a', "afraid", "{a.he} did not know the way home");
    tale.say("{A.he} was afraid, because {a.he} did not know the way home. \"[Hello? Is anybody there|Can anybody hear me]?\" {a.he} [called|cried].");
    tale.paragraph();
    if tale.dice.chance(50) {
        tale.say("\"[Who is calling|Is somebody there]?\" answered a [deep|soft] voice. Out of the fog came {e}, an {e.kind} with a lantern[ and a big dog|].");
        tale.say("\"[I know your house|I will bring you home],\" said {e}. {E.he} took {a} by the hand, and they went [along the stream|past {p}] together.");
        tale.helped('e', 'a', "{e.he} took {a.him} home");
    } else {
        tale.pet('n', 'a', "dog");
        tale.say("[Nobody answered.|At first, it was silent.] Then something barked. It was {n}, the dog of the family! {N} had followed {a.his} smell.");
        tale.say("{A} [hugged|held on to] {n}, and the dog [led|pulled] {a.him} past {p}, over a fence and [straight home|right to the door]. {E} was waiting there.");
    }
    tale.feel('a', "relieved", "{a.he} was home again");
    tale.say("{A} was relieved.[ \"We looked for you everywhere,\" said {a.his} mother.|] There was hot soup, and {a.he} ate [two|three] bowls of it.");
    closing(
        tale,
        "[Look back now and then, or you will not know the way home.|Since then, {a} puts a stone at every corner.]",
    );
}
