//! Plots that turn on a feeling: joy in giving, fear, a bad conscience, shyness, anger, fairness.

use super::super::lexicon;
use super::super::tale::Tale;
use super::{closing, encounter, opening, weather, weather_of};

pub(super) fn present(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.toy('t');
    tale.wanted('a', "to give {b} {t.a}");
    tale.say("[Tomorrow|The next day] was the birthday of {a.his} friend {b}. {A} wanted to give {b} {t.a}[, because {b} had always wished for one|].");
    tale.paragraph();
    weather(tale);
    tale.place('p');
    tale.elder('e');
    tale.say("{A} [went|walked] {p.to}, where {e} sold [all kinds of things|new and old things].");
    encounter(tale);
    tale.has('e', 't');
    tale.say("There was {t.a}, but {a} had [no money|only one coin].");
    tale.feel('a', "sad", "{a.he} could not pay for {t}");
    tale.say("{A.he} was [sad|close to tears].[ \"What is the matter?\" asked {e}. {A} told {e.him} everything.|]");
    if tale.dice.chance(50) {
        tale.word_of(
            'w',
            &[
                "sweep the floor",
                "carry the boxes",
                "water the flowers",
                "feed the hens",
            ],
        );
        tale.say("\"[If you|When you] {w}, {t} is yours,\" said {e}. {A} [did it gladly|worked all afternoon].");
        tale.helped('a', 'e', "{a.he} worked for {e.him}");
    } else {
        tale.food('f');
        tale.has('a', 'f');
        tale.say("But {a.he} had {f.a} in {a.his} [bag|pocket]. \"I am [hungry|so hungry]! {F} for {t}?\" said {e}.[ {A} nodded.|]");
        tale.give('a', 'e', 'f');
    }
    tale.give('e', 'a', 't');
    tale.say("[Then|So] {e} gave {a} {t}[, in blue paper|, with a bow around it|].");
    tale.paragraph();
    tale.say("[The next morning|On the birthday], {a} [knocked at the door of|ran to] {b}. \"[Happy birthday|All good wishes]!\" {a.he} [called|said]. {B} [opened the present|looked inside] and [could not believe it|jumped for joy].");
    tale.give('a', 'b', 't');
    tale.feel('b', "happy", "{a} had given {b.him} {t}");
    tale.feel('a', "proud", "{b} liked the present");
    tale.say(
        "\"{T.a}! [Thank you|How wonderful]!\" {b.he} said. {B} was happy, and {a} was proud.",
    );
    closing(
        tale,
        "[Giving makes glad, too.|The best presents are those one works for.]",
    );
}

pub(super) fn storm(tale: &mut Tale) {
    opening(tale);
    tale.elder('e');
    tale.say("{E} lived [there, too|in the same house].");
    tale.paragraph();
    tale.sky("stormy");
    tale.say("One night, there was a [great|terrible|loud] storm. [Thunder rolled over the roof.|Lightning lit up the room.] {A} could not sleep.");
    tale.feel('a', "afraid", "the thunder was so loud");
    tale.say(
        "{A.he} was afraid of the thunder and [hid under the blanket|held {a.his} pillow tight].",
    );
    tale.toy('t');
    tale.spot('p');
    tale.put('t', 'p');
    tale.wanted('a', "to have {t.full}");
    tale.say("{A} wanted to have {t.full}, which always made {a.him} feel better, but it was {p.in}, and it was dark.");
    tale.say("\"{E}!\" {a.he} [called|whispered].[ At first, nobody came.|]");
    tale.paragraph();
    tale.say("[Then|Soon] the door opened. {E} came in with a [candle|lamp]. \"[Are you awake|What is it, my dear]?\" {e.he} asked. \"[I am afraid|The thunder is so loud],\" said {a}.");
    tale.take('e', 't', 'p');
    tale.give('e', 'a', 't');
    tale.say("{E} took {t}, which lay {p.in}, and gave it to {a}. Then {e.he} [sat down on the bed|sang an old song|told {a.him} how thunder is made].");
    tale.say("\"Count after the lightning,\" {e.he} said. \"[The longer you count, the farther away is the storm|When you can count to ten, the storm is far away].\" They counted to [two|three], then to [five|six], then to [eleven|twelve].");
    tale.helped('e', 'a', "{e.he} brought {t} and counted with {a.him}");
    tale.feel('a', "calm", "the storm was far away");
    tale.say("{A} was calm now. [Before the rain ended|Soon], {a.he} slept.");
    tale.say("[In the morning, the sun shone.|The next day, the sky was clear.]");
    if tale.dice.chance(55) {
        tale.paragraph();
        tale.say("[Fear grows small when somebody is with us.|Since that night, {a} counts when it thunders.]");
    }
}

