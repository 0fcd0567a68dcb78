"""Files of strangers, spoilt in every way: each reader gives a result or an error of LlamaKit's, and nothing else."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest

from llamakit import bounded_toml
from llamakit.cli import run
from llamakit.config import load_config
from llamakit.errors import DataError, ModelFileError, UsageError
from llamakit.gguf import GGUFWriter, open_gguf
from llamakit.lora.convert import to_gguf
from llamakit.lora.files import read_adapter_file
from llamakit.lora.safetensors import read_safetensors
from llamakit.models.lora import check_head
from llamakit.registry import Registry
from llamakit.tokenizer import load_tokenizer
from llamakit.train import checkpoint
from llamakit.train.data.records import read_records
from llamakit.train.new_model import vocabulary_size
from llamakit.train.report import read_log
from llamakit.train.tools_2023.checkpoint import read_checkpoint

COUNT = 40
SLOW = {"model": 25, "shards": 15, "template": 15}


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory, module_of):
    """The module of all readers, and what they read."""
    module = module_of("fuzz/readers.py")
    readers = module.Readers(tmp_path_factory.mktemp("readers"))
    yield module, readers
    readers.close()


NAMES = (
    "adapter", "checkpoint", "checkpoint_2023", "conversation", "data", "ggla", "keys", "log", "model", "model_bpe",
    "peft", "session", "settings", "shards", "template",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_spoilt_files_are_read_or_refused(fuzz, tmp_path, name):
    module, readers = fuzz
    accepted, faults = module.attack(getattr(readers, f"of_{name}")(), tmp_path, SLOW.get(name, COUNT), 7)
    assert not faults, "\n".join(faults)
    assert accepted < SLOW.get(name, COUNT) or name == "log"


def test_all_readers_are_attacked(fuzz):
    _module, readers = fuzz
    assert {f"of_{name}" for name in NAMES} == {name for name in dir(type(readers)) if name.startswith("of_")}


def test_the_attack_notices_what_it_looks_for(fuzz, tmp_path):
    module, _ = fuzz

    def burn(folder):
        end = module.time.process_time() + 0.1
        while module.time.process_time() < end:
            pass

    for read, part in ((lambda folder: 1 / 0, "ZeroDivisionError"), (lambda folder: sys.exit(3), "SystemExit")):
        faults = module.attack(module.Reader(lambda rng, folder: None, read), tmp_path, 1, 1)[1]
        assert len(faults) == 1
        assert part in faults[0]
    module.SECONDS, before = 0.05, module.SECONDS
    try:
        assert "s" in module.attack(module.Reader(lambda rng, folder: None, burn), tmp_path, 1, 1)[1][0]
    finally:
        module.SECONDS = before


# -- what was found ------------------------------------------------------------


def safetensors(tmp_path, head, data=b""):
    text = json.dumps(head).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_tensors_that_all_lie_at_one_place_take_no_more_than_the_file(tmp_path):
    record = {"dtype": "F16", "shape": [1000], "data_offsets": [0, 2000]}
    with pytest.raises(ModelFileError, match="take more bytes"):
        read_safetensors(safetensors(tmp_path, {f"t{i}": record for i in range(50)}, bytes(2000)))
    assert len(read_safetensors(safetensors(tmp_path, {"t": record}, bytes(2000)))[0]) == 1


@pytest.mark.parametrize("dtype", [[], {}, None, 3, "F8"])
def test_types_that_are_none(tmp_path, dtype):
    with pytest.raises(ModelFileError):
        read_safetensors(safetensors(tmp_path, {"t": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}, bytes(4)))


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", "[" * 5000, '{"version": []}', '{"version": 1}', '{"a": "\\ud800"}']
)
def test_checkpoints_whose_json_is_none(tmp_path, text):
    with GGUFWriter(tmp_path / "step-1.gguf") as writer:
        writer.add(checkpoint.KEY, text)
    with pytest.raises(ModelFileError):
        checkpoint.read_head(tmp_path / "step-1.gguf")
    with pytest.raises(ModelFileError, match="no checkpoint to go on from"):
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize("value", [[1, 2], [0.5, 1.5], ["a", "b"], 3, True, -1.5])
def test_metadata_that_is_no_text_where_a_text_belongs(tmp_path, value):
    """Arrays of numbers cannot be compared with a text."""
    path = tmp_path / "a.gguf"
    keys = ("general.architecture", "general.type", "adapter.type", "training.type", "tokenizer.ggml.model",
            "tokenizer.ggml.tokens", "tokenizer.ggml.pre", "general.name")  # fmt: skip
    with GGUFWriter(path) as writer:
        for key in keys:
            writer.add(key, value)
    with open_gguf(path) as file:
        for read in (check_head, lambda file: load_tokenizer(file.metadata), lambda file: read_checkpoint(file.path)):
            with pytest.raises(ModelFileError):
                read(file)
        if value != ["a", "b"]:
            with pytest.raises(ModelFileError, match="no vocabulary"):
                vocabulary_size(file)


@pytest.mark.parametrize("key", ["add_bos_token", "token_type", "scores", "merges", "pre", "bos_token_id"])
@pytest.mark.parametrize("value", [np.array([1, 2]), "x", ["a", "b"], np.array([np.nan] * 3), 1.5])
def test_keys_of_vocabularies_of_the_wrong_type(key, value):
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    with contextlib.suppress(ModelFileError):
        assert load_tokenizer(found | {f"tokenizer.ggml.{key}": value}).n_vocab == 3


@pytest.mark.parametrize("data", [b"\xff", b"a = " + b"[" * 5000, b"a = 1979-99-99", b"a"])
def test_settings_that_are_no_toml(tmp_path, data):
    (tmp_path / "llamakit.toml").write_bytes(data)
    with pytest.raises(UsageError, match="is not TOML"):
        load_config(None, file=tmp_path / "llamakit.toml")


LONG_KEYS = {
    "key": "a" + ".a" * 100_000 + " = 1", "spaces": "  a" + " .\ta" * 60_000 + "=1",
    "table": "[a" + ".a" * 90_000 + "]",
    "tables": "[[ a" + ".a" * 90_000 + "]]", "inline": "a = {b = 1, c" + ".a" * 90_000 + " = 1}",
    "quoted": "a" + '."x y"' * 30_000 + " = 1", "literal": "a" + ".'x'" * 40_000 + " = 1",
    "escaped": '"\\""' + '."\\""' * 30_000 + " = 1", "many": "".join(f"[a{'.a' * n}]\n" for n in range(600)),
    "returns": "b = 1\r\na" + ".a" * 90_000 + " = 1",
}  # fmt: skip


@pytest.mark.parametrize("text", LONG_KEYS.values(), ids=LONG_KEYS)
def test_a_key_of_many_names_takes_no_time(tmp_path, text):
    """Half a minute for 200 KB: its parser takes time by the square of the names."""
    (tmp_path / "llamakit.toml").write_bytes(text.encode())
    began = time.thread_time()
    with pytest.raises(UsageError, match=r"llamakit.toml, line \d+: a key has more than 16 names"):
        load_config(None, file=tmp_path / "llamakit.toml")
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize("unit", ["[", ",", ", a", ',"', "{'", "a.", '"\\', ",a.b", '[""', "\n"])
def test_looking_for_such_keys_takes_no_time_either(unit):
    text = unit * (1_000_000 // len(unit))
    began = time.thread_time()
    bounded_toml.LONG_KEY.search(text)
    assert time.thread_time() - began < 2


def test_settings_are_of_a_bounded_size(tmp_path):
    (tmp_path / "llamakit.toml").write_text("# comment\n" * 110_000)
    with pytest.raises(UsageError, match="llamakit.toml is larger than 1 MiB"):
        load_config(None, file=tmp_path / "llamakit.toml")


def test_texts_with_many_dots_are_no_keys(tmp_path):
    """Texts on several lines are not told apart from keys, but no text has so many words with dots between them."""
    dots = ".".join("abcdefghijklmnopqrstuvwxyz")
    text = f'model = "{dots}"\n# {dots}\n[frontend.rest]\ncors = ["{dots}", \'{dots}\', "https://a.b"]\n'
    (tmp_path / "llamakit.toml").write_text(text)
    config = load_config(Registry.discover(), file=tmp_path / "llamakit.toml")
    assert config["model"] == dots
    assert config["frontend.rest.cors"] == [dots, dots, "https://a.b"]


def test_a_table_is_no_value_of_a_setting_but_holds_its_own(tmp_path):
    (tmp_path / "llamakit.toml").write_text("[backend.cpu]\nthreads = 3\n[frontend.rest]\nport = 1\n")
    config = load_config(Registry.discover(), file=tmp_path / "llamakit.toml")
    assert (config["backend.cpu.threads"], config["frontend.rest.port"], config["backend"]) == (3, 1, "auto")


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": [{"type": []}]}]},
        {"messages": [{"role": "user", "content": [{"type": {}, "text": "a"}]}]},
        {"messages": [{"role": "user", "content": "a"}], "tools": 3},
        {"messages": [{"role": "user", "content": "a"}], "tools": {"a": 1}},
        {"messages": [{"role": "user", "content": "a"}], "functions": True},
    ],
)
def test_records_of_the_wrong_types(tmp_path, record):
    (tmp_path / "d.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError):
        list(read_records([str(tmp_path / "d.jsonl")]))


def test_a_log_with_a_line_that_nests_deeply(tmp_path):
    (tmp_path / "log").write_text('{"step": ' + "[" * 100_000 + "\n")
    assert read_log(tmp_path / "log") == []


# -- PEFT folders -----------------------------------------------------------------------------------------------------

Q_PROJ = "model.layers.{}.self_attn.q_proj"


def peft(folder, config=None, *, layer="0", kept=None, **tensors):
    """A PEFT folder with an adapter of one module of the small model."""
    ones = np.ones((2, 64), np.float32)
    head, data = {}, ones.tobytes() * 2
    for part, shape, begin in (("A", [2, 64], 0), ("B", [64, 2], ones.nbytes)):
        record = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + ones.nbytes]}
        head[f"base_model.model.{Q_PROJ.format(layer)}.lora_{part}.weight"] = record
    if kept is not None:
        first = [["general.architecture", 8, None, "llama"], ["adapter.lora.alpha", 6, None, 2.0]]
        names = [[f"blk.0.attn_q.weight.lora_{part}", 0] for part in "ab"]
        head["__metadata__"] = {"llamakit.gguf": json.dumps({"metadata": first + kept, "tensors": names})}
    safetensors(folder, head | tensors, data).rename(folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2} | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


PATTERN = """
import sys
from llamakit.errors import ModelFileError
from llamakit.gguf import open_gguf
from llamakit.lora.files import read_adapter_file
with open_gguf(sys.argv[1]) as base:
    try:
        read_adapter_file(sys.argv[2], base)
    except ModelFileError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("patterns", "layer", "message"),
    [
        ([".*.*.*.*~"], "0" * 3000, "which no tensor of architecture 'llama' is"),
        (["(?x:(.+) +~)"], "0", "is more than a name of modules"),
        ([f"(.*.*.*.*~|{i})" for i in range(20_000)], "0", "take too long to match"),
        (["a{99999999999}"], "0", "is not a regular expression"),
    ],
    ids=["a long name", "spaces", "many", "many times"],
)
def test_patterns_end(tmp_path, small_model, patterns, layer, message):
    """Each of them kept the matcher busy for hours, or raised what nobody caught."""
    folder = peft(tmp_path, {"alpha_pattern": dict.fromkeys(patterns, 1)}, layer=layer)
    command = [sys.executable, "-c", PATTERN, str(small_model), str(folder)]
    told = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True).stdout
    assert message in told
    assert len(told) < 1000


