"""The engine: requests in, tokens out, one step at a time."""

from gptwo.engine.engine import Engine
from gptwo.engine.output import (
    Choice,
    Completion,
    Event,
    Failure,
    Likelihood,
    Piece,
    Scored,
    TokenLogprob,
    TopToken,
)
from gptwo.engine.request import Request, ScoringRequest
from gptwo.engine.statistics import Statistics

__all__ = [
    "Choice",
    "Completion",
    "Engine",
    "Event",
    "Failure",
    "Likelihood",
    "Piece",
    "Request",
    "Scored",
    "ScoringRequest",
    "Statistics",
    "TokenLogprob",
    "TopToken",
]
