"""The command lines of 2023: every flag, its default, its effect; and the rules about names, stops and escapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamakit.errors import UsageError
from llamakit.train.schedule import factor
from llamakit.train.tools_2023.flags import FLAGS, KINDS, TOOLS, is_2023, parse_2023
from llamakit.train.tools_2023.plan import Files, StopRules, Stops, plan_2023, unescape

# The study of the tools, 1.2 to 1.4: flag and default, written out a second time.
COMMON = """
--train-data shakespeare.txt|--checkpoint-in checkpoint.gguf|--checkpoint-out checkpoint-ITERATION.gguf
--pattern-fn-it ITERATION|--fn-latest LATEST|--save-every 10|-s -1|--seed -1|-c 128|--ctx 128|-t 6|--threads 6|-b 8
--batch 8|--grad-acc 1|--sample-start |--include-sample-start False|--escape False|--overlapping-samples False
--fill-with-next-samples False|--separate-with-eos False|--no-separate-with-eos False|--separate-with-bos True
--no-separate-with-bos True|--sample-random-offsets False|--force-reshuffle False|--use-flash True|--no-flash True
--use-checkpointing True|--no-checkpointing True|--warmup 100|--cos-decay-steps 1000|--cos-decay-restart 1.1
--cos-decay-min 0.1|--enable-restart False|--disable-restart False|--opt-past 0|--opt-delta 1e-05
--opt-max-no-improvement 0|--epochs -1|--adam-iter 256|--adam-alpha 0.001|--adam-min-alpha 0.0|--adam-decay 0.1
--adam-decay-min-ndim 2|--adam-beta1 0.9|--adam-beta2 0.999|--adam-gclip 1.0|--adam-epsf 0.0|--norm-rms-eps None
--rope-freq-base None|--rope-freq-scale None"""
OWN = {
    "finetune": """
--model-base |--lora-out ggml-lora-ITERATION-f32.gguf|--only-write-lora False|--lora-alpha None|--lora-r 4
--rank-att-norm 1|--rank-ffn-norm 1|--rank-out-norm 1|--rank-tok-embd None|--rank-out None|--rank-wq None
--rank-wk None|--rank-wv None|--rank-wo None|--rank-w1 None|--rank-w2 None|--rank-w3 None|--rank-ffn_gate None
--rank-ffn_down None|--rank-ffn_up None""",
    "train-text-from-scratch": """
