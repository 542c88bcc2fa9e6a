//! The loop of a batch: answer the rows that have no answer yet, in order, and account for what failed.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;

use super::{Output, Row, Rows};
use crate::cli::interrupt::Interrupted;
use crate::cli::terminal::rows_bar;

/// Failed rows that an error names.
const NAMED: usize = 10;

/// Gives up to `batch` rows at a time to `model`, which returns an answer for each, in order, and appends the answers to
/// `output`. Rows that it has are skipped. After `stop` no further batch begins.
///
/// # Errors
///
/// The output cannot be written; else, after all rows, that some failed; [`Interrupted`] if `stop` left some.
///
/// # Panics
///
/// Panics if `model` returns another number of answers than it was given rows.
pub(crate) fn answer(
    rows: &Rows,
    output: &mut Output,
    batch: NonZeroUsize,
    stop: &AtomicBool,
    quiet: bool,
    mut model: impl FnMut(&[&Row]) -> Vec<anyhow::Result<String>>,
) -> anyhow::Result<()> {
    let todo: Vec<&Row> = rows.rows.iter().filter(|row| !output.has(row)).collect();
    let skipped = rows.rows.len() - todo.len();
    if skipped > 0 {
        log::info!("{skipped} rows are answered already");
    }
    let bar = rows_bar("rows", rows.rows.len() as u64, quiet);
    bar.set_position(skipped as u64);
    bar.reset_eta();
    let mut failed = Vec::new();
    let mut left = todo.len();
    for batch in todo.chunks(batch.get()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let readable: Vec<&Row> = batch
            .iter()
            .copied()
            .filter(|row| row.prompt.is_ok())
            .collect();
        let answers = if readable.is_empty() {
            Vec::new()
        } else {
            model(&readable)
        };
        assert_eq!(answers.len(), readable.len(), "an answer for each row");
        let mut answers = answers.into_iter();
        for row in batch {
            let answer = match &row.prompt {
                Ok(_) => answers
                    .next()
                    .expect("as many as readable rows")
                    .map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.clone()),
            };
            if let Err(error) = &answer {
                failed.push(format!("line {}: {error}", row.line));
            }
            output.append(row, &answer)?;
        }
        left -= batch.len();
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    verdict(&failed, output.failed_before(), left)
}

