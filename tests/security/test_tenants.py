"""Several keys: none sees, slows, or ends what another asks; and whoever runs the server says who may what."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from llamakit.plugins.frontends.rest import keys as keys_module
from llamakit.plugins.frontends.rest.keys import Keys, Role, WrongKeys, read_keys
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.security import machine_addresses
from llamakit.plugins.frontends.rest.startup import check_public, origins_of

from llamakit.engine.admission import UNREAD_SECONDS, in_turn, who_yields
from llamakit.engine.job import Job
from llamakit.engine.request import FinishReason, Request
from llamakit.engine.sequence import Track
from llamakit.engine.service import Service, ServiceOptions
from llamakit.errors import QueueFullError, UsageError
from llamakit.gguf import open_gguf
from llamakit.tokenizer import load_tokenizer
from tests.waiting import PATIENCE, until

LONG = {"prompt": "Once upon a time", "n_predict": 100_000, "ignore_eos": True, "stream": True}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def tenants(serve, tmp_path):
    """A server with two tenants, an observer, and an administrator."""
    file = tmp_path / "keys"
    file.write_text("alice  # uses\nbob use\nwatcher observe\nroot admin\n")
    return serve(api_key_file=str(file), api_key=["flag"], max_predict=100_000)


def test_what_one_key_asked_does_not_show_to_another(tenants):
    body = {"prompt": "A secret of many words, which nobody else is to know of at all", "n_predict": 2}
    first = tenants.post("/completion", body, bearer("alice"))[1]
    again = tenants.post("/completion", body, bearer("alice"))[1]
    other = tenants.post("/completion", body, bearer("bob"))[1]
    assert first["tokens_cached" if "tokens_cached" in first else "tokens_evaluated"] >= 0
    assert again["timings"]["prompt_n"] < first["timings"]["prompt_n"]
    assert other["timings"]["prompt_n"] == first["timings"]["prompt_n"]
    salted = tenants.post("/completion", body | {"cache_salt": " " + "x"}, bearer("bob"))[1]
    assert salted["timings"]["prompt_n"] == first["timings"]["prompt_n"]


def test_the_number_of_a_slot_does_not_tell_what_another_key_asked(serve, tmp_path):
    """A prompt that began like another's got that one's slot, whoever asked."""
    server = serve(api_key=["root", "alice"], slot_save_path=str(tmp_path))
    for number, prompt in enumerate(("A secret of many words that nobody else is to know", "The dog sat down")):
        body = {"prompt": prompt, "n_predict": 1, "id_slot": number}
        assert server.post("/completion", body, bearer("alice"))[1]["id_slot"] == number
    asked = {"prompt": "The dog sat down", "n_predict": 1, "cache_prompt": True}
    assert server.post("/completion", asked, bearer("root"))[1]["id_slot"] not in (0, 1)
    assert server.post("/completion", asked, bearer("alice"))[1]["id_slot"] == 1


def test_one_key_shares_what_it_asked_with_itself_alone(serve):
    single = serve(api_key=["k"])
    body = {"prompt": "A story of many words, which is told again and again", "n_predict": 2}
    first, again = (single.post("/completion", body, bearer("k"))[1]["timings"]["prompt_n"] for _ in range(2))
    assert again < first


@pytest.mark.parametrize(
    ("key", "allowed"),
    [("alice", set()), ("bob", set()), ("watcher", {"/metrics"}), ("root", None), ("flag", None)],
)
def test_roles(tenants, key, allowed):
    for method, path, body in (
        ("GET", "/metrics", None), ("POST", "/models/load", {}), ("POST", "/lora-adapters", []),
        ("POST", "/lora-adapters/load", {"name": "x"}), ("POST", "/lora-adapters/unload", {"name": "x"}),
        ("POST", "/models/unload", {}),
    ):  # fmt: skip
        status, _, data = tenants.request(method, path, body, bearer(key))
        if allowed is None or path in allowed:
            assert status != 403, (path, data)
        else:
            assert status == 403, (path, data)
            assert b"needs the role" in data
    status = tenants.request("POST", "/completion", {"prompt": "x", "n_predict": 1}, bearer(key))[0]
    assert status == (403 if key == "watcher" else 200)


@pytest.mark.parametrize("more", [{}, {"prompt": "Once", "options": {"num_predict": 1}}])
def test_ollamas_way_to_unload_a_model_is_for_who_runs_the_server(tenants, more):
    """`keep_alive: 0` let any key unload the model of all."""
    pool = tenants.state.pool
    for key, goes in (("alice", False), ("root", True)):
        body = {"model": "stories", "keep_alive": 0, "stream": False, **more}
        status, headers, data = tenants.request("POST", "/api/generate", body, bearer(key))
        assert status == 200, data
        until(lambda wanted=goes: (pool.loaded() is None) is wanted)
        assert ("keep_alive" in headers.get("X-Ignored-Fields", "")) is not goes


def test_slots_and_cancelling_are_for_ones_own(tenants):
    with tenants.open("/completion", LONG, bearer("alice") | {"X-Request-Id": "mine"}) as response:
        assert response.getheader("X-Request-Id") == "mine"
        job = response.getheader("X-Job-Id")
        assert job != "mine"
        response.read1()
        assert [slot["id"] for slot in tenants.get("/slots", bearer("alice"))[1]] == [job]
        assert [slot["id"] for slot in tenants.get("/slots", bearer("root"))[1]] == [job]
        assert tenants.get("/slots", bearer("bob"))[1] == []
        for id, key in ((job, "bob"), ("mine", "bob"), ("mine", "alice"), ("mine", "root")):
            assert tenants.post(f"/requests/{id}/cancel", None, bearer(key))[0] == 404
            assert tenants.request("DELETE", f"/requests/{id}", None, bearer(key))[0] == 404
        assert tenants.post(f"/requests/{job}/cancel", None, bearer("alice"))[0] == 200
        while response.read1():
            pass
    with tenants.open("/completion", LONG, bearer("alice")) as response:
        assert response.getheader("X-Request-Id") == response.getheader("X-Job-Id")
        response.read1()
        assert tenants.post(f"/requests/{response.getheader('X-Job-Id')}/cancel", None, bearer("root"))[0] == 200


def test_a_request_id_that_two_clients_send_ends_nobody(tenants):
    same = {"X-Request-Id": "1"}
    with tenants.open("/completion", LONG, bearer("alice") | same) as response:
        response.read1()
        tenants.post("/completion", {"prompt": "x", "n_predict": 1}, bearer("bob") | same)
        assert response.read1()


def test_wrong_keys_are_limited(tenants):
    statuses = [tenants.request("GET", "/props", None, bearer(f"guess-{i}"))[0] for i in range(30)]
    assert statuses[:20] == [401] * 20
    assert set(statuses[20:]) == {429}
    assert tenants.get("/props", bearer("alice"))[0] == 200  # a right key is not kept waiting for it
    assert tenants.request("GET", "/props")[0] == 401  # nor one who has none


def test_wrong_keys_are_counted_by_address_within_bounds(monkeypatch):
    wrong = WrongKeys()
    assert not any(wrong.count(f"10.0.{i // 256}.{i % 256}") for i in range(10_000))
    assert len(wrong._tries) == keys_module.MOST_ADDRESSES
    assert [bool(wrong.count("a")) for _ in range(22)] == [False] * 20 + [True] * 2
    monkeypatch.setattr(keys_module, "WRONG_SECONDS", 0.0)
    assert not wrong.count("a")


def test_key_files(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one\ntwo use,observe\nthree admin use # of Bob\n")
    found = read_keys(ServeOptions(api_key_file=str(file), api_key=["four"]))
    assert found.several
    assert found.find("one").roles == {Role.USE}
    assert found.find("two").roles == {Role.USE, Role.OBSERVE}
    assert found.find("three").may(Role.OBSERVE)
    assert found.find("four").may(Role.ADMIN)
    assert found.find("five") is None
    assert "one" not in repr(found.find("one"))
    file.write_text("one use weight=2.5\ntwo weight=0.5,observe\nthree\n")
    keys = read_keys(ServeOptions(api_key_file=str(file)))
    assert [keys.find(each).weight for each in ("one", "two", "three")] == [2.5, 0.5, 1.0]
    assert keys.find("two").roles == {Role.OBSERVE}
    for wrong in ("", "0", "-1", "nan", "1e9", "x"):
        file.write_text(f"one weight={wrong}")
        with pytest.raises(UsageError, match=r"line 1: weight cannot be"):
            read_keys(ServeOptions(api_key_file=str(file)))
    file.write_text("two owner\n")
    with pytest.raises(UsageError, match="no role 'owner'"):
        read_keys(ServeOptions(api_key_file=str(file)))
    assert not Keys(["x"]).several


# -- reached from elsewhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::1", "fe80::1%eth0"])
def test_public_without_a_key_is_refused(host):
    with pytest.raises(UsageError, match="without an API key"):
        check_public(host, ServeOptions(), Keys(()))
    check_public(host, ServeOptions(), Keys(["k"]))
    check_public(host, ServeOptions(insecure_no_key=True), Keys(()))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.9.9.9"])
def test_this_machine_needs_no_key(host):
    check_public(host, ServeOptions(), Keys(()))


def test_a_public_server_without_a_key_does_not_start(small_model, capsys):
    from llamakit import cli

    for host in ("0.0.0.0", "127.0.0.1,0.0.0.0"):
        assert cli.run(["serve", "-m", str(small_model), "--host", host, "--port", "0"]) == 2
        assert "without an API key" in capsys.readouterr().err


def test_the_host_header_is_checked_on_any_address(small_model, serving, tmp_path):
    with serving.Server(small_model, tmp_path / "log", "--host", "0.0.0.0", "--insecure-no-key") as server:
        for name, status in (("evil.example", 403), ("localhost", 200), ("127.0.0.1", 200), ("10.255.1.1", 403)):
            assert host_status(server, name) == status, name
        for address in machine_addresses():
            assert host_status(server, f"[{address}]" if ":" in address else address) == 200, address
        assert "without an API key" in server.output()
    options = ("--host", "0.0.0.0", "--insecure-no-key", "--allowed-host", "llm.example")
    with serving.Server(small_model, tmp_path / "log", *options) as server:
        assert host_status(server, "llm.example") == 200
        assert host_status(server, "evil.example") == 403


def host_status(server, name):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", "/health", headers={"Host": name})
        return connection.getresponse().status
    finally:
        connection.close()


def test_settings_from_elsewhere_are_named_at_the_start(tmp_path, monkeypatch):
    from llamakit.config import load_config
    from llamakit.registry import Registry

    (tmp_path / "llamakit.toml").write_text('[frontend.rest]\nhost = "0.0.0.0"\npath = "/srv"\napi_key = ["secret"]\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(Registry.discover(), environ={"LLAMAKIT_FRONTEND__REST__CORS": '["*"]'})
    config.set("frontend.rest.max_body", "1M", "command line")
    told = origins_of(config)
    assert '--host "0.0.0.0" comes from llamakit.toml' in told
    assert any(line.startswith("--path") for line in told)
    assert any("environment LLAMAKIT_FRONTEND__REST__CORS" in line for line in told)
    assert not any("secret" in line or "max-body" in line for line in told)
    assert any(line.startswith("--api-key comes from") for line in told)


# -- fairness -------------------------------------------------------------------------------------------------------


def group(number, owner, priority=0, width=1, waited=0.0, ran=0.0, weight=1.0):
    return SimpleNamespace(
        number=number, owner=owner, width=width, weight=weight, order=(-priority, number),
        submitted=-waited, entered=-ran, request=SimpleNamespace(priority=priority),
        job=SimpleNamespace(behind=False, behind_since=0.0),
    )  # fmt: skip


def test_whose_reader_is_behind_makes_room_first():
    running = [group(1, "a", priority=2), group(2, "b"), group(3, "a")]
    assert who_yields(group(9, "a"), running, 0) is None
    running[0].job.behind = True
    assert who_yields(group(9, "a"), running, UNREAD_SECONDS).number == 1
    running[0].job.behind_since = 0.1  # it may be about to read
    assert who_yields(group(9, "a"), running, UNREAD_SECONDS) is None


def test_who_has_least_goes_first():
    waiting = [group(i, "a") for i in range(4)] + [group(4, "b"), group(5, "c"), group(6, "b")]
    assert [each.number for each in in_turn(waiting, [])] == [0, 4, 5, 1, 6, 2, 3]
    running = [group(7, "a"), group(8, "a"), group(9, "b")]
    assert [each.number for each in in_turn(waiting, running)] == [5, 4, 0, 6, 1, 2, 3]
    urgent = sorted([*waiting, group(10, "a", priority=1)], key=lambda each: each.order)
    assert next(in_turn(urgent, running)).number == 10


def test_who_makes_room():
    running = [group(i, "a", ran=5) for i in range(4)] + [group(4, "b", ran=5)]
    assert who_yields(group(9, "c"), running, 0) is None  # it has not waited long
    assert who_yields(group(9, "c", waited=2), running, 0).number == 3
    assert who_yields(group(9, "a", waited=99), running, 0) is None
    assert who_yields(group(9, "b", waited=2), running, 0).number == 3
    assert who_yields(group(9, "b", waited=2, width=3), running, 0) is None  # it would have more than the other
    assert who_yields(group(9, "c", waited=2), [group(1, "a", ran=0.1), group(2, "a", ran=0.1)], 0) is None
    assert who_yields(group(9, "a", priority=1), running, 0).number == 4


def test_shares_go_by_weight():
    waiting = [group(i, "a", weight=3) for i in range(4)] + [group(i, "b") for i in range(4, 6)]
    assert [each.number for each in in_turn(waiting, [])] == [0, 4, 1, 2, 3, 5]
    running = [group(i, "a", ran=5, weight=3) for i in range(4)]
    assert who_yields(group(9, "b", waited=2), running, 0).number == 3  # four are more than three to one
    assert who_yields(group(9, "b", waited=2), running[:3], 0) is None
    assert who_yields(group(9, "c", waited=2, weight=9), running[:3], 0).number == 2


@pytest.fixture
def service(hash_model):
    engine = hash_model.make_engine(n_seq=4, n_ctx=2000, n_block=3000, max_predict=100_000)
    made = Service(engine, ServiceOptions(max_queue=1000))
    made.engine.runner.program.hook = lambda: time.sleep(0.002)
    yield made
    made.close()


def request(**fields):
    return Request(**{"prompt": [1, 5, 6], "max_tokens": 1900, "ignore_eos": True, **fields})


def test_a_client_of_many_endless_answers_keeps_nobody_out(service):
    many = [service.submit(request(seed=i), owner="greedy") for i in range(16)]
    until(lambda: service.n_running == 4)
    result = service.submit(request(max_tokens=5), owner="modest").results()[0]
    assert result.reason is FinishReason.LENGTH
    assert sum(job.finished for job in many) < 8  # 16 answers of 1,900 steps on 4 places, none of which was waited for
    for job in many:
        job.cancel()


def test_priority_goes_first_at_once_and_changes_no_answer(service):
    service.engine.runner.program.hook = lambda: None
    expected = [service.submit(request(seed=i, max_tokens=300)).results()[0].tokens for i in range(4)]
    go = threading.Event()
    service.engine.runner.program.hook = lambda: go.wait(PATIENCE)
    running = service.call(lambda: [service.submit(request(seed=i, max_tokens=300), owner="a") for i in range(4)])
    until(lambda: service.n_running == 4)
    first = service.submit(request(max_tokens=5, priority=1), owner="a")
    go.set()
    assert first.results()[0].tokens
    assert not any(job.finished for job in running)
    assert [job.results()[0].tokens for job in running] == expected
    assert service.engine.counters.n_preempted >= 1


def test_sequences_of_one_client_are_limited(hash_model):
    service = Service(hash_model.make_engine(n_ctx=2000, n_block=3000), ServiceOptions(per_client=3))
    service.engine.runner.program.hook = lambda: time.sleep(0.002)
    jobs = [service.submit(request(), owner="a"), service.submit(request(n=2), owner="a")]
    with pytest.raises(QueueFullError, match="too many requests of one client: 3 of at most 3"):
        service.submit(request(), owner="a")
    jobs.append(service.submit(request(), owner="b"))
    jobs[0].cancel()
    jobs[0].results()
    jobs.append(service.submit(request(), owner="a"))
    for job in jobs:
        job.cancel()
    service.close()


def test_tokens_of_one_client_are_limited(hash_model):
    service = Service(hash_model.make_engine(n_ctx=2000, n_block=3000), ServiceOptions(per_client_tokens=1000))
    service.engine.runner.program.hook = lambda: time.sleep(0.002)
    jobs = [service.submit(request(prompt=[1] * 600), owner="a")]
    with pytest.raises(QueueFullError, match="600 of at most 1,000 tokens of prompts, 500 more are asked"):
        service.submit(request(prompt=[1] * 500), owner="a")
    with pytest.raises(QueueFullError, match="0 of at most 1,000 tokens"):
        service.submit(request(prompt=[1] * 1001), owner="c")
    jobs += [service.submit(request(prompt=[1] * 400), owner=owner) for owner in "ab"]
    for job in jobs:
        job.cancel()
    service.close()


@pytest.mark.parametrize("limit", ["per_client", "per_client_tokens"])
def test_a_limit_of_a_server_holds_for_keys(serve, small_model, limit):
    prompt = load_tokenizer(open_gguf(small_model).metadata).encode(LONG["prompt"], add_special=True)
    limits = {limit: 1 if limit == "per_client" else len(prompt) + 1}
    server = serve(api_key=["a", "b"], settings=limits, max_predict=100_000)
    with server.open("/completion", LONG, bearer("a")) as response:
        response.read1()
        assert server.post("/completion", {"prompt": "x", "n_predict": 1}, bearer("a"))[0] == 429
        assert server.post("/completion", {"prompt": "x", "n_predict": 1}, bearer("b"))[0] == 200
        for path in ("/embedding", "/v1/embeddings", "/api/embed"):
            assert server.post(path, {"input": "x"}, bearer("a"))[0] == 429
            assert server.post(path, {"input": "x"}, bearer("b"))[0] == 200


def test_many_threads_of_two_clients_share_the_places(service):
    done: dict[str, int] = {"a": 0, "b": 0}

    def ask(owner):
        while sum(done.values()) < 150:
            service.submit(request(max_tokens=30, seed=done[owner]), owner=owner).results()
            done[owner] += 1

    threads = [threading.Thread(target=ask, args=("a" if i < 20 else "b",)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done["b"] > done["a"] / 4, done


def test_an_answer_that_is_read_counts_no_more(hash_model, monkeypatch):
    """It was told before it was noted, so who asked again at once met the limit."""
    service = Service(hash_model.make_engine(), ServiceOptions(per_client=1))
    seen, emit = [], Job.emit

    def slowly(job, event):
        job._events = Told(job, seen)
        emit(job, event)

    class Told:
        def __init__(self, job, seen):
            self.job, self.seen, self.inner = job, seen, job._events

        def put(self, event):
            self.seen.append((type(event).__name__, self.job.finished))
            self.inner.put(event)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(Job, "emit", slowly)
    service.submit(request(max_tokens=2), owner="a").results()
    service.close()
    assert seen[-1] == ("Finished", True)


def test_who_lost_its_place_in_the_tree_puts_nothing_below_another_text(hash_model):
    """A node stands for another block once its own is let go: what follows the one does not follow the other."""
    engine = hash_model.make_engine(n_block=24)
    space = engine.space
    track = Track(list(range(5, 5 + 3 * space.size)), space.new_table())
    space.recall("a", track)
    track.table.extend(space.size)
    space.remember(track)
    lost = track.node
    space.tree.forget("a")
    other = [90] * space.size
    assert space.tree.insert(space.tree.root("b"), other, space.pool.allocate()) is lost  # the node is used again
    track.table.extend(space.size)
    space.remember(track)
    assert track.node is None
    assert space.tree.match("b", other + track.tokens[space.size :])[1] == space.size
    track.release()
