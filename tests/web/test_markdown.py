"""Markdown: what it becomes, that streaming makes no difference, and that nothing gets through that should not."""

from __future__ import annotations

from typing import Any

import pytest

FIXTURES = {
    "prose": "Hello *you*, **bold _and_ more**, ~~gone~~ and `co*de*`.\nnext line\n\nsnake_case_name 2 * 3 * 4\n",
    "code": "Text\n```python title\ndef f():\n\treturn '<a> & b'\n\n```\nafter\n~~~\n``` inside\n~~~\n",
    "open code": "```js\nlet a = 1;\n``",
    "nested": "- one\n  - two\n    1. three\n       four\n\n  para\n- five\n```c\nint x;\n```\n3. six\n4. seven\n",
    "list code": "1. step\n   ```sh\n   ls -l\n   ```\n2. next\n\n   more\n\nend\n",
    "table": "Before\n| a | b |\n|:-:|--:|\n| `x` | **y** |\n| 1 |\n\n| no table\nnext | line\n",
    "quote": "> quoted\n> > deeper\n> - item\n\nout\n> again\n",
    "heads": "# A #\n## B ##\n###### C\n#no\n---\n***\n- - -\n",
    "links": '[a](https://x.org/a_(b) "t") <https://y.org> https://z.org/p. (https://w.org/q)\n![pic](http://i.org/1.png) [bad](javascript:alert(1)) [rel](/x)\n',
    "maths": "Cost $5 and $$a_1 * b_2$$ then **$$x$$**\n",
    "escapes": "\\*not\\* \\` and \\[x](y)\\\nbreak & <b>raw</b> <img src=x onerror=alert(1)>\n",
    "crlf": "a\r\n\r\n- b\r\n- c\r\n```\r\nd\r\n```\r\n",
    "odd": "**a *b** c* ***d*** _e__f_ [x [y](https://a.org) z](https://b.org) `` ` `` *\n",
    "unicode": "𝒳 **日本**語 e\u0301 *ü* 👩‍👩‍👧 ‮rtl\n",
    "empty": "\n\n   \n",
    "marks": "- \n-\n1.\n> \n|\n|-|\n~~~~\n",
}
PRELUDE = """
async () => {
  const { renderMarkdown, sourceOf } = await import("/ui/markdown.js");
  const { StreamView } = await import("/ui/stream.js");
  const whole = (text) => { const d = document.createElement("div"); renderMarkdown(d, text); return d; };
  const streamed = (pieces) => {
    const d = document.createElement("div");
    document.body.append(d);
    const view = new StreamView(d);
    for (const piece of pieces) { view.append(piece); view.flush(); }
    view.flush(true);
    d.remove();
    return d;
  };
  const alike = (a, b) => a.isEqualNode(b) ? "" : `${new XMLSerializer().serializeToString(b)} instead of ${new XMLSerializer().serializeToString(a)}`;
  let state = 7;
  const random = (n) => { state = (state * 1103515245 + 12345) % 2147483648; return Math.floor((state / 2147483648) * n); };
"""


def run(lab: Any, code: str, argument: Any = None) -> Any:
    """The value of `code` in the page, with the helpers above."""
    return lab.evaluate(PRELUDE.replace("async ()", "async (given)") + code + "}", argument)


@pytest.mark.parametrize("name", FIXTURES)
def test_streamed_equals_whole_for_every_cut(lab: Any, name: str) -> None:
    """Character by character, cut at every place, and in random pieces."""
    code = """
      const expected = whole(given);
      const wrong = [];
      const check = (pieces) => { const why = alike(expected, streamed(pieces)); if (why) wrong.push([pieces.join("¦"), why]); };
      check([...given]);
      check(given.split(""));
      for (let at = 0; at <= given.length; at += 1) check([given.slice(0, at), given.slice(at)]);
      for (let round = 0; round < 60; round += 1) {
        const pieces = [];
        for (let at = 0; at < given.length;) { const n = 1 + random(9); pieces.push(given.slice(at, at + n)); at += n; }
        check(pieces);
      }
      return wrong.slice(0, 2);
    """
    assert run(lab, code, FIXTURES[name]) == []


