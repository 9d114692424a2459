#!/usr/bin/env python3
"""Writes tiny random checkpoints and what Hugging Face transformers computes with them.

For every variant, in Tests/Fixtures/models/<name>/:
  config.json, model*.safetensors   the checkpoint, bf16
  golden.safetensors                float32 results; per prompt p = 0, 1, ...
    p.tokens   i32 [n + steps]               the prompt, then the greedy tokens: each is the argmax of the row before
    p.hidden   f32 [layers + 1, n + steps, hidden]
                                             residual stream at the entry of each layer; last: after the final norm
    p.logits   f32 [n + steps, vocabulary]
  Its metadata names the versions, the seed and the prompt lengths. The first n rows come from one prefill pass, the
  others from one pass per token over transformers' own cache.

Variants of GGUF_VARIANTS also come as model.gguf: the same bf16 values under llama.cpp's names and keys, which are taken
from its gguf package.
"""

import argparse
import json
import pathlib
import shutil

import gguf
import numpy
import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, MistralConfig, OPTConfig, Qwen2Config, Qwen3Config

PROMPTS = (5, 23, 41)
STEPS = 8
SEED = 20250514

LLAMA = dict(
    vocab_size=96, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2,
)
LLAMA3_ROPE = dict(
    rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
OPT = dict(
    vocab_size=96, hidden_size=64, ffn_dim=160, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=64, word_embed_proj_dim=64, activation_function="relu",
    bos_token_id=2, eos_token_id=2, pad_token_id=1,
)
# Half the width, for variants whose point lies elsewhere.
SMALL = LLAMA | dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_key_value_heads=2)
FATRELU_THRESHOLD = 0.0625

VARIANTS = {
    "llama-mha": LlamaConfig(**LLAMA),
    "llama-gqa-tied": LlamaConfig(
        **LLAMA | dict(num_key_value_heads=2, head_dim=24, tie_word_embeddings=True)),
    "llama-bias": LlamaConfig(**LLAMA | dict(num_key_value_heads=1, attention_bias=True, mlp_bias=True)),
    "llama-rope3": LlamaConfig(**LLAMA | dict(num_key_value_heads=2, rope_parameters=LLAMA3_ROPE)),
    "llama-rope-linear": LlamaConfig(
        **LLAMA | dict(rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=4.0))),
    "qwen2-sharded": Qwen2Config(**LLAMA | dict(num_key_value_heads=2, rms_norm_eps=1e-6, use_sliding_window=False)),
    "opt": OPTConfig(**OPT),
    "opt-gelu": OPTConfig(**OPT | dict(activation_function="gelu", num_attention_heads=2)),
    "opt-350m": OPTConfig(**OPT | dict(do_layer_norm_before=False, word_embed_proj_dim=32)),
    "mistral": MistralConfig(**SMALL | dict(sliding_window=20)),
    "qwen2-window": Qwen2Config(
        **SMALL | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=7, max_window_layers=1)),
    "qwen3": Qwen3Config(**SMALL | dict(head_dim=12, rms_norm_eps=1e-6, tie_word_embeddings=True)),
    "llama-relu": LlamaConfig(**SMALL | dict(num_key_value_heads=4, hidden_act="relu")),
    "llama-fatrelu": LlamaConfig(**SMALL | dict(num_key_value_heads=4, hidden_act="relu")),
}
# Files of these variants say rope_theta and rope_scaling at the top level, as files from before transformers 5 do.
OLD_CONFIG = {"llama-gqa-tied", "llama-rope3", "qwen2-sharded", "qwen2-window"}
# The variants that are written as GGUF, too: architecture, and whether its converter permutes q and k.
GGUF_VARIANTS = {
    "mistral": (gguf.MODEL_ARCH.LLAMA, True), "qwen2-sharded": (gguf.MODEL_ARCH.QWEN2, False),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, False),
}


class FATReLU(torch.nn.Module):
    """What is not above a threshold becomes zero (ProSparse)."""

    def forward(self, x):
        return torch.where(x > FATRELU_THRESHOLD, x, torch.zeros_like(x))


