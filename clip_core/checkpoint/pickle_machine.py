"""A pickle reader that can't execute anything.

Python's own unpickler calls whatever a file names, and even with a restricted `find_class` it can be made to
allocate without bound or to overflow the C stack. This is a small interpreter of the opcodes instead: it builds
plain containers, never imports, and knows only the callables listed in `Machine.calls`.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MAX_OPCODES = 1_000_000  # 5,000 tensors need some 225,000; each may cost about 100 bytes of memory


class Global(NamedTuple):
    """A name that the file refers to. It is only ever a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class State:
    """An object of a class that we don't have: its attributes, none of its behaviour (TorchScript modules)."""

    def __init__(self, kind: Global) -> None:
        self.kind = kind
        self.attributes: dict[str, Any] = {}


class Opaque:
    """A value that a checkpoint may hold and that isn't needed (a NumPy scalar, a reference to a callback)."""


class PickleError(ValueError):
    """The stream is damaged, or asks for something that is not allowed."""


_MARK = object()
_KEYS = (str, int, float, bool, bytes, type(None), Global, Opaque)


class Machine:
    """Runs one pickle.

    Args:
        calls: (module, name) -> what a REDUCE of that name does; nothing else can be called.
        allowed: whether a name may be mentioned, without being called.
        state: whether objects of a class may be built as plain `State`.
        persistent: what a persistent id stands for.
    """

    def __init__(
        self,
        calls: Mapping[Global, Callable[..., Any]],
        allowed: Callable[[Global], bool],
        state: Callable[[Global], bool],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.calls, self.allowed, self.state, self.persistent = calls, allowed, state, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        """The value of the pickle at a stream's position; it needs read, readline, tell. Raises PickleError."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count > MAX_OPCODES:
                    raise PickleError(f"more than {MAX_OPCODES} operations")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError, RecursionError) as error:
            raise error if isinstance(error, PickleError) else PickleError(f"damaged pickle: {error}") from None
        raise PickleError("damaged pickle: it doesn't end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSH:
            self.stack.append(argument)
        elif name in _CONSTANT:
            self.stack.append(_CONSTANT[name]())
        elif name in _PUT:
            self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif handler := getattr(self, f"_{name.lower()}", None):
            handler(*(() if argument is None else (argument,)))
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"the operation {name} is not allowed")

    def _items(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise PickleError("damaged pickle: no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _mark(self) -> None:
        self.stack.append(_MARK)

    def _pop(self) -> None:
        self.stack.pop()

    def _pop_mark(self) -> None:
        self._items()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self) -> None:
        self.stack.append(tuple(self._items()))

    def _tuple1(self) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _list(self) -> None:
        self.stack.append(self._items())

    def _dict(self) -> None:
        items = self._items()
        self.stack.append({})
        self._store(items)

    def _append(self) -> None:
        value = self.stack.pop()
        self._as(list).append(value)

    def _appends(self) -> None:
        items = self._items()
        self._as(list).extend(items)

    def _setitem(self) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self._store(items)

    def _setitems(self) -> None:
        self._store(self._items())

    def _additems(self) -> None:
        self._items()  # sets are opaque

    def _frozenset(self) -> None:
        self._items()
        self.stack.append(Opaque())

    def _store(self, items: list[Any]) -> None:
        target = self._as(dict)
        if len(items) % 2:
            raise PickleError("damaged pickle: a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only flat keys: hashing a deeply nested tuple would overflow the stack of the interpreter itself.
            target[key if isinstance(key, _KEYS) else Opaque()] = value

    def _as(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise PickleError(f"damaged pickle: a {kind.__name__} was expected")
        return self.stack[-1]

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._mention(Global(module, name))

    def _stack_global(self) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        self._mention(Global(str(module), str(name)))

    def _mention(self, what: Global) -> None:
        if not (what in self.calls or self.allowed(what) or self.state(what)):
            raise PickleError(f"it refers to {what}, which is not allowed in a checkpoint; nothing was executed")
        self.stack.append(what)

    def _reduce(self) -> None:
        what, arguments = self.stack[-2:]
        del self.stack[-2:]
        if what not in self.calls if isinstance(what, Global) else True:
            raise PickleError(f"it calls {what if isinstance(what, Global) else 'a value'}, which is not allowed")
        if not isinstance(arguments, tuple):
            raise PickleError("damaged pickle: arguments that are no tuple")
        self.stack.append(self.calls[what](*arguments))

    def _newobj(self) -> None:
        what, _ = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(what, Global) or not self.state(what):
            raise PickleError(f"it creates a {what if isinstance(what, Global) else 'value'}, which is not allowed")
        self.stack.append(State(what))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, State) and isinstance(state, dict):
            target.attributes.update({key: value for key, value in state.items() if isinstance(key, str)})
        elif not isinstance(target, dict | Opaque):  # the attributes of an OrderedDict (`_metadata`) aren't needed
            raise PickleError("it sets the state of a value, which is not allowed")

    def _binpersid(self) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def _persid(self, argument: str) -> None:
        raise PickleError(f"a textual persistent id {argument[:40]!r}")


_PUSH = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
    + ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
    + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
)
_CONSTANT: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": Opaque,
}
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))


def run(data: bytes, machine: Machine) -> Any:
    """The value of a pickle that fills `data`."""
    return machine.run(io.BytesIO(data))
