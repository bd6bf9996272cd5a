"""`python -m gptwo`."""

import sys

from gptwo.cli import main

if __name__ == "__main__":
    sys.exit(main())
