"""Modules that need no browser, in node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def node(web: Path) -> Any:
    """Runs a module's code in node and gives the JSON that it prints."""
    program = shutil.which("node")
    if not program:
        pytest.skip("node is not installed: it runs the page's modules without a browser")

    def run(code: str) -> Any:
        head = "globalThis.localStorage ??= undefined;"
        done = subprocess.run(
            [program, "--input-type=module", "-e", head + code + "\nprocess.exit(0);"],
            cwd=web / "ui", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


STREAM = 'data: {"a":1}\\r\\n\\r\\n: comment\\n\\ndata:{"b":\\ndata: 2}\\n\\nevent: x\\rdata: "c"\\r\\rdata: [DONE]'


def test_events_are_the_same_wherever_the_stream_is_cut(node: Any) -> None:
    """At every pair of places."""
    code = f"""
    import {{ EventSplitter }} from "./api.js";
    const text = `{STREAM}`;
    const read = (...pieces) => {{
      const splitter = new EventSplitter();
      return JSON.stringify([...pieces.flatMap((piece) => splitter.push(piece)), ...splitter.end()]);
    }};
    const found = new Set([read(...text)]);
    for (let a = 0; a <= text.length; a += 1) {{
      for (let b = a; b <= text.length; b += 1) found.add(read(text.slice(0, a), text.slice(a, b), text.slice(b)));
    }}
    console.log(JSON.stringify([...found].map(JSON.parse)));
    """
    assert node(code) == [['{"a":1}', '{"b":\n2}', '"c"', "[DONE]"]]


def test_kinds_of_controls(node: Any) -> None:
    schemas = {
        "slider": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "open": {"type": "number", "minimum": 0},
        "few": {"type": "integer", "minimum": 0, "maximum": 20},
        "many": {"type": "integer", "minimum": 0, "maximum": 100000},
        "seed": {"type": "integer"},
        "flag": {"type": "boolean"},
        "pick": {"enum": ["a", "b"]},
        "long": {"enum": [1, 2, 3, 4, 5]},
        "word": {"type": "string"},
        "text": {"type": "string", "maxLength": 5000},
        "list": {"type": "array", "items": {"type": "string"}},
        "pairs": {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}},
        "maybe": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}], "default": None},
        "deep": {"type": "object", "properties": {"x": {"type": "object"}}},
        "mixed": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "named": {"$ref": "#/$defs/Part", "description": "d"},
        "bnf": {"type": "string", "x-ui": {"widget": "grammar"}},
    }
    code = f"""
    import {{ readField }} from "./schema.js";
    const defs = {{ Part: {{ type: "integer", minimum: 1, maximum: 3 }} }};
    const found = Object.entries({json.dumps(schemas)}).map(([key, schema]) => [key, readField(key, schema, defs)]);
    console.log(JSON.stringify(Object.fromEntries(found.map(([key, f]) => [key, f.kind + (f.optional ? "?" : "")]))));
    """
    assert node(code) == {
        "slider": "slider", "open": "number", "few": "slider", "many": "number", "seed": "seed", "flag": "switch",
        "pick": "radio", "long": "select", "word": "line", "text": "text", "list": "list", "pairs": "pairs",
        "maybe": "slider?", "deep": "json", "mixed": "json", "named": "slider", "bnf": "grammar",
    }  # fmt: skip


def test_steps_and_usual_ranges(node: Any) -> None:
    code = """
    import { niceStep, readField } from "./schema.js";
    const wide = readField("temperature", { type: "number", minimum: 0, maximum: 100, default: 0.8 });
    const log = readField("rate", { type: "number", minimum: 0.001, maximum: 10, "x-ui": { scale: "log" } });
    console.log(JSON.stringify({ steps: [0.013, 1, 0.04, 0.0077, 33].map(niceStep), wide: [wide.low, wide.high, wide.step], log: log.log }));
    """
    assert node(code) == {"steps": [0.01, 1, 0.05, 0.01, 20], "wide": [0, 2, 0.02], "log": True}


