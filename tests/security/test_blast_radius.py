"""What one request's sampler, grammar, stop rule, adapter or detokenizer raises ends that request, and no other."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from llamakit.engine.embedder import Embedder
from llamakit.engine.request import Embed, FinishReason, Guidance, Request
from llamakit.engine.service import Service, ServiceOptions
from llamakit.errors import BackendError, DeviceLostError, LlamaKitError, PluginError, UnavailableError, UsageError
from llamakit.sampler import Sampler, Stage
from tests.waiting import PATIENCE, until

RAISED = [ValueError("no"), SystemExit(3), KeyboardInterrupt(), MemoryError(), RecursionError(), GeneratorExit()]
RAISED_NAMES = [type(error).__name__ for error in RAISED]


def request(seed=0, **fields):
    fields = {"max_tokens": 20, "ignore_eos": True, "prompt": [1, 5, 6], **fields}
    return Request(seed=seed, options={"temperature": 1.0, **fields.pop("options", {})}, **fields)


def bad_sampler(method, action, after=0):
    """A sampler whose `method` does `action()` once it has accepted `after` tokens of the answer."""

    class Bad(Sampler):
        name, stage = "bad", Stage.LOGITS
        started, count = False, 0

        def apply(self, candidates):
            pass

        def start(self):
            self.started = True

        def accept(self, token_id):
            self.count += self.started

        def forced(self, n):
            return []

        def clone(self):
            other = Bad(self.options, self.context)
            other.started, other.count = self.started, self.count
            return other

    good = getattr(Bad, method)

    def fail(self, *args):
        if self.started and self.count >= after:
            return action()
        return good(self, *args)

    setattr(Bad, method, fail)
    return Bad


def throw(error):
    raise error


ENDLESS = {"max_tokens": 100_000, "shift": True}


@pytest.fixture
def service(hash_model):
    made = Service(hash_model.make_engine(n_block=400, max_predict=100_000), ServiceOptions(max_queue=1000))
    program = made.engine.runner.program
    program.hook = lambda: time.sleep(0.001)
    yield made
    made.close()


def use(service, **samplers):
    service.engine.samplers = {**service.engine.samplers, **samplers}


def unharmed(service, bad, **kwargs):
    """Run good requests beside a bad one; these answer as alone, and what was remembered stays. The bad one's error."""
    alone = [service.submit(request(seed)).results()[0].tokens for seed in range(3)]
    known = len(service.engine.space.tree)
    held = service.engine.space.pool.n_block - service.engine.space.pool.n_free
    good = [service.submit(request(seed, max_tokens=40)) for seed in range(3)]
    errors = []
    try:
        job = service.submit(bad, **kwargs)
        job.results()
    except LlamaKitError as error:
        errors.append(error)
    assert [job.results()[0].tokens[:20] for job in good] == alone
    assert service.call(lambda: len(service.engine.space.tree)) >= known, "the cache was given up"
    service.call(service.engine.space.tree.clear)
    assert service.engine.space.pool.n_free == service.engine.space.pool.n_block, f"blocks are lost ({held} were held)"
    assert not service.engine.running
    assert not service.trouble
    return errors[0] if errors else None


@pytest.mark.parametrize("error", RAISED, ids=RAISED_NAMES)
@pytest.mark.parametrize("method", ["apply", "accept", "forced", "masks", "native"])
def test_a_sampler_that_raises(service, method, error):
    use(service, bad=bad_sampler(method, lambda: throw(error), after=3))
    found = unharmed(service, request(samplers=("bad",)))
    assert isinstance(found, PluginError)
    assert type(error).__name__ in found.message


class UnspeakableError(Exception):
    """An error that raises when it is asked what it says."""

    def __str__(self):
        raise SystemExit(7)

    __repr__ = __str__


@pytest.mark.parametrize("error", [UnspeakableError(), DeviceLostError("gone"), BaseExceptionGroup("", [SystemExit()])])
@pytest.mark.parametrize("method", ["apply", "accept", "forced", "permits"])
@pytest.mark.parametrize("shape", [{}, {"beams": 2}, {"guidance": Guidance([1, 7], 1.5)}])
def test_a_sampler_that_raises_what_is_hard_to_tell(service, method, error, shape):
    made = bad_sampler(method, lambda: throw(error), after=2)
    made.masks = lambda self: method == "permits"
    use(service, bad=made)
    found = unharmed(service, request(samplers=("bad",), **shape))
    assert isinstance(found, PluginError) or (method in ("forced", "permits") and shape)
    assert not service._lost


@pytest.mark.parametrize("method", ["start", "active", "accept_many", "native"])
def test_a_sampler_that_raises_before_the_request_is_queued(service, method):
    made = bad_sampler("apply", lambda: None)
    setattr(made, method, lambda self, *args: throw(SystemExit(1)))
    use(service, bad=made)
    assert isinstance(unharmed(service, request(samplers=("bad",))), PluginError)


