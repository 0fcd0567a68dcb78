"""LlamaKit as a library: no server.   python examples/python_session.py model.gguf "Once upon a time" """

from __future__ import annotations

import sys

from llamakit import Session


def main() -> None:
    """Stream a text, show how sure the model was, and compare two texts by their vectors."""
    model, prompt = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"
    with Session(model) as session:
        print(prompt, end="")
        for piece in session.stream(prompt, max_tokens=32, temperature=0.8, top_k=40, seed=1):
            print(piece.text, end="", flush=True)
        print()

        result = session.generate(prompt, max_tokens=16, temperature=0)
        timings = result.timings
        print(f"greedy: {result.text!r} ({result.reason}, {timings.n_generated} tokens)")

        a, b = (session.embed(text) for text in ("A cat sat on a mat.", "A dog lay on a rug."))
        print(f"similarity: {float(a @ b):.3f}")


if __name__ == "__main__":
    main()