def test_streamed_equals_whole_for_random_texts(lab: Any) -> None:
    """Three thousand texts of Markdown's own marks, cut at random."""
    code = """
      const parts = ["a", "b c", "*", "**", "_", "`", "```", "~~~", "\\n", "\\n\\n", "- ", "1. ", "  ", "> ", "# ", "|", "|-|", "---", "[x](https://a.b)", "[", "](", "!", "\\\\", "$$", "~~", "\\r\\n", "\\t", "é", "https://q.r/s"];
      const wrong = [];
      for (let round = 0; round < 3000 && wrong.length < 3; round += 1) {
        const text = Array.from({ length: 1 + random(40) }, () => parts[random(parts.length)]).join("");
        const pieces = [];
        for (let at = 0; at < text.length;) { const n = 1 + random(6); pieces.push(text.slice(at, at + n)); at += n; }
        const why = alike(whole(text), streamed(pieces));
        if (why) wrong.push([JSON.stringify(pieces), why]);
      }
      return wrong;
    """
    assert run(lab, code) == []


def html(lab: Any, text: str) -> str:
    """What a text becomes, written out."""
    found: str = run(
        lab,
        'return new XMLSerializer().serializeToString(whole(given)).replaceAll(\' xmlns="http://www.w3.org/1999/xhtml"\', "").slice(5, -6);',
        text,
    )
    return found.replace(' rel="noopener noreferrer nofollow ugc" target="_blank"', "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*a* **b** ***c*** ~~d~~", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <del>d</del></p>"),
        ("snake_case_name and __init__", "<p>snake_case_name and <strong>init</strong></p>"),
        ("`a *b* <i>` \\*c\\*", "<p><code>a *b* &lt;i&gt;</code> *c*</p>"),
        ("# One\n#### Four", "<h3>One</h3><h6>Four</h6>"),
        ("a\nb\n\nc", "<p>a<br />b</p><p>c</p>"),
        ("3. x\n4. y\n   - z", '<ol start="3"><li>x</li><li>y<ul><li>z</li></ul></li></ol>'),
        ("> a\n> b", "<blockquote><p>a<br />b</p></blockquote>"),
        ("```c++ x\n<&>\n```", '<pre data-lang="c++"><code>&lt;&amp;&gt;\n</code></pre>'),
        (
            "|a|b|\n|-|-:|\n|1\\|2|",
            '<table><thead><tr><th>a</th><th class="align-right">b</th></tr></thead><tbody><tr><td>1|2</td><td class="align-right"></td></tr></tbody></table>',
        ),
        ("---", "<hr />"),
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>"),
        ("- [ ] todo", "<ul><li>[ ] todo</li></ul>"),
        ("$$a_b_c$$", '<p><code class="math">$$a_b_c$$</code></p>'),
        (
            "*x* \\(a_1\\) \\(b",
            '<p><em>x</em> <math xmlns="http://www.w3.org/1998/Math/MathML"><msub><mi>a</mi><mn>1</mn></msub></math> (b</p>',
        ),
        ("[x](https://a.org/b)", '<p><a href="https://a.org/b">x</a></p>'),
        ("see https://a.org/b.", '<p>see <a href="https://a.org/b">https://a.org/b</a>.</p>'),
        ("![alt](https://a.org/i.png)", '<p><a href="https://a.org/i.png">[image: alt]</a></p>'),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](data:text/html,y) [y](//a.org) [z](#q)", "<p>[x](data:text/html,y) [y](//a.org) [z](#q)</p>"),
        ("[bank.com](https://evil.org)", '<p><a href="https://evil.org/">bank.com</a> (evil.org)</p>'),
        (
            "https://bank.com@evil.org/",
            '<p><a href="https://bank.com@evil.org/">https://bank.com@evil.org/</a> (evil.org)</p>',
        ),
        ("[x](https://пример.рф)", '<p><a href="https://xn--e1afmkfd.xn--p1ai/">x</a> (xn--e1afmkfd.xn--p1ai)</p>'),
    ],
)
def test_becomes(lab: Any, text: str, expected: str) -> None:
    assert html(lab, text) == expected


