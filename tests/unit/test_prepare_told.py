"""What `gptwo prepare` does not do unasked, and what it says of what it was given and what it made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_run import make_text

import gptwo.training.data_tokenizer as tokenizers
from gptwo.cli import main
from gptwo.errors import DataError, DownloadError, InvalidRequestError, ModelNotFoundError
from gptwo.training.prepare import prepare
from gptwo.training.prepared import PreparedData

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(make_text(3000))
    return path


def content(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


# ---- data that is there already


@pytest.mark.parametrize("changed", ["settings", "texts", "the text itself"])
def test_finished_data_is_not_replaced_by_another_command(
    changed: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    made = prepare([text], tmp_path / "out", tokenizer="char")
    before = content(tmp_path / "out")
    arguments = ["prepare", "text.txt", "--out", "out", "--tokenizer", "char"]
    if changed == "settings":
        arguments[-1] = "bpe:300"
    elif changed == "texts":
        arguments.insert(2, "text.txt")
    else:
        text.write_text(make_text(2000, seed=3))
    assert main(arguments) == 1
    assert capsys.readouterr() == (
        "",
        f"gptwo: out: holds finished data of other texts or settings, made by {made.command!r}; "
        "--restart makes it anew, and another --out leaves it\n",
    )
    assert content(tmp_path / "out") == before
    assert main([*arguments, "--restart"]) == 0
    assert content(tmp_path / "out") != before
    assert main(arguments) == 0
    assert capsys.readouterr().err == "out: holds this already; nothing was done\n"


def test_restart_makes_the_same_data_again(text: Path, tmp_path: Path) -> None:
    prepare([text], tmp_path / "out", tokenizer="bpe:300")
    before = content(tmp_path / "out")
    told: list[str] = []
    prepare([text], tmp_path / "out", tokenizer="bpe:300", restart=True, notice=told.append)
    assert (content(tmp_path / "out"), told) == (before, [])  # and nobody said that it was there


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff"])
def test_data_whose_description_is_broken_is_made_again_as_its_error_advises(
    damage: bytes, text: Path, tmp_path: Path
) -> None:
    prepare([text], tmp_path / "out", tokenizer="char")
    (tmp_path / "out" / "data.json").write_bytes(damage)
    assert prepare([text], tmp_path / "out", tokenizer="bpe:300") == PreparedData.load(tmp_path / "out")


@pytest.mark.parametrize("description", [{}, {"key": None, "command": 5}, {"command": "a\nb" * 500}])
def test_data_of_whatever_description_is_not_replaced(
    description: dict[str, object], text: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="--restart makes it anew") as caught:
        prepare([text], tmp_path / "out", tokenizer="char")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("restart", [False, True])
def test_another_programs_token_files_are_never_replaced(restart: bool, text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.bin").write_bytes(np.arange(9, dtype="<u2").tobytes())
    with pytest.raises(DataError, match="out: holds token files of another program; choose another --out"):
        prepare([text], tmp_path / "out", tokenizer="char", restart=restart)
    assert os.listdir(tmp_path / "out") == ["train.bin"]


# ---- what is said


def test_validation_data_that_came_out_empty_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a few")
    told: list[str] = []
    made = prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="char", notice=told.append)
    assert len(made.val) == 0
    assert told == [
        f"{tmp_path / 'out'}: there is nothing to validate with (0 tokens); more text, a larger --val-fraction "
        "or --val gives something"
    ]
    told.clear()
    prepare([tmp_path / "a.txt"], tmp_path / "none", tokenizer="char", val_fraction=0.0, notice=told.append)
    assert told == []  # as it was asked for


def test_one_validation_token_which_nothing_can_be_predicted_from_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a few more")
    told: list[str] = []
    assert len(prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="char", notice=told.append).val) == 1
    assert "nothing to validate with (1 token); " in told[0]


def test_a_vocabulary_smaller_than_asked_is_told(text: Path, tmp_path: Path) -> None:
    told: list[str] = []
    made = prepare([text], tmp_path / "out", tokenizer="bpe:5000", notice=told.append)
    size = made.train.vocab_size
    assert told == [f"{tmp_path / 'out'}: bpe:5000 has {size} tokens only; the texts repeat too little for more"]
    told.clear()
    prepare([text], tmp_path / "exact", tokenizer=f"bpe:{size}", notice=told.append)
    assert told == []


@pytest.mark.parametrize("how", ["text.txt", "./text.txt", "link.txt", "."])
def test_a_text_to_train_with_does_not_validate(
    how: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "link.txt").symlink_to(text)
    assert main(["prepare", "text.txt", "--val", how, "--out", "out", "--tokenizer", "char"]) == 2
    assert f"{os.path.realpath(text)}: is among the texts to train with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_copy_elsewhere_under_the_same_name_validates(text: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "text.txt").write_text(make_text(500, seed=9))
    made = prepare([text], tmp_path / "out", tokenizer="char", val=[str(tmp_path / "other" / "text.txt")])
    assert len(made.val) == 500


def test_standard_input_is_refused_with_what_to_do(text: Path, tmp_path: Path) -> None:
    for texts, val in ((["-"], ()), ([text], ("-",))):
        with pytest.raises(InvalidRequestError, match=r"standard input can be read once, .*; write it to a file first"):
            prepare(texts, tmp_path / "out", tokenizer="char", val=val)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("chars", "char"), ("Char", "char"), ("gpt-2", "gpt2"), ("bpe", "bpe:SIZE"), ("BPE:300", "bpe:SIZE")],
)
def test_a_tokenizer_that_is_nowhere_is_answered_with_the_word_that_was_meant(
    name: str, meant: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(name: str, **_: object) -> Path:
        raise DownloadError("the hub could not say") if "b" in name else ModelNotFoundError("the hub has none")

    monkeypatch.setattr(tokenizers, "resolve", resolve)
    with pytest.raises((DownloadError, ModelNotFoundError), match=f"the hub .*; did you mean '{meant}'\\?$"):
        prepare([text], tmp_path / "out", tokenizer=name)
    for published in ("gpt2", "gpt2-xl", "nothing/of-the-kind", "words"):
        with pytest.raises(ModelNotFoundError, match=r"the hub has none$"):
            prepare([text], tmp_path / "out", tokenizer=published)


def test_one_of_a_kind_is_told_in_the_singular(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"text": "a"}, {"text": "bcd"}, {"text": "ef"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "val.txt").write_text("g")
    texts = [str(tmp_path / "a.jsonl"), "--val", str(tmp_path / "val.txt")]
    assert main(["prepare", *texts, "--out", str(tmp_path / "out"), "--tokenizer", "char"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "train             8 tokens              6 characters            3 documents",
        "val               1 token               1 character             1 document",
    ]
