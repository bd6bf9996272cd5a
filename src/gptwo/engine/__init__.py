"""The engine: requests in, tokens out, one step at a time."""

from gptwo.engine.engine import Engine
from gptwo.engine.output import Choice, Completion, Event, Failure, Piece, TokenLogprob, TopToken
from gptwo.engine.request import Request
from gptwo.engine.statistics import Statistics

__all__ = [
    "Choice",
    "Completion",
    "Engine",
    "Event",
    "Failure",
    "Piece",
    "Request",
    "Statistics",
    "TokenLogprob",
    "TopToken",
]
