//! The Jinja dialect of chat templates: what transformers gives to a template, with its manners.
//!
//! Blocks are trimmed, Python's string and list methods work, `tojson` writes as Python does (no HTML escapes).
//! A template is foreign code: it reaches no files, and runs out of fuel instead of running forever.

use std::fmt::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};

/// Instructions that one rendering may take; a conversation of a thousand messages takes some ten thousand.
const FUEL: u64 = 10_000_000;

/// Longest template in bytes. The longest of the published ones have some twenty thousand.
const LONGEST: usize = 1 << 16;
/// Stack for compiling one: each byte may be a level of recursion (`---1`), of 2 KB where nothing is optimized.
const STACK: usize = LONGEST << 12;

/// An environment with one template in it.
pub(super) fn compile(name: &'static str, source: &str) -> Result<Environment<'static>, Error> {
    let refuse = |reason: String| Error::new(ErrorKind::SyntaxError, reason);
    if source.len() > LONGEST {
        let found = source.len();
        return Err(refuse(format!("{found} bytes, of at most {LONGEST}")));
    }
    let mut environment = environment();
    std::thread::scope(|scope| {
        let compiler = std::thread::Builder::new().stack_size(STACK);
        let added = compiler.spawn_scoped(scope, || {
            environment.add_template_owned(name, source.to_owned())
        });
        let added = added.map_err(|error| refuse(format!("no thread to compile it: {error}")))?;
        added
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(environment)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment
}

/// The reason, with the line where it arose.
pub(super) fn message(error: &Error) -> String {
    let reason = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("`{reason}` at line {line}"),
        None => format!("`{reason}`"),
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in the given form.
fn strftime_now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    let now = chrono::Local::now();
    let written = write!(text, "{}", now.format(&format));
    written.map_err(|_| {
        let reason = format!("strftime_now does not know the form {format}");
        Error::new(ErrorKind::InvalidOperation, reason)
    })?;
    Ok(text)
}

/// Minijinja's filter, without the escapes that make JSON safe inside HTML.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let escaped = minijinja::filters::tojson(value, indent, options)?;
    let escaped = escaped.as_str().unwrap_or_default();
    let mut json = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        json.push_str(&rest[..at]);
        let escapes = [
            ("\\u003c", '<'),
            ("\\u003e", '>'),
            ("\\u0026", '&'),
            ("\\u0027", '\''),
        ];
        let html = escapes
            .iter()
            .find(|(escape, _)| rest[at..].starts_with(escape));
        let length = if let Some((escape, c)) = html {
            json.push(*c);
            escape.len()
        } else {
            // A backslash and the ASCII character that it escapes.
            json.push_str(&rest[at..at + 2]);
            2
        };
        rest = &rest[at + length..];
    }
    json.push_str(rest);
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let environment = environment();
        environment.render_str(
            source,
            minijinja::context! { text => r"<a> & 'b' \u003c", items => [1, 2, 3] },
        )
    }

    #[test]
    fn json_is_written_as_python_does() {
        assert_eq!(
            render("{{ text | tojson }}").unwrap(),
            r#""<a> & 'b' \\u003c""#
        );
        assert_eq!(
            render("{{ {'a': items} | tojson }}").unwrap(),
            r#"{"a": [1, 2, 3]}"#
        );
        assert_eq!(
            render("{{ {'a': 1} | tojson(indent=2) }}").unwrap(),
            "{\n  \"a\": 1\n}"
        );
    }

    #[test]
    fn pythons_methods_and_slices_work() {
        let source = "{% set ns = namespace(n=0) %}{% for i in items[1:] %}{% set ns.n = ns.n + i %}{% endfor %}\
                      {{ ns.n }} {{ ' x '.strip() }} {{ 'a</b>c'.split('</b>')[-1] }} {{ 'ab'.startswith('a') }}";
        assert_eq!(render(source).unwrap(), "5 x c True");
        let source = "{% for i in items[::-1] %}{{ i }}{{ loop.index0 }}{% endfor %} {{ text is string }} \
                      {{ '\\nx'.lstrip('\\n') }} {{ items|length - 1 }} {{ unknown is defined }} \
                      {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.items() | list | length }}";
        assert_eq!(render(source).unwrap(), "302112 True x 2 False 2 1");
        assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
    }

    #[test]
    fn refusals_carry_their_message() {
        let error = render("\n{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(message(&error), "`roles must alternate` at line 2");
        assert!(render("{{ strftime_now('%Q') }}").is_err());
    }

    #[test]
    fn what_nests_deeply_or_is_long_compiles_or_is_refused() {
        for (level, end) in [
            ("-", "1"),
            ("not ", "1"),
            ("1+", "1"),
            ("(", "1"),
            ("[", "]"),
        ] {
            let levels = level.repeat((LONGEST - 5) / level.len());
            let _refused_or_not = compile("t", &format!("{{{{{levels}{end}}}}}"));
        }
        let chain = format!("{{{{a{}}}}}", "|e".repeat(LONGEST / 2 - 3));
        assert!(compile("t", &chain).is_ok());
        let error = compile("t", &"a".repeat(LONGEST + 1)).unwrap_err();
        assert_eq!(message(&error), "`65537 bytes, of at most 65536`");
        let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(render(recursive).is_err());
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert_eq!(render(nested).unwrap_err().kind(), ErrorKind::OutOfFuel);
    }
}
