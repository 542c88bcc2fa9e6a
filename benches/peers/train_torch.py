"""Training speed of transformers' quantization-aware BitNet layers on one GPU, in tokens per second.

The model and the batch are those of examples/recipes/110m.toml; the step is forward, cross-entropy, backward, AdamW, in
bf16. Eager and compiled, ternary and plain. Prints CSV. The norm of the gradients stands beside each time: compiled with
f32 weights, the straight-through estimator of transformers loses all gradients without a word.

Needs torch and transformers with a GPU:  python3 benches/peers/train_torch.py [--compile] [--steps 20] [--mixed]
"""

import argparse
import statistics
import time

import torch
from torch import nn
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import AutoBitLinear


def model_of(args, ternary):
    config = BitNetConfig(
        vocab_size=args.vocab, hidden_size=args.width, intermediate_size=args.ffn, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, num_key_value_heads=args.heads, max_position_embeddings=args.length,
        tie_word_embeddings=True, use_cache=False,
    )
    torch.manual_seed(0)
    model = BitNetForCausalLM(config)
    if ternary:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and "lm_head" not in name:
                layer = AutoBitLinear(module.in_features, module.out_features, bias=False, online_quant=True)
                layer.weight = module.weight
                model.set_submodule(name, layer)
    model = model.cuda()
    return model if args.mixed else model.bfloat16()


def measure(args, ternary, compiled):
    model = model_of(args, ternary)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, args.vocab, (args.rows, args.length), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=args.mixed):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss, norm

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(args.steps):
        begun = time.perf_counter()
        loss, norm = step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    seconds = statistics.median(times)
    dead = sum(1 for p in model.parameters() if p.requires_grad and p.numel() > 10**6 and norm == 0)
    speed = args.rows * args.length / seconds
    print(
        f"transformers,{'ternary' if ternary else 'plain'},{'compiled' if compiled else 'eager'},"
        f"{'mixed' if args.mixed else 'bf16'},{parameters},{1e3 * seconds:.1f},{speed:.0f},"
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f},{loss.item():.3f},{norm.item():.3g}",
        flush=True,
    )
    assert dead == 0 and norm.item() > 0, "no gradients"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(rows=16, length=1024, layers=12, width=768, ffn=2048, heads=12, vocab=32000, steps=20).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true", help="compiled, too: takes a minute each")
    parser.add_argument("--mixed", action="store_true", help="f32 weights with autocast instead of bf16 weights")
    args = parser.parse_args()
    print(f"# torch {torch.__version__}, {torch.cuda.get_device_name()}")
    print("program,weights,mode,precision,parameters,ms,tokens_per_s,peak_gib,loss,gradient_norm")
    for compiled in [False, True] if args.compile else [False]:
        for ternary in [True, False]:
            torch.compiler.reset()
            measure(args, ternary, compiled)


if __name__ == "__main__":
    main()
