"""The file that training from scratch begins with: a vocabulary from the data or of another model, a shape, weights.

make_model("init.gguf", data=["tales.txt"], params="5M")
with Session("init.gguf") as session:
    session.trainer(data=["tales.txt"], out="run", **PRETRAINING).run()
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from llamakit.chat.own import CONTROL, MARKERS, own_template
from llamakit.errors import DataError, ModelFileError
from llamakit.gguf import StringArray, open_gguf
from llamakit.gguf.quantize import copy_key
from llamakit.options import build_options
from llamakit.train.data.files import find_files
from llamakit.train.data.records import read_records
from llamakit.train.scratch import Shape, ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary, train_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llamakit.gguf import GGUFFile
    from llamakit.gguf.writer import GGUFWriter

USUAL_SIZE, USUAL_CTX = 4096, 512
MOST_READ = 1 << 26  # bytes of the data that a vocabulary is made from: of more, every second line, or third, ...
SPECIAL = re.compile("|".join(map(re.escape, (*CONTROL, *MARKERS, "<s>", "</s>"))))
PRETRAINING: dict[str, Any] = {  # options of training that differ from those of finetuning
    "full": True, "train_on": "all", "lr": 1e-3, "optimizer_options": {"beta2": 0.95, "weight_decay": 0.1},
}  # fmt: skip


class NewModelOptions(ShapeOptions, frozen=True):
    """Shape and vocabulary of a new model."""

    vocab: Annotated[str, Meta(description="GGUF file whose vocabulary and chat template the model gets.")] = ""
    vocab_size: Annotated[
        int, Meta(ge=0, le=1 << 20, description="Tokens of a vocabulary made from the data; 0 = 4096, or fewer if the "
                  "data has no more.")
    ] = 0  # fmt: skip
    name: Annotated[str, Meta(max_length=256, description="Name of the model, in its metadata.")] = "llamakit"


def make_model(
    path: str | Path, *, data: Iterable[str], kind: str = "auto", n_ctx: int = USUAL_CTX, seed: int = 42,
    options: NewModelOptions | None = None, **values: Any,
) -> Shape:  # fmt: skip
    """Write a new model in F32. `options`, or its fields as `values`; the vocabulary is made from `data` unless
    `vocab` names a file that has one.

    Raises DataError for data without text, UsageError for a shape that does not fit together.
    """
    o: NewModelOptions = options or build_options(NewModelOptions, values)
    if o.vocab:
        with open_gguf(o.vocab) as file:
            return _write(Path(path), o, vocabulary_size(file), n_ctx, seed, partial(copy_vocabulary, file))
    vocabulary = train_vocabulary(
        lines(list(data), kind),
        o.vocab_size or USUAL_SIZE,
        control=CONTROL,
        user_defined=MARKERS,
        exact=o.vocab_size > 0,
    )
    add = partial(add_vocabulary, vocabulary=vocabulary, chat_template=own_template())
    return _write(Path(path), o, len(vocabulary.pieces), n_ctx, seed, add)


def _write(
    path: Path, o: NewModelOptions, n_vocab: int, n_ctx: int, seed: int, add: Callable[[GGUFWriter], None]
) -> Shape:
    shape = choose_shape(o, n_vocab, n_ctx)
    write_new_model(path, shape, add, seed, o.name)
    return shape


def vocabulary_size(file: GGUFFile) -> int:
    """Tokens of a file's vocabulary. ModelFileError if it has none."""
    tokens: Any = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        raise ModelFileError(f"{file.path} has no vocabulary")
    return len(tokens)


def copy_vocabulary(file: GGUFFile, writer: GGUFWriter) -> None:
    """All that a file says of its tokenizer, the chat template too."""
    for key in file.metadata:
        if key.startswith("tokenizer."):
            copy_key(file, writer, key)


def lines(data: list[str], kind: str) -> Iterator[str]:
    """Lines of the texts in the data, of prompts and answers alike, without what looks like a control token."""
    every = 1 + sum(path.stat().st_size for path in find_files(data)) // MOST_READ
    number = 0
    for record in read_records(data, kind):
        texts = [record.text] if record.kind == "text" else [_content(message) for message in record.conversation]
        for line in "\n".join(SPECIAL.sub("\n", text) for text in texts).split("\n"):
            if line and number % every == 0:
                yield line
            number += bool(line)
    if not number:
        raise DataError("there is no text to make a vocabulary from", found=", ".join(data), param="data")


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def is_text(data: Iterable[str], kind: str = "auto") -> bool:
    """Whether the first record of every file is a plain text."""
    return all(record.kind == "text" for path in find_files(data) for record in _first(str(path), kind))


def _first(path: str, kind: str) -> Iterator[Any]:
    yield from (record for record, _ in zip(read_records([path], kind), range(1), strict=False))
