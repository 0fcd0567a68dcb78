"""How many held-out tasks a model gets right, by kind: python -m curriculum.evaluate MODEL.gguf TESTS.jsonl"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curriculum.example import right
from llamakit import Session
from llamakit.chat.prompt import encode_messages
from llamakit.chat.tools import ToolCallReader, find_format, joined

LONGEST_ANSWER = 256  # tokens


def answer(session: Session, record: Mapping[str, Any], *, grammar: bool = True) -> tuple[str, list[tuple[str, str]]]:
    """What the model says to a test record, greedily: its text, and its calls as (name, JSON of the arguments).

    With `grammar` a record's schema is kept to; calls of tools are never helped.
    """
    tools = record.get("tools")
    prompt = encode_messages(session.chat_template, session.tokenizer, record["messages"][:-1], tools=tools)
    form = {"json_schema": record["schema"]} if grammar and record.get("schema") else {}
    text = session.generate(prompt, max_tokens=LONGEST_ANSWER, temperature=0.0, **form).text
    if not tools:
        return text, []
    names = {tool["function"]["name"] for tool in tools}
    reader = ToolCallReader(find_format(session.chat_template.source), names)
    parts = [reader.push(text), reader.flush()]
    calls = joined(delta for _, deltas in parts for delta in deltas)
    return "".join(shown for shown, _ in parts), [(each.name, each.arguments) for each in calls]


def score(session: Session, records: Iterable[Mapping[str, Any]], show: int = 0) -> dict[str, tuple[int, int]]:
    """By kind: right answers, and how many there were. The first `show` wrong ones of each kind go to stderr."""
    found: dict[str, tuple[int, int]] = {}
    for record in records:
        content, calls = answer(session, record)
        good = right(record, content, calls)
        n_right, n = found.get(record["kind"], (0, 0))
        found[record["kind"]] = (n_right + good, n + 1)
        if not good and n - n_right < show:
            asked, wanted = record["messages"][-2:]
            print(
                f"{record['kind']}: {asked['content']!r}\n  wanted {wanted}\n  got {content!r} {calls}", file=sys.stderr
            )
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def main() -> None:
    """Print a table, or with --json an object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tests", type=Path)
    parser.add_argument("--json", action="store_true", help="shares of right answers by kind, as JSON")
    parser.add_argument("--show", type=int, default=0, help="wrong answers of each kind to show")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with Session(options.model, threads=options.threads) as session:
        found = score(session, read(options.tests), options.show)
    if options.json:
        print(json.dumps({kind: n_right / n for kind, (n_right, n) in found.items()}))
        return
    for kind, (n_right, n) in found.items():
        print(f"{kind:12} {n_right:4} of {n:4}  {n_right / n:5.0%}")


if __name__ == "__main__":
    main()
