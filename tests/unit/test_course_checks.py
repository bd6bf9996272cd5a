"""The checks of the course: what is right passes, and every mistake is told as what it is."""

from __future__ import annotations

import linecache
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptwo import course
from gptwo.course import verdict
from gptwo.course.judging import FunctionExercise, Mistake, brief
from gptwo.course.modules import ModuleExercise
from gptwo.errors import ExerciseError, InvalidRequestError, MissingDependencyError

COURSE = Path(__file__).resolve().parents[2] / "course"
EXERCISES = {
    name: import_module(f"gptwo.course.{lesson}").EXERCISES[name]
    for lesson, names in course.LESSONS.items()
    for name in names
}
FUNCTIONS = {name: one for name, one in EXERCISES.items() if isinstance(one, FunctionExercise)}
MODULES = {name: one for name, one in EXERCISES.items() if isinstance(one, ModuleExercise)}

# A line of a solution, what a learner might have written instead, and words that the verdict must have.
WRONG = {
    "softmax": [
        ("sum(-1, keepdim=True)", "sum(0, keepdim=True)", "sum of its column"),
        (" - scores.amax(-1, keepdim=True)", "", "inf / inf"),
        ("return powers / powers.sum(-1, keepdim=True)", "return powers", "not divided by their sum"),
        ("powers.sum(-1, keepdim=True)", "powers.sum(-1)", "raised RuntimeError"),
    ],
    "attention": [
        ("/ math.sqrt(C / self.heads)", "", "scale is missing"),
        ("/ math.sqrt(C / self.heads)", "/ math.sqrt(C)", "whole width"),
        ("/ math.sqrt(C / self.heads)", "/ (C / self.heads)", "1 / sqrt(D)"),
        ("/ math.sqrt(C / self.heads)", "* math.sqrt(C / self.heads)", "multiplied by sqrt(D)"),
        ("softmax(scores.masked_fill(later, -math.inf))", "softmax(scores)", "mask is missing"),
        ("triu(1)", "triu(0)", "from itself"),
        ("triu(1)", "triu(2)", "one position ahead"),
        ("triu(1)", "tril(-1)", "wrong way round"),
        ("-math.inf)", "0.0)", "mask sets scores to 0"),
        ("softmax(scores.masked_fill(later, -math.inf))", "softmax(scores) * ~later", "mask comes after"),
        ("softmax(scores.masked_fill(later, -math.inf))", "scores.masked_fill(later, -math.inf).softmax(2)", "queries"),
        ("q, k, v = (", "k, q, v = (", "as keys, queries, values"),
        ("q, k, v = (", "q, v, k = (", "as queries, values, keys"),
        ("q, k, v = (", "v, k, q = (", "as values, keys, queries"),
        (".view(B, T, self.heads, -1).transpose(1, 2)", ".reshape(B, self.heads, T, -1)", "view(B, H, T, D) mixes"),
        ("self.heads, -1).transpose(1, 2)", "-1, self.heads).permute(0, 3, 1, 2)", "every H-th"),
        ("y.transpose(1, 2).reshape", "y.reshape", "put together wrongly"),
        ("self.heads = heads", "self.heads = 1", "single head"),
        ("self.out(y.transpose(1, 2).reshape(B, T, C))", "y.transpose(1, 2).reshape(B, T, C)", "c_proj, is not used"),
        ("3 * width)", "3 * width, bias=False)", "qkv has no bias"),
        ("(width, width)", "(width, width, bias=False)", "out has no bias"),
        ("return self.out(", "return x + self.out(", "input is added"),
        ("B, T, C = x.shape", "x += 1; B, T, C = x.shape", "in place"),
        ("return self.out(", "return torch.float64, self.out(", "gives a tuple"),
        (".reshape(B, T, C))", ".reshape(B, T, C)).double()", "dtype of what it gives is torch.float64"),
        (".reshape(B, T, C))", ".reshape(B, T, C)).to('meta')", "device meta"),
        (".reshape(B, T, C))", ".reshape(B, T, C)) * math.nan", "NaN"),
        (".reshape(B, T, C))", ".reshape(B, T, C))[:, :, :4]", "(2, 5, 4), that is (B, T, D), expected (2, 5, 12)"),
        (".reshape(B, T, C))", ".reshape(B, T, C)).dropout(0.5)", "raised AttributeError"),
        ("return self.out(", "return nn.functional.dropout(x, 0.5) + self.out(", "something else each time"),
        ("return self.out(", "return 2 * self.out(", "2 times too large"),
        ("return self.out(", "return x.mean(1, keepdim=True) + self.out(", "something looks ahead"),
        ("return self.out(", "return x.mean((0, 2), keepdim=True) + self.out(", "texts are mixed up"),
        ("return self.out(", "return self.forward(x) + self.out(", "calls itself without end"),
        ("return self.out(", "return self.output(", "`return self.output("),
        ("super().__init__()", "pass", "cannot assign module before Module.__init__() call"),
        ("class Attention(nn.Module)", "class Attention", "expected an nn.Module"),
    ],
    "layer_norm": [
        (", unbiased=False", "", "C - 1"),
        ("(x - mean) /", "x /", "above the line"),
        ("torch.sqrt(variance + 1e-5)", "torch.sqrt(variance)", "no eps"),
        ("torch.sqrt(variance + 1e-5)", "(torch.sqrt(variance) + 1e-5)", "inside"),
        (" + shift", "", "shift is not added"),
    ],
    "gelu": [
        ("0.5 * x * (1 + torch", "torch.nn.functional.gelu(x) + 0 * (1 + torch", "error function"),
        ("0.044715", "0.44715", "zero after the point"),
        ("x**3", "x**2", "cubed"),
    ],
    "block": [
        (
            "x + self.attention(self.norm_1(x))\n        return x + self.mlp(self.norm_2(x))",
            "self.norm_1(x + self.attention(x))\n        return self.norm_2(x + self.mlp(x))",
            "as in the first transformer",
        ),
        ("x = x + self.attention(self.norm_1(x))", "x = self.attention(self.norm_1(x))", "residual around attention"),
        ("return x + self.mlp", "return self.mlp", "residual around the MLP"),
        ("self.attention(self.norm_1(x))", "self.attention(x)", "norm before attention is not used"),
        ("self.mlp(self.norm_2(x))", "self.mlp(self.norm_1(x))", "used twice"),
        ("gelu(self.up(x))", "torch.relu(self.up(x))", "ReLU"),
        ("gelu(self.up(x))", "nn.functional.gelu(self.up(x))", "error function"),
        ("gelu(self.up(x))", "self.up(x)", "no activation"),
        ("self.norm_2 = LayerNorm(width)", "self.norm_2 = self.norm_1", "two layer norms"),
    ],
    "model": [
        ("torch.arange(ids.shape[1])", "torch.arange(1, ids.shape[1] + 1)", "off by one"),
        (" + self.places(torch.arange(ids.shape[1]))", "", "positions are not added"),
        ("self.norm(x) @", "x @", "ln_f, is not used"),
        ("x = block(x)", "block(x)", "thrown away"),
        ("nn.ModuleList(", "list(", "plain list"),
        (" @ self.tokens.weight.T", "", "head is missing"),
        (
            "self.norm = LayerNorm",
            "self.head = nn.Linear(config.n_embd, config.vocab_size); self.norm = LayerNorm",
            "tied",
        ),
    ],
    "loading": [
        (
            "tensor.T if name.startswith",
            "tensor if name.endswith('attn.c_proj.weight') else tensor.T if name.startswith",
            "attn.c_proj.weight is the wrong way round",
        ),
        (
            "model.load_state_dict(state)",
            "state.pop('norm.shift'); model.load_state_dict(state, strict=False)",
            "ln_f.bias",
        ),
        ("model.load_state_dict(state)", "pass", "not loaded"),
        ("tensor.T if name.startswith", "tensor if name.startswith", "size mismatch"),
        ('"ln_1.weight": "norm_1.gain"', '"nothing": ""', "Missing key"),
    ],
    "top_p": [
        ("shares.cumsum(0) - shares < p", "shares.cumsum(0) <= p", "crosses p is left out (all but"),
        (
            "kept[order[inside]] = logits[order[inside]]",
            "kept = torch.where(inside, logits[order], -torch.inf)",
            "sorted",
        ),
        ("    inside[0] = True\n", "", "p = 0 nothing"),
    ],
    "repetition_penalty": [
        ("if logits[token] > 0 else logits[token] * penalty", "", "sign is forgotten: to divide"),
        ("changed = logits.clone()", "changed = logits", "in place"),
    ],
    "cached_attention": [
        ("if past is not None:", "if False:", "past is not used"),
        ("return self.out(y), (k, v)", "return self.out(y), (k[:, :, -T:], v[:, :, -T:])", "cache is not appended"),
        ("tril(S - T)", "tril()", "starts at the first position"),
        ("(past[0], k)", "(k, past[0])", "wrong"),
        ("return self.out(y), (k, v)", "return self.out(y)", "expected a pair"),
        ("return self.out(y), (k, v)", "return self.out(y), None", "past that forward gives back is None"),
    ],
    "cached_model": [
        ("torch.arange(start, start + ids.shape[1])", "torch.arange(ids.shape[1])", "start from 0 in every call"),
        ("else past[layer]", "else past[0]", "first layer's past"),
    ],
    "merge": [("i += 2", "i += 1", "used twice")],
    "decode": [
        (
            'b"".join(spelled[i] for i in ids).decode("utf-8", errors="replace")',
            '"".join(spelled[i].decode("utf-8", errors="replace") for i in ids)',
            "decoded alone",
        ),
        (', errors="replace"', "", "raised UnicodeDecodeError"),
    ],
    "loss": [
        ("logits[:, :-1], ids[:, 1:]", "logits, ids", "not shifted"),
        ("logits[:, :-1], ids[:, 1:]", "logits[:, 1:], ids[:, :-1]", "wrong way"),
        ("predicted.flatten", "predicted.softmax(-1).flatten", "twice"),
    ],
    "adamw": [
        ("v_hat = v / (1 - 0.95**step)", "v_hat = v", "v is not corrected"),
        ("0.05 * gradient**2", "0.05 * gradient", "mean of its square"),
        ("weight * (1 - lr * decay)", "weight * (1 - decay)", "lacks the learning rate"),
        ("weight * (1 - lr * decay)", "weight", "no weight decay"),
        ("- lr * m_hat", "+ lr * m_hat", "against the gradient"),
    ],
    "quantize": [
        ("/ 127", "/ 128", "wraps round"),
        (".round()", "", "cut off"),
        (".abs()", "", "with its sign"),
        (".to(torch.int8)", "", "dtype"),
    ],
    "int8_product": [(".to(torch.int32)", "", "Widen to int32"), (" * x_scales", "", "scales of the inputs")],
    "accept": [("[: agreed + 1]", "[:agreed]", "own token is missing")],
}


