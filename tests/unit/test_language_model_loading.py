"""Loading a language model: from where, with which tokenizer, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import TOKENIZER, random_arrays, reference_decoder, tiny_config

import gptwo
from gptwo.checkpoint import save_checkpoint
from gptwo.errors import CheckpointError, InvalidRequestError, ModelNotFoundError, TokenizerError
from gptwo.language_model import LanguageModel
from gptwo.sampling import SamplingParams

PARAMS = SamplingParams(max_tokens=6, seed=1, ignore_eos=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(path, tiny_config(), random_arrays(tiny_config()), TOKENIZER)
    return path


def test_a_model_is_loaded_from_its_directory(directory: Path) -> None:
    with gptwo.load(directory, threads=1) as lm:
        assert lm.config.n_embd == 16
        assert lm.tokenizer is not None
        assert lm.tokenizer.fingerprint == TOKENIZER.fingerprint
        assert repr(lm) == f"<LanguageModel {directory}: {lm.config.parameter_count:,} parameters>"
        expected = LanguageModel(reference_decoder(tiny_config()), TOKENIZER).generate("speak", PARAMS)
        assert lm.generate("speak", PARAMS).token_ids == expected.token_ids


def test_a_tokenizer_can_be_given_in_place_of_the_models_own(directory: Path, tmp_path: Path) -> None:
    letters = gptwo.Tokenizer.characters(["abc"])
    letters.save(tmp_path)
    for tokenizer in (letters, tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        lm = gptwo.load(str(directory), tokenizer=tokenizer, threads=1)
        assert lm.generate("cab", PARAMS).prompt_token_ids == (2, 0, 1)
        # The rest of the vocabulary is padding now.
        assert set(lm.generate("cab", SamplingParams(max_tokens=30, seed=1, ignore_eos=True)).token_ids) <= set(
            range(4)
        )


def test_a_model_without_a_tokenizer_is_loaded_all_the_same(directory: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    lm = gptwo.load(tmp_path, threads=1)
    assert lm.tokenizer is None
    assert len(lm.generate([1], PARAMS).token_ids) == 6


def test_a_tokenizer_larger_than_the_model_names_the_tensor_and_both_shapes(directory: Path) -> None:
    larger = gptwo.Tokenizer.characters([chr(0x4E00 + i) for i in range(400)])
    message = r"wte.weight has shape \(300, 16\), but a tokenizer of 401 tokens needs \(401, 16\)"
    with pytest.raises(CheckpointError, match=message):
        gptwo.load(directory, tokenizer=larger)


def test_what_cannot_be_loaded_says_why(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        gptwo.load(tmp_path / "none")
    with pytest.raises(TokenizerError, match="no such file or directory"):
        gptwo.load(directory, tokenizer=tmp_path / "none")
    with pytest.raises(InvalidRequestError, match="tokenizer is 5, expected a Tokenizer, a directory or a file"):
        gptwo.load(directory, tokenizer=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="backend 'fast' is not known"):
        gptwo.load(directory, backend="fast")
