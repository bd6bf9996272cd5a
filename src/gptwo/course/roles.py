"""Which parameter of a learner's class plays which part, whatever it is called.

Shapes tell most of them apart. Layers of one shape are told by what their names hint at (`query`, `w_q`), by the order
in which they run, or, as a last resort, all possibilities are tried. Weights are named as in the checkpoint afterwards.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from gptwo.course.answers import AnswerError, run
from gptwo.course.forward import Weights

HINTS = {
    "q": {"q", "wq", "qw", "query", "queries", "toq"},
    "k": {"k", "wk", "kw", "key", "keys", "tok"},
    "v": {"v", "wv", "vw", "value", "values", "val", "tov"},
}


@dataclass
class Matrix:
    """A layer with a matrix, or a table."""

    path: str
    weight: Tensor
    bias: Tensor | None
    transposed: bool | None
    """Whether it lies as (out, in); None where only a square one's use would show it."""
    unclear: bool = False
    """Whether neither names nor shapes say which of several vectors is its bias."""

    def has(self, rows: int, columns: int) -> bool:
        """Whether it leads from `rows` numbers to `columns`."""
        return sorted(self.weight.shape) == sorted((rows, columns))

    def lying(self, rows: int, flip: bool) -> Tensor:
        """The matrix as (in, out)."""
        if self.weight.shape[0] != self.weight.shape[1]:
            return self.weight if self.weight.shape[0] == rows else self.weight.T
        return self.weight.T if (flip if self.transposed is None else self.transposed) else self.weight


@dataclass
class Norm:
    """A layer norm."""

    path: str
    gain: Tensor
    shift: Tensor | None


@dataclass
class Layers:
    """What a module is made of, in the order in which it runs."""

    matrices: list[Matrix]
    norms: list[Norm]

    def within(self, paths: str) -> Layers:
        """Those whose path matches an expression."""
        keep = re.compile(paths)
        return Layers([m for m in self.matrices if keep.search(m.path)], [n for n in self.norms if keep.search(n.path)])


def layers_of(module: nn.Module, *arguments: Any) -> Layers:
    """Take the module apart; it runs once on `arguments`, to see the order in which its layers do."""
    called: list[str] = []
    hooks = [
        each.register_forward_pre_hook(lambda _, __, path=path: called.append(path))
        for path, each in module.named_modules()
        if path
    ]
    run("forward", module, *arguments)
    for hook in hooks:
        hook.remove()
    found = Layers([], [])
    known: set[int] = set()
    for path, each in module.named_modules():
        own = {name: p for name, p in each.named_parameters(recurse=False) if id(p) not in known}
        known.update(map(id, own.values()))
        _sort_in(found, each, path, own)

    def when(layer: Matrix | Norm) -> int | None:
        path = layer.path
        while path and path not in called:
            path = path.rpartition(".")[0]
        return called.index(path) if path else None

    # A layer that does not run says nothing of its place; then they stay in the order in which they were made.
    for group in (found.matrices, found.norms):
        if None not in map(when, group):
            group.sort(key=when)  # type: ignore[arg-type]
    return found


def _sort_in(found: Layers, module: nn.Module, path: str, own: Mapping[str, Tensor]) -> None:
    """The layers that one module's own parameters make up; a bias goes with the matrix that its name is nearest to."""
    alone = sum(p.dim() == 2 for p in own.values()) <= 1 and len(own) <= 2
    vectors = {name: p for name, p in own.items() if p.dim() == 1}
    matrices = {name: p for name, p in own.items() if p.dim() == 2}
    biases: dict[str, Tensor] = {}
    for name, weight in matrices.items():
        near = [v for v in vectors if vectors[v].shape[0] in weight.shape and (alone or _nearest(v, matrices) == name)]
        # Of a matrix's two sides the output's is meant; a square matrix leaves no choice.
        if near:
            biases[name] = vectors.pop(near[0])
    biases |= _biases_by_shape(matrices.keys() - biases.keys(), matrices, vectors)
    loose = _loose(vectors, matrices)
    for name, weight in matrices.items():
        whole = path if alone and path else f"{path}.{name}".lstrip(".")
        unclear = name not in biases and any(vectors[v].shape[0] in weight.shape for v in loose)
        transposed = True if isinstance(module, nn.Linear) else None
        found.matrices.append(Matrix(whole, weight, biases.get(name), transposed, unclear))
    gains = [name for name in vectors if bool((vectors[name] == 1).all())] or list(vectors)[:1]
    shifts = [name for name in vectors if name not in gains]
    for gain, shift in itertools.zip_longest(gains, shifts):
        if gain is not None:
            whole = path if alone and path else f"{path}.{gain}".lstrip(".")
            found.norms.append(Norm(whole, vectors[gain], vectors[shift] if shift else None))


