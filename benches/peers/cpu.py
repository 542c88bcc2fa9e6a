#!/usr/bin/env python3
"""How fast is bitnet-burn beside other programs, on this CPU, with the same model?

Runs `bitnet-burn bench` and the `llama-bench` of bitnet.cpp and ik_llama.cpp in turn, one process for each figure, and
appends a row for each peer, number of threads and quantity to a CSV file. Needs Linux and nothing but Python. Run it
from the root of the repository while the machine does nothing else:

    python benches/peers/cpu.py --out benches/record/MACHINE/DATE-peers.csv

Environment:

    BITNET_BURN              bitnet-burn; else target/release/bitnet-burn
    BITNET_MODEL_F16         our model with an f16 table and head, of `convert MODEL.gguf M.bpk --table f16`
    BITNET_MODEL_INT8        the same with --table int8
    BITNET_PEER_IK_BENCH     llama-bench of ik_llama.cpp
    BITNET_PEER_IK_MODEL     its model, a GGUF file; several are separated by ':'
    BITNET_PEER_IK_FLAGS     further options of that llama-bench
    BITNET_PEER_IK_VERSION   name and commit, where the program does not know them
    BITNET_PEER_CPP_...      the same four of bitnet.cpp

Any other name than IK and CPP works, too. A peer whose table and head are float is compared with our f16 head, any
other with our int8 head. benches/peers/random_gguf.py writes a model of real size for bitnet.cpp; ik_llama.cpp, which
loads I2_S but computes it wrongly, needs it as IQ2_BN_R4, of its own `llama-quantize --allow-requantize`.

A figure of either side comes from one process that first does the same work uncounted: a prompt of --prompt tokens from
an empty cache, or --generate tokens one by one after at most one. (A peer warms up with one token where we generate all
of them once.) In each round every program runs once, in an order that turns. A figure is taken when other programs
leave the machine alone, and again if they did not; Ctrl-C ends early.

A row holds the largest share of the machine that others had, medians over rounds with the least and the most, the ratio
of the medians (ours / theirs), and of the ratios within rounds the median, the least and the most. Peak memory is that
of the process, pages of mapped files included. A peer whose model differs in shape, or by more than 1 % in parameters,
is refused. Exit code 1: a peer was refused or failed.
"""

import argparse
import contextlib
import csv
import datetime
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("BITNET_BURN", str(ROOT / "target/release/bitnet-burn"))
TYPES = {0: "f32", 1: "f16", 8: "q8_0", 14: "q6_k", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 36: "i2_s", 39: "tl2",
         135: "iq2_bn", 335: "iq2_bn_r4"}
FLOATS = {"f32", "f16", "bf16"}
QUANTITIES = ("prompt", "generate")
COLUMNS = ["date", "commit", "machine", "peer", "peer_version", "peer_compiler", "peer_flags", "peer_weights",
           "peer_head", "our_compiler", "our_head", "threads", "quantity", "tokens", "rounds", "others", "ours",
           "ours_least", "ours_most", "theirs", "theirs_least", "theirs_most", "ratio", "paired_ratio", "paired_least",
           "paired_most"]
SHOWN = ["peer", "peer_weights", "peer_head", "our_head", "threads", "quantity", "rounds", "ours", "theirs", "ratio",
         "paired_ratio"]


class Refused(Exception):
    """A comparison that would mean nothing."""


class Late(Exception):
    """No time is left."""


@dataclass
class Figure:
    rate: float  # tokens per second
    peak: int  # bytes
    others: float  # share of the machine that other programs had


def busy():
    """Seconds that the cores of this machine, or of its host, spent on anything."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def measured(command):
    """What a program prints, its peak memory in bytes, and the share of the machine that others had meanwhile."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        before, begun = busy(), time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        others = busy() - before - usage.ru_utime - usage.ru_stime
        others = max(0.0, others / (time.monotonic() - begun) / os.cpu_count())
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            words = " ".join(errors.read().decode(errors="replace").split())
            raise Refused(f"{Path(command[0]).name} ended with {process.returncode}: {words[-300:]}")
        return out.read().decode(), usage.ru_maxrss * 1024, others


class Ours:
    name = "bitnet-burn"

    def __init__(self, path, head):
        self.model, self.head = ("-m", path, "--table", head, "--device", "cpu", "-q"), head
        found = json.loads(subprocess.run([PROGRAM, "inspect", path, "--json"], capture_output=True, check=True).stdout)
        config, parameters = found["config"], found["parameters"]
        self.shape = {name: config[name] for name in ("n_layers", "hidden_size", "intermediate_size", "n_heads",
                                                      "n_kv_heads", "vocab_size", "tied_head")}
        self.parameters = parameters["projections"] + parameters["rest"]
        self.compiler = compiler(PROGRAM)

    def figure(self, quantity, tokens, threads):
        # The first of two prompts is the uncounted one; decoding is warmed up by the program, with as many tokens.
        prompt, new = (f"{tokens},{tokens}", 2) if quantity == "prompt" else ("1", tokens)
        out, _, others = measured([PROGRAM, "bench", *self.model, "--prompt", prompt, "--new", str(new), "--repeat", "1",
                                   "--threads", str(threads), "--json"])
        answer = json.loads(out.splitlines()[-1])
        rate = {"prompt": "prefill_tokens_per_second", "generate": "decode_tokens_per_second"}[quantity]
        # Its own peak: that of the process has the buffer with which it measures the memory's bandwidth.
        return Figure(answer[rate], answer["peak_bytes"], others)


