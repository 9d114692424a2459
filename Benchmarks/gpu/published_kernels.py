"""The published Triton kernels of Polar Sparsity (arXiv 2505.14884) on the same GPU as ours: selective GEMM, selective decode attention of
single heads and of groups, as lines of JSON beside those of `polar bench gpu`.

published_kernels.py FOLDER [--json FILE] [--dry-run]

FOLDER is a copy of https://github.com/susavlsh10/Polar-Sparsity. Its functions are called as they are, in fp16, on tensors that no cache
holds, and timed without a CUDA graph as well as in one where they can be captured. --dry-run runs them at tiny sizes on the CPU by Triton's
interpreter, and checks what they give.
"""

import argparse
import importlib
import math
import os
import sys
from unittest import mock

from timing import COLD_BYTES, Results, on_gpu, seconds

# (neurons, hidden) of the up-projection, as in `polar bench gpu --section selective`; the autotuner takes some seconds for each batch and
# density, so there are fewer.
GEMM = [(36864, 9216)]
GEMM_BATCHES = [1, 16, 64]
GEMM_DENSITIES = [0.1, 0.3, 0.5]
# (query heads, KV heads, head dim, context, batch) and densities, as in `--section attention`.
ATTENTION = [(72, 72, 128, 1920, 64), (32, 32, 128, 3968, 64), (32, 8, 128, 8192, 64)]
ATTENTION_DENSITIES = [0.3, 0.5, 0.625, 1.0]


def load(folder, tune):
    """The functions. What their modules import for plots and tests alone need not be there. Without `tune` the first tile size is taken."""
    sys.path.insert(0, folder)
    for name in ("pytest", "pandas", "matplotlib", "matplotlib.pyplot", "tqdm", "flash_attn"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock(__spec__=None)
    module = lambda name: importlib.import_module("HybridTensor.triton." + name)
    columns = module("gather_gemm_col")
    if not tune:
        columns.matmul_gather_kernel_col.configs = columns.matmul_gather_kernel_col.configs[:1]
    return columns.gather_matmul_col, module("select_attn_v1").select_attn, module("select_gqa").select_gqa


def measure(torch, results, section, shape, batch, density, variant, size, inner, body):
    """Writes the time of `body`, issued and, where it can be captured, in a graph."""
    for graph in (False, True):
        name = f"published {variant}{', in a graph' if graph else ''}"
        if graph and not on_gpu(torch):
            continue
        try:
            time = seconds(torch, inner, body, graph=graph)
        except Exception as error:
            results.skip(f"{name}: {shape}, batch {batch}, density {density:.3g}", repr(error)[:300])
        else:
            results.time(section, shape, batch, name, time, size, density)


def heads_of(torch, batch, heads, count, device):
    """`count` heads of every row, another set for each."""
    rows = [sorted((index * heads // count + row) % heads for index in range(count)) for row in range(batch)]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def gemm(torch, kernel, new, shapes, batches, densities, results, check):
    for neurons, hidden in shapes:
        size = neurons * hidden * 2
        copies = max(1, min(4, COLD_BYTES // size)) if on_gpu(torch) else 1
        weights = [new(neurons, hidden) for _ in range(copies)]
        bias = new(neurons)
        for batch in batches:
            x = new(batch, hidden)
            for density in densities:
                count = max(16, round(density * neurons / 16) * 16)
                index = torch.arange(count, device=x.device) * neurons // count
                body = lambda turn: kernel(x, weights[turn % copies], index, bias=bias)
                if check:
                    expected = torch.relu(x.float() @ weights[0][index].float().T + bias[index].float())
                    torch.testing.assert_close(body(0).float(), expected, rtol=2e-2, atol=2e-1)
                measure(
                    torch, results, "selective", f"{neurons} x {hidden}", batch, count / neurons, "selective GEMM",
                    count * hidden * 2, max(4, copies), body)
        del weights
        if on_gpu(torch):
            torch.cuda.empty_cache()


def reference(torch, query, key, value, chosen, group):
    """Attention in f32 of the chosen KV heads; zero elsewhere. query [B, H, D], key and value [B, N, KV heads, D]."""
    out = torch.zeros_like(query, dtype=torch.float32)
    for row in range(query.shape[0]):
        for unit in chosen[row].tolist():
            k, v = key[row, :, unit].float(), value[row, :, unit].float()
            for head in range(unit * group, (unit + 1) * group):
                weights = torch.softmax(k @ query[row, head].float() / math.sqrt(query.shape[-1]), dim=0)
                out[row, head] = weights @ v
    return out


def attention(torch, select_attn, select_gqa, new, shapes, densities, results, check):
    for heads, kv_heads, dim, context, batch in shapes:
        size = 2 * batch * kv_heads * context * dim * 2
        copies = max(1, min(4, COLD_BYTES // size)) if on_gpu(torch) else 1
        query = new(batch, 1, heads, dim)
        caches = [(new(batch, context, kv_heads, dim), new(batch, context, kv_heads, dim)) for _ in range(copies)]
        scale, group = 1 / math.sqrt(dim), heads // kv_heads
        for density in densities:
            count = max(1, round(density * kv_heads))
            chosen = heads_of(torch, batch, kv_heads, count, query.device)
            if group == 1:
                variant = "selective attention"

                def body(turn):
                    key, value = caches[turn % copies]
                    return select_attn(query.unsqueeze(2), key.unsqueeze(2), value.unsqueeze(2), scale, chosen, context)
            else:
                variant = "selective attention of groups"

                def body(turn):
                    key, value = caches[turn % copies]
                    out, *_ = select_gqa(
                        query, key, value, scale, False, None, "bshd", None, None, False, None, None, chosen)
                    return out

            if check:
                out = body(0).float().reshape(batch, heads, dim)
                torch.testing.assert_close(
                    out, reference(torch, query[:, 0], *caches[0], chosen, group), rtol=2e-2, atol=2e-2)
            measure(
                torch, results, "attention", f"{heads}/{kv_heads} x {dim}, context {context}", batch, count / kv_heads, variant,
                size * count // kv_heads, 2 * copies, body)
        del caches
        if on_gpu(torch):
            torch.cuda.empty_cache()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("--json")
    arguments.add_argument("--dry-run", action="store_true")
    options = arguments.parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    device = "cpu" if options.dry_run else "cuda"
    new = lambda *size: torch.randn(*size, device=device, dtype=torch.float16)
    results = Results(torch, options.json, "f16")
    torch.manual_seed(1)
    with torch.inference_mode():
        gather_matmul, select_attn, select_gqa = load(os.path.abspath(options.folder), tune=not options.dry_run)
        if options.dry_run:
            attention(torch, select_attn, select_gqa, new, [(4, 4, 16, 96, 2), (4, 2, 16, 96, 2)], [0.5], results, True)
            gemm(torch, gather_matmul, new, [(64, 32)], [2], [0.5], results, True)
        else:
            attention(torch, select_attn, select_gqa, new, ATTENTION, ATTENTION_DENSITIES, results, False)
            gemm(torch, gather_matmul, new, GEMM, GEMM_BATCHES, GEMM_DENSITIES, results, False)


if __name__ == "__main__":
    main()