--vocab-model ggml-vic7b-uncensored-q4_0.bin|--model-out ggml-checkpoint-f32.bin|--only-write-model False|--embd 256
--ff 768|--head 8|--layer 16""",
}  # fmt: skip


def study(tool: str) -> dict[str, str]:
    lines = (COMMON + OWN[tool]).strip().replace("\n", "|").split("|")
    return {entry.partition(" ")[0]: entry.partition(" ")[2] for entry in lines if entry}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_flags_are_those_of_the_study_with_their_defaults(tool):
    found = {name: str(flag.default) for flag in FLAGS[tool] for name in flag.names}
    assert found == study(tool)
    assert all(flag.meaning and flag.here for flag in FLAGS[tool])


@pytest.mark.parametrize("tool", TOOLS)
def test_every_flag_is_taken_in_every_spelling(tool):
    defaults = parse_2023(tool, [])
    for flag in FLAGS[tool]:
        for name in flag.names:
            spellings = {name, "--" + name[2:].replace("-", "_"), name.replace("_", "-")} if name[1] == "-" else {name}
            for spelled in spellings:
                text = {"str": "x", "int": "3", "float": "0.25", "flag": ""}[flag.kind]
                forms = [[spelled, text], [f"{spelled}={text}"]] if text and spelled[1] == "-" else [[spelled, text]]
                for form in forms if text else [[spelled]]:
                    wanted = {"str": "x", "int": 3, "float": 0.25, "flag": flag.value}[flag.kind]
                    assert parse_2023(tool, form) == defaults | {flag.field: wanted}


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        (["--trian-data", "x"], "--train-data"), (["--train-data"], "needs a value"),
        (["--ctx", "many"], "whole number"),
        (["--adam-alpha", "fast"], "a number"), (["--enable-restart=2"], "takes no value"), (["x"], "no option 'x'"),
        (["--adam-alpha", "inf"], "out of range"), (["--seed", "99999999999"], "out of range"),
    ],
)  # fmt: skip
def test_what_is_no_command_line(args, fault):
    with pytest.raises(UsageError) as caught:
        parse_2023("finetune", args)
    assert fault in str(caught.value)


def test_what_is_a_command_line_of_2023():
    assert is_2023("finetune", ["--model-base", "m.gguf", "--train_data", "x"])
    assert is_2023("finetune", ["-b", "4", "--lora_out=a.gguf"])
    assert not is_2023("finetune", ["-m", "m.gguf", "--batch", "4", "--seed", "1", "--epochs", "2", "--out", "run"])


def plan(*args, tool="finetune"):
    return plan_2023(tool, ["--model-base", "m.gguf", *args] if tool == "finetune" else list(args))


def test_finetune_with_nothing_but_a_model_has_the_defaults_of_2023():
    p = plan()
    o = p.options
    assert (o.ctx, o.batch, o.grad_accumulation, o.steps, o.lr, o.clip) == (128, 8, 1, 256, 1e-3, 1.0)
    assert o.optimizer_options == {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1, "decay_min_ndim": 2}
    assert (o.schedule, o.save_every, o.threads, o.checkpointing, o.full) == ("2023", 10, 6, "on", False)
    assert p.ranks == {kind: 1 if kind.endswith("norm") else 4 for kind in KINDS}
    assert (p.lora_r, p.lora_alpha, o.rank, o.alpha) == (4, 4, 4, 4.0)
    assert p.samples.separate_with_bos
    assert not p.samples.separate_with_eos
    # Of the schedule of 2023.
    for step, wanted in ((0, 0), (50, 0.5), (99, 0.99), (100, 0.977975), (550, 0.479604), (1000, 0.1), (5000, 0.1)):
        assert factor(o, step, 256) == pytest.approx(wanted, abs=1e-6)
    restart = plan("--enable-restart").options
    for step, wanted in (
        (100, 1.0),
        (550, 0.620396),
        (1000, 0.122025),
        (1100, 0.1),
        (1101, 0.999998),
        (5000, 0.932268),
    ):
        assert factor(restart, step, 256) == pytest.approx(wanted, abs=1e-6)
    assert factor(plan("--adam-min-alpha", "1e-4").options, 0, 256) == pytest.approx(0.1)


def test_every_kind_of_tensor_has_the_scale_of_the_head_whatever_its_rank():
    """alpha / r of ggla is one for all: with ranks of their own, kinds get an alpha of their own here."""
    o = plan("--lora-r", "8", "--lora-alpha", "16", "--rank-wq", "2", "--rank-w2", "0", "--rank-att-norm", "3").options
    ranks = dict.fromkeys(o.targets, o.rank) | o.rank_pattern
    alphas = dict.fromkeys(o.targets, o.alpha) | o.alpha_pattern
    assert ranks["attn_q"] == 2
    assert ranks["ffn_down"] == 0
    assert ranks["attn_norm"] == 3
    assert {alphas[kind] / ranks[kind] for kind in ranks if ranks[kind]} == {2.0}


def test_a_model_from_scratch():
    p = plan("--embd", "64", "--head", "4", "--layer", "2", "--ff", "96", "-c", "32", "--rope-freq-scale", "0.5",
             tool="train-text-from-scratch")  # fmt: skip
    assert p.options.full
    assert (p.shape.n_embd, p.shape.n_head, p.shape.n_layer, p.shape.n_ff, p.shape.n_ctx) == (64, 4, 2, 96, 32)
    assert (p.shape.norm_rms_eps, p.shape.rope_freq_base, p.shape.rope_freq_scale) == (1e-5, 10000.0, 0.5)
    assert (p.model, p.n_ctx_given) == ("ggml-vic7b-uncensored-q4_0.bin", True)
    with pytest.raises(UsageError, match="heads of even size"):
        plan("--embd", "60", "--head", "7", tool="train-text-from-scratch")


@pytest.mark.parametrize(
    "args",
    [
        ["--ctx", "0"], ["--batch", "0"], ["--adam-alpha", "0"], ["--lora-r", "0"], ["--rank-wq", "-1"],
        ["--adam-beta1", "1"],
        ["--lora-alpha", "0"], ["--cos-decay-steps", "0"], ["--adam-gclip", "-1"], ["--cos-decay-min", "2"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_values_that_nothing_can_be_made_of(args):
    with pytest.raises(UsageError):
        plan(*args)
    with pytest.raises(UsageError, match="--model-base"):
        plan_2023("finetune", ["--lora-r", "4"])


def test_the_same_seed_for_minus_one_is_the_time():
    assert plan("--seed", "7").options.seed == 7
    assert plan("-s", "-2").options.seed == 0xFFFFFFFE
    assert plan().options.seed > 1_600_000_000


def test_names_of_outputs():
    files = plan("--checkpoint-out", "c-ITERATION-ITERATION.gguf", "--fn-latest", "now").files
    assert files.outputs(files.checkpoint_out, 30) == ["c-30-ITERATION.gguf", "c-now-ITERATION.gguf"]
    assert files.outputs(files.output, 7) == ["ggml-lora-7-f32.gguf", "ggml-lora-now-f32.gguf"]
    assert files.outputs("plain.gguf", 7) == ["plain.gguf"]
    assert files.outputs("", 7) == []
    other = Files(train_data="", checkpoint_in="", checkpoint_out="", output="", pattern="N", latest="L")
    assert other.outputs("N.bin", 2) == ["2.bin", "L.bin"]


def test_escapes():
    assert unescape(r"a\n\t\r\'\"\\n\x") == "a\n\t\r'\"\\n\\x"
    assert plan("--sample-start", r"\n<s>", "--escape").samples.start == b"\n<s>"
    assert plan("--sample-start", r"\n<s>").samples.start == rb"\n<s>"


def test_stops():
    none = Stops(StopRules(), 0, 10.0)
    assert [none.after(i, 10.0) for i in range(1, 4)] == ["", "", ""]
    eps = Stops(StopRules(eps_f=0.01), 0, 10.0)
    assert eps.after(1, 9.0) == ""
    assert "--adam-epsf" in eps.after(2, 8.95)
    best = Stops(StopRules(max_no_improvement=2), 0, 10.0)
    assert [bool(best.after(i, loss)) for i, loss in enumerate((9, 9.5, 8, 8, 8.5), 1)] == [False] * 4 + [True]
    past = Stops(StopRules(past=2, delta=0.05), 0, 10.0)
    # pf has the losses of 2 updates ago; the check begins when there are as many.
    assert [bool(past.after(i, loss)) for i, loss in enumerate((10.0, 8.0, 5.0, 7.9), 1)] == [False, False, False, True]


def test_help_shows_every_flag_with_its_default(capsys):
    from llamakit.cli import run

    assert run(["train-text-from-scratch", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in FLAGS["train-text-from-scratch"]:
        assert all(name in shown for name in flag.names)
    assert "[256]" in shown  # of --adam-iter


def test_the_page_about_2023_names_tests_that_there_are():
    """Each of the 18 findings, and what holds it."""
    root = Path(__file__).parents[4]
    page = (root / "docs" / "training-2023.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\|(.*)\|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 19))
    assert all(re.search(r"`test_\w+`", held_by) for _, held_by in rows)
    sources = "".join(path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert all(f"def {name}(" in sources for name in named)