def test_values_that_do_not_fit_and_why(node: Any) -> None:
    code = """
    import { misfit, readField, inactive } from "./schema.js";
    const f = readField("x", { type: "number", exclusiveMinimum: 0, maximum: 2 });
    const gone = { ui: { disabled_by: [{ field: "mirostat", op: ">", value: 0 }] }, sampler: "top_p" };
    const asked = { value: () => 2, titleOf: () => "Mirostat", chain: ["top_p"] };
    console.log(JSON.stringify([...[0, 2.5, NaN, "a", null, 1].map((v) => misfit(f, v)), inactive(gone, asked),
      inactive({ ui: {}, sampler: "dry" }, asked), inactive(gone, { ...asked, value: () => 0 })]));
    """
    assert node(code) == [
        "it has to be above 0", "it can be at most 2", "a number is needed", "a number is needed", "a value is needed", "",
        "not used while Mirostat is on", "not in the chain", "",
    ]  # fmt: skip


def test_third_party_fields_have_flat_names(node: Any) -> None:
    code = """
    import { readSamplers } from "./schema.js";
    const schema = { $ref: "#/$defs/O", $defs: { O: { properties: { strength: { type: "number", default: 0.1 } } } } };
    const found = readSamplers({ chain: ["dist"], samplers: [
      { name: "acme.slop", title: "Slop ban", package: "llamakit-acme", prefix: "acme.slop.", defaults: { "acme.slop.strength": 0.5 }, schema }] });
    const [group] = found.groups;
    console.log(JSON.stringify([found.fields, group.name, group.foreign, group.fields[0].default]));
    """
    assert node(code) == [["acme.slop.strength"], "Slop ban", True, 0.5]


def test_imports_are_checked(node: Any) -> None:
    """Ours, llama.cpp's, OpenAI's; circles, doubles and strangers are refused, one conversation at a time."""
    code = """
    import { readImport } from "./imports.js";
    const m = (id, parent, role = "user") => ({ id, parent, role, text: id });
    const own = { format: "llamakit.conversations", version: 1, presets: [{ name: "p", params: { top_k: 1 } }], conversations: [
      { id: "a", title: "fine", leaf: "2", messages: [m("1", null), m("2", "1", "assistant")] },
      { id: "b", title: "circle", messages: [m("1", "2"), m("2", "1")] },
      { id: "c", title: "double", messages: [m("1", null), m("1", null)] },
      { id: "d", title: "role", messages: [m("1", null, "system")] },
      { id: "e", title: "none" }, null, 5] };
    const cpp = [{ conv: { id: "x", name: "old", currNode: 3 }, messages: [
      { id: 1, parent: null, role: "system", content: "be kind" }, { id: 2, parent: 1, role: "user", content: "hi" }, { id: 3, parent: 2, role: "assistant", content: "ho" }] }];
    const plain = [{ role: "system", content: "s" }, { role: "user", content: [{ type: "text", text: "q" }] }, { role: "assistant", content: "r" }];
    const out = [own, cpp, plain, "text", 7, null, [], { format: "llamakit.conversations", version: 9 }].map(readImport);
    console.log(JSON.stringify(out.map(({ docs, presets, skipped }) => [docs.map(({ conv, list }) => [conv.title, conv.system ?? "", list.map((x) => x.text)]), presets.length, skipped])));
    """
    own, cpp, plain, *rest = node(code)
    assert own[0] == [["fine", "", ["1", "2"]]]
    assert own[1] == 1
    assert [reason.split(":")[0] for reason in own[2]] == ["circle", "double", "role", "none", "untitled", "untitled"]
    assert cpp[0] == [["old", "be kind", ["hi", "ho"]]]
    assert plain[0] == [["q", "s", ["q", "r"]]]
    assert all(docs == [] for docs, *_ in rest)


