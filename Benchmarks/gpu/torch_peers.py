"""Decode attention and linear layers by torch, and decode attention by FlashInfer where it can be imported, on the same GPU: lines of JSON
beside those of `polar bench gpu`.

torch_peers.py [--json FILE] [--weights bf16|f16] [--dry-run]

--dry-run runs all of it at tiny sizes on the CPU; FlashInfer, which has no CPU, is left out there.
"""

import argparse

from timing import COLD_BYTES, Results, on_gpu, seconds

PAGE = 16
# (query heads, KV heads, head dim, context, batch), as in `polar bench gpu --section attention`.
ATTENTION = [(72, 72, 128, 1920, 64), (32, 32, 128, 3968, 64), (32, 8, 128, 8192, 64), (32, 8, 128, 4096, 1)]
# (outputs, inputs), as in `--section linear`.
LINEAR = [
    (27648, 9216), (9216, 9216), (36864, 9216), (9216, 36864), (6144, 4096), (4096, 4096), (28672, 4096),
    (4096, 14336), (128256, 4096),
]
BATCHES = [1, 4, 16, 64]


def describe(shape):
    heads, kv_heads, dim, context, _ = shape
    return f"{heads}/{kv_heads} x {dim}, context {context}"


def kv_bytes(shape):
    _, kv_heads, dim, context, batch = shape
    return 2 * batch * kv_heads * context * dim * 2


def copies_of(size):
    return max(1, min(8, COLD_BYTES // size))


def sdpa(torch, new, shape, copies):
    heads, kv_heads, dim, context, batch = shape
    query = new(batch, heads, 1, dim)
    caches = [(new(batch, kv_heads, context, dim), new(batch, kv_heads, context, dim)) for _ in range(copies)]
    return lambda index: torch.nn.functional.scaled_dot_product_attention(
        query, *caches[index % copies], enable_gqa=heads != kv_heads)


def flashinfer_decode(torch, flashinfer, new, shape, copies, tensor_cores):
    heads, kv_heads, dim, context, batch = shape
    pages = (context + PAGE - 1) // PAGE
    query = new(batch, heads, dim)
    out = torch.empty_like(query)
    # [page][K, V][KV head][token][dim], as Polar's own pages.
    caches = [new(batch * pages, 2, kv_heads, PAGE, dim) for _ in range(copies)]
    workspace = torch.zeros(256 << 20, dtype=torch.uint8, device=query.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=tensor_cores)
    integers = lambda values: torch.tensor(values, dtype=torch.int32, device=query.device)
    wrapper.plan(
        integers([row * pages for row in range(batch + 1)]), integers(list(range(batch * pages))),
        integers([context - (pages - 1) * PAGE] * batch), heads, kv_heads, dim, PAGE, q_data_type=query.dtype,
        kv_data_type=query.dtype)
    return lambda index: wrapper.run(query, caches[index % copies], out=out)


def attention(torch, new, shapes, results):
    try:
        import flashinfer
    except Exception as error:
        flashinfer = None
        results.skip("FlashInfer", f"cannot be imported: {error}")
    if flashinfer is not None and not on_gpu(torch):
        flashinfer = None
        results.skip("FlashInfer", "needs a GPU")
    for shape in shapes:
        batch, size = shape[4], kv_bytes(shape)
        copies = copies_of(size)
        makers = [(f"torch {torch.__version__} SDPA", lambda: sdpa(torch, new, shape, copies))]
        if flashinfer is not None:
            for name, tensor_cores in (("CUDA cores", False), ("tensor cores", True)):
                makers.append((
                    f"FlashInfer {flashinfer.__version__}, {name}",
                    lambda tensor_cores=tensor_cores: flashinfer_decode(torch, flashinfer, new, shape, copies, tensor_cores)))
        for variant, make in makers:
            try:
                time = seconds(torch, 2 * copies, make())
            except Exception as error:  # one that a version does not offer takes no other with it
                results.skip(f"{variant}: {describe(shape)}", str(error).strip().splitlines()[-1] if str(error).strip() else repr(error))
            else:
                results.time("attention", describe(shape), batch, variant, time, size)
            if on_gpu(torch):
                torch.cuda.empty_cache()


def linear(torch, new, shapes, batches, results):
    for outputs, inputs in shapes:
        size = outputs * inputs * 2
        copies = max(1, min(32, COLD_BYTES // size)) if on_gpu(torch) else 1
        weights = [new(outputs, inputs) for _ in range(copies)]
        for batch in batches:
            x = new(batch, inputs)
            time = seconds(torch, max(4, copies), lambda index: torch.nn.functional.linear(x, weights[index % copies]))
            results.time("linear", f"{outputs} x {inputs}", batch, f"torch {torch.__version__}", time, size)
        del weights
        if on_gpu(torch):
            torch.cuda.empty_cache()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--json")
    arguments.add_argument("--weights", choices=["bf16", "f16"], default="bf16")
    arguments.add_argument("--dry-run", action="store_true")
    options = arguments.parse_args()
    import torch

    device = "cpu" if options.dry_run else "cuda"
    dtype = torch.float16 if options.weights == "f16" else torch.bfloat16
    new = lambda *size: torch.randn(*size, device=device, dtype=dtype)
    results = Results(torch, options.json, options.weights)
    with torch.inference_mode():
        if options.dry_run:
            attention(torch, new, [(8, 8, 64, 40, 2), (8, 2, 64, 40, 2)], results)
            linear(torch, new, [(96, 64)], [1, 4], results)
        else:
            attention(torch, new, ATTENTION, results)
            linear(torch, new, LINEAR, BATCHES, results)


if __name__ == "__main__":
    main()