def _biases_by_shape(
    open_ones: Set[str], matrices: Mapping[str, Tensor], vectors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The biases, taken out of `vectors`, of matrices whose names say nothing and whose shapes leave one choice."""
    biases: dict[str, Tensor] = {}
    while True:
        fits = {
            v: [name for name in open_ones - biases.keys() if vectors[v].shape[0] in matrices[name].shape]
            for v in _loose(vectors, matrices)
        }
        only = [names[0] for names in fits.values() if len(names) == 1]
        sure = [(v, names[0]) for v, names in fits.items() if len(names) == 1 and only.count(names[0]) == 1]
        if not sure:
            return biases
        for vector, name in sure:
            biases[name] = vectors.pop(vector)


def _loose(vectors: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> list[str]:
    """Vectors that may be a bias of any matrix, by their names; what is all ones is a layer norm's."""
    return [name for name, p in vectors.items() if _nearest(name, matrices) is None and not bool((p == 1).all())]


def _nearest(vector: str, matrices: Iterable[str]) -> str | None:
    """Of the matrices beside it the one with the name nearest to the vector's, if one is: b_q goes with w_q."""

    def likeness(name: str) -> tuple[int, float]:
        match = SequenceMatcher(None, vector, name)
        first = match.find_longest_match()
        return first.size if first.a == first.b == 0 else 0, match.ratio()

    by_likeness = sorted(matrices, key=likeness)
    if not by_likeness or (len(by_likeness) > 1 and likeness(by_likeness[-2]) == likeness(by_likeness[-1])):
        return None
    return by_likeness[-1]


def draw(module: nn.Module, layers: Layers) -> None:
    """Give all parameters numbers with which every mistake shows, in place: gains near 1, the rest near 0."""
    gains = {id(norm.gain) for norm in layers.norms}
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, dtype=torch.float64) * 0.4
        parameter.copy_(noise + 1 if id(parameter) in gains else noise)


