"""Sources of tensors, and how they come onto a device."""

from __future__ import annotations

import numpy as np

from llamakit.gguf import open_gguf
from llamakit.models import load_model
from llamakit.registry import Registry
from llamakit.weights import load_weights, tensor_sources


def test_every_tensor_is_loaded_once_for_all_its_uses(small_model):
    device = Registry.discover().backend("reference")().open()
    with open_gguf(small_model) as file:
        model = load_model(file)
        uses, told = model.uses(), []
        weights = load_weights(device, tensor_sources(uses, file), uses, lambda *at: told.append(at))
        assert set(weights) == set(uses)
        assert ("embedding", "token_embd") in uses["token_embd.weight"]
        assert np.array_equal(weights["blk.0.attn_q.weight"].data, file.tensor("blk.0.attn_q.weight"))
    total = told[-1][1]
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
