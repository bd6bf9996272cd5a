"""The measures, on models whose probabilities are known: uniform ones, and ones that know a text by heart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tiny_models import TOKENIZER, ToyDecoder, logits_of, tiny_config

from gptwo.errors import ContextLengthError, InvalidRequestError
from gptwo.evaluation import (
    Choice,
    Choices,
    Lambada,
    cbt,
    hellaswag,
    lambada,
    perplexity,
    read_wikitext,
    validation_loss,
    wikitext,
)
from gptwo.evaluation.choices import choose
from gptwo.evaluation.identity import Identity
from gptwo.evaluation.published import Published
from gptwo.evaluation.questions import Question, answer, encode_question
from gptwo.evaluation.report import Entry, Report
from gptwo.evaluation.wikitext_articles import WikiText
from gptwo.language_model import LanguageModel

L = math.log(300.0)  # what a token costs where all 300 are as likely


def uniform() -> LanguageModel:
    return LanguageModel(ToyDecoder(logits=lambda ids: np.zeros(300, np.float32)), TOKENIZER)


def by_heart(*texts: str) -> LanguageModel:
    """A model that gives the next token of the texts that begin alike all but all probability; else token 0."""
    known = [TOKENIZER.encode(text) for text in texts]

    def logits(ids: list[int]) -> np.ndarray:
        row = np.zeros(300, np.float32)
        following = [text[len(ids)] for text in known if text[: len(ids)] == ids and len(text) > len(ids)]
        row[following[0] if following else 0] = 50.0
        return row

    return LanguageModel(ToyDecoder(logits=logits), TOKENIZER)


# ---- perplexity


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    text = "zq é 😀\n qz " * 30
    ids = TOKENIZER.encode(text)
    found = perplexity(uniform(), text)
    first = len(TOKENIZER.token_bytes(ids[0]))
    assert TOKENIZER.token_text(ids[0]) == "z"
    assert (found.tokens, found.words, found.characters, found.bytes) == (
        len(ids) - 1,
        120,  # "q" is what is predicted of the first word
        len(text) - 1,
        len(text.encode()) - first,
    )
    assert found.perplexity == pytest.approx(300.0)
    assert found.word_perplexity == pytest.approx(math.exp(L * (len(ids) - 1) / 120))
    assert found.bits_per_byte == pytest.approx(math.log2(300) * (len(ids) - 1) / found.bytes)
    assert found.nats_per_character == pytest.approx(L * (len(ids) - 1) / found.characters)
    assert (found.positions, found.stride) == (64, 32)
    assert set(found.measures()) == {"perplexity", "word_perplexity", "bits_per_byte", "nats_per_character"}


def test_perplexity_is_that_of_the_score_with_the_same_stride() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    text = "speak, we know't. " * 20
    assert len(TOKENIZER.encode(text)) > 64
    for stride in (None, 1, 64):
        score, found = lm.score(text, stride=stride), perplexity(lm, text, stride=stride)
        assert found.perplexity == score.perplexity
        assert found.bits_per_byte == score.bits_per_byte
    assert perplexity(lm, text, stride=1).nats != perplexity(lm, text, stride=64).nats


def test_a_text_with_nothing_to_predict_is_refused() -> None:
    for text, message in (("", "no tokens"), ("z", "a single token")):
        with pytest.raises(InvalidRequestError, match=message):
            perplexity(uniform(), text)
    with pytest.raises(InvalidRequestError, match="has no tokenizer"):
        perplexity(LanguageModel(ToyDecoder(), None), "text")


def test_words_may_be_counted_by_somebody_else() -> None:
    found = wikitext(uniform(), WikiText("zq zq", 7, raw=True), stride=3)
    assert found.words == 7
    assert found.word_perplexity == pytest.approx(math.exp(found.nats / 7))
    assert found.stride == 3


def test_a_limit_takes_the_first_windows_of_a_text_and_counts_the_rest() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    text = "speak, we know't. " * 20
    ids = TOKENIZER.encode(text)
    found = perplexity(lm, text, stride=16, limit=2)
    assert (found.tokens, found.left_out) == (64 + 16 - 1, len(ids) - 80)
    assert found.nats == -lm.score(ids[:80], stride=16).total
    assert perplexity(lm, text, limit=1000) == perplexity(lm, text)
    with pytest.raises(InvalidRequestError, match="a single token"):
        perplexity(uniform(), "z", limit=1)


def test_the_words_of_the_first_windows_are_counted_as_the_file_counts_them(tmp_path: Path) -> None:
    (tmp_path / "wiki").write_text(" \n = zq = \n \n" + " zq qz zz z\n" * 40 + "\n\n zq\n")
    data = read_wikitext(tmp_path / "wiki")
    assert data.words == 1 + 4 + 1 + 40 * 5 + 2 + 2
    found = wikitext(uniform(), data, limit=1)
    part = TOKENIZER.decode(TOKENIZER.encode(data.text)[:64])
    lines = part.split("\n\n")
    assert found.left_out
    assert abs(found.words - sum(len(line.split()) + 1 for line in lines)) <= 1
    assert wikitext(uniform(), data, limit=1000).words == data.words


# ---- prepared tokens


class Prepared:
    """Tokens as `gptwo prepare` leaves them."""

    def __init__(self, ids: list[int], learned: list[bool]) -> None:
        self.ids, self.which = np.asarray(ids, np.int64), np.asarray(learned, np.bool_)

    def __len__(self) -> int:
        return len(self.ids)

    def window(self, start: int, length: int) -> np.ndarray:
        return self.ids[start : start + length]

    def learned(self, start: int, length: int) -> np.ndarray:
        return self.which[start : start + length]


def test_the_loss_on_prepared_tokens_is_that_of_windows_end_to_end() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    ids = TOKENIZER.encode("speak, we know't. " * 20)
    found = validation_loss(lm, Prepared(ids, [True] * len(ids)), characters=360)
    score = lm.score(ids, stride=64)
    assert found.loss == pytest.approx(-score.total / score.scored, rel=1e-12)
    assert found.perplexity == pytest.approx(score.perplexity, rel=1e-12)
    assert found.nats_per_character == pytest.approx(found.loss * len(ids) / 360)
    assert (found.tokens, found.not_learned, found.left_out) == (len(ids) - 1, 0, 0)
    assert (found.positions, found.stride) == (64, 64)
    closer = validation_loss(lm, Prepared(ids, [True] * len(ids)), stride=16, limit=2)
    assert closer.nats == pytest.approx(-lm.score(ids[:80], stride=16).total, rel=1e-12)
    assert (closer.tokens, closer.left_out, closer.characters) == (79, len(ids) - 80, None)


def test_what_is_only_read_counts_for_nothing_but_its_place() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    ids = TOKENIZER.encode("speak, we know't. " * 40)
    draw = np.random.default_rng(3)
    learned = [bool(one) for one in draw.random(len(ids)) < 0.3]
    learned[70:200] = [False] * 130  # one window among them where nothing is learned
    learned[0] = True  # which nobody can predict
    found = validation_loss(lm, Prepared(ids, learned), characters=720)
    logprobs = lm.score(ids, stride=64).logprobs
    wanted = [-value for value, which in zip(logprobs[1:], learned[1:], strict=True) if which and value is not None]
    assert found.nats == pytest.approx(math.fsum(wanted), rel=1e-12)
    assert (found.tokens, found.not_learned) == (len(wanted), len(ids) - 1 - len(wanted))
    assert found.measures().keys() == {"loss", "perplexity"}


def test_prepared_tokens_with_nothing_to_learn_are_refused() -> None:
    for ids, learned in (([], []), ([1], [True]), ([1, 2, 3], [True, False, False])):
        with pytest.raises(InvalidRequestError, match=r"nothing to (score|predict)"):
            validation_loss(uniform(), Prepared(ids, learned))


# ---- the report


def test_numbers_without_end_are_shown_by_their_size() -> None:
    measures = {"perplexity": 712930178138619.0, "bits_per_byte": 3.25, "nats_per_character": 0.00002, "accuracy": 0.5}
    figure = Published("gpt2", "any", "perplexity", 99999.0, "a paper")
    entry = Entry("any", "f32", measures, published=(figure,))
    columns, rows = Report("m", 1, Identity("", {}), None, {}, (entry,)).table()
    assert columns == ["task", "measure", "f32", "published"]
    assert [row[2] for row in rows] == ["7.13e+14", "3.2500", "2.00e-05", "50.00%"]
    assert rows[0][3] == "99999.0000 (a paper)"


# ---- LAMBADA


def test_a_model_that_knows_a_passage_guesses_its_last_word() -> None:
    right, wrong = "qa zb qzq", "qb zz qz"
    found = lambada(by_heart(right), [right, wrong])
    assert found.examples == 2
    assert found.accuracy == found.last_token_accuracy == 0.5
    tokens = len(TOKENIZER.encode(wrong)) - len(TOKENIZER.encode("qb zz"))
    costs = tokens * math.log(299 + math.exp(50))  # its tokens are none of the likeliest
    assert found.perplexity == pytest.approx(math.exp(costs / 2), rel=1e-4)


def test_only_the_last_token_may_be_right() -> None:
    passage, other = "qa zb qzq", "qa zb xzq"
    known = TOKENIZER.encode(passage)

    def logits(ids: list[int]) -> np.ndarray:
        row = np.zeros(300, np.float32)
        # It expects another word, but once it has read the passage's it knows how that ends.
        row[known[len(ids)] if len(ids) == len(known) - 1 else TOKENIZER.encode(other)[-3]] = 50.0
        return row

    found = lambada(LanguageModel(ToyDecoder(logits=logits), TOKENIZER), [passage])
    assert (found.last_token_accuracy, found.accuracy) == (1.0, 0.0)


def test_a_uniform_model_finds_a_word_as_likely_as_it_has_tokens() -> None:
    shares: list[float] = []
    found = lambada(uniform(), ["a zz", "a zzzz"], progress=shares.append)  # a space and letters: 3 and 5 tokens
    assert found == Lambada(2, 0, 0.0, 0.0, pytest.approx(math.exp(4 * L)))
    assert shares == [0.5, 1.0]


def test_a_passage_that_is_too_long_loses_its_beginning_and_is_counted() -> None:
    passage = "z " * 60 + "qz"
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    found = lambada(lm, [passage, "a b"])
    assert found.cut == 1
    ids = TOKENIZER.encode(passage)
    assert len(ids) > 65
    ending = ids[len(TOKENIZER.encode(passage[:-3])) :]
    kept = ids[-65:]
    nats = 0.0
    for place in range(65 - len(ending), 65):
        row = logits_of(kept[:place]).astype(np.float64)
        nats -= row[kept[place]] - np.log(np.exp(row).sum())
    row_b = TOKENIZER.encode("a b")
    for place in range(1, len(row_b)):
        row = logits_of(row_b[:place]).astype(np.float64)
        nats -= row[row_b[place]] - np.log(np.exp(row).sum())
    assert found.perplexity == pytest.approx(math.exp(nats / 2), rel=1e-5)


def test_passages_without_a_last_word_are_refused() -> None:
    for passages in ([], ["word"], ["word "]):
        with pytest.raises(InvalidRequestError):
            lambada(uniform(), passages)


# ---- choices


def test_the_likeliest_ending_is_chosen_by_sum_and_by_length() -> None:
    # Two tokens for one letter, four for three: the first costs less, the second less for each character.
    short, long = " z", " zzz"
    assert [len(TOKENIZER.encode(ending)) for ending in (short, long)] == [2, 4]
    assert choose(uniform(), [Choice("a", (short, long), 0)]) == Choices(1, 0, 1.0, 0.0)
    assert choose(uniform(), [Choice("a", (short, long), 1)]) == Choices(1, 0, 0.0, 1.0)
    assert choose(uniform(), [Choice("a", (long, short), 1)] * 3, by_length=False) == Choices(3, 0, 1.0, None)


def test_of_equal_endings_the_first_is_chosen() -> None:
    assert choose(uniform(), [Choice("a", (" z", " q", " x"), 0)]).accuracy == 1.0
    assert choose(uniform(), [Choice("a", (" z", " q", " x"), 1)]).accuracy == 0.0


def test_a_model_that_knows_the_ending_chooses_it() -> None:
    example = Choice("qa: zb", (" xx", " qzq", " q", " zzzz"), 1)
    for measure in (hellaswag, cbt):
        assert measure(by_heart("qa: zb qzq"), [example]).accuracy == 1.0
    assert cbt(uniform(), [example]).measures() == {"accuracy": 0.0}
    with pytest.raises(InvalidRequestError, match="no examples"):
        hellaswag(uniform(), [])


# ---- questions


def test_white_space_between_context_and_ending_is_the_endings() -> None:
    question = encode_question(TOKENIZER, "speak \n", ["speak", "x"])
    assert question.context == TOKENIZER.encode("speak")
    assert [*question.context, *question.continuations[0]] == TOKENIZER.encode("speak \nspeak")
    assert [*question.context, *question.continuations[1]] == TOKENIZER.encode("speak \nx")


def test_an_empty_context_is_the_end_of_text() -> None:
    assert encode_question(TOKENIZER, "", ["speak"]) == Question([299], [TOKENIZER.encode("speak")])


def test_an_ending_that_grows_into_the_context_keeps_a_token() -> None:
    # "spea" + "k" is one token where "speak" is.
    for cut in range(1, 5):
        question = encode_question(TOKENIZER, "speak"[:cut], ["speak"[cut:]])
        assert all(question.continuations)


def test_each_ending_keeps_as_much_of_a_long_context_as_fits_beside_it() -> None:
    lm = LanguageModel(ToyDecoder(tiny_config(n_positions=8)), TOKENIZER)
    context = list(range(20, 30))
    questions = [Question(context[:3], [[1], [2]]), Question(context, [[1], [1, 2, 3]]), Question(context[:2], [[4]])]
    found = list(answer(lm, questions))
    assert [cut for _, cut in found] == [False, True, False]
    alone = lm.likelihoods([(context[-8:], [[1]]), (context[-6:], [[1, 2, 3]])])
    assert found[1].likelihoods == tuple(one for (one,) in alone)
    with pytest.raises(ContextLengthError, match="a continuation has 9 tokens, the model 8 positions"):
        list(answer(lm, [Question([1], [[1] * 9])]))
    (fits,) = answer(lm, [Question([1, 2], [[1] * 8])])
    assert len(fits.likelihoods[0].logprobs) == 8
