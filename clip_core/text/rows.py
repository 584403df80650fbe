"""Ids to rows a model takes: truncation, special tokens and padding as transformers does them in Python.

The slow tokenizer's way, and what `prepare_for_model` and `truncate_sequences` do in both.
"""

from __future__ import annotations

from typing import Any

from clip_core.errors import InputError
from clip_core.text.batch import TextBatch
from clip_core.text.options import Options, logger, resolve
from clip_core.text.padding import pad_batch


class PreparesRows:
    """Mixin for `TokenizerBase`."""

    truncation_side: str

    def prepare_for_model(self, ids: list[int], pair_ids: list[int] | None = None, **kwargs: Any) -> TextBatch:
        """Ids of one text or pair, without special tokens, to what a model takes; arguments as in `__call__`."""
        prepend = kwargs.pop("prepend_batch_axis", False)
        names = Options.__dataclass_fields__
        options = resolve(self, **{name: value for name, value in kwargs.items() if name in names})
        return self._prepared(list(ids), None if pair_ids is None else list(pair_ids), options, prepend)

    def _prepared(self: Any, ids: list[int], pair: list[int] | None, options: Options, prepend: bool) -> TextBatch:
        row = self._row(ids, pair, options)
        if options.pads or self._wants(options, "attention_mask"):
            row = self._pad_rows(row, options)
        if options.return_length:
            row["length"] = len(row["input_ids"])
        return TextBatch(row, None, options.return_tensors, prepend_batch_axis=prepend)

    def _pad_rows(self: Any, encoded: dict[str, Any], options: Options) -> dict[str, Any]:
        return pad_batch(
            encoded,
            options.padding,
            options.max_length,
            options.pad_to_multiple_of,
            options.padding_side,
            self._fillings(),
            self._wants(options, "attention_mask"),
        )

    def _row(self: Any, ids: list[int], pair: list[int] | None, options: Options) -> dict[str, Any]:
        """One text or pair, truncated, with its special tokens, before padding."""
        _check(pair, options)
        special = options.add_special_tokens
        around = self.num_special_tokens_to_add(pair is not None) if special else 0
        total = len(ids) + len(pair or ()) + around
        overflow: list[int] = []
        excess = total - options.max_length if options.truncates and options.max_length else 0
        if excess > 0:
            ids, pair, overflow = self.truncate_sequences(ids, pair, excess, options.truncation, options.stride)
        row: dict[str, Any] = {}
        if options.return_overflowing_tokens:
            row["overflowing_tokens"] = overflow
            row["num_truncated_tokens"] = total - options.max_length  # type: ignore[operator]
        build = self.build_inputs_with_special_tokens
        row["input_ids"] = build(ids, pair) if special else [*ids, *(pair or ())]
        length = len(row["input_ids"])
        if self._wants(options, "token_type_ids"):
            row["token_type_ids"] = [0] * length
        if options.return_special_tokens_mask:
            row["special_tokens_mask"] = _special_mask(len(ids), pair) if special else [0] * length
        self._warn_if_long(length, options)
        return row

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Any = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Cut `num_tokens_to_remove` tokens off one text or a pair.

        Args:
            truncation_strategy: "longest_first", "only_first", "only_second".
            stride: how many tokens of what stays go into the overflow too.

        Returns:
            (ids, pair_ids, overflowing tokens; none for a pair cut by "longest_first"). A text that is too short to
            give up so much stays whole, and an error is logged.
        """
        strategy = getattr(truncation_strategy, "value", truncation_strategy)
        if num_tokens_to_remove <= 0 or strategy == "do_not_truncate":
            return ids, pair_ids, []
        if strategy == "longest_first" and pair_ids is not None:
            return (*self._cut_longest(ids, pair_ids, num_tokens_to_remove), [])
        if strategy == "only_second":
            if pair_ids is None:
                return ids, None, []
            kept, overflow = self._cut(pair_ids, num_tokens_to_remove, stride)
            return ids, kept, overflow
        kept, overflow = self._cut(ids, num_tokens_to_remove, stride)
        return kept, pair_ids, overflow

    def _cut(self, ids: list[int], number: int, stride: int) -> tuple[list[int], list[int]]:
        if len(ids) <= number:
            logger.error(f"truncation: can't remove {number} tokens from a text of {len(ids)}; it stays as it is")
            return ids, []
        window = min(len(ids), stride + number)
        if self.truncation_side == "left":
            return ids[number:], ids[:window]
        return ids[:-number], ids[-window:]

    def _cut_longest(self, ids: list[int], pair: list[int], number: int) -> tuple[list[int], list[int]]:
        """The longer text gives until both are alike, then both in turn."""
        from_longer = min(abs(len(pair) - len(ids)), number)
        half = (number - from_longer) // 2
        rest = number - from_longer - half
        from_first, from_pair = (from_longer + half, rest) if len(ids) > len(pair) else (half, from_longer + rest)
        if self.truncation_side == "left":
            return ids[from_first:], pair[from_pair:]
        return ids[: max(0, len(ids) - from_first)], pair[: max(0, len(pair) - from_pair)]


def _special_mask(first: int, pair: list[int] | None) -> list[int]:
    mask = [1, *[0] * first, 1]
    return mask if pair is None else [*mask, 1, *[0] * len(pair), 1]


def _check(pair: Any, options: Options) -> None:
    if options.return_token_type_ids and not options.add_special_tokens:
        raise InputError("return_token_type_ids: needs add_special_tokens=True")
    if not options.return_overflowing_tokens:
        return
    if options.truncation == "longest_first" and pair is not None:
        raise InputError(
            "return_overflowing_tokens: for a pair not with truncation='longest_first', but 'only_first', 'only_second'"
        )
    if options.max_length is None:
        raise InputError("return_overflowing_tokens: needs max_length, or truncation with a model_max_length")
