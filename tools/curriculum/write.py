"""The files of a training run, from a seed: python -m curriculum.write OUT

OUT/STAGE.jsonl are read in the order of the stages; OUT/validation.jsonl and OUT/tests.jsonl are of other seeds and
other combinations of words; OUT/vocabulary.gguf has the vocabulary and the chat template.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from curriculum.brief import BRIEF
from curriculum.mix import STAGES, examples, held_out
from curriculum.wide import WIDE
from curriculum.words import BY_KIND, MORE
from curriculum.world import HARD
from llamakit.chat.own import CONTROL, MARKERS, own_template
from llamakit.chat.template import ChatTemplate
from llamakit.gguf.writer import GGUFWriter
from llamakit.train.vocabulary import Vocabulary, add_vocabulary, train_vocabulary

SPECIAL = re.compile(r"</?s>|<\|\w+\|>|</?tool_call>")
SHOWN = 4000  # examples of each stage that the vocabulary is made from
WORDS_OFTEN = 120  # how often each word of the world is shown to the vocabulary, with and without a space before it
TALE = 1200  # characters of a piece of a tale


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """One record a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def tales(path: Path) -> list[str]:
    """A file of tales, separated by two blank lines, in pieces of whole paragraphs that fit a context."""
    pieces: list[str] = []
    for tale in re.split(r"\n{3,}", path.read_text(encoding="utf-8")):
        piece = ""
        for paragraph in tale.split("\n"):
            if piece and len(piece) + len(paragraph) > TALE:
                pieces.append(piece.strip())
                piece = ""
            piece += paragraph + "\n"
        pieces.append(piece.strip())
    return [piece for piece in pieces if piece]


def mixed(records: Iterable[dict[str, Any]], texts: list[str], every: int) -> Iterator[dict[str, Any]]:
    """The records, with one of the texts after each `every` of them."""
    rest = iter(texts)
    for number, record in enumerate(records, 1):
        yield record
        text = next(rest, None) if number % every == 0 else None
        if text is not None:
            yield {"text": text}


def make_vocabulary(size: int, seed: int, texts: Iterable[str] = (), shown: int = SHOWN) -> Vocabulary:
    """Of examples of all stages, and so that each word of the world is one piece, with a space before it or without."""
    template = ChatTemplate(own_template(), bos="<s>", eos="</s>")
    made = (
        example.text or template.render(example.messages, tools=example.tools, add_generation_prompt=False)
        for stage in STAGES if not stage.conversations for example in examples(stage, seed, shown)
    )  # fmt: skip
    words = [word for words in (*BY_KIND.values(), MORE) for word in words]
    often = ["\n".join(words) + "\n " + " ".join(words)] * WORDS_OFTEN
    ascii_ = "\n".join(map(chr, range(33, 127)))
    plain = (SPECIAL.sub("\n", text) for text in chain(made, often, [ascii_], texts))
    return train_vocabulary(plain, size, control=CONTROL, user_defined=MARKERS)


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """A GGUF file without tensors."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        add_vocabulary(writer, vocabulary, own_template())


def write(
    out: Path, *, seed: int, counts: dict[str, int], each: int, size: int, tales_file: Path | None = None,
    shown: int = SHOWN,
) -> None:  # fmt: skip
    """All files. `counts`: examples of each stage; `each`: tests of each kind (a fifth as many are to validate on);
    `size`: of the vocabulary.
    """
    out.mkdir(parents=True, exist_ok=True)
    texts = tales(tales_file) if tales_file else []
    write_vocabulary(out / "vocabulary.gguf", make_vocabulary(size, seed, texts, shown))
    for stage in STAGES:
        made = (example.record() for example in examples(stage, seed, counts[stage.name]))
        write_jsonl(out / f"{stage.name}.jsonl", mixed(made, texts, stage.tales) if stage.tales else made)
    for name, level in (("", HARD), ("-wide", WIDE), ("-brief", BRIEF)):
        tests, validation = held_out(seed, each, level), held_out(seed + 1, -(-each // 5), level)
        write_jsonl(out / f"tests{name}.jsonl", (example.test_record() for example in tests))
        write_jsonl(out / f"validation{name}.jsonl", (example.record() for example in validation))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--examples", type=int, nargs=7, default=[6000, 10000, 60000, 10000, 24000, 32000, 30000],
        help="of each stage",
    )  # fmt: skip
    parser.add_argument("--each", type=int, default=100, help="tests of each kind")
    parser.add_argument("--vocabulary", type=int, default=4096, help="size")
    parser.add_argument("--tales", type=Path, help="a file of tales, two blank lines between them")
    options = parser.parse_args()
    counts = dict(zip((stage.name for stage in STAGES), options.examples, strict=True))
    write(
        options.out, seed=options.seed, counts=counts, each=options.each, size=options.vocabulary,
        tales_file=options.tales,
    )  # fmt: skip


if __name__ == "__main__":
    main()
