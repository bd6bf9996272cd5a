"""All the analyses of a prompt together, and as the data of a page."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny_models import TOKENIZER, random_arrays, tiny_config

from gptwo.errors import ContextLengthError, InvalidRequestError
from gptwo.inspection import Inspector, logit_attribution
from gptwo.inspection import explanation as module
from gptwo.inspection.attribution import logit_attributions
from gptwo.inspection.explanation import Explanation, explain, most_tokens, names_of, packed_attention
from gptwo.model import GPT2
from gptwo.sampling.processors import largest

TEXT = "Before we proceed"


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    config = tiny_config()
    return Inspector(GPT2.from_arrays(config, random_arrays(config)), TOKENIZER, name="tiny")


@pytest.fixture(scope="module")
def explained(inspector: Inspector) -> Explanation:
    return explain(inspector, TEXT)


def unpacked(array: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["data"]), array["type"]).reshape(array["shape"])


def test_the_attribution_of_every_position_is_that_of_each_alone(inspector: Inspector) -> None:
    for position, found in enumerate(logit_attributions(inspector, TEXT)):
        alone = logit_attribution(inspector, TEXT, position=position)
        assert (found.position, found.target_id) == (position, alone.target_id)
        assert_allclose(found.heads, alone.heads, rtol=1e-6, atol=1e-9)
        assert_allclose(found.mlps, alone.mlps, rtol=1e-6, atol=1e-9)
        assert found.total == pytest.approx(found.difference, abs=1e-3)


def test_the_data_of_a_page_hold_the_arrays_of_the_analyses(explained: Explanation) -> None:
    data = json.loads(json.dumps(explained.as_dict(), allow_nan=False))
    size = len(explained.token_ids)
    assert data["token_ids"] == list(explained.token_ids)
    assert_array_equal(unpacked(data["lens"]["ids"]), explained.lens.top_ids)
    assert_array_equal(unpacked(data["lens"]["following"]), explained.lens.target_probabilities[:, :-1])
    assert_allclose(data["losses"], explained.losses.losses[1:], atol=1e-4)  # type: ignore[union-attr]
    weights = np.zeros_like(explained.attention.patterns)
    rows, columns = np.tril_indices(size)
    weights[..., rows, columns] = (unpacked(data["attention"]) / 255.0) ** 2
    assert_allclose(weights, explained.attention.patterns, atol=0.0041)
    heads = unpacked(data["attribution"]["heads"])
    assert_allclose(heads[3], explained.attributions[3].heads, rtol=1e-6)
    assert_array_equal(unpacked(data["next_logits"]), explained.next_logits)
    spoken = {*explained.token_ids, *explained.lens.top_ids.flat, *largest(explained.next_logits, 40)}
    assert {str(one) for one in spoken} <= set(data["names"])
    assert data["induction"]["first_loss"] == pytest.approx(explained.induction.first_loss, abs=1e-4)


def test_small_weights_of_attention_stay_apart() -> None:
    weights = np.array([[[[1.0, 0.0], [0.9985, 0.0015]]]], np.float32)
    assert_allclose((unpacked(packed_attention(weights))[0, 0] / 255.0) ** 2, [1, 0.9985, 0.0015], atol=2e-3)
    assert unpacked(packed_attention(weights))[0, 0, 2] > 0


def test_a_prompt_without_tokens_is_the_end_of_a_text(inspector: Inspector) -> None:
    found = explain(inspector, "")
    assert found.token_ids == (TOKENIZER.end_of_text_id,)
    assert found.losses is None
    assert found.as_dict()["losses"] == []
    assert found.prompt == ""


def test_token_ids_are_a_prompt_too(inspector: Inspector, explained: Explanation) -> None:
    found = explain(inspector, explained.token_ids, induction=explained.induction)
    assert found.prompt == TEXT
    assert found.as_dict() == explained.as_dict()


def test_token_ids_may_be_an_array(inspector: Inspector) -> None:
    assert explain(inspector, np.array([5, 6, 7])).token_ids == (5, 6, 7)  # type: ignore[arg-type]


def test_more_than_a_page_can_show_is_refused_with_both_numbers(
    inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WEIGHTS", 4 * 6)
    assert most_tokens(4) == 3
    with pytest.raises(ContextLengthError, match="shows up to 3"):
        explain(inspector, TEXT)
    with pytest.raises(ContextLengthError):
        explain(inspector, "All: " * 100)


def test_a_prompt_that_is_none_is_refused(inspector: Inspector) -> None:
    for prompt in ([], [10**9], 5, None):
        with pytest.raises(InvalidRequestError):
            explain(inspector, prompt)  # type: ignore[arg-type]


def test_tokens_are_called_by_their_text_their_bytes_or_their_id() -> None:
    (byte,) = (i for i in range(TOKENIZER.vocab_size) if TOKENIZER.token_bytes(i) == b"\xf0")
    assert names_of(TOKENIZER, [byte, 10**6]) == {byte: "\\xf0", 10**6: "#1000000"}
    assert names_of(None, [3]) == {3: "#3"}
