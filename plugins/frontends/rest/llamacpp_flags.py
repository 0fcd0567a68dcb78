"""The command line of llama.cpp's server in ours: its spellings, what has no effect here, and what cannot be had.

`translate` rewrites arguments before click sees them. Whatever it does not know passes as it is.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llamakit.errors import UsageError

YARN = "the scaling of the file holds"
# Spellings of our own flags.
SAME = {
    "--chat-template-file": "--chat-template", "--spec-draft-model": "--model-draft", "--draft-max": "--draft",
    "--draft-n": "--draft", "--spec-draft-n-max": "--draft", "--embeddings": "--embedding",
    "--webui": "", "--ui": "", "--log-verbose": "--verbose", "--usage": "--help",
    "--sleep-idle-seconds": "--idle-unload", "--model-alias": "--alias", "-n": "--n-predict",
    "--predict": "--n-predict",
    "--no-webui": "--no-ui",
    "--jinja": "", "--no-jinja": "",
}  # fmt: skip
# Defaults of requests: the setting, and what its value is.
SETTINGS: dict[str, tuple[str, type]] = {
    "-s": ("seed", int), "--seed": ("seed", int), "--temp": ("sampling.temperature", float),
    "--temperature": ("sampling.temperature", float), "--top-k": ("sampling.top_k", int),
    "--top-p": ("sampling.top_p", float), "--min-p": ("sampling.min_p", float),
    "--typical": ("sampling.typical_p", float), "--typical-p": ("sampling.typical_p", float),
    "--repeat-penalty": ("sampling.repeat_penalty", float), "--repeat-last-n": ("sampling.repeat_last_n", int),
    "--presence-penalty": ("sampling.presence_penalty", float),
    "--frequency-penalty": ("sampling.frequency_penalty", float), "--mirostat": ("sampling.mirostat", int),
    "--mirostat-lr": ("sampling.mirostat_eta", float), "--mirostat-ent": ("sampling.mirostat_tau", float),
}  # fmt: skip
# Without effect here, by how many values follow: none, one, or maybe one.
NO_VALUE = """
--backend-sampling -bs --cache-idle-slots --cache-prompt -cb --check-tensors -cl --clear-idle -cmoe -cmoed
--cont-batching --cont-prefill --cors-credentials --cpu-moe --cpu-moe-draft -dio --direct-io --display-prompt -e
--escape --fit-print --kv-offload --kv-unified -kvo -kvu --log-disable --log-prefix --log-timestamps --mmap
--mmproj-auto --mmproj-offload --models-autoload -ndio -nkvo -no-ag --no-agent --no-cache-idle-slots
--no-cache-prompt --no-clear-idle --no-cont-batching --no-cors-credentials --no-direct-io --no-display-prompt
--no-escape --no-host --no-kv-offload --no-kv-unified -no-kvu --no-log-jsonl --no-log-prefix --no-log-timestamps
--no-metrics --no-mmproj --no-mmproj-auto --no-mmproj-offload --no-models-autoload --no-op-offload --no-perf
--no-prefill-assistant --no-props --no-reasoning-preserve --no-skip-chat-parsing --no-spec-draft-backend-sampling
--no-ui-mcp-proxy --no-warmup --no-webui-mcp-proxy -nocb --offline --op-offload --perf --prefill-assistant
--reasoning-preserve --repack --reuse-port --simple-io -sp --spec-default --spec-draft-backend-sampling
--spec-draft-cpu-moe --special --spm-infill --swa-full --ui-mcp-proxy --verbose-prompt --warmup --webui-mcp-proxy
"""
ONE_VALUE = """
--adaptive-decay --allowed-local-media-path -C --cache-ram --cache-reuse --cache-reuse-hybrid
--cache-reuse-hybrid-min-share --cache-type-k-draft --cache-type-v-draft -Cb -Cbd -Cd -cd
--checkpoint-every-n-tokens --checkpoint-min-step -cms --cors-headers --cors-methods --cpu-mask --cpu-mask-batch
--cpu-mask-batch-draft --cpu-mask-draft --cpu-range --cpu-range-batch --cpu-range-batch-draft --cpu-range-draft
--cpu-strict --cpu-strict-batch --cpu-strict-batch-draft --cpu-strict-draft -Cr -cram -Crb -Crbd -Crd -ctkd -ctvd
--ctx-checkpoints --ctx-size-draft -ctxcp --defrag-thold -dev -devd --device-draft --draft-min --draft-n-min
--draft-p-min --draft-p-split --dry-allowed-length --dry-base --dry-penalty-last-n --dry-sequence-breaker -dt
--dynatemp-exp --fit -fit --fit-ctx --fit-target -fitc -fitt --gpu-layers-draft --hf-token -hft --image-max-tokens
--image-min-tokens --keep --kv-unified-per-slot --lazy-mode -lcd -lcs -lm --load-mode --local-media-max-size-mb
--log-file --log-verbosity --lookup-cache-dynamic --lookup-cache-static -lzm --media-path -mmdev --mmproj-device
--models-max --mtmd-batch-max-tokens --n-cpu-ffn --n-cpu-moe --n-cpu-moe-draft --n-gpu-layers-draft -ncffn -ncmoe
-ncmoed -ngld --poll --poll-batch --poll-batch-draft --poll-draft --prio --prio-batch --prio-batch-draft
--prio-draft --reasoning-budget-message --slot-prompt-similarity -sm --spec-draft-cpu-mask
--spec-draft-cpu-mask-batch --spec-draft-cpu-range --spec-draft-cpu-range-batch --spec-draft-cpu-strict
--spec-draft-cpu-strict-batch --spec-draft-device --spec-draft-n-cpu-moe --spec-draft-n-min --spec-draft-ncmoe
--spec-draft-ngl --spec-draft-p-min --spec-draft-p-split --spec-draft-poll --spec-draft-poll-batch
--spec-draft-prio --spec-draft-prio-batch --spec-draft-threads --spec-draft-threads-batch --spec-draft-type-k
--spec-draft-type-v --spec-synth-len
--spec-synth-rates --spec-type --split-mode -sps --sse-ping-interval --swa-checkpoints --tags -tbd -td
--threads-batch-draft --threads-draft --threads-http -ub --ubatch-size --ui-config --ui-config-file --verbosity
--video-ffmpeg-dir --video-fps --video-timestamp-interval --webui-config --webui-config-file --xtc-threshold
"""
NONE, ONE = frozenset(NO_VALUE.split()), frozenset(ONE_VALUE.split())
MAYBE_ONE = frozenset({"-fa", "--flash-attn", "--log-colors"})
# Samplers and methods that are not here: the value with which they are off, which has no effect, and what they are.
OFF: dict[str, tuple[float, str]] = {
    "--dry-multiplier": (0, "the sampler dry is not here"), "--xtc-probability": (0, "the sampler xtc is not here"),
    "--top-nsigma": (-1, "the sampler top-n-sigma is not here"),
    "--top-n-sigma": (-1, "the sampler top-n-sigma is not here"),
    "--dynatemp-range": (0, "temperatures that move are not here"),
    "--adaptive-target": (-1, "the sampler adaptive-p is not here"),
    "--embd-normalize": (2, "a request says how its vectors are normalised"),
    "--yarn-orig-ctx": (0, YARN), "--yarn-ext-factor": (-1, YARN), "--yarn-attn-factor": (-1, YARN),
    "--yarn-beta-slow": (-1, YARN), "--yarn-beta-fast": (-1, YARN),
}  # fmt: skip
# Known, and not to be had: why.
REFUSED_BY_REASON = {
    "models are not downloaded: -m FILE": "--docker-repo -dr -hf --hf-file --hf-repo -hff -hfr --model-url -mu",
    "models are not downloaded: -md FILE": "--hf-repo-draft -hfd -hfrd --spec-draft-hf",
    "speech is not supported": "--hf-file-v --hf-repo-v -hffv -hfrv -hfv --model-vocoder -mv --tts-use-guide-tokens",
    "a bias belongs to a request": "-l --logit-bias",
    "a grammar belongs to a request": "--grammar --grammar-file",
    "a schema belongs to a request": "-j -jf --json-schema --json-schema-file",
    "stop strings belong to a request": "-r --reverse-prompt",
    "control vectors are not supported": "--control-vector-layer-range",
    "tensors stay where the backend puts them": (
        "-ot -otd --override-tensor --override-tensor-draft --spec-draft-override-tensor"
    ),
    "the draft model must have the model's vocabulary": "--spec-replace",
    "llamakit doctor lists them": "--list-devices",
    "use --models NAME=FILE, or --models-dir DIR": "--models-preset",
    "tools are run by the client": "-ag --agent --mcp-servers-config --mcp-servers-json --tools --tools-runtime",
    "llamakit completion bash": "--completion-bash",
    "models are not downloaded": "--cache-list",
    "this server does not rank documents": "--rerank --reranking",
    "models that see are not supported": "-mm --mmproj --mmproj-url -mmu",
    "the model runs in this process alone": "--rpc",
    "control vectors are not supported; LoRA adapters are": "--control-vector --control-vector-scaled",
    "self-extension is not supported": "-gan -gaw --grp-attn-n --grp-attn-w",
    "metadata of the file cannot be changed": "--override-kv",
    "the file's scaling holds": "--rope-scaling",
    "use --rope-freq-scale": "--rope-scale",
    "the order belongs to a request": "--sampler-seq --samplers --sampling-seq",
    "use --reasoning-format none; calls are always read": "--skip-chat-parsing",
    "prompts are not written to disk": "--log-prompts-dir",
}
REFUSED = {name: why for why, names in REFUSED_BY_REASON.items() for name in names.split()}
# Presets of llama.cpp: a model of its choice, downloaded, with options for it.
PRESET = re.compile(r"--(?:fim|embd|gpt-oss|vision)-[\w.-]+-(?:default|spec)")
LOCAL = tuple(f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "[::1]"))
CACHE_TYPES = {"-ctk": 0, "--cache-type-k": 0, "-ctv": 1, "--cache-type-v": 1}


class Translated(msgspec.Struct):
    """Arguments for click, settings beside them, flags that have no effect, and what has less than it says."""

    args: list[str] = []
    settings: dict[str, Any] = {}
    without_effect: list[str] = []
    warnings: list[str] = []


def translate(given: list[str]) -> Translated:
    """Our command line for one that may be llama.cpp's. UsageError for what cannot be had."""
    return _Translation(given).run()


