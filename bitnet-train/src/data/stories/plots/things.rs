//! Plots that turn on a thing: lost, broken, lent, moved, traded, unlocked.

use super::super::tale::Tale;
use super::{closing, encounter, opening, weather};

pub(super) fn lost(tale: &mut Tale) {
    opening(tale);
    tale.toy('t');
    tale.has('a', 't');
    tale.say("{A} had {t.a}[ and took it everywhere|, a present from {a.his} mother|. It was {a.his} favourite thing].");
    tale.paragraph();
    weather(tale);
    tale.place('p');
    tale.place('q');
    tale.say("{A} went {p.to} and then {q.to}[ with {t}|, and {t} came along].");
    encounter(tale);
    let (here, elsewhere) = if tale.dice.chance(50) {
        ('p', 'q')
    } else {
        ('q', 'p')
    };
    tale.put('t', here);
    tale.say(
        "[When {a.he} came home|Back at home|An hour later], {t} was gone. \
         [\"Where is my {t.noun}?\" {a} cried|{A} looked in every pocket, but it was not there].",
    );
    tale.feel('a', "sad", "{a.he} had lost {t}");
    tale.say("{A.he} was [very|so] sad[ and could not eat|].");
    tale.paragraph();
    tale.hero('b');
    tale.say(
        "{A.his} [friend|neighbour|cousin] {b}, [{b.one}|a [young|kind] {b.kind}], [heard it|saw {a.his} tears]. \
         \"[Do not worry|Do not cry]. [We will look together|Four eyes see more than two],\" {b} said.",
    );
    tale.say(&format!(
        "First they [looked|searched] {{{elsewhere}.in}}, but {{t}} was not there."
    ));
    tale.say(&format!("Then they [looked|searched] {{{here}.in}}."));
    let finder = if tale.dice.chance(60) { 'b' } else { 'a' };
    tale.find(finder, 't', here);
    if finder == 'b' {
        tale.say("\"[Look|Here it is|I see something]!\" {b} called and [picked up|held up] {t}.");
        tale.give('b', 'a', 't');
        tale.say("{B.he} gave it [back to|to] {a}.");
    } else {
        tale.say("There, [behind a stone|between two roots|in the mud], {a} found {t}.");
    }
    tale.helped('b', 'a', "{b.he} looked for {t} with {a.him}");
    tale.feel('a', "happy", "{a.he} had {t} again");
    tale.say("{A} was happy [again|and danced]. \"Thank you[, {b}|]!\" {a.he} said.");
    closing(
        tale,
        "[Lost things are found sooner with a friend.|From then on, {a} took better care of {t}.]",
    );
}

pub(super) fn broken(tale: &mut Tale) {
    opening(tale);
    tale.toy('t');
    tale.has('a', 't');
    tale.hero('b');
    tale.say("{A.his} best friend was {b.one} named {b}.");
    tale.paragraph();
    weather(tale);
    tale.place('p');
    tale.say("{A} and {b} played {p.in}. {A} had brought {t.a}. \"[May I|Can I] hold it?\" {b} asked. \"[Yes, but be careful|Of course]!\" said {a}.");
    tale.give('a', 'b', 't');
    tale.say("{B} took {t}, but {b.he} [slipped on a wet stone|stumbled over a root|was not careful], and it fell. [Crack!|It made a terrible sound.] {T} was broken.");
    tale.feel('a', "angry", "{b} had broken {t}");
    tale.say("{A} was angry. \"[Look what you have done|You broke it]!\" {a.he} shouted. {B} [looked at the ground|began to cry].");
    tale.feel('b', "sorry", "{b.he} had broken {t}");
    tale.say("\"I am [so |very |]sorry,\" {b.he} said.[ \"I did not mean to.\"|]");
    tale.paragraph();
    tale.elder('e');
    tale.wanted('b', "to repair {t}");
    tale.say("{B} wanted to [repair|mend] {t}, so {b.he} carried it to {e}, who [could mend anything|had many tools|was good with small things].");
    tale.give('b', 'e', 't');
    tale.say("{E} [put on {e.his} glasses|thought for a moment] and [took some glue|took a little wire|found the right pieces]. [Soon|After an hour], {t} was [whole again|as good as new].");
    tale.helped('e', 'b', "{e.he} repaired {t}");
    tale.give('e', 'b', 't');
    tale.paragraph();
    tale.say("{B} ran to {a} [at once|as fast as {b.he} could]. \"[Here it is|Look, it is whole]!\" {b.he} said and gave {t} back.");
    tale.give('b', 'a', 't');
    tale.feel('a', "glad", "{b} had brought {t} back whole");
    tale.say("{A} was glad. \"I am not angry [any more|now],\" {a.he} said. \"[A friend is worth more than {t.one}|Come, let us play].\"");
    closing(
        tale,
        "[Anybody can break something; a friend tries to mend it.|What is broken can often be mended.]",
    );
}

