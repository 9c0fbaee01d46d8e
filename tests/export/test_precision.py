"""Graphs rewritten for a precision are the same graph: what a token may look at included."""

from __future__ import annotations

import pytest
import torch

from export.tracing import in_precision
from tests.export.exports import texts
from tests.official import tiny_model


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05), ("fp16", 0.01)])
def test_causal_attention_stays_causal(precision: str, tolerance: float) -> None:
    model = tiny_model("llip", text_num_hidden_layers=2)
    [graph] = [each for each in model.graphs() if each.name == "text"]
    rewritten = in_precision(graph, precision).module
    ids = texts(model, 4, 8)
    other = ids.clone()
    end = (ids == model.config.end_token_id).int().argmax(dim=1)
    behind = torch.arange(8) > end[:, None]
    other[behind] = (other[behind] + 1) % model.config.vocab_size
    assert not torch.equal(other, ids)
    with torch.no_grad():
        for got, again, wanted in zip(rewritten(ids), rewritten(other), graph.module(ids), strict=True):
            assert torch.equal(got, again)  # what follows the end is not seen
            torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)
