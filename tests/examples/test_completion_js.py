"""completion.js in node: the exports of 2023, streams cut anywhere, errors, and stopping."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

WEB = Path(__file__).parents[2] / "plugins/frontends/rest/web"
TEXT = " Hello,\nwörld 🙂 end"


@pytest.fixture
def run(fake: Any, tmp_path: Path) -> Any:
    """Runs lines of JavaScript with the module's exports and `config`; gives what they hand to `tell(...)`."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    # A folder of its own says to node 18 and 20 that the .js is a module, as a browser's <script type=module> does.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(WEB / "completion.js", tmp_path)

    def run(code: str) -> list[Any]:
        script = tmp_path / "run.js"
        script.write_text(
            "import * as api from './completion.js'\n"
            "const { llama, llamaPromise, llamaComplete, llamaEventTarget, llamaModelInfo, LlamaError } = api\n"
            f"const config = {{ api_url: '{fake.url}/' }}\nconst told = []\nconst tell = (...x) => told.push(...x)\n"
            f"{code}\nconsole.log(JSON.stringify(told))\n"
        )
        done = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        result: list[Any] = json.loads(done.stdout)
        return result

    return run


COLLECT = "for await (const chunk of llama('p', {}, config)) tell(chunk.data.content)"


def test_chunks_and_the_defaults(fake: Any, run: Any) -> None:
    *pieces, last = run(COLLECT + "\nfor await (const { data } of llama('p', {}, config)) if (data.stop) tell(data)")
    assert pieces == [*fake.pieces, ""]
    assert last["timings"] == {"predicted_n": 5}
    defaults = {"prompt": "p", "stream": True, "n_predict": 500, "temperature": 0.2, "stop": ["</s>"]}
    assert fake.bodies() == [defaults, defaults]
    assert "Authorization" not in fake.asked[0][2]


def test_params_win_over_the_defaults_and_the_key_is_a_header(fake: Any, run: Any) -> None:
    run("await llamaPromise('p', { n_predict: 3, top_k: 1, stop: [], api_key: 'k' }, config)")
    assert fake.bodies() == [
        {"prompt": "p", "stream": True, "n_predict": 3, "temperature": 0.2, "stop": [], "top_k": 1}
    ]
    assert fake.asked[0][2]["Authorization"] == "Bearer k"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_streams_cut_anywhere(fake: Any, run: Any, step: int, line_end: str) -> None:
    fake.step, fake.line_end = step, line_end
    assert run(COLLECT) == [*fake.pieces, ""]


def test_the_generator_returns_the_text(run: Any) -> None:
    code = """
    const chunks = llama('p', {}, config)
    let step
    while (!(step = await chunks.next()).done);
    tell(step.value, await llamaPromise('p', {}, config), await llamaPromise('p', { stream: false }, config))
    """
    assert run(code) == [TEXT, TEXT, TEXT]


def test_events(fake: Any, run: Any) -> None:
    code = """
    const target = llamaEventTarget('p', {}, config)
    for (const type of ['message', 'generation_settings', 'timings', 'error']) {
      target.addEventListener(type, (event) => tell([type, event.detail.content ?? event.detail]))
    }
    tell(await new Promise((done) => target.addEventListener('done', (event) => done(event.detail))))
    """
    *events, done = run(code)
    assert [detail for kind, detail in events if kind == "message"] == [*fake.pieces, ""]
    assert [kind for kind, _ in events[-2:]] == ["generation_settings", "timings"]
    assert done == {"content": TEXT}


def test_events_tell_of_an_error(fake: Any, run: Any) -> None:
    fake.mode = "error"
    code = """
    const target = llamaEventTarget('p', {}, config)
    tell(await new Promise((done) => target.addEventListener('error', (event) => done(event.detail.message))))
    """
    assert run(code) == ["it broke"]


def test_the_deprecated_call(fake: Any, run: Any) -> None:
    # It knows no address, as in 2023: a browser's fetch takes it as relative to the page.
    code = f"""
    const plain = globalThis.fetch
    globalThis.fetch = (path, init) => plain('{fake.url}' + path, init)
    await llamaComplete({{ prompt: 'p', n_predict: 2 }}, new AbortController(), (chunk) => tell(chunk.data.content))
    """
    assert run(code) == [*fake.pieces, ""]
    assert fake.bodies()[0]["n_predict"] == 2


def test_model_info_is_asked_for_once_and_then_remembered(fake: Any, run: Any) -> None:
    asked = run("tell(await llamaModelInfo(config), await llamaModelInfo(config))")
    assert asked == [{"model": "fake", "n_ctx": 512}] * 2
    assert [path for path, _, _ in fake.asked] == ["/model.json"]
    (info,) = run("await llamaPromise('p', { temperature: 1.5 }, config); tell(await llamaModelInfo(config))")
    assert info["temp"] == 1.5
    assert [path for path, _, _ in fake.asked] == ["/model.json", "/completion"]


@pytest.mark.parametrize("mode", ["error", "error_line"])
@pytest.mark.parametrize("step", [3, 1 << 20])
def test_an_error_in_a_stream_throws(fake: Any, run: Any, mode: str, step: int) -> None:
    fake.mode, fake.step = mode, step
    *pieces, name, message = run(f"try {{ {COLLECT} }} catch (e) {{ tell(e.name, e.message) }}")
    assert (pieces, name, message) == (fake.pieces, "LlamaError", "it broke")


def test_an_error_answer_throws_with_its_parts(run: Any) -> None:
    code = """
    for (const config_ of [config, { api_url: config.api_url + '/none' }]) {
      await llamaPromise('REFUSE', {}, config_).catch((e) => tell([e instanceof LlamaError, e.status, e.code ?? null,
        e.param ?? null, e.message]))
    }
    """
    assert run(code) == [
        [True, 400, "wrong_usage", "top_k", "top_k: 'x' is not a number"],
        [True, 404, None, None, "File Not Found"],
    ]


def test_a_stream_that_breaks_off_throws(fake: Any, run: Any) -> None:
    fake.mode = "cut"
    *pieces, message = run(f"try {{ {COLLECT} }} catch (e) {{ tell(e.message) }}")
    assert pieces == fake.pieces
    assert "ended before" in message


def test_done_ends_a_stream(fake: Any, run: Any) -> None:
    fake.mode = "done"
    assert run(COLLECT) == fake.pieces


def test_abort_stops_the_server_too(fake: Any, run: Any) -> None:
    fake.mode = "endless"
    code = """
    const controller = new AbortController()
    let n = 0
    try {
      for await (const chunk of llama('p', {}, { ...config, controller })) if (++n === 3) controller.abort()
    } catch (e) { tell(n, e.name) }
    const gone = llama('p', {}, { ...config, controller })
    await gone.next().catch((e) => tell(e.name))
    """
    assert run(code) == [3, "AbortError", "AbortError"]
    assert fake.gone.wait(PATIENCE)


def test_leaving_the_loop_stops_the_server_and_not_the_callers_controller(fake: Any, run: Any) -> None:
    fake.mode = "endless"
    code = """
    const controller = new AbortController()
    for await (const chunk of llama('p', {}, { ...config, controller })) { tell(chunk.data.content); break }
    tell(controller.signal.aborted)
    """
    assert run(code) == ["on", False]
    assert fake.gone.wait(PATIENCE)