class _Translation:
    def __init__(self, given: list[str]) -> None:
        self.left = [part for arg in given for part in _split(arg)]
        self.made = Translated()
        self.cache: dict[int, str] = {}
        self.adapters = ""  # the scale of those that --lora names

    def run(self) -> Translated:
        while self.left:
            self._one(self.left.pop(0))
        if self.cache:
            kinds = set(self.cache.values())
            if len(kinds) > 1:
                raise UsageError(
                    f"keys of type {self.cache[0]} beside values of type {self.cache[1]}",
                    hint="one type for both", param="kv_type",
                )  # fmt: skip
            self.made.args += ["--kv-type", kinds.pop()]
        if self.adapters:
            self.made.args = self._scaled(self.made.args)
        return self.made

    def _scaled(self, args: list[str]) -> list[str]:
        """`--lora FILE` with the scale that all of them have."""
        found: list[str] = []
        for place, arg in enumerate(args):
            found.append("--lora-scaled" if arg == "--lora" else arg)
            if place and args[place - 1] == "--lora":
                found.append(self.adapters)
        return found

    def _one(self, arg: str) -> None:
        name = arg.replace("_", "-") if arg.startswith("--") else arg
        if name in REFUSED or PRESET.fullmatch(name):
            raise _refused(name, REFUSED.get(name, "models are not downloaded: -m FILE"))
        takes_one = name in ONE or name.startswith("--spec-ngram-")  # how to guess: ours needs no such numbers
        if takes_one or name in NONE or name in MAYBE_ONE:
            self.made.without_effect.append(name)
            if takes_one or (name in MAYBE_ONE and self._value_follows()):
                self._value(name)
        elif name in SETTINGS:
            key, kind = SETTINGS[name]
            self.made.settings[key] = _number(name, self._value(name), kind)
        elif name in OFF:
            value, why = OFF[name]
            if _number(name, self._value(name), float) != value:
                raise _refused(name, f"{why}; without effect: {name} {value:g}")
            self.made.without_effect.append(name)
        elif name in CACHE_TYPES:
            self.cache[CACHE_TYPES[name]] = self._value(name)
        elif name in SPECIAL:
            SPECIAL[name](self, name)
        elif name in SAME:
            if SAME[name]:
                self.made.args.append(SAME[name])
            else:
                self.made.without_effect.append(name)
        else:
            self.made.args.append(arg)

    def _value(self, name: str) -> str:
        if not self.left:
            raise UsageError(f"{name} needs a value", param=name.lstrip("-"))
        return self.left.pop(0)

    def _value_follows(self) -> bool:
        return bool(self.left) and (not self.left[0].startswith("-") or _is_number(self.left[0]))

    # -- those whose values differ ---------------------------------------------------------------------------------

    def low_vram(self, name: str) -> None:
        """-lv: of 2023 alone, today with a number, which is how much is logged."""
        if self._value_follows() and _is_number(self.left[0]):
            self.made.without_effect.append(f"{name} {self.left.pop(0)}")
        else:
            self.made.args.append(name)

    def unless_automatic(self, name: str) -> None:
        """-1 and auto: what we do without the flag. `all` of layers: more than any model has."""
        value = self._value(name)
        if value not in ("-1", "auto"):
            self.made.args += [name, "9999" if value == "all" else value]

    def numa(self, name: str) -> None:
        if self._value_follows():
            self.made.without_effect.append(f"{name} {self.left.pop(0)}")
        self.made.args.append("--numa")

    def each(self, name: str) -> None:
        """Several values in one, with commas."""
        for value in self._value(name).split(","):
            self.made.args += [name, value.strip()]

    def origins(self, name: str) -> None:
        """--cors-origins: with commas; "localhost" are all pages of this machine."""
        for value in self._value(name).split(","):
            for origin in LOCAL if value.strip() == "localhost" else (value.strip(),):
                self.made.args += ["--cors", origin]

    def scaled(self, name: str) -> None:
        """FILE:SCALE, several with commas; or FILE SCALE, as in 2023."""
        value = self._value(name)
        if self._value_follows() and _is_number(self.left[0]):
            self.made.args += [name, value, self.left.pop(0)]
            return
        for part in value.split(","):
            file, _, scale = part.rpartition(":")
            if not file or not _is_number(scale):
                raise UsageError(f"{name} {value[:80]}: a file and a scale are needed", hint=f"{name} FILE:SCALE")
            self.made.args += [name, file, scale]

    def thoughts(self, name: str) -> None:
        """--reasoning on, off or auto."""
        value = self._value(name)
        if value not in ("on", "off", "auto"):
            raise UsageError(f"{name} is {value[:40]!r}", hint="possible: on, off, auto", param="reasoning")
        if value == "off":
            self.made.settings["frontend.rest.reasoning_budget"] = 0

    def effort(self, name: str) -> None:
        """--reasoning-effort: what templates are told."""
        self.made.settings["frontend.rest.reasoning_effort"] = self._value(name)

    def pooled(self, name: str) -> None:
        """--pooling; of llama.cpp's values two are not here."""
        value = self._value(name)
        if value in ("none", "rank"):
            why = "a text has one vector" if value == "none" else "this server does not rank documents"
            raise _refused(f"{name} {value}", why)
        self.made.args += [name, value]

    def json_lines(self, name: str) -> None:
        """--log-jsonl."""
        self.made.args += ["--log-format", "json"]

    def never_ending(self, name: str) -> None:
        """--ignore-eos: of every request."""
        self.made.settings["sampling.ignore_eos"] = True

    def adapters_off(self, name: str) -> None:
        """--lora-init-without-apply: loaded, with scale 0."""
        self.adapters = "0"

    def measured(self, name: str) -> None:
        """--metrics: here they always are; so the names of llama.cpp are what it can mean."""
        self.made.settings["frontend.rest.metric_names"] = "llamacpp"

    def listed_slots(self, name: str) -> None:
        """Without a value: llama.cpp's switch."""
        if name == "--slots" and self._value_follows() and self.left[0] in ("used", "all", "off"):
            self.made.settings["frontend.rest.slots"] = self.left.pop(0)
        else:
            self.made.settings["frontend.rest.slots"] = "off" if name.startswith("--no-") else "all"

    def context_shift(self, name: str) -> None:
        self.made.settings["frontend.rest.context_shift"] = "off" if name.startswith("--no-") else "on"