fn verdict(failed: &[String], before: usize, left: usize) -> anyhow::Result<()> {
    for failure in failed.iter().take(NAMED) {
        log::warn!("{failure}");
    }
    if failed.len() > NAMED {
        log::warn!("and {} more", failed.len() - NAMED);
    }
    let failures = match (failed.len(), before) {
        (0, 0) => None,
        (now, 0) => Some(format!(
            "{now} rows failed; --retry-failed tries them again"
        )),
        (now, before) => Some(format!(
            "{now} rows failed and {before} before; --retry-failed tries them again"
        )),
    };
    if left > 0 {
        let left = format!("stopped with {left} rows to do; the same command goes on from there");
        let all: Vec<String> = [left].into_iter().chain(failures).collect();
        return Err(anyhow::Error::new(Interrupted).context(all.join(". ")));
    }
    match failures {
        None => Ok(()),
        Some(failures) => bail!(failures),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::super::{Kind, Prompt, read};
    use super::*;

    const ONE: NonZeroUsize = NonZeroUsize::MIN;
    static GO: AtomicBool = AtomicBool::new(false);

    /// Answers in capitals; fails on `bad`.
    fn shout(rows: &[&Row]) -> Vec<anyhow::Result<String>> {
        let shout = |row: &&Row| match &row.prompt {
            Ok(Prompt::Text(text)) if text == "bad" => {
                Err(anyhow::anyhow!("cause").context("no answer"))
            }
            Ok(Prompt::Text(text)) => Ok(text.to_uppercase()),
            Ok(Prompt::Messages(messages)) => Ok(format!("{} messages", messages.len())),
            Err(error) => panic!("unreadable rows are not asked: {error}"),
        };
        rows.iter().map(shout).collect()
    }

    struct Job {
        folder: tempfile::TempDir,
        kind: &'static str,
    }

    impl Job {
        fn new(kind: &'static str, prompts: &str) -> Self {
            let job = Self {
                folder: tempfile::tempdir().unwrap(),
                kind,
            };
            fs::write(job.path("in"), prompts).unwrap();
            job
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(format!("{name}.{}", self.kind))
        }

        fn out(&self) -> String {
            fs::read_to_string(self.path("out")).unwrap()
        }

        /// Runs with `model`; the error, if any, as text.
        fn run(
            &self,
            retry: bool,
            model: impl FnMut(&[&Row]) -> Vec<anyhow::Result<String>>,
        ) -> Result<(), String> {
            let path = self.path("out");
            let run = || {
                let rows = read(&self.path("in"), None)?;
                let mut output = Output::file(&path, &rows, Kind::of(&path)?, retry)?;
                answer(&rows, &mut output, ONE, &GO, true, model)
            };
            run().map_err(|error| format!("{error:#}"))
        }
    }

    fn unasked(rows: &[&Row]) -> Vec<anyhow::Result<String>> {
        panic!("answered already: {rows:?}")
    }

    #[test]
    fn every_kind_gets_its_answers_beside_what_it_had() {
        let job = Job::new("txt", "one\n\ntwo\n");
        job.run(false, |rows| {
            rows.iter().map(|_| Ok("a\\\nb".into())).collect()
        })
        .unwrap();
        assert_eq!(job.out(), "a\\\\\\nb\na\\\\\\nb\n");

        let job = Job::new(
            "jsonl",
            "{\"x\": 1, \"prompt\": \"a\"}\n{\"id\": \"k\", \"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n",
        );
        job.run(false, shout).unwrap();
        let expected = concat!(
            "{\"row\":1,\"x\":1,\"prompt\":\"a\",\"completion\":\"A\"}\n",
            "{\"id\":\"k\",\"messages\":[{\"role\":\"user\",\"content\":\"b\"}],\"completion\":\"1 messages\"}\n"
        );
        assert_eq!(job.out(), expected);

        let job = Job::new("csv", "id,prompt,x\n7,\"a,\nb\",y\n");
        job.run(false, shout).unwrap();
        assert_eq!(
            job.out(),
            "id,prompt,x,completion,error\n7,\"a,\nb\",y,\"A,\nB\",\n"
        );
    }

    #[test]
    fn failed_rows_are_reported_and_the_rest_is_kept() {
        for (kind, prompts) in [
            (
                "jsonl",
                "{\"prompt\": \"bad\"}\nhalf\n{\"prompt\": \"b\"}\n",
            ),
            ("csv", "prompt\nbad\na,b\nb\n"),
        ] {
            let job = Job::new(kind, prompts);
            let error = job.run(false, shout).unwrap_err();
            assert!(error.contains("2 rows failed"), "{error}");
            assert!(
                job.out().contains("no answer: cause") && job.out().contains('B'),
                "{}",
                job.out()
            );
            let again = job.run(false, unasked).unwrap_err();
            assert!(again.contains("2 before"), "{again}");
        }
    }

    #[test]
    fn failed_rows_are_tried_again_when_asked_for() {
        for (kind, prompts) in [
            ("jsonl", "{\"prompt\": \"bad\"}\n{\"prompt\": \"b\"}\n"),
            ("csv", "prompt\nbad\nb\n"),
        ] {
            let job = Job::new(kind, prompts);
            job.run(false, shout).unwrap_err();
            let mut asked = 0;
            job.run(true, |rows| {
                asked += rows.len();
                rows.iter().map(|_| Ok("better".into())).collect()
            })
            .unwrap();
            assert_eq!(asked, 1);
            assert_eq!(job.out().matches("better").count(), 1);
            assert!(!job.out().contains("no answer"));
            job.run(false, unasked).unwrap();
        }
        let refused = Job::new("txt", "a\n").run(true, shout).unwrap_err();
        assert!(refused.contains("--retry-failed"), "{refused}");
    }

    #[test]
    fn wherever_a_run_was_cut_off_it_goes_on_to_the_same_output() {
        let jobs = [
            ("txt", "one\ntwo\nthree\n"),
            (
                "jsonl",
                "{\"prompt\": \"a\\nb\"}\n{\"prompt\": \"c\", \"id\": 1}\n{\"prompt\": \"d\"}\n",
            ),
            ("csv", "prompt,x\n\"a\n\"\"b\"\"\",1\n\"c,\nd\",\ne,2\n"),
        ];
        for (kind, prompts) in jobs {
            let job = Job::new(kind, prompts);
            job.run(false, shout).unwrap();
            let whole = job.out();
            for end in 0..whole.len() {
                fs::write(job.path("out"), &whole[..end]).unwrap();
                job.run(false, shout).unwrap();
                assert_eq!(job.out(), whole, "{kind} cut at {end}");
            }
        }
    }

    #[test]
    fn an_output_of_other_prompts_is_refused_and_kept() {
        for (kind, ours, other) in [
            ("jsonl", "{\"prompt\": \"a\"}\n", "{\"prompt\": \"z\"}\n"),
            ("csv", "prompt\na\n", "prompt\nz\n"),
            ("txt", "a\n", "z\ny\n"),
        ] {
            let job = Job::new(kind, other);
            job.run(false, shout).unwrap();
            let before = job.out();
            fs::write(job.path("in"), ours).unwrap();
            let error = job.run(false, unasked).unwrap_err();
            assert!(error.contains("not an output for these prompts"), "{error}");
            assert_eq!(job.out(), before);
        }
        let job = Job::new("csv", "prompt\na\n");
        fs::write(job.path("out"), "my,own,table\n1,2,3\n").unwrap();
        assert!(
            job.run(false, unasked)
                .unwrap_err()
                .contains("its columns are my, own, table")
        );
    }

    #[test]
    fn a_stop_keeps_what_is_done() {
        let job = Job::new(
            "jsonl",
            "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n",
        );
        let rows = read(&job.path("in"), None).unwrap();
        let mut output = Output::file(&job.path("out"), &rows, Kind::Jsonl, false).unwrap();
        let stop = AtomicBool::new(false);
        let error = answer(&rows, &mut output, ONE, &stop, true, |rows| {
            stop.store(true, Ordering::Relaxed);
            shout(rows)
        });
        let error = error.unwrap_err();
        assert!(error.to_string().contains("stopped with 2 rows to do"));
        assert!(error.is::<Interrupted>());
        assert_eq!(job.out().lines().count(), 1);
        job.run(false, shout).unwrap();
        assert_eq!(job.out().lines().count(), 3);
    }

    #[test]
    fn rows_come_in_batches_without_the_unreadable_ones() {
        let job = Job::new(
            "jsonl",
            "{\"prompt\": \"a\"}\nhalf\n{\"prompt\": \"c\"}\n{\"prompt\": \"d\"}\n",
        );
        let rows = read(&job.path("in"), None).unwrap();
        let mut output = Output::file(&job.path("out"), &rows, Kind::Jsonl, false).unwrap();
        let mut sizes = Vec::new();
        let three = NonZeroUsize::new(3).unwrap();
        let verdict = answer(&rows, &mut output, three, &GO, true, |rows| {
            sizes.push(rows.len());
            shout(rows)
        });
        assert!(verdict.unwrap_err().to_string().contains("1 rows failed"));
        assert_eq!(sizes, [2, 1]);
        let keys: Vec<bool> = job
            .out()
            .lines()
            .map(|line| line.contains("completion"))
            .collect();
        assert_eq!(keys, [true, false, true, true]);
    }

    #[test]
    fn prompts_are_never_overwritten() {
        let job = Job::new("txt", "a\n");
        let rows = read(&job.path("in"), None).unwrap();
        let same = job.folder.path().join(".").join("in.txt");
        let refused = Output::file(&same, &rows, Kind::Txt, false)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("holds the prompts"), "{refused}");
    }

    #[test]
    fn json_lines_do_not_become_a_table() {
        let job = Job::new("jsonl", "{\"prompt\": \"a\"}\n");
        let rows = read(&job.path("in"), None).unwrap();
        assert!(Output::file(Path::new("unused.csv"), &rows, Kind::Csv, false).is_err());
    }
}
