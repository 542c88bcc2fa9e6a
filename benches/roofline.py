#!/usr/bin/env python3
"""Draws what benches/kernels_cpu.rs measured under the two roofs of the machine, as an SVG. Needs nothing but Python.

    python benches/roofline.py > docs/roofline.svg                 the newest record, all kernels but those of tables
    python benches/roofline.py FILE.csv [KERNEL ...] > FILE.svg    another one, or these kernels alone

A panel for each number of threads. x: multiply-adds for each byte of packed weights, y: multiply-adds a second. A
product cannot be above the slope, the best rate at which memory was read with as many threads, unless the caches hold
its weights; nor above the level line, the best that was measured of its kernel. Where the record has no bytes a second,
with many rows, weights are in the caches. Marks of kernels that share their x stand side by side. A point says what it is
when the mouse rests on it.
"""

import csv
import math
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

RECORDS = Path(__file__).resolve().parent / "record"
TABLES = ("f32", "f16", "bf16", "int8", "int4")
# Of each kernel: colours on light and on dark ground, and a mark, for those who do not see colours.
STYLES = [("#2a78d6", "#4d9bf5", "circle"), ("#c9501f", "#ee8455", "square"), ("#0d8259", "#35bd8d", "triangle"),
          ("#6247b5", "#a698f0", "diamond"), ("#a36a00", "#dba73a", "circle"), ("#b8356f", "#ee86b0", "square"),
          ("#3c7a1d", "#86c766", "triangle"), ("#5d6670", "#a9b3bd", "diamond")]
WIDTH, PANEL_HEIGHT = 980, 360
LEFT, GAP, RIGHT, TOP, BOTTOM = 64, 62, 44, 84, 52  # px around the panels
LETTER = 7  # px of a letter of 12 px, on average
LINE = 15  # px between labels
ASIDE = 8  # px from the mark of a kernel to that of the next


@dataclass
class Point:
    kernel: str
    threads: int
    rows: int
    grouped: bool
    intensity: float  # multiply-adds a byte
    rate: float  # 10⁹ multiply-adds a second
    read: float | None  # GB/s, of memory at that moment
    shown: str

    @classmethod
    def of(cls, row):
        rows, rate = int(row["rows"]), float(row["gmac_per_s"])
        moved = float(row["gb_per_s"] or 0)
        # 2 bits a weight where the record has no bytes, or 1.6 in base 3.
        weights = 5.0 if row["kernel"].endswith(" base3") else 4.0
        intensity = rate / moved if moved else weights * rows
        shown = (f"{row['kernel']}, {row['d_out']} x {row['d_in']}, scale {row['scale']}, rows {rows}: "
                 f"{rate:g} GMAC/s, {row['us']} us")
        return cls(row["kernel"], int(row["threads"]), rows, row["scale"].startswith("g"), intensity, rate,
                   float(row["read_gb_per_s"]) if row["read_gb_per_s"] else None, shown)


class Axis:
    """A logarithmic scale from numbers to pixels."""

    def __init__(self, least, most, start, end):
        self.least, self.most, self.start, self.end = least, most, start, end

    def __call__(self, value):
        share = math.log(value / self.least) / math.log(self.most / self.least)
        return self.start + share * (self.end - self.start)

    def ticks(self, base):
        first, last = math.ceil(math.log(self.least, base) - 1e-9), math.floor(math.log(self.most, base) + 1e-9)
        return [base ** power for power in range(first, last + 1)]


