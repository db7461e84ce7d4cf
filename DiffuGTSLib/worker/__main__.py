"""`python -m DiffuGTSLib.worker`."""

import sys

from DiffuGTSLib.worker import main

if __name__ == "__main__":
    sys.exit(main())
