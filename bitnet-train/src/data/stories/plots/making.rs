//! Plots in which something is made: grown, baked, built. Patience and the weather decide.

use super::super::lexicon;
use super::super::tale::Tale;
use super::{closing, encounter, opening, weather, weather_of};

pub(super) fn garden(tale: &mut Tale) {
    opening(tale);
    tale.elder('e');
    tale.place_of('p', lexicon::BEDS);
    tale.tool('o', &["bucket", "spade"]);
    tale.thing('f', "pumpkin", &["huge", "round", "golden", "big"]);
    tale.paragraph();
    tale.say("[One spring day|In spring], {e} gave {a} a [tiny|small|single] seed. \"[What will it be|What is in it]?\" {a} asked. \"[Wait and see|That is its secret],\" said {e}.");
    tale.wanted('a', "to see what the seed would become");
    tale.say("{A} [planted|put] the seed {p.in} and [covered it with earth|patted the earth]. Every morning {a.he} [went to look|looked]. Nothing. [Nothing again.|Still nothing.]");
    tale.feel('a', "impatient", "nothing grew");
    tale.say("{A} was impatient. \"[Is it dead|Did I do it wrong]?\" {a.he} asked. \"[Good things take time|It is only asleep],\" {e} [said|answered].");
    tale.paragraph();
    weather_of(tale, "warm");
    tale.say("For [two|three] weeks there was no rain, and the earth was [dry|hard as stone]. A green leaf had come out, but now it [hung down|turned yellow].");
    tale.has('e', 'o');
    tale.feel('a', "worried", "there was no rain for the plant");
    tale.say("{A} was worried. {E} [lent|gave] {a.him} {o.a}, and {a.he} [brought|carried] water from the well, every day, [morning and evening|in the morning and at night].");
    tale.give('e', 'a', 'o');
    tale.helped('e', 'a', "{e.he} lent {a.him} {o}");
    tale.say("[The leaf stood up again|The plant recovered], and then there were two leaves, and ten, and [a yellow flower|flowers].");
    tale.paragraph();
    tale.put('f', 'p');
    tale.say("In autumn, there was {f.a} {p.in}, [as big as a wheel|so heavy that nobody could lift it alone].");
    tale.feel('a', "proud", "{a.he} had grown {f}");
    tale.say("{A} was proud.[ \"You grew that,\" said {e}. \"I only had the seed.\"|]");
    if tale.dice.chance(50) {
        tale.take('a', 'f', 'p');
        tale.give('a', 'e', 'f');
        tale.say("{A} [rolled|brought] {f} to {e} as a present, and {e} cooked soup for [the whole street|everybody].");
    } else {
        tale.say("{A} left {f} where it was, so that everybody could [see|admire] it.");
    }
    closing(tale, "[Who waters, harvests.|Good things take time.]");
}

pub(super) fn baking(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.elder('e');
    tale.word_of('w', &["cake", "loaf of bread", "pie", "plum tart"]);
    tale.word_of('m', &["flour", "milk", "butter", "honey", "salt"]);
    tale.place('p');
    tale.paragraph();
    weather(tale);
    tale.wanted('a', "to bake {w.a}");
    tale.say("{A} wanted to bake {w.a} [for {a.his} mother|for the feast {p.in}|as a surprise]. {A.he} [washed {a.his} hands|put on an apron] and [took a big bowl|lit the oven].");
    tale.say("But there was no {m}[ in the house|]. [Not a spoonful!|The jar was empty.]");
    tale.feel('a', "upset", "there was no {m}");
    tale.say("{A} was upset. \"Without {m}, there is no {w},\" {a.he} [said|sighed].");
    tale.paragraph();
    tale.say("{A} went to {b}, {b.one} who lived [across the road|next door]. \"[Have you any|Do you have some] {m}?\" {a.he} asked. \"No,\" said {b}, \"but [{e} has some|I know who has]. [I will come with you|Let us go together].\"");
    encounter(tale);
    tale.say("{E} was at home[ and sat by the window|]. \"You can have {m},\" {e.he} said, \"[if I get a piece|but then I want a slice].\"");
    tale.helped('e', 'a', "{e.he} gave {a.him} {m}");
    tale.say("\"[That is fair|Of course]!\" said {a}. {A.he} [carried|took] the {m} home[, careful not to spill any|].");
    tale.helped('b', 'a', "{b.he} went to {e} with {a.him}");
    tale.say("{A} [mixed and stirred|stirred until {a.his} arm hurt], and {b} watched the oven. [Soon|After an hour] the whole house smelled [wonderful|sweet].");
    tale.paragraph();
    tale.say("[When it was done|At last], {a} cut the {w} into [three|six] pieces. [One|The first piece] was for {e}.");
    tale.feel('a', "happy", "the {w} was so good");
    tale.feel('e', "pleased", "{a} kept {a.his} promise");
    tale.say("\"[It is the best {w} I ever ate|Mmm],\" said {e}, who was pleased. {A} was happy.");
    closing(
        tale,
        "[Neighbours are worth more than a full cupboard.|What many make tastes better.]",
    );
}

pub(super) fn building(tale: &mut Tale) {
    opening(tale);
    tale.hero('b');
    tale.word_of(
        'w',
        &[
            "raft",
            "tree house",
            "snow castle",
            "bird house",
            "bridge of planks",
            "tent",
        ],
    );
    tale.place('p');
    tale.tool('o', &["hammer", "rope", "axe", "saw", "ladder"]);
    tale.place_of('q', lexicon::SHEDS);
    tale.put('o', 'q');
    tale.paragraph();
    weather(tale);
    tale.wanted('a', "to build {w.a}");
    tale.say("{A} wanted to build {w.a} {p.in}. \"[I need nobody|I can do it alone],\" {a.he} said[ to {b}, {b.one} who wanted to help|, when {b.one} named {b} wanted to help].");
    tale.say("{A.he} worked [all morning|for hours]. Then [a strong wind came|it began to rain hard|one corner slipped], and everything fell down.");
    tale.feel('a', "frustrated", "the {w} had fallen down");
    tale.say("{A} was frustrated. {A.he} [kicked a board|sat down on the ground] and [said nothing|wanted to give up].");
    tale.paragraph();
    tale.say("{B} had seen it all. {B.he} did not laugh. \"[You hold, and I tie|Four hands are better than two],\" {b.he} said. \"[But we need a good {o.noun}|Have we got {o.one}]?\"");
    tale.say("{B} remembered that there was {o.a} {q.in}. {B.he} [fetched it|ran and got it].");
    tale.find('b', 'o', 'q');
    tale.say("[Now they worked together.|So they began again.] {A} [held the wood|measured], and {b} [used|worked with] {o}. [Slowly the {w} grew.|Piece by piece it grew.] This time, it stood[ as firm as a rock|].");
    tale.helped('b', 'a', "{b.he} built the {w} with {a.him}");
    tale.feel('a', "proud", "the {w} stood at last");
    tale.say("{A} was proud. \"[We did it|Look at that]!\" {a.he} [called|shouted]. \"It is ours, not mine.\"");
    if tale.dice.chance(50) {
        tale.give('b', 'a', 'o');
        tale.say("{B} gave {o} to {a}, who [put it away|kept it] for the next time.");
    }
    closing(
        tale,
        "[What falls down can be built again.|Together one builds better.]",
    );
}