class Peer:
    def __init__(self, name, path):
        of = lambda what: os.environ.get(f"BITNET_PEER_{name}_{what}", "")  # noqa: E731
        self.name, self.path = name.lower(), path
        self.bench, self.flags, self.version = of("BENCH"), of("FLAGS"), of("VERSION")
        self.shape, self.head, self.weights = gguf_shape(path)
        self.compiler = compiler(self.bench)
        self.parameters = None  # as it says with its first figure

    def figure(self, quantity, tokens, threads):
        prompt, new = (tokens, 0) if quantity == "prompt" else (0, tokens)
        out, *more = measured([self.bench, "-m", self.path, "-p", str(prompt), "-n", str(new), "-r", "1",
                              "-t", str(threads), "-o", "json", *self.flags.split()])
        answer = json.loads(out[out.index("["):])
        if len(answer) != 1:
            raise Refused(f"{self.bench}: found {len(answer)} figures, expected one")
        self.parameters = answer[0]["model_n_params"]
        self.version = self.version or answer[0]["build_commit"]
        return Figure(answer[0]["avg_ts"], *more)

    def check(self, ours):
        if self.shape != ours.shape:
            raise Refused(f"{self.path}: found {self.shape}, expected {ours.shape}. Measure the same model")
        # Programs that load a tied table a second time, as the head, may count it twice; they read it no more often.
        table = self.shape["vocab_size"] * self.shape["hidden_size"] if self.shape["tied_head"] else 0
        expected = (ours.parameters, ours.parameters + table)
        if self.parameters and all(abs(self.parameters / count - 1) > 0.01 for count in expected):
            found = f"{self.parameters} parameters, expected {ours.parameters}"
            raise Refused(f"{self.path}: found {found}. Measure the same model")


def gguf_shape(path):
    """Shape of the model, number format of the head, and of the projections."""
    numbers = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    with open(path, "rb") as file:

        def one(code):
            return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

        def value(kind):
            if kind == 8:
                return file.read(one("Q")).decode(errors="replace")
            if kind == 9:
                inner, count = one("I"), one("Q")
                return [value(inner) for _ in range(count)]
            return one(numbers[kind])

        if file.read(4) != b"GGUF":
            raise Refused(f"{path}: found another beginning, expected a GGUF file")
        one("I")
        tensors, pairs = one("Q"), one("Q")
        keys = {}
        for _ in range(pairs):
            key = value(8)
            keys[key] = value(one("I"))
        kinds, sizes = {}, {}
        for _ in range(tensors):
            name = value(8)
            sizes[name] = [one("Q") for _ in range(one("I"))]
            kinds[name] = one("I")
            one("Q")
    of = lambda name: keys[f"{keys['general.architecture']}.{name}"]  # noqa: E731
    shape = {"n_layers": of("block_count"), "hidden_size": of("embedding_length"),
             "intermediate_size": of("feed_forward_length"), "n_heads": of("attention.head_count"),
             "n_kv_heads": of("attention.head_count_kv"), "vocab_size": sizes["token_embd.weight"][1],
             "tied_head": "output.weight" not in kinds}
    head = kinds.get("output.weight", kinds["token_embd.weight"])
    weights = kinds["blk.0.ffn_up.weight"]
    return shape, TYPES.get(head, str(head)), TYPES.get(weights, str(weights))


def compiler(program):
    """As the program says; clang wins, since its programs begin with objects of GCC."""
    data = Path(program).read_bytes()
    for words in (rb"rustc version [0-9.]+", rb"clang version [0-9.]+", rb"GCC: \([^)]*\) [0-9.]+"):
        found = re.search(words, data)
        if found:
            return found[0].decode()
    return "unknown"


def peers():
    """Every model of every peer that the environment names."""
    for key in sorted(os.environ):
        name = re.fullmatch(r"BITNET_PEER_(\w+)_BENCH", key)
        if name:
            models = os.environ.get(f"BITNET_PEER_{name[1]}_MODEL", "").split(":")
            yield from (Peer(name[1], path) for path in filter(None, models))


