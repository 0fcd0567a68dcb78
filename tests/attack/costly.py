"""Single requests that are meant to take memory or time: what each is, and the bodies that ask for it.

Each is refused, or answered within bounds, while a neighbour reads its stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

TEXT = "Once upon a time there was a girl. "
LARGE = 31 << 20  # bytes, just below what a body may have
WIDE = "([a-z ]{1,1000}){1,1000}"


def tools(n: int, n_property: int = 1) -> list[dict[str, Any]]:
    """Tools with parameters."""
    properties = {f"a{i}": {"type": "string"} for i in range(n_property)}
    return [
        {"type": "function", "function": {"name": f"t{i}", "parameters": {"type": "object", "properties": properties}}}
        for i in range(n)
    ]


def tags(n: int) -> dict[str, Any]:
    """A free text with so many kinds of tags."""
    made = [{"type": "tag", "begin": f"<t{i}>", "content": {"type": "any_text"}, "end": "</t>"} for i in range(n)]
    form = {"type": "triggered_tags", "triggers": [f"<t{i}" for i in range(n)], "tags": made}
    return {"type": "structural_tag", "format": form}


def prompt(**more: Any) -> bytes:
    """A short completion with something more."""
    return json.dumps({"prompt": "Once", "n_predict": 60, "ignore_eos": True, **more}).encode()


def chat(content: str = "hi", **more: Any) -> bytes:
    """A short chat with something more."""
    return json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 1, **more}).encode()


def plain(**fields: Any) -> bytes:
    """A body of just these."""
    return json.dumps(fields).encode()


ATTACKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "prompt of 31 MB": ("/completion", lambda: prompt(prompt=TEXT * (LARGE // len(TEXT)))),
    "message of 31 MB": ("/v1/chat/completions", lambda: chat(TEXT * (LARGE // len(TEXT)))),
    "4 million token ids": ("/completion", lambda: prompt(prompt=[5] * 4_190_000)),
    "/tokenize with pieces, 30 MB": ("/tokenize", lambda: plain(content=TEXT * 890_000, with_pieces=True)),
    "/detokenize of 2 million": ("/detokenize", lambda: plain(tokens=[260] * 2_000_000)),
    "vectors of every token of 2,048 texts": (
        "/embedding", lambda: plain(input=[f"{i}" for i in range(2048)], pooling="none")),
    "1,000 tools, 20 parameters each": ("/v1/chat/completions", lambda: chat(tools=tools(1000, 20))),
    "10,000 tools": ("/v1/chat/completions", lambda: chat(tools=tools(10_000))),
    "10,000 messages": (
        "/v1/chat/completions", lambda: plain(messages=[{"role": "user", "content": "h"}] * 10_000, max_tokens=1)),
    "a million control tokens": ("/v1/chat/completions", lambda: chat("<s>" * 1_000_000)),
    "65,000 biases by text": ("/completion", lambda: prompt(logit_bias=[[TEXT, 1.0]] * 65_000)),
    "a million biases": ("/completion", lambda: prompt(logit_bias=[[i % 500, 1.0] for i in range(1_000_000)])),
    "11 million arrays": ("/completion", lambda: b'{"prompt":[' + b"[]," * 10_900_000 + b"1]}"),
    "a million names": ("/completion", lambda: plain(**{f"k{i}": i for i in range(1_000_000)})),
    "samplers without end": ("/completion", lambda: prompt(samplers="top_k;" * 3_000_000)),
    "8 answers with 20 probabilities": (
        "/v1/chat/completions", lambda: chat(max_tokens=200, n=8, logprobs=True, top_logprobs=20, ignore_eos=True)),
    "60 answers with 1,000 probabilities": (  # there are 64 places, and the neighbour has one
        "/completion", lambda: prompt(n=60, n_probs=1000, top_k=0, top_p=1, stream=True)),
    "an answer with 1,000 probabilities": (
        "/completion", lambda: prompt(n_predict=2000, n_probs=1000, top_k=0, top_p=1)),
    "a grammar that is ambiguous": ("/completion", lambda: prompt(grammar=f"root ::= {WIDE}")),
    "an expression with a place from the end": ("/completion", lambda: prompt(regex="[a-z ]*[aeiou ][a-z ]{60}")),
    "20,000 numbers that must not be": (
        "/completion", lambda: prompt(json_schema={"type": "number", "not": {"enum": [i / 2 for i in range(20_000)]}})),
    "50,000 ids in a schema": (
        "/completion", lambda: prompt(json_schema={"$defs": {f"d{i}": {"$id": f"x{i}", "$ref": f"x{i + 1}"}
                                                             for i in range(50_000)}, "$ref": "x0"})),
    "2,000 classes of letters": ("/completion", lambda: prompt(regex=r"\p{L}?" * 2000)),
    "9,000 rules of lark": (
        "/completion", lambda: prompt(lark="start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1} | /b+/' for i in range(9000))
                                      + '\nr9000: "b"')),
    "nested repetitions": ("/completion", lambda: prompt(grammar='root ::= ((("a"{1,1000}){1,1000}){1,1000}){1,1000}')),
    "2,000 tags": ("/completion", lambda: prompt(structural_tag=tags(2000))),
}  # fmt: skip
