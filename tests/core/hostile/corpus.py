"""Makes hostile and damaged checkpoints. Each entry of CASES: name -> (maker, what the error must say).

A maker gets an empty folder and returns the path to open. MARKER is what any executed payload would create.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints"
CASES: dict = {}
MARKER = "executed.txt"


def case(name, says):
    def add(maker):
        CASES[name] = (maker, says)
        return maker

    return add


def several(says, **variants):
    """One maker for several cases: name -> its argument."""

    def add(maker):
        for name, value in variants.items():
            CASES[name.replace("_", "-")] = (lambda folder, value=value: maker(folder, value), says)
        return maker

    return add


# --- pickles --------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(folder, data, records=(), name="x.pt", root="archive"):
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for key, content in records:
            archive.writestr(key, content)
    return path


def touch(folder):
    return f"touch {folder / MARKER}"


def _payload(folder, kind):
    import builtins
    import subprocess

    code = f"open({str(folder / MARKER)!r}, 'w')"
    return {
        "system": Call(os.system, touch(folder)),
        "popen": Call(subprocess.Popen, ["touch", str(folder / MARKER)]),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "getattr": Call(builtins.getattr, os, "system"),
        "open": Call(builtins.open, str(folder / MARKER), "w"),
        "nested": {"state_dict": {"a": [({"b": Call(builtins.eval, code)},)]}},
        "in_arguments": Call(bytes, Call(builtins.eval, f"{code} and b''")),
        "import": Call(builtins.__import__, "antigravity"),
        "bare": {"weight": os.system},
    }[kind]


PAYLOADS = ("system", "popen", "eval", "exec", "open", "nested", "in_arguments", "import", "bare")


@several("not allowed", **{f"pickle_{kind}_protocol_{p}": (kind, p) for kind in PAYLOADS for p in (2, 4)})
def pickle_global(folder, chosen):
    kind, protocol = chosen
    return zipped(folder, pickle.dumps(_payload(folder, kind), protocol))


@several("not allowed|damaged", **{f"legacy_{kind}": kind for kind in ("system", "eval", "nested")})
def legacy_pickle(folder, kind):
    path = folder / "x.bin"
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    path.write_bytes(magic + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickle.dumps(_payload(folder, kind), 2))
    return path


@several("not allowed", torchscript_global="os\nsystem", torchscript_builtin="builtins\neval")
def torchscript(folder, name):
    data = b"\x80\x02c__torch__.m\nM\n)\x81}X\x01\x00\x00\x00ac" + name.encode() + b"\nX\x01\x00\x00\x001\x85Rsb."
    code = f"import os\nos.system({touch(folder)!r})\n"
    return zipped(folder, data, [("archive/code/__torch__/m.py", code), ("archive/constants.pkl", b"cos\nsystem\n.")])


_OPCODES = {
    "inst": b"(X\x01\x00\x00\x00xios\nsystem\n.",
    "obj": b"(cos\nsystem\nX\x01\x00\x00\x00xo.",
    "extension": b"\x82\x01.",
    "build_on_global": b"ccollections\nOrderedDict\n}b.",
    "new_of_global": b"ccollections\nOrderedDict\n)\x81.",
    "call_of_value": b"X\x01\x00\x00\x00x)R.",
    "bad_arguments": b"ccollections\nOrderedDict\nX\x01\x00\x00\x00xR.",
    "no_mark": b"t.",
    "empty": b".",
    "no_end": b"\x80\x02}",
    "unknown_opcode": b"\xff\xfe.",
    "memo_missing": b"h\x07.",
    "odd_items": b"}(X\x01\x00\x00\x00xu.",
    "appends_to_nothing": b"Na.",
    "bytes_of_4GB": b"B\xff\xff\xff\xff.",
    "bytes8_of_2EB": b"\x8e" + b"\xff" * 7 + b"\x1f.",
    "text_of_4GB": b"X\xff\xff\xff\xffabc.",
    "frame_of_2EB": b"\x80\x04\x95" + b"\xff" * 7 + b"\x1f}.",
    "long_of_2GB": b"\x8b\xff\xff\xff\x7f\x01.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "persistent_text": b"Pos.system\n.",
    "persistent_not_storage": b"X\x01\x00\x00\x00xQ.",
    "storage_of_global": b"(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
    "deep_key": b"}" + b"N" + b"\x85" * 300_000 + b"Ns.",
    "deep_list": b"]" * 200_000 + b"a" * 199_999 + b".",
    "memo_of_4G": b"Nr\xff\xff\xff\xff.",
}


@several(
    "damaged|not allowed|no storage|unknown kind|no CLIP|operation|textual|creates|calls|sets",
    **{f"opcodes_{k}": v for k, v in _OPCODES.items()},
)
def opcodes(folder, data):
    return zipped(folder, data)


@case("pickle-too-long", "operations")
def too_long(folder):
    return zipped(folder, b"\x80\x02" + b"N0" * 4_000_000 + b".")


@case("pickle-many-containers", "operations")
def many_containers(folder):
    return zipped(folder, b"(" + b"]" * 5_000_000 + b"t.")


@case("pickle-laughs", "nested too deeply|more than")
def laughs(folder):
    """Dicts that share their children: 2**40 names out of 1 kB."""
    data = b"}q\x00"
    for level in range(40):
        here, there = bytes([level]), bytes([level + 1])
        data += b"}q" + there + b"(X\x01\x00\x00\x00ah" + here + b"X\x01\x00\x00\x00bh" + here + b"u"
    return zipped(folder, data + b".")


@case("pickle-cycle", "nested too deeply|more than")
def cycle(folder):
    return zipped(folder, b"}q\x00X\x01\x00\x00\x00ah\x00s.")


def tensor_pickle(count=4, offset=0, shape=(4,), stride=(1,), key="0", storage="FloatStorage"):
    from clip_core.checkpoint.torch_writer import _integer, _text, _tuple

    def number(value):
        return _integer(value) if value >= 0 else b"J" + struct.pack("<i", value)

    def numbers(values):
        return b"(" + b"".join(number(v) for v in values) + b"t"

    assert _tuple((1,)) == numbers((1,))
    name = "text_model.embeddings.token_embedding.weight"
    return (
        b"\x80\x02}"
        + _text(name)
        + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + _text("storage")
        + f"ctorch\n{storage}\n".encode()
        + _text(key)
        + _text("cpu")
        + number(count)
        + b"tQ"
        + number(offset)
        + numbers(shape)
        + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


TENSORS = {
    "expanded_to_4TB": {"shape": (2**40,), "stride": (0,)},
    "expanded_twice": {"shape": (2**20, 2**20), "stride": (0, 0)},
    "beyond_storage": {"shape": (5,)},
    "offset_beyond": {"offset": 1},
    "offset_negative": {"offset": -4},
    "stride_negative": {"stride": (-1,)},
    "stride_far": {"shape": (2,), "stride": (2**40,)},
    "shape_negative": {"shape": (-4,)},
    "shape_and_stride": {"shape": (2, 2)},
    "storage_too_large": {"count": 2**40},
    "storage_negative": {"count": -4},
    "record_missing": {"key": "7"},
    "record_traversal": {"key": "../../../etc/passwd"},
    "storage_unknown": {"storage": "EvilStorage"},
}


@several("storage|record|shape|natural number|not allowed", **{f"tensor_{k}": v for k, v in TENSORS.items()})
def tensors(folder, options):
    return zipped(folder, tensor_pickle(**options), [("archive/data/0", b"\0" * 16)])


@case("zip-bomb", "compressed")
def zip_bomb(folder):
    with zipfile.ZipFile(folder / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 300_000_000)
    return folder / "x.pt"


@case("zip-bomb-data", "compressed")
def zip_bomb_data(folder):
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(count=75_000_000, shape=(75_000_000,)))
        archive.writestr("archive/data/0", b"\0" * 300_000_000, zipfile.ZIP_DEFLATED)
    return folder / "x.pt"


@several(
    "one <name>/data.pkl|zip",
    zip_traversal="../../evil/data.pkl",
    zip_absolute="/etc/evil/data.pkl",
    zip_nothing="readme.txt",
)
def zip_names(folder, name):
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr(name, tensor_pickle())
    return folder / "x.pt"


@case("zip-two-roots", "one <name>/data.pkl")
def two_roots(folder):
    return zipped(folder, tensor_pickle(), [("other/data.pkl", tensor_pickle()), ("archive/data/0", b"\0" * 16)])


@case("zip-twice", "twice")
def twice(folder):
    return zipped(folder, tensor_pickle(), [("archive/data/0", b"\0" * 16), ("archive/data/0", b"\1" * 16)])


@case("zip-link", "record|storage")
def zip_link(folder):
    path = zipped(folder, tensor_pickle())
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("archive/data/0")
        info.external_attr = 0o120777 << 16  # a symbolic link to a file outside
        archive.writestr(info, "/etc/passwd")
    return path


@several("zip", zip_cut=0.5, zip_cut_late=0.98)
def zip_cut(folder, part):
    data = (GOLDEN / "hf-bin" / "pytorch_model.bin").read_bytes()
    (folder / "x.bin").write_bytes(data[: int(len(data) * part)])
    return folder / "x.bin"


@case("zip-header-offset", "local header|zip|beyond")
def zip_header_offset(folder):
    path = zipped(folder, tensor_pickle(), [("archive/data/0", b"\0" * 16)])
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 42 : entry + 46] = struct.pack("<I", 3)
    path.write_bytes(data)
    return path


# --- safetensors ----------------------------------------------------------------------------------------------------

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(folder, header, data=b"\0" * 8, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return folder / "x.safetensors"


HEADERS = {
    "overlap": {"a": ENTRY, "b": ENTRY},
    "overlap_partly": {"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}},
    "hole": {"a": {**ENTRY, "data_offsets": [8, 16]}},
    "beyond": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
    "far_beyond": {"a": {"dtype": "U8", "shape": [2**60], "data_offsets": [0, 2**60]}},
    "backwards": {"a": {**ENTRY, "data_offsets": [8, 0]}},
    "negative": {"a": {**ENTRY, "data_offsets": [-8, 0]}},
    "fraction": {"a": {**ENTRY, "data_offsets": [0.0, 8.0]}},
    "three_offsets": {"a": {**ENTRY, "data_offsets": [0, 8, 8]}},
    "too_short": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    "wrong_dtype": {"a": {**ENTRY, "dtype": "F64"}},
    "unknown_dtype": {"a": {**ENTRY, "dtype": "F128"}},
    "dtype_number": {"a": {**ENTRY, "dtype": 32}},
    "shape_overflow": {"a": {**ENTRY, "shape": [2**32, 2**32, 2**32]}},
    "shape_text": {"a": {**ENTRY, "shape": "2"}},
    "shape_true": {"a": {**ENTRY, "shape": [True, 2]}},
    "shape_long": {"a": {**ENTRY, "shape": [1] * 10_000 + [2]}},
    "no_shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "entry_list": {"a": [1, 2]},
    "metadata_number": {"__metadata__": {"a": 1}, "a": ENTRY},
    "metadata_list": {"__metadata__": [], "a": ENTRY},
    "list": [1],
    "deep": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "twice": b'{"a":' + json.dumps(ENTRY).encode() + b',"a":' + json.dumps(ENTRY).encode() + b"}",
    "nan": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "not_utf8": b'{"\xff\xfe":1}',
    "cut_json": b'{"a":{"dtype":"F32",',
    "empty": b"",
    "digits": b'{"a":{"dtype":"F32","shape":[' + b"9" * 50_000 + b'],"data_offsets":[0,8]}}',
}


SAYS = {"overlap": "overlaps", "overlap-partly": "overlaps", "hole": "leaves a hole", "beyond": "the file at"}
SAYS |= {"backwards": "needs", "negative": "bad data_offsets", "too-short": "the file at", "twice": "duplicate key"}
SAYS |= {"nan": "no JSON number", "shape-overflow": "needs", "unknown-dtype": "unknown dtype", "wrong-dtype": "needs"}


@several("x.safetensors", **{f"safetensors_{k}": v for k, v in HEADERS.items()})
def headers(folder, header):
    return safetensors(folder, header)


for _name, _text in SAYS.items():
    CASES[f"safetensors-{_name}"] = (CASES[f"safetensors-{_name}"][0], f"x.safetensors.*{_text}")


@several("header", safetensors_header_2EB=2**61, safetensors_header_4GB=2**32, safetensors_header_max=2**64 - 1)
def lengths(folder, length):
    return safetensors(folder, {"a": ENTRY}, length=length)


@several("empty file|too few|not a|header", file_empty=b"", file_7_bytes=b"1234567", file_text=b"hello world" * 9)
def tiny(folder, data):
    (folder / "x.safetensors").write_bytes(data)
    return folder / "x.safetensors"


@several(
    "not a|neither|signature|after the end", pt="x.pt", h5="x.h5", msgpack="x.msgpack", ckpt="x.ckpt", jpeg="x.jpg"
)
def text_files(folder, name):
    (folder / name).write_bytes(b"\xff\xd8\xff\xe0 this is no checkpoint at all, whatever its name says")
    return folder / name


# --- indexes and folders --------------------------------------------------------------------------------------------


def index(folder, weight_map, **files):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    good = GOLDEN / "hf-vision" / "model.safetensors"
    for name in files:
        (folder / files[name]).write_bytes(good.read_bytes())
    return folder


SHARDS = {
    "traversal": "../outside.safetensors",
    "absolute": "/etc/passwd",
    "dots": "..",
    "backslash": "..\\outside.safetensors",
    "nul": "a\0b",
    "folder": "sub/x.safetensors",
    "number": 3,
    "list": ["a"],
    "long": "a" * 5000,
}


@several("shard name|not there", **{f"index_{k}": v for k, v in SHARDS.items()})
def index_shards(folder, shard):
    inner = folder / "in"
    inner.mkdir()
    (folder / "outside.safetensors").write_bytes((GOLDEN / "hf" / "model.safetensors").read_bytes())
    (inner / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"logit_scale": shard}}, default=list)
    )
    return inner


@case("index-link", "leaves the folder")
def index_link(folder):
    inner = folder / "in"
    inner.mkdir()
    (folder / "outside.safetensors").write_bytes((GOLDEN / "hf" / "model.safetensors").read_bytes())
    (inner / "a.safetensors").symlink_to(folder / "outside.safetensors")
    return index(inner, {"logit_scale": "a.safetensors"})


@case("index-missing-shard", "not there")
def index_missing(folder):
    return index(folder, {"logit_scale": "a.safetensors"})


@case("index-lies", "not in the files")
def index_lies(folder):
    return index(folder, {"logit_scale": "a.safetensors"}, a="a.safetensors")


@case("index-same-tensor-twice", "is in")
def index_twice(folder):
    names = {"vision_model.pre_layrnorm.weight": "a.safetensors", "vision_model.pre_layrnorm.bias": "b.safetensors"}
    return index(folder, names, a="a.safetensors", b="b.safetensors")


@several("weight_map|JSON", index_empty="{}", index_no_json="{", index_array="[]", index_deep="[" * 100_000)
def index_content(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


@case("pipe", "found no regular file")
def pipe(folder):
    os.mkfifo(folder / "model.safetensors")  # opening it would block for ever
    return folder


@case("pipe-shard", "not there")
def pipe_shard(folder):
    os.mkfifo(folder / "a.safetensors")
    return index(folder, {"logit_scale": "a.safetensors"})


@case("folder-for-file", "wanted a file, found a folder")
def folder_for_file(folder):
    (folder / "model.safetensors").mkdir()
    return folder


@case("huge-tokenizer", "too many")
def huge_tokenizer(folder):
    import shutil

    shutil.copytree(GOLDEN / "hf", folder, dirs_exist_ok=True)
    with open(folder / "merges.txt", "wb") as file:
        file.truncate(2**33)
    return folder


# --- HDF5 -----------------------------------------------------------------------------------------------------------

PLACE = "clip/tfclip_model/clip/text_model/embeddings/token_embedding"


def h5(folder, fill):
    import h5py

    with h5py.File(folder / "tf_model.h5", "w") as file:
        fill(file, file.require_group(PLACE), h5py)
    return folder / "tf_model.h5"


def _external_storage(file, group, h5py):
    group.create_dataset("weight:0", (4, 4), "f4", external=[("/etc/passwd", 0, 64)])


def _virtual(file, group, h5py):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    group.create_virtual_dataset("weight:0", layout)


def _soft_loop(file, group, h5py):
    group["weight:0"] = h5py.SoftLink(f"/{PLACE}/weight:0")


def _hard_loop(file, group, h5py):
    group["again"] = file["clip"]


def _unwritten(file, group, h5py):
    group.create_dataset("weight:0", (2**20, 2**20), "f4", chunks=(1024, 1024))


def _gzip_bomb(file, group, h5py):
    group.create_dataset("weight:0", data=np.zeros((4096, 4096), "f4"), compression="gzip", compression_opts=9)


def _deep(file, group, h5py):
    for _ in range(200):
        group = group.create_group("g")


H5 = {
    "external_link": lambda f, g, h5py: g.__setitem__("weight:0", h5py.ExternalLink("/etc/passwd", "/x")),
    "soft_loop": _soft_loop,
    "hard_loop": _hard_loop,
    "external_storage": _external_storage,
    "virtual": _virtual,
    "unwritten_4TB": _unwritten,
    "gzip_bomb": _gzip_bomb,
    "deep": _deep,
    "references": lambda f, g, h5py: g.create_dataset("weight:0", data=np.array([f.ref], h5py.ref_dtype)),
    "text": lambda f, g, h5py: g.create_dataset("weight:0", data=np.array([b"abc", b"d"])),
    "empty": lambda f, g, h5py: g.create_dataset("weight:0", data=h5py.Empty("f4")),
}


@several("link|same object|other files|are kept in|nested|no CLIP", **{f"h5_{k}": v for k, v in H5.items()})
def h5_files(folder, fill):
    return h5(folder, fill)


@several("HDF5", h5_cut=0.3, h5_cut_late=0.97)
def h5_cut(folder, part):
    data = (GOLDEN / "tf-text" / "tf_model.h5").read_bytes()
    (folder / "tf_model.h5").write_bytes(data[: int(len(data) * part)])
    return folder / "tf_model.h5"


# --- msgpack and npz ------------------------------------------------------------------------------------------------


def array(shape=b"\x92\x02\x02", dtype=b"\xa7float32", data=b"\xc4\x10" + b"\0" * 16, kind=1, size=None):
    body = b"\x93" + shape + dtype + data
    return b"\xc7" + bytes([len(body) if size is None else size, kind]) + body


MSGPACK = {
    "depth_bomb": b"\x81\xa1a" * 500_000,
    "array_depth_bomb": b"\x91" * 1_000_000,
    "map_of_4G": b"\xdf\xff\xff\xff\xff",
    "array_of_4G": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "bytes_of_4GB": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "text_of_4GB": b"\x81\xdb\xff\xff\xff\xffa",
    "extension_of_4GB": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "extension_other": b"\x81\xa1a" + array(kind=7),
    "shape_lies": b"\x81\xa1a" + array(shape=b"\x92\x02\x03"),
    "shape_huge": b"\x81\xa1a" + array(shape=b"\x92\xcf" + b"\x7f" * 8 + b"\xcf" + b"\x7f" * 8),
    "shape_negative": b"\x81\xa1a" + array(shape=b"\x92\xff\xff"),
    "shape_nested": b"\x81\xa1a" + array(shape=b"\x92\x91\x02\x02"),
    "dtype_object": b"\x81\xa1a" + array(dtype=b"\xa6object"),
    "dtype_number": b"\x81\xa1a" + array(dtype=b"\x07"),
    "no_bytes": b"\x81\xa1a" + array(data=b"\x07"),
    "wrong_size": b"\x81\xa1a" + array(size=20),
    "key_number": b"\x81\x01\x02",
    "key_list": b"\x81\x91\x01\x02",
    "key_twice": b"\x82\xa1a\x01\xa1a\x02",
    "trailing": b"\x80\x80",
    "not_a_map": b"\x93\x01\x02\x03",
    "reserved": b"\xc1",
    "bad_text": b"\x81\xa2\xff\xfe\x01",
    "empty": b"",
    "chunks_lie": b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x09\xa6chunks\x81\xa10" + array(),
    "chunks_missing": b"\x81\xa1a\x81\xb9__msgpack_chunked_array__\xc3",
}


@several("x.msgpack", **{f"msgpack_{k}": v for k, v in MSGPACK.items()})
def msgpack(folder, data):
    (folder / "x.msgpack").write_bytes(data)
    return folder / "x.msgpack"


@case("npz-objects", "x.npz")
def npz_objects(folder):
    np.savez(folder / "x.npz", a=np.array([Call(os.system, touch(folder))], object))
    return folder / "x.npz"


@case("npz-bomb", "are kept in")
def npz_bomb(folder):
    np.savez_compressed(folder / "x.npz", a=np.zeros(50_000_000, "f4"))
    return folder / "x.npz"


@case("npz-lies", "are kept in")
def npz_lies(folder):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    return folder / "x.npz"


# --- configurations -------------------------------------------------------------------------------------------------


def with_config(folder, change):
    import shutil

    shutil.copy(GOLDEN / "hf" / "model.safetensors", folder)
    config = json.loads((GOLDEN / "hf" / "config.json").read_text())
    text = change(config)
    (folder / "config.json").write_text(text if isinstance(text, str) else json.dumps(config))
    return folder


CONFIGS = {
    "not_json": lambda c: "{",
    "list": lambda c: "[]",
    "deep": lambda c: "[" * 100_000,
    "nan": lambda c: c["text_config"].update(layer_norm_eps=float("nan")),
    "heads_zero": lambda c: c["text_config"].update(num_attention_heads=0),
    "heads_negative": lambda c: c["text_config"].update(num_attention_heads=-2),
    "heads_odd": lambda c: c["text_config"].update(num_attention_heads=7),
    "heads_huge": lambda c: c["text_config"].update(num_attention_heads=10**30),
    "eps_negative": lambda c: c["vision_config"].update(layer_norm_eps=-1.0),
    "eps_text": lambda c: c["vision_config"].update(layer_norm_eps="small"),
    "activation": lambda c: c["text_config"].update(hidden_act="__import__('os').system('x')"),
    "activation_list": lambda c: c["text_config"].update(hidden_act=[]),
    "tower_list": lambda c: c.update(text_config=[1, 2]),
    "other_model": lambda c: c.update(model_type="siglip"),
    "dropout": lambda c: c["text_config"].update(attention_dropout=7),
}


@several("config|wanted|JSON", **{f"config_{k}": v for k, v in CONFIGS.items()})
def configs(folder, change):
    return with_config(folder, change)


KERAS = {
    "lambda": {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "os.system"}},
    "no_heads": {"class_name": "CLIPBackbone", "config": {"text_encoder": {}, "vision_encoder": {}}},
    "list": {"class_name": "CLIPBackbone", "config": []},
}


@several("KerasHub|num_heads", **{f"kerashub_{k}": v for k, v in KERAS.items()})
def kerashub(folder, content):
    import shutil

    shutil.copy(GOLDEN / "kerashub" / "model.weights.h5", folder)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


OPEN_CLIP = {
    "empty": {},
    "text_tower": {"model_cfg": {"text_cfg": {"hf_model_name": "evil/model"}, "vision_cfg": {}}},
    "not_causal": {"model_cfg": {"text_cfg": {"no_causal_mask": True}, "vision_cfg": {}}},
    "timm": {"model_cfg": {"text_cfg": {}, "vision_cfg": {"timm_model_name": "x"}}},
}


@several("model_cfg|plain CLIP", **{f"open_clip_{k}": v for k, v in OPEN_CLIP.items()})
def open_clip(folder, content):
    import shutil

    shutil.copy(GOLDEN / "open_clip" / "open_clip_model.safetensors", folder)
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


ORBAX = {
    "empty": "{}",
    "no_json": "{",
    "bad_entry": '{"tree_metadata": {"a": 1}}',
    "no_array": ('{"tree_metadata": {"a": {"key_metadata": [{"key": "params"}, {"key": "x"}], "value_metadata": {}}}}'),
}


@several("METADATA|JSON|params.x", **{f"orbax_{k}": v for k, v in ORBAX.items()})
def orbax(folder, text):
    item = folder / "0" / "text_encoder_state"
    item.mkdir(parents=True)
    (item / "_METADATA").write_text(text)
    return folder


if __name__ == "__main__":
    assert pickletools and len(CASES) >= 60
    print(len(CASES), "hostile files")
