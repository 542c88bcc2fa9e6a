//! What is true in a story: who there is, where things are, who feels what and why.
//!
//! Plots change the world as they tell, and the world refuses what cannot be (giving away what one has not): a plot
//! that contradicts itself panics. Questions are answered from here alone.

use super::lexicon::Place;

/// Somebody in the story.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) female: bool,
    /// `girl`, `fox`, `old man`.
    pub(super) kind: &'static str,
    /// How the story leaves them.
    pub(super) feeling: Option<&'static str>,
}

/// Something that can be held or lie somewhere.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    pub(super) noun: &'static str,
    pub(super) adjective: &'static str,
    pub(super) at: Whereabouts,
}

/// Where a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Nobody has said; nothing is asked.
    Unknown,
    /// With this person.
    With(usize),
    /// At this place.
    At(&'static Place),
    /// Eaten, used up, swept away.
    Gone,
}

/// Something that was told and can be asked for.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// Why somebody felt something; a clause in the past tense, with its subject.
    Why(usize, &'static str, String),
    /// What somebody wanted: an infinitive, `to fly the kite`.
    Wanted(usize, String),
    /// Who helped whom, with a clause that says how.
    Helped(usize, usize, String),
    /// Who found what where.
    Found(usize, usize, &'static Place),
    /// Who gave what to whom.
    Gave(usize, usize, usize),
    /// Where somebody lived.
    Lived(usize, &'static str),
    /// What the animal of somebody was called.
    Pet(usize, &'static str, &'static str),
}

/// The state of one story.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) people: Vec<Person>,
    pub(super) things: Vec<Thing>,
    pub(super) sky: Option<&'static str>,
    pub(super) facts: Vec<Fact>,
}

impl World {
    /// A thing nobody had before belongs to somebody.
    pub(super) fn acquire(&mut self, person: usize, thing: usize) {
        let at = &mut self.things[thing].at;
        assert_eq!(*at, Whereabouts::Unknown, "only a new thing is acquired");
        *at = Whereabouts::With(person);
    }

    /// Somebody puts down what they hold, or a new thing lies somewhere.
    pub(super) fn put(&mut self, thing: usize, place: &'static Place) {
        let at = &mut self.things[thing].at;
        assert!(
            matches!(at, Whereabouts::Unknown | Whereabouts::With(_)),
            "only what somebody holds, or a new thing, is put down"
        );
        *at = Whereabouts::At(place);
    }

    /// Somebody takes what lies somewhere.
    pub(super) fn take(&mut self, person: usize, thing: usize, place: &'static Place) {
        let at = &mut self.things[thing].at;
        assert_eq!(*at, Whereabouts::At(place), "a thing is taken where it is");
        *at = Whereabouts::With(person);
    }

    /// Somebody hands over what they have.
    pub(super) fn give(&mut self, from: usize, to: usize, thing: usize) {
        let at = &mut self.things[thing].at;
        assert_eq!(
            *at,
            Whereabouts::With(from),
            "only who has a thing gives it"
        );
        *at = Whereabouts::With(to);
        self.facts
            .retain(|fact| !matches!(fact, Fact::Gave(_, _, t) if *t == thing));
        self.facts.push(Fact::Gave(from, to, thing));
    }

    /// A thing is no more.
    pub(super) fn lose(&mut self, thing: usize) {
        let at = &mut self.things[thing].at;
        assert_ne!(*at, Whereabouts::Gone, "nothing is lost twice");
        *at = Whereabouts::Gone;
    }

    /// Somebody feels something; the last reason for a feeling is the one that counts.
    pub(super) fn feel(&mut self, person: usize, feeling: &'static str, why: String) {
        self.people[person].feeling = Some(feeling);
        self.facts
            .retain(|fact| !matches!(fact, Fact::Why(p, f, _) if *p == person && *f == feeling));
        self.facts.push(Fact::Why(person, feeling, why));
    }
}