def test_imports_take_the_place_of_nothing(node: Any) -> None:
    """Messages of two conversations with the same ids wrote over one another, presets over those of their name, and
    without the system prompts that they had."""
    code = """
    import { beside, readImport } from "./imports.js";
    const m = (id, parent, role = "user") => ({ id, parent, role, text: `${id} of ${parent}` });
    const conversation = (id, parent) => ({ id, title: id, leaf: "2", messages: [m("1", null), m("2", parent, "assistant")] });
    const preset = (name, k, system) => ({ name, params: { top_k: k }, system });
    const file = { format: "llamakit.conversations", version: 1, conversations: [conversation("a", "1"), conversation("b", "1"), conversation("a", "1")],
      presets: [preset("p", 2, "be brief"), preset("q", 1, ""), preset("p", 3, "")] };
    const old = [{ id: "b" }];
    const made = beside(readImport(file), old, [{ id: "2" }], [preset("p", 1, "mine"), preset("q", 1, "")]);
    const ids = made.messages.map(({ id }) => id);
    const trees = made.convs.map(({ id, leaf }) => made.messages.filter((x) => x.conv === id).map((x) => [x.parent !== null, x.id === leaf]));
    console.log(JSON.stringify([made.convs.map(({ id }) => id.length > 1), new Set(ids).size, ids.includes("2"), trees, made.presets.map(({ name, system }) => [name, system])]));
    """
    renamed, n_ids, taken, trees, presets = node(code)
    assert renamed == [False, True, True]
    assert (n_ids, taken) == (6, False)
    assert trees == [[[False, False], [True, True]]] * 3
    assert presets == [["p (2)", "be brief"], ["p (3)", ""]]


def test_highlighter_keeps_every_character(node: Any) -> None:
    code = r"""
    import { tokens } from "./highlight.js";
    const sources = ['def f(x): # c\n  return "a\\"b" + 1.5e3', "a = '''x\ny", "/* open", '"open', "`t ${x}` // y", "SELECT 1 -- c", "日本 = 'é'", ""];
    const langs = ["python", "js", "c++", "rust", "sql", "bash", "unknown", "json", "go", "ruby", "lua", "css", "java"];
    const lost = sources.flatMap((s) => langs.filter((l) => tokens(s, l).map(([, t]) => t).join("") !== s));
    const kinds = tokens(sources[0], "python").filter(([k]) => k).map(([k, t]) => `${k} ${t}`);
    const start = performance.now();
    for (const lang of langs) for (const s of ['"'.repeat(50000), "/*".repeat(25000), "a.".repeat(25000), "'''\"".repeat(12000), "1".repeat(50000)]) tokens(s, lang);
    console.log(JSON.stringify([lost, kinds, performance.now() - start]));
    """
    lost, kinds, ms = node(code)
    assert lost == []
    assert kinds == ["tok-k def", "tok-f f", "tok-c # c", "tok-k return", 'tok-s "a\\"b"', "tok-n 1.5e3"]
    assert ms < 13 * 5 * 50 * 5  # five milliseconds a kilobyte


def test_texts_that_nothing_ends_have_a_limit(node: Any) -> None:
    """Notebooks, and conversations with a model that has no chat template; what the reader set holds."""
    code = """
    import { server } from "./state.js";
    import { answerRequest, defaultLimit, notebookRequest } from "./wire.js";
    const conv = (kind, params = {}) => ({ kind, params, system: "" });
    const found = [];
    for (const props of [{ chat: true }, { chat: false }, { chat: true, limits: { max_predict: 100 } }]) {
      server.set({ props });
      found.push(notebookRequest(conv("notebook"), "a").body.n_predict, answerRequest(conv("chat"), []).body.max_tokens ?? null,
        answerRequest(conv("chat"), []).body.n_predict ?? null, notebookRequest(conv("notebook", { max_tokens: -1 }), "a").body.n_predict,
        defaultLimit(conv("chat")));
    }
    console.log(JSON.stringify(found));
    """
    assert node(code) == [512, None, None, -1, None, 512, None, 512, -1, 512, 100, None, None, -1, None]


def test_what_ran_out_is_told_apart(node: Any) -> None:
    code = """
    globalThis.addEventListener = () => {};
    const { describe } = await import("./status.js");
    const run = (stop) => ({ state: { value: { phase: "done" } }, tokens: 9, message: { stop } });
    console.log(JSON.stringify(["end", "limit", "context"].map((stop) => describe(run(stop))[1])));
    """
    assert node(code) == ["ready · 9 tokens", "limit reached · 9 tokens", "context full · 9 tokens"]


