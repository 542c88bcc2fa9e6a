//! Manners that all commands share: answers, errors, log, colours, tables, sizes, progress.
//!
//! Answers go through [`out`] and nowhere else: it knows when the reader of a pipe has left, which ends the program
//! quietly. Log and progress go to stderr, progress only if that is a terminal.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const HEADING: Style = Style::new().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Colours of the help.
pub(crate) const HELP: clap::builder::Styles = clap::builder::Styles::styled()
    .header(HEADING)
    .usage(HEADING)
    .literal(AnsiColor::Cyan.on_default())
    .error(ERROR);

/// Stdout, colours removed where nobody sees them.
pub(crate) fn out() -> impl Write {
    Out(anstream::stdout().lock())
}

struct Out<W>(W);

/// Marks a failed write to stdout apart from any other broken pipe, say of a network connection.
#[derive(Debug, Clone, Copy)]
struct ReaderIsGone;

impl Display for ReaderIsGone {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the reader of our output is gone")
    }
}

impl std::error::Error for ReaderIsGone {}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark)
    }
}

fn mark(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderIsGone),
        _ => error,
    }
}

/// Whether the program ends because nobody reads on.
pub(crate) fn reader_is_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref())
        .any(|cause| cause.is::<ReaderIsGone>())
}

/// A line on stderr. Nobody is left to tell if it cannot be printed.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints an error and its causes. A cause that the line above it already quotes is left out.
pub(crate) fn report(error: &anyhow::Error) {
    note(format_args!("{ERROR}error:{ERROR:#} {error}"));
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !above.contains(&cause) {
            note(format_args!("  caused by: {cause}"));
            above = cause;
        }
    }
}

/// Applies `--color` to everything that is printed from now on.
pub(crate) fn set_color(choice: ColorChoice) {
    match choice {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Sends the log to stderr: ours from the level asked for, that of other crates two levels later.
pub(crate) fn start_log(quiet: bool, verbose: u8) {
    use log::LevelFilter::{self, Debug, Error, Info, Trace, Warn};
    let (ours, others) = match (quiet, verbose) {
        (true, _) => (Error, Error),
        (_, 0) => (Warn, Error),
        (_, 1) => (Info, Error),
        (_, 2) => (Debug, Warn),
        _ => (Trace, Info),
    };
    env_logger::Builder::new()
        .filter_level(others)
        .filter_module("bitnet", ours)
        // It logs as errors what it returns as errors.
        .filter_module("rustls_platform_verifier", LevelFilter::Off)
        .parse_default_env()
        .format(|_, record| {
            let (style, name) = match record.level() {
                log::Level::Error => (ERROR, "error"),
                log::Level::Warn => (WARNING, "warning"),
                log::Level::Info => (HEADING, "info"),
                log::Level::Debug => (Style::new(), "debug"),
                log::Level::Trace => (Style::new(), "trace"),
            };
            writeln!(
                anstream::stderr(),
                "{style}{name}:{style:#} {}",
                record.args()
            )
        })
        .init();
}

/// Columns as wide as their widest cell, numbers to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        let header = header.into_iter().map(str::to_owned).collect();
        Self { rows: vec![header] }
    }

    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| {
            self.rows
                .iter()
                .skip(1)
                .filter_map(move |row| row.get(column))
        };
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let right: Vec<bool> = (0..columns)
            .map(|column| cells(column).all(|cell| cell.starts_with(|c: char| c.is_ascii_digit())))
            .collect();
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&right) {
                line += &if right {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:<width$}  ")
                };
            }
            match at {
                0 => writeln!(f, "{HEADING}{}{HEADING:#}", line.trim_end())?,
                _ => writeln!(f, "{}", line.trim_end())?,
            }
        }
        Ok(())
    }
}

/// 1234567 as `1.2 MB`: powers of 1000, as on the Hub.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut unit = 0;
    // 999.95 would be printed as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A bar of bytes with rate and remaining time; of unknown length without `total`.
pub(crate) fn bytes_bar(name: &str, total: Option<u64>, quiet: bool) -> ProgressBar {
    const KNOWN: &str = "{msg:28!} {wide_bar} {decimal_bytes:>9}/{decimal_total_bytes:<9} {decimal_bytes_per_sec:>11} {eta:>4} left";
    const UNKNOWN: &str = "{msg:28!} {spinner} {decimal_bytes:>9}  {decimal_bytes_per_sec:>11}";
    bar(
        name,
        total,
        quiet,
        if total.is_some() { KNOWN } else { UNKNOWN },
    )
}

/// A bar of rows with rate and remaining time.
pub(crate) fn rows_bar(name: &str, total: u64, quiet: bool) -> ProgressBar {
    bar(
        name,
        Some(total),
        quiet,
        "{msg} {wide_bar} {pos} of {len}  {per_sec}  {eta} left",
    )
}

/// A count of unknown length with rate. It also turns while nothing is counted.
pub(crate) fn count_bar(name: &str, quiet: bool) -> ProgressBar {
    let bar = bar(name, None, quiet, "{msg} {spinner} {human_pos}  {per_sec}");
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// A bar of training steps with remaining time; what else is to be said goes into its message.
pub(crate) fn training_bar(quiet: bool) -> ProgressBar {
    bar(
        "",
        None,
        quiet,
        "{wide_bar} {pos} of {len}  {msg}  {eta} left",
    )
}

fn bar(name: &str, total: Option<u64>, quiet: bool, template: &str) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = ProgressStyle::with_template(template).expect("written here");
    ProgressBar::with_draw_target(total, target)
        .with_style(style.progress_chars("━╸ "))
        .with_message(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits_at_most() {
        let shown: Vec<String> = [
            0,
            999,
            1000,
            999_949,
            999_951,
            1_234_567_890,
            5_000_000_000_000_000,
        ]
        .map(size)
        .to_vec();
        assert_eq!(
            shown,
            [
                "0 B",
                "999 B",
                "1.0 kB",
                "999.9 kB",
                "1.0 MB",
                "1.2 GB",
                "5000.0 TB"
            ]
        );
    }

    #[test]
    fn tables_align_text_left_and_numbers_right() {
        let mut table = Table::new(["name", "size"]);
        table.push(["é".into(), "7 B".into()]);
        table.push(["longer".into(), "12.0 kB".into()]);
        let shown = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(shown, "name       size\né           7 B\nlonger  12.0 kB\n");
    }

    #[test]
    fn only_our_own_broken_pipe_is_a_reader_that_left() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ours = Out(Closed).write_all(b"x").unwrap_err();
        let ours = anyhow::Error::from(ours).context("while listing");
        assert!(reader_is_gone(&ours));
        let network = anyhow::Error::from(io::Error::from(ErrorKind::BrokenPipe));
        assert!(!reader_is_gone(&network));
    }
}
