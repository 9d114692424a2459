"""Writes the GGUF fixtures of the format tests: python make_gguf_quants.py OUTPUT_FOLDER

quants.gguf      for every block format a tensor `stored.<format>` [3, 512] of blocks with random bits and sane
                 scales, and `expected.<format>` F32, the same expanded by the `gguf` package's own dequantisers;
                 also metadata of every value type.
tiny-llama.gguf  a one-layer llama model, F32, whose value at row r, column c is 100 r + c in the Hugging Face
                 order, with q and k rows permuted as llama.cpp's converter does.

Written with gguf 0.19.0 and numpy 2.4.6, seed 20240615.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Q, GGUFWriter, quants

ROWS, COLUMNS = 3, 512
# Byte offsets of the halves that scale a block.
HALVES = {
    Q.Q8_0: [0], Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2],
    Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208],
}


def random_blocks(random, kind):
    values, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (ROWS * COLUMNS // values, size), dtype=np.uint8)
    for offset in HALVES[kind]:
        scales = random.normal(0, 0.02, len(blocks)).astype(np.float16)
        scales[0] = np.float16(3e-6)  # subnormal
        blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def write_quants(path):
    random = np.random.default_rng(20240615)
    writer = GGUFWriter(path, "quants")
    writer.add_uint8("value.uint8", 200)
    writer.add_int8("value.int8", -100)
    writer.add_uint16("value.uint16", 60000)
    writer.add_int16("value.int16", -30000)
    writer.add_uint32("value.uint32", 4000000000)
    writer.add_int32("value.int32", -2000000000)
    writer.add_uint64("value.uint64", 2**64 - 1)
    writer.add_int64("value.int64", -(2**63))
    writer.add_float32("value.float32", 0.5)
    writer.add_float64("value.float64", -1e300)
    writer.add_bool("value.bool", True)
    writer.add_string("value.string", "Grüße, 世界")
    writer.add_array("value.strings", ["", "Ġthe", "🙂"])
    writer.add_array("value.integers", [1, -2, 3])
    writer.add_array("value.floats", [0.25, -8.0])
    writer.add_array("value.nested", [[1, 2], [3]])
    for kind in HALVES:
        data = random_blocks(random, kind)
        expected = quants.dequantize(data, kind).astype(np.float32)
        assert np.isfinite(expected).all()
        writer.add_tensor(f"stored.{kind.name}", data, raw_dtype=kind)
        writer.add_tensor(f"expected.{kind.name}", expected)
    # Every class of half: zeros, subnormals, normals, the largest.
    bits = np.linspace(0, 0x7BFF, ROWS * COLUMNS // 2).astype(np.uint16)
    halves = np.concatenate([bits, bits | 0x8000]).view(np.float16).reshape(ROWS, COLUMNS)
    writer.add_tensor("stored.F16", halves)
    writer.add_tensor("expected.F16", halves.astype(np.float32))
    wide = random.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    short = quants.quantize(wide, Q.BF16)
    writer.add_tensor("stored.BF16", short, raw_dtype=Q.BF16)
    writer.add_tensor("expected.BF16", quants.dequantize(short, Q.BF16).astype(np.float32))
    finish(writer)


def numbered(rows, columns):
    return (100 * np.arange(rows)[:, None] + np.arange(columns)[None, :]).astype(np.float32)


def permute(weights, heads):
    """The two halves of every head, interleaved."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_llama(path):
    hidden, heads, groups, dim, neurons, vocabulary = 16, 2, 1, 8, 12, 6
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(neurons)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["a", "b", "ab", "Ġ", "Ġa", "<|end|>"])
    writer.add_token_types([1, 1, 1, 1, 1, 3])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(5)
    writer.add_eos_token_id(5)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", numbered(vocabulary, hidden))
    writer.add_tensor("output_norm.weight", numbered(1, hidden)[0])
    writer.add_tensor("rope_freqs.weight", np.array([1, 1, 4.5, 8], dtype=np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", numbered(1, hidden)[0])
    writer.add_tensor("blk.0.ffn_norm.weight", numbered(1, hidden)[0])
    writer.add_tensor("blk.0.attn_q.weight", permute(numbered(heads * dim, hidden), heads))
    writer.add_tensor("blk.0.attn_q.bias", permute(numbered(1, heads * dim)[0], heads))
    writer.add_tensor("blk.0.attn_k.weight", permute(numbered(groups * dim, hidden), groups))
    writer.add_tensor("blk.0.attn_k.bias", permute(numbered(1, groups * dim)[0], groups))
    writer.add_tensor("blk.0.attn_v.weight", numbered(groups * dim, hidden))
    writer.add_tensor("blk.0.attn_v.bias", numbered(1, groups * dim)[0])
    writer.add_tensor("blk.0.attn_output.weight", numbered(hidden, heads * dim))
    writer.add_tensor("blk.0.ffn_gate.weight", numbered(neurons, hidden))
    writer.add_tensor("blk.0.ffn_up.weight", numbered(neurons, hidden))
    writer.add_tensor("blk.0.ffn_down.weight", numbered(hidden, neurons))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_quants(folder / "quants.gguf")
    write_llama(folder / "tiny-llama.gguf")
