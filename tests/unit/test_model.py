"""The PyTorch model by itself: its weights, its cache, its masks, its dropout."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tiny_models import random_arrays, tiny_config

from gptwo.checkpoint.canonical import expected_shapes
from gptwo.config import ACTIVATIONS, GPTConfig
from gptwo.model import ACTIVATIONS as ACTIVATION_FUNCTIONS
from gptwo.model import GPT2, document_mask, document_positions
from gptwo.tokenizer import pad

CONFIG = tiny_config(n_positions=24)


def model_of(config: GPTConfig = CONFIG, deviation: float = 0.2) -> GPT2:
    return GPT2.from_arrays(config, random_arrays(config, deviation=deviation))


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(300, shape, generator=torch.Generator().manual_seed(seed))


# ---- weights


def test_a_new_models_weights_are_drawn_as_gpt2s_were() -> None:
    config = GPTConfig(vocab_size=500, n_positions=100, n_embd=96, n_layer=3, n_head=4, tie_word_embeddings=False)
    model = GPT2(config).initialize(torch.Generator().manual_seed(0))
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, weight in found.items():
        if name.endswith(".bias"):
            assert_array_equal(weight, torch.zeros_like(weight))
        elif "ln_" in name:
            assert_array_equal(weight, torch.ones_like(weight))
        else:
            # Two projections of each of the 3 layers add to the residual stream.
            deviation = 0.02 / math.sqrt(2 * 3) if name.endswith("c_proj.weight") else 0.02
            # Four standard errors of a deviation, and of a mean.
            assert weight.std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * weight.numel()))
            assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())
    assert sum(name.endswith("c_proj.weight") for name in found) == 6


def test_the_initializer_range_is_that_of_the_configuration_and_a_seed_gives_the_same_weights() -> None:
    config = CONFIG.replace(initializer_range=0.5)
    one, other, third = (GPT2(config).initialize(torch.Generator().manual_seed(seed)).to_arrays() for seed in (1, 1, 2))
    assert one["wte.weight"].std() == pytest.approx(0.5, rel=0.05)
    for name in one:
        assert_array_equal(one[name], other[name])
    assert not (one["wte.weight"] == third["wte.weight"]).any()


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_the_tensors_of_a_checkpoint_and_gives_them_back(tied: bool) -> None:
    config = CONFIG.replace(tie_word_embeddings=tied)
    arrays = random_arrays(config)
    model = GPT2.from_arrays(config, arrays)
    assert not model.training
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == dict(expected_shapes(config))
    assert sum(p.numel() for p in model.parameters()) == config.parameter_count
    for name, array in model.to_arrays().items():
        assert_array_equal(array, arrays[name])
    arrays["wte.weight"][:] = 0  # they were copied
    assert model.wte.weight.abs().sum() > 0


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not() -> None:
    tied, untied = (model_of(CONFIG.replace(tie_word_embeddings=tied)) for tied in (True, False))
    for model, same in ((tied, True), (untied, False)):
        before = model(tokens(1, 4)).logits.detach()
        with torch.no_grad():
            model.wte.weight[299] += 1.0  # a token that the text does not hold
        assert (tokens(1, 4) != 299).all()
        after = model(tokens(1, 4)).logits
        assert torch.equal(before[..., :299], after[..., :299])
        assert torch.equal(before[..., 299], after[..., 299]) != same


def test_every_activation_of_the_configuration_is_there() -> None:
    assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS)


def test_making_a_model_imports_nothing_heavy() -> None:
    # PyTorch would import sympy and 800 modules more if it had to draw weights that are not there yet.
    code = (
        "import sys, torch; from gptwo.config import GPTConfig; from gptwo.model import GPT2\n"
        "with torch.device('meta'): GPT2(GPTConfig(n_layer=1, tie_word_embeddings=False))\n"
        "print('sympy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


# ---- the cache, rows, hidden states


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.integers(1, 3), st.booleans())
def test_a_text_in_parts_gives_what_it_gives_in_one_pass(parts: list[int], batch: int, upcast: bool) -> None:
    model = model_of(CONFIG.replace(reorder_and_upcast_attn=upcast, n_positions=32))
    ids = tokens(batch, sum(parts))
    with torch.inference_mode():
        whole = model(ids, return_past=True, return_hidden_states=True)
        past, logits = None, []
        for part in ids.split(parts, dim=1):
            output = model(part, past=past, return_past=True)
            past = output.past
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits, atol=1e-5, rtol=0)
    assert past is not None
    assert whole.past is not None
    for one, other in zip(past, whole.past, strict=True):
        assert one.keys.shape == (batch, CONFIG.n_head, sum(parts), CONFIG.head_size)
        torch.testing.assert_close(one.keys, other.keys, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=0)
    cut = whole.past[0].truncate(1)
    assert torch.equal(cut.keys, whole.past[0].keys[:, :, :1])
    assert torch.equal(cut.values, whole.past[0].values[:, :, :1])


def test_only_what_is_asked_for_comes_back() -> None:
    model = model_of()
    output = model(tokens(2, 5))
    assert output.past is None
    assert output.hidden_states is None
    assert output.logits.shape == (2, 5, 300)
    rows = model(tokens(2, 5), rows=torch.tensor([1, 4])).logits
    torch.testing.assert_close(rows, output.logits[:, [1, 4]], atol=1e-6, rtol=0)
    hidden = model(tokens(2, 5), return_hidden_states=True).hidden_states
    assert hidden is not None
    assert [state.shape for state in hidden] == [(2, 5, 16)] * 3
    torch.testing.assert_close(hidden[-1] @ model.head_weight.T, output.logits, atol=1e-5, rtol=0)


def test_a_token_changes_nothing_before_it() -> None:
    model, ids = model_of(), tokens(1, 12)
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 300
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=0)
    assert ((before[:, 7:] - after[:, 7:]).abs().amax(dim=-1) > 1e-3).all()


# ---- padding


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("upcast", [True, False])
def test_a_padded_row_says_what_it_says_alone(side: str, upcast: bool) -> None:
    model = model_of(CONFIG.replace(reorder_and_upcast_attn=upcast))
    texts = [tokens(length, seed=length).tolist() for length in (1, 5, 2, 24, 9)]
    ids, mask = pad(texts, side=side, pad_id=299)  # type: ignore[arg-type]
    with torch.inference_mode():
        together = model(torch.from_numpy(ids), mask=torch.from_numpy(mask).bool()).logits
        for row, text in enumerate(texts):
            alone = model(torch.tensor([text])).logits[0]
            torch.testing.assert_close(together[row, torch.from_numpy(mask[row]).bool()], alone, atol=1e-5, rtol=0)
    assert torch.isfinite(together).all()


def test_a_left_padded_batch_goes_on_with_a_cache_as_each_row_alone() -> None:
    model = model_of()
    texts = [tokens(length, seed=length).tolist() for length in (3, 7, 12)]
    ids, mask = (torch.from_numpy(array) for array in pad([text[:-2] for text in texts], side="left", pad_id=0))
    with torch.inference_mode():
        past, seen = model(ids, mask=mask, return_past=True).past, mask
        for place in (-2, -1):
            seen = torch.cat((seen, torch.ones(3, 1, dtype=seen.dtype)), dim=1)
            output = model(torch.tensor([[text[place]] for text in texts]), past=past, mask=seen, return_past=True)
            past = output.past
        for row, text in enumerate(texts):
            alone = model(torch.tensor([text])).logits[0, -1]
            torch.testing.assert_close(output.logits[row, 0], alone, atol=1e-5, rtol=0)


def test_what_stands_in_the_padding_makes_no_difference() -> None:
    model, mask = model_of(), torch.tensor([[0, 0, 1, 1, 1]])
    ids = tokens(1, 5)
    other = ids.clone()
    other[0, :2] = 17
    one, two = (model(x, mask=mask).logits[:, 2:] for x in (ids, other))
    assert torch.equal(one, two)


def test_positions_count_the_true_tokens_only() -> None:
    model, mask = model_of(), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert model.positions(5, 0, mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 1, 1, 1]]
    assert model.positions(2, 3, mask).tolist() == [[1, 2], [3, 4], [1, 1]]
    assert model.positions(2, 3, None).tolist() == [3, 4]


def test_every_position_sees_something_if_only_itself() -> None:
    # The softmax of a row that sees nothing is NaN, in the versions of PyTorch that do not special-case it.
    model, mask = model_of(), torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    for new, cached in ((4, 0), (2, 2), (1, 3)):
        seen = model.attention_mask(new, cached, mask)
        assert seen is not None
        assert seen.shape == (3, 1, new, 4)
        assert seen.any(dim=-1).all()
    assert model.attention_mask(4, 0, mask)[0, 0].tolist() == [  # type: ignore[index]
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]


# ---- documents


DOCUMENTS = [[0] * 5 + [1] * 1 + [2] * 12, [3] * 18]


@pytest.mark.parametrize("upcast", [True, False])
def test_a_document_among_others_reads_as_if_it_stood_alone(upcast: bool) -> None:
    model, ids, documents = (
        model_of(CONFIG.replace(reorder_and_upcast_attn=upcast)),
        tokens(2, 18),
        torch.tensor(DOCUMENTS),
    )
    together, _, _ = model.body(ids, documents=documents)
    for row, first, after in ((0, 0, 5), (0, 5, 6), (0, 6, 18), (1, 0, 18)):
        alone, _, _ = model.body(ids[row : row + 1, first:after])
        torch.testing.assert_close(together[row : row + 1, first:after], alone, atol=1e-5, rtol=0)


def test_positions_restart_with_each_document_even_if_its_number_comes_again() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1], [4, 2, 2, 0, 4], [1, 1, 1, 1, 1]])
    assert document_positions(documents).tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 0, 0], [0, 1, 2, 3, 4]]
    assert document_positions(documents.int()).dtype == torch.int64


def test_a_position_sees_its_own_document_up_to_itself() -> None:
    assert document_mask(torch.tensor([[0, 0, 1]])).tolist() == [
        [[[True, False, False], [True, True, False], [False, False, True]]]
    ]


def test_documents_go_with_neither_a_cache_nor_padding() -> None:
    model, ids, documents = model_of(), tokens(1, 3), torch.tensor([[0, 0, 1]])
    past = model(ids, return_past=True).past
    for other in ({"past": past}, {"mask": torch.ones(1, 3)}):
        with pytest.raises(ValueError, match="documents"):
            model.body(ids, documents=documents, **other)


# ---- training


@pytest.mark.parametrize("documents", [None, torch.tensor(DOCUMENTS)], ids=["plain", "documents"])
def test_activation_checkpointing_changes_no_bit(documents: torch.Tensor | None) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = model_of(CONFIG.replace(embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1)).train()
        model.activation_checkpointing = checkpointing
        torch.manual_seed(0)
        model.body(tokens(2, 18), documents=documents)[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_activation_checkpointing_keeps_one_tensor_for_each_block() -> None:
    kept = []
    for checkpointing in (False, True):
        model = model_of(CONFIG.replace(embd_pdrop=0.0)).train()
        model.activation_checkpointing = checkpointing
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t), lambda t: t):  # type: ignore[misc]
            model.body(tokens(2, 18))
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        kept.append(sum(t.numel() for t in saved if t.data_ptr() not in weights and t.is_floating_point()))
    # C numbers a position for each of two blocks and for the final layer norm, and what that norm found.
    assert kept[1] <= 2 * 18 * (3 * 16 + 2)
    assert kept[0] > 5 * kept[1]


def test_dropout_is_on_in_training_only() -> None:
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        off = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
        model = model_of(CONFIG.replace(**{**off, name: 0.5}))
        plain = model_of(CONFIG.replace(**off)).train()
        ids = tokens(1, 8)
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        torch.manual_seed(0)
        drawn = model(ids).logits
        assert not torch.allclose(drawn, plain(ids).logits, atol=1e-3), name
        torch.manual_seed(0)
        assert torch.equal(model(ids).logits, drawn)


def test_a_loss_reaches_every_parameter() -> None:
    model = model_of(CONFIG.replace(tie_word_embeddings=False)).train()
    model(tokens(2, 24)).logits.logsumexp(dim=-1).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_upcast_attention_is_float32_under_autocast_and_with_bf16_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(q: torch.Tensor, *others: torch.Tensor, **options: object) -> torch.Tensor:
        y = attention(q, *others, **options)  # type: ignore[arg-type]
        seen.extend({q.dtype, *(t.dtype for t in others), y.dtype})
        return y

    monkeypatch.setattr("gptwo.model.F.scaled_dot_product_attention", watched)
    model = model_of(CONFIG.replace(reorder_and_upcast_attn=True))
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens(1, 4))
    model.to(torch.bfloat16)
    assert model(tokens(1, 4)).logits.dtype == torch.bfloat16
    assert set(seen) == {torch.float32}
