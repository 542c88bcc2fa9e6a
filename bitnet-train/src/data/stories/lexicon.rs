//! The words of the stories. Every noun is singular and countable, so articles and verbs always agree.
//!
//! A list may grow; a changed order changes every story of a seed.

/// Where something is or happens, with the preposition that the place takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) preposition: &'static str,
    pub(super) noun: &'static str,
}

const fn place(preposition: &'static str, noun: &'static str) -> Place {
    Place { preposition, noun }
}

pub(super) const BOYS: &[&str] = &[
    "Tom", "Ben", "Sam", "Leo", "Max", "Finn", "Jack", "Noah", "Otto", "Hugo", "Emil", "Paul",
    "Oscar", "Felix", "Jonas", "Theo", "Adam", "Ravi", "Omar", "Luca", "Nico", "Milo", "Ivan",
    "Hans",
];
pub(super) const GIRLS: &[&str] = &[
    "Mia", "Lily", "Anna", "Zoe", "Ella", "Nora", "Ruby", "Ida", "Clara", "Lucy", "Rosa", "Emma",
    "Greta", "Maya", "Alma", "Iris", "Olga", "Tara", "Sara", "Elsa", "Nina", "Lena", "Amira",
    "Juna",
];
pub(super) const OLD_MEN: &[&str] = &[
    "Grandpa Joe",
    "Uncle Peter",
    "Old Martin",
    "Uncle Ali",
    "Grandpa Ned",
    "Old Walter",
    "Uncle Tobias",
];
pub(super) const OLD_WOMEN: &[&str] = &[
    "Grandma June",
    "Aunt Marta",
    "Old Hilda",
    "Aunt Sofia",
    "Grandma Rose",
    "Old Agnes",
    "Aunt Irene",
];

/// Kinds of small heroes, besides children.
pub(super) const CREATURES: &[&str] = &[
    "rabbit", "fox", "bear", "mouse", "squirrel", "hedgehog", "otter", "owl", "badger", "frog",
];
/// Animals to meet or to rescue, each with the sound that it makes.
pub(super) const ANIMALS: &[(&str, &str)] = &[
    ("kitten", "mewed"),
    ("puppy", "whined"),
    ("duckling", "peeped"),
    ("lamb", "bleated"),
    ("chick", "cheeped"),
    ("goat", "bleated"),
    ("piglet", "squealed"),
    ("sparrow", "chirped"),
];
pub(super) const PET_NAMES: &[&str] = &[
    "Pip", "Dot", "Biscuit", "Pepper", "Button", "Fluff", "Nutmeg", "Spot", "Whisper", "Pebble",
    "Clover", "Muffin",
];

/// Things to play with or to be fond of.
pub(super) const TOYS: &[&str] = &[
    "ball", "kite", "doll", "drum", "boat", "whistle", "hat", "scarf", "top", "puppet", "lantern",
    "flute", "book", "wagon", "marble", "ring", "bell", "cup", "umbrella", "basket", "necklace",
    "mitten",
];
pub(super) const FOODS: &[&str] = &[
    "apple",
    "pear",
    "bun",
    "peach",
    "carrot",
    "orange",
    "honey cake",
    "plum",
    "pie",
    "egg",
    "pancake",
    "melon",
];
pub(super) const COLOURS: &[&str] = &[
    "red", "blue", "green", "yellow", "orange", "white", "black", "purple", "brown", "golden",
];
pub(super) const QUALITIES: &[&str] = &[
    "old",
    "little",
    "beautiful",
    "small",
    "new",
    "lovely",
    "odd",
    "fine",
    "plain",
    "unusual",
];
pub(super) const FRESHNESS: &[&str] = &["big", "fresh", "small", "fine", "huge"];

pub(super) const PLACES: &[Place] = &[
    place("in", "garden"),
    place("at", "market"),
    place("by", "river"),
    place("on", "hill"),
    place("in", "forest"),
    place("by", "pond"),
    place("at", "mill"),
    place("in", "meadow"),
    place("under", "old bridge"),
    place("at", "harbour"),
    place("in", "barn"),
    place("by", "well"),
    place("at", "school"),
    place("on", "beach"),
    place("in", "orchard"),
    place("in", "park"),
    place("at", "bakery"),
    place("in", "field"),
    place("by", "lake"),
    place("at", "station"),
];
/// Where small things are kept or lie forgotten.
pub(super) const SPOTS: &[Place] = &[
    place("under", "bed"),
    place("behind", "door"),
    place("on", "shelf"),
    place("in", "drawer"),
    place("under", "table"),
    place("in", "wooden box"),
    place("behind", "curtain"),
    place("on", "window sill"),
    place("in", "cupboard"),
    place("under", "apple tree"),
    place("behind", "bench"),
    place("in", "tall grass"),
    place("under", "stairs"),
    place("in", "wheelbarrow"),
    place("on", "roof"),
    place("in", "attic"),
];
/// Where tools are kept.
pub(super) const SHEDS: &[Place] = &[
    place("behind", "door"),
    place("under", "stairs"),
    place("in", "shed"),
    place("in", "cellar"),
    place("behind", "stable"),
    place("in", "hall"),
];
/// Where something fragile stands.
pub(super) const STANDS: &[Place] = &[
    place("on", "table"),
    place("on", "shelf"),
    place("on", "window sill"),
    place("on", "piano"),
    place("beside", "clock"),
    place("in", "hall"),
];
/// Where things grow.
pub(super) const BEDS: &[Place] = &[
    place("in", "garden"),
    place("behind", "house"),
    place("by", "fence"),
    place("beside", "well"),
    place("under", "kitchen window"),
];
pub(super) const HOMES: &[&str] = &[
    "in a small village by the sea",
    "in a little house near the woods",
    "on a farm",
    "in a quiet town",
    "in a cottage at the edge of the forest",
    "in a yellow house on a hill",
    "near a wide river",
    "on a street full of trees",
    "beside an old mill",
    "in a valley between two mountains",
];
/// The sky of the day, as an adjective.
pub(super) const SKIES: &[&str] = &[
    "sunny", "windy", "rainy", "cold", "foggy", "snowy", "warm", "cloudy",
];

/// Feelings that a story can end with; the others pass, whether or not it says so.
pub(super) const GOOD_FEELINGS: &[&str] = &[
    "happy", "glad", "proud", "content", "relieved", "calm", "grateful", "pleased",
];

/// `a` or `an`, by the sound that the next word begins with.
pub(super) fn article(next: &str) -> &'static str {
    let sounds_consonant = ["one", "use", "uni"]
        .iter()
        .any(|start| next.starts_with(start));
    let silent_h = ["hour", "honest"]
        .iter()
        .any(|start| next.starts_with(start));
    let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    if silent_h || (vowel && !sounds_consonant) {
        "an"
    } else {
        "a"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_follow_the_sound() {
        let pairs = [
            "apple",
            "useful tool",
            "hour",
            "house",
            "orange ball",
            "one",
        ];
        let articles: Vec<_> = pairs.iter().map(|next| article(next)).collect();
        assert_eq!(articles, ["an", "a", "an", "a", "an", "a"]);
    }
}
