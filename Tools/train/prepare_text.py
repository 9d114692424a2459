"""Turns a folder of public-domain books (Markdown or plain text) into token files for train_opt.py.

    python prepare_text.py BOOKS OUT [--tokenizer tokenizer.json] [--vocabulary 8192] [--held-out FILE]

Writes OUT/tokenizer.json (trained on the books unless one is given), OUT/train.bin and OUT/valid.bin: u16 ids, every
book begun by `</s>` (id 2). Books whose title stands in FILE (lines `Title: ...`) go to neither; every 60th of the rest
goes to valid.bin.
"""

import argparse
import pathlib
import re

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def titles(path):
    """Normalised titles of a file of excerpts."""
    return {normal(t) for t in re.findall(r"^\s*Title:\s*(.+)$", path.read_text(errors="replace"), re.M)}


def normal(title):
    return re.sub(r"[^a-z0-9]+", " ", title.lower()).strip()


def train_tokenizer(texts, vocabulary):
    """A byte-level BPE tokenizer with OPT's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--held-out", type=pathlib.Path)
    arguments = parser.parse_args()

    excluded = titles(arguments.held_out) if arguments.held_out else set()
    texts = []
    for path in sorted(arguments.books.rglob("*")):
        if path.suffix not in {".md", ".txt"} or path.name.lower().startswith("readme"):
            continue
        text = path.read_text(errors="replace")
        names = {normal(path.stem)} | titles(path)
        if names & excluded:
            print("held out:", path.stem)
            continue
        texts.append(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.tokenizer:
        tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    else:
        tokenizer = train_tokenizer(texts, arguments.vocabulary)
    tokenizer.save(str(arguments.out / "tokenizer.json"))

    counts = {"train": 0, "valid": 0}
    with open(arguments.out / "train.bin", "wb") as train, open(arguments.out / "valid.bin", "wb") as valid:
        for index, text in enumerate(texts):
            name, sink = ("valid", valid) if index % 60 == 59 else ("train", train)
            ids = [2]
            # Whole books at once take gigabytes in the tokenizer; paragraphs do not cross these cuts.
            for part in re.split(r"(?<=\n)(?=\n)", text):
                ids += tokenizer.encode(part, add_special_tokens=False).ids
            np.asarray(ids, dtype=np.uint16).tofile(sink)
            counts[name] += len(ids)
            if index % 50 == 0:
                print(f"{index + 1}/{len(texts)} books, {counts['train'] / 1e6:.1f} M tokens", flush=True)
    print(f"{len(texts)} books: {counts['train']} tokens for training, {counts['valid']} for validation")


if __name__ == "__main__":
    main()