pub(super) fn lie(tale: &mut Tale) {
    opening(tale);
    tale.elder('e');
    tale.pet('n', 'e', "cat");
    tale.thing('t', "vase", &["blue", "green", "old", "tall"]);
    tale.place_of('p', lexicon::STANDS);
    tale.put('t', 'p');
    tale.say("{E} had {t.a} and a cat named {n}. {T} [was|stood] {p.in}[ and was very old|].");
    tale.paragraph();
    weather(tale);
    tale.say("{A} played with a ball in the house[, although {e} had forbidden it|]. The ball hit {t}. [Crash!|There was a loud crash.] {T} broke into [a hundred|many] pieces.");
    tale.lose('t');
    tale.say("{E} came in. \"Who [did this|broke my vase]?\" {e.he} asked. \"[It was {n}|The cat did it],\" said {a}.");
    tale.say("{E} [put {n} outside|scolded {n} and sent the cat out]. {N} [mewed at the door|sat in the [rain|cold]].");
    tale.feel('a', "ashamed", "{a.he} had lied about the vase");
    tale.say("{A} looked through the window. {A.he} was ashamed, because {a.he} had lied. [{A.his} stomach hurt.|{A.he} could not play any more.]");
    tale.paragraph();
    tale.say("[After supper|At last|In the end], {a} went to {e}. \"[It was not the cat|{N} did nothing]. I broke the vase,\" {a.he} said[ very quietly|].");
    tale.say("{E} was [silent|quiet] for a moment. \"[It was brave to say that|A vase is only a vase],\" {e.he} said then. \"[Now let {n} in|Open the door for {n}].\"");
    tale.feel('a', "relieved", "{a.he} had told the truth");
    tale.say("{A} was relieved. {A.he} [carried|let] {n} in and [gave the cat some milk|stroked the cat for a long time].");
    tale.say("[The next day|On Sunday], {a} and {e} made a new vase out of clay.");
    closing(
        tale,
        "[The truth is sometimes hard, but a lie is harder to carry.|A lie hurts others, too.]",
    );
}

pub(super) fn newcomer(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.toy('t');
    tale.place('p');
    tale.say("{A} was new there and knew nobody.");
    tale.feel('a', "lonely", "{a.he} was new and knew nobody");
    tale.say("{A.he} was lonely.[ All the friends {a.he} used to have were far away.|]");
    tale.paragraph();
    weather(tale);
    tale.has('b', 't');
    tale.say("{P.in}, [some others|a few others] were playing. {A} stood [behind a tree|at the fence] and watched. {A.he} wanted to play, too, but {a.he} was too shy to ask.");
    tale.wanted('a', "to play with the others");
    tale.say("[One of them|{B.one} among them] had {t.a}. It [flew over the fence|rolled away] and [landed|stopped] [in front of {a}|at the feet of {a}].");
    tale.say("\"[Will you bring it to me|Can you give me that], please?\" somebody called. It was [{b}|{b.one} named {b}]. {A} [picked it up|took it] and [ran over|walked over] to {b.him}.");
    tale.say(
        "\"Thank you! I am {b}. [What is your name|Who are you]?\" \"{A},\" {a.he} said[ softly|].",
    );
    if tale.dice.chance(50) {
        tale.say("\"Do you want to [play with us|be on our side]?\" {b} asked. [That was all it took.|{A} nodded and smiled.]");
        tale.helped('b', 'a', "{b.he} asked {a.him} to play");
    } else {
        tale.give('b', 'a', 't');
        tale.say("\"You can have the first turn, {a},\" said {b} and gave {t} to {a.him}.");
        tale.helped('b', 'a', "{b.he} let {a.him} have the first turn");
    }
    tale.say("They played until [it was dark|their legs were tired].");
    tale.feel('a', "happy", "{a.he} had a new friend");
    tale.say("{A} was happy.[ \"Will you come again tomorrow?\" asked {b}. \"Yes,\" said {a}.|]");
    closing(
        tale,
        "[One friendly word can change a day.|Every friend was once a stranger.]",
    );
}

