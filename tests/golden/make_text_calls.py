"""What v4.37.2 does with keywords that it deprecates or doesn't know, and with positional arguments.

    python tests/golden/make_text_calls.py FOLDER    # transformers 4.37.2; FOLDER holds OpenAI's CLIP tokenizer

Writes tests/golden/text_calls.json: rows of (kind, method, arguments, keywords, outcome, warnings, whether it logs).
"""

import io
import json
import logging
import sys
import warnings
from pathlib import Path

TEXT, IDS = "a <|endoftext|> <new> cat", [320, 2368]
KEYWORDS = [
    {"foo": 1},
    {"pad_to_max_length": True, "max_length": 9},
    {"pad_to_max_length": True},
    {"pad_to_max_length": True, "padding": True, "max_length": 9},
    {"pad_to_max_length": True, "max_length": 4, "truncation": True},
    {"pad_to_max_length": False},
    {"split_special_tokens": True},
    {"split_special_tokens": False},
    {"truncation_strategy": "only_first", "max_length": 4},
    {"truncation_strategy": "longest_first"},
    {"truncation_strategy": "longest_first", "verbose": False},
    {"return_lengths": True},
]
CALLS = [(method, [TEXT], keywords) for method in ("__call__", "encode", "encode_plus") for keywords in KEYWORDS]
CALLS += [(method, [[TEXT, "a"]], keywords) for method in ("__call__", "batch_encode_plus") for keywords in KEYWORDS]
CALLS += [("tokenize", [TEXT], keywords) for keywords in KEYWORDS if "padding" not in keywords]
CALLS += [("prepare_for_model", [IDS], keywords) for keywords in KEYWORDS if "split_special_tokens" not in keywords]
CALLS += [
    ("encode_plus", ["a cat", None, False], {}),
    ("encode_plus", ["a cat", "a dog", True, "max_length", True, 12, 0, False, 4, None, True, True], {}),
    ("encode", ["a cat", None, False], {}),
    ("encode", ["a cat", "a dog", True, "max_length", True, 12], {}),
    ("batch_encode_plus", [["a cat", "a dog here"], False, True], {}),
    ("batch_encode_plus", [["a cat", "a dog here"], True, "max_length", True, 4], {}),
    ("prepare_for_model", [IDS, None, False], {}),
    ("prepare_for_model", [IDS, IDS, True, "max_length", True, 12, 0, 4, None, True, False], {}),
    ("batch_decode", [[[320, 2368, 269], [49407]], True, False], {}),
    ("batch_decode", [[[320, 2368, 269], [49407]], True, True], {}),
    ("decode", [[320, 2368, 269, 49407], True, False], {}),
]


def outcome(tokenizer, method, arguments, keywords):
    """(result or name of the error, names of the warnings, whether something is logged)."""
    log, tokenizer.deprecation_warnings = io.StringIO(), {"Asking-to-pad-a-fast-tokenizer": True}
    handler = logging.StreamHandler(log)
    loggers = [logging.getLogger(name) for name in ("transformers", "clip_core")]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = getattr(tokenizer, method)(*arguments, **keywords)
            found = dict(found) if hasattr(found, "keys") else found
        except Exception as error:
            found = type(error).__name__
    for logger in loggers:
        logger.removeHandler(handler)
    return found, sorted(warning.category.__name__ for warning in caught), bool(log.getvalue())


if __name__ == "__main__":
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    rows = []
    for kind in (CLIPTokenizer, CLIPTokenizerFast):
        made = kind.from_pretrained(sys.argv[1])
        made.add_tokens(["<new>"])
        rows += [(kind.__name__, *call, *outcome(made, *call)) for call in CALLS]
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    Path(__file__).with_name("text_calls.json").write_text(text, "utf-8")