pub(super) fn lent(tale: &mut Tale) {
    opening(tale);
    tale.toy('t');
    tale.has('a', 't');
    tale.hero('b');
    tale.say("[Nearby|In the same place|Not far away] lived {b}, {b.one} who [often forgot things|was always in a hurry].");
    tale.paragraph();
    weather(tale);
    tale.wanted('b', "to borrow {t}");
    tale.say("{B} came to {a} and said, \"May I borrow your {t.own}? [I will bring it back tomorrow|Only for one day].\"");
    tale.say("{A} [thought about it|did not like to give it away], but {a.he} [nodded|said yes]. So {b} [took {t} home|went home with {t}].");
    tale.give('a', 'b', 't');
    tale.say("[The next day came|Tomorrow came], and {b} did not. [Two|Three] more days [passed|went by].");
    tale.feel('a', "worried", "{b} had not brought {t} back");
    tale.say("{A} was worried. \"[Did {b} forget me|Will I ever see my {t.noun} again]?\" {a.he} [asked|wondered].");
    tale.paragraph();
    encounter(tale);
    tale.say("[At last|On the fourth day|In the end], {a} [knocked at {b.his} door|went to see {b.him}].");
    tale.spot('p');
    if tale.dice.chance(50) {
        tale.put('t', 'p');
        tale.say("\"[Oh no|Oh dear]!\" said {b}. \"I forgot it!\" {B.he} [looked everywhere|turned the room upside down]. {T} was {p.in}.");
        tale.find('b', 't', 'p');
        tale.say("{B} [took it out|wiped off the dust] and gave it back.");
    } else {
        tale.say("{B} [opened at once|turned red]. \"I [was ill and could not come|had no time],\" {b.he} said and gave {t} back.");
    }
    tale.give('b', 'a', 't');
    tale.feel('b', "ashamed", "{b.he} had kept {t} too long");
    tale.food('f');
    tale.has('b', 'f');
    tale.say("{B.he} was ashamed. To make it good, {b.he} gave {a} {f.a} as well.");
    tale.give('b', 'a', 'f');
    tale.feel('a', "happy", "{t} was back");
    tale.say("{A} was happy that {t} was back.");
    closing(
        tale,
        "[A promise is a promise.|Who borrows must also give back.]",
    );
}

pub(super) fn moved(tale: &mut Tale) {
    opening(tale);
    tale.toy('t');
    tale.has('a', 't');
    tale.hero('b');
    tale.spot('p');
    tale.spot('q');
    tale.say("{A} shared a room with {b}, {a.his} [cousin|friend]. {A} [owned|had] {t.a}.");
    tale.paragraph();
    weather(tale);
    tale.say("Before {a.he} went out, {a} [put|laid] {t} {p.in}. \"[There it is safe|Nobody will find it there],\" {a.he} thought.");
    tale.put('t', 'p');
    tale.say("While {a} was away, {b} [came in|cleaned the room]. {B.he} [saw|found] {t} {p.in}, took it and put it {q.in}.[ {A} did not see that.|]");
    tale.take('b', 't', 'p');
    tale.put('t', 'q');
    tale.paragraph();
    tale.place('w');
    tale.say("{A} came back from {w}. {A.he} wanted {a.his} {t.noun} and looked {p.in}, because {a.he} had left it there. It was not there!");
    tale.wanted('a', "to have {a.his} {t.noun}");
    tale.feel('a', "surprised", "{t} was not where {a.he} had left it");
    tale.say("{A} was surprised. \"[Has it grown legs|Did a thief come]?\" {a.he} asked. {B} [laughed|smiled]. \"[No, I only moved it|I put it somewhere else]. Look {q.in}!\"");
    if tale.dice.chance(70) {
        tale.find('a', 't', 'q');
        tale.say("{A} looked {q.in}, and there {t} was. {A.he} [took it|picked it up] and [laughed too|shook {a.his} head].");
    } else {
        tale.say("{A} looked {q.in} and saw it. \"[Good|That is a better place],\" {a.he} said and left {t} there.");
    }
    tale.helped('b', 'a', "{b.he} told {a.him} where {t} was");
    closing(
        tale,
        "[It is good to say when one moves things.|After that, they always told each other where things were.]",
    );
}

