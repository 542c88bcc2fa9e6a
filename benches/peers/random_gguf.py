#!/usr/bin/env python3
"""Write a GGUF file with the shape of BitNet b1.58 2B4T, random weights and a vocabulary of no meaning, to time programs.

Trits are uniform, scales such that activations stay in the range of a trained model; speed does not depend on either.
The file is like the one published for bitnet.cpp: architecture `bitnet-b1.58`, I2_S projections (blocks of 128 weights
in 32 bytes), a tied table that is also the head. Needs nothing but Python.

    python benches/peers/random_gguf.py 2b4t-f16.gguf
    python benches/peers/random_gguf.py 2b4t-q6_k.gguf --head q6_k
"""

import argparse
import random
import struct
from dataclasses import dataclass

F32, F16, Q6_K, I2_S = 0, 1, 14, 36
U32, FLOAT, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
ALIGNMENT = 32
RANDOM = random.Random(1)
CHUNK = 1 << 24

# Any byte to one whose four fields of two bits are codes 0, 1 and 2.
TRITS = [a << 6 | b << 4 | c << 2 | d for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
TO_TRITS = bytes(TRITS[byte % len(TRITS)] for byte in range(256))
# Any byte to the upper one of an f16 of either sign, 1/64 to 1/16.
TO_SMALL = bytes((byte & 0x80) | (0x24 + byte % 8) for byte in range(256))


@dataclass
class Shape:
    vocab: int = 128256
    hidden: int = 2560
    inter: int = 6912
    layers: int = 30
    heads: int = 20
    kv_heads: int = 5


def noise(size):
    return b"".join(RANDOM.randbytes(min(CHUNK, size - at)) for at in range(0, size, CHUNK))


def ones(width):
    return struct.pack("<f", 1.0) * width


def floats(rows, columns):
    data = bytearray(noise(2 * rows * columns))
    data[1::2] = data[1::2].translate(TO_SMALL)
    return data


def blocks(rows, columns):
    """Q6_K: 192 bytes of codes, 16 scales, d as f16 to 256 weights of a row."""
    data = bytearray(noise(rows * columns // 256 * 210))
    for at, byte in enumerate(struct.pack("<e", 2.0**-15)):
        data[208 + at :: 210] = bytes([byte]) * (len(data) // 210)
    return data


def trits(rows, columns):
    scale = struct.pack("<f", 1.5 / columns**0.5)
    return noise(rows * columns // 4).translate(TO_TRITS) + scale * 8


def tensors(shape, head):
    """Name, shape with the contiguous dimension first, type, size in bytes and what makes the bytes."""
    table = shape.vocab * shape.hidden
    kind, size, make = {"f16": (F16, 2 * table, floats), "q6_k": (Q6_K, table // 256 * 210, blocks)}[head]
    yield "token_embd.weight", (shape.hidden, shape.vocab), kind, size, make
    kv = shape.hidden // shape.heads * shape.kv_heads
    hidden, inter = shape.hidden, shape.inter
    for layer in range(shape.layers):
        norms = (("attn_norm", hidden), ("attn_sub_norm", hidden), ("ffn_norm", hidden), ("ffn_sub_norm", inter))
        for name, width in norms:
            yield f"blk.{layer}.{name}.weight", (width,), F32, 4 * width, ones
        for name, rows, columns in (("attn_q", hidden, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden),
                                    ("attn_output", hidden, hidden), ("ffn_gate", inter, hidden),
                                    ("ffn_up", inter, hidden), ("ffn_down", hidden, inter)):
            yield f"blk.{layer}.{name}.weight", (columns, rows), I2_S, rows * columns // 4 + 32, trits
    yield "output_norm.weight", (hidden,), F32, 4 * hidden, ones


def metadata(shape):
    arch = "bitnet-b1.58"
    # The 256 characters of byte-level BPE, then words that no merge reaches.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    words = [chr(code) for code in printable] + [chr(256 + at) for at in range(256 - len(printable))]
    tokens = words + [f"w{at}" for at in range(shape.vocab - 256)]
    return [
        ("general.architecture", STRING, arch),
        ("general.name", STRING, "random 2b4t"),
        ("general.file_type", U32, 40),
        ("general.quantization_version", U32, 2),
        (f"{arch}.vocab_size", U32, shape.vocab),
        (f"{arch}.context_length", U32, 4096),
        (f"{arch}.embedding_length", U32, shape.hidden),
        (f"{arch}.block_count", U32, shape.layers),
        (f"{arch}.feed_forward_length", U32, shape.inter),
        (f"{arch}.rope.dimension_count", U32, shape.hidden // shape.heads),
        (f"{arch}.attention.head_count", U32, shape.heads),
        (f"{arch}.attention.head_count_kv", U32, shape.kv_heads),
        (f"{arch}.attention.layer_norm_rms_epsilon", FLOAT, 1e-5),
        (f"{arch}.rope.freq_base", FLOAT, 500000.0),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "llama-bpe"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * (shape.vocab - 1) + [3])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["w 0"])),
        ("tokenizer.ggml.bos_token_id", U32, shape.vocab - 1),
        ("tokenizer.ggml.eos_token_id", U32, shape.vocab - 1),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
    ]


def encode(kind, value):
    if kind == STRING:
        text = value.encode()
        return struct.pack("<Q", len(text)) + text
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(encode(inner, item) for item in values)
    return struct.pack({U32: "<I", I32: "<i", FLOAT: "<f", BOOL: "<?"}[kind], value)


def aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def write(path, shape, head):
    pairs, listed = metadata(shape), list(tensors(shape, head))
    start = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs)))
    for key, kind, value in pairs:
        start += encode(STRING, key) + struct.pack("<I", kind) + encode(kind, value)
    offset = 0
    for name, dimensions, kind, size, _ in listed:
        start += encode(STRING, name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        start += struct.pack("<IQ", kind, offset)
        offset += aligned(size)
    with open(path, "wb") as file:
        file.write(start.ljust(aligned(len(start)), b"\0"))
        for name, dimensions, _, size, make in listed:
            data = make(*reversed(dimensions))
            assert len(data) == size, name
            file.write(data)
            file.write(bytes(aligned(size) - size))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the file to write")
    parser.add_argument("--head", choices=("f16", "q6_k"), default="f16", help="numbers of table and head (f16)")
    options = parser.parse_args()
    write(options.output, Shape(), options.head)


if __name__ == "__main__":
    main()
