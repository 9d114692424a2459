"""Writes the tokenizer fixtures: a corpus, tiny trained tokenizers, and the ids that Hugging Face `tokenizers`,
SentencePiece and tiktoken give.

    python make_tokenizer_fixtures.py [--shared DIR] [--output DIR]

The tiny tokenizers are trained on the text below. Expected ids of the real tokenizers need the shared folder; without
it theirs are left as they are.
"""

import argparse
import base64
import io
import json
import pathlib
import random
import tempfile

import sentencepiece
import tiktoken
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TRAINING = """
The quick brown fox jumps over the lazy dog. It's what they'd've said: we'll see, I'm sure you're right, don't you think?
Once upon a time there was a little house by the river, and in the house there lived a miller with his three sons.
The miller's eldest son went to the town every morning; the second went to the forest; the youngest stayed at home.
When the winter came the river froze, the mill stood still, and there was nothing left in the house to eat.
In the beginning the numbers were 1, 2, 3, 10, 42, 100, 1999, 2024 and 3.14159; then 1,000,000 and 12:30:45.
def fibonacci(n: int) -> int:
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)
for (int i = 0; i < count; i++) { sum += values[i] * weights[i]; }  // the weighted sum
let result = try await model.generate(prompt, parameters: .init(maxTokens: 64, temperature: 0))
\tif (x == null) {\n\t\treturn;\n\t}\n\n\n
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, Übermut, Äpfel und Öl.
Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; añoraba a su querido cachorro. ¿Qué tal?
Съешь же ещё этих мягких французских булок, да выпей чаю. Однажды в студёную зимнюю пору я из лесу вышел.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Η ζωή είναι ωραία και ο κόσμος μεγάλος.
いろはにほへと ちりぬるを。東京は日本の首都です。カタカナとひらがな。
我能吞下玻璃而不伤身体。今天天气很好，我们去公园散步吧。中文没有空格。
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق.
दुनिया के सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।
😀 😃 👍 🎉 👨‍👩‍👧‍👦 ❤️ 🇩🇪 🇯🇵
"""

WORDS = (
    "tokens heads layers model sparse dense attention cache memory vector matrix kernel batch prompt engine "
    "house river forest winter morning summer letter number window garden water bread silver golden"
).split()


