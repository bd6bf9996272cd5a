"""What `gptwo prepare` reads: files, directories of them, and named sets, as one list in a fixed order."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptwo.errors import DataError, InvalidRequestError, nearest_name
from gptwo.training.named_sets import NAMED_SETS, SetFile, files_of
from gptwo.training.prepare_config import DEFAULT_VAL_FRACTION, PrepareConfig
from gptwo.training.records import COMPRESSED, KINDS, Document, Fields, kind_of, read_documents, suffix_of

TEXT_SUFFIXES = (".txt", ".text", ".md")


@dataclass(eq=False)
class Source:
    """One file of documents."""

    name: str
    """Says by its suffix what the file holds."""
    size: int
    """In bytes, for the progress."""
    identity: tuple[str | int, ...]
    """Changes when the file does."""
    place: str
    """The real path, or the name in a set: of two that are the same file, the same."""
    fetch: Callable[[], Path]
    """The path, after a download if need be."""
    share: float = field(default=0.0, init=False)
    """How much of it is read."""

    def documents(self, fields: Fields, first: int = 0) -> Iterator[Document]:
        """Its documents from record `first` on. Raises what `read_documents` does, and DownloadError."""

        def tell(share: float) -> None:
            self.share = min(1.0, share)

        return read_documents(self.fetch(), self.name, fields, first, tell)


@dataclass(frozen=True)
class Inputs:
    """All that is read, in order: what is for training, or yet to be split, and then what was given to validate."""

    sources: tuple[Source, ...]
    first_val: int
    """The index of the first source that is for validation as a whole; the number of sources without such ones."""
    fields: Fields
    val_fraction: float
    """The share of the others that is for validation too."""
    max_documents: int | None
    """How many of the others are read."""

    def documents(
        self, source: int = 0, record: int = 0, number: int = 0, *, val: bool = True
    ) -> Iterator[tuple[int, int, Document]]:
        """The index of its source, the number, from 0, and each document, from a record of a source on.

        number: that of the first of them. val: go on to the sources that are for validation.
        """
        most = float("inf") if self.max_documents is None else self.max_documents
        for index in range(source, len(self.sources) if val else self.first_val):
            limited = index < self.first_val
            if limited and number >= most:
                continue
            for document in self.sources[index].documents(self.fields, record if index == source else 0):
                yield index, number, document
                number += 1
                if limited and number >= most:
                    break

    def share(self, source: int) -> float:
        """How much is read when `source` is the one at hand."""
        total = sum(one.size for one in self.sources)
        before = sum(one.size for one in self.sources[:source])
        return (before + self.sources[source].size * self.sources[source].share) / total if total else 1.0


def find_inputs(
    texts: Sequence[Path | str], config: PrepareConfig, notice: Callable[[str], None] = lambda words: None
) -> Inputs:
    """What files, directories and named sets hold; see `prepare` for the arguments.

    Raises InvalidRequestError for fields that no file has and for a text that is to train and to validate with,
    DataError for what is not there, DownloadError for a set that could not be fetched.
    """
    sources: list[Source] = []
    own_val: list[Source] = []
    fraction = config.val_fraction
    for text in texts:
        for_training, for_validation = _sources_of(text, config.suffix, notice)
        sources += for_training
        own_val += for_validation
        if fraction is None and (named := _named(text)) is not None:
            fraction = NAMED_SETS[named].val_fraction
    if config.val:
        given = [one for text in config.val for part in _sources_of(text, config.suffix, notice) for one in part]
    else:  # a share that was asked for goes before a set's own texts
        given = own_val if config.val_fraction is None else []
    learned = {source.place for source in sources}
    for source in given:
        if source.place in learned:
            raise InvalidRequestError(
                f"{source.place}: is among the texts to train with, so it cannot tell how a model does on others; "
                "choose another text to validate with",
                "val",
            )
    if fraction is None:
        fraction = DEFAULT_VAL_FRACTION
    fields = _fields(config, [*sources, *given])
    return Inputs((*sources, *given), len(sources), fields, 0.0 if given else fraction, config.max_documents)


def _fields(config: PrepareConfig, sources: Sequence[Source]) -> Fields:
    plain = [source.name for source in sources if kind_of(source.name) == "text"]
    if plain and (config.prompt_field or (config.field and len(plain) == len(sources))):
        raise InvalidRequestError(
            f"{plain[0]} is read as plain text, which has no fields; files that have end in {', '.join(KINDS)}",
            "prompt_field" if config.prompt_field else "field",
        )
    if config.completion_field is not None:
        return Fields(config.completion_field, config.prompt_field)
    return Fields() if config.field is None else Fields(config.field)


def _named(text: Path | str) -> str | None:
    """The named set that a text is; a path that exists goes before a set of the same name."""
    return text if isinstance(text, str) and text in NAMED_SETS and not os.path.exists(text) else None


def _sources_of(
    text: Path | str, suffixes: Sequence[str], notice: Callable[[str], None]
) -> tuple[list[Source], list[Source]]:
    """What a text given by name or path holds: for training, and for validation."""
    named = _named(text)
    if named is not None:
        train, val = files_of(named, notice)
        return list(map(_set_file, train)), list(map(_set_file, val))
    if text == "":  # which pathlib takes for this directory
        raise InvalidRequestError("a name of a text is empty; is a variable of the shell not set?", "texts")
    if text == "-":
        raise InvalidRequestError(
            "-: standard input can be read once, and texts are read more than once; write it to a file first", "texts"
        )
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):  # as Path.is_dir, but no error for a name that is too long
        return _directory(path, suffixes), []
    return [_file(path, isinstance(text, str))], []


def _set_file(file: SetFile) -> Source:
    return Source(file.name, file.size, (file.name, file.size), file.name, file.fetch)


def _file(path: Path, by_name: bool) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        near = nearest_name(str(path), NAMED_SETS) if by_name and path.name == str(path) else ""
        raise DataError(f"{path}: cannot be read ({error.strerror})" + near * near.startswith("; did you")) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is no ordinary file, and texts are read more than once; write it to one first")
    if suffix_of(path.name) == ".json":
        raise DataError(f"{path}: one whole JSON is not read; give JSONL, one record a line (jq -c '.[]' makes it)")
    identity = (path.name, status.st_size, status.st_mtime_ns)
    return Source(path.name, status.st_size, identity, os.path.realpath(path), lambda: path)


def _directory(directory: Path, suffixes: Sequence[str]) -> list[Source]:
    """The files below a directory that end as asked, by path; those whose name begins with a dot are left out."""
    wanted = {s.lower() if s.startswith(".") else f".{s.lower()}" for s in suffixes} or {*TEXT_SUFFIXES, *KINDS}
    found = []

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, names, files in os.walk(directory, onerror=fail):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(place, name) for name in files if suffix_of(name) in wanted and not name.startswith(".")]
    if not found:
        raise DataError(f"{directory}: holds no file that ends in {', '.join(sorted(wanted))} ({'|'.join(COMPRESSED)})")
    return [_file(path, False) for path in sorted(found, key=lambda path: path.relative_to(directory).as_posix())]


def describe(inputs: Inputs) -> str:
    """What is read, as JSON: it changes when anything does that decides about the result."""
    return json.dumps(
        {
            "sources": [source.identity for source in inputs.sources],
            "first_val": inputs.first_val,
            "fields": inputs.fields.names,
            "val_fraction": inputs.val_fraction,
            "max_documents": inputs.max_documents,
        }
    )
