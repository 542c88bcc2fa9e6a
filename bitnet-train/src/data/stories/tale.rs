//! A story in the making: its text, its cast and its world.
//!
//! A plot casts letters (`a` the hero, `t` a thing) and then tells and does by turns. Every deed is a method that
//! changes the world; `say` only writes. Names and nouns are drawn without replacement, so an answer has one meaning.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::lexicon::{self, Place};
use super::template;
use super::world::{Fact, Person, Thing, Whereabouts, World};

/// What a letter stands for.
#[derive(Debug, Clone)]
enum Role {
    Person(usize),
    Thing(usize),
    Place(&'static Place),
    Word(String),
}

/// A story being told.
#[derive(Debug)]
pub(super) struct Tale {
    pub(super) dice: Dice,
    pub(super) world: World,
    text: String,
    cast: BTreeMap<char, Role>,
    /// Whether the small heroes are animals instead of children.
    creatures: bool,
    used: Vec<&'static str>,
}

impl Tale {
    pub(super) fn new(mut dice: Dice) -> Self {
        let creatures = dice.chance(35);
        Self {
            dice,
            world: World::default(),
            text: String::new(),
            cast: BTreeMap::new(),
            creatures,
            used: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> (String, World, Dice) {
        (self.text, self.world, self.dice)
    }

    /// Tells: one version of the template, behind a space.
    pub(super) fn say(&mut self, template: &str) {
        let text = self.render(template);
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(' ');
        }
        self.text.push_str(&text);
    }

    /// Begins a new paragraph.
    pub(super) fn paragraph(&mut self) {
        self.text.push_str("\n\n");
    }

    /// One version of a template, not told.
    pub(super) fn render(&mut self, template: &str) -> String {
        let (cast, world) = (&self.cast, &self.world);
        let resolve = |key: char, form: &str| match &cast[&key] {
            Role::Person(id) => person_form(&world.people[*id], form),
            Role::Thing(id) => thing_form(&world.things[*id], form),
            Role::Place(place) => place_form(place, form),
            Role::Word(word) => word_form(word, form),
        };
        template::render(template, &mut self.dice, &resolve)
    }

    /// A word that no other role of this story has.
    fn draw(&mut self, list: &[&'static str]) -> &'static str {
        loop {
            let word = self.dice.pick(list);
            if !self.used.contains(&word) {
                self.used.push(word);
                return word;
            }
        }
    }

    /// A small hero: a child, or an animal if this is a story of animals.
    pub(super) fn hero(&mut self, key: char) {
        let female = self.dice.chance(50);
        let names = if female {
            lexicon::GIRLS
        } else {
            lexicon::BOYS
        };
        let kind = match (self.creatures, female) {
            (true, _) => self.draw(lexicon::CREATURES),
            (false, true) => "girl",
            (false, false) => "boy",
        };
        let name = self.draw(names).to_owned();
        self.person(key, name, female, kind);
    }

    /// Somebody old and kind.
    pub(super) fn elder(&mut self, key: char) {
        let female = self.dice.chance(50);
        let (names, kind) = match female {
            true => (lexicon::OLD_WOMEN, "old woman"),
            false => (lexicon::OLD_MEN, "old man"),
        };
        let name = self.draw(names).to_owned();
        self.person(key, name, female, kind);
    }

    fn person(&mut self, key: char, name: String, female: bool, kind: &'static str) {
        self.world.people.push(Person {
            name,
            female,
            kind,
            feeling: None,
        });
        let id = self.world.people.len() - 1;
        self.cast.insert(key, Role::Person(id));
    }

    /// An animal without a name, as the words `{key}` "kitten" and `{cry}` "mewed".
    pub(super) fn animal(&mut self, key: char, cry: char) {
        let (noun, sound) = lexicon::ANIMALS[self.dice.below(lexicon::ANIMALS.len())];
        self.word(key, noun);
        self.word(cry, sound);
    }

    /// Any of these words.
    pub(super) fn word_of(&mut self, key: char, list: &[&'static str]) {
        let word = self.dice.pick(list);
        self.word(key, word);
    }

    pub(super) fn word(&mut self, key: char, word: &str) {
        self.cast.insert(key, Role::Word(word.to_owned()));
    }

    pub(super) fn toy(&mut self, key: char) {
        let noun = self.draw(lexicon::TOYS);
        let list = match self.dice.chance(65) {
            true => lexicon::COLOURS,
            false => lexicon::QUALITIES,
        };
        self.thing(key, noun, list);
    }

    pub(super) fn food(&mut self, key: char) {
        let noun = self.draw(lexicon::FOODS);
        self.thing(key, noun, lexicon::FRESHNESS);
    }

    pub(super) fn tool(&mut self, key: char, list: &[&'static str]) {
        let noun = self.draw(list);
        self.thing(key, noun, &["long", "good", "strong", "old", "sturdy"]);
    }

    /// A thing of this noun, with an adjective of the list.
    pub(super) fn thing(&mut self, key: char, noun: &'static str, adjectives: &[&'static str]) {
        let adjective = self.draw(adjectives);
        self.world.things.push(Thing {
            noun,
            adjective,
            at: Whereabouts::Unknown,
        });
        let id = self.world.things.len() - 1;
        self.cast.insert(key, Role::Thing(id));
    }

    pub(super) fn place(&mut self, key: char) {
        self.place_of(key, lexicon::PLACES);
    }

    pub(super) fn spot(&mut self, key: char) {
        self.place_of(key, lexicon::SPOTS);
    }

    /// A place of the list that this story has not seen.
    pub(super) fn place_of(&mut self, key: char, list: &'static [Place]) {
        let place = loop {
            let place = &list[self.dice.below(list.len())];
            if !self.used.contains(&place.noun) {
                break place;
            }
        };
        self.used.push(place.noun);
        self.cast.insert(key, Role::Place(place));
    }

    pub(super) fn sky(&mut self, sky: &'static str) {
        self.world.sky = Some(sky);
    }

    pub(super) fn home(&mut self, key: char, person: char) {
        let home = self.dice.pick(lexicon::HOMES);
        self.word(key, home);
        let fact = Fact::Lived(self.id(person), home);
        self.world.facts.push(fact);
    }

    /// The name of somebody's animal, as a word.
    pub(super) fn pet(&mut self, key: char, owner: char, kind: &'static str) {
        let name = self.draw(lexicon::PET_NAMES);
        self.word(key, name);
        let fact = Fact::Pet(self.id(owner), kind, name);
        self.world.facts.push(fact);
    }

    /// The same for an animal whose kind is already a word.
    pub(super) fn pet_of(&mut self, key: char, owner: char, kind: char) {
        let known = |noun: &&(&'static str, &str)| match &self.cast[&kind] {
            Role::Word(word) => noun.0 == word,
            _ => false,
        };
        let (noun, _) = lexicon::ANIMALS.iter().find(known).expect("an animal");
        self.pet(key, owner, noun);
    }

    pub(super) fn has(&mut self, person: char, thing: char) {
        let (person, thing) = (self.id(person), self.thing_id(thing));
        self.world.acquire(person, thing);
    }

    pub(super) fn give(&mut self, from: char, to: char, thing: char) {
        let (from, to, thing) = (self.id(from), self.id(to), self.thing_id(thing));
        self.world.give(from, to, thing);
    }

    pub(super) fn put(&mut self, thing: char, place: char) {
        let (thing, place) = (self.thing_id(thing), self.place_id(place));
        self.world.put(thing, place);
    }

    pub(super) fn take(&mut self, person: char, thing: char, place: char) {
        let (person, thing) = (self.id(person), self.thing_id(thing));
        let place = self.place_id(place);
        self.world.take(person, thing, place);
    }

    /// As [`take`](Self::take), of what was sought or hidden.
    pub(super) fn find(&mut self, person: char, thing: char, place: char) {
        self.take(person, thing, place);
        let fact = Fact::Found(self.id(person), self.thing_id(thing), self.place_id(place));
        self.world.facts.push(fact);
    }

    pub(super) fn lose(&mut self, thing: char) {
        let thing = self.thing_id(thing);
        self.world.lose(thing);
    }

    /// Somebody feels something because of a clause, `{a.he} had lost {t}`.
    pub(super) fn feel(&mut self, person: char, feeling: &'static str, why: &str) {
        let why = self.render(why);
        let person = self.id(person);
        self.world.feel(person, feeling, why);
    }

    pub(super) fn wanted(&mut self, person: char, what: &str) {
        let fact = Fact::Wanted(self.id(person), self.render(what));
        self.world.facts.push(fact);
    }

    pub(super) fn helped(&mut self, helper: char, helped: char, how: &str) {
        let how = self.render(how);
        let fact = Fact::Helped(self.id(helper), self.id(helped), how);
        self.world.facts.push(fact);
    }

    fn id(&self, key: char) -> usize {
        match self.cast[&key] {
            Role::Person(id) => id,
            ref other => panic!("`{key}` is a person, not {other:?}"),
        }
    }

    fn thing_id(&self, key: char) -> usize {
        match self.cast[&key] {
            Role::Thing(id) => id,
            ref other => panic!("`{key}` is a thing, not {other:?}"),
        }
    }

    fn place_id(&self, key: char) -> &'static Place {
        match self.cast[&key] {
            Role::Place(place) => place,
            ref other => panic!("`{key}` is a place, not {other:?}"),
        }
    }
}

/// The pronouns of somebody: he or she, him or her, his or her.
pub(super) fn person_form(person: &Person, form: &str) -> String {
    let pick = |he: &str, she: &str| (if person.female { she } else { he }).to_owned();
    match form {
        "" => person.name.clone(),
        "he" => pick("he", "she"),
        "him" => pick("him", "her"),
        "his" => pick("his", "her"),
        "himself" => pick("himself", "herself"),
        "kind" => person.kind.to_owned(),
        "one" => format!("{} {}", lexicon::article(person.kind), person.kind),
        _ => panic!("a person has no form `{form}`"),
    }
}

/// `the kite`, `a red kite`, `the red kite`, `kite`, `red kite`.
pub(super) fn thing_form(thing: &Thing, form: &str) -> String {
    let Thing {
        noun, adjective, ..
    } = thing;
    match form {
        "" => format!("the {noun}"),
        "a" => format!("{} {adjective} {noun}", lexicon::article(adjective)),
        "full" => format!("the {adjective} {noun}"),
        "one" => format!("{} {noun}", lexicon::article(noun)),
        "noun" => (*noun).to_owned(),
        "own" => format!("{adjective} {noun}"),
        _ => panic!("a thing has no form `{form}`"),
    }
}

/// `the garden`, `in the garden`, `to the garden`.
pub(super) fn place_form(place: &Place, form: &str) -> String {
    match form {
        "" => format!("the {}", place.noun),
        "in" => format!("{} the {}", place.preposition, place.noun),
        "to" => format!("to the {}", place.noun),
        _ => panic!("a place has no form `{form}`"),
    }
}

fn word_form(word: &str, form: &str) -> String {
    match form {
        "" => word.to_owned(),
        "a" => format!("{} {word}", lexicon::article(word)),
        _ => panic!("a word has no form `{form}`"),
    }
}