def corpus() -> list[str]:
    """Texts of every kind that a tokenizer meets."""
    texts = [line for line in TRAINING.split("\n") if line]
    texts += [
        "", " ", "  ", "\n", "\r\n", "\t", "   \n   ", "\n\n\n", " \n \n x", "a\r\n\r\nb", "a \r b", "x" * 300, " x", "  x",
        "   x", "x   ", "x  \n", "\u00a0x", "a\u00a0\u00a0b", "a\u3000b", "a\u2003\u2003 b", "a\u0085b", "a\u2028\u2029b",
        "a\x0b\x0cb", "\x1c\x1d\x1e\x1fx", "\u200bx\u200b", "\ufeffx", "a\x00b\x00\x00", "\x7f\x80\x9f",
        "it's IT'S It'S i'Ve they'LL we'D I'M you'RE o'clock 'tis '' ''s 's's 't 'x 'r 'v 'l 're've", "'\u017fx 'ſ a'ſb ’s’t",
        "don't  'll   've\n're", "1", "12", "123", "1234", "12345678901234567890", " 1", "  1", "   12 ", "a1b22c333",
        "3.14 -2e10 0x1F 1_000", "\u0661\u0662\u0663 \u0967\u0968 \u4e00\u4e8c \u2167\u2168 \u00bd\u00bc \u00b2\u00b3\u00b9 \u2460\u2461 \U0001d7d8",
        "12\u00bd34", "!!!", " !!!\n\n", "a!b?c", "...\r\n...", "foo_bar-baz/qux\\quux", "a@b.example #tag $5 %d ^x &y *z",
        "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|><|im_start|>", "<|im_start", "<|im_<|im_end|>", "</s>", "a</s>b </s>", "<s><pad><unk><mask>", "<tool_call>{}</tool_call>",
        "<|endoftext|", "|endoftext|>", "<repo_name>x<file_sep>y", "<left>  a  <left>", "a  <left>b", "a <right>  b", "<right>\n\n<left>",
        " <left><right> ", "<word>", "a<word>", "<word>b", "a <word> b", "_<word>", "\u00e9<word>", "-<word>-", "\u0301<word>", "<norm\u00e9>",
        "<norme\u0301> x", "<word><word>", "<ab><abc><a", "x<abcd>y",
        "e\u0301", "\u00e9", "A\u030a \u212b \u00c5", "\u1100\u1161\u11a8", "\uac01", "o\u0308\u0323", "\u0344", "\u0958", "\u2126", "\ufb01 \ufb03",
        "a\u0301\u0302\u0303\u0304", "\u0301x", "\u0915\u094d\u0937\u093f", "\u0e01\u0e33", "\u0627\u0644\u0633\u0651\u0644\u064e\u0627\u0645",
        "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5",
        "\U0001f44d\U0001f3fd x\U0001f44d\U0001f3ff", "\u2764\ufe0f\u200d\U0001f525", "1\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0010ffff \ufffe \ue000 \U000f0000",
        "\u0378\u0379 \U0001ffff", "\U00010330\U00010331 \U0001d400\U0001d401 \U00020000\U00020001", "\ufffd\ufffd", "\u01c5\u02b0\u00aa\u00ba\u2c7c",
        "\u00ad\u200e\u202e", "\u20ac\u00a3\u00a5 \u2211\u222b\u221e \u2190\u2191", "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u3002 \uff11\uff12\uff13", "\u0410\u0411 1\u0412",
        "if(a&&b||!c){\n  d+=e<<2;\n}\n", "    indented\n\tTab\n        deep\n", "# Title\n\n* item\n* item\n\n```swift\nlet x = 1\n```\n",
        '{"a": [1, 2.5, null], "b": {"c": "d\\n"}}', "SELECT * FROM t WHERE id = 10;--", "https://example.org/path?q=a%20b&c=d#e", "aaaaabaaaabbaaab" * 8,
        "ababababab" * 20, "thethethethe", " the the  the   the", "=" * 70, "-" * 33 + "\n", "\t\t\t\tx", " " * 40 + "x", "\n" * 20, "\u4e2d" * 50,
        # Where Unicode versions and normalisers differ.
        "\u1113\u1169 \u110c\u1176 \uac00\u11a7 \uac00\u11c3 \u1112\u1175\u11c2 \ud76c\u11b1\u11b1", "q\u0301\u0f73 q\u0f75\u0301", "q\u1ac3\u0334\u0301 \u0301\u1dc4\u0334",
        "\u0503\u1631x\U00016ec0.x \ua7ce \U00011de0", "\U00011935\U00011930 \U000105d2\u0307",
    ]
    rng = random.Random(7)
    alphabet = list("aAbBsStTrReEvVmMlLdD''''   \n\r\t12390.,!-_<>|/\\") + list(
        "\u00e9\u0301\u4e2d\u6587\u0436\u05d0\u0661\u00bd\u00a0\u3000\u0085\u2028\u200d\U0001f600\U0001f3fd\u017f\u212a\ufe0f\u0378"
    )
    for _ in range(40):
        texts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(5, 60))))
    for _ in range(10):
        texts.append(" ".join(rng.choice(WORDS) for _ in range(25)) + rng.choice([".", "!\n", "  "]))
    for _ in range(25):
        scalars = (rng.choice([rng.randint(0, 0x7FF), rng.randint(0x800, 0xD7FF), rng.randint(0xE000, 0x10FFFF)]) for _ in range(12))
        texts.append("".join(map(chr, scalars)))
    return texts


