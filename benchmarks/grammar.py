"""Masks of grammars, side by side with llguidance and xgrammar: one thread, the same documents, in one run.

    python benchmarks/grammar.py VOCABULARY.gguf ...    (pip install llguidance xgrammar)
    python benchmarks/grammar.py --set VOCABULARY.gguf ...

For each grammar: milliseconds to make it ready, then microseconds for the mask of each token of a document, the first
time (nothing remembered) and again. Peers that are not installed are left out. With `--set`: the same over all schemas
of benchmarks/schemas and their valid values, with how many each engine compiles, accepts all values of, and refuses all
invalid values of; the times of masks are of the values that all engines accept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from llamakit import _sampling
from llamakit.gguf import open_gguf
from llamakit.registry import Registry
from llamakit.tokenizer import load_tokenizer

LINE = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        "n": {"type": "integer", "minimum": 1, "maximum": 999},
        "note": {"type": "string", "maxLength": 80},
        "price": {"type": "number"},
    },
    "required": ["sku", "n"],
    "additionalProperties": False,
}
ORDER = {
    "$defs": {"line": LINE, "kind": {"enum": ["retail", "wholesale", "gift"]}},
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "kind": {"$ref": "#/$defs/kind"},
        "customer": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "mail": {"type": "string"}, "vip": {"type": "boolean"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "maxItems": 20},
    },
    "required": ["id", "day", "lines"],
    "additionalProperties": False,
}
SMALL = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
ORDER_TEXT = {
    "id": "order 17", "day": "2024-05-06", "kind": "gift",
    "customer": {"name": "Lily the younger of the house", "mail": "lily@example.org", "vip": True},
    "lines": [
        {"sku": f"ABC-{1000 + i}", "n": i + 1, "note": "Leave it with the neighbour, please", "price": 9.75}
        for i in range(5)
    ],
}  # fmt: skip
CASES = {  # JSON schema, document
    "any JSON": (
        {},
        {"name": "Lily", "tags": ["a", "bb", None, True], "x": {"y": [1, 2.5, {"z": "deep text, and more"}]}},
    ),
    "small schema": (
        SMALL,
        {"answer": "The quick brown fox jumps over the lazy dog, again and again, until it is tired."},
    ),
    "order schema": (ORDER, ORDER_TEXT),
}


class Ours:
    """This kit."""

    name = "llamakit"

    def __init__(self, tokenizer):
        self.parse = Registry.discover().sampler("grammar").parse
        ends = sorted(tokenizer.eog_ids)
        hidden = [i for i in range(tokenizer.n_vocab) if tokenizer.is_control(i)]
        self.trie = _sampling.TokenTrie([tokenizer.piece(i) for i in range(tokenizer.n_vocab)], hidden, ends)

    def compile(self, schema):
        from llamakit.plugins.samplers.grammar import WARM_MASKS  # this is the benchmark of that plugin
        from llamakit.plugins.samplers.grammar.compile import network

        program = _sampling.GrammarProgram(network(self.parse("json_schema", schema)), self.trie)
        program.warm(WARM_MASKS)  # as the sampler does, before the prompt is evaluated
        return program

    def run(self, program, tokens):
        matcher, times = _sampling.GrammarMatcher(program), []
        for token in tokens:
            began = time.perf_counter()
            matcher.compute()
            times.append(time.perf_counter() - began)
            assert matcher.accept(token), token
        return times


class LLGuidance:
    """guidance-ai/llguidance."""

    name = "llguidance"

    def __init__(self, tokenizer):
        import llguidance

        self.module = llguidance
        pieces = [tokenizer.piece(i) for i in range(tokenizer.n_vocab)]

        class Wrapped:
            eos_token_id, bos_token_id = min(tokenizer.eog_ids), tokenizer.bos_id
            tokens = [b"\xff<" + p + b">" if tokenizer.is_control(i) else p for i, p in enumerate(pieces)]
            special_token_ids = [i for i in range(tokenizer.n_vocab) if tokenizer.is_control(i)]

            def __call__(self, text):
                return tokenizer.encode(text)

        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Wrapped()))

    def compile(self, schema):
        grammar = self.module.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        matcher = self.module.LLMatcher(self.tokenizer, grammar)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def run(self, matcher, tokens):
        matcher.reset()
        times = []
        for token in tokens:
            began = time.perf_counter()
            matcher.compute_bitmask()
            times.append(time.perf_counter() - began)
            assert matcher.consume_token(token), token
        return times


class XGrammar:
    """mlc-ai/xgrammar."""

    name = "xgrammar"

    def __init__(self, tokenizer):
        import xgrammar

        self.module = xgrammar
        pieces = [b"" if tokenizer.is_control(i) else tokenizer.piece(i) for i in range(tokenizer.n_vocab)]
        info = xgrammar.TokenizerInfo(pieces, xgrammar.VocabType.RAW, stop_token_ids=sorted(tokenizer.eog_ids))
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.bitmask = xgrammar.allocate_token_bitmask(1, tokenizer.n_vocab)

    def compile(self, schema):
        if not schema:
            return self.compiler.compile_builtin_json_grammar()
        return self.compiler.compile_json_schema(json.dumps(schema), any_whitespace=True)

    def run(self, grammar, tokens):
        matcher, times = self.module.GrammarMatcher(grammar), []
        for token in tokens:
            began = time.perf_counter()
            matcher.fill_next_token_bitmask(self.bitmask)
            times.append(time.perf_counter() - began)
            assert matcher.accept_token(token), token
        return times


def engines(tokenizer):
    for cls in (Ours, LLGuidance, XGrammar):
        try:
            yield cls(tokenizer)
        except ImportError:
            print(f"{cls.name} is not installed", file=sys.stderr)


def tokens_of(tokenizer, value):
    ids = tokenizer.encode(json.dumps(value, ensure_ascii=False))
    if tokenizer.piece(ids[0]).startswith(b" "):
        first = tokenizer.piece(ids[0])[1:]
        whole = tokenizer.id_of(first.decode())
        bytewise = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in first]
        ids = ([whole] if whole is not None and first else bytewise) + ids[1:]
    return ids


def micro(times):
    ordered = sorted(t * 1e6 for t in times)
    return f"{statistics.mean(ordered):9.1f} {ordered[len(ordered) // 2]:9.1f} {ordered[int(len(ordered) * 0.99)]:9.1f}"


def entries():
    """The schemas of benchmarks/schemas, as {"name", "schema", "valid", "invalid"}."""
    for path in sorted((Path(__file__).parent / "schemas").glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def accepts(engine, program, tokens, tokenizer):
    """Whether an engine lets a value through to its end, and the times of its masks."""
    try:
        return True, engine.run(program, [*tokens, min(tokenizer.eog_ids)])
    except AssertionError:
        return False, []


def measure(engine, entry, tokenizer):
    """One schema on one engine: seconds to compile, what it makes of the values, and times by value."""
    began = time.perf_counter()
    try:
        program = engine.compile(entry["schema"])
    except Exception:  # each engine has errors of its own
        return None
    ready = time.perf_counter() - began
    passes = [[accepts(engine, program, tokens_of(tokenizer, v), tokenizer) for v in entry["valid"]] for _ in range(3)]
    refused = [not accepts(engine, program, tokens_of(tokenizer, v), tokenizer)[0] for v in entry["invalid"]]
    first = {i: times for i, (held, times) in enumerate(passes[0]) if held}
    again = {i: passes[1][i][1] + passes[2][i][1] for i in first}
    return {"ready": ready, "first": first, "again": again, "valid": len(first), "refused": all(refused)}


def whole_set(made, tokenizer) -> None:
    """All schemas on all engines, one schema after the other."""
    found = []
    for engine in made:
        engine.compile(SMALL)
    for entry in entries():
        found.append((entry, [measure(engine, entry, tokenizer) for engine in made]))
    for i, engine in enumerate(made):
        compiled = [(entry, each[i]) for entry, each in found if each[i] is not None]
        accepted = sum(result["valid"] == len(entry["valid"]) for entry, result in compiled)
        refused = sum(result["refused"] for _, result in compiled)
        ready = sorted(result["ready"] * 1e3 for _, result in compiled)
        times = {"first": [], "again": []}
        for _, each in found:
            if any(result is None for result in each):
                continue
            for value in set.intersection(*(set(result["first"]) for result in each)):
                for key, seconds in times.items():
                    seconds.extend(each[i][key][value])
        print(
            f"{engine.name:12} {len(compiled):4} of {len(found)} compile, {accepted} accept, {refused} refuse;"
            f" compile ms mean {statistics.mean(ready):.2f}, p99 {ready[int(len(ready) * 0.99)]:.2f};"
            f" first {micro(times['first'])}, again {micro(times['again'])} us ({len(times['first'])} masks)"
        )
        if engine.name == Ours.name:
            worst = sorted(
                ((max(max(t) for t in result["first"].values()) * 1e6, entry["name"]) for entry, result in compiled
                 if result["first"]), reverse=True)[:5]  # fmt: skip
            print("  slowest masks:", ", ".join(f"{name} {us:.0f} us" for us, name in worst))
            slow = sorted(((result["ready"] * 1e3, entry["name"]) for entry, result in compiled), reverse=True)[:5]
            print("  slowest to compile:", ", ".join(f"{name} {ms:.1f} ms" for ms, name in slow))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", nargs="+", type=Path)
    parser.add_argument("--set", action="store_true", help="all schemas of benchmarks/schemas")
    arguments = parser.parse_args()
    for path in arguments.vocabulary:
        tokenizer = load_tokenizer(open_gguf(path).metadata)
        print(f"\n{path.name}: {tokenizer.n_vocab:,} tokens")
        if arguments.set:
            whole_set(list(engines(tokenizer)), tokenizer)
            continue
        print(f"{'':28} compile ms   first: mean, median, p99 us      again: mean, median, p99 us")
        made = list(engines(tokenizer))
        for name, (schema, value) in CASES.items():
            tokens = tokens_of(tokenizer, value)
            for engine in made:
                engine.compile(SMALL)  # imports and tables
                began = time.perf_counter()
                try:
                    program = engine.compile(schema)
                    ready = (time.perf_counter() - began) * 1e3
                    first = engine.run(program, tokens)
                    again = [t for _ in range(3) for t in engine.run(program, tokens)]
                except AssertionError as error:
                    print(f"{name:14} {engine.name:12} refuses the document: {error}")
                    continue
                print(
                    f"{name:14} {engine.name:12} {ready:10.2f} {micro(first)}  {micro(again)}   ({len(tokens)} tokens)"
                )


if __name__ == "__main__":
    main()
