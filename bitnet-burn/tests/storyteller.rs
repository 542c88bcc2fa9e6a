//! The model that comes with the crate: the same story on every backend, and from the program without any option.

#[path = "../../bitnet-kernels/tests/support/devices.rs"]
mod devices;
mod support;

use bitnet_burn::{GenerateOptions, storyteller};
use devices::devices;
use support::{program, run, run_with_input};

const PROMPT: &str = "Once upon a time";
/// What follows, the most likely token each time. Another text means other weights, another tokenizer or wrong arithmetic.
const STORY: &str = ", there lived a small boy named Milo. He had a home in a quiet town with his family. He and Hugo, a boy, were best friends.\n\n\
    One Saturday, it was foggy. The world was white and quiet. Milo wanted to go to the old bridge, but Hugo wanted to go to the \
    old bridge";

#[test]
fn the_story_is_the_same_on_every_backend() {
    for (name, device) in devices() {
        let model = storyteller::load(&device).unwrap();
        let options = GenerateOptions {
            max_new_tokens: 64,
            ..GenerateOptions::default()
        };
        let story = model.complete(PROMPT, &options).unwrap();
        assert_eq!(story, STORY, "{name}");
    }
}

#[test]
fn the_program_tells_it_without_a_model_being_named() {
    let run = run(&["infer", "-q", "-p", PROMPT, "-n", "64"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains(STORY), "{run:?}");
}

#[test]
fn it_answers_in_a_conversation_and_stops_by_itself() {
    let run = run_with_input(
        program(&["chat", "-q", "-t", "0"]),
        "Tell me a story about a dog.\n",
    );
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stdout
            .contains("In a land far away, a boy called Omar lived in a quiet town."),
        "{run:?}"
    );
}

#[test]
fn it_is_small_enough_to_come_with_the_crate() {
    let checkpoint = storyteller::checkpoint().unwrap();
    let bytes: usize = checkpoint.tensors().iter().map(|tensor| tensor.bytes).sum();
    assert!(bytes < 4_000_000, "{bytes}");
}
