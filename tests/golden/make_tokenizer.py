"""Makes the golden files under tests/golden/tokenizer: ids as the real tokenizers give them.

    python make_tokenizer.py texts             any Python: the texts, and the small vocabulary's folders
    python make_tokenizer.py hf                transformers 4.37.2 with ftfy, torch: slow, fast, calls, folders
    python make_tokenizer.py basic             the same, with ftfy hidden: the slow tokenizer's other path
    python make_tokenizer.py hf5               transformers 5.23: its file set for the small vocabulary (run before hf)
    python make_tokenizer.py open_clip         open_clip_torch 3.3, clip (OpenAI's): their own tokenizers
    python make_tokenizer.py write FOLDER      triclip's own environment: what `save_pretrained` writes
    python make_tokenizer.py verify FOLDER     transformers 4.37.2, then 4.57.6, then 5.23: load it and compare

`verify` records what it found in verified.json, beside a hash of the files, so that a change of the writer shows.
"""

import gzip
import hashlib
import json
import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parent / "tokenizer"
BUNDLED = Path(__file__).parents[2] / "clip_core" / "text" / "bpe_simple_vocab_16e6.txt.gz"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"

# ---- texts ----------------------------------------------------------------------------------------------------------

PLAIN = [
    "",
    " ",
    "a photo of a cat",
    "You should've done this",
    "A red T-shirt, size XL; 100% cotton!",
    "don't DOG'S we've I'M they'll he'd isn't it\u2019s '\u017f 'RE ''s",
    "3.14 1,000 12345 2nd 10x",
    "na\u00efve caf\u00e9 Stra\u00dfe \u1e9e \u0130stanbul \u0131I",
    "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3 \u1f48\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2 \u03c3 \u03a3",
    "\ufb01\ufb02\ufb00 \u210c \u2460 \u00bd \u2167 \u00b2 \u0663 \u096a",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \u65e5\u672c\u8a9e \u4e2d\u6587\u5b57 \U00020000 \u3400",
    "\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f",
    "e\u0301 q\u0323\u0307 q\u0307\u0323 \u0344 \u0958 \u2126 \u212b \u037e \u1fef a\u0328\u0301",
    "&amp; &lt;b&gt; &eacute; &amp;amp; &#39; <b>&amp;</b>",
    "\u00c3\u0192\u00c2\u00a9 \u00e2\u20ac\u2122 \u201cquoted\u201d \u2018x\u2019 \u2026 \uff2c\uff2f\uff35\uff24",
    "a\tb\nc\r\nd\x0be\x0cf\x1cg\x1fh\x85i\u00a0j\u2003k\u2028l\u3000m\u200bn\ufeffo\u180ep",
    "\x00 \x01 \x1b[31m \x7f \x80 \ufffd \u200e \u202e \u00ad \ufff9 \U000e0001 \ufffe",
    "<|startoftext|> hi <|endoftext|>",
    "<|STARTOFTEXT|>x<|EndOfText|>!",
    "<|startoftext <|start oftext|> endoftext|> <|startof\u017ftext|> <|\u017ftartoftext|>",
    "<|endoftext|><|endoftext|>\u0301 </w> a</w>b",
    "supercalifragilisticexpialidocious " * 3,
    "antidisestablishmentarianism" * 20,
    "!" * 70,
    "ab" * 300,
    # Letters, numbers, marks and capitals that are newer than the fast tokenizer's tables.
    "\u0cdc\u1c89 a\u0897b \U00010d50 \U00016d40 \U00031350\U0003134f \U0001e4d0 \u0301\u1acf",
    "a\u1133\u0301 e\u08ca\u0301 \U00011935\U00011930 \U00011382\U000113c9 a\U0001133b\u0301",
]


