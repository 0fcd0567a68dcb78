"""The command line of `llamakit serve`: every option of 2023 with its spellings, and the settings it gives."""

from __future__ import annotations

import pytest
from llamakit.plugins.frontends.rest.command import serve
from llamakit.plugins.frontends.rest.flags import device_options, settings_from
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.startup import settings_of

from llamakit.cli import _normalize
from llamakit.config import load_config
from llamakit.errors import UsageError
from llamakit.options import build_options, fields_of
from llamakit.registry import Registry


def parse(*args):
    """What click makes of a command line."""
    return serve.make_context("serve", list(args), token_normalize_func=_normalize).params


def settings(*args):
    return settings_from(parse(*args))


@pytest.mark.parametrize(
    ("args", "key", "value"),
    [
        ("-m a.gguf", "model", "a.gguf"), ("--model a.gguf", "model", "a.gguf"),
        ("-t 3", "threads", 3), ("--threads 3", "threads", 3),
        ("-c 99", "ctx_size", 99), ("--ctx-size 99", "ctx_size", 99), ("--ctx_size 99", "ctx_size", 99),
        ("-b 2048", "batch_size", 2048), ("--batch-size 7", "batch_size", 7), ("--batch_size 7", "batch_size", 7),
        ("--memory-f32", "kv_type", "f32"), ("--memory_f32", "kv_type", "f32"), ("--kv-type q8_0", "kv_type", "q8_0"),
        ("-a name", "frontend.rest.alias", "name"), ("--alias name", "frontend.rest.alias", "name"),
        ("--rope-freq-base 1e6", "frontend.rest.rope_freq_base", 1e6),
        ("--rope-freq-scale 0.5", "frontend.rest.rope_freq_scale", 0.5),
        ("--lora a --lora b", "frontend.rest.lora", ["a", "b"]),
        ("--lora-scaled a 0.5 --lora-scaled b 2", "frontend.rest.lora_scaled", [("a", 0.5), ("b", 2.0)]),
        ("-ngl 9", "gpu_layers", 9), ("--n-gpu-layers 9", "gpu_layers", 9), ("--gpu-layers 0", "gpu_layers", 0),
        ("-mg 1", "main_gpu", 1), ("--main-gpu 0", "main_gpu", 0), ("-ts 3,1", "tensor_split", "3,1"),
        ("--tensor-split 3/1", "tensor_split", "3/1"),
        ("--lora-base f16.gguf", "frontend.rest.lora_base", "f16.gguf"),
        ("--host ::", "frontend.rest.host", "::"), ("--port 0", "frontend.rest.port", 0),
        ("--path public", "frontend.rest.path", "public"),
        ("-to 5", "frontend.rest.timeout", 5.0), ("--timeout 5", "frontend.rest.timeout", 5.0),
        ("-v", "frontend.rest.verbose", True), ("--verbose", "frontend.rest.verbose", True),
        ("--mlock", "frontend.rest.mlock", True),
        ("-np 4", "frontend.rest.parallel", 4), ("-md d.gguf", "frontend.rest.model_draft", "d.gguf"),
        ("--draft 3", "frontend.rest.draft", 3), ("--kv-memory 4G", "frontend.rest.kv_memory", "4G"),
        ("--models x=a.gguf --models d/b.gguf", "frontend.rest.models", {"x": "a.gguf", "b": "d/b.gguf"}),
        ("--api-key k1 --api-key k2", "frontend.rest.api_key", ["k1", "k2"]), ("--cors *", "frontend.rest.cors", ["*"]),
        ("--log-format json", "frontend.rest.log_format", "json"),
        ("--chat-prompt Hi", "frontend.rest.chat_prompt", "Hi"),
    ],
)  # fmt: skip
def test_options(args, key, value):
    assert settings(*args.split()) == {key: value}


