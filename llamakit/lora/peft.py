"""PEFT adapters: a folder with `adapter_config.json` and `adapter_model.safetensors`.

    delta = scale * B A,  scale = alpha / r, or alpha / sqrt(r) with `use_rslora`

where `r` and `alpha` of a module may come from `rank_pattern` and `alpha_pattern`, whose keys are regular expressions
for the end of the module's name. Source: PEFT, `tuners/lora` and `utils/other.get_pattern_key`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.adapter import Adapter
from llamakit.bounded_json import short
from llamakit.errors import LONGEST_NAME, ModelFileError, UsageError, shown
from llamakit.gguf.file_bytes import check_regular
from llamakit.lora.files import MOST_ALPHA, AdapterFile, checked
from llamakit.lora.heads import fits, kept_head
from llamakit.lora.names import TOP, Layout, layout_of
from llamakit.lora.safetensors import read_safetensors
from llamakit.lora.write import lora_scale
from llamakit.run_folder import PEFT_CONFIG, not_an_adapter

if TYPE_CHECKING:
    from llamakit.gguf.reader import GGUFFile

CONFIG, WEIGHTS = PEFT_CONFIG, "adapter_model.safetensors"
PREFIX = "base_model.model."
KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(\.\w+)??(\.weight)?")
REFUSED = {  # settings that change what the adapter computes, and that nothing here can express
    "modules_to_save": "it holds whole modules beside the adapters",
    "trainable_token_indices": "it holds rows of the embedding beside the adapters",
    "layer_replication": "it is for a base with repeated layers",
    "fan_in_fan_out": "its weights lie transposed",
    "lora_bias": "it has biases",
    "use_qalora": "its inputs are pooled",
    "use_bdlora": "its matrices are block-diagonal",
    "alora_invocation_tokens": "it is an activated LoRA, which starts at a phrase of the prompt",
    "arrow_config": "it routes between adapters",
    "target_parameters": "it adapts parameters rather than modules",
    "kasa_config": "it has singular values beside A and B",
    "monteclora_config": "it samples its matrices",
    "velora_config": "it projects its inputs",
}
MOST_PATTERN, MOST_REPEATED = 500, 4  # characters of a pattern, repetitions in it
# A repetition of a group takes time without end, and flags could hide one by spaces between the two.
ENDLESS = re.compile(r"\)[*+?{]|\(\?(?![:=!<])")
PATTERN_SECONDS = 2.0  # of this thread, for one table of patterns on all modules
BASE_LAYER = ".base_layer.weight"  # PEFT saves embeddings that have adapters with them, as they are in the base
CHANGED_BASES = ("pissa", "olora", "corda", "loftq")  # initialisations after which the base is another model


def read_peft(folder: Path, base: GGUFFile | None) -> AdapterFile:
    """Read a PEFT folder in the layout of `base`'s tensors. Refuses by name what the formats here cannot hold.

    Without a base, the metadata that LlamaKit wrote into the folder says what is needed of it.
    """
    config = read_config(folder)
    weights, metadata, _ = read_safetensors(_weights_of(folder))
    head = kept_head(metadata)
    if base is not None:
        layout, known = layout_of(base.metadata), set(base.tensors)
        _check_kept(folder, weights, layout, base)
    elif head is not None:
        layout, known = layout_of(head.keys), {name.rpartition(".")[0] for name, _ in head.tensors}
    else:
        raise _base_needed(folder, "it does not say how many heads that has")
    tensors: dict[str, Adapter] = {}
    magnitudes: dict[str, Any] = {}
    scales = Scales(config)
    for module, parts in _by_module(folder, weights).items():
        names = layout.tensors(module)
        if base is None and len(names) > 1:
            raise _base_needed(folder, f"its module {module!r} is several tensors, of sizes that it does not say")
        if not names or known.isdisjoint(names):
            raise ModelFileError(
                f"{folder} adapts module {short(module, LONGEST_NAME)!r}, which no tensor of architecture"
                f" {layout.architecture!r} is",
                found=f"the base is {base.path}" if base is not None else "",
            )
        if base is not None and module in TOP.values() and "output.weight" not in base.tensors:
            raise ModelFileError(
                f"{folder} adapts {module}, but {base.path} uses one matrix as embedding and as output",
                found="PEFT changes one of the two uses, an adapter of the GGUF's tensor both",
            )
        scale = scales.of(module, parts["A"].shape[0])
        for name, (A, B, magnitude) in _split(folder, module, parts, base, names):
            pair = checked(folder, name, A, B, scale)
            tensors[name] = Adapter(pair.A, layout.to_gguf(name, pair.B), scale)
            if magnitude is not None:
                magnitudes[name] = layout.to_gguf(name, magnitude)
    found = AdapterFile(
        folder, "peft", layout, tensors, magnitudes=magnitudes, alpha=scales.alpha,
        base_name=str(config.get("base_model_name_or_path") or ""),
    )  # fmt: skip
    if head is not None and fits(found, head):
        return dataclasses.replace(found, head=head)
    if base is None:
        raise _base_needed(folder, "it was changed since LlamaKit wrote it")
    return found


def _base_needed(folder: Path, reason: str) -> UsageError:
    """The error for a folder that cannot be read by itself."""
    return UsageError(
        f"{folder} is a PEFT adapter that cannot be read without its base: {reason}",
        hint="name the base model: -m BASE.gguf",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration, once everything in it is known to be a LoRA that can be carried over."""
    path = folder / CONFIG
    try:
        check_regular(path)
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise not_an_adapter(folder) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ModelFileError(f"{folder} is a PEFT adapter of type {shown(kind)}; 'LORA' can be used")
    for key, reason in REFUSED.items():
        if config.get(key):
            raise ModelFileError(
                f"{folder} cannot be used: {key} is {shown(config[key])}, so {reason}",
                hint="merge it with PEFT, and convert the merged model" if key == "modules_to_save" else "",
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGED_BASES):
        raise ModelFileError(
            f"{folder} began with init_lora_weights {shown(start)}, which changed the base:"
            " it does not fit the plain model",
            hint="save it with PEFT's path_initial_model_for_weight_conversion",
        )
    if config.get("bias", "none") != "none":
        raise ModelFileError(
            f"{folder} cannot be used: bias is {shown(config['bias'])}, so it holds biases of the model"
        )
    return config


