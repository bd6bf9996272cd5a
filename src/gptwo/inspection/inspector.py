"""Running a model on one text, and keeping, changing or differentiating what it computes on the way.

T tokens, C width, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.checkpoint import load_checkpoint
from gptwo.config import GPTConfig
from gptwo.decoder.reference import ReferenceDecoder
from gptwo.engine.request import check_token_ids
from gptwo.engine.text import token_text
from gptwo.errors import ContextLengthError, InvalidRequestError, NumericalError, nearest_name
from gptwo.inspection.activations import activation_names, matching_names
from gptwo.inspection.changes import Change, Floats, changed, floats, numbers
from gptwo.inspection.checks import check_unpacked
from gptwo.inspection.hooks import check_plain, hooked, visit
from gptwo.inspection.result import Result
from gptwo.loading import OpenModel, Prompt, open_model
from gptwo.model import GPT2
from gptwo.options import is_integer, shown
from gptwo.tokenizer import Tokenizer

Gradient = str | Sequence[int | str] | Floats


@dataclass(frozen=True, eq=False, repr=False)
class Run(Result, Mapping[str, Floats]):
    """What one pass kept: a mapping from names to activations, such as `run["h.0.attn.pattern"]`.

    docs/inspection.md has the table of names. A name that was not kept is an InvalidRequestError.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """Each token's text, for titles and axes; its number where the model has no tokenizer."""
    activations: Mapping[str, Floats]
    """float32 arrays by name, in the order of the pass."""
    gradients: Mapping[str, Floats] = field(default_factory=dict)
    """d target / d activation, in the shapes of the activations; empty unless asked for."""
    target: float | None = None
    """The number that the gradients are of."""

    def __getitem__(self, name: str) -> Floats:
        if name not in self.activations:
            # All that a run kept may be thousands.
            some = f"; it kept {', '.join([*self][:5]) or 'nothing'}{', …' if len(self) > 5 else ''}"
            hint = nearest_name(str(name), self.activations, otherwise=some)
            raise InvalidRequestError(f"the run kept no {shown(name)}{hint}", param="keep")
        return self.activations[name]

    def __contains__(self, name: object) -> bool:
        return name in self.activations

    def get(self, name: str, default: Any = None) -> Any:
        """The activation, or `default` where it was not kept."""
        return self.activations.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    __eq__, __hash__ = object.__eq__, object.__hash__  # a mapping's compares arrays, which have no single answer


