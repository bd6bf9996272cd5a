"""Downloading from the Hugging Face hub, and its cache on this machine.

huggingface_hub does the work; here is decided what is fetched, in which order, and what a failure is called. One
request asks which commit a revision is and which files it has; without an answer the cache is used as it is. Files are
then fetched by commit, so that they always belong together; those that are cached cost no request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from gptwo.checkpoint.resolve import FoundModel, size_of
from gptwo.checkpoint.tokenizer_files import TOKENIZER_FILES, tokenizer_in
from gptwo.checkpoint.transformers_format import CONFIG, WEIGHTS, read_index, weights_file
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, ConfigError, DownloadError, GptwoError, ModelNotFoundError

_INDEX: Final = ".index.json"
_MAIN: Final = "main"

# What reaching the hub can raise: what the system says; the errors of the HTTP library, whichever it is, which are the
# bases of the hub's own; an answer that is not the hub's (ValueError, KeyError, TypeError); RuntimeError from Xet.
FAILURES: Final[tuple[type[Exception], ...]] = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)


def download(repository: str, *, revision: str | None, progress: bool, otherwise: str, weights: bool = True) -> Path:
    """The directory of a repository's configuration, tokenizer and weights, fetched as far as they are not cached.

    otherwise: says where else the name was looked for. weights: without them only the tokenizer is needed.

    Raises ModelNotFoundError, DownloadError, CheckpointError, or ConfigError, which comes before the weights are
    fetched.
    """
    source = _Source(repository, revision or _MAIN, otherwise)
    with quiet(bars=progress):
        try:
            info = HfApi().model_info(repository, revision=source.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except FAILURES as error:
            cached = _complete_snapshot(source) if weights else _snapshot_with_tokenizer(source)
            if cached is not None and not isinstance(error, RevisionNotFoundError):
                return cached
            raise source.failure(error) from error
        listing = {file.rfilename for file in info.siblings or ()}
        if info.sha is None or CONFIG not in listing or (weights and not listing & set(WEIGHTS)):
            raise CheckpointError(
                f"repository {repository} on the hub holds no GPT-2 that gptwo reads: it lacks "
                f"{CONFIG if CONFIG not in listing else 'every one of ' + ', '.join(WEIGHTS)}"
            )
        try:
            return (_fetch if weights else _fetch_tokenizer)(source, info.sha, listing)
        except GptwoError:
            raise
        except FAILURES as error:
            raise source.failure(error) from error


@dataclass(frozen=True)
class _Source:
    repository: str
    revision: str
    otherwise: str

    def failure(self, error: Exception) -> ModelNotFoundError | DownloadError:
        """What to tell the person who asked for it."""
        if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, of which it is one
            return DownloadError(
                f"repository {self.repository} is gated: ask for access on its page on the hub, "
                "then log in with `hf auth login` or set HF_TOKEN"
            )
        if isinstance(error, RepositoryNotFoundError):
            return ModelNotFoundError(
                f"{self.otherwise}, and the hub has no repository {self.repository!r}; if it is a private one, "
                "log in with `hf auth login` or set HF_TOKEN"
            )
        if isinstance(error, HFValidationError):
            return ModelNotFoundError(f"{self.otherwise}, nor can a repository on the hub be called so")
        if isinstance(error, RevisionNotFoundError):
            return ModelNotFoundError(f"repository {self.repository} on the hub has no revision {self.revision!r}")
        if isinstance(error, OfflineModeIsEnabled):
            return DownloadError(
                f"{self.otherwise}, and repository {self.repository} (revision {self.revision}) is not in the cache, "
                "while HF_HUB_OFFLINE forbids to download it; unset that, or name a local path"
            )
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            advice = "try again later" if status == 429 or status >= 500 else "check HF_TOKEN and HF_ENDPOINT"
            return DownloadError(f"the hub refused repository {self.repository} (status {status}); {advice}")
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return DownloadError(
            f"{self.otherwise}, and repository {self.repository} (revision {self.revision}) is neither whole in the "
            f"cache nor could it be downloaded ({reason}); check the network, or name a local path"
        )


def _fetch(source: _Source, commit: str, listing: Collection[str]) -> Path:
    """Fetch what is needed of a commit, the configuration first and the weights last."""
    config = _fetch_file(source, CONFIG, commit)
    try:
        GPTConfig.load(config)
    except ConfigError as error:
        raise ConfigError(f"repository {source.repository} on the hub: {error}") from error
    _fetch_tokenizer_files(source, commit, listing)
    weights = next(name for name in WEIGHTS if name in listing)
    file = _fetch_file(source, weights, commit)
    if weights.endswith(_INDEX):
        for shard in read_index(file):
            if shard not in listing:
                raise CheckpointError(f"repository {source.repository} on the hub lacks {shard}, which {weights} lists")
            _fetch_file(source, shard, commit)
    if source.revision != commit and _snapshot(source) != config.parent:
        # Only now does the cache learn that the revision is this commit: until here it offered the last whole one.
        _fetch_file(source, CONFIG, source.revision)
    return config.parent


def _fetch_tokenizer(source: _Source, commit: str, listing: Collection[str]) -> Path:
    """Fetch the tokenizer of a commit, and the configuration, by which a directory is found in the cache."""
    config = _fetch_file(source, CONFIG, commit)
    _fetch_tokenizer_files(source, commit, listing)
    if source.revision != commit and _snapshot(source) is None:
        # An older commit that is whole stays the one that the cache offers.
        _fetch_file(source, CONFIG, source.revision)
    return config.parent


def _fetch_tokenizer_files(source: _Source, commit: str, listing: Collection[str]) -> None:
    for name in TOKENIZER_FILES:
        if name in listing:
            _fetch_file(source, name, commit)


def _fetch_file(source: _Source, name: str, revision: str) -> Path:
    return Path(hf_hub_download(source.repository, name, revision=revision))


def _snapshot(source: _Source) -> Path | None:
    """The cached directory of a revision, whole or not."""
    config = try_to_load_from_cache(source.repository, CONFIG, revision=source.revision)
    return Path(config).parent if isinstance(config, str) else None


def _complete_snapshot(source: _Source) -> Path | None:
    snapshot = _snapshot(source)
    return snapshot if snapshot is not None and _has_weights(snapshot) else None


def _snapshot_with_tokenizer(source: _Source) -> Path | None:
    snapshot = _snapshot(source)
    return tokenizer_in(snapshot) if snapshot is not None else None


def _has_weights(directory: Path) -> bool:
    weights = weights_file(directory)
    if weights is None or not weights.name.endswith(_INDEX):
        return weights is not None
    try:
        return all((directory / shard).is_file() for shard in read_index(weights))
    except CheckpointError:
        return False


def cached_models() -> list[FoundModel]:
    """The GPT-2s in the hub's cache on this machine whose weights are all there, by name, without any request."""
    found = []
    for config in sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{CONFIG}")):
        directory = config.parent
        name = directory.parents[1].name.removeprefix("models--").replace("--", "/")
        try:
            listed = _complete_snapshot(_Source(name, _MAIN, "")) == directory and _is_gpt2(config)
        except ValueError:  # a directory that huggingface_hub did not name
            continue
        if listed:
            found.append(FoundModel(name, directory, size_of(directory)))
    return found


def _is_gpt2(config: Path) -> bool:
    try:
        GPTConfig.load(config)
    except ConfigError:
        return False
    return True


@contextmanager
def quiet(*, bars: bool) -> Iterator[None]:
    """As long as this lasts, let huggingface_hub show progress bars or nothing, and never its warnings.

    On anything but a terminal its bars show nothing by themselves.
    """
    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    _show_bars(bars)
    try:
        yield
    finally:
        logger.setLevel(level)
        _show_bars(had_bars)


def _show_bars(shown: bool) -> None:
    if "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        return  # the user's word, which huggingface_hub follows by itself and warns of being asked to break
    if shown:
        enable_progress_bars()
    else:
        disable_progress_bars()