def invalid() -> list[bytes]:
    """Byte strings that are not UTF-8."""
    samples = [
        b"\x80", b"a\x80b", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82x", b"\xe2(\xa1", b"\xed\xa0\x80",
        b"\xed\xbf\xbfx", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x9f\x98", b"\xf0\x9f\x98x", b"\xf0\x9fx", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80", b"\xff\xfe", b"\xf8\x88\x80\x80\x80", b"the \xe4\xbd river\xff\n", b"\xf0\x9f\x98\x80\xf0\x9f\x98", b"\xed\xa0\xbd\xed\xb8\x80", b"a\xe9 b\xe9t\xe9",
    ]
    rng = random.Random(11)
    for _ in range(15):
        samples.append(bytes(rng.choice([rng.randint(0, 255), rng.randint(0x80, 0xBF), rng.randint(0xE0, 0xF4)]) for _ in range(20)))
    return samples


def train(pre, normalizer=None, special=(), added=(), template=None) -> Tokenizer:
    """A byte-level BPE of about 1000 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=1000, min_frequency=1, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    lines = TRAINING.split("\n") + [" ".join(WORDS)] * 3
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens(list(added))
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(t, tokenizer.token_to_id(t)) for t in special if t in template]
        )
    return tokenizer


def tiny() -> dict[str, Tokenizer]:
    """The committed tokenizers, one for each pre-tokenizer."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    added = [
        AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<word>", single_word=True, normalized=False), AddedToken("<norm\u00e9>", normalized=True),
        AddedToken("<ab>", normalized=False), AddedToken("<abc>", normalized=False), AddedToken("<a", normalized=False),
    ]
    return {
        "tiny-gpt2": train(byte_level, special=["<s>", "<pad>", "</s>", "<unk>"], added=added, template="</s> $A"),
        "tiny-smollm": train(
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
            special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], template="$A",
        ),
        "tiny-qwen2": train(
            pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]),
            normalizer=normalizers.NFC(), special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], added=added,
        ),
    }


# Variants of a tokenizer file by exact replacement in its text: what is tested, the base, (old, new) pairs.
DIGITS = '{"type":"Digits","individual_digits":true}'
VARIANTS = {
    "tiny-gpt2-prefix-space": ("tiny-gpt2", [('"add_prefix_space":false', '"add_prefix_space":true')]),
    "tiny-smollm-digit-runs": ("tiny-smollm", [('"individual_digits":true', '"individual_digits":false')]),
    "tiny-smollm-split": ("tiny-smollm", [(DIGITS, r'{"type":"Split","pattern":{"Regex":"\\p{N}"},"behavior":"Isolated","invert":false}')]),
    "tiny-smollm-removed": ("tiny-smollm", [(DIGITS, '{"type":"Split","pattern":{"String":" "},"behavior":"Removed","invert":false}')]),
    "tiny-smollm-inverted": ("tiny-smollm", [(DIGITS, r'{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}"},"behavior":"Removed","invert":true}')]),
    "tiny-qwen2-triples": ("tiny-qwen2", [(r"|\\p{N}|", r"|\\p{N}{1,3}|")]),
    "tiny-qwen2-ignore-merges": ("tiny-qwen2", [('"ignore_merges":false', '"ignore_merges":true')]),
    "tiny-qwen2-plain": ("tiny-qwen2", [('"normalizer":{"type":"NFC"}', '"normalizer":null')]),
}


def opt(folder: pathlib.Path) -> Tokenizer:
    """OPT's tokenizer from its vocab.json and merges.txt: GPT-2's byte-level BPE, </s> before each text."""
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>", "<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return tokenizer


def smollm_digits(folder: pathlib.Path) -> Tokenizer:
    """SmolLM2's vocabulary with the pre-tokenizer that GGUF files call "smollm"."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    return tokenizer


def composed(folder: pathlib.Path) -> Tokenizer:
    """A tokenizer with NFC put in, as Qwen publishes it and GGUF files call "qwen2"."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def long_word(letters: int, length: int) -> str:
    """Pseudo-random letters without a space."""
    state, word = 1, []
    for _ in range(length):
        state = (state * 1103515245 + 12345) % 2**31
        word.append(chr(ord("a") + (state >> 16) % letters))
    return "".join(word)


