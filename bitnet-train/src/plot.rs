//! Curves as SVG: panels of lines over a common horizontal axis, one below the other.
//!
//! No more than a run's curves need, and a text that any browser shows. Points that are not finite are left out.

use std::fmt::Write;

/// A chart of its own scale.
#[derive(Debug, Clone)]
pub struct Panel<'a> {
    /// Above the lines.
    pub title: &'a str,
    /// Names and points `(x, y)`, in the order of `x`.
    pub lines: Vec<(&'a str, Vec<(f64, f64)>)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 30.0;
const COLOURS: [&str; 4] = ["#1f6fb4", "#d1531d", "#2e8b57", "#7b52ab"];

/// The document. Panels without points are left out.
pub fn svg(panels: &[Panel<'_>]) -> String {
    let drawn: Vec<_> = panels
        .iter()
        .filter_map(|panel| Some((panel, Frame::of(panel)?)))
        .collect();
    let height = HEIGHT * drawn.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, (panel, frame)) in drawn.iter().enumerate() {
        let moved = HEIGHT * at as f64;
        push(
            &mut out,
            format_args!("<g transform=\"translate(0 {moved})\">"),
        );
        frame.draw(panel, &mut out);
        push(&mut out, format_args!("</g>"));
    }
    out.push_str("</svg>\n");
    out
}

/// What a panel's corners mean.
struct Frame {
    x: [f64; 2],
    y: [f64; 2],
}

impl Frame {
    fn of(panel: &Panel<'_>) -> Option<Self> {
        let points = || panel.lines.iter().flat_map(|(_, points)| finite(points));
        points().next()?;
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = || points().map(|point| of(&point));
            let (low, high) = (
                values().fold(f64::INFINITY, f64::min),
                values().fold(f64::NEG_INFINITY, f64::max),
            );
            // A flat line lies in the middle.
            let room = if low == high {
                high.abs().max(1.0) / 2.0
            } else {
                0.0
            };
            [low - room, high + room]
        };
        Some(Self {
            x: range(|point| point.0),
            y: range(|point| point.1),
        })
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |value, [low, high]: [f64; 2]| (value - low) / (high - low);
        (
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn draw(&self, panel: &Panel<'_>, out: &mut String) {
        let title = escape(panel.title);
        push(
            out,
            format_args!("<text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{title}</text>"),
        );
        let ([left, right], [low, high]) = (self.x, self.y);
        for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (x, y) = (left + part * (right - left), low + part * (high - low));
            let (at_x, at_y) = self.place((x, y));
            let end = WIDTH - RIGHT;
            push(
                out,
                format_args!("<path d=\"M{LEFT} {at_y:.1}H{end}\" stroke=\"#ddd\"/>"),
            );
            let (beside, middle) = (LEFT - 6.0, at_y + 4.0);
            let label = number(y);
            push(
                out,
                format_args!(
                    "<text x=\"{beside}\" y=\"{middle:.1}\" text-anchor=\"end\">{label}</text>"
                ),
            );
            let (below, label) = (HEIGHT - BOTTOM + 16.0, number(x));
            push(
                out,
                format_args!(
                    "<text x=\"{at_x:.1}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>"
                ),
            );
        }
        for (at, (name, points)) in panel.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let mut path = String::new();
            for point in finite(points) {
                let (x, y) = self.place(point);
                let _infallible = write!(path, "{x:.1},{y:.1} ");
            }
            let path = path.trim_end();
            push(
                out,
                format_args!(
                    "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
                ),
            );
            let (x, name) = (WIDTH - RIGHT - 110.0 * at as f64, escape(name));
            push(
                out,
                format_args!(
                    "<text x=\"{x}\" y=\"18\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>"
                ),
            );
        }
    }
}

fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let is_finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
    points.iter().copied().filter(is_finite)
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(out, "{line}");
}

/// Four digits, with an exponent where there would be many zeros; whole numbers as such.
fn number(value: f64) -> String {
    match value.abs() {
        whole if whole.fract() == 0.0 => format!("{value:.0}"),
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_are_where_the_extremes_are_and_nothing_else_is_drawn() {
        let nan = vec![(1.0, f64::NAN)];
        let panels = [
            Panel {
                title: "loss < 1 & more",
                lines: vec![("train", vec![(0.0, 2.0), (1.0, f64::NAN), (10.0, 1.0)])],
            },
            Panel {
                title: "nothing",
                lines: vec![("none", nan)],
            },
        ];
        let svg = svg(&panels);
        assert!(svg.contains("points=\"70.0,30.0 740.0,190.0\""), "{svg}");
        assert!(
            svg.contains("loss &lt; 1 &amp; more") && !svg.contains("nothing"),
            "{svg}"
        );
        assert!(svg.contains("viewBox=\"0 0 760 220\""), "{svg}");
    }

    #[test]
    fn numbers_are_as_long_as_they_need_to_be() {
        let shown = [0.0, 2.0, 1234.5, 12.34, 0.12345, 0.00012].map(number);
        assert_eq!(shown, ["0", "2", "1234", "12.3", "0.123", "1.2e-4"]);
    }

    #[test]
    fn a_flat_line_is_drawn_in_the_middle() {
        let lines = vec![("flat", vec![(0.0, 3.0), (1.0, 3.0)])];
        let svg = svg(&[Panel {
            title: "flat",
            lines,
        }]);
        assert!(svg.contains("points=\"70.0,110.0 740.0,110.0\""), "{svg}");
    }
}