def test_formulas_of_the_common_kind_are_read(node: Any) -> None:
    code = r"""
    import { readMath } from "./math.js";
    const flat = (t) => t && (t.text ?? `${t.tag}(${t.children.map(flat).join(" ")})`);
    const texts = [String.raw`$$x$$`, String.raw`\(\frac{a_1+b}{2}\)`, String.raw`\[\sum_{i=1}^{n} x_i^2 \le \sqrt[3]{\pi}\]`,
      String.raw`$$\left(\text{a b} - 1.5\right)$$`,
      String.raw`\[A = \begin{pmatrix} a & b \\ c & d \end{pmatrix}, \qquad \int_0^\infty e^{-x}\,dx\]`,
      String.raw`$$f(x) = \begin{cases} x & \text{if } x \ge 0 \\[2pt] -x & \text{else}\end{cases}$$`,
      String.raw`$$\begin{aligned} a &= b \\ &= c \end{aligned}$$`, String.raw`$$\hat{\beta} \in \mathbb{R}^n, \mathbf{x}, \mathcal{L}$$`,
      String.raw`$$\lim_{x \to 0} \binom{n}{k} \not= \underbrace{a}_{c}$$`, "$$\nx = 1\n$$", String.raw`\(f'(x) \bmod 2\)`,
      String.raw`$$\begin{pmatrix} a$$`, String.raw`$$\begin{table} a \end{table}$$`, String.raw`$$\limits^2$$`, String.raw`$$a_b_c$$`, String.raw`$$\unknown{x}$$`, String.raw`$$\frac{1}$$`, "$${$$", `$$${"{".repeat(500)}$$`];
    console.log(JSON.stringify(texts.map((text) => flat(readMath(text)))));
    """
    assert node(code) == [
        "math(x)", "math(mfrac(mrow(msub(a 1) + b) 2))",
        "math(mrow(munderover(∑ mrow(i = 1) n) msubsup(x i 2) ≤ mroot(π 3)))", "math(mrow(( mrow(a b − 1.5) )))",
        "math(mrow(A = mrow(( mtable(mtr(mtd(a) mtd(b)) mtr(mtd(c) mtd(d))) )) , mspace() "
        "msubsup(∫ 0 ∞) msup(e mrow(− x)) mspace() d x))",
        "math(mrow(f ( x ) = mrow({ mtable(mtr(mtd(x) mtd(mrow(if  x ≥ 0))) mtr(mtd(mrow(− x)) mtd(else))))))",
        "math(mtable(mtr(mtd(a) mtd(mrow(= b))) mtr(mtd(mrow()) mtd(mrow(= c)))))",
        "math(mrow(mover(β ^) ∈ msup(ℝ n) , 𝐱 , ℒ))",
        "math(mrow(munder(lim mrow(x → 0)) mrow(( mfrac(n k) )) ≠ munder(munder(a ⏟) c)))", "math(mrow(x = 1))",
        "math(mrow(f ′ ( x ) mod 2))", None, None, None,
        None, None, None, None, None,
    ]  # fmt: skip


def test_errors_with_a_caret_are_narrowed_around_it(node: Any) -> None:
    line = "  12 | date ::= year dash month dash moth dash hour dash minute dash second"
    at = line.index("moth")
    text = f"rule moth is not defined, though it is used\n{line}\n     | {' ' * (at - 7)}^^^^\ntry: month"
    code = f"""
    import {{ narrowed }} from "./narrow.js";
    const found = [34, 50, 200].map((n) => narrowed({json.dumps(text)}, n));
    console.log(JSON.stringify([...found, narrowed("plain text")]));
    """
    *narrow, plain = node(code)
    assert plain == "plain text"
    assert narrow[2] == text
    for found, columns in zip(narrow, (34, 50), strict=False):
        head, excerpt, caret, hint = found.split("\n")
        assert (head, hint) == ("rule moth is not defined, though it is used", "try: month")
        assert len(excerpt) <= columns
        assert excerpt.startswith("  12 | ")
        start = caret.index("^")
        assert excerpt[start : start + 4] == "moth"