def checksum(ids: list[int]) -> int:
    value = 0
    for token in ids:
        value = (value * 31 + token) % 2**32
    return value


def long_words(tokenizer: Tokenizer) -> list[list[int]]:
    """Letters, length, number of ids, checksum of the ids."""
    rows = []
    for letters, length in [(26, 60000), (7, 50000), (2, 40000), (1, 33000)]:
        ids = tokenizer.encode(long_word(letters, length)).ids
        rows.append([letters, length, len(ids), checksum(ids)])
    return rows


def expectations(tokenizer: Tokenizer, texts: list[str], broken: list[bytes], count: int) -> dict:
    """Ids of all texts; and texts of random ids, which cut scalars."""
    rng = random.Random(3)
    size = tokenizer.get_vocab_size()
    sequences = [[rng.choice([rng.randrange(size), rng.randrange(min(size, 300))]) for _ in range(12)] for _ in range(count)]
    return {
        "tokenizers": tokenizers.__version__,
        "ids": [tokenizer.encode(text).ids for text in texts],
        "invalid": [tokenizer.encode(data.decode("utf-8", "replace")).ids for data in broken],
        "decoded": [
            [ids, tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids, skip_special_tokens=False)]
            for ids in sequences
        ],
    }


# SentencePiece models: options of the trainer.
PIECES = {
    # As Llama 2 and Mistral are trained.
    "tiny-llama": dict(
        model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", split_digits=True,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        control_symbols=["[INST]", "[/INST]"], user_defined_symbols=["<tool>", "the mill", "\u2581in", "1"],
    ),
    # Unknown pieces, white space made single, replacements, no space in front, pieces across words.
    "tiny-pieces": dict(
        model_type="bpe", vocab_size=500, character_coverage=0.98, add_dummy_prefix=False, split_by_whitespace=False,
        user_defined_symbols=["<tool>"],
    ),
    "tiny-unigram": dict(model_type="unigram", vocab_size=450, character_coverage=0.98),
    "tiny-unigram-bytes": dict(
        model_type="unigram", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
        character_coverage=0.98, user_defined_symbols=["<tool>", "the", "ab"],
    ),
}
# Replacements: what, by what (scalar values).
RULES = ["FB01\t66 69", "FB03\t66 66 69", "41 30A\tC5", "65 301\tE9", "3000\t20", "A0\t20", "9\t20", "A\t20", "FFFD\t20", "AD\t", "FF01\t21",
         "2026\t2E 2E 2E", "4F60 597D\t68 69"]


def train_pieces(options: dict) -> bytes:
    model = io.BytesIO()
    lines = [line for line in TRAINING.split("\n") if line.strip()] + [" ".join(WORDS)] * 3
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("\n".join(RULES) + "\n")
        rules.flush()
        if "normalization_rule_name" not in options:
            options = {**options, "normalization_rule_tsv": rules.name}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, minloglevel=2, num_threads=1, hard_vocab_limit=False, **options)
    # What the trainer notes of its files says where it ran.
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    for field in ["input", "model_prefix"]:
        proto.trainer_spec.ClearField(field)
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    proto.trainer_spec.ClearField("accept_language")
    return proto.SerializeToString()


