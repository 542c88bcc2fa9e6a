//! Plots with animals that cannot speak: one in need, one that runs away, one that comes in hungry.

use super::super::lexicon;
use super::super::tale::Tale;
use super::{closing, encounter, opening, weather, weather_of};

pub(super) fn rescue(tale: &mut Tale) {
    opening(tale);
    tale.animal('n', 'c');
    tale.place('p');
    tale.paragraph();
    weather(tale);
    tale.say("{A} was {p.in} when {a.he} heard something. [\"What is that?\" {a.he} asked.|It was a thin little voice.]");
    let (tools, stuck): (&[&'static str], _) = match tale.dice.below(3) {
        0 => (&["ladder"], "high up [in a tree|on a branch|on a wall]"),
        1 => (&["rope", "net"], "[at the bottom of a pit|in a deep hole]"),
        _ => (
            &["spade", "plank"],
            "[in the mud|in a swamp] and could not move",
        ),
    };
    tale.say(&format!(
        "A [small|tiny|poor] {{n}} was stuck {stuck}. It {{c}} and {{c}}."
    ));
    tale.wanted('a', "to save the {n}");
    tale.feel('a', "worried", "the {n} was stuck");
    tale.say("{A} was worried. {A.he} [tried|did {a.his} best], but {a.he} could not reach it.");
    tale.paragraph();
    tale.elder('e');
    tale.tool('o', tools);
    tale.place_of('q', lexicon::SHEDS);
    tale.put('o', 'q');
    tale.say("{A} ran to {e}. \"[Come quickly|Help]! {N.a} is stuck {p.in}!\" {a.he} [cried|said]. \"[There is|We need] {o.one},\" said {e}, \"[look|you will find it] {q.in}.\"");
    tale.find('a', 'o', 'q');
    tale.say("{A} fetched {o}, and they [hurried|ran] back. {E} held {o}, and {a} [reached out|leaned forward], [a little more|slowly, slowly], and got hold of the {n}.");
    tale.give('a', 'e', 'o');
    tale.helped('e', 'a', "{e.he} held {o}");
    tale.say("It was [trembling|cold and wet]. {A} wrapped it in {a.his} [jacket|scarf].");
    tale.feel('a', "happy", "the {n} was safe");
    tale.say("The {n} was safe, and {a} was happy.");
    if tale.dice.chance(50) {
        tale.say("[Then|A moment later] its mother came, and the {n} [ran|went] to her. [She seemed to say thank you.|Both looked back once.]");
    } else {
        tale.pet_of('m', 'a', 'n');
        tale.say("Nobody came for it. \"May I keep it?\" asked {a}. \"[If you care for it well|Yes, you may],\" said {e}. {A} called the {n} {m}.");
    }
    closing(
        tale,
        "[Nobody is too small to help.|Who hears a small voice has good ears.]",
    );
}

pub(super) fn runaway(tale: &mut Tale) {
    opening(tale);
    tale.pet('n', 'a', "dog");
    tale.place('p');
    tale.place('q');
    tale.hero('b');
    tale.say(
        "{A.he} had a dog named {n}, [who was always hungry|who loved to run|with one white ear].",
    );
    tale.paragraph();
    weather_of(tale, "windy");
    tale.say("[Somebody had left the gate open|The wind blew the gate open], and {n} [ran away|was gone].");
    tale.feel('a', "sad", "{n} had run away");
    tale.wanted('a', "to find {n}");
    tale.say("{A} was sad. {A.he} [called and called|whistled], but no dog came.");
    tale.say("{A} looked {p.in}. No {n}. {A.he} asked {b}, {b.one} who [was fishing|was flying a kite|sold flowers] there. \"I saw a dog,\" said {b}. \"It [ran|went] {q.to}, with a sausage in its mouth!\"");
    tale.helped('b', 'a', "{b.he} told {a.him} where the dog had gone");
    encounter(tale);
    tale.paragraph();
    tale.say("{A} [ran|hurried] {q.to}. And there, {q.in}, was {n}[, with a very round belly|, fast asleep in the sun|].");
    tale.say("\"[You bad, good dog|There you are]!\" {a} [cried|laughed]. {N} [wagged its tail|licked {a.his} face].");
    tale.feel('a', "happy", "{a.he} had found {n}");
    tale.say("{A} was happy. [Then {a.he} paid for the sausage.|On the way home, {a.he} held {n} very tight.] At home, {a.he} [closed|repaired] the gate.");
    closing(
        tale,
        "[A closed gate saves a long walk.|Who loves somebody looks for him.]",
    );
}

pub(super) fn guest(tale: &mut Tale) {
    opening(tale);
    tale.animal('n', 'c');
    tale.food('f');
    tale.spot('p');
    tale.elder('e');
    tale.put('f', 'p');
    tale.say("{E} had [put|left] {f.a} {p.in} for supper.");
    tale.paragraph();
    weather_of(tale, "snowy");
    tale.say("[At noon|In the evening], {a} heard something at the door. A [thin|hungry] {n} stood in the snow and {c}.");
    tale.feel('a', "sorry", "the {n} was cold and hungry");
    tale.say("{A} was sorry for it and [let it in|opened the door]. The {n} [looked around|shook off the snow], [sniffed|walked up and down], and before {a} could say a word, {f} was [eaten|gone].");
    tale.lose('f');
    tale.say(
        "[\"Oh no!\" said {a}. \"That was our supper!\"|{A} put {a.his} hands to {a.his} head.]",
    );
    tale.paragraph();
    tale.say("When {e} came home, {e.he} looked {p.in}. \"Where is {f}?\" {e.he} asked. {A} pointed at the {n}, which slept [by the stove|on the rug].");
    tale.feel('e', "angry", "the supper was gone");
    tale.say("First, {e} was angry. Then {e.he} [saw|looked at] the thin little animal, and [laughed|{e.his} face grew soft]. \"[It was hungrier than we are|Well, a guest is a guest],\" {e.he} said.");
    tale.wanted('a', "to keep the {n}");
    tale.helped('e', 'a', "{e.he} let the {n} stay");
    tale.say("They ate [bread with butter|potatoes] that evening. \"May it stay?\" asked {a}. \"[Until spring|Yes],\" said {e}.[ It stayed much longer.|]");
    tale.pet_of('m', 'a', 'n');
    tale.feel('a', "happy", "the {n} could stay");
    tale.say("{A} was happy and called the {n} {m}.");
    closing(
        tale,
        "[A warm place by the stove is for everybody.|There is always something to share.]",
    );
}