class Scales:
    """What the modules' products are multiplied by, as a configuration says."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._ranks, self._alphas = (_Patterns(config.get(f"{name}_pattern") or {}) for name in ("rank", "alpha"))

    @property
    def alpha(self) -> float:
        """Of the modules that no pattern names; 0 where nothing is said."""
        return _number(self.config.get("lora_alpha", 0), "lora_alpha")

    def of(self, module: str, rank: int) -> float:
        """The scale of a module whose A has `rank` rows."""
        alpha = _number(self._alphas.find(module, self.config.get("lora_alpha", 8)), f"the alpha of module {module!r}")
        wanted = self._ranks.find(module, self.config.get("r", rank))
        if wanted != rank:
            raise ModelFileError(
                f"module {module!r}: the configuration says rank {shown(wanted)}, its A has {rank} rows"
            )
        return lora_scale(rank, alpha, bool(self.config.get("use_rslora")))


def _number(value: Any, what: str) -> float:
    """An alpha, which may be anything in a file."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MOST_ALPHA:
        raise ModelFileError(f"{what} is {shown(value)}; a number is needed")
    return float(value)


class _Patterns:
    """Values by regular expressions for the ends of modules' names; the first that fits counts.

    They come from a file, and must not keep the matcher busy: few repetitions, none of a group, and a limit of time.
    """

    def __init__(self, table: Any) -> None:
        if not isinstance(table, dict):
            raise ModelFileError(f"a pattern table is {shown(table)}; names and values are needed")
        self._table, self._compiled = table, dict[str, re.Pattern[str]]()
        self._seconds = PATTERN_SECONDS

    def find(self, module: str, default: Any) -> Any:
        """The value for a module."""
        for key, value in self._table.items():
            began = time.thread_time()
            if key not in self._compiled:
                self._compiled[key] = _expression(key)
            fits = self._compiled[key].match(module)
            self._seconds -= time.thread_time() - began
            if self._seconds < 0:
                raise ModelFileError("the patterns of the configuration take too long to match")
            if fits:
                return value
        return default


