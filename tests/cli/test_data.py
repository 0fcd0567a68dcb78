"""`llamakit data check`, and flags made from the options of training."""

from __future__ import annotations

import json

import click
import pytest
from llamakit.plugins.frontends.cli.train_flags import train_flags, train_options

from llamakit.cli import run
from llamakit.errors import UsageError
from llamakit.options import fields_of
from llamakit.train.options import TrainOptions

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def model(tmp_path):
    """A file that has only a vocabulary of bytes, and a template."""
    from llamakit.gguf import GGUFWriter

    tokens = ["<unk>", "<s>", "</s>", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    path = tmp_path / "model.gguf"
    with GGUFWriter(path) as writer:
        for key, value in {
            "general.architecture": "llama", "llama.context_length": 100, "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.0] * len(tokens),
            "tokenizer.ggml.token_type": [2, 3, 3, 1, *[6] * 256], "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.chat_template": CHATML,
        }.items():  # fmt: skip
            writer.add(key, value)
    return str(path)


def write(path, records):
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in records))
    return str(path)


def checked(capsys, *args):
    code = run(["data", "check", *args])
    return code, capsys.readouterr().out


@pytest.fixture
def data(tmp_path):
    records = [{"prompt": f"What is {i}?", "completion": f"{i}!"} for i in range(40)]
    return write(tmp_path / "a.jsonl", records)


def test_what_is_told(capsys, model, data):
    code, out = checked(capsys, data, "-m", model)
    assert code == 0
    assert "records    40 (prompt 40)" in out
    assert "prompts    by the model's chat template" in out
    assert "samples    40, of which 2 to validate on" in out
    assert out.count("⟦") == out.count("⟧") == 3
    assert "!</s>⟧" in out
    assert "windows" in out
    assert "of 100 tokens" in out
    assert "note:" not in out


