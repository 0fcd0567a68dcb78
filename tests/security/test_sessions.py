"""Saved sessions that are damaged, of somebody else, or too large; disks that are full: typed errors, no blocks taken.

Whatever went wrong, the next try with a good file works. In Python, and with `/slots/{id}?action=save|restore`.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from llamakit import embedded
from llamakit.engine import session_file
from llamakit.errors import FileWriteError, LlamaKitError, ModelFileError, UnavailableError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf
from llamakit.session import Session

TEXT = "Once upon a time there was a girl who had a dog and a cat"


@pytest.fixture(scope="module")
def session(small_model):
    with Session(small_model, backend="cpu", threads=1) as made:
        yield made


@pytest.fixture
def saved(session, tmp_path):
    """A file with the beginning of a text, which the session has forgotten since."""
    tokens = session.tokenize(TEXT, add_bos=True)
    session.generate(tokens, max_tokens=2)
    file = tmp_path / "saved.gguf"
    assert session.save_prefix(file, tokens) == len(tokens)
    session.engine.space.tree.clear()
    return file


def blocks(session):
    """Blocks that are free or known."""
    return session.engine.space.pool.n_free, len(session.engine.space.tree)


def refused(session, file, match=None, error=ModelFileError):
    """Refused twice, with nothing changed."""
    before = blocks(session)
    for _ in range(2):
        with pytest.raises(error, match=match):
            session.load_prefix(file)
        assert blocks(session) == before


def works(session, file):
    """It is read, and forgotten again."""
    tokens, tree = session.load_prefix(file), session.engine.space.tree
    assert len(tokens) > 8
    assert tree.match(session_file.DEFAULT_KEY, tokens)[1] == len(tokens)
    tree.clear()


def rewritten(file, **changes):
    """The file with other metadata or another tensor, and a digest that fits them."""
    out = file.with_name("changed.gguf")
    with open_gguf(file) as old, GGUFWriter(out) as writer:
        data, shape = np.array(old.raw("kv")).view(np.int8), old.tensors["kv"].shape
        data, shape = changes.get("kv", (data, shape))
        with_digest = {"digest": digest_of(changes.get("tokens", old.metadata["llamakit.session.tokens"]), data)}
        for key in [*old.metadata, "llamakit.session.adapters"]:
            value = (with_digest | changes).get(key.rpartition(".")[2], old.metadata.get(key))
            if value is not None:
                writer.add(key, value)
        if data is not None:
            writer.add_tensor("kv", data, GGMLType.I8, shape)
    return out


def digest_of(tokens, data):
    try:
        return session_file.Beginning(np.asarray(tokens).astype(np.int64).tolist(), data).digest()
    except (TypeError, ValueError):
        return "none"


def test_the_digest_of_a_rewritten_file_fits(session, saved):
    """Else the tests below would only see that it does not."""
    works(session, rewritten(saved))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tokens": None}, "tokens are missing"), ({"tokens": "none"}, "damaged"), ({"tokens": 7}, "of shape"),
        ({"tokens": np.array([1.5, 2.5], np.float32)}, "damaged"), ({"kv": (None, None)}, "of shape None"),
        ({"tokens": np.array([1, 2, 1 << 30], np.int32)}, "for 3 tokens"),
        ({"tokens": np.arange(5, dtype=np.int32)}, "for 5 tokens"), ({"tokens": np.ones(500, np.int32)}, "for 500"),
        ({"tokens": np.ones(9999, np.int32)}, "larger context"), ({"tokens": ["a", "b"]}, "damaged"),
        ({"kv": (np.zeros(32, np.int8), (1, 1, 32))}, "of shape"), ({"key": "other"}, "another model"),
        ({"key": 3}, "another model"), ({"architecture": "llama"}, "not a saved session"),
        ({"digest": "0" * 64}, "not what was written"), ({"digest": None}, "not what was written"),
        ({"digest": 5}, "not what was written"), ({"adapters": "[["}, "damaged"), ({"adapters": '{"a": 1}'}, "damaged"),
        ({"adapters": "[" * 100_000}, "damaged"), ({"adapters": '[["x", 1.0]]'}, "not what was written"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_file_says_is_checked(session, saved, changes, match):
    refused(session, rewritten(saved, **changes), match)
    works(session, saved)


@pytest.mark.parametrize("token", [-5, 1 << 20])
def test_tokens_that_are_none(session, saved, token):
    with open_gguf(saved) as file:
        tokens = np.array(file.metadata["llamakit.session.tokens"])
    tokens[3] = token
    refused(session, rewritten(saved, tokens=tokens), "tokens that the model does not know")


@pytest.mark.parametrize("change", ["fewer", "more", "turned", "other layers"])
def test_keys_and_values_of_other_shapes(session, saved, change):
    with open_gguf(saved) as file:
        data = np.array(file.raw("kv")).view(np.int8).reshape(file.tensors["kv"].shape)
    layers, n, row = data.shape
    made = {
        "fewer": data[:, :-1], "more": np.concatenate([data, data], axis=1), "turned": data.reshape(n, layers, row),
        "other layers": data.reshape(layers * 2, n, row // 2),
    }[change]  # fmt: skip
    refused(session, rewritten(saved, kv=(np.ascontiguousarray(made), made.shape)), "of shape")


def test_files_that_are_cut_off_anywhere(session, saved):
    """At every byte of the head, at the ends of the tensor, and at places between."""
    data, part = saved.read_bytes(), saved.with_name("part.gguf")
    with open_gguf(saved) as file:
        info = file.tensors["kv"]
    head = len(data) - info.n_bytes
    lengths = {*range(0, head, 7), *range(head - 64, head + 64), *range(head, len(data), info.n_bytes // 20 or 1)}
    before = blocks(session)
    for length in sorted(lengths | {len(data) - 1, len(data) - 32, head + info.n_bytes // 2}):
        if length < head + info.n_bytes:
            part.write_bytes(data[:length])
            with pytest.raises(ModelFileError):
                session.load_prefix(part)
    assert blocks(session) == before
    works(session, saved)


def test_bits_that_are_wrong(session, saved):
    """A wrong bit in keys and values was a wrong answer, without a word."""
    data, part, rng = saved.read_bytes(), saved.with_name("part.gguf"), random.Random(5)
    with open_gguf(saved) as file:
        head = len(data) - file.tensors["kv"].n_bytes
    before, read = blocks(session), 0
    for at in [*range(0, head, 3), *(rng.randrange(head, len(data)) for _ in range(60))]:
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << rng.randrange(8)
        part.write_bytes(spoilt)
        try:
            tokens = session.load_prefix(part)
        except ModelFileError:
            assert blocks(session) == before
            continue
        read += 1  # the name of the KV type, or padding: nothing that counts
        assert at < head
        assert len(tokens) > 8
        session.engine.space.tree.clear()
    assert read < head // 3 // 4
    works(session, saved)


def test_a_size_that_is_not_there_takes_no_memory(session, saved, monkeypatch):
    """The keys and values were copied before they were looked at."""
    made = np.zeros((2, 1 << 20, 8), np.int8)
    large = rewritten(saved, kv=(made, made.shape))
    copied = []
    array = np.array
    monkeypatch.setattr(session_file.np, "array", lambda *args, **more: copied.append(1) or array(*args, **more))
    refused(session, large, "of shape")
    assert not copied


def test_files_of_other_models_and_caches(session, saved, small_model):
    others = [Session(small_model, backend="cpu", threads=1, kv_type=kv_type) for kv_type in ("f32", "bf16", "q8_0")]
    if small_model != embedded.FILE:
        others.append(Session(embedded.FILE, backend="cpu", threads=1, ctx_size=256))
    others.append(Session(small_model, backend="reference", ctx_size=64))
    for other in others:
        with other:
            if other.settings.backend == "reference":  # another backend is no other cache
                works(other, saved)
                continue
            refused(other, saved, "another model")
            tokens = other.tokenize(TEXT, add_bos=True)
            other.generate(tokens, max_tokens=1)
            theirs = saved.with_name("theirs.gguf")
            other.save_prefix(theirs, tokens)
            refused(session, theirs, "another model")
            works(other, theirs)
    works(session, saved)


def test_a_smaller_context_refuses_and_says_why(saved, small_model):
    with Session(small_model, backend="cpu", threads=1, ctx_size=16) as small:
        refused(small, saved, "the context 16")


def test_running_answers_leave_no_room_for_now(saved, small_model):
    """It was told that the context is too small."""
    with Session(small_model, backend="cpu", threads=1, ctx_size=64, n_seq=1) as small:
        space = small.engine.space
        held = [space.pool.allocate() for _ in range(space.pool.n_free)]
        refused(small, saved, "no room", UnavailableError)
        for block in held:
            space.pool.release(block)
        works(small, saved)


def test_long_ones_are_copied_a_part_at_a_time(session, tmp_path, monkeypatch):
    """A context of gigabytes was copied in one go, beside which nobody's answer went on."""
    tokens = session.tokenize(TEXT * 4, add_bos=True)
    plain = session.generate(tokens, max_tokens=8, temperature=0).tokens
    session.save_prefix(tmp_path / "whole.gguf", tokens)
    most, calls = [], session._on_engine
    export = session.engine.space.kv.export
    monkeypatch.setattr(session.engine.space.kv, "export", lambda cells: most.append(len(cells)) or export(cells))
    monkeypatch.setattr(session_file, "MOST_COPIED", 1)
    assert session.save_prefix(tmp_path / "parts.gguf", tokens) == len(tokens)
    assert max(most) == session.engine.space.size
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    session.engine.space.tree.clear()
    n_calls = []
    monkeypatch.setattr(session, "_on_engine", lambda function: n_calls.append(1) or calls(function))
    assert session.load_prefix(tmp_path / "parts.gguf") == tokens
    assert len(n_calls) > len(tokens) / session.engine.space.size
    again = session.generate(tokens, max_tokens=8, temperature=0)
    assert again.timings.n_cached == len(tokens) - 1
    assert again.tokens == plain