def randomise(model, generator):
    """Fills every parameter so that attention is peaked, logits are not flat, and norms and biases matter."""

    def normal(shape, deviation):
        return torch.randn(shape, generator=generator) * deviation

    with torch.no_grad():
        for name, value in model.named_parameters():
            inputs = value.shape[-1]
            if "norm" in name:
                value.copy_(normal(value.shape, 0.2) + (1.0 if name.endswith("weight") else 0.0))
            elif name.endswith("bias"):
                value.copy_(normal(value.shape, 0.3))
            elif "embed_tokens" in name:
                tied = model.config.tie_word_embeddings
                value.copy_(normal(value.shape, 3.0 / inputs**0.5 if tied else 1.0))
            elif "embed_positions" in name:
                value.copy_(normal(value.shape, 0.5))
            elif "lm_head" in name:
                value.copy_(normal(value.shape, 3.0 / inputs**0.5))
            elif "q_proj" in name or "k_proj" in name:
                value.copy_(normal(value.shape, 1.25 / inputs**0.5))
            else:
                value.copy_(normal(value.shape, 1.0 / inputs**0.5))


def old_config(path):
    """Rewrites config.json in the form of transformers 4."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    if "layer_types" in config:
        del config["layer_types"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def fatrelu_config(path):
    """Rewrites config.json to say what ProSparse's does."""
    config = json.loads(path.read_text())
    config |= dict(hidden_act="fatrelu", hidden_act_param=FATRELU_THRESHOLD)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def interleaved(weight, heads):
    """Rows of q or k as llama.cpp's converter of Llama orders them: pairs (j, j + d/2) become neighbours."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(model, path, architecture, permutes):
    config = model.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if permutes and part in name:
                value = interleaved(value, count)
        name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if value.dim() == 1:
            writer.add_tensor(name, value.float().numpy())
        else:
            bits = value.contiguous().view(torch.uint16).numpy()
            writer.add_tensor(name, bits.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def golden(model, generator):
    """Runs the prompts and returns the golden tensors."""
    decoder = model.model.decoder if model.config.model_type == "opt" else model.model
    final_norm = decoder.final_layer_norm if model.config.model_type == "opt" else decoder.norm
    states = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    # The last state is the final norm's output; without such a norm, the last layer's.
    last = final_norm if final_norm is not None else decoder.layers[-1]
    last.register_forward_hook(lambda _, inputs, output: states.append(output))

    tensors = {}
    for index, length in enumerate(PROMPTS):
        tokens = chunk = torch.randint(3, model.config.vocab_size, (1, length), generator=generator)
        hidden, logits, cache = [], [], transformers.DynamicCache(config=model.config)
        for step in range(STEPS + 1):
            states.clear()
            with torch.no_grad():
                output = model(input_ids=chunk, cache=cache, use_cache=True)
            hidden.append(torch.cat(states))
            logits.append(output.logits[0])
            if step < STEPS:
                chunk = output.logits[:, -1:].argmax(dim=-1)
                tokens = torch.cat([tokens, chunk], dim=1)
        tensors[f"{index}.tokens"] = tokens[0].to(torch.int32)
        tensors[f"{index}.hidden"] = torch.cat(hidden, dim=1).contiguous()
        tensors[f"{index}.logits"] = torch.cat(logits).contiguous()
    return tensors


def write(name, config, folder, seed):
    generator = torch.Generator().manual_seed(seed)
    shutil.rmtree(folder, ignore_errors=True)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, generator)
    shard = {"max_shard_size": "80KB"} if "sharded" in name else {}
    model.to(torch.bfloat16).save_pretrained(folder, **shard)
    if name in GGUF_VARIANTS:
        write_gguf(model, folder / "model.gguf", *GGUF_VARIANTS[name])
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name in OLD_CONFIG:
        old_config(folder / "config.json")
    # What is measured is the saved file, read back.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager")
    if "fatrelu" in name:
        for layer in model.model.layers:
            layer.mlp.act_fn = FATReLU()
        fatrelu_config(folder / "config.json")
    tensors = golden(model.eval(), generator)
    metadata = dict(
        transformers=transformers.__version__, torch=torch.__version__, seed=str(seed),
        prompts=",".join(map(str, PROMPTS)), steps=str(STEPS))
    save_file(tensors, folder / "golden.safetensors", metadata=metadata)
    spread = tensors["2.logits"].std(dim=-1).mean().item()
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size} bytes, logit deviation {spread:.2f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=root / "Tests/Fixtures/models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for index, (name, config) in enumerate(VARIANTS.items()):
        write(name, config, arguments.output / name, SEED + index)


if __name__ == "__main__":
    main()
