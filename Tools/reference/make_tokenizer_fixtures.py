"""Writes the tokenizer fixtures: a corpus, tiny trained tokenizers, and the ids that Hugging Face `tokenizers` gives.

    python make_tokenizer_fixtures.py [--shared DIR] [--output DIR]

The tiny tokenizers are trained on the text below. Expected ids of the real tokenizers need the shared folder; without
it theirs are left as they are.
"""

import argparse
import json
import pathlib
import random

import tokenizers
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


if __name__ == "__main__":
    main()
