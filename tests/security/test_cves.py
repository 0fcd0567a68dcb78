"""Faults that others had, each by its number: what was sent there is sent here, and is an error that says why.

docs/security.md has the list, with those that other tests hold.
"""

from __future__ import annotations

import ast
import gzip
import json
import pickle
import struct
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from llamakit.plugins.samplers.grammar import compile

from llamakit.chat.template import ChatTemplate
from llamakit.errors import LlamaKitError, ModelFileError
from llamakit.gguf import GGMLType, ValueType, open_gguf
from llamakit.models.lora import load_adapter
from llamakit.tokenizer import load_tokenizer
from tests.timing import is_quick

U64 = (1 << 64) - 1


def text(value):
    return struct.pack("<Q", len(value)) + value


def head(n_tensors=0, n_kv=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_kv)


def number(key, value):
    return text(key) + struct.pack("<II", ValueType.UINT32, value)


def tensor(dims, kind=GGMLType.F32, offset=0, name=b"x"):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def padded(data, n=64):
    return data + bytes(-len(data) % 32) + bytes(n)


GGUF = {
    "CVE-2024-23605 more keys than bytes": head(0, U64),
    "CVE-2024-23496 more tensors than bytes": head(U64, 0),
    "CVE-2024-21836 a string of all memory": head(0, 1) + struct.pack("<Q", U64),
    "CVE-2024-21802 more dimensions than four": padded(head(1) + tensor([1] * 5)),
    "CVE-2024-21825 an array whose size wraps": head(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 4, U64 // 4 + 2),
    "CVE-2024-32878 an array of arrays": head(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1 << 40) + bytes(64),
    "CVE-2025-53630 sizes that wrap when added": padded(
        head(2) + tensor([1 << 62], GGMLType.I8) + tensor([1 << 62], GGMLType.I8, 1 << 62, b"y")
    ),
    "GHSA-3p4r-fq3f-q74v a size that wraps when padded": padded(head(1) + tensor([(1 << 64) - 1], GGMLType.I8)),
    "CVE-2026-27940 an offset that wraps": padded(head(1) + tensor([8], offset=U64 - 31)),
    "CVE-2026-33298 a product of dimensions that wraps": padded(head(1) + tensor([1 << 32, 1 << 32, 1 << 2])),
    "CVE-2026-7482 a tensor behind the end": padded(head(1) + tensor([1 << 20])),
    "a dimension of zero": padded(head(1) + tensor([0, 4])),
    "a type that is none": padded(head(1) + tensor([32], kind=9999)),
    "a row that is not a whole block": padded(head(1) + tensor([31], kind=GGMLType.Q4_0)),
    "an alignment of 2 to the 31": padded(head(0, 1) + number(b"general.alignment", 1 << 31)),
    "an alignment of zero": padded(head(0, 1) + number(b"general.alignment", 0)),
    "tensors that overlap": padded(head(2) + tensor([16]) + tensor([16], offset=32, name=b"y"), 256),
}


def read_all(file):
    with open_gguf(file) as opened:
        for each in opened.tensors:
            opened.tensor(each)


@pytest.mark.parametrize("name", GGUF)
def test_files(name, tmp_path):
    file = tmp_path / "hostile.gguf"
    file.write_bytes(GGUF[name])
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            read_all(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": [], "scores": []}, {"tokens": ["a"], "scores": [0.0] * 2}, {"tokens": ["<unk>", "\u2581" * 70_000]},
        {"tokens": 7}, {"bos_token_id": 1 << 31}, {"eos_token_id": 4_294_967_295}, {"token_type": [1] * 5},
        {"model": "gpt2", "merges": ["a b"] * 5}, {"model": "plamo2"}, {"unknown_token_id": 999_999},
    ],
    ids="-".join,
)  # fmt: skip
def test_cve_2025_49847_and_52566_tables_of_tokenizers(changes, small_model):
    with open_gguf(small_model) as file:
        metadata = dict(file.metadata) | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with suppress(LlamaKitError):  # refused; anything else is a fault of ours
        tokenizer = load_tokenizer(metadata)
        tokens = tokenizer.encode("Once <s> \u2581\u2581 \U0001f600")
        assert all(0 <= token < tokenizer.n_vocab for token in tokens)
        tokenizer.decode(tokens)


