"""Reading and writing files: both ways with the `gguf` package, all versions, split files, damaged files."""

from __future__ import annotations

import gc
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamakit.errors import FileWriteError, ModelFileError, UsageError
from llamakit.gguf import GGMLType, GGUFWriter, ValueType, open_gguf
from llamakit.gguf.atomic import whole_file
from llamakit.gguf.quantize import copy_metadata, quantize_file

VALUES = {
    "general.architecture": "llama",
    "a.text": "grüße \U0001f600",
    "a.int": 7,
    "a.negative": -7,
    "a.float": 0.5,
    "a.bool": True,
    "a.texts": ["", "one", "\u2581two"],
    "a.floats": np.array([0.5, -1.5], np.float32),
    "a.ints": np.array([1, -2, 3], np.int32),
}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.gguf"
    with GGUFWriter(path) as writer:
        for key, value in VALUES.items():
            writer.add(key, value)
        writer.add("a.u8", 200, ValueType.UINT8)
        writer.add("a.f64", 0.1, ValueType.FLOAT64)
        writer.add_tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
        writer.add_tensor("q", np.arange(68, dtype=np.uint8), GGMLType.Q8_0, (2, 32))
    return path


def plain(value: object) -> object:
    return list(value) if not isinstance(value, (str, int, float, bool)) else value


def test_what_is_written_is_read(sample):
    with open_gguf(sample) as file:
        for key, value in VALUES.items():
            assert plain(file.metadata[key]) == plain(value)
        assert file.metadata["a.u8"] == 200
        assert file.metadata.value_type("a.u8") == (ValueType.UINT8, None)
        assert file.metadata["a.f64"] == 0.1
        assert file.tensor("x").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert file.raw("q").tolist() == list(range(68))
        assert (file.tensors["q"].shape, file.tensors["q"].type) == ((2, 32), GGMLType.Q8_0)


def test_the_gguf_package_reads_what_we_write(sample):
    reader = gguf.GGUFReader(sample)
    assert reader.fields["a.text"].contents() == VALUES["a.text"]
    assert reader.fields["a.texts"].contents() == VALUES["a.texts"]
    assert reader.fields["a.ints"].contents() == [1, -2, 3]
    tensors = {t.name: t for t in reader.tensors}
    assert tensors["x"].data.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["q"].tensor_type == gguf.GGMLQuantizationType.Q8_0


def test_we_read_what_the_gguf_package_writes(tmp_path):
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("a.texts", ["x", "yz"])
    writer.add_uint64("a.big", 1 << 40)
    writer.add_tensor("w", np.ones((3, 5), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as file:
        assert list(file.metadata["a.texts"]) == ["x", "yz"]
        assert file.metadata["a.big"] == 1 << 40
        assert file.tensor("w").shape == (3, 5)


@pytest.mark.parametrize(
    ("values", "element"),
    [
        ([1, -1], ValueType.INT64),
        ([1, 0.5], ValueType.FLOAT32),
        ([1, 1 << 40], ValueType.INT64),
        ([1, 1 << 63], ValueType.UINT64),
        ([True, False], ValueType.BOOL),
        ([], ValueType.UINT32),
    ],
)
def test_the_type_of_an_array_holds_all_of_it(tmp_path, values, element):
    path = tmp_path / "a.gguf"
    with GGUFWriter(path) as writer:
        writer.add("k", values)
    with open_gguf(path) as file:
        assert file.value_type("k") == (ValueType.ARRAY, element)
        assert list(file.metadata["k"]) == values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("k", 300, ValueType.UINT8), "no UINT8"),
        (("k", [300], ValueType.ARRAY, ValueType.UINT8), "0 to 255"),
        (("k", ["a", 1]), "of one type, not STRING, UINT32"),
        (("k", [[1], [2]]), "of one type"),
        (("k", "x", ValueType.UINT8), "a text cannot be stored as UINT8"),
        (("", 1), "1 to 65535 bytes"),
        (("k", [1.5], ValueType.ARRAY, ValueType.INT32), "not all elements are integers"),
        (("k", object()), "has no GGUF type"),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_refused(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message), GGUFWriter(tmp_path / "a.gguf") as writer:
        writer.add(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("type_", "shape", "n", "message"),
    [
        (GGMLType.Q8_0, (1, 40), 34, "not a multiple of Q8_0's 32"),
        (GGMLType.F32, (1, 1, 1, 1, 1), 4, "1 to 4 sizes"),
        (GGMLType.F32, (0, 4), 0, "at least 1"),
        (GGMLType.F32, (4,), 20, "takes 16 bytes, 20 are given"),
    ],
)
def test_a_tensor_that_the_format_cannot_hold_is_refused(tmp_path, type_, shape, n, message):
    writer = GGUFWriter(tmp_path / "a.gguf")
    with pytest.raises(UsageError, match=message):
        writer.add_tensor("x", np.zeros(n, np.uint8), type_, shape)


def test_an_impossible_alignment_is_refused(tmp_path):
    with pytest.raises(UsageError, match="power of two"):
        GGUFWriter(tmp_path / "a.gguf", alignment=3)


def test_a_copy_of_metadata_is_equal_to_the_byte(sample, tmp_path):
    odd, copy = tmp_path / "odd.gguf", tmp_path / "copy.gguf"
    with open_gguf(sample) as file, GGUFWriter(odd) as writer:
        copy_metadata(file, writer)
        writer.add("broken.text", b"\xff\xfe")
        writer.add("broken.texts", [b"\xff", b"ok"])
    with open_gguf(odd) as file, GGUFWriter(copy) as writer:
        copy_metadata(file, writer)
    assert odd.read_bytes() == copy.read_bytes()


def test_a_closed_file_says_so(sample):
    file = open_gguf(sample)
    file.close()
    with pytest.raises(ModelFileError, match="is closed"):
        file.tensor("x")
    with pytest.raises(ModelFileError, match="is closed"):
        file.metadata["a.text"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="pipe or a device"):
        open_gguf(tmp_path / "pipe")


def test_many_tiny_records_are_refused_before_they_take_memory(tmp_path):
    n = 70_000
    records = b"".join(struct.pack("<I5sIB", 5, b"%05d" % i, 0, 1) for i in range(n))
    path = tmp_path / "many.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<III", 1, 0, n) + records)
    with pytest.raises(ModelFileError, match=r"at byte 8: .*70000 metadata entries; at most 65536"):
        open_gguf(path)


