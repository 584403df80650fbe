"""Selecting the rows of a search: by columns, row numbers, a mask, or a predicate."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clip_core.errors import InputError

from .columns import Column

Filter = tuple[str, str, Any]  # column, operator, value
_ORDERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = ("=", "!=", *_ORDERINGS, "~")
_EXPRESSION = re.compile(r"\s*([^<>=!~]+?)\s*(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_QUOTED = re.compile(r"(['\"])(.*)\1", re.DOTALL)
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_filter(text: str) -> Filter:
    """`year>=2020`, `vendor=noto`, `name~*cat*` -> (column, operator, value as written).

    Operators: = (or ==) != < <= > >= and ~, a shell pattern (for strings). Spaces around the operator and at the ends
    are ignored; the column and the value may be quoted, 'x' or "x", to be taken literally. Raises InputError for
    anything else.
    """
    match = _EXPRESSION.fullmatch(text)
    if not match:
        raise InputError(f"filter {text!r}: wanted COLUMN OPERATOR VALUE, with one of {' '.join(OPERATORS)}")
    title, sign, value = match.groups()
    return _unquoted(title), "=" if sign == "==" else sign, _unquoted(value)


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else text


def select_rows(where: Any, columns: Mapping[str, Column], count: int) -> np.ndarray | None:
    """Ascending row numbers int64, or None for all.

    `where`: None; a filter as text (see `parse_filter`) or as a tuple (column, operator, value), or a list of filters
    that must all hold; a mapping of columns to an allowed value or a list of allowed values; a mask bool [N];
    row numbers int [K]; or a function of a row as a dict.
    """
    if where is None:
        return None
    if isinstance(where, np.ndarray):
        return _from_array(where, count)
    if callable(where):
        return _from_predicate(where, columns, count)
    mask = np.ones(count, bool)
    if isinstance(where, Mapping):
        for title, value in where.items():
            several = isinstance(value, list | tuple | set | frozenset)
            any_of = np.zeros(count, bool)
            for one in value if several else [value]:
                any_of |= _holds((title, "=", one), columns)
            mask &= any_of
        return np.flatnonzero(mask)
    if not isinstance(where, str | Sequence):
        raise TypeError(f"where: wanted filters, a mapping, a mask, row numbers or a function, found {where!r}")
    for one in [where] if isinstance(where, str | tuple) else where:
        mask &= _holds(parse_filter(one) if isinstance(one, str) else one, columns)
    return np.flatnonzero(mask)


def _from_array(where: np.ndarray, count: int) -> np.ndarray:
    if where.dtype == bool:
        if where.shape != (count,):
            raise InputError(f"where: wanted a mask of {count} rows, found shape {where.shape}")
        return np.flatnonzero(where)
    if where.ndim != 1 or where.dtype.kind not in "iu":
        raise InputError(f"where: wanted a mask or row numbers [K], found {where.dtype} {where.shape}")
    rows = np.unique(where.astype(np.int64))
    if len(rows) and not 0 <= rows[0] <= rows[-1] < count:
        raise InputError(f"where: wanted rows from 0 to {count - 1}, found {rows[0]} to {rows[-1]}")
    return rows


def _from_predicate(where: Callable[[dict[str, Any]], Any], columns: Mapping[str, Column], count: int) -> np.ndarray:
    titles = list(columns)
    rows = zip(*columns.values(), strict=True)
    return np.flatnonzero(np.fromiter((bool(where(dict(zip(titles, row, strict=True)))) for row in rows), bool, count))


def _holds(one: Any, columns: Mapping[str, Column]) -> np.ndarray:
    if not (isinstance(one, Sequence) and len(one) == 3):
        raise InputError(f"filter: wanted (column, operator, value), found {one!r}")
    title, sign, value = one
    if title not in columns:
        raise InputError(f"filter: no column {title!r}; there are {', '.join(columns)}")
    column = columns[title]
    if sign == "~":
        return _matches(title, column, value)
    value = typed_value(title, column.kind, value)
    if sign in ("=", "==", "!="):
        equal = column.equal(value)
        return ~equal if sign == "!=" else equal
    if sign not in _ORDERINGS:
        raise InputError(f"filter on {title!r}: wanted one of {' '.join(OPERATORS)}, found {sign!r}")
    return np.asarray(_ORDERINGS[sign](column.array(), value), bool)


def _matches(title: str, column: Column, pattern: Any) -> np.ndarray:
    if column.kind != "string" or not isinstance(pattern, str):
        raise InputError(f"filter on {title!r}: ~ wants a column of strings and a pattern, found {column.kind}")
    found = re.compile(fnmatch.translate(pattern)).match
    return np.fromiter((found(value) is not None for value in column), bool, len(column))


def typed_value(title: str, kind: str, value: Any) -> Any:
    """The value in the column's kind. Raises InputError when it is of another one."""
    try:
        if kind == "string" and isinstance(value, str):
            return value
        if kind == "flag":
            return value if isinstance(value, bool) else _FLAGS[value.lower()]
        if kind in ("integer", "number") and not isinstance(value, bool):
            return float(value) if kind == "number" or not _is_integer(value) else int(value)
    except (KeyError, ValueError, AttributeError, TypeError):
        pass
    raise InputError(f"filter on {title!r}: wanted a value of kind {kind}, found {value!r}")


def _is_integer(value: Any) -> bool:
    """Whether the value is an integer: large ones must not be converted to floats, but 2.5 may be compared too."""
    return isinstance(value, int | np.integer) or isinstance(value, str) and value.lstrip("+-").isdecimal()
