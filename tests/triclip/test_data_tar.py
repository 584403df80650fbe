"""The tar reader against tarfile: every layout that tarfile writes, and every way a file can be cut or damaged."""

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_core.errors import DataError
from tests.triclip.image_text import write_tar
from triclip.data.tar import Member, members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "long/" * 15 + "name" * 20 + ".jpg"


def regular(path):
    return [member for member, no_end in members(path) if not no_end]


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_tarfiles(tmp_path, format):
    contents = [("a.jpg", b"x" * 700), ("b/ü.txt", b""), (LONG, b"y" * 512), ("z" * 99, b"1"), ("../up/../c.png", b"2")]
    path = write_tar(tmp_path / "a.tar", contents, format)
    data = path.read_bytes()
    found = [(member.name, data[member.offset : member.offset + member.size]) for member in regular(path)]
    assert found == contents


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_no_file_is_passed_over(tmp_path, format):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=format) as archive:
        for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "hard")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    write_tar(tmp_path / "b.tar", [("x.jpg", b"abc")], format)
    path.write_bytes(path.read_bytes().rstrip(b"\0") + b"\0" * 2048)
    assert regular(path) == []
    assert [member.name for member in regular(tmp_path / "b.tar")] == ["x.jpg"]


def test_sizes_in_base_256_and_in_pax_headers(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"abc"), ("y.jpg", b"de")])
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (3).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 256)
    path.write_bytes(data)
    assert [(member.name, member.size) for member in regular(path)] == [("x.jpg", 3), ("y.jpg", 2)]

    info = tarfile.TarInfo("big.jpg")
    info.size, info.pax_headers = 5, {"size": "5", "comment": "é" * 40}
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, open(__file__, "rb"))  # noqa: SIM115
    assert [(member.name, member.size) for member in regular(tmp_path / "b.tar")] == [("big.jpg", 5)]


def test_a_file_cut_anywhere_is_an_error_or_known_to_have_no_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"a" * 600), (LONG, b"b" * 10)], tarfile.GNU_FORMAT)
    data, whole = path.read_bytes(), regular(path)
    ends = {member.offset + member.size for member in whole}
    end_mark = -(-max(ends) // 512) * 512
    for cut in range(0, end_mark + 512, 37):
        path.write_bytes(data[:cut])
        try:
            found = list(members(path))
        except DataError as error:
            assert str(path) in str(error)
            continue
        assert found[-1][1] or cut >= end_mark  # the mark is missing, and said to be
        assert [member for member, no_end in found if not no_end] == [m for m in whole if m.offset + m.size <= cut]


def test_an_open_end_is_told(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"a" * 512)])
    path.write_bytes(path.read_bytes()[:1024])
    assert list(members(path)) == [(Member("x.jpg", 512, 512), False), (Member("", 1024, 0), True)]


@pytest.mark.parametrize("position", [0, 100, 124, 148, 156, 300, 1024, 1124])
def test_a_damaged_header_is_named(tmp_path, position):
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"a" * 512), ("y.jpg", b"b")])
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar.*(checksum|header)"):
        regular(path)


@pytest.mark.parametrize("junk", [b"hello", b"PK\3\4" * 300, b"\x1f\x8b" * 600])
def test_what_is_no_tar_is_refused(tmp_path, junk):
    (tmp_path / "a.tar").write_bytes(junk)
    with pytest.raises(DataError, match=r"a\.tar"):
        regular(tmp_path / "a.tar")


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=512, max_size=2048), st.integers(0, 3))
def test_hostile_bytes_never_hang_or_crash(tmp_path_factory, data, blocks):
    path = write_tar(tmp_path_factory.mktemp("t") / "a.tar", [("x.jpg", b"a" * 100)], tarfile.PAX_FORMAT)
    path.write_bytes(path.read_bytes()[: 512 * blocks] + data)
    try:
        for member, _ in members(path):
            assert member.offset + member.size <= path.stat().st_size
    except DataError:
        pass


def test_an_extended_header_with_a_lying_length_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("é" * 120)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    data = path.read_bytes()
    for lie in (b"999", b"0  ", b"-12", b"abc"):
        path.write_bytes(data.replace(data[512:515], lie, 1))
        with pytest.raises(DataError, match="extended header|invalid header"):
            regular(path)