def test_code_is_copied_exactly(lab: Any) -> None:
    """Streamed or not, with tabs, signs and the last newline."""
    source = "#include <stdio.h>\n\tint a = 1 && 2;  \n\n```` \n"
    text = f"Look:\n\n`````c\n{source}`````\n\nand\n"
    code = """
      const bodies = [whole(given), streamed([...given])];
      return bodies.map((body) => sourceOf(body.querySelector("pre")));
    """
    assert run(lab, code, text) == [source, source]


def test_finished_blocks_are_never_touched(lab: Any) -> None:
    """Nodes of finished blocks and items stay the same nodes, and the growing code block keeps its text node."""
    code = """
      const d = document.createElement("div");
      document.body.append(d);
      const view = new StreamView(d);
      const changes = [];
      const add = (piece) => { view.append(piece); view.flush(); };
      add("First *one*.\\n\\n- a\\n- b\\n");
      const [p, item] = [d.querySelector("p"), d.querySelector("li")];
      const watcher = new MutationObserver((list) => changes.push(...list.filter(({ target }) => p.contains(target) || item.contains(target))));
      watcher.observe(d, { subtree: true, childList: true, characterData: true, attributes: true });
      for (const char of "- c\\n\\n```js\\nlet x") add(char);
      const node = d.querySelector("pre code").firstChild;
      for (const char of " = 1;\\nlet y;\\n") add(char);
      const same = d.querySelector("pre code").firstChild === node && d.querySelector("pre code").childNodes.length === 1;
      for (const char of "```\\n\\nLast") add(char);
      view.flush(true);
      await new Promise((done) => setTimeout(done));
      d.remove();
      return [changes.length, p.isConnected || d.contains(p), d.contains(item), same];
    """
    assert run(lab, code) == [0, True, True, True]


TAGS = "p br h3 h4 h5 h6 ul ol li blockquote pre code table thead tbody tr th td strong em del a hr details summary span".split()
TAGS += (
    "math mrow mi mn mo mtext msub msup msubsup mfrac msqrt mroot munder mover munderover mspace mtable mtr mtd".split()
)
ATTRIBUTES = (
    "href rel target start data-lang class display width accent movablelimits linethickness displaystyle".split()
)


def test_fuzz_nothing_gets_through_and_nothing_is_slow(lab: Any) -> None:
    """Ten thousand random texts: only known tags, attributes and addresses; quick; no character of plain text lost."""
    code = """
      const [tags, attributes] = given;
      const parts = ["<script>", "<img src=x onerror=1>", "javascript:", "data:", "](", "[", "]", "(", ")", "!", "*", "_", "`", "~", "|", "\\n", "- ", "1. ", "> ", "#", "<", ">", "&", '"', "'", "\\\\", "http://", "https://x.y/", "\\u202e", "\\0", "\\ud800", "word ", "$$", "\\begin{cases}", "\\end{cases}", "\\frac{1}", "&", "\\sum_", "   ", "\\t"];
      const bad = [];
      let slowest = 0;
      for (let round = 0; round < 10000; round += 1) {
        const text = Array.from({ length: 1 + random(60) }, () => parts[random(parts.length)]).join("");
        let body, spent = Infinity;
        for (let tries = 0; tries < 5 && spent > 25; tries += 1) {
          const start = performance.now();
          body = whole(text);
          spent = Math.min(spent, performance.now() - start);
        }
        slowest = Math.max(slowest, spent / Math.max(1, text.length / 1024));
        for (const node of body.querySelectorAll("*")) {
          if (!tags.includes(node.localName)) bad.push([text, node.localName]);
          for (const { name, value } of node.attributes) {
            if (!attributes.includes(name)) bad.push([text, name]);
            if (name === "href" && !/^(https?|mailto):/.test(value)) bad.push([text, value]);
            if (name === "class" && !/^(math|aligned|cases|align-(right|center))$/.test(value)) bad.push([text, value]);
          }
        }
      }
      return [bad.slice(0, 3), slowest];
    """
    bad, slowest = run(lab, code, [TAGS, ATTRIBUTES])
    assert bad == []
    assert slowest < 250  # milliseconds a kilobyte, at least one; of tries, since others may have had the processor


