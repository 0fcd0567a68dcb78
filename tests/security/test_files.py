"""Files that change while they are used, and files that are damaged: typed errors, and the process lives."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from llamakit.errors import ModelFileError
from llamakit.gguf import GGUFWriter, open_gguf
from llamakit.gguf.quantize import quantize_file
from llamakit.lora.merge import merge_adapters
from llamakit.registry import Registry
from llamakit.session import Session
from llamakit.testing.lora import write_gguf_adapter
from llamakit.train.export import write_model
from llamakit.training import Trainer
from llamakit.weights import tensor_sources
from tests.waiting import until


@pytest.fixture
def copy(small_model, tmp_path):
    file = tmp_path / "model.gguf"
    shutil.copyfile(small_model, file)
    return file


def cut(file, share=0.3):
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share))


def test_a_file_that_is_cut_off_while_it_is_mapped(copy):
    """It ended the process with SIGBUS."""
    with open_gguf(copy) as file:
        last = max(file.tensors.values(), key=lambda info: info.offset).name
        assert np.count_nonzero(file.raw(last))
        cut(copy)
        assert np.count_nonzero(file.raw(last)) == 0
        for look in (lambda: file.tensor(last), file.check):
            with pytest.raises(ModelFileError, match="was changed while it was in use"):
                look()


def test_the_last_of_many_files_that_are_mapped(copy, tmp_path):
    """There was room for 256; a cut in any other ended the process. A large model has hundreds of files."""
    code = f"""
import shutil
from pathlib import Path
from llamakit.gguf import open_gguf
files = []
for number in range(300):
    path = Path({str(tmp_path)!r}) / f"{{number}}.gguf"
    shutil.copyfile({str(copy)!r}, path)
    files.append(open_gguf(path))