@dataclass
class Group:
    """Programs that compute with heads of one kind, and their figures: (program, threads, quantity) to one a round."""

    ours: Ours
    peers: list
    figures: dict = field(default_factory=dict)

    def round(self, number, arguments):
        """Every figure once. Returns whether no peer failed; one that did is left out from then on."""
        programs = [self.ours, *self.peers]
        turn = number % len(programs)
        for threads in arguments.threads:
            for quantity in QUANTITIES:
                tokens, found = getattr(arguments, quantity), {}
                for program in (one for one in programs[turn:] + programs[:turn] if one in (self.ours, *self.peers)):
                    try:
                        found[program] = undisturbed(program, quantity, tokens, threads, arguments)
                    except Refused as refusal:
                        if program is self.ours:
                            raise
                        print(f"{program.name}, {quantity}, {threads} threads: {refusal}", file=sys.stderr)
                        self.peers.remove(program)
                for program, figure in found.items():
                    self.figures.setdefault((program, threads, quantity), []).append(figure)
        return len(programs) == 1 + len(self.peers)

    def rows(self, arguments):
        for (peer, threads, quantity), theirs in self.figures.items():
            if peer is not self.ours:
                pairs = list(zip(self.figures[self.ours, threads, quantity], theirs))
                for what, get in (("tokens_per_s", lambda one: one.rate), ("peak_bytes", lambda one: one.peak)):
                    yield self.row(peer, threads, f"{quantity}_{what}", getattr(arguments, quantity),
                                   [(get(mine), get(other)) for mine, other in pairs],
                                   max(figure.others for pair in pairs for figure in pair), arguments)

    def row(self, peer, threads, quantity, tokens, pairs, others, arguments):
        mine, other = ([pair[side] for pair in pairs] for side in (0, 1))
        ratios = [a / b for a, b in pairs]
        numbers = []
        for values in (mine, other):
            numbers += [f"{of(values):.2f}".removesuffix(".00") for of in (statistics.median, min, max)]
        ratio = statistics.median(mine) / statistics.median(other)
        numbers += [f"{value:.3f}" for value in (ratio, statistics.median(ratios), min(ratios), max(ratios))]
        return [datetime.date.today().isoformat(), arguments.commit, machine(), peer.name, peer.version,
                arguments.compiler or peer.compiler, peer.flags, peer.weights, peer.head, self.ours.compiler,
                self.ours.head, threads, quantity, tokens, len(pairs), f"{others:.3f}", *numbers]


def undisturbed(program, quantity, tokens, threads, arguments):
    """A figure of a time when other programs left the machine alone."""
    while time.monotonic() < arguments.end:
        before = busy()
        time.sleep(0.5)
        if busy() - before > 0.5 * os.cpu_count() * arguments.others:
            continue
        figure = program.figure(quantity, tokens, threads)
        say = f"{program.name:12} {program.head:5} {threads} threads {quantity:9} {figure.rate:8.2f} tokens/s"
        again = ", again" if figure.others > arguments.others else ""
        say += f" {figure.peak / 1e9:6.2f} GB, others {100 * figure.others:.0f} %{again}"
        print(say, file=sys.stderr, flush=True)
        if not again:
            return figure
    raise Late


def machine():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found[1] if found else 'unknown CPU'}, {len(os.sched_getaffinity(0))} cores"


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=numbers, default=[1, 2], metavar="N,..", help="numbers of threads (1,2)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="processes for each figure (5)")
    parser.add_argument("--minutes", type=float, default=60, metavar="M", help="begin no process after so long (60)")
    parser.add_argument("--others", type=float, default=0.05, metavar="SHARE",
                        help="repeat what was measured while other programs had more of the machine (0.05)")
    parser.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens of a prompt (512)")
    parser.add_argument("--generate", type=int, default=128, metavar="N", help="tokens to generate (128)")
    parser.add_argument("--head", choices=("f16", "int8"), action="append", help="only peers for this head of ours")
    parser.add_argument("--peer", action="append", metavar="NAME", help="only this peer")
    parser.add_argument("--compiler", metavar="WORDS", help="what compiled the peers, where their files do not say")
    parser.add_argument("--commit", default=commit(), help="what bitnet-burn was built of (HEAD)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV file to append to")
    arguments = parser.parse_args()
    arguments.end = time.monotonic() + 60 * arguments.minutes

    groups, failed = {}, False
    for peer in peers():
        head = "f16" if peer.head in FLOATS else "int8"
        path = os.environ.get(f"BITNET_MODEL_{head.upper()}")
        if head not in (arguments.head or [head]) or peer.name not in (arguments.peer or [peer.name]):
            continue
        if not path:
            parser.error(f"BITNET_MODEL_{head.upper()} is not set, and {peer.path} has a head of {peer.head}")
        group = groups.get(head) or groups.setdefault(head, Group(Ours(path, head), []))
        try:
            peer.check(group.ours)
            peer.figure("generate", 1, 1)
            peer.check(group.ours)
            group.peers.append(peer)
        except Refused as refusal:
            print(f"{peer.name}: {refusal}", file=sys.stderr)
            failed = True
    if not any(group.peers for group in groups.values()):
        parser.error("no peer to measure: BITNET_PEER_IK_BENCH and BITNET_PEER_IK_MODEL name one")
    with contextlib.suppress(Late, KeyboardInterrupt):
        for number in range(arguments.rounds):
            for group in groups.values():
                failed |= not group.round(number, arguments)
    rows = [row for group in groups.values() for row in group.rows(arguments)]
    for row in rows:
        print(*(row[COLUMNS.index(name)] for name in SHOWN))
    if arguments.out:
        new = not arguments.out.exists()
        with arguments.out.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([*([COLUMNS] if new else []), *rows])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
