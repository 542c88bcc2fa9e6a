//! `models`, run as a user runs it, against a Hub on the loopback interface: downloads, resumptions, refusals.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::hub::{COMMIT, CONFIG, CONFIG_ETAG, Hub, Reply, sha256, weights};
use support::{Run, program};
use tempfile::TempDir;

const TOKEN: &str = "hf_secret";

/// `models` with its cache in `home`.
fn models(home: &TempDir, hub: &Hub, arguments: &[&str]) -> Run {
    let mut command = program(&[&["models"], arguments].concat());
    command
        .env("HF_HOME", home.path())
        .env("HF_ENDPOINT", &hub.endpoint);
    command.output().expect("the program starts").into()
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn folder(home: &TempDir) -> PathBuf {
    home.path().join("hub").join("models--own--tiny")
}

fn partial(home: &TempDir) -> PathBuf {
    folder(home)
        .join("blobs")
        .join(format!("{}.incomplete", sha256(&weights())))
}

fn is_whole(snapshot: &Path) -> bool {
    fs::read(snapshot.join("model.safetensors")).is_ok_and(|found| found == weights())
        && fs::read_to_string(snapshot.join("config.json")).is_ok_and(|found| found == CONFIG)
}

#[test]
fn a_model_is_downloaded_into_the_layout_that_python_shares() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let snapshot = folder(&home).join("snapshots").join(COMMIT);
    assert_eq!(run.stdout.trim(), snapshot.to_str().unwrap());
    assert!(is_whole(&snapshot));
    assert_eq!(run.stderr, "", "no progress without a terminal");
    assert_eq!(
        fs::read_to_string(folder(&home).join("refs/main")).unwrap(),
        COMMIT
    );
    let mut names: Vec<String> = fs::read_dir(snapshot)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(
        fs::read_to_string(folder(&home).join("blobs").join(CONFIG_ETAG)).unwrap(),
        CONFIG
    );
}

#[cfg(unix)]
#[test]
fn snapshots_are_relative_links_to_blobs() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    models(&home, &hub, &["pull", "own/tiny"]);
    let link = fs::read_link(
        folder(&home)
            .join("snapshots")
            .join(COMMIT)
            .join("config.json"),
    )
    .unwrap();
    assert_eq!(link, Path::new("../../blobs").join(CONFIG_ETAG));
}

#[test]
fn what_is_here_is_not_downloaded_again() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    models(&home, &hub, &["pull", "own/tiny"]);
    let before = hub.ranges().len();
    let run = models(&home, &hub, &["pull", "own/tiny@v1"]);
    assert_eq!((run.code, hub.ranges().len()), (Some(0), before), "{run:?}");
    assert!(folder(&home).join("refs/v1").exists());
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let count = AtomicUsize::new(0);
    let hub = Hub::start(move |request, mut reply| {
        if request.path == "/storage/weights" && count.fetch_add(1, Ordering::Relaxed) < 2 {
            reply.cut = Some(300_000);
        }
        reply
    });
    let home = home();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(is_whole(Path::new(run.stdout.trim())));
    assert_eq!(
        hub.ranges(),
        [
            None,
            Some("bytes=300000-".to_owned()),
            Some("bytes=600000-".to_owned())
        ]
    );
}

#[test]
fn an_interrupted_download_goes_on_with_the_next_call() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    fs::create_dir_all(partial(&home).parent().unwrap()).unwrap();
    fs::write(partial(&home), &weights()[..1234]).unwrap();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(
        (run.code, is_whole(Path::new(run.stdout.trim()))),
        (Some(0), true),
        "{run:?}"
    );
    assert_eq!(hub.ranges(), [Some("bytes=1234-".to_owned())]);
    assert!(!partial(&home).exists());
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let hub = Hub::start(|request, reply| match request.path.as_str() {
        "/storage/weights" => Reply::new(200, weights()),
        _ => reply,
    });
    let home = home();
    fs::create_dir_all(partial(&home).parent().unwrap()).unwrap();
    fs::write(partial(&home), &weights()[..1234]).unwrap();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(
        (run.code, is_whole(Path::new(run.stdout.trim()))),
        (Some(0), true),
        "{run:?}"
    );
}