def piece_expectations(data: bytes, texts: list[str], broken: list[bytes]) -> dict:
    """What SentencePiece itself makes of the corpus; control tokens in it are plain text to it."""
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    rng = random.Random(3)
    usable = [i for i in range(model.vocab_size()) if not model.is_control(i)]
    sequences = [[rng.choice([rng.choice(usable), rng.choice(usable[:300])]) for _ in range(12)] for _ in range(15)]
    sequences += [model.encode(text)[:40] for text in texts[40:60]]
    rows = []
    for letters, length in [(26, 20000), (2, 20000), (1, 17000)]:
        ids = model.encode(long_word(letters, length))
        rows.append([letters, length, len(ids), checksum(ids)])
    return {
        "plain": True, "long": rows, "ids": [model.encode(text) for text in texts], "invalid": [model.encode(data) for data in broken],
        "decoded": [[ids, model.decode(ids), model.decode(ids)] for ids in sequences],
    }


def convert_pieces(data: bytes, style: str) -> Tokenizer:
    """A tokenizer.json of a SentencePiece model, in the forms that families publish."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    pieces = [piece.piece for piece in proto.pieces]
    fallback = proto.trainer_spec.byte_fallback
    if proto.trainer_spec.model_type == 2:
        vocab = {piece: index for index, piece in enumerate(pieces)}
        merges = []
        for piece in sorted(proto.pieces, key=lambda piece: -piece.score):
            parts = [(piece.piece[:cut], piece.piece[cut:]) for cut in range(1, len(piece.piece))]
            parts = [part for part in parts if part[0] in vocab and part[1] in vocab]
            merges += sorted(parts, key=lambda part: (vocab[part[0]], vocab[part[1]]))
        tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
    else:
        vocab = [(piece.piece, piece.score) for piece in proto.pieces]
        tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=fallback))
    bytes_first = [decoders.ByteFallback()] if fallback else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), *bytes_first, decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if style == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    elif style == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    elif style == "words":
        tokenizer.normalizer = normalizers.Sequence([
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "\u2581"),
        ])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        tokenizer.decoder = decoders.Metaspace()
    elif style == "split":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="always", split=True)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = [piece.piece for piece in proto.pieces if piece.type in (2, 3)]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    tokenizer.add_tokens([AddedToken("<word>", single_word=True, normalized=False), AddedToken("<left>", lstrip=True, normalized=False)])
    template = "<s> $A" if style in ("legacy", "first") else "$A </s>"
    ids = [("<s>", pieces.index("<s>")), ("</s>", pieces.index("</s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


# tokenizer.json files made of SentencePiece models: the model, the form.
CONVERTED = {
    "tiny-llama-legacy": ("tiny-llama", "legacy"), "tiny-llama-first": ("tiny-llama", "first"),
    "tiny-unigram-words": ("tiny-unigram", "words"), "tiny-unigram-split": ("tiny-unigram-bytes", "split"),
}

LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def llama3_special(count: int) -> dict[str, int]:
    """Llama 3's special tokens, with the names of 3.1."""
    named = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id",
             8: "eom_id", 9: "eot_id", 10: "python_tag"}
    reserved = iter(range(256))
    return {f"<|{named[i] if i in named else f'reserved_special_token_{next(reserved)}'}|>": count + i for i in range(256)}


