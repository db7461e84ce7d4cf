"""`python -m DiffuGTSLib.cli`."""

from DiffuGTSLib.cli import main

if __name__ == "__main__":
    main()
