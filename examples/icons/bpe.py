"""A small byte-level BPE vocabulary in CLIP's format: 256 bytes, 256 ending a word, merges, two special tokens."""

from __future__ import annotations

import functools
import heapq
import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import regex

# CLIP's split of lower-cased text into words: contractions, letters, single digits, runs of anything else.
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 24


@functools.cache
def byte_symbols() -> list[str]:
    """The printable stand-in of each byte 0..255 (GPT-2's table: printable Latin-1 itself, the others from U+0100)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def symbol_order() -> list[str]:
    """The byte symbols in the order of CLIP's vocabulary: the printable bytes first."""
    symbols = byte_symbols()
    return sorted(symbols, key=lambda symbol: (ord(symbol) >= 256, ord(symbol)))


def split_word(word: str) -> tuple[str, ...]:
    """A word as byte symbols, the last one marked as ending it."""
    symbols = byte_symbols()
    letters = [symbols[byte] for byte in word.encode()]
    return (*letters[:-1], letters[-1] + "</w>")


def merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """`parts` with every occurrence of `pair` joined, from the left."""
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair and not out[-1].endswith("</w>"):
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def learn(texts: Iterable[str], merges: int) -> list[tuple[str, str]]:
    """The `merges` most frequent merges over the words of the texts; ties go to the alphabetically first pair."""
    words = Counter(word for text in texts for word in WORD.findall(text.lower()))
    splits = {word: split_word(word) for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = {}
    for word, parts in splits.items():
        _count(word, parts, words[word], pairs, holders)
    queue = [(-times, pair) for pair, times in pairs.items()]
    heapq.heapify(queue)
    learned: list[tuple[str, str]] = []
    while len(learned) < merges and queue:
        times, best = heapq.heappop(queue)
        if -times != pairs[best]:  # counted anew since it was put there
            continue
        learned.append(best)
        changed = set()
        for word in holders.pop(best):
            before, after = splits[word], merge(splits[word], best)
            for pair in pairwise(before):
                pairs[pair] -= words[word]
            splits[word] = after
            _count(word, after, words[word], pairs, holders)
            changed |= {*pairwise(before), *pairwise(after)}
        for pair in changed - {best}:
            if pairs[pair] > 0:
                heapq.heappush(queue, (-pairs[pair], pair))
        del pairs[best]
    return learned


def _count(word: str, parts: tuple[str, ...], times: int, pairs: Counter, holders: dict) -> None:
    for pair in pairwise(parts):
        pairs[pair] += times
        holders.setdefault(pair, set()).add(word)


def write_vocabulary(folder: Path, merges: list[tuple[str, str]]) -> None:
    """vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json, as CLIP tokenizers read them."""
    symbols = symbol_order()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = special | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        "clean_up_tokenization_spaces": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