class Bomb:
    """What runs a command where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("name", ["adapter.bin", "adapter.gguf", "adapter.safetensors", "adapter.pt", "adapter.ggla"])
def test_cve_2026_15969_and_15976_adapters_that_are_pickles(name, tmp_path, server):
    file, fired = tmp_path / name, tmp_path / "fired"
    file.write_bytes(pickle.dumps(Bomb(fired)))
    with pytest.raises(LlamaKitError):
        load_adapter(file, server.state.pool.loaded().model)
    assert not fired.exists()


def test_cve_2026_5760_templates_of_models_reach_no_python():
    attack = "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    with suppress(ModelFileError):
        assert "uid=" not in ChatTemplate(attack).render([{"role": "user", "content": "x"}])


NESTED = "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000
REQUESTS = {
    "CVE-2026-34756 n without bound": ("/v1/completions", {"prompt": "x", "n": 1 << 30, "max_tokens": 1}),
    "CVE-2026-34756 best_of without bound": ("/v1/completions", {"prompt": "x", "best_of": 1 << 30, "max_tokens": 1}),
    "CVE-2026-73559 prompts without bound": ("/v1/completions", {"prompt": ["x"] * 100_000, "max_tokens": 1}),
    "PYSEC-2026-4350 log-probabilities of all": ("/v1/completions", {"prompt": "x", "logprobs": 1 << 31}),
    "PYSEC-2026-4350 of fewer than none": ("/completion", {"prompt": "x", "n_probs": -5}),
    "a bias of a token that is none": ("/completion", {"prompt": "x", "logit_bias": [[1 << 40, 1.0]]}),
    "tokens that are none": ("/completion", {"prompt": [1, -7, 1 << 40]}),
    "CVE-2026-21869 n_discard below zero": ("/completion", {"prompt": "x", "n_predict": 1, "n_discard": -1}),
    "n_keep far below zero": ("/completion", {"prompt": "x", "n_predict": 1, "n_keep": -(1 << 40)}),
    "temperature that is not a number": ("/completion", b'{"prompt": "x", "temperature": NaN}'),
    "60,000 nested groups": ("/completion", {"prompt": "x", "grammar": NESTED}),
    "CVE-2026-55574 regex that explodes": ("/completion", {"prompt": "x", "n_predict": 1, "regex": "(((a+)+)+)+" * 9}),
    "a grammar that is none is not ignored": ("/completion", {"prompt": "x", "grammar": "root ::= ((("}),
    "a schema that is none is not ignored": ("/completion", {"prompt": "x", "json_schema": {"type": "nonsense"}}),
    "CVE-2024-37032 a name that leads elsewhere": ("/api/pull", {"model": "../../../../tmp/x"}),
    "a model by its path": ("/v1/completions", {"model": "/etc/passwd", "prompt": "x"}),
    "a template of the request's own": ("/apply-template", {"messages": [], "chat_template": "{{ 1 }}"}),
    "a million biases": ("/completion", {"prompt": "x", "n_predict": 1, "logit_bias": [[5, 1.0]] * 10**6}),
    "embeddings of a prompt, as tensors": ("/v1/completions", {"prompt": {"prompt_embeds": "AAAA"}, "max_tokens": 1}),
    "pictures in a prompt": ("/completion", {"prompt": {"prompt_string": "x", "multimodal_data": ["AAAA"]}}),
    "a template of Ollama's": ("/api/generate", {"prompt": "x", "template": "{{ cycler.__init__ }}", "raw": 7}),
    "a file by its address": ("/v1/responses", {"input": [{"role": "user", "content": [
        {"type": "input_file", "file_url": "http://169.254.169.254/"}]}]}),
    "a document by its address": ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": [
        {"type": "document", "source": {"type": "url", "url": "file:///etc/passwd"}}]}]}),
    "a schema by its address": ("/completion", {"prompt": "x", "json_schema": {"$ref": "file:///etc/passwd"}}),
    "a compressed body": ("/completion", gzip.compress(b'{"prompt": "x", "n_predict": 1}' + b" " * 10**7)),
    "a pickle": ("/completion", pickle.dumps({"prompt": "x"})),
    "an adapter by its path": ("/lora-adapters/load", {"name": "../../../etc/passwd"}),
    "a model made from a file": ("/api/create", {"model": "x", "from": "/etc/passwd", "files": {"a": "/etc/passwd"}}),
    "a model copied": ("/api/copy", {"source": "stories", "destination": "../x"}),
    "a model sent elsewhere": ("/api/push", {"model": "stories", "insecure": True}),
    "bytes of a model": ("/api/blobs/sha256:" + "0" * 64, b"GGUF"),
    "a picture by an address of this network": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]}),
}  # fmt: skip
SERVED = ("n_discard", "n_keep", "regex", "a model by")  # what may be answered too: it is harmless here


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(server, name):
    path, body = REQUESTS[name]
    found = []
    assert is_quick(5, lambda: found.append(server.request("POST", path, body)), time.process_time)
    status, _, data = found[0]
    assert 400 <= status < 500 or (status == 200 and any(word in name + str(body) for word in SERVED)), data[:300]
    if status >= 400:
        error = json.loads(data)["error"]
        assert error if isinstance(error, str) else error["message"]
    assert server.post("/completion", {"prompt": "Once", "n_predict": 2})[0] == 200


ROOT = Path(__file__).parents[2]
NEVER = {  # what runs or unpacks what it is given
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "torch.load", "joblib.load",
    "numpy.load", "np.load", "pickle.load", "pickle.loads", "marshal.loads",
}  # fmt: skip
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "xmlrpc", "multiprocessing"}


def unsafe(tree):
    """Calls and imports of what would run or unpack data, in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in NEVER:
                yield node.lineno, ast.unparse(node.func)
            if any(word.arg == "shell" or word.arg == "allow_pickle" for word in node.keywords):
                yield node.lineno, "shell or allow_pickle"
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] in MODULES)


