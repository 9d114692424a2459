"""Trains a small ReLU OPT (`OPTForCausalLM`) on the token files of prepare_text.py, on a given number of tokens.

    python train_opt.py DATA OUT --tokens 300e6                               # from scratch, 30 M parameters
    python train_opt.py DATA OUT --tokens 20e6 --initial MODEL                # continue from a checkpoint folder
    python train_opt.py DATA OUT --evaluate-only --initial MODEL --text FILE  # report on held-out text

Matrices of the blocks are trained by Muon (orthogonalised momentum, Jordan et al. 2024), the rest by AdamW. The rate warms
up, stays, and falls to zero over the last 40 % of the tokens, so that any budget ends in an annealed model. Every sixth batch has
windows of the whole context, the others of 256 tokens. Uses an accelerator when there is one, and a C++ compiler on the host.
"""

import argparse
import json
import math
import pathlib
import shutil
import time

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import OPTConfig, OPTForCausalLM


def orthogonalised(update, steps=5):
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (update / (update.norm() + 1e-7)).bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; for matrices of hidden layers."""

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                velocity = state.setdefault("velocity", torch.zeros_like(parameter))
                velocity.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalised(parameter.grad.lerp(velocity, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = max(1, parameter.size(0) / parameter.size(1)) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * scale)


def windows(data, length, count, generator, device):
    """Random windows i64 [count, length]."""
    starts = generator.integers(0, len(data) - length, size=count)
    rows = np.stack([data[s : s + length] for s in starts]).astype(np.int64)
    return torch.from_numpy(rows).to(device)


@torch.no_grad()
def loss_of(model, ids, length, limit):
    """Mean loss in nats per token over disjoint windows of `length`, the first token of each unscored."""
    total = counted = 0
    for start in list(range(0, len(ids) - length, length))[:limit]:
        row = torch.from_numpy(ids[start : start + length].astype(np.int64)).to(model.device)[None]
        total += model(row, labels=row).loss.item() * (length - 1)
        counted += length - 1
    return total / counted


@torch.no_grad()
def activity(model, ids, unions=(1, 8, 64)):
    """Per layer: the fraction of neurons that are active in the union of 1, 8 and 64 random tokens."""
    layers, records = model.model.decoder.layers, []
    hooks = [
        layer.activation_fn.register_forward_hook(lambda _m, _i, out, k=k: records[k].append((out > 0).reshape(-1, out.size(-1))))
        if isinstance(layer.activation_fn, torch.nn.Module)
        else None
        for k, layer in enumerate(layers)
    ]
    records += [[] for _ in layers]
    for start in range(0, 8 * 512, 512):
        model(torch.from_numpy(ids[start : start + 512].astype(np.int64)).to(model.device)[None])
    for hook in hooks:
        hook.remove()
    generator = np.random.default_rng(1)
    table = []
    for record in records:
        active = torch.cat(record)
        row = []
        for size in unions:
            picks = [active[generator.integers(0, len(active), size=size)].any(0).float().mean().item() for _ in range(64)]
            row.append(round(100 * sum(picks) / len(picks), 1))
        table.append(row)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokens", type=float, default=20e6, help="how many tokens to train on")
    parser.add_argument("--initial", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--ffn", type=int, default=2048)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", type=pathlib.Path, help="held-out text for the final report")
    parser.add_argument("--evaluate-only", action="store_true")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    tokenizer = Tokenizer.from_file(str(arguments.data / "tokenizer.json"))
    if arguments.initial:
        model = OPTForCausalLM.from_pretrained(arguments.initial, dtype=torch.float32)
    else:
        model = OPTForCausalLM(
            OPTConfig(
                vocab_size=tokenizer.get_vocab_size(), hidden_size=arguments.hidden, word_embed_proj_dim=arguments.hidden,
                num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads, ffn_dim=arguments.ffn,
                max_position_embeddings=arguments.context, dropout=0.0, attention_dropout=0.0, bos_token_id=2))
    model.to(device)
    valid = np.fromfile(arguments.data / "valid.bin", dtype=np.uint16)
    if not arguments.evaluate_only:
        train(model, arguments, valid, device)
        arguments.out.mkdir(parents=True, exist_ok=True)
        model.to(torch.bfloat16).save_pretrained(arguments.out)
        shutil.copy(arguments.data / "tokenizer.json", arguments.out)
    report(model.float().eval(), arguments, valid, tokenizer)


def train(model, arguments, valid, device):
    data = np.memmap(arguments.data / "train.bin", dtype=np.uint16, mode="r")
    generator = np.random.default_rng(arguments.seed)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers." in n)]
    optimisers = [
        (Muon(matrices, lr=arguments.muon_rate), arguments.muon_rate),
        (torch.optim.AdamW(others, lr=arguments.adam_rate, betas=(0.9, 0.95), weight_decay=0.01), arguments.adam_rate),
    ]
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters on {device}", flush=True)
    model.train()
    compiled = torch.compile(model, dynamic=False)  # one graph for each of the two shapes; nearly halves a step on a CPU
    start, step, tokens, shown = time.time(), 0, 0, None
    while (spent := tokens / arguments.tokens) < 1:
        factor = min(1.0, (step + 1) / 100, (1 - spent) / 0.4)
        for optimiser, rate in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        # Learned positions: OPT takes at most `context` of them, and the window's last token is only predicted.
        length = min(arguments.context, 1023) if step % 6 == 5 else 256
        rows = windows(data, length, max(1, arguments.batch_tokens // length), generator, device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = compiled(rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, _ in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + rows.numel()
        shown = loss.item() if shown is None else 0.98 * shown + 0.02 * loss.item()
        if step % 50 == 0:
            speed = tokens / (time.time() - start)
            eta = (arguments.tokens - tokens) / speed / 60
            print(f"step {step} loss {shown:.3f} rate x{factor:.2f} {speed:.0f} tok/s, {eta:.0f} min left", flush=True)
        if step % 500 == 0:
            model.eval()
            print(f"validation loss {loss_of(model, valid, 512, 32):.4f}", flush=True)
            model.train()
            model.save_pretrained(arguments.out / "last")
    print(f"{tokens / 1e6:.1f} M tokens in {step} steps", flush=True)


def report(model, arguments, valid, tokenizer):
    result = {"parameters": sum(p.numel() for p in model.parameters())}
    result["validation_loss_512"] = round(loss_of(model, valid, 512, 128), 4)
    if arguments.text:
        ids = np.asarray([2] + tokenizer.encode(arguments.text.read_text(), add_special_tokens=False).ids, dtype=np.uint16)
        result["held_out_loss_512"] = round(loss_of(model, ids, 512, 10**9), 4)
        result["held_out_perplexity_1024"] = round(math.exp(loss_of(model, ids, min(arguments.context, 1024), 8)), 2)
        valid = ids
    result["active_percent_of_1_8_64_tokens"] = activity(model, valid)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
