"""Reading and writing files: both ways with the `gguf` package, all versions, split files, damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf import GGMLType, GGUFWriter, ValueType, open_gguf
from llamakit.gguf.quantize import quantize_file

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"", "is empty"),
        (lambda d: b"GGUX" + d[4:], "does not start with the letters GGUF"),
        (lambda d: d[:4] + struct.pack(">I", 3) + d[8:], "big-endian"),
        (lambda d: d[:4] + struct.pack("<I", 9) + d[8:], "version 9"),
        (lambda d: d[:10], "number of tensors needs 8 bytes"),
        (lambda d: d[:8] + struct.pack("<Q", 1 << 60) + d[16:], "at byte"),
        (lambda d: d[:16] + struct.pack("<Q", 1 << 60) + d[24:], "at byte"),
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
    with pytest.raises(ModelFileError, match=r'metadata key "a\.text" occurs twice'):
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


def test_quantize_refuses_its_source_and_unknown_types(stories260k, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(stories260k.read_bytes())
    with pytest.raises(UsageError, match="is the source itself"):
        quantize_file(copy, copy, "Q8_0")
    with pytest.raises(UsageError, match="near: Q4_K"):
        quantize_file(copy, tmp_path / "x.gguf", "Q4_KM")
