"""What can be looked into, asked before anything is computed or PyTorch is imported."""

from __future__ import annotations

from gptwo.checkpoint import Checkpoint
from gptwo.errors import InvalidRequestError
from gptwo.options import shown


def check_unpacked(checkpoint: Checkpoint) -> None:
    """Raise InvalidRequestError for packed weights: only the core reads them, and it keeps no activations."""
    if checkpoint.packed is not None:
        raise InvalidRequestError(
            f"{checkpoint.path} is packed as {checkpoint.packed.weights}, and a packed model cannot be looked into; "
            "name the checkpoint that it was made from",
            param="model",
        )


def check_inspector(inspector: object) -> None:
    """Raise InvalidRequestError for what is no Inspector, such as a model's name or a LanguageModel."""
    from gptwo.inspection import Inspector

    if not isinstance(inspector, Inspector):
        raise InvalidRequestError(
            f"the first argument is {shown(inspector)}, expected an Inspector, which Inspector.load(name) gives",
            param="inspector",
        )