pub(super) fn quarrel(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.place('p');
    tale.place('q');
    tale.say("{A.he} and {b}, {b.one}, were [best friends|friends and neighbours].");
    tale.paragraph();
    weather(tale);
    tale.wanted('a', "to go {p.to}");
    tale.wanted('b', "to go {q.to}");
    tale.say("{A} wanted to go {p.to}, but {b} wanted to go {q.to}. \"[You always decide|We always do what you want]!\" said {b}. \"That is not true!\" said {a}.");
    tale.feel('a', "angry", "{b} wanted to go {q.to}");
    tale.feel('b', "angry", "{a} wanted to go {p.to}");
    tale.say("Both were angry. So {a} went {p.to} alone, and {b} went {q.to} alone.");
    tale.say("[It was no fun|It was boring], {p.in}. {A} had nobody to talk to. It was just the same {q.in}, where {b} [threw stones|drew lines in the dirt].");
    tale.feel('a', "lonely", "{a.he} had nobody to talk to");
    encounter(tale);
    tale.paragraph();
    tale.food('f');
    tale.has('a', 'f');
    tale.say("{A} had {f.a} with {a.him}. \"[{B} would like {f}|It tastes better with {b}],\" {a.he} thought. {A.he} [stood up|turned around] and went {q.to}.");
    tale.say("\"[I was silly|I am sorry],\" said {a}. \"[Me, too|So was I],\" said {b}.");
    tale.give('a', 'b', 'f');
    tale.say("{A} gave {f} to {b}, and {b} [ate it|took a bite] with a big smile.");
    tale.feel('a', "happy", "{a.he} and {b} were friends again");
    tale.feel('b', "happy", "{a} had come to {b.him}");
    tale.say("\"[Tomorrow|Next time] we go {p.to},\" said {b}. \"[And the day after, here again|Only if you like],\" said {a}.");
    closing(
        tale,
        "[After a quarrel, somebody must take the first step.|Being right is no fun alone.]",
    );
}

pub(super) fn share(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.food('f');
    tale.place('p');
    tale.elder('e');
    tale.paragraph();
    weather_of(tale, "cold");
    tale.has('e', 'f');
    tale.say("{E} gave {a} {f.a} to take along. {A} [put it into {a.his} bag|held it tight] and went {p.to}.");
    tale.give('e', 'a', 'f');
    encounter(tale);
    tale.say("{P.in}, {a.he} [met|saw] {b}, a [thin|tired|young] {b.kind}.[ {B} sat on a bench.|]");
    tale.feel('b', "hungry", "{b.he} had eaten nothing all day");
    tale.wanted('b', "to eat something");
    tale.say("{B} was hungry, because {b.he} had eaten nothing all day. {B.he} looked at {f}[ and said nothing|].");
    tale.say("\"[If I give it away, I have none|There is only one],\" thought {a}. [But it is hard to eat while somebody watches.|But then {a.he} looked into the eyes of {b}.]");
    tale.paragraph();
    if tale.dice.chance(60) {
        tale.say("{A} [broke|cut] {f} into two halves. \"[You choose|One for you, one for me],\" {a.he} said. They [ate slowly|ate every crumb].");
        tale.lose('f');
        tale.helped('a', 'b', "{a.he} shared {f} with {b.him}");
    } else {
        tale.give('a', 'b', 'f');
        tale.say("\"[Take it|It is for you],\" {a.he} said and gave {f} to {b}. \"I shall [eat|have something] at home.\"");
        tale.helped('a', 'b', "{a.he} gave {b.him} {f}");
    }
    tale.feel('b', "grateful", "{a} had given {b.him} something to eat");
    tale.say("{B} was grateful. \"[I shall not forget this|You are kind],\" {b.he} said.");
    if tale.dice.chance(60) {
        tale.toy('t');
        tale.has('b', 't');
        tale.say("[A week later|Some days later], {b} [came to the door|came back]. \"[This is for you|I made it myself],\" {b.he} said and gave {a} {t.a}.");
        tale.give('b', 'a', 't');
        tale.feel('a', "surprised", "{b} had brought {a.him} {t}");
        tale.say("{A} was surprised[ and very pleased|].");
    }
    closing(
        tale,
        "[Half is more than a whole when two eat it.|Kindness finds its way back.]",
    );
}