def test_cve_2025_32444_and_2023_48022_nothing_unpickles_or_runs_what_it_is_given():
    """There are no ports of workers, and no code that could be made to."""
    for text in ("import pickle", "from marshal import loads", "eval(x)", "np.load(x, allow_pickle=True)",
                 "subprocess.run(x, shell=True)", "os.system(x)", "yaml.load(x)"):  # fmt: skip
        assert list(unsafe(ast.parse(text))), text
    files = [*(ROOT / "llamakit").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    files = [file for file in files if "testing" not in file.parts]  # which kills processes of its own
    assert len(files) > 200
    found = {file.relative_to(ROOT): each for file in files for each in unsafe(ast.parse(file.read_text()))}
    assert not found


def test_only_the_port_of_the_server_listens(process):
    server = process()
    inodes = set()
    for each in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(OSError):
            name = str(each.readlink())
            inodes |= {name[8:-1]} if name.startswith("socket:") else set()
    listening = []
    for kind in ("tcp", "tcp6"):
        lines = [line.split() for line in Path(f"/proc/{server.pid}/net/{kind}").read_text().splitlines()[1:]]
        listening += [int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in inodes]
    assert listening == [server.port]


def test_a_long_honest_string_is_served(server):
    """A limit that refused the tools of real programs was a fault too."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 524_288}}, "required": ["a"]}
    body = {"prompt": "x", "n_predict": 4, "json_schema": schema}
    assert server.post("/completion", body)[0] == 200


def test_ghsa_hf3c_compiled_grammars_are_not_kept_without_bound(server, monkeypatch):
    """A cache of grammars that grew with each new one."""
    monkeypatch.setattr(compile, "MOST_PROGRAMS", 4)
    for i in range(8):
        body = {"prompt": "x", "n_predict": 1, "grammar": f'root ::= "{i}" [a-z]{{1,{i + 1}}}'}
        assert server.post("/completion", body)[0] == 200
    assert len(compile.shared._programs) == 4
    assert compile.MOST_BYTES <= 1 << 30