def _expression(key: str) -> re.Pattern[str]:
    if len(key) > MOST_PATTERN or len(re.findall(r"[*+{]", key)) > MOST_REPEATED or ENDLESS.search(key):
        raise ModelFileError(f"the pattern {key[:100]!r} is more than a name of modules")
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise ModelFileError(f"the pattern {key!r} is not a regular expression: {error}") from None


def _weights_of(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise ModelFileError(
            f"{folder} has its weights in adapter_model.bin, a Python pickle, which is not read",
            hint=f"save it again with PEFT: it writes {WEIGHTS}",
        )
    return path


def _check_kept(folder: Path, weights: dict[str, Any], layout: Layout, base: GGUFFile) -> None:
    """That the embeddings saved beside the adapters are those of the base, not of a vocabulary that was extended."""
    for key in (key for key in weights if key.endswith(BASE_LAYER)):
        for name in layout.tensors(key.removeprefix(PREFIX).removesuffix(BASE_LAYER)):
            shape = base.tensors[name].shape if name in base.tensors else None
            if shape != weights[key].shape:
                raise ModelFileError(f"{folder} is for a base whose {name} is {weights[key].shape}, not {shape}")


def _by_module(folder: Path, weights: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A, B and the magnitude by module: embeddings turned to the shapes of linears, (rank, n_in) and (n_out, rank)."""
    found: dict[str, dict[str, Any]] = {}
    for key, stored in weights.items():
        if key.endswith(BASE_LAYER):
            continue
        match = KEY.fullmatch(key)
        if match is None:
            raise ModelFileError(f"{folder} holds {key!r}, which is no part of a LoRA that can be used")
        part, module = match["part"], match["module"].removeprefix(PREFIX)
        values = stored
        if part.startswith("embedding"):
            # Rows of tokens times columns: B (n_vocab, rank) and A (rank, n_embd) in our terms.
            part, values = "B" if part.endswith("A") else "A", stored.T
        parts = found.setdefault(module, {})
        if part in parts:
            raise ModelFileError(f"{folder} holds two adapters of module {module!r}")
        parts[part] = np.ascontiguousarray(values)
    for module, parts in found.items():
        for part in ("A", "B"):
            if part not in parts or parts[part].ndim != 2:
                raise ModelFileError(f"{folder}: module {module!r} has no matrix lora_{part}")
        if module.endswith("embed_tokens") and "magnitude_vector" in parts:
            raise ModelFileError(f"{folder}: DoRA of an embedding ({module}) is not supported")
    return found


def _split(
    folder: Path, module: str, parts: dict[str, Any], base: GGUFFile | None, names: tuple[str, ...]
) -> list[tuple[str, tuple[Any, Any, Any]]]:
    """(A, B, magnitude) of each of the tensors that a module is."""
    A, B, magnitude = parts["A"], parts["B"], parts.get("magnitude_vector")
    if magnitude is not None and magnitude.size != B.shape[0]:
        raise ModelFileError(f"{folder}: module {module!r} has {magnitude.size} magnitudes for {B.shape[0]} rows")
    if len(names) == 1 or base is None:
        return [(names[0], (A, B, None if magnitude is None else magnitude.reshape(-1)))]
    rows = [base.tensors[name].shape[0] if name in base.tensors else 0 for name in names]
    if sum(rows) != B.shape[0]:
        raise ModelFileError(f"{folder}: module {module!r} has {B.shape[0]} rows, the base's tensors have {rows}")
    cuts = np.cumsum(rows)[:-1]
    pieces = [None] * len(names) if magnitude is None else np.split(magnitude.reshape(-1), cuts)
    return [(name, (A, b, m)) for name, b, m in zip(names, np.split(B, cuts), pieces, strict=True)]