class Inspector:
    """A model in PyTorch, looked into while it runs. It is not copied: what changes its weights changes what is seen.

    Threads take turns. Nothing else may run the same `GPT2` meanwhile: while a run lasts, its hooks are on it.
    """

    def __init__(self, model: GPT2, tokenizer: Tokenizer | None = None, *, name: str = "the model") -> None:
        """Raises InvalidRequestError for what is no GPT2; a model's name is what `load` takes."""
        if not isinstance(model, GPT2):
            raise InvalidRequestError(
                f"model is {shown(model)}, expected a GPT2; Inspector.load(name) opens a model by its name",
                param="model",
            )
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            raise InvalidRequestError(f"tokenizer is {shown(tokenizer)}, expected a Tokenizer", param="tokenizer")
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self._opened = OpenModel(name, ReferenceDecoder.over(model), tokenizer)
        self._turn = threading.RLock()
        self._running = False

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        revision: str | None = None,
        tokenizer: Tokenizer | str | Path | None = None,
        progress: bool = False,
    ) -> Inspector:
        """Load a model as `gptwo.load` does, in float32; errors as there.

        One that `gptwo quantize` packed cannot be looked into (InvalidRequestError): look into what it was made from.
        """
        checkpoint = load_checkpoint(name, revision=revision, progress=progress)
        check_unpacked(checkpoint)
        opened = open_model(
            checkpoint.path, backend="reference", weights="f32", device=device, threads=threads, tokenizer=tokenizer
        )
        assert isinstance(opened.decoder, ReferenceDecoder)
        return cls(opened.decoder.model, opened.tokenizer, name=str(name))

    def __repr__(self) -> str:
        return f"<Inspector {self.name}: {self.config.parameter_count:,} parameters>"

    @property
    def config(self) -> GPTConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def names(self) -> list[str]:
        """All that a run can keep, in the order of a pass."""
        return activation_names(self.config)

    def encode(self, prompt: Prompt, *, endless: bool = False) -> tuple[int, ...]:
        """The token ids of a text, or token ids, checked; `endless` allows more of them than the model has positions.

        Raises InvalidRequestError for what is no prompt or has no token, ContextLengthError if it has too many.
        """
        if isinstance(prompt, (list, tuple)) and any(isinstance(one, (str, list, tuple)) for one in prompt):
            raise InvalidRequestError("the prompt is a list of prompts; one is looked into at a time", param="prompt")
        ids = check_token_ids(self._opened.encode(prompt, endless=endless), self.config.vocab_size)
        if not ids:
            raise InvalidRequestError("the prompt has no tokens, so there is nothing to look at", param="prompt")
        if not endless and len(ids) > self.config.n_positions:
            raise ContextLengthError(
                f"the prompt has {len(ids):,} tokens, more than the model's {self.config.n_positions} positions",
                param="prompt",
            )
        return ids

    def token_id(self, token: int | str) -> int:
        """The id of a token given by its text or by its id. Raises InvalidRequestError if it is not one token."""
        ids = self.encode([token] if is_integer(token) else token, endless=True)  # type: ignore[list-item,arg-type]
        if len(ids) != 1:
            raise InvalidRequestError(f"{shown(token)} is {len(ids)} tokens of this model, expected one", param="token")
        return ids[0]

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token; its number where it has none."""
        return tuple(token_text(self.tokenizer, token_id) or str(token_id) for token_id in ids)

    def run(
        self,
        prompt: Prompt,
        *,
        keep: str | Sequence[str] = ("logits",),
        change: Mapping[str, Change] | None = None,
        gradient_of: Gradient | None = None,
    ) -> Run:
        """Compute the logits of a text, and keep activations on the way.

        prompt: a text, or token ids. keep: names of activations; `*` stands for anything, so "*" keeps all and
        "h.*.attn.pattern" every layer's pattern. Only what is kept takes memory.

        change: for each name (or pattern) a function from the activation (float32 array) to the one that takes its
        place, or that one itself, or a number that fills it. What is kept is what went on. Elements that come back as
        they were change no bit of what follows.

        gradient_of: what to differentiate by everything kept. "loss" is the mean negative log-probability of the
        text's own tokens, in nats; a pair of tokens, by id or text, the difference of their logits at the last
        position; an array (T, V) the sum of the logits times it. An element that was changed counts as given, and
        nothing before it gets a gradient through it.

        Raises InvalidRequestError for unknown names (with the nearest), changes of a wrong shape, and a change that
        runs this model again; ContextLengthError; NumericalError if nothing was changed and the logits are not finite.
        """
        ids = self.encode(prompt)
        kept = matching_names([keep] if isinstance(keep, str) else keep, self.config, param="keep")
        changes = self._changes(change)
        target_of = None if gradient_of is None else self._target(gradient_of, ids)
        recorder = _Recorder(frozenset(kept), changes, differentiable=target_of is not None)
        needed = {*kept, *changes}
        with self._one_at_a_time(), _as_in_use(self.model), hooked(self.model, needed, recorder):
            tokens = torch.tensor([ids], device=self.model.wte.weight.device)
            if target_of is None:
                with torch.no_grad():
                    self._forward(tokens, recorder, head="logits" in needed)
                return Run(ids, self.token_texts(ids), {name: recorder.kept[name] for name in kept})
            with torch.enable_grad():
                target = target_of(self._forward(tokens, recorder))
                tensors = [recorder.tensors[name] for name in kept]
                found = torch.autograd.grad(target, tensors, allow_unused=True) if tensors else ()
        gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]
        return Run(
            ids,
            self.token_texts(ids),
            {name: _array(tensor) for name, tensor in zip(kept, tensors, strict=True)},
            {name: _array(gradient) for name, gradient in zip(kept, gradients, strict=True)},
            target.item(),
        )

    def unembed(self, residual: Floats) -> Floats:
        """The logits that the model would give if the residual stream (..., C) were its last: float32 (..., V).

        Raises InvalidRequestError for another width, NumericalError if the logits are not finite.
        """
        expected = f"(..., {self.config.n_embd})"
        residual = floats("the residual stream", residual, f"numbers of shape {expected}", param="residual")
        if residual.ndim == 0 or residual.shape[-1] != self.config.n_embd:
            raise InvalidRequestError(f"a residual stream of shape {residual.shape}, expected {expected}", "residual")
        weight = self.model.wte.weight
        with self._one_at_a_time(), torch.no_grad():
            x = self.model.ln_f(torch.from_numpy(residual).to(weight.device, weight.dtype))
            logits = F.linear(x, self.model.head_weight)
            _check_finite(logits)
            return _array(logits)

    def weight(self, name: str) -> Floats:
        """A parameter by the checkpoint's name, as float32; `lm_head.weight` is there even where it is `wte.weight`.

        Raises InvalidRequestError for an unknown name, and where LoRA changes what the parameter means.
        """
        if name == "lm_head.weight":
            return _array(self.model.head_weight)
        parameters = dict(self.model.named_parameters())
        if name not in parameters:
            raise InvalidRequestError(f"the model has no parameter {shown(name)}{nearest_name(str(name), parameters)}")
        check_plain(self.model.get_submodule(name.rpartition(".")[0]), name)
        return _array(parameters[name])

    def _forward(self, tokens: Tensor, recorder: _Recorder, *, head: bool = True) -> Tensor:
        """Logits (T, V); without the head, which may cost more than all else, only what comes before it."""
        if not head:
            return self.model.body(tokens)[0][0]
        logits = self.model(tokens).logits[0]
        if not recorder.changes:
            _check_finite(logits)
        return visit(recorder, "logits", logits)

    def _changes(self, change: Mapping[str, Change] | None) -> dict[str, Change]:
        if change is None:
            return {}
        if not isinstance(change, Mapping):
            raise InvalidRequestError(f"change is {shown(change)}, expected a mapping from names", param="change")
        changes: dict[str, Change] = {}
        for pattern, value in change.items():
            for name in matching_names([pattern], self.config, param="change"):
                if name in changes:
                    raise InvalidRequestError(f"change names {name} twice", param="change")
                changes[name] = value
        return changes

    def _target(self, gradient_of: Gradient, ids: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """What makes the number that is differentiated of the logits (T, V)."""
        device = self.model.wte.weight.device
        if isinstance(gradient_of, (str, int, float)) and gradient_of != "loss":
            raise InvalidRequestError(
                f"gradient_of is {shown(gradient_of)}, expected 'loss', two tokens, or an array", param="gradient_of"
            )
        if isinstance(gradient_of, str):
            if len(ids) < 2:
                raise InvalidRequestError("the loss needs a text of two tokens or more", param="gradient_of")
            following = torch.tensor(ids[1:], device=device)
            return lambda logits: F.cross_entropy(logits[:-1].float(), following)
        shape = (len(ids), self.config.vocab_size)
        if _is_pair(gradient_of):
            weights = np.zeros(shape, np.float32)
            weights[-1, self.token_id(gradient_of[0])] += 1.0
            weights[-1, self.token_id(gradient_of[1])] -= 1.0
        else:
            weights = numbers("gradient_of", gradient_of, shape, param="gradient_of")
        factor = torch.from_numpy(weights).to(device)
        return lambda logits: (logits * factor).sum()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        with self._turn:
            if self._running:
                raise InvalidRequestError("a change cannot run the model that it is a change of", param="change")
            self._running = True
            try:
                yield
            finally:
                self._running = False


class _Recorder:
    """Changes and keeps the activations of one pass (see hooks.Visitor)."""

    def __init__(self, names: frozenset[str], changes: Mapping[str, Change], *, differentiable: bool) -> None:
        self.names, self.changes, self.differentiable = names, changes, differentiable
        self.kept: dict[str, Floats] = {}
        self.tensors: dict[str, Tensor] = {}

    def change(self, name: str, value: Tensor) -> Tensor:
        if name not in self.changes:
            return value
        new = torch.from_numpy(changed(name, _array(value), self.changes[name])).to(value.device)
        # What is as it was stays the very number, and keeps its gradient.
        return torch.where(new == value.float(), value, new.to(value.dtype))

    def keep(self, name: str, value: Tensor) -> Tensor:
        if name in self.names and not self.differentiable:
            self.kept[name] = _array(value)
        elif name in self.names:
            if not value.requires_grad:  # all of it was changed, or the weights are frozen
                value = value.detach().requires_grad_()
            self.tensors[name] = value
        return value


def _is_pair(gradient_of: object) -> TypeGuard[Sequence[int | str]]:
    """Two tokens, and not two rows of an array."""
    if not isinstance(gradient_of, (tuple, list)) or len(gradient_of) != 2:
        return False
    return all(is_integer(token) or isinstance(token, str) for token in gradient_of)


@contextmanager
def _as_in_use(model: GPT2) -> Iterator[None]:
    """Without dropout, and with each block computed once, also while the model is being trained."""
    modes, checkpointing = [(module, module.training) for module in model.modules()], model.activation_checkpointing
    try:
        model.activation_checkpointing = False
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        model.activation_checkpointing = checkpointing


def _check_finite(logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise NumericalError("the logits are not finite: the weights hold NaN, infinite or far too large values")


def _array(tensor: Tensor) -> Floats:
    """A copy as float32."""
    return np.array(tensor.detach().float().cpu().numpy())