def test_overlapping_tensors_are_refused(sample, tmp_path):
    path = tmp_path / "overlap.gguf"
    data = sample.read_bytes()
    place = data.index(b"q" + struct.pack("<IQQIQ", 2, 32, 2, 8, 32)) + 1 + 4 + 16 + 4
    path.write_bytes(data[:place] + struct.pack("<Q", 0) + data[place + 8 :])
    with pytest.raises(ModelFileError, match=r'at byte \d+: tensors "[qx]" and "[qx]" overlap'):
        open_gguf(path)


def test_a_failure_leaves_nothing_and_spares_the_old_file(tmp_path):
    path = tmp_path / "out.gguf"
    path.write_bytes(b"old")

    def explode() -> np.ndarray:
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError), GGUFWriter(path) as writer:
        writer.add_tensor("x", explode, GGMLType.F32, (4,))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def version_1(tensor_offset: int = 0) -> bytes:
    """A file of version 1: 32-bit counts, lengths and sizes."""

    def text(s: str) -> bytes:
        return struct.pack("<I", len(s)) + s.encode()

    head = b"GGUF" + struct.pack("<III", 1, 1, 2)
    head += text("general.name") + struct.pack("<I", 8) + text("old")
    head += text("t") + struct.pack("<III", 9, 8, 2) + text("a") + text("bc")
    head += text("x") + struct.pack("<IIIIQ", 2, 2, 3, 0, tensor_offset)
    return head + bytes(-len(head) % 32) + np.arange(6, dtype="<f4").tobytes()


def test_version_1_is_read(tmp_path):
    path = tmp_path / "v1.gguf"
    path.write_bytes(version_1())
    with open_gguf(path) as file:
        assert (file.version, file.metadata["general.name"], list(file.metadata["t"])) == (1, "old", ["a", "bc"])
        assert file.tensor("x").tolist() == [[0, 1], [2, 3], [4, 5]]


