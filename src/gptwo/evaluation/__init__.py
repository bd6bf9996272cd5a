"""Evaluation: how good a model is, by its own probabilities.

>>> import gptwo
>>> from gptwo.evaluation import perplexity
>>> perplexity(gptwo.load("shakespeare"), "Now is the winter of our discontent").bits_per_byte

Everything runs through `LanguageModel`, and so through the compiled core, without PyTorch. docs/evaluation.md has the
formula, the data and the command of each measure.
"""

from gptwo.evaluation.cbt_gaps import cbt, read_cbt
from gptwo.evaluation.choices import Choice, Choices
from gptwo.evaluation.hellaswag_endings import hellaswag, read_hellaswag
from gptwo.evaluation.lambada_passages import Lambada, lambada, read_lambada
from gptwo.evaluation.perplexity_of_text import Perplexity, perplexity
from gptwo.evaluation.validation import ValidationLoss, validation_loss
from gptwo.evaluation.wikitext_articles import WikiText, read_wikitext, wikitext

__all__ = [
    "Choice",
    "Choices",
    "Lambada",
    "Perplexity",
    "ValidationLoss",
    "WikiText",
    "cbt",
    "hellaswag",
    "lambada",
    "perplexity",
    "read_cbt",
    "read_hellaswag",
    "read_lambada",
    "read_wikitext",
    "validation_loss",
    "wikitext",
]