def test_samples_are_the_same_each_time_and_others_by_another_seed(capsys, model, data):
    outs = [checked(capsys, data, "-m", model, "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert outs[0] == outs[1] != outs[2]


def test_the_record_for_programs(capsys, model, data):
    code, out = checked(capsys, data, "-m", model, "--json", "--show", "1", "-c", "40")
    found = json.loads(out)
    assert code == 0
    assert found["kinds"] == {"prompt": 40}
    assert found["records"] == found["samples"] == 40
    assert found["validation"] == 2
    texts = [f"<|user|>What is {i}?\n<|assistant|>{i}!\n" for i in range(40)]
    assert found["tokens"] == sum(len(text) + 3 for text in texts)  # and <s> and two </s>
    assert found["loss_tokens"] == sum(len(f"{i}!") + 1 for i in range(40))
    assert found["masked"] == pytest.approx(1 - found["loss_tokens"] / found["tokens"])
    assert sum(each["count"] for each in found["histogram"]) == 40
    assert found["ctx"] == 40
    assert list(found["lengths"].values()) == sorted(found["lengths"].values())
    (shown,) = found["shown"]
    assert [each["loss"] for each in shown["runs"]] == [False, True, False]
    assert shown["runs"][1]["text"].endswith("!</s>")


def test_what_would_be_lost(capsys, model, tmp_path):
    data = write(tmp_path / "a.jsonl", [
        {"prompt": "x" * 200, "completion": "gone"},
        {"prompt": "x", "completion": "y" * 200},
        {"prompt": "x", "completion": "y"},
        {"prompt": "x", "completion": "y"},
        {"prompt": "x", "completion": ""},
    ])  # fmt: skip
    code, out = checked(capsys, data, "-m", model)
    assert code == 0
    assert "2 samples do not fit and are cut" in out
    assert "of 1 nothing that counts is left" in out
    assert "--truncate start" in out
    assert "1 records are there twice" in out
    assert "line 4 as" in out
    assert "nothing to learn from in 1 records" in out
    assert " cut\n" in out
    _, out = checked(capsys, data, "-m", model, "--truncate", "start")
    assert "nothing that counts is left" not in out


def test_bad_lines_are_all_told_and_the_exit_code_is_1(capsys, model, tmp_path):
    data = write(tmp_path / "a.jsonl", ["{", *[{"prompt": "x", "completion": "y"}] * 2, '{"a": 1}', *["nonsense"] * 20])
    code, out = checked(capsys, data, "-m", model)
    assert code == 1
    assert "line 1: this is not JSON" in out
    assert "line 4: no record of a known kind" in out
    assert "and 12 more that cannot be read" in out
    code, out = checked(capsys, data, "-m", model, "--json")
    assert (code, len(json.loads(out)["bad"])) == (1, 22)


def test_escape_codes_of_data_do_not_reach_the_terminal(capsys, model, tmp_path):
    data = write(tmp_path / "a.jsonl", [{"prompt": "x\u001b[31m", "completion": "\u001b]0;y\u0007"}])
    _, out = checked(capsys, data, "-m", model)
    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize(("args", "what"), [
    (["none.jsonl"], "no data file none.jsonl"),
    (["a.jsonl", "--kind", "chat"], "--kind cannot be 'chat'; possible: auto, instruct"),
    (["a.jsonl", "--val-split", "1"], "val_split is 1.0; possible: 0 to below 1"),
])  # fmt: skip
def test_errors(capsys, model, data, tmp_path, monkeypatch, args, what):
    monkeypatch.chdir(tmp_path)
    assert run(["data", "check", "-m", model, *args]) != 0
    assert what in capsys.readouterr().err


def test_without_a_model_it_is_the_embedded_one(capsys, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["data", "check", data]) == 0
    assert "<|assistant|>" in capsys.readouterr().out  # the template of that model


def test_nothing_at_all(capsys, model, tmp_path):
    code, out = checked(capsys, write(tmp_path / "a.jsonl", []), "-m", model)
    assert code == 1
    assert "records    0 (nothing)" in out


def parse(*args):
    made = []

    @click.command()
    @train_flags()
    def command(**values):
        made.append(train_options(values, lr=1e-3))

    command.main([*args], standalone_mode=False)
    return made[0]


def test_flags_for_every_option():
    assert parse() == TrainOptions(lr=1e-3)
    made = parse(
        "--data", "a.jsonl", "--data", "b.jsonl", "-o", "run", "--rank", "8", "--rslora", "--no-shuffle", "-c", "64",
        "--rank-pattern", "ffn_*=8", "--rank-pattern", "blk.0.*=0", "--alpha-pattern", "attn_q=4", "--lr", "0.01",
        "--optimizer-options", "beta1=0.8", "--optimizer-options", "mode=fast", "--schedule-2023", '{"warmup": 5}',
        "--targets", "attn_*", "--schedule", "2023", "--epochs", "2.5",
    )  # fmt: skip
    assert made.data == ["a.jsonl", "b.jsonl"]
    assert (made.out, made.rank, made.rslora, made.shuffle, made.ctx) == ("run", 8, True, False, 64)
    assert made.rank_pattern == {"ffn_*": 8, "blk.0.*": 0}
    assert made.alpha_pattern == {"attn_q": 4.0}
    assert made.optimizer_options == {"beta1": 0.8, "mode": "fast"}
    assert made.schedule_2023.warmup == 5
    assert (made.lr, made.targets, made.schedule, made.epochs) == (0.01, ["attn_*"], "2023", 2.5)


def test_every_flag_is_in_the_help():
    @click.command()
    @train_flags()
    def command(**values):
        pass

    text = command.get_help(click.Context(command))
    for field in fields_of(TrainOptions):
        assert "--" + field.name.replace("_", "-") in text


@pytest.mark.parametrize(("args", "what"), [
    (["--rank", "x"], "--rank cannot be 'x'"),
    (["--rank", "0"], "rank is 0; possible: 1..4096"),
    (["--rank-pattern", "ffn"], "--rank-pattern 'ffn': a name and a value are needed"),
    (["--rank-pattern", "ffn=x"], 'rank_pattern is {"ffn":"x"}'),
    (["--schedule-2023", "{"], "--schedule-2023 cannot be"),
])  # fmt: skip
def test_wrong_flags(args, what):
    with pytest.raises(UsageError) as caught:
        parse(*args)
    assert what in caught.value.message
