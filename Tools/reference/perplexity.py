"""Perplexity by disjoint windows with Hugging Face transformers in float32, for comparison with `polar perplexity`.

Usage: perplexity.py MODEL.gguf TEXT [tokens] [window]
"""

import math
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path, text_path = sys.argv[1:3]
limit = int(sys.argv[3]) if len(sys.argv) > 3 else 4096
window = int(sys.argv[4]) if len(sys.argv) > 4 else 512
folder, name = os.path.split(os.path.abspath(path))
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
with open(text_path, encoding="utf-8") as file:
    ids = tokenizer(file.read(), return_tensors="pt").input_ids[:, :limit]
loss, count = 0.0, 0
with torch.no_grad():
    for start in range(0, ids.shape[1] - 1, window):
        part = ids[:, start : start + window]
        logits = model(part).logits[0, :-1].double()
        loss += torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum").item()
        count += part.shape[1] - 1
print(f"perplexity {math.exp(loss / count):.4f} over {count} tokens, windows of {window}")
