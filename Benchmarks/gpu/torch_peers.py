"""Decode attention and linear layers by torch on the same GPU, as lines of JSON beside those of `polar bench gpu`.

torch_peers.py [--json FILE] [--dry-run]

--dry-run prints what would be measured, and needs no torch.
"""

import argparse
import json
import statistics

# (query heads, KV heads, head dim, context, batch), as in `polar bench gpu --section attention`.
ATTENTION = [(72, 72, 128, 1920, 64), (32, 32, 128, 3968, 64), (32, 8, 128, 8192, 64), (32, 8, 128, 4096, 1)]
# (outputs, inputs), as in `--section linear`.
LINEAR = [
    (27648, 9216), (9216, 9216), (36864, 9216), (9216, 36864), (6144, 4096), (4096, 4096), (28672, 4096),
    (4096, 14336), (128256, 4096),
]
BATCHES = [1, 4, 16, 64]
COLD_BYTES = 1 << 30


def seconds(torch, inner, body):
    """Median seconds of one of `inner` calls in a CUDA graph, as polar's own timer does it."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        body(0)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(inner):
            body(index)
    times = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / inner)
    return statistics.median(times[1:])


def attention(torch, shape):
    heads, kv_heads, dim, context, batch = shape
    kv_bytes = 2 * batch * kv_heads * context * dim * 2
    copies = max(1, min(8, COLD_BYTES // kv_bytes))
    new = lambda *size: torch.randn(*size, device="cuda", dtype=torch.bfloat16)
    query = new(batch, heads, 1, dim)
    caches = [(new(batch, kv_heads, context, dim), new(batch, kv_heads, context, dim)) for _ in range(copies)]
    time = seconds(
        torch, 2 * copies,
        lambda index: torch.nn.functional.scaled_dot_product_attention(
            query, *caches[index % copies], enable_gqa=heads != kv_heads),
    )
    return f"{heads}/{kv_heads} x {dim}, context {context}", batch, time, kv_bytes


def linear(torch, shape, batch):
    outputs, inputs = shape
    copies = max(1, min(32, COLD_BYTES // (outputs * inputs * 2)))
    weights = [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    x = torch.randn(batch, inputs, device="cuda", dtype=torch.bfloat16)
    time = seconds(torch, max(4, copies), lambda index: torch.nn.functional.linear(x, weights[index % copies]))
    return f"{outputs} x {inputs}", batch, time, outputs * inputs * 2


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--json")
    arguments.add_argument("--dry-run", action="store_true")
    options = arguments.parse_args()
    if options.dry_run:
        print(f"{len(ATTENTION)} shapes of attention, {len(LINEAR)} linear layers at batch {BATCHES}")
        return
    import torch

    def emit(section, result):
        shape, batch, time, size = result
        row = {
            "section": section, "shape": shape, "batch": batch, "density": 1, "variant": f"torch {torch.__version__}",
            "seconds": time, "bytes": size, "bandwidth": size / time / 1e9, "ratio": 1,
        }
        line = json.dumps({"device": torch.cuda.get_device_name(), "result": row})
        print(line, flush=True)
        if options.json:
            with open(options.json, "a") as file:
                file.write(line + "\n")

    with torch.inference_mode():
        for shape in ATTENTION:
            emit("attention", attention(torch, shape))
            torch.cuda.empty_cache()
        for shape in LINEAR:
            for batch in BATCHES:
                emit("linear", linear(torch, shape, batch))
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
