"""Makes blocks.gguf: random block-quantized tensors, each beside its numbers as the `gguf` package (0.19.0) widens them.

Usage: pip install gguf==0.19.0; python blocks.py blocks.gguf
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Where the f16 factors of a block lie: random bytes there would be NaN now and then.
FACTORS = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_K: [0, 2], Type.Q6_K: [208]}

rng = np.random.default_rng(7)
writer = GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(32)
writer.add_embedding_length(64)
writer.add_block_count(1)
writer.add_feed_forward_length(64)
writer.add_head_count(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, dtype=np.float32))
for kind, places in FACTORS.items():
    length, size = GGML_QUANT_SIZES[kind]
    columns = 256
    data = rng.integers(0, 256, (3, columns // length, size), dtype=np.uint8)
    for place in places:
        factors = rng.normal(0, 0.1, (3, columns // length, 1)).astype(np.float16)
        data[:, :, place : place + 2] = factors.view(np.uint8)
    data = data.reshape(3, -1)
    writer.add_tensor(kind.name, data, raw_dtype=kind)
    writer.add_tensor(f"{kind.name}.f32", dequantize(data, kind).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