#[test]
fn a_server_that_always_breaks_is_given_up_and_its_bytes_are_kept() {
    let hub = Hub::start(|request, mut reply| {
        if request.path == "/storage/weights" {
            reply.cut = Some(if request.headers.contains_key("range") {
                0
            } else {
                1000
            });
        }
        reply
    });
    let home = home();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr
            .contains("error: cannot download `model.safetensors`"),
        "{run:?}"
    );
    assert_eq!(fs::read(partial(&home)).unwrap(), weights()[..1000]);
    let list = models(&home, &hub, &["list"]);
    assert!(list.stdout.contains("unfinished"), "{list:?}");
    let path = models(&home, &hub, &["path", "own/tiny"]);
    assert_eq!(path.code, Some(1), "half a model is none: {path:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_downloaded() {
    let hub = Hub::start(|request, mut reply| {
        reply.slow = request.path == "/storage/weights" && !request.headers.contains_key("range");
        reply
    });
    let home = home();
    let mut command = program(&["models", "pull", "own/tiny"]);
    command
        .env("HF_HOME", home.path())
        .env("HF_ENDPOINT", &hub.endpoint);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while fs::metadata(partial(&home)).map_or(0, |data| data.len()) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let signal = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(signal.success());
    let run = Run::from(child.wait_with_output().unwrap());
    assert!(
        run.code == Some(1) && run.stderr.contains("the same command goes on"),
        "{run:?}"
    );
    let kept = fs::metadata(partial(&home)).unwrap().len();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert!(
        run.code == Some(0) && is_whole(Path::new(run.stdout.trim())),
        "{run:?}"
    );
    assert_eq!(hub.ranges(), [None, Some(format!("bytes={kept}-"))]);
}

#[test]
fn damaged_contents_are_thrown_away() {
    let hub = Hub::start(|request, mut reply| {
        if request.path == "/storage/weights" {
            reply.body[77] ^= 1;
        }
        reply
    });
    let home = home();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("SHA-256: found") && run.stderr.contains(&sha256(&weights())),
        "{run:?}"
    );
    assert!(!partial(&home).exists() && !folder(&home).join("refs/main").exists());
}

#[test]
fn a_file_longer_than_announced_is_thrown_away() {
    let hub = Hub::start(|request, mut reply| {
        if request.path == "/storage/weights" {
            reply.body.push(0);
        }
        reply
    });
    let home = home();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("found 700002 bytes, expected 700001"),
        "{run:?}"
    );
    assert!(!partial(&home).exists());
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_its_storage() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for request in hub.requests() {
        let token = request.headers.get("authorization").map(String::as_str);
        let expected = (!request.path.starts_with("/storage/")).then_some("Bearer hf_secret");
        assert_eq!(token, expected, "{request:?}");
    }
    assert!(
        hub.requests()
            .iter()
            .any(|request| request.path.starts_with("/storage/"))
    );
}

/// The words that the error for this answer of the server holds.
fn refused(status: u16, code: &'static str, token: Option<&str>) -> String {
    let hub = Hub::start(move |_, _| Reply::new(status, "").with("X-Error-Code", code));
    let home = home();
    if let Some(token) = token {
        fs::write(home.path().join("token"), token).expect("a folder of ours");
    }
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(!run.stderr.contains(TOKEN), "a token is never shown");
    run.stderr
}

#[test]
fn refusals_say_what_to_do() {
    for (status, code, token, expected) in [
        (401, "RepoNotFound", None, "set HF_TOKEN"),
        (401, "RepoNotFound", Some(TOKEN), "Check HF_TOKEN"),
        (
            401,
            "GatedRepo",
            None,
            "Accept its terms at http://127.0.0.1",
        ),
        (403, "GatedRepo", Some(TOKEN), "with that account"),
        (404, "RepoNotFound", Some(TOKEN), "Check the name"),
        (404, "RevisionNotFound", None, "no revision `main`"),
        (429, "", None, "asks to wait"),
        (503, "", None, "Try again later"),
        (418, "", None, "unexpected answer 418"),
    ] {
        let said = refused(status, code, token);
        assert!(said.contains(expected), "{status} {code}: {said}");
    }
}