def test_what_others_need_the_room_for_meanwhile_is_not_saved(session, tmp_path, monkeypatch):
    tokens, space = session.tokenize(TEXT * 4, add_bos=True), session.engine.space
    session.generate(tokens, max_tokens=1)
    monkeypatch.setattr(session_file, "MOST_COPIED", 1)
    calls, n_calls = session._on_engine, []

    def call(function):
        n_calls.append(1)
        if len(n_calls) == 4:  # after the sizes and two parts
            space.tree.clear()
        return calls(function)

    monkeypatch.setattr(session, "_on_engine", call)
    assert session.save_prefix(tmp_path / "saved.gguf", tokens) == 2 * space.size
    assert session.load_prefix(tmp_path / "saved.gguf") == tokens[: 2 * space.size]


def test_what_others_evaluate_meanwhile_is_not_saved(session, tmp_path, monkeypatch):
    """A save failed if more of its text was known at its end than when it began."""
    tokens, space = session.tokenize(TEXT * 4, add_bos=True), session.engine.space
    n = 2 * space.size + 3
    space.tree.clear()
    session.generate(tokens[:n], max_tokens=1)
    monkeypatch.setattr(session_file, "MOST_COPIED", 1)
    calls, n_calls = session._on_engine, []

    def call(function):
        n_calls.append(1)
        if len(n_calls) == 3:  # after the sizes and a part
            session.generate(tokens, max_tokens=1)
        return calls(function)

    monkeypatch.setattr(session, "_on_engine", call)
    assert session.save_prefix(tmp_path / "saved.gguf", tokens) == n
    assert session.load_prefix(tmp_path / "saved.gguf") == tokens[:n]