def source_of(name: str) -> str:
    lesson = next(lesson for lesson, names in course.LESSONS.items() if name in names)
    return (COURSE / "solutions" / f"{lesson}.py").read_text(encoding="utf-8")


def made_of(name: str, source: str, tmp_path: Path) -> Any:
    """The answer to an exercise that the source of a lesson holds."""
    path = tmp_path / "my_gpt2.py"
    path.write_text(source, encoding="utf-8")
    linecache.checkcache(str(path))
    names: dict[str, Any] = {"__name__": "my_gpt2"}
    exec(compile(source, str(path), "exec"), names)
    called = {"attention": "Attention", "block": "Block", "model": "GPT2", "loading": "load"}
    called |= {"cached_attention": "CachedAttention", "cached_model": "CachedGPT2"}
    return names[called.get(name, name)]


@pytest.fixture(autouse=True)
def _solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(COURSE))


def test_the_lessons_and_the_exercises_are_the_same() -> None:
    for lesson, names in course.LESSONS.items():
        assert tuple(import_module(f"gptwo.course.{lesson}").EXERCISES) == names


@pytest.mark.parametrize("name", WRONG)
def test_typical_wrong_answers_are_told_apart(name: str, tmp_path: Path) -> None:
    right, said = source_of(name), []
    assert verdict(name, made_of(name, right, tmp_path)).right
    for old, new, words in WRONG[name]:
        assert old in right
        found = verdict(name, made_of(name, right.replace(old, new), tmp_path))
        assert not found.right, new
        assert words in found.text, new
        said.append(found.text)
    assert len(set(said)) == len(said)


