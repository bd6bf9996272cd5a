"""Every error that a user of gptwo can meet.

Each class carries the exit code that the command line ends with and the HTTP status that a server answers with, so
that the same failure reads the same wherever it is met. The message is one sentence for the person who meets it: what
was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, TypeVar, cast

Kind = TypeVar("Kind", bound=Exception)


class GptwoError(Exception):
    """The base of all errors that gptwo raises on purpose; anything else that escapes is a defect in gptwo."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class ConfigError(GptwoError, ValueError):
    """A model configuration that is not a GPT-2's, or that contradicts itself."""

    http_status = 400


class InvalidRequestError(GptwoError, ValueError):
    """A parameter that is unknown, of the wrong type, or out of range. `param` names it."""

    http_status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(InvalidRequestError):
    """More positions were asked for than the model has."""


class TokenizerError(GptwoError, ValueError):
    """A tokenizer that cannot be read, or text or ids that it cannot encode or decode."""

    http_status = 400


class CheckpointError(GptwoError):
    """A checkpoint that cannot be read or written: broken, incomplete, or of another shape than its configuration."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle that holds more than tensors and plain values; it is refused, never executed."""


class ModelNotFoundError(GptwoError):
    """A name that is no embedded model, no local path and no repository on the hub."""

    http_status = 404


class DownloadError(GptwoError):
    """The hub could not be reached, or refused."""

    http_status = 503


class MissingDependencyError(GptwoError):
    """Something was asked for that needs an extra which is not installed."""


class DecoderError(GptwoError):
    """A decoder was used out of order: a closed sequence, a gap in the positions, a token id out of range."""


class NumericalError(GptwoError):
    """A computation left the real numbers: NaN or infinite logits, or a loss that diverged."""


class OutOfMemoryError(GptwoError, MemoryError):
    """The system has no more memory for the weights, the cache or a step."""

    http_status = 503


class RetryLaterError(GptwoError):
    """Refused for now; the same request may be answered in `retry_after` seconds."""

    http_status = 503

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(RetryLaterError):
    """More requests wait already than a server lets wait."""

    http_status = 429


class QueueTimeoutError(RetryLaterError):
    """A request waited for its turn for longer than a server lets it."""


class DrainingError(RetryLaterError):
    """A server is about to end: it takes no request any more, or could not wait for one to be answered."""


class DataError(GptwoError):
    """Training data or an input file that cannot be read."""


class TrainingError(GptwoError):
    """A training run that cannot start, go on, or save."""


class AuthenticationError(GptwoError):
    """A server was asked without an API key, or with one that it does not know."""

    http_status = 401


class PayloadTooLargeError(InvalidRequestError):
    """A request's body has more bytes than the server takes."""

    http_status = 413


class BodyTimeoutError(InvalidRequestError):
    """A request's body did not arrive in time."""

    http_status = 408


class MediaTypeError(InvalidRequestError):
    """A request's body is of a type, or coded in a way, that the server does not read."""

    http_status = 415


class TooManyRequestsError(RetryLaterError):
    """More requests of one API key at a time than the server allows."""

    http_status = 429


class NotReadyError(RetryLaterError):
    """The server's model is still being loaded."""


class ServerError(GptwoError):
    """A server that cannot start: an address that is taken, or keys that cannot be read."""


class ExportError(GptwoError):
    """A model that could not be exported, or not to where it was to be."""


class BenchError(GptwoError):
    """A measurement that could not be made: another engine that does not answer, or cannot be given the weights."""


class ExerciseError(GptwoError):
    """A lesson of the course uses what its reader has not written yet."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [str(self)]


def nearest_name(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """A hint for an unknown name: `; did you mean 'top_p'?`, or `otherwise` when none is near: the names that exist.

    Example: nearest_name("topp", ["top_k", "top_p"]) == "; did you mean 'top_p'?"
    """
    import difflib  # for those who made a mistake

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known names: {', '.join(names)}" if otherwise is None else otherwise


class CheckpointWarning(UserWarning):
    """A checkpoint was read, but not all that is in it was used, or not as its configuration says."""


class TrainingWarning(UserWarning):
    """A training run goes on otherwise than it began."""


class BackendWarning(UserWarning):
    """Another backend than the usual one runs the model."""


def one_line(error: object, longest: int = 160) -> str:
    """What another library's error says, on one line and cut short, to be quoted in an error of ours."""
    return " ".join(str(error).split())[:longest]


def plural(count: int, noun: str) -> str:
    """The noun as it stands behind a number. Example: "token" behind 1, "tokens" behind 0."""
    return noun if count == 1 else noun + "s"


def class_named(name: str, otherwise: type[Kind]) -> type[Kind]:
    """The error or warning of this module that another process named; `otherwise` if it is none of that kind."""
    base = GptwoError if issubclass(otherwise, GptwoError) else Warning
    found = globals().get(name)
    return cast("type[Kind]", found) if isinstance(found, type) and issubclass(found, base) else otherwise
