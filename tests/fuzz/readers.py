"""Every reader of files beside files that are nearly right: an error of LlamaKit's or a result, soon, and nothing else.

    python tests/fuzz/readers.py --count 20000 --only peft,session

A reader is given as `Reader(write, read)`: `write(rng, folder)` makes a spoilt file or folder, `read(folder)` reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import mutate

from llamakit.errors import LlamaKitError
from llamakit.gguf import open_gguf
from llamakit.testing.lora import ggla_bytes, ggla_pair, gguf_pair, tiny_shapes
from llamakit.testing.vocabulary import BYTES

SECONDS = 3.0  # of the processor, for one file
PEFT = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
    "alpha_pattern": {"q": 3}, "rank_pattern": {"q_proj": 2}, "init_lora_weights": True,
    "base_model_name_or_path": "x", "use_rslora": False,
}  # fmt: skip
Q = "base_model.model.model.layers.0.self_attn.q_proj"
RECORDS: list[dict[str, Any]] = [
    {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "weight": 1, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "c", "tool_call_id": "1", "name": "f"},
        {"role": "assistant", "content": "d", "reasoning_content": "e"},
    ], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"prompt": "a", "completion": "b"}, {"instruction": "a", "input": "b", "output": "c", "system": "d"},
    {"context": "a", "question": "b", "answer": "c"}, {"text": "a b c"},
]  # fmt: skip
TOML = """
threads = 2
ctx_size = 512
model = "a.gguf"
kv_type = "f16"
[sampling]
top_k = 40
[backend.cpu]
no_repack = false
[frontend.rest]
port = 8080
api_key = ["a"]
"""
KEYS = "# keys\nabc admin\ndef use,observe weight=2\nghi\n"


class Reader(NamedTuple):
    """How a spoilt file is made, and read."""

    write: Callable[[random.Random, Path], None]
    read: Callable[[Path], Any]


def model() -> mutate.GGUF:
    """A llama of two layers whose vocabulary are the bytes."""
    rng = np.random.default_rng(0)
    sizes = {
        "context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8,
    }  # fmt: skip
    metadata: dict[str, Any] = {"general.architecture": "llama", "general.name": "a"}
    metadata |= {f"llama.{key}": value for key, value in sizes.items()}
    metadata |= {
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4,
        "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": BYTES.pieces,
        "tokenizer.ggml.scores": BYTES.scores, "tokenizer.ggml.token_type": [int(each) for each in BYTES.types],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }  # fmt: skip
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in tiny_shapes().items()}
    for name in ("token_embd.weight", "output.weight"):
        tensors[name] = rng.normal(size=(len(BYTES.pieces), 32)).astype(np.float32)
    return mutate.GGUF(metadata, tensors)


class Readers:
    """All of them; `folder` holds what they are spoilt from."""

    def __init__(self, folder: Path) -> None:
        from llamakit.models import load_model

        self.folder, self.model = folder, model()
        self.base = folder / "base.gguf"
        self.model.write(self.base)
        self.file = open_gguf(self.base)
        self.loaded = load_model(self.file)
        self.session: Any = None

    def close(self) -> None:
        """Let go of the model."""
        if self.session is not None:
            self.session.close()
        self.file.close()

    def all(self) -> dict[str, Reader]:
        """By name."""
        return {name.removeprefix("of_"): getattr(self, name)() for name in dir(type(self)) if name.startswith("of_")}

    def of_model(self) -> Reader:
        """Models: metadata, vocabulary, the graph."""

        def write(rng: random.Random, folder: Path) -> None:
            self._gguf(rng, folder / "m.gguf", self.model)

        def read(folder: Path) -> None:
            from llamakit.models import load_model
            from llamakit.tokenizer import load_tokenizer

            with open_gguf(folder / "m.gguf") as file:
                tokenizer = load_tokenizer(file.metadata)
                tokenizer.decode(tokenizer.encode("a <s>é"))
                load_model(file).uses()

        return Reader(write, read)

    def of_model_bpe(self) -> Reader:
        """Vocabularies of pairs that are merged."""
        letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
        seed = mutate.GGUF(
            {key: value for key, value in self.model.metadata.items() if key != "tokenizer.ggml.scores"}
            | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "general.name": "phi-3",
               "tokenizer.ggml.tokens": [*letters, "ab", "abc", "<s>"], "tokenizer.ggml.merges": ["a b", "ab c"],
               "tokenizer.ggml.token_type": [1] * len(letters) + [1, 1, 3], "tokenizer.ggml.eot_token_id": 258},
            {},
        )  # fmt: skip

        def write(rng: random.Random, folder: Path) -> None:
            self._gguf(rng, folder / "m.gguf", seed)

        def read(folder: Path) -> None:
            from llamakit.tokenizer import load_tokenizer

            with open_gguf(folder / "m.gguf") as file:
                tokenizer = load_tokenizer(file.metadata)
                tokenizer.decode(tokenizer.encode("abc <s>é"))

        return Reader(write, read)

    def of_shards(self) -> Reader:
        """Models in several files."""
        names = list(self.model.tensors)
        parts = [
            mutate.GGUF(
                {"split.no": number, "split.count": 3, "split.tensors.count": len(names)}
                | (self.model.metadata if number == 0 else {}),
                {name: self.model.tensors[name] for name in names[number::3]},
            )
            for number in range(3)
        ]

        def write(rng: random.Random, folder: Path) -> None:
            spoilt = rng.randrange(3)
            for number, part in enumerate(parts):
                path = folder / f"m-{number + 1:05}-of-00003.gguf"
                if number == spoilt:
                    self._gguf(rng, path, part)
                else:
                    part.write(path)

        def read(folder: Path) -> None:
            from llamakit.models import load_model

            with open_gguf(folder / "m-00001-of-00003.gguf") as file:
                load_model(file)

        return Reader(write, read)

    def of_adapter(self) -> Reader:
        """Adapters in GGUF, for serving and for conversion."""
        keys = {
            "general.type": "adapter",
            "adapter.type": "lora",
            "general.architecture": "llama",
            "adapter.lora.alpha": 8.0,
        }
        pairs = gguf_pair("blk.0.attn_q.weight", 2, 0) | gguf_pair("blk.1.ffn_down.weight", 3, 1)
        pairs |= {"output_norm.weight": np.ones(32, np.float32)}
        seed = mutate.GGUF(keys, pairs)
        return Reader(
            lambda rng, folder: self._gguf(rng, folder / "a.gguf", seed), lambda at: self._adapter(at / "a.gguf")
        )

    def of_ggla(self) -> Reader:
        """Adapters of 2023."""
        data = ggla_bytes(ggla_pair("blk.0.attn_q.weight", 4, 0) | ggla_pair("output_norm.weight", 4, 1))

        def write(rng: random.Random, folder: Path) -> None:
            (folder / "a.bin").write_bytes(mutate.of_bytes(rng, data))

        return Reader(write, lambda folder: self._adapter(folder / "a.bin"))

    def of_peft(self) -> Reader:
        """Adapters of PEFT: the configuration, and the head and bytes of a safetensors file."""
        from llamakit.lora.safetensors import write_safetensors

        whole = self.folder / "whole.safetensors"
        rng0 = np.random.default_rng(1)
        shapes = {f"{Q}.lora_A.weight": (2, 32), f"{Q}.lora_B.weight": (32, 2)}
        values = {name: rng0.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        write_safetensors(whole, values, {}, {"format": "pt", "llamakit": '{"metadata": [], "tensors": []}'})
        data = whole.read_bytes()
        size = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + size])

        def write(rng: random.Random, folder: Path) -> None:
            config, weights = json.dumps(PEFT).encode(), data
            match rng.randrange(3):
                case 0:
                    config = mutate.of_json(rng, PEFT)
                case 1:
                    text = mutate.of_json(rng, head)
                    weights = len(text).to_bytes(8, "little") + text + data[8 + size :]
                case _:
                    weights = mutate.of_bytes(rng, data)
            (folder / "adapter_config.json").write_bytes(config)
            (folder / "adapter_model.safetensors").write_bytes(weights)

        def read(folder: Path) -> None:
            from llamakit.lora.files import read_adapter_file

            read_adapter_file(folder, self.file)

        return Reader(write, read)

    def of_checkpoint(self) -> Reader:
        """Checkpoints of training runs: the JSON in them, and their tensors."""
        from llamakit.train import checkpoint
        from llamakit.train.cursor import CursorState
        from llamakit.train.options import TrainOptions

        progress = checkpoint.Progress(step=3, cursor=CursorState(1, 0, 4), best_loss=1.5, best_step=2)
        head = checkpoint.Checkpoint(
            base="b", base_digest="c", data_digest="d", options=TrainOptions(data=["x"]), progress=progress
        )
        text = msgspec.json.encode(head).decode()
        names = {"general.architecture": "llamakit-training", "general.type": "checkpoint", checkpoint.KEY: text}
        seed = mutate.GGUF(names, {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)})

        class State:
            shape = (2, 3)

            def write(self, values: Any) -> None:
                assert values.shape == (2, 3)

        def write(rng: random.Random, folder: Path) -> None:
            path = folder / "step-3.gguf"
            if rng.random() < 0.5:
                spoilt = mutate.of_json(rng, json.loads(text)).decode("utf-8", "surrogateescape")
                mutate.GGUF(seed.metadata | {checkpoint.KEY: spoilt}, seed.tensors).write(path)
            else:
                self._gguf(rng, path, seed)

        def read(folder: Path) -> None:
            found = checkpoint.latest(folder)
            checkpoint.best(folder)
            checkpoint.restore(found[0], {"a": State()})  # type: ignore[dict-item]

        return Reader(write, read)

    def of_checkpoint_2023(self) -> Reader:
        """Checkpoints of the tools of 2023, in GGUF and of before."""
        import dataclasses

        from llamakit.train.tools_2023.checkpoint import OptimizerState, read_checkpoint, write_checkpoint

        plain = read_checkpoint(self.base)
        zeros = {name: np.zeros_like(values) for name, values in plain.tensors.items()}
        path = self.folder / "c.gguf"
        write_checkpoint(path, dataclasses.replace(plain, optimizer=OptimizerState(), first=zeros, second=zeros))
        with open_gguf(path) as file:
            metadata = {key: file.metadata[key] for key in file.metadata}
            metadata = {key: value for key, value in metadata.items() if isinstance(value, (str, int, float))}
            seed = mutate.GGUF(metadata, {name: file.tensor(name) for name in file.tensors})

        def write(rng: random.Random, folder: Path) -> None:
            self._gguf(rng, folder / "c.gguf", seed)

        return Reader(write, lambda folder: read_checkpoint(folder / "c.gguf"))

    def of_session(self) -> Reader:
        """Saved sessions, read into an engine."""
        from llamakit.engine import session_file
        from llamakit.session import Session

        self.session = Session(self.base, backend="cpu", threads=1, n_seq=2, ctx_size=64)
        engine, path = self.session.engine, self.folder / "s.gguf"
        tokens = self.session.tokenize("Once upon a time there was a girl")

        def at_once(function: Callable[[], Any]) -> Any:
            return function()

        self.session.generate(tokens, max_tokens=1)
        key, room = session_file.model_key(self.file, engine.space.kv.spec), session_file.room(engine)
        taken = session_file.take(engine, tokens, session_file.DEFAULT_KEY, at_once)
        session_file.write(path, taken, key, engine.space.kv.spec.type)
        with open_gguf(path) as file:
            metadata = {each: file.metadata[each] for each in file.metadata} | {"llamakit.session.adapters": "[]"}
            metadata["llamakit.session.tokens"] = [int(each) for each in metadata["llamakit.session.tokens"]]
            seed = mutate.GGUF(
                metadata, {"kv": np.array(file.raw("kv")).view(np.int8).reshape(file.tensors["kv"].shape)}
            )

        def write(rng: random.Random, folder: Path) -> None:
            self._gguf(rng, folder / "s.gguf", seed)

        def put(file: Path, beginning: session_file.Beginning) -> None:
            session_file.put(file, engine, beginning, "", at_once)

        def read(folder: Path) -> None:
            free = engine.space.pool.n_free + len(engine.space.tree)
            try:
                session_file.is_saved(folder / "s.gguf")
                with open_gguf(folder / "s.gguf") as file, contextlib.suppress(LlamaKitError):  # but for its digest
                    put(file.path, session_file._content(file, file.path, room))
                put(folder / "s.gguf", session_file.read(folder / "s.gguf", key, room))
            finally:
                assert engine.space.pool.n_free + len(engine.space.tree) == free, "blocks stay taken"

        return Reader(write, read)

    def of_settings(self) -> Reader:
        """llamakit.toml."""
        from llamakit.config import load_config
        from llamakit.registry import Registry

        registry = Registry.discover()

        def write(rng: random.Random, folder: Path) -> None:
            (folder / "llamakit.toml").write_bytes(mutate.of_text(rng, TOML))

        return Reader(write, lambda folder: load_config(registry, file=folder / "llamakit.toml"))

    def of_keys(self) -> Reader:
        """Key files."""
        from llamakit.plugins.frontends.rest.keys import read_keys
        from llamakit.plugins.frontends.rest.options import ServeOptions

        def write(rng: random.Random, folder: Path) -> None:
            (folder / "keys").write_bytes(mutate.of_text(rng, KEYS))

        return Reader(write, lambda folder: read_keys(ServeOptions(api_key_file=str(folder / "keys"))))

    def of_data(self) -> Reader:
        """Data to train on: lines, arrays and texts, through the check of data."""
        from llamakit.chat.own import own_template
        from llamakit.chat.template import ChatTemplate
        from llamakit.tokenizer import load_tokenizer
        from llamakit.train.data.check import check_data
        from llamakit.train.mask import Encoder
        from llamakit.train.options import TrainOptions

        encoder = Encoder(load_tokenizer(self.file.metadata), ChatTemplate(own_template(), ours=True))

        def write(rng: random.Random, folder: Path) -> None:
            good = [json.dumps(each).encode() for each in RECORDS]
            match rng.randrange(4):
                case 0:
                    data, name = b"\n".join([*good, mutate.of_bytes(rng, rng.choice(good))]), "d.jsonl"
                case 1:
                    data, name = mutate.of_json(rng, RECORDS), "d.json"
                case 2:
                    data, name = mutate.of_bytes(rng, b"\n\n\n".join(good)), rng.choice(["d.txt", "d"])
                case _:
                    data, name = b"\n".join([*good, mutate.of_json(rng, rng.choice(RECORDS))]), "d.jsonl"
            (folder / name).write_bytes(data)

        def read(folder: Path) -> None:
            path = next(folder.glob("d*"))
            check_data(TrainOptions(data=[str(path)]), encoder, 64)

        return Reader(write, read)

    def of_log(self) -> Reader:
        """Logs of training runs."""
        from llamakit.train.report import read_log

        line = {"step": 1, "loss": 2.5, "lr": 0.1, "tokens": 5, "seconds": 0.5}

        def write(rng: random.Random, folder: Path) -> None:
            (folder / "log").write_bytes(
                mutate.of_json(rng, line) + b"\n" + mutate.of_bytes(rng, json.dumps(line).encode())
            )

        return Reader(write, lambda folder: read_log(folder / "log"))

    def of_conversation(self) -> Reader:
        """Saved conversations of the chat."""
        from llamakit.plugins.frontends.cli.talk.export import load

        seed = [
            {"role": "system", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ]
        whole = {
            "format": "llamakit-conversations", "version": 1, "conversations": [{
                "kind": "chat", "id": "1", "title": "t", "updated": "2024", "leaf": "2", "system": "s",
                "sampling": {"top_k": 3},
                "messages": [{"id": "1", "parent": None, "role": "user", "content": "a"},
                             {"id": "2", "parent": "1", "role": "assistant", "content": "b"}]}],
        }  # fmt: skip

        def write(rng: random.Random, folder: Path) -> None:
            (folder / "c.json").write_bytes(mutate.of_json(rng, rng.choice([seed, whole])))

        return Reader(write, lambda folder: load(folder / "c.json"))

    def of_template(self) -> Reader:
        """Chat templates of strangers, in the process that renders them."""
        from llamakit.chat.own import own_template
        from llamakit.chat.template import ChatTemplate

        messages = RECORDS[0]["messages"][:2]

        def write(rng: random.Random, folder: Path) -> None:
            (folder / "t").write_bytes(mutate.of_bytes(rng, own_template().encode()))

        def read(folder: Path) -> None:
            source = (folder / "t").read_bytes().decode("utf-8", "replace")
            ChatTemplate(source).render(messages)

        return Reader(write, read)

    def _adapter(self, path: Path) -> None:
        from llamakit.lora.files import read_adapter_file
        from llamakit.models.lora import load_adapter

        faults = []
        for read in (lambda: load_adapter(path, self.loaded), lambda: read_adapter_file(path, self.file)):
            try:
                read()
            except LlamaKitError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def _gguf(self, rng: random.Random, path: Path, seed: mutate.GGUF) -> None:
        if rng.random() < 0.7:
            seed.write(path, rng)
        else:
            seed.write(path)
            path.write_bytes(mutate.of_bytes(rng, path.read_bytes()))


def attack(reader: Reader, folder: Path, count: int, seed: int) -> tuple[int, list[str]]:
    """Read so many spoilt files; how many were accepted, and what was neither a result nor an error of LlamaKit's."""
    accepted, faults = 0, []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        for old in folder.iterdir():
            old.unlink()
        reader.write(rng, folder)
        began = time.process_time()
        try:
            reader.read(folder)
            accepted += 1
        except LlamaKitError:
            pass
        except BaseException:
            faults.append(f"seed {seed} {number}: {traceback.format_exc(limit=-4)}")
            if isinstance(sys.exception(), KeyboardInterrupt):
                raise
        if time.process_time() - began > SECONDS:
            faults.append(f"seed {seed} {number}: {time.process_time() - began:.1f} s")
    return accepted, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="files of each reader")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "work"
        work.mkdir()
        readers = Readers(Path(name))
        found = readers.all()
        for each in options.only.split(",") if options.only else found:
            began = time.monotonic()
            accepted, faults = attack(found[each], work, options.count, options.seed)
            failed += len(faults)
            print(f"{each:<16}{accepted:>7} accepted of {options.count}, {time.monotonic() - began:.1f} s", flush=True)
            kinds = {fault.rpartition("\n  File")[2].split(":")[0]: fault for fault in faults}
            for fault in list(kinds.values())[:12]:
                print(fault, flush=True)
        readers.close()
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
