"""Texts that `gptwo prepare` knows by name: where they are, and fetching them, each file when its turn comes.

What is fetched lies in `~/.cache/gptwo/NAME`, under the paths that it has where it comes from; a file that somebody put
there is taken as it is. So a machine without a network is served by copying files.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from gptwo.errors import DataError, DownloadError, GptwoError, one_line, plural
from gptwo.files import replace_file

LISTING = "files.json"
TIMEOUT = 30.0  # seconds without a byte
HUB = "https://huggingface.co"
ENDPOINT: str | None = None  # of the hub; None is huggingface_hub's own, which HF_ENDPOINT sets
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class NamedSet:
    """Where a set of texts comes from: one file at an address, or files of a repository on the hub."""

    val_fraction: float
    """Unless told otherwise, and unless it has validation texts of its own."""
    url: str = ""
    sha256: str = ""
    """Of the file at `url`."""
    repository: str = ""
    train: str = ""
    """The pattern of the files in the repository."""
    val: str = ""
    """The same of those to validate; "" if it has none."""


NAMED_SETS = {
    "tinyshakespeare": NamedSet(
        0.1,
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "tinystories": NamedSet(
        0.01, repository="roneneldan/TinyStories", train="data/train-*.parquet", val="data/validation-*.parquet"
    ),
    "openwebtext": NamedSet(0.0005, repository="Skylion007/openwebtext", train="plain_text/train-*.parquet"),
    "fineweb-edu": NamedSet(0.001, repository="HuggingFaceFW/fineweb-edu", train="sample/10BT/*.parquet"),
}


@dataclass(frozen=True)
class SetFile:
    """One file of a named set."""

    name: str
    size: int
    fetch: Callable[[], Path]
    """The path, after a download if the file is not there. Raises DownloadError."""


def files_of(name: str, notice: Callable[[str], None] = lambda words: None) -> tuple[list[SetFile], list[SetFile]]:
    """The files of a named set: for training, and for validation. notice: is told, in words, what is fetched.

    Raises DownloadError, saying which file to put where, if they are not here and cannot be asked for.
    """
    known, directory = NAMED_SETS[name], directory_of(name)
    if known.url:
        path = directory / known.url.rpartition("/")[2]
        if not path.is_file():
            notice(f"{name}: fetching {known.url}")
            _by_address(name, path)
        return [SetFile(path.name, path.stat().st_size, lambda: path)], []
    revision, sizes = _listing(name, directory)

    def file(path: str) -> SetFile:
        return SetFile(path, sizes[path], lambda: _from_hub(name, directory, path, revision))

    train, val = ([path for path in sorted(sizes) if _matches(path, [part])] for part in (known.train, known.val))
    absent = [path for path in (*train, *val) if not (directory / path).is_file()]
    if absent:
        size = sum(sizes[path] for path in absent) / 1e9
        files = f"{len(absent)} {plural(len(absent), 'file')} ({size:.1f} GB)"
        notice(f"{name}: {files} will be fetched to {directory}, each when its turn comes")
    return list(map(file, train)), list(map(file, val))


def directory_of(name: str) -> Path:
    """Where the files of a set are kept: in GPTWO_CACHE, else in the user's cache."""
    own = os.environ.get("GPTWO_CACHE")
    if own:
        return Path(os.path.expanduser(own)) / name
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "gptwo" / name


def _by_address(name: str, path: Path) -> None:
    """Download the one file of a set."""
    known = NAMED_SETS[name]
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(known.url, timeout=TIMEOUT) as answer, replace_file(path) as file:
            expected = answer.headers.get("Content-Length")
            while block := answer.read(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"{file.tell()} of {expected} bytes came")
            if digest.hexdigest() != known.sha256:
                raise OSError("what came is another file")
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise _failure(name, known.url, path, error) from error


def _listing(name: str, directory: Path) -> tuple[str, dict[str, int]]:
    """The revision of a set on the hub, and the sizes of its files by path; what is known of an earlier time without.

    Files that were put here without a listing are the set, if the hub cannot be asked.
    """
    from huggingface_hub import HfApi

    from gptwo.checkpoint.hub import FAILURES, quiet

    known = NAMED_SETS[name]
    patterns = [pattern for pattern in (known.train, known.val) if pattern]
    kept = _kept_listing(directory)
    if kept is not None:
        return kept
    try:
        with quiet(bars=False):
            info = HfApi(endpoint=ENDPOINT).dataset_info(known.repository, timeout=TIMEOUT, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or () if _matches(one.rfilename, patterns)}
        if info.sha is None or not any(_matches(path, [pattern]) for pattern in patterns for path in sizes):
            raise ValueError(f"it holds no {patterns[0]}")
    except FAILURES as error:
        here = [path.relative_to(directory).as_posix() for path in directory.rglob("*.parquet")]
        sizes = {path: (directory / path).stat().st_size for path in here if _matches(path, patterns)}
        if not any(_matches(path, [known.train]) for path in sizes):
            what = f"{' and '.join(patterns)} of {HUB}/datasets/{known.repository}, under these paths,"
            raise _failure(name, what, directory, error) from error
        return "main", sizes
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replace_file(directory / LISTING) as file:
            file.write(json.dumps({"revision": info.sha, "files": sizes}, indent=2).encode())
    except OSError as error:
        raise DataError(f"{directory}: cannot be written ({error.strerror})") from error
    return info.sha, sizes


def _kept_listing(directory: Path) -> tuple[str, dict[str, int]] | None:
    """What the hub said when it was asked first: so a set stays the same, and half of it is never taken for it."""
    try:
        values = json.loads((directory / LISTING).read_bytes())
        return str(values["revision"]), {str(path): int(size) for path, size in values["files"].items()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{directory / LISTING}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{directory / LISTING}: is broken; delete it") from error


def _from_hub(name: str, directory: Path, path: str, revision: str) -> Path:
    """Download one file of a set, unless it is there."""
    here = directory / path
    if here.is_file():
        return here
    from huggingface_hub import hf_hub_download

    from gptwo.checkpoint.hub import FAILURES, quiet

    known = NAMED_SETS[name]
    try:
        with quiet(bars=True):
            return Path(
                hf_hub_download(
                    known.repository,
                    path,
                    repo_type="dataset",
                    revision=revision,
                    local_dir=directory,
                    endpoint=ENDPOINT,
                )
            )
    except FAILURES as error:
        address = f"{HUB}/datasets/{known.repository}/resolve/{revision}/{path}"
        raise _failure(name, address, here, error) from error


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _failure(name: str, what: str, place: Path, error: Exception) -> GptwoError:
    reason = one_line(getattr(error, "reason", None) or error) or type(error).__name__
    return DownloadError(f"{name}: cannot be fetched ({reason}); put {what} at {place} and give the same command again")
