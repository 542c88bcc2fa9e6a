#!/usr/bin/env python3
"""Are our exports what other programs take them for?

Converts small models with `bitnet-burn convert`, loads the results in transformers and llama.cpp, and compares
log-probabilities and greedy continuations with those of `bitnet-burn` itself. Prints a table; --out writes it as CSV.

Needs: bitnet-burn (BITNET_BURN names it, else target/debug/bitnet-burn), and the PyPI packages numpy, safetensors,
torch (2.6), accelerate, transformers (5.23), gguf (0.19) and llama-cpp-python (0.3.36). To build llama.cpp alone from
the source package of llama-cpp-python: cmake -S vendor/llama.cpp -B build -DBUILD_SHARED_LIBS=ON and cmake --build build
--target llama; then LLAMA_CPP_LIB_PATH names the folder of libllama.so and PYTHONPATH that of llama_cpp. A program that
is not there is left out, and said so. bitnet.cpp, the only other reader of I2_S, is not run.

Run from the root of the repository:

    python benches/peers/exports.py --out benches/record/MACHINE/DATE-exports.csv

Figures are differences of the mean log-probability of a text, in nats: the median and the largest over texts of one
token and more. The median must meet the tolerance, which is that of the arithmetic: 1e-4 where both compute in f32; 0.02
where llama.cpp rounds activations to f16; 0.1 where it rounds them to 8 bits in blocks of 256. The largest may be 0.02
(0.2 with blocks): a single activation on the other side of a rounding boundary makes that, a wrong formula shows in
every text. Greedy continuations are compared up to the first difference; in f32 there must be none, except with random
weights, which unlike the fixtures were not chosen to be without close calls. The package gguf
runs no model: the numbers of each tensor must equal those of the F16 export (it does not know Q2_0).
Exit code 1: a comparison went otherwise than the list of cases expects.
"""

import argparse
import contextlib
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("BITNET_BURN", str(ROOT / "target/debug/bitnet-burn"))
FIXTURES = Path(os.environ.get("BITNET_FIXTURES", ROOT / "bitnet-models/tests/fixtures"))
TEXTS = ["a", " the", "Z", "0", "\n", "Hi", " of and", "x = 1;", "The quick brown fox", "été 42",
         "Once upon a time there was a small machine that could count to three, but only to three."]
PROMPTS = ["a", "The answer is", "1, 2, 3,"]
NEW = 24


EXACT, F16, BLOCKS = 1e-4, 0.02, 0.1


@dataclass
class Case:
    """One export, and who reads it how."""

    model: str
    to: str
    reader: str
    tolerance: float = EXACT
    convert: tuple = ()  # further options of convert
    ours: tuple = ()  # how we read it
    via: str = ""  # a format in between
    refused: str = ""  # words of the expected refusal


PLAIN = ("--activations", "none")
CASES = [
    *(Case(model, to, "transformers", convert=more)
      for model in ("tiny-2b4t-packed", "tiny-llama-bitnet", "tiny-falcon-e/bitnet", "random:tiny")
      for to, more in (("hf-packed", ()), ("hf-master", ()), ("hf-dequantized", ("--floats", "f32")))),
    Case("tiny-falcon-e/prequantized", "hf-packed", "transformers",
         convert=("--masters", "ternary", "--arithmetic", "bf16")),
    *(Case(model, "hf-packed", "transformers", via=via)
      for model, via in (("tiny-2b4t-packed", "bpk"), ("tiny-llama-bitnet", "bpk"), ("tiny-2b4t-packed", "gguf-i2_s"))),
    Case("qwen3", "hf-dequantized", "transformers", convert=("--masters", "ternary", *PLAIN, "--floats", "f32")),
    # llama.cpp keeps activations float in every model, so we do.
    *(Case(model, to, "llama.cpp", tolerance, ours=PLAIN)
      for model in ("llama", "1bitllm")
      for to, tolerance in (("gguf-f16", F16), ("gguf-tq1_0", BLOCKS), ("gguf-tq2_0", BLOCKS), ("gguf-q2_0", BLOCKS))),
    *(Case("qwen3", to, "llama.cpp", tolerance, convert=("--masters", "ternary", *PLAIN))
      for to, tolerance in (("gguf-f16", F16), ("gguf-tq1_0", BLOCKS), ("gguf-tq2_0", BLOCKS), ("gguf-q2_0", BLOCKS))),
    *(Case(model, to, "gguf", 0.0) for model in ("llama", "1bitllm") for to in ("gguf-tq1_0", "gguf-tq2_0")),
    Case("llama-float", "gguf-f16", "llama.cpp", F16),
    Case("tiny-2b4t-packed", "gguf-tq2_0", "llama.cpp", refused="unknown model architecture: 'bitnet-b1.58'"),
    Case("llama", "gguf-i2_s", "llama.cpp", refused="type 36"),
]


