"""Data of records: documents, the end of text between them, their parts, and what of them is learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import gptwo.training.pieces as cutting
from gptwo.errors import DataError, InvalidRequestError
from gptwo.training.batch import IGNORED
from gptwo.training.loader import validation_batches
from gptwo.training.prepare import prepare
from gptwo.training.prepared import PreparedData
from gptwo.training.token_data import TokenData

END = "<|endoftext|>"
TEXTS = st.text(st.sampled_from("ab c\né猫"), max_size=14)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text_of(made: PreparedData, part: TokenData) -> str:
    return made.tokenizer.decode(part.window(0, 10**6).tolist())


def runs(made: PreparedData, part: TokenData) -> list[tuple[bool, str]]:
    """The text of each run of tokens that are learned, or are not."""
    found: list[tuple[bool, list[int]]] = []
    for token, learned in zip(part.window(0, 10**6).tolist(), part.learned(0, 10**6).tolist(), strict=True):
        if not found or found[-1][0] != learned:
            found.append((learned, []))
        found[-1][1].append(token)
    return [(learned, made.tokenizer.decode(ids)) for learned, ids in found]


def test_each_record_is_a_document(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", [{"text": "one"}, {"text": ""}, {"text": f"two {END}"}, {"text": None}, {"text": "x"}]
    )
    made = prepare([path], tmp_path / "out", tokenizer="bpe:300", val_fraction=0)
    assert text_of(made, made.train) == f"one{END}two {END}{END}x"
    assert made.train.window(0, 99).tolist().count(made.tokenizer.end_of_text_id) == 2
    assert (made.documents, made.train.characters, made.train.masked) == ((3, 0), 3 + 4 + len(END) + 1, False)


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=40), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]), st.integers(0, 5))
def test_every_document_is_in_one_part_whole_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], share: float, seed: int
) -> None:
    directory = tmp_path_factory.mktemp("split")
    texts = [text for text in texts if text] or ["a"]
    path = jsonl(directory / "a.jsonl", [{"text": text} for text in texts])
    made = prepare([path], directory / "out", tokenizer="char", val_fraction=share, seed=seed)
    parts = [text_of(made, part).split(END) if len(part) else [] for part in (made.train, made.val)]
    assert sorted(len(part) for part in parts) == sorted(made.documents or ())
    if len(texts) * share < 1.0:  # too few: the end of the last ones
        assert "".join([*parts[0], *parts[1]]) == "".join(texts)
        return
    assert sorted([*parts[0], *parts[1]]) == sorted(texts)
    for part in parts:  # in order: each is found behind the one before
        places = iter(texts)
        assert all(any(text == one for one in places) for text in part)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12), st.sampled_from(["char", "bpe:300"]), st.integers(3, 40)
)
def test_the_mask_lies_exactly_on_completions(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], tokenizer: str, size: int
) -> None:
    directory = tmp_path_factory.mktemp("pairs")
    kept = [(prompt, completion) for prompt, completion in pairs if completion] or [("a", "b")]
    path = jsonl(directory / "a.jsonl", [{"q": q, "a": a} for q, a in ([*pairs, *kept] if len(pairs) < 2 else pairs)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE_CHARACTERS", size)
        options = {"tokenizer": tokenizer, "prompt_field": "q", "completion_field": "a", "val_fraction": 0}
        try:
            made = prepare([path], directory / "out", **options)
        except DataError as error:
            assert "holds no text" in str(error)  # noqa: PT017 - if there is none
            assert not any(row["a"] for row in rows)
            return
    # What is expected, run by run: prompts are read, completions and the end behind them are learned.
    expected: list[tuple[bool, str]] = []
    for number, row in enumerate(row for row in rows if row["a"]):
        for learned, text in ((True, END if number else ""), (False, row["q"]), (True, row["a"])):
            if text and expected and expected[-1][0] == learned:
                expected[-1] = (learned, expected[-1][1] + text)
            elif text:
                expected.append((learned, text))
    assert made.train.masked
    assert runs(made, made.train) == expected
    # And as targets: a token is one exactly where it is learned.
    for batch in validation_batches(made.train, block_size=7, batch_size=3):
        assert ((batch.targets == IGNORED) | (batch.targets >= 0)).all()
    targets = [
        t for b in validation_batches(made.train, block_size=7, batch_size=3) for t in b.targets.ravel().tolist()
    ]
    ids, learned = made.train.window(0, 10**6), made.train.learned(0, 10**6)
    assert_array_equal(targets, [i if ok else IGNORED for i, ok in zip(ids[1:], learned[1:], strict=True)])


def test_prompts_are_encoded_apart_from_completions(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "the ki", "a": "ng is the king"}] * 3)
    made = prepare(
        [path], tmp_path / "out", tokenizer="bpe:300", prompt_field="q", completion_field="a", val_fraction=0
    )
    one = [*made.tokenizer.encode("the ki"), *made.tokenizer.encode("ng is the king")]
    assert made.train.window(0, len(one)).tolist() == one


def test_of_few_pairs_the_last_one_validates(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": f"{n}?", "a": f"{n}!!!!"} for n in range(4)])
    made = prepare([path], tmp_path / "out", tokenizer="char", prompt_field="q", completion_field="a")
    assert runs(made, made.val) == [(False, "3?"), (True, "3!!!!")]
    assert made.documents == (3, 1)
    alone = prepare(
        [jsonl(tmp_path / "b.jsonl", [{"q": "a", "a": "b"}])], tmp_path / "one", tokenizer="char", prompt_field="q",
        completion_field="a",
    )  # fmt: skip
    assert alone.documents == (1, 0)


def test_texts_that_were_given_to_validate_are_all_of_that_part(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", [{"text": f"train {n}"} for n in range(30)])
    val = jsonl(tmp_path / "v" / "b.jsonl", [{"text": "val 1"}, {"text": "val 2"}])
    made = prepare([train], tmp_path / "out", tokenizer="bpe:300", val=[str(val.parent)], max_documents=20)
    assert text_of(made, made.val) == f"val 1{END}val 2"
    assert text_of(made, made.train) == END.join(f"train {n}" for n in range(20))
    assert made.documents == (20, 2)
    assert "--val v" in made.command
    assert "--val-fraction" not in made.command


def test_several_texts_are_split_whole_once_there_are_enough(tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / "in" / f"{n:02}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{n:02}.txt").write_text(f"text {n}")
    made = prepare([tmp_path / "in"], tmp_path / "out", tokenizer="char")
    assert made.documents == (18, 2)
    assert made.texts == ("in",)
    assert set(text_of(made, made.val).split(END)) | set(text_of(made, made.train).split(END)) == {
        f"text {n}" for n in range(20)
    }
    other = prepare([tmp_path / "in"], tmp_path / "other", tokenizer="char", seed=1)
    assert text_of(other, other.val) != text_of(made, made.val)


def test_texts_of_one_part_that_hold_nothing_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "full.jsonl").write_text('{"text": "to be"}\n')
    for train, val in (("empty", "full"), ("full", "empty")):
        with pytest.raises(DataError, match=r"^empty\.jsonl: holds no text"):
            prepare([tmp_path / f"{train}.jsonl"], tmp_path / "out", val=[tmp_path / f"{val}.jsonl"], tokenizer="char")
        assert not (tmp_path / "out" / "data.json").exists()


def test_records_without_a_text_at_all_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": ""}])
    with pytest.raises(DataError, match=r"a\.jsonl: holds no text"):
        prepare([path], tmp_path / "out", tokenizer="char")
    with pytest.raises(DataError, match=r"a\.jsonl: holds no text"):
        prepare([path], tmp_path / "out", tokenizer="bpe:300", val_fraction=0)
    with pytest.raises(InvalidRequestError, match="plain text"):
        prepare([path, Path(__file__)], tmp_path / "out", tokenizer="char", prompt_field="q", completion_field="a")
    assert not (tmp_path / "out").exists()
