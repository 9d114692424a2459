"""Writes random-weight models of the Llama shape, as Hugging Face folders (bf16) and as GGUF (bf16).

The weights are drawn with a fixed seed. The tokenizer is byte-level with one merge: every byte of a text is a token, so that
any text of n bytes is a prompt of n tokens.
"""

import json
import pathlib

import gguf
import numpy as np

SHAPES = {
    # The grouped-query shape of 1.04 B weights, its multi-head variant, and a tiny one for trying the driver out.
    "gqa-1b": dict(hidden=2048, layers=16, heads=32, kv_heads=8, ffn=8192, vocab=32000, context=8192),
    "mha-1b": dict(hidden=2048, layers=16, heads=32, kv_heads=32, ffn=8192, vocab=32000, context=8192),
    "tiny": dict(hidden=256, layers=2, heads=4, kv_heads=2, ffn=512, vocab=512, context=8192),
}


def spellings(vocab: int) -> list[str]:
    """The byte alphabet, a merge, an end mark, and tokens that nothing is encoded to."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(len(others))]
    tokens = alphabet + ["\u0120\u0120", "<|endoftext|>"]
    return tokens + [f"<|filler{index}|>" for index in range(vocab - len(tokens))]


def tensors(shape: dict):
    """Names and float32 values in Hugging Face's order, one at a time."""
    rng = np.random.default_rng(1)
    hidden, ffn = shape["hidden"], shape["ffn"]
    width = hidden // shape["heads"]

    def normal(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)

    yield "model.embed_tokens.weight", normal(shape["vocab"], hidden)
    for layer in range(shape["layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", np.ones(hidden, np.float32)
        yield prefix + "self_attn.q_proj.weight", normal(hidden, hidden)
        yield prefix + "self_attn.k_proj.weight", normal(shape["kv_heads"] * width, hidden)
        yield prefix + "self_attn.v_proj.weight", normal(shape["kv_heads"] * width, hidden)
        yield prefix + "self_attn.o_proj.weight", normal(hidden, hidden)
        yield prefix + "post_attention_layernorm.weight", np.ones(hidden, np.float32)
        yield prefix + "mlp.gate_proj.weight", normal(ffn, hidden)
        yield prefix + "mlp.up_proj.weight", normal(ffn, hidden)
        yield prefix + "mlp.down_proj.weight", normal(hidden, ffn)
    yield "model.norm.weight", np.ones(hidden, np.float32)


def bf16(values: np.ndarray) -> np.ndarray:
    """Bits of bf16, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order that GGUF stores them in, for interleaved rotary embedding."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_folder(folder: pathlib.Path, shape: dict) -> None:
    """config.json, tokenizer.json and model.safetensors; the tensors are written one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape["hidden"], "intermediate_size": shape["ffn"],
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"], "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["hidden"] // shape["heads"], "vocab_size": shape["vocab"], "max_position_embeddings": shape["context"],
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "torch_dtype": "bfloat16", "bos_token_id": 257, "eos_token_id": 257,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokens = spellings(shape["vocab"])
    space = chr(0x120)
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 257, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                  "byte_fallback": False, "vocab": {token: index for index, token in enumerate(tokens)}, "merges": [f"{space} {space}"]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}))
    header, offset = {}, 0
    for name, values in tensors(shape):
        size = values.size * 2
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors.part", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors(shape):
            file.write(bf16(values).tobytes())
    (folder / "model.safetensors.part").rename(folder / "model.safetensors")


def write_gguf(path: pathlib.Path, shape: dict) -> None:
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(str(part), "llama")
    writer.add_name(path.stem)
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocab"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    tokens = spellings(shape["vocab"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([f"{chr(0x120)} {chr(0x120)}"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    for name, values in tensors(shape):
        if "q_proj" in name:
            values = permuted(values, shape["heads"])
        elif "k_proj" in name:
            values = permuted(values, shape["kv_heads"])
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(gguf_name(name), bf16(values).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)