pub(super) fn trade(tale: &mut Tale) {
    opening(tale);
    tale.toy('t');
    tale.toy('u');
    tale.hero('b');
    tale.has('a', 't');
    tale.has('b', 'u');
    tale.say("{A} had {t.a}, but {a.he} [hardly ever used it|did not need it any more].");
    tale.paragraph();
    weather(tale);
    tale.place('p');
    tale.say("{A} went {p.to}. There {a.he} met {b}, a [little|young|friendly] {b.kind}, who [carried|held] {u.a}.");
    tale.wanted('a', "to have {u.full}");
    tale.say("[Never had {a} seen anything so nice.|{A} could not look away.] {A.he} wanted to have {u}.");
    tale.say("\"[What a fine thing you have|I like your {u.noun}],\" said {a}. \"Will you trade it for my {t.noun}?\"");
    if tale.dice.chance(30) {
        tale.say("\"No,\" said {b}. \"[It is a present from my mother|I love it too much].\"");
        tale.feel('a', "disappointed", "{b} did not want to trade");
        tale.say("{A} was disappointed. [Then {b} had an idea.|{B} saw it and thought for a moment.] \"[But we can play with both|We can use them together],\" {b.he} said. \"Today I am not alone, and neither are you.\"");
        tale.say("So they [stayed|played] {p.in} until [evening|the sun went down]. {A} kept {t}, and {b} kept {u}.");
        tale.feel('a', "happy", "{a.he} had found a friend");
        tale.say("{A} was happy, because {a.he} had found a friend.");
    } else {
        tale.say("{B} [looked at|turned] {t} [from all sides|carefully]. \"[Yes, gladly|That is a fair trade|I have always wanted one],\" {b.he} said.");
        tale.give('a', 'b', 't');
        tale.give('b', 'a', 'u');
        tale.say("{A} gave {t} to {b}, and {b} gave {u} to {a}.");
        tale.feel('a', "happy", "{a.he} had {u} now");
        tale.feel('b', "happy", "{b.he} had {t} now");
        tale.say("[Both were happy.|Both went home happy.] [What one does not need, another may love.|It was a good day for both of them.]");
    }
    closing(
        tale,
        "[A fair trade makes two people happy.|One can always ask.]",
    );
}

pub(super) fn key(tale: &mut Tale) {
    opening(tale);
    tale.thing('k', "key", &["rusty", "golden", "tiny", "iron"]);
    tale.spot('p');
    tale.place('q');
    tale.toy('t');
    tale.elder('e');
    tale.put('k', 'p');
    tale.paragraph();
    weather(tale);
    tale.say("{A} [was bored|had nothing to do] and [explored the house|looked around]. {P.in}, {a.he} found {k.a}.");
    tale.find('a', 'k', 'p');
    tale.wanted('a', "to know what the key opened");
    tale.say("\"[What does it open|Which door does it fit]?\" {a} wondered. {A.he} tried [every door|the clock and the cellar door], but it fitted [none|nowhere].");
    tale.feel('a', "curious", "{a.he} did not know what the key opened");
    tale.say("{A} was [very |]curious now, so {a.he} asked {e}.");
    tale.paragraph();
    tale.say("{E} [smiled|looked at it for a long time]. \"[That key|I know it]! It belongs to a chest {q.in},\" {e.he} said. \"I [buried|left] it there when I was [as small as you|young].\"");
    tale.helped('e', 'a', "{e.he} told {a.him} about the chest");
    tale.put('t', 'q');
    tale.say("Together they went {q.to}. {E} showed {a} the place, and [soon|after a while] they [saw|found] the chest[ under old leaves|].");
    tale.say("{A} [turned the key|put the key into the lock]. Click! In the chest was {t.a}.");
    tale.find('a', 't', 'q');
    tale.say("\"[It was mine|I played with it every day],\" said {e}. \"Now it is yours, {a}.\"");
    tale.give('a', 'e', 'k');
    tale.say("{A} [hugged|thanked] {e.him} and gave {e.him} {k}.");
    tale.feel('a', "happy", "{e} let {a.him} keep {t}");
    tale.say("{A} was happy and carried {t} home.");
    closing(
        tale,
        "[Old things have stories, too.|Sometimes a small key opens a big story.]",
    );
}
