"""Questions about real tales: an adapter learns to answer them, on both backends."""

from __future__ import annotations

import pytest

from llamakit import Session


def first_lines(source, path, count: int):
    with source.open(encoding="utf-8") as file:
        path.write_text("".join(next(file) for _ in range(count)), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", pytest.param("reference", marks=pytest.mark.soak)])
def test_the_loss_of_answers_falls(test_data, stories260k, tmp_path, backend):
    """The base has read children's stories; `validation`: answers about tales that training does not see."""
    corpus = test_data / "corpus"
    data = first_lines(corpus / "fairytale-qa-train.jsonl", tmp_path / "train.jsonl", 30)
    validation = first_lines(corpus / "fairytale-qa-val.jsonl", tmp_path / "validation.jsonl", 6)
    options = {"ctx": 80, "truncate": "start", "batch": 3, "packing": "none", "rank": 8, "lr": 3e-3, "epochs": 1}
    with Session(stories260k, backend=backend, threads=1) as session:
        run = session.trainer(data=[str(data)], val_data=[str(validation)], out=str(tmp_path / "run"), **options)
        before = run.run_state.validate()
        result = run.run()
    assert result.best_loss is not None
    assert result.best_loss < 0.92 * before, (before, result)