@pytest.mark.parametrize(
    ("args", "name", "flag"),
    [
        ("-lv", "low_vram", "--low-vram"),
        ("-nommq", "no_mul_mat_q", "--no-mul-mat-q"),
        ("-nr", "no_repack", "--no-repack"), ("--no-mmap", "no_mmap", "--no-mmap"), ("--numa", "numa", "--numa"),
        ("-tb 4", "threads_batch", "--threads-batch"), ("--affinity 0-3", "affinity", "--affinity"),
    ],
)  # fmt: skip
def test_device_options_are_taken_and_given_to_backends_that_know_them(args, name, flag):
    values = parse(*args.split())
    assert settings_from(values) == {}
    assert device_options(values, ()) == ({}, [flag])
    assert device_options(values, (name,)) == ({name: values[name]}, [])


def test_embeddings_are_always_on():
    assert settings("--embedding") == {}


def test_every_setting_has_a_flag_and_a_help_text():
    flags = {name for option in serve.params for name in option.opts}
    for field in fields_of(ServeOptions):
        assert "--" + field.name.replace("_", "-") in flags
        assert field.description.endswith(".")
    assert len(flags) == sum(len(option.opts) for option in serve.params)  # none twice


def test_the_defaults_of_2023_hold_where_the_code_had_them():
    options = ServeOptions()
    assert (options.host, options.port, options.timeout) == ("127.0.0.1", 8080, 600.0)
    assert (options.user_name, options.ai_name, options.stop) == ("\nUSER: ", "\nASSISTANT: ", "</s>")


def test_from_settings_to_a_session(tmp_path):
    file = tmp_path / "llamakit.toml"
    file.write_text(
        'ctx_size = 77\n[frontend.rest]\nparallel = 5\nlora_scaled = [["b", 0.5]]\nkv_memory = "1G"\n'
        '[frontend.rest.models]\nsmall = "s.gguf"\n'
    )
    config = load_config(Registry.discover(), file=file, environ={"LLAMAKIT_FRONTEND__REST__QUEUE": "9"})
    for key, value in settings("--lora", "a", "--rope-freq-base", "5", "--draft", "0").items():
        config.set(key, value, "command line")
    options = build_options(ServeOptions, config.changed("frontend.rest"))
    assert options.models == {"small": "s.gguf"}
    made = settings_of(config, options, Registry.discover())
    assert (made["ctx_size"], made["n_seq"], made["max_queue"], made["kv_memory"]) == (77, 5, 9, 1 << 30)
    assert (made["lora"], made["draft"]) == ([("a", 1.0), ("b", 0.5)], 0)
    assert (made["rope"].freq_base, made["rope"].freq_scale) == (5.0, None)
    assert settings_of(config, ServeOptions(), Registry.discover(), 3)["kv_most"] > 0  # each of several has a share


@pytest.mark.parametrize("text", ["=a", "a="])
def test_a_model_needs_a_name_and_a_file(text):
    with pytest.raises(UsageError, match="both a name and a file"):
        settings("--models", text)


# -- llama.cpp's command line ------------------------------------------------------------------------------------------


