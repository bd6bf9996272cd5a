"""From a name to a path. What the hub answers is in tests/integration/test_hub.py; here it must not be asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import random_arrays, write_directory

import gptwo.embedded
from gptwo.checkpoint import FoundModel, embedded_models, hub, load_checkpoint, resolve
from gptwo.errors import InvalidRequestError, ModelNotFoundError


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package directory with one embedded model, "shakespeare"."""
    root = tmp_path / "embedded"
    write_directory(root / "shakespeare", random_arrays())
    (root / "__pycache__").mkdir()
    (root / "config.json").write_text("{}")
    monkeypatch.setattr(gptwo.embedded, "__path__", [str(root)])
    return root


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, bool]]:
    """The repositories that the hub was asked for, in place of asking it."""
    asked = []

    def download(repository: str, *, revision: str | None, progress: bool, otherwise: str, weights: bool) -> Path:
        asked.append((repository, revision, progress))
        return Path("downloaded")

    monkeypatch.setattr(hub, "download", download)
    return asked


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def test_embedded_comes_before_local_and_local_before_the_hub(embedded: Path, asked: list, elsewhere: Path) -> None:
    write_directory(elsewhere / "shakespeare", random_arrays())
    write_directory(elsewhere / "gpt2", random_arrays())
    write_directory(elsewhere / "owner" / "name", random_arrays())
    assert resolve("shakespeare") == embedded / "shakespeare"
    assert resolve("./shakespeare") == Path("shakespeare")
    assert resolve("gpt2") == Path("gpt2")
    assert resolve("owner/name") == Path("owner/name")
    assert asked == []
    assert resolve("owner/other") == Path("downloaded")
    assert asked == [("owner/other", None, False)]


def test_a_path_object_is_only_ever_a_path(embedded: Path, asked: list, elsewhere: Path) -> None:
    for name in ("shakespeare", "gpt2", "owner/name"):
        with pytest.raises(ModelNotFoundError, match=f"no such file or directory: '{name}'"):
            resolve(Path(name))
    write_directory(elsewhere / "shakespeare", random_arrays())
    assert resolve(Path("shakespeare")) == Path("shakespeare")
    assert asked == []


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("distilgpt2", "distilbert/distilgpt2"),
        ("gpt2-of-somebody", "gpt2-of-somebody"),
        ("Owner-1/na_me.v2", "Owner-1/na_me.v2"),
    ],
)
def test_short_names_stand_for_the_published_repositories(
    asked: list, elsewhere: Path, name: str, repository: str
) -> None:
    assert resolve(name, revision="abc", progress=True) == Path("downloaded")
    assert asked == [(repository, "abc", True)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "./gpt2",
        "../gpt2",
        "~/gpt2",
        "~nobody/gpt2",
        "/models/gpt2",
        "models/small/gpt2",
        "models\\gpt2",
        "gpt2/",
        "model.safetensors",
        "runs/model.safetensors",
        "ckpt.pt",
        "out/ckpt.PT",
        "pytorch_model.bin",
        "config.json",
        "gpt2\0",
        "x" * 5000,
        "my model",
        "owner/-name",
        "größe/modell",
        "--help",
    ],
)
def test_what_can_only_be_a_path_is_never_asked_of_the_hub(asked: list, elsewhere: Path, name: str) -> None:
    if name == ".":
        assert resolve(name) == Path()
        return
    with pytest.raises(
        ModelNotFoundError, match=r"no such file or directory|nor can a repository on the hub be called"
    ):
        resolve(name)
    assert asked == []


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_directory(tmp_path / "m", random_arrays())
    assert resolve("~/m") == tmp_path / "m"
    assert load_checkpoint("~/m").path == tmp_path / "m"


@pytest.mark.parametrize("name", ["__pycache__", "..", "shakespeare/", "Shakespeare ", "config.json"])
def test_only_an_embedded_models_own_name_finds_it(embedded: Path, asked: list, elsewhere: Path, name: str) -> None:
    try:
        found = resolve(name)
    except ModelNotFoundError:
        found = None
    assert found is None or embedded not in (found.parent, found.resolve())


def test_a_revision_of_something_that_is_here_is_an_error(embedded: Path, elsewhere: Path) -> None:
    write_directory(elsewhere / "m", random_arrays())
    for name in ("shakespeare", "m", Path("m")):
        with pytest.raises(InvalidRequestError, match="revision is for models on the hub") as caught:
            resolve(name, revision="main")
        assert caught.value.param == "revision"


def test_embedded_models_are_listed_with_their_size(embedded: Path) -> None:
    size = sum(file.stat().st_size for file in (embedded / "shakespeare").iterdir())
    assert embedded_models() == [FoundModel("shakespeare", embedded / "shakespeare", size)]


def test_the_name_of_every_embedded_model_loads() -> None:
    for model in embedded_models():
        assert load_checkpoint(model.name).path == model.path


def test_loading_a_local_checkpoint_imports_neither_torch_nor_the_hub(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    program = (
        "import sys; from gptwo.checkpoint import load_checkpoint\n"
        f"load_checkpoint({str(directory)!r}).tensors['wte.weight'].float32()\n"
        "print([name for name in ('torch', 'huggingface_hub', 'tokenizers', 'safetensors') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
