"""`llamakit lora` and `llamakit export-lora`, from the command line to files and messages."""

from __future__ import annotations

import json

import pytest

from llamakit.cli import run
from llamakit.embedded import FILE
from llamakit.gguf import open_gguf
from llamakit.lora.merge import merge_adapters
from llamakit.testing.lora import ggla_bytes, ggla_pair, gguf_pair, write_gguf_adapter, write_tiny_model

Q = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    base = write_tiny_model(folder / "base.gguf")
    one = write_gguf_adapter(folder / "one.gguf", gguf_pair(Q, 4, 0), 8.0)
    two = folder / "two.bin"
    two.write_bytes(ggla_bytes(ggla_pair(Q, 4, 1) | ggla_pair("output_norm.weight", 1, 2)))
    return {"base": str(base), "one": str(one), "two": str(two)}


def llamakit(capsys, *args) -> tuple[int, str, str]:
    code = run([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_export_lora_takes_the_options_of_2023_in_the_order_given(tmp_path, capsys, files):
    """-l and -s mixed, long and short, with _ for -; the order is that of the command line."""
    out = tmp_path / "m.gguf"
    args = (
        "-m",
        files["base"],
        "-o",
        out,
        "-s",
        files["two"],
        "-0.25",
        "-l",
        files["one"],
        "--lora_scaled",
        files["one"],
        "2",
    )
    code, _, err = llamakit(capsys, "export-lora", *args)
    assert code == 0
    assert "attn_q" in err
    assert "error" in err
    merge_adapters(
        files["base"], tmp_path / "n.gguf", [(files["two"], -0.25), (files["one"], 1.0), (files["one"], 2.0)]
    )
    assert out.read_bytes() == (tmp_path / "n.gguf").read_bytes()
    code, text, _ = llamakit(capsys, "export-lora", *args, "--json")
    assert [scale for _, scale in json.loads(text)["adapters"]] == [-0.25, 1.0, 2.0]


def test_a_missing_adapter_is_an_error_and_nothing_is_written(tmp_path, capsys, files):
    out = tmp_path / "m.gguf"
    code, _, err = llamakit(capsys, "export-lora", "-m", files["base"], "-o", out, "-l", tmp_path / "none.bin")
    assert code == 3
    assert "none.bin" in err
    code, _, err = llamakit(capsys, "export-lora", "-m", files["base"], "-o", out)
    assert code == 2
    code, _, err = llamakit(capsys, "export-lora", "-m", files["base"], "-o", out, "-s", files["one"], "much")
    assert (code, "much" in err) == (2, True)
    assert not list(tmp_path.iterdir())
    assert llamakit(capsys, "export-lora", "--help")[0] == 0


def test_from_ggla_to_peft_and_into_a_model(tmp_path, capsys, files):
    code, _, err = llamakit(capsys, "lora", "import", files["two"], "-m", files["base"], "-o", tmp_path / "a.gguf")
    assert code == 0, err
    code, _, err = llamakit(capsys, "lora", "export", tmp_path / "a.gguf", "-o", tmp_path / "peft")
    assert (code, "--without-norms" in err) == (2, True)
    code, _, _ = llamakit(
        capsys, "lora", "export", tmp_path / "a.gguf", "-o", tmp_path / "peft", "--without-norms", "--base-name", "x/y"
    )
    assert code == 0
    code, text, _ = llamakit(capsys, "lora", "info", tmp_path / "peft", "-m", files["base"], "--json")
    assert json.loads(text) | {"path": ""} == {
        "path": "", "format": "peft", "architecture": "llama", "base": "x/y", "alpha": 8.0, "ranks": {"4": 1},
        "scales": {"2": 1}, "kinds": {"attn_q": 1}, "norms": 0, "dora": False, "parameters": 256,
    }  # fmt: skip
    code, _, err = llamakit(
        capsys,
        "lora",
        "merge",
        "-m",
        files["base"],
        "-l",
        tmp_path / "peft",
        "-o",
        tmp_path / "m.gguf",
        "--type",
        "F16",
    )
    assert (code, "F16" in err) == (0, True)
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.tensors[Q].type.name == "F16"
    code, _, _ = llamakit(capsys, "lora", "export", tmp_path / "a.gguf", "-m", files["base"], "-o", tmp_path / "b.bin")
    assert (code, (tmp_path / "b.bin").read_bytes()[:4]) == (0, b"algg")


def for_embedded(path, **keys):
    """An adapter that fits the embedded model, if by its sizes alone."""
    name, shapes = "blk.1.attn_v.weight", {"blk.1.attn_v.weight": (256, 256)}
    return write_gguf_adapter(path, gguf_pair(name, 2, 0, shapes), 4.0, metadata=keys)


def test_merging_without_a_model_takes_the_embedded_one(tmp_path, capsys):
    """As chat and serve do; but what is written is a model, so an adapter that names another base is refused."""
    plain, out = for_embedded(tmp_path / "plain.gguf"), tmp_path / "merged.gguf"
    own = for_embedded(tmp_path / "own.gguf", **{"general.base_model.0.name": "LlamaKit small"})
    code, _, err = llamakit(capsys, "lora", "merge", "-l", plain, "-l", own, "-o", out)
    assert (code, "no model named" in err) == (0, True)
    merge_adapters(FILE, tmp_path / "expected.gguf", [(plain, 1.0), (own, 1.0)])
    assert out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    out.unlink()
    other = for_embedded(tmp_path / "other.gguf", **{"general.base_model.0.name": "another"})
    code, _, err = llamakit(capsys, "lora", "merge", "-l", other, "-o", out)
    assert (code, "'another'" in err, "-m BASE.gguf" in err, out.exists()) == (2, True, True, False)
    code, _, err = llamakit(capsys, "lora", "merge", "-m", FILE, "-l", other, "-o", out)
    assert code == 0, err


def test_merging_takes_the_model_of_the_settings(tmp_path, capsys, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llamakit.toml").write_text(f"model = {json.dumps(files['base'])}\n")
    code, _, err = llamakit(capsys, "lora", "merge", "-l", files["one"], "-o", "m.gguf")
    assert (code, "no model named" in err) == (0, False)
    merge_adapters(files["base"], "expected.gguf", [(files["one"], 1.0)])
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_info_for_people(capsys, files):
    code, text, _ = llamakit(capsys, "lora", "info", files["one"])
    assert code == 0
    assert "ranks       4 (1)" in text
    assert "scales      2 (1)" in text
    assert llamakit(capsys, "lora", "info", files["base"])[0] == 3
