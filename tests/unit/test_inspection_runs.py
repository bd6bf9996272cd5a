"""Runs that keep, change and differentiate activations; what is left of them on the model."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_models import TOKENIZER, random_arrays, tiny_config

import gptwo.course
import gptwo.inspection
from gptwo.cli import main
from gptwo.errors import ContextLengthError, InvalidRequestError, NumericalError
from gptwo.inspection import (
    Inspector,
    ablate,
    activation_shape,
    explain,
    logit_attributions,
    logit_lens,
    loss_by_position,
    sampling_spread,
)
from gptwo.model import GPT2
from gptwo.training.fast_blocks import can_run
from gptwo.training.lora import add_lora, merge_lora

TEXT = "Before we proceed"


def inspector(**changes: object) -> Inspector:
    config = tiny_config(**changes)
    return Inspector(GPT2.from_arrays(config, random_arrays(config)), TOKENIZER)


def plain_logits(one: Inspector, ids: tuple[int, ...]) -> np.ndarray:
    with torch.no_grad():
        return one.model(torch.tensor([ids])).logits[0].numpy()


def hooks_on(model: GPT2) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# ---- keeping


@pytest.mark.parametrize("changes", [{}, {"n_inner": 5, "tie_word_embeddings": False, "n_layer": 1}, {"n_head": 16}])
def test_every_activation_has_the_shape_of_the_table(changes: dict[str, object]) -> None:
    one = inspector(**changes)
    run = one.run(TEXT, keep="*")
    assert list(run) == one.names
    for name in run:
        assert run[name].shape == activation_shape(name, one.config, len(run.token_ids)), name
        assert run[name].dtype == np.float32
    assert "".join(run.tokens) == TEXT
    for unknown in ("h.*.ln_1", "h.9.ln_1", "logit"):
        with pytest.raises(InvalidRequestError, match="no activation"):
            activation_shape(unknown, one.config, 3)


@pytest.mark.parametrize("ids", [[7], [1, 2, 3, 4, 5], list(range(64))])
@pytest.mark.parametrize("gradient_of", [None, "ones"])
def test_looking_changes_no_bit(ids: list[int], gradient_of: str | None) -> None:
    one = inspector()
    cotangent = None if gradient_of is None else np.ones((len(ids), one.config.vocab_size), np.float32)
    run = one.run(ids, keep="*", gradient_of=cotangent)
    assert_array_equal(run["logits"], plain_logits(one, run.token_ids))


def test_each_activation_alone_is_what_it_is_among_all() -> None:
    one = inspector()
    everything = one.run(TEXT, keep="*")
    for name in one.names:
        alone = one.run(TEXT, keep=name)
        assert list(alone) == [name]
        assert_array_equal(alone[name], everything[name])


def test_a_run_is_a_mapping_of_its_activations() -> None:
    run = inspector().run(TEXT, keep=["wte", "logits"])
    assert isinstance(run, Mapping)
    assert list(run.keys()) == ["wte", "logits"]
    assert [array.shape for array in run.values()] == [run["wte"].shape, run["logits"].shape]
    assert [name for name, _ in run.items()] == list(run)
    assert run.get("wpe") is None
    assert run == run
    assert run != inspector().run(TEXT, keep=["wte", "logits"])
    assert len({run, run}) == 1


def test_results_print_as_names_and_shapes() -> None:
    one = inspector()
    everything = repr(one.run([1, 2, 3], keep="*"))
    assert "  token_ids    (1, 2, 3)\n" in everything
    assert "  activations  wte (3, 16), wpe (3, 16), h.0.resid_pre (3, 16), " in everything
    assert everything.splitlines()[3].endswith(f"… {len(one.names)} in all")
    assert "top_ids               int64 (3, 3, 5)" in repr(logit_lens(one, [1, 2, 3]))
    explained = explain(one, [1, 2, 3])
    assert "attributions  3 of LogitAttribution" in repr(explained)
    for result in (explained, explained.losses, explained.induction, explained.spread, explained.attention):
        assert len(repr(result)) < 1000
    assert "settings       7 of SamplingParams" in repr(explained.spread)


def test_a_star_stands_for_anything() -> None:
    one = inspector()
    assert list(one.run(TEXT, keep=["logits", "h.*.attn.pattern"])) == [
        "h.0.attn.pattern",
        "h.1.attn.pattern",
        "logits",
    ]
    assert list(one.run(TEXT, keep=[])) == []


def test_what_was_not_kept_is_told_with_the_nearest_name() -> None:
    run = inspector().run(TEXT, keep="h.*.attn.q")
    assert "h.0.attn.q" in run
    assert "logits" not in run
    with pytest.raises(InvalidRequestError, match=r"the run kept no 'h.1.attn.k'; did you mean 'h.[01].attn.q'\?"):
        run["h.1.attn.k"]
    with pytest.raises(
        InvalidRequestError, match=r"no 'zzz'; it kept wte, wpe, h.0.resid_pre, h.0.ln_1, h.0.attn.q, …"
    ):
        inspector().run(TEXT, keep="*")["zzz"]
    with pytest.raises(InvalidRequestError, match="it kept nothing"):
        inspector().run(TEXT, keep=())["logits"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h.0.attn.patern", "did you mean 'h.0.attn.pattern'"),
        ("h.2.ln_1", "no activation of a model with 2 layers is called 'h.2.ln_1'"),
        ("logit", "did you mean 'logits'"),
        ("*.nothing", "known names: wte, wpe, h.N.resid_pre"),
        ("é" * 1000, "known names"),
        (3, "keep holds 3, expected names of activations"),
    ],
)
def test_an_unknown_name_is_told_with_those_there_are(name: object, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said.replace("*", r"\*")) as caught:
        inspector().run(TEXT, keep=[name])
    assert caught.value.param == "keep"
    assert len(str(caught.value)) < 500


def test_what_holds_no_names_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="keep is None, expected names of activations"):
        inspector().run(TEXT, keep=None)
    with pytest.raises(InvalidRequestError, match=r"change is \['wte'\], expected a mapping from names"):
        inspector().run(TEXT, change=["wte"])


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("", InvalidRequestError),
        ([], InvalidRequestError),
        ([300], InvalidRequestError),
        (None, InvalidRequestError),
        ([1] * 65, ContextLengthError),
        ("long " * 10_000, ContextLengthError),
    ],
)
def test_a_prompt_that_cannot_be_run_is_an_error(prompt: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        inspector().run(prompt)


def test_a_model_without_a_tokenizer_takes_token_ids_and_shows_them() -> None:
    one = Inspector(inspector().model)
    assert one.run([5, 6]).tokens == ("5", "6")
    with pytest.raises(InvalidRequestError, match="has no tokenizer"):
        one.run("text")


@pytest.mark.parametrize("analysis", [logit_lens, logit_attributions, loss_by_position, sampling_spread, explain])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_no_analysis_makes_anything_of_logits_that_are_not_finite(analysis: Any, bad: float) -> None:
    arrays = random_arrays(tiny_config())
    arrays["wte.weight"][7] = bad  # a token's row of the head too
    inspector = Inspector(GPT2.from_arrays(tiny_config(), arrays), TOKENIZER)
    with pytest.raises(NumericalError, match="the logits are not finite"):
        analysis(inspector, [1, 2, 3])


def test_logits_that_are_not_finite_are_an_error_unless_they_were_made_so() -> None:
    one = inspector()
    with torch.no_grad():
        one.model.ln_f.weight[0] = torch.nan
    with pytest.raises(NumericalError, match="not finite"):
        one.run(TEXT)
    assert np.isnan(one.run(TEXT, change={"wte": 0.0})["logits"]).all()


# ---- changing


@pytest.mark.parametrize("ids", [[7], [1, 2, 3, 4, 5]])
def test_changing_each_activation_to_what_it_is_changes_no_bit(ids: list[int]) -> None:
    one = inspector()
    plain = one.run(ids, keep="*")
    same = one.run(ids, keep="*", change={"*": lambda activation: activation})
    given = one.run(ids, keep="*", change={name: plain[name] for name in plain})
    for name in plain:
        assert_array_equal(same[name], plain[name], err_msg=name)
        assert_array_equal(given[name], plain[name], err_msg=name)
    assert_array_equal(same["logits"], plain_logits(one, plain.token_ids))


def test_changing_any_activation_changes_what_comes_after_it_and_nothing_before() -> None:
    one = inspector()
    plain = one.run(TEXT, keep="*")
    for place, name in enumerate(one.names):
        changed = one.run(TEXT, keep="*", change={name: lambda activation: activation * 1.5})
        for before in one.names[:place]:
            assert_array_equal(changed[before], plain[before], err_msg=f"{before}, changed {name}")
        assert_allclose(changed[name][..., :1, :1], plain[name][..., :1, :1] * 1.5, rtol=1e-6)
        assert not np.array_equal(changed["logits"], plain["logits"]), name


def test_scores_after_the_query_stay_hidden_whatever_is_done_to_them() -> None:
    one = inspector()
    changed = one.run(TEXT, keep="*", change={"h.0.attn.scores": lambda scores: scores * 0})
    tokens = len(changed.token_ids)
    evenly = np.tril(np.ones((tokens, tokens))) / np.arange(1, tokens + 1)[:, None]
    assert (changed["h.0.attn.scores"] == np.where(np.tri(tokens), 0.0, -np.inf)).all()
    assert_allclose(changed["h.0.attn.pattern"], np.broadcast_to(evenly, (2, tokens, tokens)), atol=1e-6)


def test_heads_that_are_taken_out_add_nothing() -> None:
    one = inspector()
    by_z = one.run(TEXT, keep="*", change={"h.1.attn.z": ablate(1)})
    by_pattern = one.run(TEXT, keep="*", change={"h.1.attn.pattern": ablate(1)})
    by_heads = one.run(TEXT, keep="*", change={"h.1.attn.heads": ablate(1)})
    assert not by_z["h.1.attn.heads"][1].any()
    assert by_z["h.1.attn.heads"][0].any()
    for other in (by_pattern, by_heads):
        assert_allclose(by_z["logits"], other["logits"], atol=1e-5)
    nothing = one.run(TEXT, keep="h.0.attn.out", change={"h.0.attn.z": ablate()})
    assert_allclose(
        nothing["h.0.attn.out"], np.broadcast_to(one.weight("h.0.attn.c_proj.bias"), (len(nothing.token_ids), 16))
    )


def test_the_residual_stream_is_the_sum_of_its_parts_also_when_they_are_changed() -> None:
    one = inspector()
    rows = one.run(TEXT)["logits"].shape[0]
    middle = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    run = one.run(TEXT, keep="*", change={"h.0.resid_mid": middle, "h.1.mlp.out": ablate()})
    assert_array_equal(run["h.0.resid_mid"], middle)
    assert_array_equal(run["h.0.resid_post"], middle + run["h.0.mlp.out"])
    assert_array_equal(run["h.1.resid_pre"], run["h.0.resid_post"])
    assert_array_equal(run["h.1.resid_post"], run["h.1.resid_mid"])


def test_activations_of_one_text_can_be_put_into_another() -> None:
    one = inspector()
    ours, theirs = [1, 2, 3, 4], [1, 9, 3, 4]
    donor = one.run(theirs, keep=["h.1.resid_pre", "logits"])
    patched = one.run(ours, change={"h.1.resid_pre": donor["h.1.resid_pre"]})
    assert_array_equal(patched["logits"], donor["logits"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"h.0.attn.z": np.zeros((2, 3))}, r"the change of h.0.attn.z has shape \(2, 3\), expected \(2, 4, 8\)"),
        ({"h.0.attn.z": lambda z: z[:1]}, r"has shape \(1, 4, 8\), expected \(2, 4, 8\)"),
        ({"h.0.attn.z": lambda z: None}, "the change of h.0.attn.z is None, expected numbers of shape"),
        ({"h.0.attn.z": "zero"}, "the change of h.0.attn.z is 'zero', expected numbers"),
        ({"h.0.attn.z": [[1], [1, 2]]}, "expected numbers of shape"),
        ({"h.0.attn.z": "1"}, "the change of h.0.attn.z is '1', expected numbers"),
        ({"h.0.attn.z": 10**400}, "expected numbers of shape"),
        ({"h.0.attn.z": np.array(1j)}, "expected numbers of shape"),
        ({"h.0.attn.zz": 0}, "did you mean 'h.0.attn.z'"),
        ({"h.0.attn.z": 0, "h.*.attn.z": 1}, "change names h.0.attn.z twice"),
        ({"h.0.attn.z": ablate(2)}, "ablate got index 2, but the first axis has 2 entries"),
    ],
)
def test_a_change_that_does_not_fit_is_told_in_a_sentence(change: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        inspector().run([1, 2, 3, 4], change=change)
    assert caught.value.param == "change"


def test_what_takes_an_activations_place_may_be_read_only() -> None:
    one = inspector()
    whole = np.broadcast_to(np.float32(1), (3, 16))
    assert_array_equal(one.run([1, 2, 3], keep="wte", change={"wte": whole})["wte"], whole)


def test_ablate_takes_indices_only() -> None:
    with pytest.raises(InvalidRequestError, match="ablate got 'z', expected indices"):
        ablate("z")


def test_a_change_gets_an_array_of_its_own() -> None:
    one = inspector()
    plain = one.run(TEXT, keep="*")

    def spoil(activation: np.ndarray) -> np.ndarray:
        copy = activation.copy()
        activation[:] = np.nan
        return copy

    assert_array_equal(one.run(TEXT, change={"*": spoil})["logits"], plain["logits"])


# ---- gradients


@pytest.mark.parametrize(
    "name", ["wte", "h.0.attn.v", "h.0.attn.scores", "h.1.attn.pattern", "h.0.attn.heads", "h.1.mlp.pre"]
)
def test_a_gradient_is_the_slope_of_the_target(name: str) -> None:
    one = inspector()
    one.model.double()
    ids, target = [1, 2, 3, 4, 5], (7, 8)
    run = one.run(ids, keep="*", gradient_of=target)
    assert run.target == pytest.approx(run["logits"][-1, 7] - run["logits"][-1, 8], rel=1e-5)
    assert run.gradients[name].shape == run[name].shape
    draw, step = np.random.default_rng(0), 1e-3
    for _ in range(3):
        place = tuple(draw.integers(size) for size in run[name].shape)
        if name.endswith(("scores", "pattern")) and place[1] < place[2]:
            place = place[0], place[2], place[1]  # a score or share that counts

        def target_with(shift: float, place: tuple[int, ...] = place) -> float:
            moved = run[name].copy()
            moved[place] += shift
            found = one.run(ids, keep="logits", change={name: moved}, gradient_of=target)
            assert found.target is not None
            return found.target

        slope = (target_with(step) - target_with(-step)) / (2 * step)
        assert run.gradients[name][place] == pytest.approx(slope, rel=0.02, abs=2e-4), place


def test_the_loss_has_the_gradients_that_training_has() -> None:
    one = inspector()
    run = one.run([1, 2, 3, 4, 5], keep=["wte", "logits"], gradient_of="loss")
    ids = torch.tensor([run.token_ids])
    loss = torch.nn.functional.cross_entropy(one.model(ids).logits[0, :-1], ids[0, 1:])
    assert run.target == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    assert one.model.wpe.weight.grad is not None
    assert_allclose(run.gradients["wte"], one.model.wpe.weight.grad[:5], rtol=1e-4, atol=1e-6)


def test_asking_for_gradients_leaves_none_on_the_weights() -> None:
    one = inspector()
    one.model.requires_grad_(False)
    frozen = one.run(TEXT, keep="*", gradient_of="loss")
    one.model.requires_grad_(True)
    run = one.run(TEXT, keep="*", gradient_of="loss")
    assert all(parameter.grad is None for parameter in one.model.parameters())
    for name in ("h.0.resid_pre", "h.1.attn.pattern", "logits"):
        assert_allclose(frozen.gradients[name], run.gradients[name], atol=1e-7, err_msg=name)
        assert run.gradients[name].any(), name


def test_nothing_flows_back_through_what_was_changed() -> None:
    one = inspector()
    change = {"h.1.resid_pre": lambda stream: np.where(np.arange(16) < 8, 0.0, stream)}
    run = one.run(TEXT, keep=["h.0.mlp.out", "h.1.resid_pre"], change=change, gradient_of="loss")
    assert run.gradients["h.1.resid_pre"][:-1].all()
    assert not run.gradients["h.0.mlp.out"][:, :8].any()
    assert_allclose(run.gradients["h.0.mlp.out"][:, 8:], run.gradients["h.1.resid_pre"][:, 8:])


@pytest.mark.parametrize(
    ("gradient_of", "said"),
    [
        ("logits", "gradient_of is 'logits', expected 'loss', two tokens, or an array"),
        (("Before we", "!"), "is 5 tokens of this model, expected one"),
        ((1, 300), "out of range"),
        (5, "gradient_of is 5, expected 'loss', two tokens, or an array"),
        ((1, 2, 3), r"gradient_of has shape \(3,\), expected \("),
        (np.zeros(3), r"gradient_of has shape \(3,\), expected \("),
        ([None, "!"], "gradient_of is .*, expected numbers"),
        ([[1.0], [1.0, 2.0]], "gradient_of is .*, expected numbers"),
    ],
)
def test_what_gradients_are_of_is_checked(gradient_of: object, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        inspector().run(TEXT, gradient_of=gradient_of)


def test_two_tokens_may_stand_in_a_list() -> None:
    one = inspector()
    pair, listed = (one.run(TEXT, keep="wte", gradient_of=two) for two in ((5, "!"), [np.int64(5), "!"]))
    assert pair.target == listed.target
    assert_array_equal(pair.gradients["wte"], listed.gradients["wte"])


def test_the_loss_needs_two_tokens() -> None:
    with pytest.raises(InvalidRequestError, match="two tokens or more"):
        inspector().run([1], gradient_of="loss")


# ---- what is left on the model


def interrupted(activation: np.ndarray) -> np.ndarray:
    signal.raise_signal(signal.SIGINT)
    return activation


def failing(activation: np.ndarray) -> np.ndarray:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("change", "error"), [(interrupted, KeyboardInterrupt), (failing, ZeroDivisionError), (None, None)]
)
@pytest.mark.parametrize("training", [True, False])
def test_the_hooks_are_gone_afterwards_also_after_an_exception_and_ctrl_c(
    change: Callable[[np.ndarray], np.ndarray] | None, error: type[BaseException] | None, training: bool
) -> None:
    one = inspector(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    one.model.train(training)
    expected = one.run(TEXT)["logits"]
    if error is None:
        one.run(TEXT, keep="*")
    else:
        for name in ("wte", "h.1.attn.pattern", "logits"):
            with pytest.raises(error):
                one.run(TEXT, keep="*", change={name: change})
    assert hooks_on(one.model) == 0
    assert can_run(one.model)
    assert one.model.training is training
    assert_array_equal(one.run(TEXT)["logits"], expected)


def test_a_model_in_training_is_looked_at_without_dropout_and_with_blocks_computed_once() -> None:
    one = inspector()
    expected = one.run(TEXT)["logits"]
    one.model.train()
    one.model.h[1].eval()  # a part that its owner holds still
    one.model.activation_checkpointing = True
    calls: list[None] = []
    run = one.run(TEXT, change={"h.0.ln_1": lambda x: (calls.append(None), x)[1]}, gradient_of="loss")
    assert_array_equal(run["logits"], expected)
    assert len(calls) == 1
    assert one.model.training
    assert not one.model.h[1].attn.training
    assert one.model.activation_checkpointing


def test_a_change_cannot_run_its_own_model() -> None:
    one = inspector()
    with pytest.raises(InvalidRequestError, match="cannot run the model that it is a change of"):
        one.run(TEXT, change={"wte": lambda x: one.run(TEXT, keep="wte")["wte"]})
    assert hooks_on(one.model) == 0


def test_threads_take_turns() -> None:
    one = inspector()
    expected = {count: one.run(list(range(count)), keep="*") for count in (3, 5, 8, 13)}
    wrong: list[object] = []

    def look(count: int) -> None:
        for _ in range(5):
            run = one.run(list(range(count)), keep="*")
            wrong.extend(name for name in run if not np.array_equal(run[name], expected[count][name]))

    threads = [threading.Thread(target=look, args=(count,)) for count in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_changes_the_weights_changes_what_is_seen() -> None:
    one = inspector()
    before = one.run(TEXT, keep="h.0.ln_1")["h.0.ln_1"]
    with torch.no_grad():
        one.model.h[0].ln_1.bias += 1.0
    assert_allclose(one.run(TEXT, keep="h.0.ln_1")["h.0.ln_1"], before + 1.0, rtol=1e-6, atol=1e-6)


def test_with_lora_only_what_needs_the_whole_matrix_is_refused() -> None:
    one = inspector()
    add_lora(one.model, 2, 4.0, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one.model.h[0].attn.c_proj.lora_b.fill_(0.1)
    run = one.run(TEXT, keep=["h.0.attn.z", "h.0.attn.out", "logits"])
    assert_array_equal(run["logits"], plain_logits(one, run.token_ids))
    with pytest.raises(InvalidRequestError, match=r"h.0.attn.c_proj.weight belongs to a LoRAConv1D.*merge LoRA first"):
        one.run(TEXT, keep="h.0.attn.heads")
    with pytest.raises(InvalidRequestError, match="merge LoRA first"):
        one.weight("h.0.attn.c_proj.weight")
    merge_lora(one.model)
    heads = one.run(TEXT, keep="h.0.attn.heads")["h.0.attn.heads"]
    assert_allclose(heads.sum(axis=0) + one.weight("h.0.attn.c_proj.bias"), run["h.0.attn.out"], atol=1e-5)


def test_bfloat16_weights_are_looked_at_as_they_are() -> None:
    one = inspector()
    one.model.to(torch.bfloat16)
    run = one.run(TEXT, keep="*", change={"*": lambda activation: activation})
    with torch.no_grad():
        plain = one.model(torch.tensor([run.token_ids])).logits[0].float().numpy()
    assert_array_equal(run["logits"], plain)


def test_a_residual_stream_of_another_width_is_refused() -> None:
    one = inspector()
    assert one.unembed(np.zeros((2, 3, 16), np.float32)).shape == (2, 3, 300)
    with pytest.raises(InvalidRequestError, match=r"shape \(5,\), expected \(..., 16\)"):
        one.unembed(np.zeros(5, np.float32))


def test_a_residual_stream_may_lie_as_it_likes_and_must_be_numbers() -> None:
    one = inspector()
    plain = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    expected = one.unembed(plain)
    for same in (plain[::-1][::-1], plain.astype(">f4"), plain.tolist(), np.broadcast_to(plain, plain.shape)):
        assert_array_equal(one.unembed(same), expected)
    for wrong in (plain + 1j, [[1] * 16, [2] * 15], None, "x"):
        with pytest.raises(InvalidRequestError, match="the residual stream is"):
            one.unembed(wrong)


def test_a_parameter_is_had_by_its_name() -> None:
    one = inspector()
    assert_array_equal(one.weight("lm_head.weight"), one.weight("wte.weight"))
    with pytest.raises(InvalidRequestError, match=r"did you mean 'h\.0\.attn\.c_attn\.weight'"):
        one.weight("h.0.attn.c_atn.weight")
    with pytest.raises(InvalidRequestError, match="the model has no parameter 5"):
        one.weight(5)  # type: ignore[arg-type]


# ---- what cannot be looked into


def test_what_is_no_gpt2_or_no_tokenizer_is_told() -> None:
    for wrong in ("shakespeare", None, inspector()):
        with pytest.raises(InvalidRequestError, match=r"expected a GPT2; Inspector\.load\(name\) opens a model"):
            Inspector(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"tokenizer is 'tokenizer\.json', expected a Tokenizer"):
        Inspector(inspector().model, "tokenizer.json")  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [["ROMEO:", "A"], [[1, 2], [3]], ("one",)])
def test_a_batch_of_prompts_is_refused(batch: Any) -> None:
    with pytest.raises(InvalidRequestError, match="is a list of prompts; one is looked into at a time"):
        inspector().run(batch)


def test_a_change_made_in_place_has_to_be_returned() -> None:
    def change(x: np.ndarray) -> None:
        x[0] = 0

    with pytest.raises(InvalidRequestError, match="a function has to return the activation, also where it changed"):
        inspector().run(TEXT, change={"wte": change})


def test_without_pytorch_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import gptwo.inspection, gptwo.inspection.parameters, gptwo.inspection.lens\n"
        "try:\n    from gptwo.inspection import Inspector\n"
        "except gptwo.GptwoError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingDependencyError looking into a running model needs PyTorch: pip install")


def test_a_packed_model_is_refused_in_a_sentence(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert main(["quantize", str(tiny_checkpoint), str(tmp_path / "out"), "--no-report"]) == 0
    with pytest.raises(InvalidRequestError, match="is packed as int8, and a packed model cannot be looked into"):
        Inspector.load(tmp_path / "out")


def test_the_public_names_are_listed_where_python_asks_for_them() -> None:
    for module in (gptwo.inspection, gptwo.course):
        assert dir(module) == sorted(module.__all__)


def test_a_name_that_gptwo_inspection_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gptwo.inspection.nothing  # noqa: B018
