"""Every program of examples/ is run: against a stand-in that shows what it asks, and against the real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "boolean"}}}


def run(*command: str, url: str = "", stdin: str = "", **env: str) -> str:
    """Standard output of a program; fails the test where it ends with an error, skips where it is not installed."""
    needed = {"bash": ("bash", "curl", "jq")}.get(command[0], command[:1])
    for program in needed:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=100, check=False, cwd=EXAMPLES.parent,
        env=os.environ | {"API_URL": url, "N_PREDICT": "12"} | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(*questions: str) -> str:
    return "".join(f"{question}\n" for question in questions)


# -- against the stand-in: what they ask, and that they show what they get ---------------------------------------------


def test_index_js(fake: Any) -> None:
    assert run("node", "examples/index.js", "Hi", url=fake.url) == " Hello,\nwörld 🙂 end\n"
    assert fake.bodies() == [{"prompt": "Hi", "n_predict": 12, "seed": 1}]


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
@pytest.mark.parametrize("program", [("node", "examples/chat.mjs"), ("bash", "examples/chat.sh")])
def test_chat(fake: Any, program: tuple[str, str], step: int) -> None:
    fake.step = step
    shown = run(*program, url=fake.url, stdin=lines("Who are you?", "", 'Say it\'s "$HOME" \\n'))
    assert shown.count(" Hello,\nwörld 🙂 end\n") == 2
    first, second = fake.bodies()
    assert first["n_predict"] == 12
    assert first["stream"] is True
    assert first["n_keep"] == len(fake.bodies("/tokenize")[0]["content"].split()) + 1
    assert first["prompt"].endswith("\n### Person: Who are you?\n### Assistant:")
    # The answer is part of the next prompt, and the question arrives as it was typed.
    turn = "\n### Person: Who are you?\n### Assistant: Hello,\nwörld 🙂 end"
    assert second["prompt"].endswith(turn + '\n### Person: Say it\'s "$HOME" \\n\n### Assistant:')
    assert second["stop"] == ["\n### Person:"]


def test_chat_mjs_drops_the_oldest_turn_of_a_truncated_prompt(fake: Any) -> None:
    fake.truncated = True
    run("node", "examples/chat.mjs", url=fake.url, stdin=lines("one", "two", "three"))
    counts = [body["prompt"].count("### Person:") for body in fake.bodies()]
    assert counts == [3, 3, 3]
    assert "Hello, assistant." not in fake.bodies()[1]["prompt"]


def test_chat_mjs_with_a_grammar(fake: Any, tmp_path: Path) -> None:
    grammar, schema = tmp_path / "a.gbnf", tmp_path / "schema.json"
    grammar.write_text('root ::= "yes" | "no"\n')
    schema.write_text(json.dumps(SCHEMA))
    run("node", "examples/chat.mjs", "--grammar", str(grammar), url=fake.url, stdin=lines("really?"))
    options = ("--grammar-json-schema", str(schema), "--grammar-json-schema-prop-order", "b,a")
    run("node", "examples/chat.mjs", *options, url=fake.url, stdin=lines("really?"))
    run("node", "examples/chat.mjs", url=fake.url, stdin=lines("really?"))
    asked = [body.get("grammar") for body in fake.bodies()]
    assert asked[0] == grammar.read_text()
    assert asked[1].startswith('root ::= "{" space "\\"b\\"" space ":" space null "," space "\\"a\\""')
    assert asked[2] is None


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_chat_llama2(fake: Any, step: int) -> None:
    fake.step = step
    shown = run("bash", "examples/chat-llama2.sh", url=fake.url, stdin=lines("One?", "Two?"), SYSTEM="Be brief.")
    assert shown == " Hello,\nwörld 🙂 end\n" * 2
    prompts = [body["prompt"] for body in fake.bodies()]
    start = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nOne? [/INST]"
    assert prompts == [start, start + "  Hello,\nwörld 🙂 end </s><s>[INST] Two? [/INST]"]


@pytest.mark.parametrize("program", [("node", "examples/index.js"), ("node", "examples/chat.mjs")])
def test_an_error_of_the_server_is_shown(fake: Any, program: tuple[str, str]) -> None:
    fake.url += "/nowhere"
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    done = subprocess.run(
        program, env=os.environ | {"API_URL": fake.url}, capture_output=True, text=True, timeout=60, check=False,
        cwd=EXAMPLES.parent, input="hi\n",
    )  # fmt: skip
    assert done.returncode == 1
    assert "404: File Not Found" in done.stderr


# -- against the real server -------------------------------------------------------------------------------------------


def test_index_js_for_real(real: Any) -> None:
    text = run("node", "examples/index.js", "Once upon a time", url=real.url)
    assert re.search(r"\w+ \w+", text)
    assert text == run("node", "examples/index.js", "Once upon a time", url=real.url)  # it has a seed


@pytest.mark.parametrize("program", [("node", "examples/chat.mjs"), ("bash", "examples/chat.sh")])
def test_chat_for_real(real: Any, program: tuple[str, str]) -> None:
    shown = run(*program, url=real.url, stdin=lines("Hello", "And then?"))
    answers = [line for line in shown.replace("> ", "").splitlines() if line.strip()]
    assert len(answers) >= 2


def test_chat_llama2_for_real(real: Any) -> None:
    shown = run("bash", "examples/chat-llama2.sh", url=real.url, stdin=lines("Hello", "And then?"))
    assert len([line for line in shown.splitlines() if line.strip()]) >= 2


DOM = """
// As much of a browser as the page uses.
const elements = {}
const element = () => Object.assign(new EventTarget(), { value: '' })
globalThis.document = { querySelector: (selector) => elements[selector] ??= element() }
const form = document.querySelector('form'), story = document.querySelector('#story')
document.querySelector('#prompt').value = 'Once upon a time'
const plain = fetch
globalThis.fetch = (path, init) => plain(new URL(path, process.env.API_URL), init)
await import('./page.mjs')
form.dispatchEvent(new Event('submit', { cancelable: true }))
do await new Promise((wait) => setTimeout(wait, 20))
while (!document.querySelector('#stop').disabled)
console.log(story.textContent)
"""


def test_page(real: Any, tmp_path: Path) -> None:
    """The page as the server gives it, its script run with the module as the server gives it."""
    status, page = real.request("GET", "/index.html")
    assert status == 200
    assert page == (EXAMPLES / "page/index.html").read_text()
    assert real.request("GET", "/")[1] == page
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    assert script
    status, module = real.request("GET", "/completion.js")
    assert status == 200
    (tmp_path / "completion.mjs").write_text(module)
    (tmp_path / "page.mjs").write_text(script[1].replace("'/completion.js'", "'./completion.mjs'"))
    (tmp_path / "run.mjs").write_text(DOM)
    told = run("node", str(tmp_path / "run.mjs"), url=real.url)
    assert told.startswith("Once upon a time")
    assert len(told.split()) > 20


def test_page_in_a_browser(real: Any) -> None:
    """The page as a person uses it: no rule of the server's keeps its inline module from running."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page()
            faults: list[str] = []
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(real.url)
            page.click("#tell")
            page.wait_for_function("document.querySelector('#tell').disabled === false")
            told = page.inner_text("#story")
        finally:
            browser.close()
    assert told.startswith("Once upon a time")
    assert len(told) > 60
    assert faults == []