def main(arguments):
    path = Path(arguments[0]) if arguments else max(RECORDS.glob("*/*-kernels_cpu.csv"), key=lambda path: path.name)
    lines = path.read_text().splitlines()
    head = [line.lstrip("# ") for line in lines if line.startswith("#")]
    points = [Point.of(row) for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    wanted = arguments[1:] or [point.kernel for point in points if point.kernel.split(" ")[-1] not in TABLES]
    kernels = list(dict.fromkeys(point.kernel for point in points if point.kernel in wanted))
    if not kernels:
        sys.exit(f"{path}: found {sorted({point.kernel for point in points})}, expected one of {wanted}")
    if len(kernels) > len(STYLES):
        sys.exit(f"{path}: found {len(kernels)} kernels, expected {len(STYLES)} at most. Name some of {kernels}")
    print(figure([point for point in points if point.kernel in kernels], kernels, head[0] if head else path.name))


def figure(points, kernels, machine):
    threads = sorted({point.threads for point in points})
    # Room before the first points for the slope and its name, behind the last for half a mark.
    x_range = (min(p.intensity for p in points) / 4, max(p.intensity for p in points) * 2)
    y_range = (10.0 ** math.floor(math.log10(min(p.rate for p in points))),
               10.0 ** math.ceil(math.log10(max(p.rate for p in points) * 1.05)))
    panel = (WIDTH - LEFT - RIGHT - GAP * (len(threads) - 1)) / len(threads)
    entries, legend_height = legend(kernels, any(p.grouped for p in points), TOP + PANEL_HEIGHT + BOTTOM)
    height = TOP + PANEL_HEIGHT + BOTTOM + legend_height
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
           f'font-family="system-ui, sans-serif" font-size="12">',
           "<title>CPU kernels under the roofs of memory and arithmetic</title>", style(len(kernels)),
           f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
           text(LEFT, 24, "CPU kernels under the roofs of memory and arithmetic", 'class="ink" font-size="16"'),
           text(LEFT, 43, machine, 'class="quiet"'),
           text(18, TOP + PANEL_HEIGHT / 2, "10⁹ multiply-adds a second",
                f'class="ink" text-anchor="middle" transform="rotate(-90 18 {TOP + PANEL_HEIGHT / 2})"'),
           text(LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP + PANEL_HEIGHT + 40, "multiply-adds for each byte of weights",
                'class="ink" text-anchor="middle"')]
    for number, count in enumerate(threads):
        left = LEFT + number * (panel + GAP)
        x = Axis(*x_range, left, left + panel)
        y = Axis(*y_range, TOP + PANEL_HEIGHT, TOP)
        out += draw([p for p in points if p.threads == count], kernels, count, x, y)
    return "\n".join([*out, *entries, "</svg>"])


def style(count):
    light = "".join(f".k{at}{{stroke:{STYLES[at][0]};fill:{STYLES[at][0]}}}" for at in range(count))
    dark = "".join(f".k{at}{{stroke:{STYLES[at][1]};fill:{STYLES[at][1]}}}" for at in range(count))
    return ("<style>.ground{fill:#fff}.ink{fill:#1f2328}.quiet{fill:#59636e}.grid{stroke:#d8dee4}.slope{stroke:#59636e}"
            f"{light}.hollow{{fill:#fff}}"
            "@media(prefers-color-scheme:dark){.ground{fill:#0d1117}.ink{fill:#e6edf3}.quiet{fill:#9aa4af}"
            f".grid{{stroke:#2b323b}}.slope{{stroke:#9aa4af}}{dark}.hollow{{fill:#0d1117}}}}</style>")


def draw(points, kernels, threads, x, y):
    """A panel: grid, roofs, points."""
    out = []
    out += [line(x(value), y.start, x(value), y.end, "grid") for value in x.ticks(4)]
    out += side_by_side([(x(value), f"{value:g}") for value in x.ticks(4)], y.start + 17)
    for value in y.ticks(10):
        out.append(line(x.start, y(value), x.end, y(value), "grid"))
        out.append(text(x.start - 7, y(value) + 4, f"{value:g}", 'class="quiet" text-anchor="end"'))
    out.append(text(x.start, y.end - 22, f"{threads} thread{'s' * (threads > 1)}", 'class="ink" font-weight="600"'))
    out += rows_above(points, x, y)

    best = {kernel: max((p.rate for p in points if p.kernel == kernel), default=0) for kernel in kernels}
    best = {kernel: rate for kernel, rate in best.items() if rate}
    reads = [p.read for p in points if p.read]
    if reads:
        out += slope(max(reads), max(best.values()), x, y)
    for kernel, rate in best.items():
        knee = max(x.least, rate / max(reads)) if reads else x.least
        out.append(line(x(knee), y(rate), x.end, y(rate), f"k{kernels.index(kernel)}", 'stroke-opacity=".7"'))
    places = spread([y(rate) + 4 for rate in best.values()])
    out += [text(x.end + 6, at, f"{rate:.0f}", 'class="ink"') for rate, at in zip(best.values(), places)]
    for point in points:
        at = kernels.index(point.kernel)
        hollow = " hollow" if point.grouped else ""
        out.append(mark(STYLES[at][2], x(point.intensity) + ASIDE * at, y(point.rate), f"k{at}{hollow}", point.shown))
    return out


