"""`python -m fa_lightning`."""

import sys

from fa_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