def test_modules_are_served_as_scripts(real: Any) -> None:
    """A browser runs a module only where its media type is that of a script."""
    import urllib.request

    for path in ("/completion.js", "/json-schema-to-grammar.mjs"):
        with urllib.request.urlopen(real.url + path, timeout=30) as response:
            assert response.headers["Content-Type"].split(";")[0] in ("text/javascript", "application/javascript")


def test_openai_client(real: Any) -> None:
    pytest.importorskip("openai")
    text = run(sys.executable, "examples/openai_client.py", "Tell me a story", url=real.url)
    assert text.strip()


def test_python_session(small_model: Path) -> None:
    text = run(sys.executable, "examples/python_session.py", str(small_model), "Once upon a time")
    assert text.startswith("Once upon a time")
    assert "greedy: " in text
    assert re.search(r"similarity: 0\.\d{3}", text)


def test_all_examples_are_here() -> None:
    """An example that nobody runs would rot: each file of the folder is named in this one."""
    here, listed = Path(__file__).read_text(), (EXAMPLES / "README.md").read_text()
    files = [path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.is_file()]
    files = [name for name in files if "__pycache__" not in name and name != "README.md"]
    assert len(files) >= 7
    assert [name for name in files if name not in here] == []
    assert [name for name in files if name.removesuffix("index.html") not in listed] == []