def test_version_2_is_read(sample, tmp_path):
    data = bytearray(sample.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path = tmp_path / "v2.gguf"
    path.write_bytes(data)
    with open_gguf(path) as file:
        assert file.version == 2
        assert file.tensor("x")[1, 2] == 5


def write_split(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"m-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        with GGUFWriter(path) as writer:
            writer.add("split.count", count, ValueType.UINT16)
            writer.add("split.no", i, ValueType.UINT16)
            if i == 0:
                writer.add("general.name", "split")
            writer.add_tensor(f"t{i}", np.full(4, i, np.float32))
    return paths


def test_a_split_model_opens_from_any_part(tmp_path):
    paths = write_split(tmp_path)
    for path in paths:
        with open_gguf(path) as file:
            assert file.metadata["general.name"] == "split"
            assert [file.tensor(f"t{i}")[0] for i in range(3)] == [0, 1, 2]


def test_a_missing_part_is_named(tmp_path):
    paths = write_split(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelFileError, match=r"missing beside it: m-00002-of-00003\.gguf"):
        open_gguf(paths[0])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_split_models_give_their_descriptors_back(tmp_path):
    paths = write_split(tmp_path)
    before = list(Path("/proc/self/fd").iterdir())
    for path in paths:
        open_gguf(path).close()
        file = open_gguf(path)
        del file  # dropped, not closed
    paths[2].write_bytes(b"GGUF and nothing else")
    with pytest.raises(ModelFileError):
        open_gguf(paths[0])
    paths[1].unlink()
    with pytest.raises(ModelFileError):
        open_gguf(paths[0])
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_a_link_stays_one_and_what_is_no_file_stays_what_it_is(tmp_path):
    model, link, pipe = tmp_path / "model", tmp_path / "link", tmp_path / "pipe"
    model.write_bytes(b"old")
    link.symlink_to(model)
    with whole_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert model.read_bytes() == b"new"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(FileWriteError, match="not a regular file"), whole_file(path) as file:
            file.write(b"new")
    assert pipe.is_fifo()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "model", "pipe"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"", "is empty"),
        (lambda d: b"GGUX" + d[4:], "does not start with the letters GGUF"),
        (lambda d: d[:4] + struct.pack(">I", 3) + d[8:], "big-endian"),
        (lambda d: d[:4] + struct.pack("<I", 9) + d[8:], "version 9"),
        (lambda d: d[:10], "number of tensors needs 8 bytes"),
        (
            lambda d: d[:8] + struct.pack("<Q", 1 << 60) + d[16:],
            "at byte 8: the file claims 1152921504606846976 tensors",
        ),
        (lambda d: d[:16] + struct.pack("<Q", 1 << 60) + d[24:], "at byte 8: .* and 1152921504606846976 metadata"),
        (lambda d: d[:-64], "the file has"),
        (lambda d: d.replace(b"a.float\x06", b"a.float\x63"), "unknown type 99"),
    ],
)
def test_damage_is_reported_with_its_place(sample, tmp_path, change, message):
    path = tmp_path / "bad.gguf"
    data = change(sample.read_bytes())
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=message):
        open_gguf(path)


def test_duplicate_keys_are_refused(sample, tmp_path):
    path = tmp_path / "twice.gguf"
    data = sample.read_bytes().replace(b"a.bool", b"a.text")
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r'at byte \d+: metadata key "a\.text" occurs twice'):
        open_gguf(path)


def test_a_misaligned_tensor_is_refused(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(version_1(tensor_offset=4))
    with pytest.raises(ModelFileError, match="no multiple of the alignment 32"):
        open_gguf(path)


def test_a_missing_file_names_its_neighbours(sample):
    with pytest.raises(ModelFileError, match=r"no file .*sample2.gguf\n  found .*sample.gguf"):
        open_gguf(sample.with_name("sample2.gguf"))


def test_a_missing_tensor_names_near_ones(sample):
    with open_gguf(sample) as file, pytest.raises(ModelFileError, match="has no tensor"):
        file.tensor("y")


def test_quantize_keeps_metadata_and_lists_what_does_not_fit(stories260k, tmp_path):
    out = tmp_path / "q.gguf"
    report = quantize_file(stories260k, out, "q4_0")
    assert {(f.tensor, f.given) for f in report.fallbacks} >= {("blk.0.ffn_down.weight", "F16")}
    with open_gguf(stories260k) as before, open_gguf(out) as after:
        assert list(before.tensors) == list(after.tensors)
        assert set(before.metadata) <= set(after.metadata)
        assert after.tensors["blk.0.attn_q.weight"].type == GGMLType.Q4_0
        assert after.tensors["blk.0.attn_norm.weight"].type == GGMLType.F32
        for key in set(before.metadata) - {"general.file_type"}:
            assert plain(before.metadata[key]) == plain(after.metadata[key])
            assert before.metadata.value_type(key) == after.metadata.value_type(key)
        error = before.tensor("blk.0.attn_q.weight") - after.tensor("blk.0.attn_q.weight")
        assert 0 < np.abs(error).mean() < 0.05


def test_quantize_refuses_its_source_and_unknown_types(small_model, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(small_model.read_bytes())
    with pytest.raises(UsageError, match="would replace the source"):
        quantize_file(copy, copy, "Q8_0")
    with pytest.raises(UsageError, match="found   Q4_K_M, Q4_K"):
        quantize_file(copy, tmp_path / "x.gguf", "Q4_KM")