def own_mistakes(name: str) -> list[Mistake]:
    """Those that an exercise does not have from the lessons before."""
    before = {"cached_attention": "attention", "cached_model": "model"}
    inherited = MODULES[before[name]].mistakes if name in before else ()
    return [one for one in MODULES[name].mistakes if one not in inherited and not one.says.startswith("In its ")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_mistake_that_a_check_knows_of_a_function_is_told_as_what_it_is(name: str) -> None:
    exercise = FUNCTIONS[name]
    assert verdict(name, exercise.answer).right
    for mistake in exercise.mistakes:
        said = verdict(name, partial(exercise.answer, **mistake.flags))
        assert (said.right, said.text) == (False, mistake.says), mistake.flags


class OfFlags(nn.Module):
    """A class as a learner's, but that it runs the reference, with a mistake in it."""

    def __init__(self, exercise: ModuleExercise, flags: Any) -> None:
        super().__init__()
        self.exercise, self.flags = exercise, flags
        for name, shape in exercise.shapes.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            gain = "ln" in name and last == "weight"
            module.register_parameter(last, nn.Parameter(torch.ones(shape) if gain else torch.zeros(shape)))

    def forward(self, x: Tensor, past: Any = None) -> Any:
        y, kept = self.exercise.forward(x, dict(self.named_parameters()), past, **self.flags)
        return (y, kept) if self.exercise.cuts else y


@pytest.mark.parametrize("name", MODULES)
def test_every_mistake_that_a_check_knows_of_a_class_is_told_as_what_it_is(name: str) -> None:
    exercise = MODULES[name]
    assert verdict(name, lambda *_: OfFlags(exercise, {})).right
    for mistake in own_mistakes(name):
        said = verdict(name, lambda *_, flags=mistake.flags: OfFlags(exercise, flags))
        assert (said.right, said.text) == (False, mistake.says), mistake.flags


def test_no_two_mistakes_of_an_exercise_read_the_same_but_where_they_are_the_same() -> None:
    for name, exercise in EXERCISES.items():
        said = [mistake.says for mistake in exercise.mistakes]
        same = {text for text in said if said.count(text) > 1}
        assert all("single head" in text or "last position's logits" in text for text in same), name


def test_two_mistakes_at_once_are_both_told(tmp_path: Path) -> None:
    source = source_of("attention").replace("/ math.sqrt(C / self.heads)", "").replace("triu(1)", "triu(2)")
    text = verdict("attention", made_of("attention", source, tmp_path)).text
    assert text.startswith("Two things.")
    assert "scale is missing" in text
    assert "one position ahead" in text


class Parts(nn.Module):
    """Attention over what `make` made; its three projections are found by `names`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.make(width)

    def make(self, width: int) -> None:
        raise NotImplementedError

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def last(self, y: Tensor) -> Tensor:
        return self.out(y)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.parts(x))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.last(y.transpose(1, 2).flatten(2))


class ThreeLayers(Parts):
    def make(self, width: int) -> None:
        self.key, self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(x), self.key(x), self.value(x)


class QueryForKey(ThreeLayers):
    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.key(x), self.query(x), self.value(x)


class NamelessMatrices(Parts):
    def make(self, width: int) -> None:
        for name in "abcd":
            setattr(self, name, nn.Parameter(torch.zeros(width, width)))
            setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(width)))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x @ self.c + self.c_bias, x @ self.a + self.a_bias, x @ self.d + self.d_bias

    def last(self, y: Tensor) -> Tensor:
        return y @ self.b + self.b_bias


class Letters(Parts):
    """Weights and biases a, b, c, d: the shapes leave one choice."""

    def make(self, width: int) -> None:
        for name, shape in (("a", (width, 3 * width)), ("b", 3 * width), ("c", (width, width)), ("d", width)):
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x @ self.a + self.b).chunk(3, dim=2)

    def last(self, y: Tensor) -> Tensor:
        return y @ self.c + self.d


class MoreLetters(NamelessMatrices):
    """Four matrices and four biases of one shape, and no name that goes with another."""

    def make(self, width: int) -> None:
        for name in "abcdefgh":
            setattr(self, name, nn.Parameter(torch.zeros((width, width) if name < "e" else width)))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__({"a_bias": "e", "b_bias": "f", "c_bias": "g", "d_bias": "h"}.get(name, name))


class Untouched(nn.Module):
    def __init__(self, *_: object) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor: ...  # type: ignore[empty-body]


class LayersForEachHead(Parts):
    def make(self, width: int) -> None:
        size = width // self.heads
        self.each = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(width, size) for name in ("q_proj", "k_proj", "v_proj")})
            for _ in range(self.heads)
        )
        self.out = nn.Linear(width, width)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (torch.cat([head[f"{n}_proj"](x) for head in self.each], dim=2) for n in "qkv")
        return q, k, v


class OneTooMany(Parts):
    def make(self, width: int) -> None:
        self.inside, self.unused, self.out = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.inside(x).chunk(3, dim=2)
        return q, k, v


@pytest.mark.parametrize("answer", [ThreeLayers, NamelessMatrices, Letters, LayersForEachHead])
def test_parameters_may_be_called_and_kept_as_one_likes(answer: type[nn.Module]) -> None:
    assert str(verdict("attention", answer)) == "✓ attention: right."


def test_a_query_that_serves_as_key_is_told_by_its_name() -> None:
    assert "takes them as keys, queries, values" in verdict("attention", QueryForKey).text


def test_where_roles_are_not_plain_they_are_asked_for_and_taken() -> None:
    said = verdict("attention", OneTooMany)
    assert "unused (12, 12)" in said.text
    assert "roles=" in said.text
    roles = {f"c_attn.{kind}": f"inside.{kind}" for kind in ("weight", "bias")}
    assert verdict("attention", OneTooMany, roles=roles).text == "roles lacks c_proj.bias, c_proj.weight."
    roles |= {f"c_proj.{kind}": f"out.{kind}" for kind in ("weight", "bias")}
    assert verdict("attention", OneTooMany, roles=roles).right
    assert "no parameter nothing" in verdict("attention", OneTooMany, roles={**roles, "c_proj.bias": "nothing"}).text
    assert "no role more" in verdict("attention", OneTooMany, roles={**roles, "more": "out.bias"}).text
    assert "shape (36,)" in verdict("attention", OneTooMany, roles={**roles, "c_proj.bias": "inside.bias"}).text


def test_a_bias_that_nothing_tells_from_others_is_asked_for() -> None:
    text = verdict("attention", MoreLetters).text
    assert text.startswith("The check cannot tell which parameter is the bias of a:")
    assert "Call it a_bias" in text
    assert "roles=" in text


@pytest.mark.parametrize("name", MODULES)
def test_a_class_that_was_not_begun_is_told_so(name: str) -> None:
    assert "its body is still empty" in verdict(name, Untouched).text


def test_what_a_function_failed_on_is_told() -> None:
    text = verdict("top_k", lambda logits, k: logits.topk(k).values).text
    assert "raised RuntimeError: selected index k out of range" in text
    assert text.endswith("It was given logits = [1.0, 3.0, -0.5, 2.0, 0.2], k = 9.")


def test_a_cell_says_in_one_line_what_it_needs() -> None:
    course.needs(ThreeLayers, Untouched.__init__, brief, len, 3, None)
    for thing, name in ((Untouched, "Untouched"), (torch.no_grad()(Untouched.forward), "forward")):
        with pytest.raises(ExerciseError, match=rf"^{name} is still empty") as raised:
            course.needs(thing)
        assert raised.value._render_traceback_() == [str(raised.value)]


class Hostile:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise OSError("no")


class Uninitialised(nn.Module):
    def __init__(self, *_: object) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return x


class OnMeta(nn.Module):
    def __init__(self, *_: object) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12, device="meta")

    def forward(self, x: Tensor, past: Any = None) -> Any:
        return self.layer(x)


def exits(*_: object) -> None:
    raise SystemExit(3)


ODD = [None, 3, "text", ..., [], {}, torch, int, object, nn.Linear, nn.Linear(2, 2), Uninitialised, OnMeta, Hostile]
ODD += [Hostile(), exits, lambda: 1]
ODD += [partial(lambda made, *_: made, made) for made in (None, 1, "x", {}, [[]], (None, None), (torch.zeros(2), 1))]
ODD += [partial(lambda made, *_: made, made) for made in (torch.zeros(0), torch.tensor(1j), nn.Linear(2, 2))]


@pytest.mark.parametrize("name", EXERCISES)
def test_odd_answers_are_told_that_they_are_wrong(name: str) -> None:
    for thing in ODD:
        said = verdict(name, thing)
        assert not said.right, thing
        assert said.text.endswith("."), said.text
        assert "\n" not in said.text


def test_ctrl_c_in_an_answer_ends_the_check() -> None:
    def interrupted(scores: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict("softmax", interrupted)


def test_random_numbers_and_gradients_stay_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    verdict("attention", ThreeLayers)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("name", "hint"), [("atention", "did you mean 'attention'"), (3, "such as 'attention'")])
def test_a_name_that_is_no_exercise_is_refused(name: Any, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match=hint):
        course.check(name, int)


def test_check_prints_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    course.check("gelu", lambda x: x)
    assert capsys.readouterr().out == "✗ gelu: This gives x back unchanged.\n"


def test_without_pytorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[torch\]'"):
        course.check("gelu", lambda x: x)