with path.open("r+b") as opened:
    opened.truncate(path.stat().st_size // 3)
last = max(files[-1].tensors.values(), key=lambda info: info.offset).name
assert not files[-1].raw(last).any()
for file in files:
    file.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_file_that_is_written_to_or_replaced(copy, small_model):
    with open_gguf(copy) as file:
        file.check()
        new = copy.with_suffix(".new")
        shutil.copyfile(small_model, new)
        new.rename(copy)
        file.check()  # what is mapped is the old file, whole
    with open_gguf(copy) as file:
        time.sleep(0.02)
        with copy.open("r+b") as opened:
            opened.write(b"GGUF")
        with pytest.raises(ModelFileError, match="was changed"):
            file.check()


def test_a_model_that_is_cut_off_while_it_loads(copy):
    def progress(done, total):
        if done > total // 4:
            cut(copy)

    session = Session(copy, backend="cpu", threads=1, progress=progress)
    with session, pytest.raises(ModelFileError, match="was changed while it was in use"):
        session.generate("Once", max_tokens=2)


def test_a_model_that_is_cut_off_while_it_serves(copy, serve, in_file):
    server = serve({"stories": copy}, settings=in_file, max_predict=100_000)
    body = {"prompt": "Once", "n_predict": 90_000, "ignore_eos": True, "stream": True}
    with server.open("/completion", body) as response:
        response.read1()
        cut(copy)
        data = b""
        while part := response.read1():
            data += part
    assert b"was changed while it was in use" in data
    status, answer = server.get("/health")
    assert status == 503
    assert "was changed" in answer["error"]["message"]
    assert server.post("/completion", {"prompt": "Once", "n_predict": 1})[0] == 503


def test_a_packed_model_goes_on_without_its_file(copy, serve):
    server = serve({"stories": copy})
    before = server.post("/completion", {"prompt": "Once", "n_predict": 8, "seed": 1})[1]["content"]
    cut(copy, 0)
    assert server.post("/completion", {"prompt": "Once", "n_predict": 8, "seed": 1})[1]["content"] == before
    assert server.get("/health")[0] == 200
    assert server.get("/props")[0] in (200, 500, 503)


# -- written over in place: as many bytes as before, others ---------------------------------------------------------


@pytest.fixture(params=["cpu", "opencl"])
def in_file(request):
    """Settings with which weights stay in the file: asked for on the cpu, and where a device uses the host's memory."""
    if request.param == "cpu":
        return {"backend": "cpu", "backend_options": {"no_repack": True}}
    pytest.importorskip("pyopencl", reason="needs pyopencl")
    backend = Registry.discover().backend("opencl")
    if not backend.probe().available or not backend().open().driver.shares:
        pytest.skip("needs a device of OpenCL that uses the host's memory")
    return {"backend": "opencl"}


def overwrite(file):
    """Zeros in place of the second half."""
    time.sleep(0.02)  # the clock of file systems ticks
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(size // 2)
        opened.write(bytes(size - size // 2))
    assert file.stat().st_size == size


def adapter(model, folder):
    """One that changes nothing."""
    name = "blk.0.attn_q.weight"
    with open_gguf(model) as file:
        n_out, n_in = file.tensors[name].shape
    pair = {f"{name}.lora_a": np.ones((2, n_in), np.float32), f"{name}.lora_b": np.zeros((n_out, 2), np.float32)}
    return write_gguf_adapter(folder / "lora.gguf", pair)


def test_a_model_that_is_written_over_while_it_serves(copy, serve, in_file):
    server, data = serve({"stories": copy}, settings=in_file, max_predict=100_000), copy.read_bytes()
    short = {"prompt": "Once", "n_predict": 8, "seed": 1}
    before = server.post("/completion", short)[1]["content"]
    told = b""
    with server.open(
        "/completion", {"prompt": "Once", "n_predict": 90_000, "ignore_eos": True, "stream": True}
    ) as stream:
        stream.read1()
        overwrite(copy)
        while part := stream.read1():
            told += part
    assert b"was changed while it was in use" in told
    assert server.get("/health")[1]["error"]["code"] == "model_changed"
    assert server.post("/completion", short)[0] == server.post("/embedding", {"input": "x"})[0] == 503
    copy.write_bytes(data)
    assert server.get("/health")[0] == 503  # what is mapped may still be anything
    until(lambda: server.post("/models/unload")[0] == 200)
    assert server.post("/completion", short)[1]["content"] == before
    assert server.get("/health")[0] == 200


def test_a_model_that_is_written_over_while_nobody_asks(copy, serve, in_file):
    server = serve({"stories": copy}, settings=in_file)
    assert server.get("/health")[0] == 200
    overwrite(copy)
    until(lambda: server.get("/health")[0] == 503)


def test_no_answer_comes_of_a_model_that_was_written_over(copy, serve, in_file):
    """Whoever asked within the second until somebody looked got one of other weights, as if it were right."""
    server = serve({"stories": copy}, settings=in_file | {"stall_seconds": 4000.0})
    server.state.pool.loaded().service._look_at_model = lambda: None  # nobody looks
    before = server.post("/completion", {"prompt": "Once", "n_predict": 4})
    assert before[0] == 200
    overwrite(copy)
    for path, body in (("/completion", {"prompt": "Once", "n_predict": 4}), ("/embedding", {"input": "Once"})):
        status, answer = server.post(path, body)
        assert status >= 500
        assert "was changed while it was in use" in answer["error"]["message"]


@pytest.mark.parametrize("ask", ["generate", "embed", "logits"])
def test_a_session_without_a_server_notices_too(copy, ask, in_file):
    with Session(copy, threads=1, **in_file) as session:
        call = getattr(session, ask)
        given = {"max_tokens": 3} if ask == "generate" else {}
        asked = session.tokenize("Once upon") if ask == "logits" else "Once upon"
        call(asked, **given)
        overwrite(copy)
        for _ in range(2):
            with pytest.raises(ModelFileError, match="was changed while it was in use"):
                call(asked, **given)


def test_training_ends_when_its_base_is_written_over(copy, tmp_path, in_file):
    """Its adapter would have been one for other weights."""
    data = tmp_path / "data.txt"
    data.write_text("Once upon a time there was a cat.\n" * 40)
    with Session(copy, **in_file) as session:
        trainer = session.trainer(data=[str(data)], out=str(tmp_path / "out"), steps=20, ctx=32, batch=2, val_split=0.0)
        steps = []
        trainer.on_step(lambda event: (steps.append(event), len(steps) == 2 and overwrite(copy)))
        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            trainer.run()
    assert len(steps) == 2


def test_weights_of_another_file_are_looked_at_too(copy, small_model, tmp_path, serve, in_file):
    """Those of --lora-base lie in a file of their own."""
    other, lora = tmp_path / "base.gguf", adapter(small_model, tmp_path)
    shutil.copyfile(small_model, other)
    settings = in_file | {"lora": [(str(lora), 1.0)], "lora_base": str(other), "adapter_slots": 1}
    server = serve({"stories": copy}, settings=settings)
    assert server.post("/completion", {"prompt": "Once", "n_predict": 1})[0] == 200
    overwrite(other)
    until(lambda: server.get("/health")[0] == 503)


def test_weights_that_are_read_into_memory_need_no_file(copy, serve):
    server = serve({"stories": copy}, settings={"backend_options": {"no_repack": True, "no_mmap": True}})
    body = {"prompt": "Once", "n_predict": 8, "seed": 1}
    before = server.post("/completion", body)[1]["content"]
    overwrite(copy)
    time.sleep(1.5)  # the watchdog looks every second
    assert server.get("/health")[0] == 200
    assert server.post("/completion", body)[1]["content"] == before


def test_a_packed_model_goes_on_after_its_file_was_written_over(copy, serve):
    server = serve({"stories": copy})
    asked = [("/completion", {"prompt": "Once", "n_predict": 8, "seed": 1}), ("/tokenize", {"content": "Once upon"}),
             ("/embedding", {"input": "Once"}), ("/v1/embeddings", {"input": "Once"})]  # fmt: skip
    before = [server.post(path, body)[1] for path, body in asked]
    with copy.open("r+b") as opened:  # the metadata too
        opened.write(bytes(copy.stat().st_size))
    after = [server.post(path, body) for path, body in asked]
    assert [status for status, _ in after] == [200] * 4
    assert after[0][1]["content"] == before[0]["content"]
    assert [answer for _, answer in after[1:]] == before[1:]
    for path in ("/props", "/models", "/v1/models", "/api/tags", "/api/ps", "/metrics", "/slots", "/health"):
        status, _, data = server.request("GET", path)
        assert status == 200 or (path in ("/metrics", "/slots") and status == 501), (path, data[:300])
    for path in ("/api/show", "/apply-template", "/v1/chat/completions"):
        status, _, data = server.request(
            "POST", path, {"model": "stories", "messages": [{"role": "user", "content": "x"}]}
        )
        assert status in (200, 400, 503), (path, data[:300])
        assert status != 503 or b"was changed while it was in use" in data


def test_metadata_of_a_file_that_was_written_over_are_not_read(copy):
    with open_gguf(copy) as file:
        assert file.metadata["general.architecture"] == "llama"
        overwrite(copy)
        for read in (lambda: file.metadata["general.architecture"], lambda: file.metadata.text("general.name")):
            with pytest.raises(ModelFileError, match="was changed while it was in use"):
                read()
        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            file.tensor("output_norm.weight")


def test_copies_of_a_file_that_is_cut_off_meanwhile_do_not_appear(copy, small_model, tmp_path):
    """They were written, with zeros for what was gone."""
    (tmp_path / "out").mkdir()
    out, lora = tmp_path / "out" / "out.gguf", adapter(small_model, tmp_path)

    def halfway(done, total):
        if done > total // 4:
            cut(copy)

    data = copy.read_bytes()
    for make in (
        lambda: quantize_file(copy, out, "Q8_0", halfway), lambda: quantize_file(copy, out, "F32", halfway),
        lambda: merge_adapters(copy, out, [(lora, 1.0)], progress=halfway),
    ):  # fmt: skip
        copy.write_bytes(data)
        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            make()
        assert not list(out.parent.iterdir())


@pytest.mark.parametrize("change", [cut, overwrite], ids=["cut off", "written over"])
def test_a_finetuned_model_is_no_copy_of_a_base_that_changes(copy, tmp_path, change):
    """What is not trained is copied: there were other weights in it, without a word."""
    (tmp_path / "out").mkdir()

    class Trained:
        def read(self):
            change(copy)
            return np.zeros(file.tensors[first].shape, np.float32)

    with open_gguf(copy) as file:
        first = next(iter(file.tensors))
        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            write_model(tmp_path / "out" / "model.gguf", file, {first: Trained()})
    assert not list((tmp_path / "out").iterdir())


def test_a_model_that_changed_is_no_fault_of_the_file_that_is_restored(copy, small_model, tmp_path, serve):
    """It was told as status 400, of the session or the adapter, and sessions were saved as of another model."""
    with open_gguf(small_model) as file:  # of a norm, what the adapter adds to the model's own is worked out
        write_gguf_adapter(tmp_path / "lora.gguf", {name: file.tensor(name) for name in ("output_norm.weight",)})
    server = serve(
        {"stories": copy}, slot_save_path=str(tmp_path), lora_dir=str(tmp_path), settings={"adapter_slots": 1}
    )
    assert server.post("/completion", {"prompt": "Once upon", "n_predict": 4, "id_slot": 0})[0] == 200
    assert server.post("/slots/0?action=save", {"filename": "kept"})[0] == 200
    overwrite(copy)
    for action in ("restore", "save"):
        status, answer = server.post(f"/slots/0?action={action}", {"filename": "kept"})
        assert (status, answer["error"]["code"]) == (503, "model_changed"), action
    status, answer = server.post("/lora-adapters/load", {"name": "lora"})
    assert (status, answer["error"]["code"]) == (503, "model_changed")


def test_tensors_of_a_file_that_is_cut_off_while_they_are_read(copy):
    """As training reads them: what was gone was zeros, without a word."""
    with open_gguf(copy) as file:
        sources = tensor_sources(file.tensors, file)

        def read():
            for number, name in enumerate(file.tensors):
                for _ in sources[name].pieces():
                    if number == 3:
                        cut(copy)

        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            read()


def test_a_part_of_a_base_that_was_replaced_between_two_runs(small_model, tmp_path):
    """Only the part that is named was looked at: the run went on with other weights."""
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]

    def write(number, change=0):
        with open_gguf(small_model) as file, GGUFWriter(parts[number]) as writer:
            for key in file.metadata if number == 0 else ():
                writer.add(key, file.metadata[key], *file.value_type(key))
            writer.add("split.count", 2)
            for name in list(file.tensors)[number::2]:
                writer.add_tensor(name, file.tensor(name) + np.float32(change))

    write(0)
    write(1)
    data = tmp_path / "data.txt"
    data.write_text("Once upon a time there was a cat.\n" * 40)
    with Session(parts[0], backend="cpu") as session:
        session.trainer(data=[str(data)], out=str(tmp_path / "run"), steps=1, ctx=16, batch=1, val_split=0.0).run()
    assert Trainer.resume(tmp_path / "run", steps=2).run().step == 2
    write(1, change=1)
    with pytest.raises(ModelFileError, match="is not the base that the run began with"):
        Trainer.resume(tmp_path / "run", steps=3).run()