def test_what_others_compute_meanwhile_is_not_time_of_patterns(tmp_path, small_model, monkeypatch):
    """Beside streams on many cores an honest adapter was refused."""
    monkeypatch.setattr(time, "process_time", count(0.0, 10.0).__next__)
    folder = peft(tmp_path, {"alpha_pattern": {"k_proj": 1, "v_proj": 2, "q_proj": 4}})
    with open_gguf(small_model) as base:
        assert [each.scale for each in read_adapter_file(folder, base).tensors.values()] == [2.0]


@pytest.mark.parametrize("alpha", [None, "x", [], 10**400])
def test_an_alpha_that_is_no_number_though_no_module_has_it(tmp_path, small_model, alpha):
    folder = peft(tmp_path, {"lora_alpha": alpha, "alpha_pattern": {".*": 2}})
    with open_gguf(small_model) as base, pytest.raises(ModelFileError, match="a number is needed"):
        read_adapter_file(folder, base)


@pytest.mark.parametrize("shape", [[10**4000] * 400, [0, 10**400], [1] * 1000])
def test_shapes_that_are_larger_than_the_file(tmp_path, shape):
    """The product of such numbers took seconds, and the message was as long as the file."""
    head = {"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    with pytest.raises(ModelFileError, match="makes no sense") as caught:
        read_safetensors(safetensors(tmp_path, head))
    assert len(str(caught.value)) < 1000


def test_a_name_of_a_tensor_that_is_as_long_as_its_file(tmp_path):
    head = {"x" * 100_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    with pytest.raises(ModelFileError) as caught:
        read_safetensors(safetensors(tmp_path, head, bytes(4)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "record",
    [["\ud800", 8, None, "x"], ["x", 8, None, "\ud800"], ["x", 9, None, json.loads("[" * 400 + "]" * 400)],
     ["x", 9, 4, [{}]], ["x", 4, None, {}]],
    ids=["key", "text", "deep", "tables", "table"],
)  # fmt: skip
def test_kept_metadata_that_no_gguf_can_hold(tmp_path, small_model, record):
    """It was an internal error of the conversion; now the adapter is converted without it."""
    with open_gguf(small_model) as base:
        to_gguf(read_adapter_file(peft(tmp_path, kept=[record]), base), tmp_path / "out.gguf", base)
    with open_gguf(tmp_path / "out.gguf") as file:
        assert "blk.0.attn_q.weight.lora_a" in file.tensors
        assert "x" not in file.metadata


def test_a_name_with_a_null_character(tmp_path, capsys):
    """Settings and checkpoints can have one; it was an internal error."""
    (tmp_path / "llamakit.toml").write_text('model = "a\\u0000b"\n')
    assert run(["--config", str(tmp_path / "llamakit.toml"), "generate", "-p", "x"]) == 3
    told = capsys.readouterr().err
    assert "cannot be read: embedded null" in told
    assert "\0" not in told