def ranks_of(tokenizer: Tokenizer, special: set[str]) -> dict[bytes, int]:
    """The tokens of a byte-level tokenizer as tiktoken ranks."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)}
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    spelled = [bytes(alphabet[c] for c in token) for token, _ in tokens if token not in special]
    return {token: rank for rank, token in enumerate(spelled)}


def rank_expectations(ranks: dict[bytes, int], texts: list[str], broken: list[bytes]) -> dict:
    encoding = tiktoken.Encoding("tiny", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=llama3_special(len(ranks)))
    rng = random.Random(3)
    begin = len(ranks)

    def encode(text: str) -> list[int]:
        return [begin] + encoding.encode(text, allowed_special="all")

    sequences = [[rng.randrange(len(ranks) + 20) for _ in range(12)] for _ in range(20)]
    rows = []
    for letters, length in [(26, 20000), (2, 20000), (1, 17000)]:
        ids = encode(long_word(letters, length))
        rows.append([letters, length, len(ids), checksum(ids)])
    return {
        "long": rows, "ids": [encode(text) for text in texts], "invalid": [encode(data.decode("utf-8", "replace")) for data in broken],
        "decoded": [[ids, encoding.decode([i for i in ids if i < begin]), encoding.decode(ids)] for ids in sequences],
    }


def write(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main() -> None:
    here = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=pathlib.Path, default=here.parent / "shared")
    parser.add_argument("--output", type=pathlib.Path, default=here / "Tests/Fixtures/tokenizers")
    arguments = parser.parse_args()
    output = arguments.output
    texts, broken = corpus(), invalid()
    write(output / "corpus.json", {"texts": texts, "invalid": [data.hex() for data in broken]})

    sources = {}
    for name, tokenizer in tiny().items():
        text = tokenizer.to_str(pretty=False)
        (output / f"{name}.json").write_text(text + "\n")
        sources[name] = text
    for name, text in sources.items():
        tokenizer = Tokenizer.from_str(text)
        expected = expectations(tokenizer, texts, broken, 20)
        write(output / f"{name}.ids.json", {"long": long_words(tokenizer), **expected})
    step = 4  # variants need no whole corpus
    for name, (base, replacements) in VARIANTS.items():
        text = sources[base]
        for old, new in replacements:
            assert old in text, (name, old)
            text = text.replace(old, new)
        expected = expectations(Tokenizer.from_str(text), texts[::step], broken[::step], 0)
        write(output / f"{name}.ids.json", {"base": base, "replace": replacements, "step": step, **expected})

    models_of = {name: train_pieces(options) for name, options in PIECES.items()}
    for name, data in models_of.items():
        (output / f"{name}.model").write_bytes(data)
        write(output / f"{name}.ids.json", piece_expectations(data, texts, broken))
    for name, (base, style) in CONVERTED.items():
        text = convert_pieces(models_of[base], style).to_str(pretty=False)
        (output / f"{name}.json").write_text(text + "\n")
        expected = expectations(Tokenizer.from_str(text), texts[::2], broken[::2], 30)
        write(output / f"{name}.ids.json", {"step": 2, **expected})
    special = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    ranks = ranks_of(train(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]), special=sorted(special)), special)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (output / "tiny-llama3.model").write_text("".join(lines))
    write(output / "tiny-llama3.ids.json", rank_expectations(ranks, texts, broken))

    folder = arguments.shared / "tokenizers"
    if not folder.exists():
        print(f"{folder} is absent: the expected ids of real tokenizers are left as they are")
        return
    real = {
        "opt-books": Tokenizer.from_file(str(arguments.shared / "models/opt-books/tokenizer.json")),
        "smollm2": Tokenizer.from_file(str(folder / "smollm2/tokenizer.json")),
        "smollm2-digits": smollm_digits(folder / "smollm2"),
        "qwen2.5": Tokenizer.from_file(str(folder / "qwen2.5/tokenizer.json")),
        "qwen2.5-composed": composed(folder / "qwen2.5"),
        "opt-gpt2": opt(folder / "opt-gpt2"),
    }
    for name, tokenizer in real.items():
        step = 3 if name in {"smollm2-digits", "qwen2.5-composed"} else 1
        expected = expectations(tokenizer, texts[::step], broken[::step], 10)
        write(output / f"{name}.ids.json", {"step": step, "long": long_words(tokenizer), **expected})
    for name, path in {
        "llama2": "llama2/tokenizer.model", "mistral-v1": "mistral/tokenizer.model.v1",
        "mistral-v3": "mistral/mistral_instruct_tokenizer_240323.model.v3",
    }.items():
        write(output / f"{name}.ids.json", {"step": 3, **piece_expectations((folder / path).read_bytes(), texts[::3], broken[::3])})
    ranks = {}
    for line in (folder / "llama3/tokenizer.model").read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    write(output / "llama3.ids.json", {"step": 3, **rank_expectations(ranks, texts[::3], broken[::3])})


if __name__ == "__main__":
    main()