def run(*arguments):
    """What bitnet-burn prints."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def make(name, folder):
    """A folder of random masters whose rows fill the blocks of every GGUF layout."""
    heads, kv, head, hidden, inter, layers = 4, 2, 64, 256, 512, 2
    fixture = FIXTURES / "models/tiny-llama-bitnet"
    config = json.loads((fixture / "config.json").read_text())
    vocab = config["vocab_size"]
    config.update(hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=kv, head_dim=head, rope_theta=10000.0, torch_dtype="float32")
    config.pop("quantization_config")
    config.pop("is_bitnet_config", None)
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    if name == "llama":
        config["quantization_config"] = online
    if name == "1bitllm":
        config.update(architectures=["BitnetForCausalLM"], input_bits=8, weight_bits=1, tie_word_embeddings=True)
    if name == "qwen3":
        config.update(architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    random = np.random.default_rng(1)
    tensors = {}

    def matrix(name, rows, columns, scale):
        tensors[f"{name}.weight"] = (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def norm(name, width):
        tensors[f"{name}.weight"] = (1 + 0.1 * random.standard_normal(width)).astype(np.float32)

    matrix("model.embed_tokens", vocab, hidden, 0.2)
    if not config["tie_word_embeddings"]:
        matrix("lm_head", vocab, hidden, 0.2)
    norm("model.norm", hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        norm(at + "input_layernorm", hidden)
        norm(at + "post_attention_layernorm", hidden)
        for part, rows, columns in (("self_attn.q", heads * head, hidden), ("self_attn.k", kv * head, hidden),
                                    ("self_attn.v", kv * head, hidden), ("self_attn.o", hidden, heads * head),
                                    ("mlp.gate", inter, hidden), ("mlp.up", inter, hidden),
                                    ("mlp.down", hidden, inter)):
            matrix(f"{at}{part}_proj", rows, columns, 1 / math.sqrt(columns))
        if name == "1bitllm":
            norm(at + "self_attn.inner_attn_ln", heads * head)
            norm(at + "mlp.ffn_layernorm", inter)
        if name == "qwen3":
            norm(at + "self_attn.q_norm", head)
            norm(at + "self_attn.k_norm", head)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).write_bytes((fixture / file).read_bytes())


def source(name, work):
    if name.startswith("random:"):
        return name
    if (FIXTURES / "models" / name).is_dir():
        return FIXTURES / "models" / name
    if not (work / name).is_dir():
        make(name, work / name)
    return work / name


class Ours:
    def __init__(self, path, options, work):
        self.model, self.work = ("-m", path, "--table", "file", "--device", "cpu", "-q", *options), work

    def mean(self, text):
        file = self.work / "text"
        file.write_bytes(text.encode())
        answer = json.loads(run("eval", "--text", file, "--json", *self.model))
        return -math.log(answer["perplexity"]), answer["tokens"]

    def greedy(self, prompt):
        options = ("--cache", "f32", "--temperature", 0, "--ignore-eos", "-n", NEW, "--json")
        return json.loads(run("infer", "--prompt", prompt, *options, *self.model))["ids"]


class Peer:
    """A program that gives ids of texts and logits of ids."""

    def mean(self, text):
        ids = self.ids(text)
        logits = self.logits(ids)[:-1].astype(np.float64)
        peak = logits.max(axis=1)
        norm = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        return float(np.mean(logits[np.arange(len(ids) - 1), ids[1:]] - norm)), len(ids)

    def greedy(self, prompt):
        ids = self.ids(prompt)
        start = len(ids)
        while len(ids) < start + NEW:
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[start:]


class Transformers(Peer):
    def __init__(self, path):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch = torch
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        self.model, found = transformers.AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True, **options)
        wrong = {key: sorted(map(str, value)) for key, value in found.items() if value}
        if wrong:
            raise RuntimeError(f"loaded with {wrong}")
        # What is stored as bf16 is computed in f32; the model's own `float` refuses quantized models.
        torch.nn.Module.float(self.model).eval()

    def ids(self, text):
        return self.tokenizer(text)["input_ids"]

    def logits(self, ids):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


class LlamaCpp(Peer):
    said = []  # what the library complained of
    listener = None

    def __init__(self, path):
        import ctypes

        import llama_cpp

        if not LlamaCpp.listener:
            @llama_cpp.llama_log_callback
            def listen(level, text, _):
                if level >= 3:
                    LlamaCpp.said.append(text.decode(errors="replace").strip())

            LlamaCpp.listener = listen
        LlamaCpp.said.clear()
        try:
            with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
                llama_cpp.llama_log_set(LlamaCpp.listener, ctypes.c_void_p(0))
                self.model = llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, logits_all=True, flash_attn=False,
                                             type_k=0, type_v=0, n_threads=1, n_threads_batch=1, verbose=True)
        except Exception as error:
            raise RuntimeError(" ".join(LlamaCpp.said) or str(error)) from error

    def ids(self, text):
        return self.model.tokenize(text.encode(), add_bos=True, special=True)

    def logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return np.array(self.model.scores[: len(ids)])


class Numbers:
    """The tensors of a GGUF file as the package gguf decodes them."""

    def __init__(self, path):
        import gguf

        self.tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
                        for tensor in gguf.GGUFReader(path).tensors}

    def differences(self, other):
        assert self.tensors.keys() == other.tensors.keys()
        return [float(np.abs(values.astype(np.float32) - other.tensors[name].astype(np.float32)).max())
                for name, values in self.tensors.items()]


READERS = {
    "gguf": (Numbers, "gguf"),
    "transformers": (Transformers, "transformers"),
    "llama.cpp": (LlamaCpp, "llama_cpp"),
}


def compare(case, work):
    """Median and largest difference, how far continuations agree, whether all is as expected, and a word for it."""
    path = source(case.model, work)
    number = len(list(work.iterdir()))
    if case.via:
        between = work / f"{number}.{case.via.split('-')[0]}"
        run("convert", path, between, "--to", case.via, *(("--table", "f32") if case.via == "bpk" else ()))
        path = between
    target = work / (f"{number}.export" + (".gguf" if case.to.startswith("gguf") else ""))
    run("convert", path, target, "--to", case.to, *case.convert)
    try:
        peer = READERS[case.reader][0](target)
    except Exception as error:
        message = " ".join(str(error).split())
        return (), "", bool(case.refused) and case.refused in message, "refused: " + message[:300]
    if case.reader == "gguf":
        plain = work / f"{number}.plain.gguf"
        run("convert", path, plain, "--to", "gguf-f16", *case.convert)
        found = peer.differences(Numbers(plain))
        good = max(found) <= case.tolerance
        return (statistics.median(found), max(found)), "", good, "same" if good else "differs"
    try:
        return measure(case, Ours(target, case.ours, work), peer)
    except Exception as error:
        return (), "", False, "failed: " + " ".join(str(error).split())[:300]


def measure(case, ours, peer):
    differences = []
    for text in TEXTS:
        (found, count), (expected, same) = ours.mean(text), peer.mean(text)
        if count != same:
            return (), "", False, f"{text!r}: {count} tokens, {same} in {case.reader}"
        differences.append(abs(found - expected))
    agreed = 0
    for prompt in PROMPTS:
        pairs = list(zip(ours.greedy(prompt), peer.greedy(prompt)))
        agreed += next((at for at, (a, b) in enumerate(pairs) if a != b), len(pairs))
    exact = case.tolerance == EXACT and not case.model.startswith("random:")
    median, largest = statistics.median(differences), max(differences)
    good = median <= case.tolerance and largest <= max(F16, 2 * case.tolerance) and not case.refused
    good &= not exact or agreed == NEW * len(PROMPTS)
    return (median, largest), f"{agreed}/{NEW * len(PROMPTS)}", good, "same" if good else "differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--only", default="", help="cases that contain this text")
    arguments = parser.parse_args()
    header = ["model", "via", "export", "options", "read_by", "median_difference",
              "largest_difference", "tolerance", "greedy_agreement", "result"]
    rows, failed, versions = [], 0, {}
    for reader, (_, module) in READERS.items():
        try:
            versions[reader] = getattr(__import__(module), "__version__", "")
        except ImportError as error:
            print(f"without {reader}: {error}")
    with tempfile.TemporaryDirectory() as work:
        for case in CASES:
            if arguments.only not in str(case) or case.reader not in versions:
                continue
            differences, agreement, good, result = compare(case, Path(work))
            failed += not good
            shown = [f"{difference:.1e}" for difference in differences] or ["", ""]
            row = [case.model, case.via, case.to, " ".join((*case.convert, *case.ours)), case.reader, *shown,
                   case.tolerance, agreement, result]
            rows.append(row)
            print(f"{'ok  ' if good else 'FAIL'} {case.model:27} {case.via:9} {case.to:14} {case.reader:12} "
                  f"{shown[0]:8} {shown[1]:8} {agreement:6} {result}", flush=True)
    if arguments.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        with arguments.out.open("w", newline="") as file:
            readers = ", ".join(f"{name} {version}" for name, version in versions.items())
            readers = readers.replace("llama.cpp", "llama.cpp of llama-cpp-python")
            file.write(f"# commit {commit.stdout.strip()}; {readers}\n")
            file.write("# python benches/peers/exports.py\n")
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