def attention_weights(layers: Layers, width: int, heads: int) -> Iterator[Weights]:
    """What the parts of attention may be: `c_attn` (C, 3C) and `c_proj` (C, C); the likeliest first."""
    matrices = layers.matrices
    fused = [m for m in matrices if m.has(width, 3 * width)]
    square = [m for m in matrices if m.has(width, width)]
    narrow = [m for m in matrices if heads > 1 and m.has(width, width // heads)]
    if len(fused) == 1 and len(square) == 1:
        groups = [([fused[0]], square[0])]
    elif not fused and len(square) == 4:
        groups = [([by["q"], by["k"], by["v"]], by["o"]) for by in _by_letter(square)]
    elif not fused and len(square) == 1 and len(narrow) == 3 * heads:
        groups = [([m for letter in "qkv" for m in by[letter]], square[0]) for by in _by_letter_of_heads(narrow)]
    else:
        raise AnswerError(_unknown(layers, "c_attn (C, 3C), or three of (C, C) for q, k and v, and c_proj (C, C)"))
    for flip in (False, True):
        for inputs, out in groups:
            yield {
                "c_attn.weight": torch.cat([m.lying(width, flip) for m in inputs], dim=1),
                "c_attn.bias": torch.cat([_bias(m) for m in inputs]),
                "c_proj.weight": out.lying(width, flip),
                "c_proj.bias": _bias(out),
            }


def block_weights(layers: Layers, width: int, heads: int) -> Iterator[Weights]:
    """What the parts of a block may be, under the names `ln_1`, `attn.c_attn`, …"""
    norms = layers.norms
    if len(norms) != 2:
        for matrix in layers.matrices:
            _bias(matrix)
        raise AnswerError(
            f"A block has two layer norms, one before attention and one before the MLP; yours {_n(norms)}."
        )
    inner = [m for m in layers.matrices if m.has(width, 4 * width)]
    if len(inner) != 2:
        raise AnswerError(_unknown(layers, "the MLP's c_fc (C, 4C) and c_proj (4C, C)"))
    up, down = _up_and_down(inner, width)
    for attention in attention_weights(layers, width, heads):
        yield {
            **_norm("ln_1", norms[0]),
            **{f"attn.{name}": tensor for name, tensor in attention.items()},
            **_norm("ln_2", norms[1]),
            "mlp.c_fc.weight": up.lying(width, False),
            "mlp.c_fc.bias": _bias(up),
            "mlp.c_proj.weight": down.lying(4 * width, False),
            "mlp.c_proj.bias": _bias(down),
        }


def model_weights(
    layers: Layers, width: int, heads: int, depth: int, vocabulary: int, places: int
) -> Iterator[Weights]:
    """What the parts of a model may be, under the checkpoint's names."""
    tokens = [m for m in layers.matrices if m.has(vocabulary, width)]
    positions = [m for m in layers.matrices if m.has(places, width)]
    if not tokens or not positions:
        raise AnswerError(_unknown(layers, "tables of tokens (V, C) and of positions (n_positions, C)"))
    if len(tokens) > 1:
        raise AnswerError(
            f"The head, {tokens[1].path}, has a matrix of its own: GPT-2's head is the table of tokens, wte, read the "
            "other way round (tied weights), so that logits = x @ wte.T."
        )
    inside = re.compile(r"\d+(?=[._])")
    numbers = [match.group() for m in layers.matrices if (match := inside.search(m.path))]
    names = sorted(set(numbers), key=int)
    if len(names) != depth:
        raise AnswerError(
            f"A model of {depth} blocks was asked for, and PyTorch knows the parameters of {len(names)}: keep the "
            f"blocks "
            "in an nn.ModuleList, one for each of config.n_layer; those in a plain list are hidden from it."
        )
    outside = [norm for norm in layers.norms if not inside.search(norm.path)]
    if len(outside) != 1:
        raise AnswerError(
            f"There is one layer norm after the last block, ln_f; outside of its blocks yours {_n(outside)}."
        )
    each = [layers.within(rf"^\D*(?<!\d){number}[._]") for number in names]
    table = {"wte.weight": tokens[0].weight, "wpe.weight": positions[0].weight, **_norm("ln_f", outside[0])}
    for blocks in zip(*(block_weights(one, width, heads) for one in each), strict=True):
        yield table | {f"h.{i}.{name}": tensor for i, one in enumerate(blocks) for name, tensor in one.items()}


def given_weights(
    module: nn.Module, roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Weights]:
    """The weights by the roles that the learner names. AnswerError for a role or name that is missing or unknown."""
    own = dict(module.named_parameters())
    if missing := sorted(shapes.keys() - roles.keys()):
        raise AnswerError(f"roles lacks {', '.join(missing)}.")
    for role, name in roles.items():
        if role not in shapes or name not in own:
            unknown = (
                f"no role {role}; there are {', '.join(shapes)}"
                if role not in shapes
                else (f"no parameter {name}; yours are {', '.join(own)}")
            )
            raise AnswerError(f"In roles: there is {unknown}.")
        if tuple(own[name].shape) not in (shapes[role], shapes[role][::-1]):
            raise AnswerError(f"{name} has the shape {tuple(own[name].shape)}, expected {shapes[role]} for {role}.")
    for flip in (False, True):
        yield {
            role: own[roles[role]].T
            if tuple(own[roles[role]].shape) != shape or (flip and len(set(shape)) < len(shape))
            else own[roles[role]]
            for role, shape in shapes.items()
        }


def _norm(role: str, norm: Norm) -> Weights:
    if norm.shift is None:
        raise AnswerError(f"The layer norm {norm.path} has no bias; GPT-2's have a weight and a bias.")
    return {f"{role}.weight": norm.gain, f"{role}.bias": norm.shift}


def _bias(matrix: Matrix) -> Tensor:
    if matrix.bias is None and matrix.unclear:
        raise AnswerError(
            f"The check cannot tell which parameter is the bias of {matrix.path}: neither names nor shapes say it. "
            f"Call it {matrix.path.rpartition('.')[2]}_bias, or say which is which: check(..., "
            'roles={"c_attn.weight": "your.name", ...}).'
        )
    if matrix.bias is None:
        raise AnswerError(f"The layer {matrix.path} has no bias; all of GPT-2's linear layers have one.")
    return matrix.bias


def _up_and_down(inner: Sequence[Matrix], width: int) -> tuple[Matrix, Matrix]:
    """The MLP's two layers: by the size of their biases, by how they lie, or by their order."""
    first, second = inner
    for one, other in ((first, second), (second, first)):
        if one.bias is not None and one.bias.shape[0] == 4 * width:
            return one, other
    return first, second


def _letter(path: str) -> str | None:
    """Example: "attn.w_q" and "query_proj" are "q"."""
    words = re.split(r"[^a-z]+", path.rpartition(".")[2].lower())
    return next((letter for letter, hints in HINTS.items() if hints & set(words)), None)


def _by_letter(square: Sequence[Matrix]) -> Iterator[dict[str, Matrix]]:
    """Four layers as q, k, v and o: by their names, or in every way."""
    hinted = [_letter(m.path) for m in square]
    if sorted(letter or "o" for letter in hinted) == ["k", "o", "q", "v"]:
        yield {letter or "o": m for letter, m in zip(hinted, square, strict=True)}
    else:
        for order in itertools.permutations(square):
            yield dict(zip("qkvo", order, strict=True))


def _by_letter_of_heads(narrow: Sequence[Matrix]) -> Iterator[dict[str, list[Matrix]]]:
    """Three layers (C, D) for each head, in the order of the heads."""
    by: dict[str, list[Matrix]] = {letter: [m for m in narrow if _letter(m.path) == letter] for letter in "qkv"}
    if len({len(group) for group in by.values()}) != 1:
        names = ", ".join(m.path for m in narrow)
        raise AnswerError(f"Which of the layers {names} are queries, keys and values does not show in their names.")
    yield by


def _n(norms: Sequence[Norm]) -> str:
    return f"has {len(norms)}{': ' if norms else ''}{', '.join(norm.path for norm in norms)}"


def _unknown(layers: Layers, wanted: str) -> str:
    found = ", ".join(f"{m.path} {tuple(m.weight.shape)}" for m in layers.matrices) or "none"
    return (
        f"The check looks for matrices {wanted}, whatever they are called and either way round, and finds {found}. "
        'If yours are kept otherwise, say which is which: check(..., roles={"c_attn.weight": "your.name", ...}).'
    )