#[test]
fn no_connection_is_explained() {
    let (home, mut hub) = (home(), Hub::start(|_, reply| reply));
    // Port 9, discard, is open nowhere.
    hub.endpoint = "http://127.0.0.1:9".into();
    let run = models(&home, &hub, &["pull", "own/tiny"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("no connection")
            && run
                .stderr
                .contains("caused by: cannot reach http://127.0.0.1:9"),
        "{run:?}"
    );
}

#[test]
fn an_answer_that_is_no_hub_is_explained() {
    let hub = Hub::start(|_, _| Reply::new(200, "<html>welcome</html>"));
    let run = models(&home(), &hub, &["pull", "own/tiny"]);
    assert!(
        run.code == Some(1) && run.stderr.contains("Is HF_ENDPOINT a Hub?"),
        "{run:?}"
    );
}

#[test]
fn names_that_leave_the_folder_are_refused_before_anything_is_written() {
    for name in [
        "../../evil.json",
        "/evil.json",
        "a/../../evil.json",
        "..\\\\evil.json",
        "C:/evil.json",
    ] {
        let hub = Hub::start(move |_, _| {
            Reply::new(
                200,
                format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"{name}\"}}]}}"),
            )
        });
        let home = home();
        let run = models(&home, &hub, &["pull", "own/tiny"]);
        assert!(
            run.code == Some(1) && run.stderr.contains("refused"),
            "{name}: {run:?}"
        );
        assert_eq!(hub.requests().len(), 1, "{name}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn checksums_that_leave_the_folder_are_refused() {
    let hub = Hub::start(|request, reply| match request.method.as_str() {
        "HEAD" => Reply::new(200, "").with("ETag", "\"../../../evil\""),
        _ => reply,
    });
    let run = models(&home(), &hub, &["pull", "own/tiny"]);
    assert!(
        run.code == Some(1) && run.stderr.contains("no checksum"),
        "{run:?}"
    );
}

#[test]
fn offline_nothing_is_asked() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    let run = models(&home, &hub, &["pull", "own/tiny", "--offline"]);
    assert_eq!((run.code, hub.requests().len()), (Some(1), 0));
    assert!(run.stderr.contains("offline"), "{run:?}");
    assert_eq!(models(&home, &hub, &["pull", "own/tiny"]).code, Some(0));
    let asked = hub.requests().len();
    let mut command = program(&["models", "pull", "own/tiny"]);
    command
        .env("HF_HOME", home.path())
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HUB_OFFLINE", "1");
    let run = Run::from(command.output().unwrap());
    assert_eq!((run.code, hub.requests().len()), (Some(0), asked));
    assert!(is_whole(Path::new(run.stdout.trim())));
}

#[test]
fn models_are_listed_found_and_removed() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    let empty = models(&home, &hub, &["list"]);
    assert!(
        empty.code == Some(0) && empty.stdout.is_empty() && empty.stderr.contains("models pull"),
        "{empty:?}"
    );
    models(&home, &hub, &["pull", "own/tiny"]);
    let list = models(&home, &hub, &["list"]);
    assert!(
        list.stdout.contains("own/tiny  main       700.0 kB"),
        "{}",
        list.stdout
    );
    let json: serde_json::Value =
        serde_json::from_str(&models(&home, &hub, &["list", "--json"]).stdout).unwrap();
    assert_eq!(json[0]["model"], "own/tiny");
    assert_eq!(json[0]["size"], 700_001 + CONFIG.len());
    let path = models(&home, &hub, &["path", "own/tiny"]);
    assert!(is_whole(Path::new(path.stdout.trim())), "{path:?}");
    let removed = models(&home, &hub, &["remove", "own/tiny"]);
    assert!(
        removed.code == Some(0) && removed.stdout.contains("700.0 kB freed"),
        "{removed:?}"
    );
    assert!(!folder(&home).exists());
    assert_eq!(models(&home, &hub, &["remove", "own/tiny"]).code, Some(1));
    assert_eq!(models(&home, &hub, &["path", "own/tiny"]).code, Some(1));
}

#[test]
fn one_file_is_pulled_and_found_by_its_name() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    let run = models(&home, &hub, &["pull", "own/tiny/config.json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(fs::read_to_string(run.stdout.trim()).unwrap(), CONFIG);
    assert!(hub.ranges().is_empty());
    let missing = models(&home, &hub, &["pull", "own/tiny/none.json"]);
    assert!(
        missing.code == Some(1)
            && missing
                .stderr
                .contains("found .gitattributes, README.md, config.json"),
        "{missing:?}"
    );
}

#[test]
fn a_name_of_the_wrong_form_is_wrong_usage() {
    let (home, hub) = (home(), Hub::start(|_, reply| reply));
    for name in ["tiny", "../tiny", "own/tiny@../x"] {
        let run = models(&home, &hub, &["pull", name]);
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}