def test_what_is_loaded_makes_no_room_for_its_own_rest(session, tmp_path, monkeypatch):
    """Where others took all that was left after its first parts, the last of these went for the next.

    That one then followed itself in the tree, and the engine's thread went round and round in it.
    """
    tokens, space = session.tokenize(TEXT * 4, add_bos=True), session.engine.space
    session.generate(tokens, max_tokens=1)
    session.save_prefix(tmp_path / "saved.gguf", tokens)
    space.tree.clear()
    monkeypatch.setattr(session_file, "MOST_COPIED", 1)
    calls, n_calls, held = session._on_engine, [], []

    def call(function):
        n_calls.append(1)
        if len(n_calls) == 5:  # after the sizes, twice, and two parts
            held.extend(space.pool.allocate() for _ in range(space.pool.n_free))
        return calls(function)

    monkeypatch.setattr(session, "_on_engine", call)
    with pytest.raises(UnavailableError, match="no room"):
        session.load_prefix(tmp_path / "saved.gguf")
    assert space.pool.n_free == 0
    assert space.tree.match(session_file.DEFAULT_KEY, tokens)[1] == 2 * space.size
    for block in held:
        space.pool.release(block)
    assert session.load_prefix(tmp_path / "saved.gguf") == tokens


def test_nothing_evaluated_is_an_empty_session(session, saved):
    """It could be written and not be read."""
    assert session.save_prefix(saved, session.tokenize("A text that nobody asked for")) == 0
    assert session.load_prefix(saved) == []


def test_what_is_no_file(session, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        refused(session, path, "folder|no file|pipe")


@pytest.mark.parametrize(
    "error", [ValueError("no"), TypeError("no"), IndexError("no"), MemoryError(), LlamaKitError("no")]
)
def test_a_cache_that_does_not_take_it_keeps_no_blocks(session, saved, error, monkeypatch):
    def refuse(self, cells, data):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(session.engine.space.kv), "restore", refuse)
        refused(
            session, saved, error=type(error) if isinstance(error, (MemoryError, LlamaKitError)) else ModelFileError
        )
    works(session, saved)