HARD = ["\\(", "\\(a_{", "$${",
    "**a ", "*", "_a", "[", "[a](", "![", "`", "``a", "](", "~~", "> ", "- ", "  - ", "|a", "\\", "$$", "http://", "https://a.b/(",
    "*a_b", "a**b*", "[x](https://a.b)", "(", "[a](b ", "&", "<", "1. ", "#", "\n\n", "a|b\n-|-\n", "```\n", "*a **b ", "é*",
]  # fmt: skip


@pytest.mark.parametrize("piece", HARD)
def test_hard_texts_take_linear_time(lab: Any, piece: str) -> None:
    """Thirty kilobytes of the same mark: far from the time that squares of the length would take, three tries."""
    code = """
      const text = given.repeat(Math.ceil(30000 / given.length));
      let best = Infinity;
      for (let round = 0; round < 3; round += 1) {
        const start = performance.now();
        whole(text);
        best = Math.min(best, performance.now() - start);
      }
      return best / (text.length / 1024);
    """
    assert run(lab, code, piece) < 25  # milliseconds a kilobyte; 1 or less on a quiet machine


def test_depth_and_size_are_capped(lab: Any) -> None:
    """A thousand levels, a table of a hundred columns, six thousand rows: all the text is there, the tree is flat."""
    code = """
      const depth = (node) => 1 + Math.max(0, ...[...node.children].map(depth));
      const quotes = whole("> ".repeat(1000) + "deep");
      const lists = whole(Array.from({ length: 60 }, (_, n) => "  ".repeat(n) + "- x" + n).join("\\n"));
      const wide = whole(`${"|a".repeat(100)}|\\n${"|-".repeat(100)}|\\n`);
      const long = whole("|a|b|\\n|-|-|\\n" + "|1|2|\\n".repeat(6000));
      return [depth(quotes), quotes.textContent.includes("deep"), depth(lists), lists.textContent.includes("x59"), wide.querySelectorAll("th").length,
        long.querySelectorAll("tr").length, long.textContent.split("1").length - 1];
    """
    quotes, deep, lists, last, columns, rows, kept = run(lab, code)
    assert quotes < 20
    assert deep
    assert lists < 30
    assert last
    assert columns <= 50
    assert rows <= 5003
    assert kept == 6000


def test_a_selection_in_the_growing_block_stays(lab: Any) -> None:
    """More text comes as plain text until the selection is gone; then the block is as if nothing had been."""
    code = """
      const d = document.createElement("div");
      document.body.append(d);
      const view = new StreamView(d);
      view.append("Some words to select and "); view.flush();
      getSelection().setBaseAndExtent(d.querySelector("p").firstChild, 5, d.querySelector("p").firstChild, 10);
      view.append("**bold** words"); view.flush();
      const during = [getSelection().toString(), d.textContent];
      view.append(" more."); view.flush();
      during.push(getSelection().toString(), d.textContent);
      getSelection().removeAllRanges();
      view.flush(); view.flush(true);
      const after = alike(whole("Some words to select and **bold** words more."), d);
      d.remove();
      return [...during, after];
    """
    found = run(lab, code)
    assert found == [
        "words",
        "Some words to select and **bold** words",
        "words",
        "Some words to select and **bold** words more.",
        "",
    ]