def random_texts(count, seed=0):
    """Texts of every kind of character, from words to noise."""
    pick = random.Random(seed)
    words = [word for text in PLAIN[2:17] for word in text.split(" ") if word]
    marks = [chr(c) for c in (*range(0x300, 0x345), *range(0x1DC0, 0x1E00), 0x3099, 0x93C, 0x8CA, 0x1133B, 0x11070)]
    spaces = [" ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85", "\u200b", ""]
    specials = [BOS, EOS, BOS.upper(), "<|", "|>", "<|endoftext", "!", "</w>"]

    def anything():
        low, high = pick.choice([(0x20, 0x250), (0x250, 0xD800), (0xE000, 0x10000), (0x10000, 0x32000)])
        return chr(pick.randrange(low, high))

    texts = []
    for i in range(count):
        kind = i % 5
        if kind == 0:
            parts = [anything() for _ in range(pick.randrange(1, 9))]
        elif kind == 1:
            parts = [pick.choice([*marks, *"aeouAEOUs\u03a3\u0130\uac00"]) for _ in range(pick.randrange(1, 9))]
        elif kind == 2:
            parts = [chr(pick.randrange(0x80)) for _ in range(pick.randrange(1, 20))]
        else:
            parts = []
            for _ in range(pick.randrange(1, 9)):
                parts.append(pick.choice([*words, *specials, anything()]) if kind == 3 else pick.choice(words))
                parts.append(pick.choice(spaces) if pick.random() < 0.4 else " ")
        texts.append("".join(parts))
    return texts


def write(name, value):
    """A golden file, a line per item where it is a list."""
    ROOT.mkdir(exist_ok=True)
    if isinstance(value, list):
        text = "[\n" + ",\n".join(json.dumps(item, separators=(",", ":")) for item in value) + "\n]\n"
    else:
        text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    (ROOT / name).write_text(text, encoding="utf-8")
    print(name, len(text))


def read(name):
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


# ---- vocabularies and folders ---------------------------------------------------------------------------------------

SMALL_MERGES = [
    "l o",
    "lo w</w>",
    "e r</w>",
    "a t</w>",
    "c a",
    "c at</w>",
    "p h",
    "o t",
    "ot o",
    "ph oto",
    "t h",
    "th e</w>",
    "d o",
    "do g</w>",
]


def small_vocab():
    """A vocabulary with unknown characters, special tokens in the middle, and ids that follow no rule."""
    letters = "abcdefghilmnoprstw!?'"
    tokens = [*letters[:8], "<unk>", *letters[8:], *(letter + "</w>" for letter in letters if letter not in "mf"), BOS]
    tokens += [merge.replace(" ", "") for merge in SMALL_MERGES[:5]] + [EOS]
    tokens += [merge.replace(" ", "") for merge in SMALL_MERGES[5:]]
    return {token: i for i, token in enumerate(tokens)}


def flags(content, special=True, **more):
    base = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": special}
    return {"content": content, **base, **more}


def typed(content):
    return {"__type": "AddedToken", **{k: v for k, v in flags(content).items() if k != "special"}}


def folders():
    """What folders in the wild hold, for the small vocabulary: name -> {file: content}."""
    vocab = small_vocab()
    at = len(vocab)
    legacy = {"bos_token": typed(BOS), "eos_token": typed(EOS), "unk_token": typed(EOS), "pad_token": EOS}
    legacy |= {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 20}
    legacy |= {"name_or_path": "./clip", "special_tokens_map_file": "./x.json", "tokenizer_class": "CLIPTokenizer"}
    plain = {k: v for k, v in flags(BOS).items() if k != "special"}
    special_map = {"bos_token": plain, "eos_token": {**plain, "content": EOS}, "unk_token": {**plain, "content": EOS}}
    decoder = {"0": flags("a", normalized=False), str(vocab[BOS]): flags(BOS), str(vocab[EOS]): flags(EOS)}
    decoder |= {str(at): flags("<S>", normalized=False), str(at + 1): flags("low cat", False, lstrip=True)}
    modern = {"added_tokens_decoder": decoder, "additional_special_tokens": ["<S>"], "model_max_length": 12}
    return {
        "bare": {},
        "openai": {"tokenizer_config.json": legacy, "special_tokens_map.json": {**special_map, "pad_token": EOS}},
        # Stable Diffusion 2: the two files disagree on the padding token.
        "sd2": {"tokenizer_config.json": legacy, "special_tokens_map.json": {**special_map, "pad_token": "!"}},
        "sdxl": {
            "tokenizer_config.json": {**modern, "pad_token": "a", "unk_token": "<unk>"},
            "special_tokens_map.json": {"pad_token": "!"},
        },
        "added": {
            "tokenizer_config.json": {"model_max_length": 9, "pad_token": "[PAD]", "padding_side": "left"},
            "special_tokens_map.json": {"pad_token": "[PAD]", "additional_special_tokens": ["<cat-toy>"]},
            "added_tokens.json": {"<cat-toy>": at, "[PAD]": at + 1, "the the": at + 2},
        },
    }


