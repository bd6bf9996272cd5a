"""`python -m gptwo.evaluation`: lm-eval's command line, where `--model gptwo` is known."""

from __future__ import annotations

import sys


def main() -> int | str:
    """Hand over to lm-eval; what is returned is for `sys.exit`."""
    try:
        import gptwo.evaluation.harness  # noqa: F401  # registers the model
    except ImportError:
        return "gptwo: this needs lm-eval: pip install '.[eval]' in gptwo's checkout"
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