def whole(*args):
    """Settings of a command line as the server gets them: click's, and those beside it."""
    context = serve.make_context("serve", list(args), token_normalize_func=_normalize)
    return settings_from(context.params) | context.meta["llamakit.translated"].settings


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ("-m a.gguf --temp 0.8 --seed 42 --no-slots --no-jinja",
         {"model": "a.gguf", "sampling.temperature": 0.8, "seed": 42, "frontend.rest.slots": "off"}),
        ("-s 1 -n 9 --top-k 5 --top-p 0.5 --min-p 0.1 --repeat-penalty 1.2",
         {"seed": 1, "frontend.rest.n_predict": 9, "sampling.top_k": 5, "sampling.top_p": 0.5, "sampling.min_p": 0.1,
          "sampling.repeat_penalty": 1.2}),
        ("--predict 3", {"frontend.rest.n_predict": 3}), ("--n_predict=4", {"frontend.rest.n_predict": 4}),
        ("-fa -ub 512 -cb --slots --metrics --warmup --kv-unified --log-file x --offline --jinja --no-warmup",
         {"frontend.rest.slots": "all", "frontend.rest.metric_names": "llamacpp"}),
        ("-fa on --flash-attn auto --log-colors", {}),
        ("-ctk q8_0 -ctv q8_0", {"kv_type": "q8_0"}), ("--cache-type-k f16", {"kv_type": "f16"}),
        ("--embeddings --pooling last", {"frontend.rest.pooling": "last"}),
        ("--context-shift", {"frontend.rest.context_shift": "on"}),
        ("--no-context-shift", {"frontend.rest.context_shift": "off"}),
        ("--spec-draft-model d.gguf --draft-max 8 --draft-min 2",
         {"frontend.rest.model_draft": "d.gguf", "frontend.rest.draft": 8}),
        ("--chat-template chatml", {"frontend.rest.chat_template": "chatml"}),
        ("--chat-template-file t.jinja", {"frontend.rest.chat_template": "t.jinja"}),
        ("--reasoning-format none --reasoning-budget 0",
         {"frontend.rest.reasoning_format": "none", "frontend.rest.reasoning_budget": 0}),
        ("--no-ui --api-prefix /llm --models-dir d",
         {"frontend.rest.no_ui": True, "frontend.rest.api_prefix": "/llm", "frontend.rest.models_dir": "d"}),
        ("-ngl all -t -1 -np -1 --numa distribute", {"gpu_layers": 9999}), ("-ngl auto -np 3", {"frontend.rest.parallel": 3}),
        ("--lora-scaled a:0.5,b:2", {"frontend.rest.lora_scaled": [("a", 0.5), ("b", 2.0)]}),
        ("--lora-scaled a 0.5", {"frontend.rest.lora_scaled": [("a", 0.5)]}),
        ("--host 127.0.0.1,::1", {"frontend.rest.host": "127.0.0.1,::1"}),
        ("--api-key a,b --api-key c", {"frontend.rest.api_key": ["a", "b", "c"]}),
        ("--cors-origins http://a,http://b", {"frontend.rest.cors": ["http://a", "http://b"]}),
        ("--cors-origins localhost",
         {"frontend.rest.cors": ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*",
                                 "https://localhost:*", "https://127.0.0.1:*", "https://[::1]:*"]}),
        ("-lv 3 --verbosity 2", {}), ("--reasoning off", {"frontend.rest.reasoning_budget": 0}), ("--reasoning on", {}),
        ("--ignore-eos --tags a,b -ncmoe 3 -cmoe --no-mmproj -ctxcp 4", {"sampling.ignore_eos": True}),
        ("--spec-draft-ngl 4 --spec-ngram-mod-n-min 2 -Cd ff --prio-draft 1 --n-cpu-ffn 2 --no-agent --cors-methods GET", {}),
        ("--dry-multiplier 0 --dry-base 1.75 --xtc-probability 0.0 --top-nsigma -1 --dynatemp-range 0 --embd-normalize 2", {}),
        ("--log-jsonl --reasoning-effort low",
         {"frontend.rest.log_format": "json", "frontend.rest.reasoning_effort": "low"}),
        ("--lora a --lora-init-without-apply --lora b", {"frontend.rest.lora_scaled": [("a", 0.0), ("b", 0.0)]}),
    ],
)  # fmt: skip
def test_llamacpp_s_command_line(args, found):
    assert whole(*args.split()) == found


def test_lv_alone_is_that_of_2023():
    assert parse("-lv")["low_vram"] is True
    assert parse("-lv", "3")["low_vram"] is not True


@pytest.mark.parametrize(
    ("args", "word"),
    [("--rerank", "rank"), ("--mmproj x", "see"), ("--dry-multiplier 1", "the sampler dry is not here"), ("-hf a/b", "downloaded"),
     ("--gpt-oss-20b-default", "downloaded"), ("--dry-multiplier 0.5", "dry-multiplier 0"), ("--pooling none", "one vector"),
     ("--agent", "client"), ("--sampler-seq k", "request"), ("-mmu x", "see"),
     ("--seed x", "whole number"), ("--temp", "needs a value"), ("-ctk f16 -ctv q8_0", "one type for both")],
)  # fmt: skip
def test_what_cannot_be_had_is_named_with_its_reason(args, word):
    with pytest.raises(UsageError) as caught:
        parse(*args.split())
    assert word in f"{caught.value} {caught.value.found} {caught.value.hint}"


def test_what_has_no_effect_is_known():
    context = serve.make_context("serve", ["-fa", "on", "-ub", "9", "-v"], token_normalize_func=_normalize)
    assert context.meta["llamakit.translated"].without_effect == ["-fa", "-ub"]
