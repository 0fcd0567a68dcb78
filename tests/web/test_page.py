"""The page in a browser: what people do with it, on a mock server and on a real one."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tabs

from tests.waiting import until

pytestmark = pytest.mark.slow
SERVING = Path(__file__).parents[1] / "serving.py"
BEGINNING = "Once upon a time, there was a little"


@pytest.fixture(scope="module")
def real(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`llamakit serve` with a real model."""
    spec = importlib.util.spec_from_file_location("serving", SERVING)
    assert spec
    assert spec.loader
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    with serving.Server(small_model, tmp_path_factory.mktemp("real") / "log", "--max-predict", "400") as server:
        yield server


@pytest.fixture
def real_tabs(chromium: Any, real: Any) -> Iterator[Tabs]:
    tabs = Tabs(chromium, f"{real.url}/")
    yield tabs
    try:
        tabs.check()
    finally:
        for context in tabs.contexts:
            context.close()


def written(page: Any) -> str:
    """The text in the notebook."""
    return str(page.input_value("#notebook textarea"))


def open_drawer(page: Any) -> str:
    """Open the settings with everything in them unfolded; gives their text."""
    page.click("#settings")
    page.wait_for_selector("#drawer details", state="attached")
    page.wait_for_timeout(200)
    page.evaluate("document.querySelectorAll('#drawer details').forEach((d) => { d.open = true; })")
    return str(page.evaluate("document.querySelector('#drawer').textContent"))


def chat(page: Any, text: str) -> str:
    """Send a message on the chat tab and give the answer's text."""
    page.click("#tab-chat")
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.wait_for_selector(".message.last [data-tool=copy]")
    page.wait_for_selector("#send[data-does=send]")
    return str(page.inner_text("#transcript .message.last"))


def test_a_chat_with_a_real_model_survives_a_reload(real_tabs: Tabs) -> None:
    context = real_tabs.context(viewport={"width": 1280, "height": 800})
    page = real_tabs.open(context=context)
    sent: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda request: (
            sent.append(json.loads(request.post_data))
            if request.method == "POST" and re.search(r"completions?$", request.url)
            else None
        ),
    )
    answer = chat(page, "Tell me a story about a fox.")
    assert len(answer) > 20
    assert not {"temperature", "top_k", "top_p"} & set(sent[-1])  # only what was changed is sent
    page.reload()
    page.wait_for_selector("#transcript .message.last")
    assert "Tell me a story about a fox." in page.inner_text("#transcript")
    assert page.locator("#conversations").inner_text().count("Tell me a story") >= 1


def test_the_notebook_goes_on_from_the_text_and_undoes(real_tabs: Tabs) -> None:
    page = real_tabs.open(viewport={"width": 1280, "height": 800})
    page.click("#tab-notebook")
    page.fill("#notebook textarea", BEGINNING)
    page.get_by_role("button", name="Generate").click()
    until(lambda: len(written(page)) > 60)
    page.locator("#notebook").get_by_role("button", name="Generate").wait_for()
    until(lambda: page.get_by_role("button", name="Undo last run").is_enabled())
    page.get_by_role("button", name="Undo last run").click()
    until(lambda: written(page) == BEGINNING)


def test_stopping_ends_the_work_on_the_server(real_tabs: Tabs, real: Any) -> None:
    page = real_tabs.open(viewport={"width": 1280, "height": 800})
    page.click("#tab-notebook")
    page.fill("#notebook textarea", BEGINNING)
    page.get_by_role("button", name="Generate").click()
    until(lambda: len(written(page)) > 40)
    page.keyboard.press("Escape")  # harmless where the run has ended by itself
    until(lambda: real.request("GET", "/slots")[1] == [])


def test_every_sampler_of_the_server_is_in_the_drawer(real_tabs: Tabs, real: Any) -> None:
    page = real_tabs.open(viewport={"width": 1280, "height": 900})
    names = open_drawer(page)
    for sampler in real.request("GET", "/samplers")[1]["samplers"]:
        for option in sampler["defaults"]:
            if option not in (
                "grammar",
                "lark",
                "json_schema",
                "regex",
                "choices",
                "structural_tag",
            ):  # have their own box
                assert option in names, option


