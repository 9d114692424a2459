"""Decode speed of a Hugging Face model with a static cache that is filled by hand: model folder, batch, context, steps, threads."""

import json
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, StaticCache

folder, batch, context, steps, threads = sys.argv[1], *map(int, sys.argv[2:6])
torch.set_num_threads(threads)
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
config = model.config
cache = StaticCache(config=config, max_cache_len=context + steps + 2)
shape = (batch, config.num_key_value_heads, context, config.head_dim)
times = []
with torch.inference_mode():
    for layer in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(2))
        cache.update(keys, values, layer, {"cache_position": torch.arange(context)})
    token = torch.full((batch, 1), 5)
    for index in range(steps + 1):
        place = torch.tensor([context + index])
        start = time.perf_counter()
        model(input_ids=token, past_key_values=cache, cache_position=place, position_ids=place.expand(batch, 1), use_cache=True)
        times.append(time.perf_counter() - start)
print(json.dumps({"decode": batch / statistics.median(times[1:])}))