SPECIAL: dict[str, Any] = {
    "-lv": _Translation.low_vram, "-ngl": _Translation.unless_automatic, "--gpu-layers": _Translation.unless_automatic,
    "--n-gpu-layers": _Translation.unless_automatic, "-t": _Translation.unless_automatic,
    "--threads": _Translation.unless_automatic, "-tb": _Translation.unless_automatic,
    "--threads-batch": _Translation.unless_automatic, "-np": _Translation.unless_automatic,
    "--parallel": _Translation.unless_automatic, "--numa": _Translation.numa, "--api-key": _Translation.each,
    "--cors-origins": _Translation.origins, "--lora-scaled": _Translation.scaled,
    "--reasoning": _Translation.thoughts, "-rea": _Translation.thoughts, "--ignore-eos": _Translation.never_ending,
    "--lora-init-without-apply": _Translation.adapters_off, "--metrics": _Translation.measured,
    "--slots": _Translation.listed_slots, "--no-slots": _Translation.listed_slots,
    "--reasoning-effort": _Translation.effort, "--pooling": _Translation.pooled,
    "--log-jsonl": _Translation.json_lines,
    "--context-shift": _Translation.context_shift, "--no-context-shift": _Translation.context_shift,
}  # fmt: skip


def _refused(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is llama.cpp's, and not supported", found=why, param=name.lstrip("-"))


def _split(arg: str) -> list[str]:
    """`--name=value` as two."""
    name, equals, value = arg.partition("=")
    return [name, value] if equals and name.startswith("--") else [arg]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(
            f"{name} {text[:40]!r} is not a number", hint="a whole number" if kind is int else "a number",
            param=name.lstrip("-"),
        ) from None  # fmt: skip