def write_vocabulary(folder, vocab, merges):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def make_folders():
    for name, files in folders().items():
        write_vocabulary(ROOT / "folders" / name, small_vocab(), SMALL_MERGES)
        for file, content in files.items():
            (ROOT / "folders" / name / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def openai_folder():
    """OpenAI's vocabulary as vocab.json and merges.txt, made here without triclip's own code."""
    lines = gzip.decompress(BUNDLED.read_bytes()).decode("utf-8").split("\n")[1:48895]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(c) for c in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = alphabet + [c + "</w>" for c in alphabet] + [line.replace(" ", "") for line in lines] + [BOS, EOS]
    folder = Path(tempfile.mkdtemp())
    write_vocabulary(folder, {token: i for i, token in enumerate(tokens)}, lines)
    return folder


# ---- calls ----------------------------------------------------------------------------------------------------------

CALL_TEXTS = [
    "a photo of a cat",
    "the dog",
    "",
    "low photo the cat a dog don't",
    "x <|endoftext|> y",
    "the\u00e9 lowcat",
]
WORDS = ["cat", "Dog's", "a b", "", "photo", "the-low"]


def random_calls(count, seed=1):
    """Arguments of `__call__`, at random but always the same."""
    pick = random.Random(seed)
    some = pick.random
    calls = []
    for _ in range(count):
        kind = pick.choice(["text", "text", "pair", "words", "word pairs"])

        def item(kind=kind):
            words = [pick.choice(WORDS) for _ in range(pick.randrange(1, 5))]
            return pick.choice(CALL_TEXTS) if kind in ("text", "pair") else words

        batched = some() < 0.6
        size = pick.randrange(1, 4) if batched else 1
        text = [item() for _ in range(size)]
        pair = [item() for _ in range(size)] if "pair" in kind else None
        options = {"is_split_into_words": True} if "word" in kind else {}
        choices = {
            "padding": (0.6, [True, "longest", "max_length", False]),
            "truncation": (0.6, [True, "only_first", "only_second", False]),
            "max_length": (0.5, [2, 3, 4, 5, 6, 8, 12, 24]),
            "stride": (0.2, [1, 2]),
            "pad_to_multiple_of": (0.2, [2, 4]),
            "add_special_tokens": (0.2, [False]),
            "return_token_type_ids": (0.2, [True]),
            "return_attention_mask": (0.2, [True, False]),
            "return_overflowing_tokens": (0.25, [True]),
            "return_special_tokens_mask": (0.3, [True]),
            "return_offsets_mapping": (0.2, [True]),
            "return_length": (0.2, [True]),
            "return_tensors": (0.3, ["np"]),
        }
        for name, (chance, values) in choices.items():
            if some() < chance:
                options[name] = pick.choice(values)
        settings = {"model_max_length": pick.choice([8, 20])}
        if some() < 0.2:
            settings["padding_side"] = "left"
        if some() < 0.2:
            settings["truncation_side"] = "left"
        calls.append([settings, text if batched else text[0], pair if batched or pair is None else pair[0], options])
    return calls


def plain(value):
    """A result as JSON holds it: arrays as {"dtype", "values"}."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "values": plain(value.tolist())}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def outcome(tokenizer, text, pair, options):
    """A call's values by name, or the name of "error" when it raises: which error is each library's own business."""
    try:
        return {name: plain(value) for name, value in tokenizer(text, pair, **options).items()}
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "error"


def without_torn_arrays(found):
    """None for rows of unequal length as tensors, which NumPy holds in ways that depend on its version."""
    torn = found != "error" and any(isinstance(v, dict) and v["dtype"] in ("object", "float64") for v in found.values())
    return None if torn else found


ADDED_STEPS = [
    ["add_tokens", ["<cat-toy>", "zz top"], {}],
    ["add_tokens", [["lo", {"lstrip": True, "rstrip": True}], ["CAT", {"single_word": True}]], {}],
    ["add_tokens", [["The", {"normalized": False}], ["<s>", {"special": True}], "\u00c9"], {}],
    ["add_tokens", ["<sp>", ["dog", {}]], {"special_tokens": True}],
    ["add_special_tokens", {"pad_token": "[PAD]", "additional_special_tokens": ["<n1>", "<n2>"]}, {}],
    ["add_special_tokens", {"additional_special_tokens": ["<n3>"]}, {"replace_additional_special_tokens": False}],
]
ADDED_TEXTS = [
    "a <cat-toy>, ZZ  top; zz top!",
    "x lo y  lo  z low",
    "cat CAT cat's xcat CAT",
    "lo\tCAT x\tCAT",
    "The the <s> <sp>dog doge \u00e9 E\u0301 e\u0301",
    "<n1> <n2><n3> [PAD] <|endoftext|>",
    "<cat-to <cat-toyz> <|endof<s>text|>",
]


def added_results(make, added_token):
    """The same tokenizer after every step: what it knows, and ids and text back."""
    results = []
    tokenizer = make()
    for method, argument, options in ADDED_STEPS:
        if method == "add_tokens":
            argument = [added_token(a[0], **a[1]) if isinstance(a, list) else a for a in argument]
        count = getattr(tokenizer, method)(argument, **options)
        rows = [tokenizer(text)["input_ids"] for text in ADDED_TEXTS]
        results.append(
            {
                "count": count,
                "length": len(tokenizer),
                "specials": tokenizer.all_special_tokens,
                "decoder": {
                    str(i): [t.content, t.single_word, t.lstrip, t.rstrip, t.normalized, t.special]
                    for i, t in tokenizer.added_tokens_decoder.items()
                },
                "ids": rows,
                "text": [tokenizer.decode(row) for row in rows],
                "skipped": [tokenizer.decode(row, skip_special_tokens=True) for row in rows],
                "tokens": [tokenizer.tokenize(text) for text in ADDED_TEXTS],
            }
        )
    return results


# ---- parts ----------------------------------------------------------------------------------------------------------


def make_texts():
    write("texts.json", PLAIN + random_texts(420))
    make_folders()


def slow_rows(tokenizer, texts):
    rows = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        rows.append([ids, tokenizer.decode(ids), tokenizer.decode(ids, True, clean_up_tokenization_spaces=False)])
    return rows


def fast_rows(tokenizer, texts):
    rows = []
    for text in texts:
        found = tokenizer(text, return_offsets_mapping=True)
        ids = found["input_ids"]
        offsets = [position for pair in found["offset_mapping"] for position in pair]
        decoded = [tokenizer.decode(ids), tokenizer.decode(ids, True, clean_up_tokenization_spaces=False)]
        rows.append([ids, offsets, found.word_ids(), *decoded])
    return rows


def make_hf():
    from transformers import AddedToken, CLIPTokenizer, CLIPTokenizerFast, __version__

    assert __version__ == "4.37.2", __version__
    texts = read("texts.json")
    files = [str(openai_folder() / name) for name in ("vocab.json", "merges.txt")]
    write("slow.json", slow_rows(CLIPTokenizer(*files), texts))
    write("fast.json", fast_rows(CLIPTokenizerFast(*files), texts))
    bare = ROOT / "folders" / "bare"
    small = [str(bare / name) for name in ("vocab.json", "merges.txt")]
    calls = random_calls(400)
    found = []
    for settings, text, pair, options in calls:
        row = [settings, text, pair, options]
        for kind in (CLIPTokenizer, CLIPTokenizerFast):
            tokenizer = kind(*small, unk_token="<unk>", **settings)
            row.append(without_torn_arrays(outcome(tokenizer, text, pair, options)))
        found.append(row)
    write("calls.json", found)
    added = [added_results(lambda k=kind: k(*small), AddedToken) for kind in (CLIPTokenizer, CLIPTokenizerFast)]
    write("added.json", [{"slow": slow, "fast": fast} for slow, fast in zip(*added, strict=True)])
    write("folders.json", folder_results(CLIPTokenizer, CLIPTokenizerFast))


def folder_results(slow, fast):
    found = {}
    for folder in sorted((ROOT / "folders").iterdir()):
        for kind, name in ((slow, "slow"), (fast, "fast")):
            for label, given in (("", {}), (" given", {"pad_token": "!", "model_max_length": 7, "use_fast": True})):
                if name == "slow" and not (folder / "vocab.json").exists():
                    continue  # transformers 4.37.2's slow tokenizer can't read tokenizer.json
                found[f"{folder.name} {name}{label}"] = describe(kind.from_pretrained(str(folder), **given))
    return found


FOLDER_TEXTS = [*ADDED_TEXTS, "a photo of the low cat! <S> [PAD] the the", "<|STARTOFTEXT|> Low CAT low cat"]


def describe(tokenizer):
    ids = [tokenizer(text)["input_ids"] for text in FOLDER_TEXTS]
    return {
        "ids": ids,
        "padded": tokenizer(FOLDER_TEXTS, padding=True, truncation=True, max_length=9)["input_ids"],
        "text": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
        "length": len(tokenizer),
        "pad": [tokenizer.pad_token, tokenizer.pad_token_id],
        "specials": tokenizer.all_special_tokens,
        "limit": tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None,
    }


def make_basic():
    sys.modules["ftfy"] = None
    from transformers import CLIPTokenizer

    files = [str(openai_folder() / name) for name in ("vocab.json", "merges.txt")]
    write("basic.json", slow_rows(CLIPTokenizer(*files), read("texts.json")))


def make_hf5():
    from transformers import CLIPTokenizer

    target = ROOT / "folders" / "five"
    CLIPTokenizer.from_pretrained(str(ROOT / "folders" / "openai")).save_pretrained(str(target))
    # transformers 4.37.2, which says what this folder must give, reads merges only as strings.
    found = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    found["model"]["merges"] = [" ".join(merge) for merge in found["model"]["merges"]]
    (target / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


def module_alone(package, file):
    """A package's module without the package, which also needs torchvision; its tokenizer doesn't."""
    import importlib.util

    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    spec = importlib.util.spec_from_file_location(file, Path(folder) / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_open_clip():
    texts = read("texts.json")
    rows = module_alone("open_clip", "tokenizer").SimpleTokenizer()(texts)
    write("open_clip.json", [row[row != 0].tolist() for row in rows])
    openai = module_alone("clip", "simple_tokenizer").SimpleTokenizer()
    write("openai.json", [[openai.encoder[BOS], *openai.encode(text)[:75], openai.encoder[EOS]] for text in texts])


# ---- what triclip saves ---------------------------------------------------------------------------------------------


def saved_cases():
    """triclip's tokenizers to save, by name, over the small vocabulary."""
    from clip_core.text.tokenizer import AddedToken, CLIPTokenizer, CLIPTokenizerFast

    files = [str(ROOT / "folders" / "bare" / name) for name in ("vocab.json", "merges.txt")]
    for name, kind in (("slow", CLIPTokenizer), ("fast", CLIPTokenizerFast)):
        yield f"{name}-plain", kind(*files, model_max_length=12)
        yield f"{name}-pad", kind(*files, model_max_length=12, pad_token="!", padding_side="left", unk_token="<unk>")
        added = kind(*files, model_max_length=12)
        added.add_tokens(["<cat-toy>", AddedToken("the the", lstrip=True, rstrip=True)])
        added.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<S>"]})
        yield f"{name}-added", added


def hash_of(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def make_write(target):
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from clip_core.text.tokenizer import CLIPTokenizerFast

    for name, tokenizer in saved_cases():
        tokenizer.save_pretrained(target / name)
        (target / f"{name}.json").write_text(json.dumps(describe(tokenizer)))
        # transformers 5 has the fast kind only.
        five = describe(CLIPTokenizerFast.from_pretrained(target / name))
        (target / f"{name}.5.json").write_text(json.dumps(five))


def make_verify(target):
    import transformers

    record = read("verified.json") if (ROOT / "verified.json").exists() else {"hashes": {}, "agree": {}}
    agree = record["agree"].setdefault(transformers.__version__, {})
    kinds = {"slow": "CLIPTokenizer", "fast": "CLIPTokenizerFast"}
    for folder in sorted(path for path in target.iterdir() if path.is_dir()):
        record["hashes"][folder.name] = hash_of(folder)
        kind = getattr(transformers, kinds[folder.name.split("-")[0]], transformers.CLIPTokenizer)
        expected = f"{folder.name}.5.json" if transformers.__version__ >= "5" else f"{folder.name}.json"
        wanted = json.loads((target / expected).read_text())
        found = describe(kind.from_pretrained(str(folder)))
        same = {"ids", "padded", "length", "pad", "limit"}
        if transformers.__version__ < "4.40":
            same |= {"text", "specials"}  # later versions decode without cleaning spaces
        wrong = sorted(name for name in same if found[name] != wanted[name])
        agree[folder.name] = not wrong
        print(transformers.__version__, folder.name, wrong or "agrees")
    write("verified.json", record)


PARTS = {"texts": make_texts, "hf": make_hf, "basic": make_basic, "hf5": make_hf5, "open_clip": make_open_clip}
PARTS |= {"write": make_write, "verify": make_verify}

if __name__ == "__main__":  # tests import this file: what is set here would be set for all of them
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    PARTS[sys.argv[1]](*map(Path, sys.argv[2:]))