@pytest.mark.parametrize("shape", [{"beams": 3}, {"guidance": Guidance([1, 7], 1.5)}, {"n": 3}, {"best_of": 3}])
@pytest.mark.parametrize("method", ["apply", "accept", "clone"])
def test_a_sampler_that_raises_in_beams_guidance_and_several_answers(service, shape, method):
    use(service, bad=bad_sampler(method, lambda: throw(SystemExit(3)), after=2))
    found = unharmed(service, request(samplers=("bad",), **shape))
    assert isinstance(found, PluginError) or (method == "clone" and "beams" not in shape and found is None)


@pytest.mark.parametrize("tokens", [[4000], [-1], ["a"], [None], [2.5], 7.5, "text", [True], [5, 4000]])
def test_forced_tokens_that_are_none(service, tokens):
    use(service, bad=bad_sampler("forced", lambda: tokens, after=1))
    found = unharmed(service, request(samplers=("bad",)))
    assert isinstance(found, PluginError)
    assert "not a token of the vocabulary" in found.message


def test_more_forced_tokens_than_were_asked_for(service):
    use(service, bad=bad_sampler("forced", lambda: [5] * 10_000, after=1))
    assert unharmed(service, request(samplers=("bad",))) is None


def test_a_native_stage_that_is_none(service):
    made = bad_sampler("apply", lambda: None)
    made.native = lambda self: object()
    use(service, bad=made)
    assert "native stage" in unharmed(service, request(samplers=("bad",))).message


@pytest.mark.parametrize("shape", [{}, {"n": 2, "best_of": 2}, {"beams": 3}, {"guidance": Guidance([1, 7], 1.5)}])
def test_nothing_left_to_choose_is_the_requests_fault(service, hash_model, shape):
    banned = [(token, -float("inf")) for token in range(hash_model.N_VOCAB)]
    use(service, bad=bad_sampler("apply", lambda: None))
    made = service.engine.samplers["bad"]

    def apply(self, candidates):
        import numpy as np

        ids = np.arange(len(banned), dtype=np.int32)
        candidates.add(ids, np.full(len(banned), -np.inf, np.float32))

    made.apply = apply
    found = unharmed(service, request(samplers=("bad",), **shape))
    assert isinstance(found, UsageError)
    assert "no token is left" in found.message


class BrokenDetokenizer:
    """A detokenizer that raises when `method` is called for the `after`th time."""

    def __init__(self, method, after):
        self.method, self.left, self.pending = method, after, False

    def _call(self, method, value):
        self.left -= method == self.method
        if self.left < 0:
            raise SystemExit("gone")
        return value

    def push(self, token):
        return self._call("push", chr(60 + token))

    def flush(self):
        return self._call("flush", "")


@pytest.mark.parametrize("shape", [{}, {"n": 3}, {"best_of": 3}, {"beams": 3}, {"guidance": Guidance([1, 7], 1.5)}])
@pytest.mark.parametrize("method", ["make", "push", "flush"])
def test_a_detokenizer_that_raises(service, shape, method):
    tokenizer = service.engine.tokenizer
    good = type(tokenizer).detokenizer
    marked = [1, 5, 6, 9]  # the prompt of the request whose detokenizer is broken

    def detokenizer(prompt=(), shown=()):
        if list(prompt)[:4] != marked:
            return good(tokenizer, prompt, shown)
        if method == "make":
            raise SystemExit("no")
        return BrokenDetokenizer(method, 2 if method == "push" else 0)

    tokenizer.detokenizer = detokenizer
    assert isinstance(unharmed(service, request(prompt=marked, **shape)), PluginError)


@pytest.mark.parametrize("shape", [{"beams": 3}, {"beams": 3, "n": 2}, {"n": 2, "best_of": 2}, {"best_of": 3}, {}])
def test_a_detokenizer_that_raises_when_the_context_is_full(service, shape):
    """The best of the beams is told there, outside of what looks after a step's samplers."""
    tokenizer = service.engine.tokenizer
    good = type(tokenizer).detokenizer
    tokenizer.detokenizer = lambda prompt=(), shown=(): (
        BrokenDetokenizer("push", 60) if list(prompt)[:4] == [1, 5, 6, 9] else good(tokenizer, prompt, shown)
    )
    full = [1, 5, 6, 9] + [7] * (service.engine.n_ctx - 70)
    found = unharmed(service, request(prompt=full, max_tokens=-2, **shape))
    assert isinstance(found, PluginError)


@pytest.mark.parametrize("shape", [{}, {"n": 3}, {"guidance": Guidance([1, 7], 1.5)}])
def test_a_stop_rule_that_raises(service, shape, monkeypatch):
    from llamakit.tokenizer import stops

    monkeypatch.setattr(stops.StopMatcher, "push", lambda self, text: throw(SystemExit(1)))
    assert isinstance(unharmed(service, request(stop=("xyz",), **shape)), PluginError)


