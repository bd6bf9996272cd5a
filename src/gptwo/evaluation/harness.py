"""lm-eval (extra `eval`) with gptwo as its model: every task it has, through the compiled core.

Importing this registers the model "gptwo" with lm-eval. `python -m gptwo.evaluation` is lm-eval's own command line,
where `--model gptwo --model_args model=gpt2,weights=int8` works; `gptwo evaluate MODEL --tasks NAME` needs less typing.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptwo.errors import DataError, DownloadError, GptwoError, InvalidRequestError, one_line
from gptwo.evaluation.questions import Progress, Question, answer, tokenizer_of
from gptwo.language_model import LanguageModel, load
from gptwo.options import shown
from gptwo.sampling import SamplingParams

NEW_TOKENS = 256
"""That a task's text may have where it does not say; lm-eval's default."""

MOST_ENDINGS = 32  # of one context under way at a time; each has memory of its own
TEXTS_AT_A_TIME = 64

# lm-eval's names for the same thing, the first that is there counts; and what says nothing to gptwo.
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_TAKEN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")


class GptwoLM(TemplateLM):
    """A model for lm-eval. Its arguments are those of `gptwo.load`; batch sizes make no difference and are not used."""

    def __init__(
        self,
        model: str | LanguageModel = "shakespeare",
        *,
        weights: str = "auto",
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        revision: str | None = None,
        tokenizer: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        progress: Progress | None = None,
    ) -> None:
        """model: a name or path, or a model that is loaded. progress: called as each kind of request goes on.

        device: for the backend `reference` alone; lm-eval names one in any case, `cuda:0` unless it is told otherwise.
        Raises InvalidRequestError for a model without a tokenizer, and as `gptwo.load` does.
        """
        super().__init__()
        if not isinstance(model, LanguageModel):
            model = load(
                model,
                weights=weights,
                backend=backend,
                device=device if device is not None and backend == "reference" else "cpu",
                threads=threads,
                revision=revision,
                tokenizer=tokenizer,
            )
        self.lm, self._progress = model, progress
        self.tokenizer = tokenizer_of(model)
        self.max_length = model.config.n_positions

    @property
    def eot_token_id(self) -> int:
        """The end of text, which stands before a text that has nothing before it."""
        end = self.tokenizer.end_of_text_id
        if end is None:
            raise InvalidRequestError(f"{self.lm.name} has no <|endoftext|>, which lm-eval needs", param="tokenizer")
        return int(end)

    @property
    def tokenizer_name(self) -> str:
        """What tells lm-eval's caches apart."""
        return self.tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; GPT-2's tokenizer adds none by itself."""
        return self.tokenizer.encode(string)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-probability, and whether greedy decoding makes it."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = True, **_: Any
    ) -> list[tuple[float, bool]]:
        """As `loglikelihood`, of ((context, continuation), their token ids). Endings of one context share it."""
        questions: list[Question] = []
        for _names, context, continuation in requests:
            last = questions[-1] if questions else None
            if last is not None and last.context == context and len(last.continuations) < MOST_ENDINGS:
                questions[-1] = Question(context, [*last.continuations, continuation])
            else:
                questions.append(Question(context, [continuation]))
        answers = answer(self.lm, questions, len(questions), self._progress)
        found = [(one.total, one.is_greedy) for likelihoods, _cut in answers for one in likelihoods]
        for (names, _context, _continuation), result in zip(requests, found, strict=True):
            if names is not None:
                self.cache_hook.add_partial("loglikelihood", names, result)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of each whole text, in lm-eval's windows, behind the end of text."""
        parts: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            before = len(parts)
            parts += [(None, *make_disjoint_window(window)) for window in windows]
            counts.append(len(parts) - before)
        logprobs = iter([logprob for logprob, _ in self._loglikelihood_tokens(parts)])
        totals = [math.fsum(itertools.islice(logprobs, count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each context, up to a stop string; greedy unless the task samples."""
        prompts, params = [], []
        for request in requests:
            context, settings = request.args
            wanted = _sampling(settings, self.max_length)
            assert wanted.max_tokens is not None
            room = self.max_length - wanted.max_tokens
            prompts.append((self.tok_encode(context) or [self.eot_token_id])[-room:])
            params.append(wanted)
        texts: list[str] = []
        for start in range(0, len(prompts), TEXTS_AT_A_TIME):
            part = slice(start, start + TEXTS_AT_A_TIME)
            texts += [completion.text for completion in self.lm.generate(prompts[part], params[part])]
            if self._progress is not None:
                self._progress(len(texts) / len(prompts))
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts


def _sampling(settings: Mapping[str, Any], positions: int) -> SamplingParams:
    """lm-eval's generation settings as ours. Raises InvalidRequestError for one that gptwo has not.

    The new tokens take half of the model's positions at most, so that the context has the other half.
    """
    settings = dict(settings)
    until = settings.pop("until", None) or []
    lengths = [settings.pop(name, None) for name in _MAX_TOKENS]
    most = next((length for length in lengths if length is not None), NEW_TOKENS)
    sampled = settings.pop("do_sample", (settings.get("temperature") or 0.0) > 0.0)
    values = {name: settings.pop(name) for name in _TAKEN if settings.get(name) is not None}
    left = [name for name, value in settings.items() if value is not None and name not in _TAKEN]
    if left:
        raise InvalidRequestError(f"the task sets {shown(left[0])} for its texts, which gptwo has not", param=left[0])
    if not sampled:
        values["temperature"] = 0.0
    return SamplingParams(
        max_tokens=max(1, min(int(most), positions // 2)),
        stop=[word for word in ([until] if isinstance(until, str) else until) if word],
        seed=0,
        **values,
    )


register_model("gptwo")(GptwoLM)


def run_tasks(
    lm: LanguageModel,
    names: Sequence[str],
    *,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Run tasks of lm-eval: for each, also those of a group, its figures by name; an error's name ends in `_stderr`.

    include_path: a directory with tasks of yours. num_fewshot: examples before each question; None leaves it to the
    task. limit: the first so many questions of each. Raises InvalidRequestError for a task that lm-eval does not have,
    DownloadError or DataError for one that it cannot run.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    with _quietly():
        try:
            manager = TaskManager(include_path=None if include_path is None else str(include_path))
            known = set(manager.all_tasks)
            for name in names:
                if name not in known:
                    raise InvalidRequestError(f"neither gptwo nor lm-eval has a task {shown(name)}", param="tasks")
            found = lm_eval.simple_evaluate(
                model=GptwoLM(lm, progress=progress),
                tasks=list(names),
                task_manager=manager,
                num_fewshot=num_fewshot,
                limit=limit,
                log_samples=False,
                bootstrap_iters=0,
            )
        except GptwoError:
            raise
        except OSError as error:  # what reaching the hub raises, also without a network
            raise DownloadError(f"lm-eval could not get the data of {', '.join(names)} ({one_line(error)})") from error
        except Exception as error:  # whatever is wrong with a task's definition
            raise DataError(
                f"lm-eval could not run {', '.join(names)} ({type(error).__name__}: {one_line(error)})"
            ) from error
    return {name: _figures(values) for name, values in found["results"].items()}


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    """`acc,none` as `acc`; a filter that is one stays in the name: `exact_match,strict` as `exact_match (strict)`."""
    figures = {}
    for key, value in values.items():
        name, comma, chosen = key.partition(",")
        if comma and isinstance(value, (int, float)) and not isinstance(value, bool):
            figures[name if chosen == "none" else f"{name} ({chosen})"] = float(value)
    return figures


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """As long as this lasts, lm-eval says nothing on the way, and shows no bars: what goes wrong is raised."""
    from lm_eval import evaluator

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    ask_git = getattr(evaluator, "get_git_commit_hash", None)
    if ask_git is not None:  # of whatever directory this is; git complains where it is none of its own
        evaluator.get_git_commit_hash = lambda: None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if ask_git is not None:
            evaluator.get_git_commit_hash = ask_git