def rows_above(points, x, y):
    """How many rows of activations points have, above them, unless kernels differ in that."""
    places = {}
    for point in points:
        if not point.grouped:
            places.setdefault(point.rows, []).append(x(point.intensity))
    if any(max(of) - min(of) > ASIDE for of in places.values()):
        return []
    first = min(places, default=0)
    unit = " row" if first == 1 else " rows"
    return side_by_side([(of[0], f"{rows}{unit * (rows == first)}") for rows, of in sorted(places.items())], y.end - 6)


def side_by_side(labels, y):
    """Labels from left to right, as far as there is room."""
    out, last = [], -math.inf
    for at, label in labels:
        half = len(label) * LETTER / 2
        if at - half > last + 5:
            out.append(text(at, y, label, 'class="quiet" text-anchor="middle"'))
            last = at + half
    return out


def slope(read, best, x, y):
    """The roof of memory, up to the highest of arithmetic."""
    begin, end = max(x.least, y.least / read), best / read
    ends = x(begin), y(begin * read), x(end), y(best)
    middle = (ends[0] + ends[2]) / 2, (ends[1] + ends[3]) / 2
    angle = math.degrees(math.atan2(ends[3] - ends[1], ends[2] - ends[0]))
    label = text(middle[0], middle[1] - 6, f"memory, {read:.0f} GB/s",
                 f'class="ink" text-anchor="middle" transform="rotate({angle:.1f} {middle[0]:.1f} {middle[1]:.1f})"')
    return [line(*ends, "slope", 'stroke-width="1.5"'), label]


def spread(places):
    """The same places in the same order, moved apart as far as labels need."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    moved = list(places)
    for before, at in zip(order, order[1:]):
        moved[at] = max(moved[at], moved[before] + LINE)
    return moved


def legend(kernels, grouped, top):
    entries = [(f"k{at}", STYLES[at][2], kernel) for at, kernel in enumerate(kernels)]
    if grouped:
        entries.append(("slope hollow", "circle", "hollow: scales for groups of weights"))
    out, at, row = [], LEFT, 0
    for name, shape, label in entries:
        width = 14 + len(label) * LETTER + 22
        if at + width > WIDTH and at > LEFT:
            at, row = LEFT, row + 1
        y = top + 12 + row * 20
        out += [mark(shape, at + 5, y - 4, name, None), text(at + 16, y, label, 'class="ink"')]
        at += width
    return out, 20 * (row + 1) + 8


def mark(shape, x, y, name, title):
    d = 4.0
    outlines = {"square": [(-d, -d), (d, -d), (d, d), (-d, d)], "triangle": [(0, -d - 1), (d + 1, d), (-d - 1, d)],
                "diamond": [(0, -d - 1.5), (d + 1.5, 0), (0, d + 1.5), (-d - 1.5, 0)]}
    common = f'class="{name}" stroke-width="1.5" fill-opacity=".75"'
    if shape == "circle":
        tag, body = "circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{d + .3}"'
    else:
        tag, body = "polygon", 'points="' + " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[shape]) + '"'
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f"<{tag} {common} {body}>{inner}</{tag}>"


def line(x1, y1, x2, y2, name, more=""):
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'


def text(x, y, words, more):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


if __name__ == "__main__":
    main(sys.argv[1:])