def test_a_third_party_sampler_has_its_controls(page: Any) -> None:
    assert "strength" in open_drawer(page)


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_nothing_scrolls_sideways(tabs: Tabs, width: int) -> None:
    page = tabs.open(viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_controls_have_names_and_ids_are_unique(page: Any, ask: Any) -> None:
    ask("Hello")
    open_drawer(page)
    found = page.evaluate(
        """() => {
          const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
          const named = (e) => (e.getAttribute("aria-label") || e.labels?.length || e.getAttribute("aria-labelledby")
            || e.textContent.trim() || e.title);
          const visible = (e) => e.offsetParent !== null;
          return {
            twice: ids.filter((id, i) => ids.indexOf(id) !== i),
            nameless: [...document.querySelectorAll("button, input, select, textarea, a")].filter(visible)
              .filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 120)),
            h1: document.querySelectorAll("h1").length,
          };
        }"""
    )
    assert found["twice"] == []
    assert found["nameless"] == []
    assert found["h1"] == 1


def test_composition_never_sends(page: Any) -> None:
    page.fill("#message", "にほ")
    page.evaluate(
        """() => document.getElementById("message").dispatchEvent(
          new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    page.wait_for_timeout(100)
    assert page.locator("#transcript .message").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(tabs: Tabs, scheme: str) -> None:
    page = tabs.open(color_scheme=scheme)
    ink = page.evaluate("getComputedStyle(document.body).color")
    dark_ink = sum(map(int, re.findall(r"\d+", ink)[:3])) < 380
    assert dark_ink is (scheme == "light")


def test_the_answer_streams_is_kept_and_can_be_made_again(page: Any, ask: Any) -> None:
    ask("Tell the fox story")
    first = page.inner_text("#transcript .message.last")
    assert "stork" in first
    page.locator(".message.last [data-tool=regenerate], .message.last [data-tool=redo]").first.click()
    page.wait_for_selector("#send[data-does=send]")
    until(lambda: "2" in page.inner_text(".message.last"))


def test_a_wrong_key_is_asked_for_again_in_place(mock: Any, tabs: Tabs) -> None:
    mock.script.key = "right"
    page = tabs.open(viewport={"width": 1280, "height": 800})
    page.wait_for_selector("dialog input[type=password]")
    page.fill("dialog input[type=password]", "wrong")
    page.click("dialog >> text=Use this key")
    page.wait_for_selector("dialog >> text=The server did not accept this key.")
    page.click("dialog >> text=Cancel")
    page.click("#settings")
    page.click("#drawer-server")
    page.wait_for_selector("#drawer-panel >> text=The server wants an API key.")
    assert "does not answer" not in page.inner_text("body")
    page.click("#banners >> text=Give the key")
    page.fill("dialog input[type=password]", "right")
    page.click("dialog >> text=Use this key")
    page.wait_for_selector("#drawer-panel >> text=Chat template")
    assert page.locator("#banners .banner").count() == 0
    mock.script.key = "another"  # as after a restart
    page.click("#drawer >> [aria-label='Close the settings']")
    page.fill("#message", "Hello")
    page.press("#message", "Enter")
    page.wait_for_selector("dialog >> text=The server did not accept this key.")


def test_a_full_context_is_told_with_what_makes_room(mock: Any, page: Any, ask: Any) -> None:
    ask("First question")
    ask("Second question")
    mock.script.stop_reason, mock.script.ended_by = "length", "context"
    ask("Tell the fox story")
    card = page.locator(".message.last .card")
    card.wait_for()
    assert "The context is full" in card.inner_text()
    assert page.locator(".message.last [data-tool=limit], .message.last [data-tool=continue]").count() == 0
    mock.script.stop_reason, mock.script.ended_by = "stop", ""
    page.locator(".message.last .card >> text=Allow context shift").click()
    until(lambda: mock.script.bodies("v1/chat/completions")[-1].get("context_shift") is True)
    page.wait_for_selector(".message.last .card", state="detached")


def tokens_shown(page: Any) -> int:
    """How many tokens the context meter says that there are."""
    title = page.get_attribute("#context", "title") or "0 of"
    return int("".join(filter(str.isdigit, title.split(" of ")[0])))


def test_the_context_meter_is_right_on_paste_and_while_a_prompt_is_read(mock: Any, page: Any, ask: Any) -> None:
    text = "a word " * 500  # 875 tokens here, by the letters 972
    page.evaluate(
        """(text) => {
          const box = document.getElementById("message");
          box.value = text;
          box.dispatchEvent(new InputEvent("input", { inputType: "insertFromPaste", bubbles: true }));
        }""",
        text,
    )
    until(lambda: tokens_shown(page) == 875)
    mock.script.prompt, mock.script.step = [300, 600, 901], 0.4
    page.press("#message", "Enter")
    until(lambda: tokens_shown(page) == 901)
    assert page.get_attribute("#send", "data-does") == "stop"
    page.wait_for_selector("#send[data-does=send]")
    assert tokens_shown(page) > 901  # the answer's, as the server counted


def test_probabilities_of_the_first_half_survive_continue(mock: Any, page: Any, ask: Any) -> None:
    page.click("#settings")
    page.click("#drawer-output")
    page.get_by_label("Token probabilities").check()
    page.click("#drawer >> [aria-label='Close the settings']")
    mock.script.text, mock.script.stop_reason = "Once upon a time", "length"
    ask("Tell the fox story")
    mock.script.text, mock.script.stop_reason = " there was a fox.", "stop"
    page.locator(".message.last [data-tool=continue]").click()
    until(lambda: "there was a fox." in page.inner_text(".message.last"))
    page.wait_for_selector("#send[data-does=send]")
    page.locator(".message.last [data-tool=probabilities]").click()
    page.wait_for_selector(".inspector .token[role=button]")
    shown = page.locator(".inspector .tokens .token").all_text_contents()
    assert "".join(shown) == "Once upon a time there was a fox."
    assert page.locator(".inspector .tokens").text_content() == "".join(shown)


def test_the_error_of_a_grammar_is_not_cut_off(tabs: Tabs) -> None:
    page = tabs.open(viewport={"width": 1280, "height": 800})
    page.click("#settings")
    page.click("#drawer-output")
    page.get_by_label("JSON Schema").check()
    page.get_by_label("What the answer has to follow").fill(
        '{"type": "object", "properties": {"name": {"type": "string"}, "age" 3}, "x": 1}'
    )
    page.get_by_label("What the answer has to follow").blur()
    page.wait_for_selector("pre.problem:visible")
    size = page.evaluate(
        "(() => { const p = document.querySelector('pre.problem'); return [p.scrollWidth, p.clientWidth]; })()"
    )
    assert size[0] <= size[1]
    *_, line, caret = page.inner_text("pre.problem").split("\n")
    assert line[caret.index("^")] == "3"


def test_a_refused_message_is_there_once_and_can_be_edited(mock: Any, page: Any) -> None:
    mock.script.refuse = {"code": "wrong_usage", "message": "the message is too odd", "param": "messages"}
    page.fill("#message", "An odd message")
    page.press("#message", "Enter")
    page.wait_for_selector(".card.error >> text=the message is too odd")
    assert page.input_value("#message") == ""
    assert page.inner_text("body").count("An odd message") <= 3  # the transcript, the list, the title
    assert page.locator("#transcript >> text=An odd message").count() == 1
    mock.script.refuse = None
    page.click(".card.error >> text=Edit the message")
    page.fill("#transcript textarea", "A better message")
    page.keyboard.press("Control+Enter")
    until(lambda: page.locator("#transcript >> text=A better message").count() == 1)
    until(lambda: mock.script.bodies("v1/chat/completions")[-1]["messages"][-1]["content"] == "A better message")


def test_delete_all_is_not_beside_delete(page: Any, ask: Any) -> None:
    ask("Hello")
    page.locator("#conversations [data-part=menu]").first.click()
    page.wait_for_selector(".menu >> text=Delete")
    assert page.locator(".menu >> text=Delete all").count() == 0
    page.keyboard.press("Escape")
    page.click("#settings")
    page.click("#drawer-output")
    page.click("#drawer >> text=Delete all conversations…")
    page.wait_for_selector("dialog >> text=will be gone for good")
