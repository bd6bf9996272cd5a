"""`python -m gptwo.evaluation`: lm-eval's command line, where `--model gptwo` is known."""

from __future__ import annotations

import sys

from gptwo.errors import MissingDependencyError

try:
    import gptwo.evaluation.harness  # noqa: F401  # registers the model
except ImportError as error:
    raise SystemExit(f"gptwo: {MissingDependencyError('this needs lm-eval')}") from error


def main() -> None:
    """Hand over to lm-eval."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
