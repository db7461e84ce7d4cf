"""`python -m DiffuGTSLib.remote`."""

import sys

from DiffuGTSLib.remote import main

if __name__ == "__main__":
    sys.exit(main())
