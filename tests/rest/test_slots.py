"""Slots of llama.cpp's server: `/slots/{id}?action=save|restore|erase`."""

import json

import pytest

PROMPT = "What is the capital of France? Once upon a time, there was a little girl"


@pytest.fixture
def slotted(serve, tmp_path):
    """A server that saves slots, in `tmp_path / "slots"`."""
    return serve(slot_save_path=str(tmp_path / "slots"))


def complete(server, prompt, slot, **fields):
    """The answer to a prompt in a slot."""
    status, reply = server.post(
        "/completion", {"prompt": prompt, "id_slot": slot, "n_predict": 24, "temperature": 0, **fields}
    )
    assert status == 200, reply
    assert reply["id_slot"] == slot
    return reply


def evaluated(reply):
    """How many tokens of the prompt were evaluated."""
    return reply["timings"]["prompt_n"]


def act(server, slot, action, status=200, **body):
    """The answer to an action."""
    found, reply = server.post(f"/slots/{slot}?action={action}", body)
    assert found == status, reply
    return reply if status == 200 else reply["error"]


def test_a_slot_is_saved_erased_and_restored(slotted, tmp_path):
    first = complete(slotted, PROMPT, 1)
    n_prompt = first["tokens_evaluated"]
    assert evaluated(first) == n_prompt
    saved = act(slotted, 1, "save", filename="one.bin")
    file = tmp_path / "slots" / "one.bin"
    assert saved["id_slot"] == 1
    assert saved["filename"] == "one.bin"
    assert n_prompt <= saved["n_saved"] <= n_prompt + 24
    assert saved["n_written"] == file.stat().st_size
    assert saved["timings"]["save_ms"] > 0
    erased = act(slotted, 1, "erase")
    assert erased == {"id_slot": 1, "n_erased": saved["n_saved"]}
    assert evaluated(complete(slotted, PROMPT, 1)) == n_prompt  # all of it again
    act(slotted, 1, "erase")
    restored = act(slotted, 0, "restore", filename="one.bin")
    assert restored["n_restored"] == saved["n_saved"]
    assert restored["n_read"] == saved["n_written"]
    assert restored["timings"]["restore_ms"] > 0
    again = complete(slotted, PROMPT, 0)
    assert evaluated(again) == 1
    assert again["content"] == first["content"]
    assert act(slotted, 0, "save", filename="two.bin")["n_saved"] == saved["n_saved"]


def test_another_server_goes_on_from_the_file(serve, tmp_path):
    folder = str(tmp_path)
    one = serve(slot_save_path=folder)
    first = complete(one, PROMPT, 0)
    n = act(one, 0, "save", filename="kept")["n_saved"]
    other = serve(slot_save_path=folder)
    assert act(other, 3, "restore", filename="kept")["n_restored"] == n
    again = other.post("/completion", {"prompt": PROMPT, "n_predict": 24, "temperature": 0, "cache_prompt": True})[1]
    assert evaluated(again) == 1
    assert again["id_slot"] == 3  # the one that begins like it
    assert again["content"] == first["content"]


def test_requests_without_a_slot_take_one(slotted):
    for number, prompt in enumerate(("A cat", "The dog sat down", "Once there was")):
        assert slotted.post("/completion", {"prompt": prompt, "n_predict": 1, "cache_prompt": True})[1]["id_slot"] == (
            number
        )
    assert (
        slotted.post("/completion", {"prompt": "The dog sat", "n_predict": 1, "cache_prompt": True})[1]["id_slot"] == 1
    )


def test_chats_have_slots_too(slotted):
    talk = {"messages": [{"role": "user", "content": "Tell me of the sea"}], "max_tokens": 4, "id_slot": 2}
    assert slotted.post("/v1/chat/completions", talk)[0] == 200
    assert act(slotted, 2, "save", filename="talk")["n_saved"] > 4


NAMES = [
    "",
    ".",
    "..",
    "../up",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "C:x",
    "a\0b",
    "a\nb",
    ".hidden",
    "end.",
    " x",
    "x ",
    "a..b",
    "nul",
    "COM1.txt",
    "x" * 256,
    "é" * 130,
    "a*",
    "a?",
    "\ud800",
    "a\u202eb",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("action", ["save", "restore"])
def test_names_that_are_none(slotted_module, name, action):
    error = act(slotted_module, 0, action, 400, filename=name)
    assert error["type"] == "invalid_request_error"


@pytest.fixture(scope="module")
def slotted_module(serve_module, tmp_path_factory):
    """A server that saves slots; slot 0 has a text."""
    folder = tmp_path_factory.mktemp("slots")
    server = serve_module(slot_save_path=str(folder))
    server.folder = folder
    complete(server, PROMPT, 0)
    return server


def test_what_cannot_be(slotted_module, small_model):
    server, folder = slotted_module, slotted_module.folder
    for slot in ("8", "-1", "x", "99999999999999999999", "1.0"):
        assert act(server, slot, "erase", 400)["param"] == "id"
    assert act(server, 0, "fly", 400)["hint"] == "possible: save, restore, erase"
    assert server.post("/slots/0")[0] == 400
    assert act(server, 5, "save", 400, filename="x")["message"] == "slot 5 holds no text"
    assert act(server, 5, "erase") == {"id_slot": 5, "n_erased": 0}
    assert act(server, 0, "restore", 404, filename="nothing")["type"] == "not_found_error"
    (folder / "model.gguf").write_bytes(small_model.read_bytes())
    error = act(server, 0, "restore", 400, filename="model.gguf")
    assert "not a saved session" in error["found"]
    assert str(folder) not in json.dumps(error)
    before = (folder / "model.gguf").read_bytes()
    assert "not a saved slot" in act(server, 0, "save", 400, filename="model.gguf")["message"]
    assert (folder / "model.gguf").read_bytes() == before
    (folder / "folder").mkdir()
    act(server, 0, "save", 400, filename="folder")
    act(server, 0, "restore", 404, filename="folder")


def test_damaged_files(slotted_module):
    server, folder = slotted_module, slotted_module.folder
    act(server, 0, "save", filename="whole")
    data = (folder / "whole").read_bytes()
    for place, part in enumerate((b"", data[:10], data[:200], data[:-1000], data[:60] + b"\xff" * 8 + data[68:])):
        (folder / f"part{place}").write_bytes(part)
        assert act(server, 0, "restore", 400, filename=f"part{place}")["param"] == "filename"
    assert act(server, 0, "restore", filename="whole")["n_restored"] > 0
    assert not list(folder.glob("*.part*"))


def test_a_file_of_another_model(slotted_module, serve, templated, tmp_path):
    act(slotted_module, 0, "save", filename="theirs")
    other = serve(slot_save_path=str(slotted_module.folder), settings={"kv_type": "f32"})
    assert "another model" in act(other, 0, "restore", 400, filename="theirs")["found"]


def test_without_a_folder_there_are_no_actions(server):
    error = act(server, 0, "save", 501, filename="x")
    assert error["type"] == "not_supported_error"
    assert "--slot-save-path" in error["hint"]
    assert server.post("/completion", {"prompt": "a", "n_predict": 1, "id_slot": 3})[1]["id_slot"] == -1


def test_slots_are_for_who_runs_the_server(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("root admin\nalice\n")
    server = serve(slot_save_path=str(tmp_path / "s"), api_key_file=str(keys))
    for key, status in (("alice", 403), ("root", 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert server.post("/slots/0?action=erase", {}, headers)[0] == status