def test_a_file_that_changes_while_it_is_read(session, saved, monkeypatch):
    content = session_file._content

    def slow(file, path, room):
        found = content(file, path, room)
        os.truncate(saved, saved.stat().st_size // 2)
        return found

    data = saved.read_bytes()
    monkeypatch.setattr(session_file, "_content", slow)
    before = blocks(session)
    with pytest.raises(ModelFileError, match="was changed while it was in use"):
        session.load_prefix(saved)
    assert blocks(session) == before
    monkeypatch.undo()
    saved.write_bytes(data)
    works(session, saved)


# -- full disks -------------------------------------------------------------------------------------------------------


@contextmanager
def full_disk(n_bytes):
    """Files take no more than so many bytes: what is written ends in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("n_bytes", [0, 100, 2000, 10_000])
def test_a_save_on_a_full_disk_leaves_what_was_there(session, saved, n_bytes):
    tokens = session.load_prefix(saved)
    data, before = saved.read_bytes(), blocks(session)
    assert len(data) > 10_000
    for file in (saved, saved.with_name("new.gguf")):
        with full_disk(n_bytes), pytest.raises(FileWriteError) as caught:
            session.save_prefix(file, tokens)
        assert caught.value.errno == errno.EFBIG
        assert "it takes" in caught.value.found
    assert [each.name for each in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == data
    assert blocks(session) == before
    assert session.save_prefix(saved, tokens) == len(tokens)
    session.engine.space.tree.clear()
    works(session, saved)


# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slotted(small_model, module_of, tmp_path_factory):
    """A server that saves slots; slot 0 has a text, and `whole` in the folder is it."""
    folder = tmp_path_factory.mktemp("slots")
    running = module_of("rest/conftest.py").running
    with running({"stories": small_model}, slot_save_path=str(folder)) as server:
        server.folder = folder
        assert server.post("/completion", {"prompt": TEXT, "id_slot": 0, "n_predict": 4, "temperature": 0})[0] == 200
        assert server.post("/slots/0?action=save", {"filename": "whole"})[0] == 200
        yield server


def act(server, action, name):
    status, answer = server.post(f"/slots/0?action={action}", {"filename": name})
    return status, answer.get("error", answer)


def free_or_known(server):
    space = server.state.pool.loaded().engine.space
    return server.state.pool.loaded().service.call(lambda: space.pool.n_free + len(space.tree))


def test_damaged_slots_are_refused_and_the_next_try_works(slotted):
    whole, before, rng = (slotted.folder / "whole").read_bytes(), free_or_known(slotted), random.Random(3)
    spoilt = [whole[:n] for n in (0, 3, 30, 200, len(whole) // 2, len(whole) - 40)]
    for at in (1, 6, 20, 60, 300, len(whole) // 2, len(whole) - 100):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.randrange(8)
        spoilt.append(bytes(flipped))
    spoilt += [whole[:8] + b"\xff" * 8 + whole[16:], whole[:16] + b"\xff" * 8 + whole[24:], b"GGUF" + bytes(2000)]
    for data in spoilt:
        (slotted.folder / "part").write_bytes(data)
        status, error = act(slotted, "restore", "part")
        assert (status, error.get("param")) == (400, "filename"), data[:30]
        assert str(slotted.folder) not in str(error)
        assert free_or_known(slotted) == before
        assert act(slotted, "restore", "whole")[0] == 200
    assert slotted.get("/health")[0] == 200


def test_slots_on_a_full_disk(slotted):
    whole = (slotted.folder / "whole").read_bytes()
    for name in ("whole", "fresh"):
        with full_disk(4096):
            status, error = act(slotted, "save", name)
        assert (status, error["code"]) == (507, "cannot_write"), error
        assert error["message"].startswith(f"{name} cannot be written")
        assert str(slotted.folder) not in str(error)
    assert not (slotted.folder / "fresh").exists()
    assert not list(slotted.folder.glob(".*"))
    assert (slotted.folder / "whole").read_bytes() == whole
    assert act(slotted, "save", "fresh")[0] == act(slotted, "restore", "fresh")[0] == 200


def test_a_slot_that_finds_no_room_may_be_tried_again(slotted, monkeypatch):
    space = slotted.state.pool.loaded().engine.space
    with monkeypatch.context() as patch:
        patch.setattr(type(space), "find_room", lambda self, n: False)
        status, error = act(slotted, "restore", "whole")
    assert (status, error["code"]) == (503, "unavailable"), error
    assert act(slotted, "restore", "whole")[0] == 200


def test_a_model_that_does_not_load_is_no_fault_of_the_slot(serve, slotted, small_model, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(small_model.read_bytes()[:5000])
    server = serve({"stories": small_model, "broken": broken}, slot_save_path=str(slotted.folder))
    status, answer = server.post("/slots/0?action=restore", {"filename": "whole", "model": "broken"})
    assert status == 500
    assert "broken.gguf" in answer["error"]["message"]
