"""Files of evaluation data: what they mean, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.errors import DataError, DownloadError
from gptwo.evaluation import Choice, read_cbt, read_hellaswag, read_lambada, read_wikitext
from gptwo.evaluation.data_files import DataFile, Source, fetch
from gptwo.evaluation.lambada_passages import SHA256
from gptwo.evaluation.published import PUBLISHED, published
from gptwo.evaluation.tasks import TASKS

READERS = {"lambada": read_lambada, "hellaswag": read_hellaswag, "cbt": read_cbt, "wikitext": read_wikitext}


def file(text: str) -> DataFile:
    return DataFile("FILE", "0" * 64, text)


def lines(*values: Any) -> DataFile:
    return file("".join(json.dumps(value) + "\n" for value in values))


# ---- LAMBADA


def test_lambada_has_a_passage_on_each_line() -> None:
    assert read_lambada(lines({"text": "one two"}, {"text": "a b c", "more": 1})) == ["one two", "a b c"]
    assert read_lambada(file('\n{"text": "é 😀"}\r\n\n')) == ["é 😀"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE: there is no passage in it"),
        ('{"text": "a b"}\nnothing', "FILE line 2: not JSON"),
        ('{"text": "a b"}\n\n[]', "FILE line 3: expected a JSON object"),
        ('{"txt": "a b"}', 'FILE line 1: expected text as "text"'),
        ('{"text": 5}', 'FILE line 1: expected text as "text"'),
        ('{"text": "word"}', "FILE line 1: expected a passage that ends with a word behind a space"),
        ('{"text": "word "}', "FILE line 1: expected a passage that ends with a word"),
        ('{"text": " word"}', "FILE line 1: expected a passage that ends with a word"),
        ('{"text": "a \\ud800"}', "FILE line 1: the text holds a lone surrogate"),
        ("[" * 100_000, "FILE line 1: not JSON"),
    ],
)
def test_a_lambada_file_that_is_wrong_says_where(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_lambada(file(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_released_lambada_is_read_whole(shared_data: Path) -> None:
    data = TASKS["lambada"].load(shared_data / "eval" / "lambada_test.jsonl")
    assert len(data.content) == 5153
    assert data.file.sha256 == SHA256
    assert data.is_released(None)  # type: ignore[arg-type]  # the file alone tells
    few = TASKS["lambada"].load(shared_data / "eval" / "lambada_test.jsonl", limit=10)
    assert few.content == data.content[:10]
    assert not few.is_released(None)  # type: ignore[arg-type]


# ---- HellaSwag

SWAG = {
    "ind": 24,
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he",
    "ctx": "A man is sitting on a roof. he",
    "split": "val",
    "endings": ["is using wrap.", "is ripping [substeps] tiles.", "holds a  cube.", "starts [title] Go on."],
    "source_id": "activitynet~v_1",
    "label": 3,
}


def test_hellaswag_is_prepared_as_published_figures_have_it() -> None:
    (found,) = read_hellaswag(lines(SWAG))
    assert found == Choice(
        "Roof shingle removal: A man is sitting on a roof. He",
        (" is using wrap.", " is ripping tiles.", " holds a cube.", " starts. Go on."),
        3,
    )
    (found,) = read_hellaswag(lines(SWAG | {"label": "0", "ctx_b": ""}))  # as the hub's copy spells a label
    assert found.right == 0
    assert found.context == "Roof shingle removal: A man is sitting on a roof."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 4}, 'expected the number of an ending, 0 to 3, as "label"'),
        ({"label": ""}, "expected the number of an ending"),
        ({"label": "-1"}, "expected the number of an ending"),
        ({"label": True}, "expected the number of an ending"),
        ({"label": None}, "expected the number of an ending"),
        ({"label": "9" * 10_000}, "expected the number of an ending"),
        ({"endings": "text"}, 'expected a list of texts as "endings"'),
        ({"endings": ["one"], "label": 0}, 'expected a list of texts as "endings"'),
        ({"endings": ["one", 2], "label": 0}, 'expected a list of texts as "endings"'),
        ({"endings": ["one", "\udfff"], "label": 0}, "the text holds a lone surrogate"),
        ({"ctx_a": None}, 'expected text as "ctx_a"'),
        ({"activity_label": 3}, 'expected text as "activity_label"'),
    ],
)
def test_a_hellaswag_file_that_is_wrong_says_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_hellaswag(lines(SWAG, SWAG | change))
    assert str(caught.value).startswith(f"FILE line 2: {message}")


# ---- CBT


def cbt_example(
    question: str = "`` Well , '' said XXXXX , `` do n't !", answer: str = "Ned", words: str = "Ann|Ned|Bo"
) -> str:
    sentences = [f"{number} Sentence {number} is n't long ." for number in range(1, 21)]
    return "\n".join([*sentences, f"21 {question}\t{answer}\t\t{words}"]) + "\n\n"


def test_cbt_has_twenty_sentences_and_one_with_a_gap() -> None:
    first, second = read_cbt(file(cbt_example() + cbt_example("XXXXX ran .", "Bo", "Bo|it").rstrip("\n")))
    assert first.context.startswith("Sentence 1 isn't long. Sentence 2 isn't long. ")
    assert first.context.endswith('Sentence 20 isn\'t long. "Well," said')
    assert first.endings == (" Ann, \"don't!", " Ned, \"don't!", " Bo, \"don't!")
    assert first.right == 1
    assert second.context.endswith("Sentence 20 isn't long.")
    assert second.endings == (" Bo ran.", " it ran.")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("`` I do n't know , '' said Ned .", '"I don\'t know," said Ned.'),
        ("It 's Ned 's -LRB- not Ann 's -RRB- ; they 'll see !", "It's Ned's (not Ann's); they'll see!"),
        ("` Well ' said the boys ' dog", "'Well' said the boys' dog"),
        ("a -- b : c", "a -- b: c"),
        ("O'Neil 's can't", "O'Neil's can't"),
    ],
)
def test_cbts_tokens_become_text_as_people_write_it(written: str, text: str) -> None:
    (found,) = read_cbt(file(f"1 {written}\n2 XXXXX\ta\t\ta|b\n"))
    assert found.context == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE: there is no example in it"),
        ("1 One .\n3 XXXXX\ta\t\ta|b", "FILE line 2: expected sentence 2 of an example, with its number"),
        ("No number .\n", "FILE line 1: expected sentence 1"),
        ("1 One .\n2 no gap\ta\t\ta|b", "FILE line 2: expected a sentence with XXXXX"),
        ("1 One .\n2 XXXXX\tc\t\ta|b", "FILE line 2: expected a sentence with XXXXX, the right word"),
        ("1 One .\n2 XXXXX\ta\ta|b", "FILE line 2: expected a sentence with XXXXX"),
        ("1 One .\n2 XXXXX\ta\t\ta", "FILE line 2: expected a sentence with XXXXX"),
        ("1 XXXXX\ta\t\ta|b", "FILE line 1: expected a sentence with XXXXX"),
        (cbt_example() + "1 One .\n", "FILE line 23: expected a sentence with XXXXX"),
    ],
)
def test_a_cbt_file_that_is_wrong_says_where(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_cbt(file(text))
    assert str(caught.value).startswith(message)


# ---- WikiText-2


def test_wikitext_is_joined_by_blank_lines_as_the_guide_joins_it() -> None:
    found = read_wikitext(file(" \n = Title = \n \n Text of it . \n"))
    assert found.text == "\n\n".join(["", " = Title = \n", "", " Text of it . \n"])
    assert found.words == 3 + 4 + 4  # and one for the end of each line
    assert found.raw
    assert not read_wikitext(file("a <unk>\n")).raw
    with pytest.raises(DataError, match="FILE: there is no text in it"):
        read_wikitext(file(" \n\n"))


def test_the_test_set_of_wikitext_has_the_words_that_its_authors_counted(shared_data: Path) -> None:
    found = read_wikitext(shared_data / "eval" / "wikitext2_test.txt")
    assert found.words == 245_569
    assert not found.raw


# ---- all of them


def refusal(name: str, data: DataFile) -> str | None:
    """What is said of data that cannot be read, on one line; None if it can."""
    try:
        READERS[name](data)
    except DataError as error:
        said = str(error)
    else:
        return None
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_read_or_refused_in_one_sentence(name: str, text: str) -> None:
    said = refusal(name, file(text))
    assert said is None or said.startswith("FILE")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*SWAG, "text"]), inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("name", ["lambada", "hellaswag"])
@settings(max_examples=150, deadline=None)
@given(change=st.dictionaries(st.sampled_from([*SWAG, "text"]), json_values, max_size=4))
def test_any_json_is_read_or_refused_in_one_sentence(name: str, change: dict[str, Any]) -> None:
    written = lines({**SWAG, "text": "a b"} | change)
    said = refusal(name, written)
    if said is not None:
        assert said.startswith("FILE line 1: ")
        return
    found = READERS[name](written)
    for text in [found[0].context, *found[0].endings] if name == "hellaswag" else found:
        text.encode()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["1 a", "2 XXXXX b\ta\t\ta|b", "3 c", "", "\t", "21 XXXXX\t\t\t", "2 XXXXX\ta\t\t|", "x"]),
        max_size=8,
    )
)
def test_any_lines_of_cbt_are_read_or_refused_in_one_sentence(parts: list[str]) -> None:
    written = file("\n".join(parts))
    said = refusal("cbt", written)
    assert said is None or said.startswith("FILE")
    if said is None:
        assert all(0 <= choice.right < len(choice.endings) for choice in read_cbt(written))


def test_what_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'{"text": "a b"}\n{"text": "caf\xe9 x"}')
    for path, message in (
        (tmp_path / "none", "cannot be read (No such file"),
        (tmp_path, "cannot be read (Is a directory"),
        (tmp_path / "latin", "not UTF-8 (byte 0xE9 in line 2)"),
    ):
        for read in READERS.values():
            with pytest.raises(DataError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: {message}")


def test_data_that_cannot_be_fetched_says_where_it_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("Network is\nunreachable")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DownloadError) as caught:
        TASKS["lambada"].load()
    assert str(caught.value) == (
        "data/lambada_test.jsonl could not be fetched (Network is unreachable): download it from "
        "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl and name it with --data"
    )
    with pytest.raises(DownloadError, match=r"hellaswag_val.jsonl is not fetched by itself: download it from https://"):
        TASKS["hellaswag"].load()


def test_a_file_that_is_fetched_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    (tmp_path / "data").write_text('{"text": "one two"}\n')
    asked = []

    def download(repository: str, name: str, *, repo_type: str) -> str:
        asked.append((repository, name, repo_type))
        return str(tmp_path / "data")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert TASKS["lambada"].load().content == ["one two"]
    assert asked == [("EleutherAI/lambada_openai", "data/lambada_test.jsonl", "dataset")]
    assert fetch(Source("x", "y", "z")) == tmp_path / "data"


# ---- published figures


def test_published_figures_stand_beside_the_same_model_task_measure_and_stride_only() -> None:
    assert [figure.value for figure in published("gpt2", "lambada", "accuracy")] == [0.3256]
    assert published("gpt2-medium", "lambada", "accuracy") == []
    assert published(None, "lambada", "accuracy") == []
    assert [figure.value for figure in published("gpt2-large", "wikitext2", "perplexity", 512)] == [16.44]
    assert [figure.value for figure in published("gpt2-large", "wikitext2", "perplexity", 1024)] == [19.44]
    assert published("gpt2-large", "wikitext2", "perplexity", 100) == []
    assert {figure.task for figure in PUBLISHED} <= TASKS.keys()