def test_an_adapter_that_cannot_be_put_to_work(service):
    bad = SimpleNamespace(key=(("bad", 1.0),), names=(("bad", 1.0),))
    good = SimpleNamespace(key=(), names=())

    class Store:
        def default(self):
            return ()

        def resolve(self, chosen):
            return bad if chosen else good

        def acquire(self, selection):
            if selection is bad:
                raise ValueError("shapes do not fit")
            return 0

        def release(self, slot):
            pass

    service.engine.adapters = service.engine.queue.adapters = Store()
    found = unharmed(service, request(adapters=(("bad", 1.0),)))
    assert "shapes do not fit" in found.message
    job = service.submit(request(max_tokens=40))
    with pytest.raises(PluginError, match="shapes do not fit"):
        service.embed(Embed(prompts=[[1, 5]], adapters=(("bad", 1.0),)))
    assert len(job.results()[0].tokens) == 40


def test_a_client_that_cannot_be_asked(service):
    assert isinstance(unharmed(service, request(), gone=lambda: throw(SystemExit(1))), PluginError)


def test_embeddings_that_cannot_begin_hurt_no_answer(service):
    service.engine.embedder = Embedder(lambda: throw(MemoryError("no room to compile")))
    job = service.submit(request(max_tokens=40))
    with pytest.raises(PluginError, match="no room to compile"):
        service.embed(Embed(prompts=[[1, 5]]))
    assert len(job.results()[0].tokens) == 40


def test_guesses_that_raise_are_switched_off(hash_model):
    class Drafter:
        most, seconds_per_token = 4, 0.0

        def propose(self, wanted):
            wanted[0][0].draft = [4000]
            raise RuntimeError("the draft model fell over")

        def forget(self, sequence):
            pass

        def reset(self):
            pass

    plain, guessing = (Service(hash_model.make_engine(drafter=each)) for each in (None, Drafter()))
    long = {"max_tokens": 100}  # a guess is tried now and then even where steps are so quick that none pays
    expected = plain.submit(request(5, **long)).results()[0].tokens
    for _ in range(20):  # how often that is goes by the clock
        assert guessing.submit(request(5, **long)).results()[0].tokens == expected
        if guessing.engine.drafter is None:
            break
    assert guessing.engine.drafter is None
    plain.close()
    guessing.close()


def test_log_probabilities_of_logits_that_are_no_numbers(service):
    program, run = service.engine.runner.program, service.engine.runner.program.run

    def spoilt(sizes, *, longest=0):
        found = run(sizes, longest=longest)
        rows = program.inputs["out_rows"][: sizes["out_rows"]]
        for row, data in zip(rows, found["logits"].data, strict=True):
            if program.inputs["tokens"][row] == 33 and program.inputs["positions"][row] < 3:
                data[:] = float("nan")
        return found

    program.run = spoilt
    for fields in ({}, {"logprobs": 2}, {"prompt_logprobs": 1}, {"probs_after": 2}):
        found = unharmed(service, request(prompt=[1, 33, 33], **fields))
        assert isinstance(found, BackendError), fields


# -- the engine's thread ------------------------------------------------------------------------------------------


def stop_thread(service):
    """End the engine's thread as an interruption at the worst moment does."""
    thread = service._thread
    recover = service._recover
    service._recover = lambda error: throw(SystemExit(1))
    service._inbox.append(SimpleNamespace())  # nothing that a thread can take
    service._wake.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    service._inbox.clear()
    service._recover = recover


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_is_started_again(hash_model, caplog):
    service = Service(hash_model.make_engine(), ServiceOptions(stall_seconds=0.4))
    service.options = ServiceOptions()  # the thread is looked at every tenth of a second; no step takes too long
    expected = service.submit(request(2)).results()[0].tokens
    stop_thread(service)
    until(lambda: not service.trouble)
    assert service.submit(request(2)).results()[0].tokens == expected
    assert "started again" in caplog.text
    service.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_again_and_again_is_given_up(hash_model):
    service = Service(hash_model.make_engine(), ServiceOptions(stall_seconds=0.2))
    for _ in range(4):
        stop_thread(service)
        until(lambda: service._thread.is_alive() or service.dead)
    assert service.dead
    assert service.trouble == "the engine's thread has ended"
    with pytest.raises(UnavailableError, match="has ended"):
        service.submit(request())
    service.close()


def test_an_exception_thrown_into_the_thread_ends_no_thread(service):
    """As a debugger or `PyThreadState_SetAsyncExc` does."""
    import ctypes

    job = service.submit(request(**ENDLESS))
    while not service.n_running:
        time.sleep(0.001)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(service._thread.ident), ctypes.py_object(SystemExit))
    with pytest.raises(LlamaKitError):
        job.results()
    assert len(service.submit(request()).results()[0].tokens) == 20


def test_trouble_tells_of_an_engine_that_does_not_get_on(hash_model):
    service = Service(hash_model.make_engine(), ServiceOptions(stall_seconds=0.3))
    time.sleep(0.5)
    assert not service.trouble  # without work there is nothing to get on with
    strict, service.options = service.options, ServiceOptions()
    release = threading.Event()
    service.engine.runner.program.hook = lambda: release.wait(2 * PATIENCE)
    job = service.submit(request())
    assert not service.trouble
    service.options = strict
    until(lambda: service.trouble)
    assert "no step for" in service.trouble
    until(lambda: job.finished)
    service.options = ServiceOptions()
    release.set()
    until(lambda: not service.trouble)
    assert service.submit(request()).results()[0].reason is FinishReason.LENGTH
    service.close()
