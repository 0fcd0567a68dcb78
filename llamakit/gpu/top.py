"""The likeliest tokens of rows of logits, found where they lie: copies of the rows, edited, then cut down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import Top
from llamakit.errors import BackendError
from llamakit.gpu.driver import At
from llamakit.gpu.source import TOP_WIDTH

if TYPE_CHECKING:
    from llamakit.backend import LogitEdits
    from llamakit.gpu.source import Kernels


def top(kernels: Kernels, place: At, n_vocab: int, rows: list[int], k: int, edits: list[LogitEdits | None]) -> Top:
    """The `k` likeliest of `rows` of the logits at `place`, after each row's edits, and the log-sum-exp of all."""
    if not rows or k < 1:
        raise BackendError(f"the {k} likeliest of {len(rows)} rows: one at least of one row is possible")
    driver, n, k = kernels.driver, len(rows), min(k, n_vocab)
    width = 2 * TOP_WIDTH + 2
    space = kernels.scratch("top", 4 * n * (n_vocab + 2 * k + width))
    ids, values, sums = (space.plus(4 * n * size) for size in (n_vocab, n_vocab + k, n_vocab + 2 * k))
    for i, row in enumerate(rows):
        driver.copy(place.plus(4 * row * n_vocab), space.plus(4 * i * n_vocab), 4 * n_vocab)
    if any(edit is not None and _changes(edit) for edit in edits):
        _edit(kernels, space, n_vocab, edits)
    kernels.groups(_kernel(kernels, "top_rows"), n, TOP_WIDTH, space, ids, values, sums, n_vocab, k)
    found = np.empty(n * (2 * k + width), np.int32)
    driver.read(ids, found)
    return _sorted(
        found[: n * k].reshape(n, k), found[n * k : 2 * n * k].view(np.float32).reshape(n, k),
        found[2 * n * k :].view(np.float32).reshape(n, width),
    )  # fmt: skip


def _kernel(kernels: Kernels, name: str) -> Any:
    return kernels.get(name, "top", None, {"WIDTH": TOP_WIDTH})


def _edit(kernels: Kernels, space: At, n_vocab: int, edits: list[LogitEdits | None]) -> None:
    """Change the copies of rows."""
    n, driver = len(edits), kernels.driver
    lengths = [0 if edit is None else len(edit.ids) for edit in edits]
    none = np.zeros(0, np.int32)
    masks = [none if e is None or e.mask is None else e.mask.view(np.int32) for e in edits]
    ends = np.cumsum([len(mask) for mask in masks])
    words = [
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        np.concatenate([none, *(edit.ids for edit in edits if edit is not None)]).astype(np.int32),
        *(_floats([getattr(edit, name) for edit in edits if edit is not None]) for name in ("repeats", "values")),
        _floats([[1.0 if edit is None else edit.scale for edit in edits]]),
        np.array([end - len(m) if len(m) else -1 for end, m in zip(ends, masks, strict=True)], np.int32),
        np.concatenate([none, *masks]),
    ]
    packed = np.concatenate(words)
    block = kernels.scratch("edits", packed.nbytes)
    driver.write(block, packed)
    offsets = np.cumsum([0, *(4 * len(part) for part in words)]).tolist()
    starts, ids, repeats, values, scales, first, mask = (block.plus(offset) for offset in offsets[:-1])
    kernels.items(_kernel(kernels, "edit_rows"), n, space, starts, ids, repeats, values, n, n_vocab)
    kernels.items(_kernel(kernels, "mask_rows"), n * n_vocab, space, scales, first, mask, n, n_vocab)


def _changes(edit: LogitEdits) -> bool:
    """Whether it changes anything."""
    return len(edit.ids) > 0 or edit.scale != 1.0 or edit.mask is not None


def _floats(parts: list[Any]) -> Any:
    """Float32 as the words that they are."""
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32).view(np.int32)


def _sorted(ids: Any, values: Any, sums: Any) -> Top:
    """Falling values, of equal ones the lower id first; the log-sum-exp of the parts' sums."""
    order = np.lexsort((ids, -values), axis=-1)
    parts = sums[:, :-2].astype(np.float64).sum(axis=1)
    most, bad = sums[:, -2].astype(np.float64), sums[:, -1]
    with np.errstate(all="ignore"):
        log_sums = np.where((bad == 0) & np.isfinite(most), most + np.log(parts), np.nan)
    return Top(np.take_along_axis(ids, order, -1), np.take_along_axis(values, order, -1), log_sums)
