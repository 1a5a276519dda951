"""`zoo` and `python -m zoo`."""

import sys


def main() -> None:
    from zoo.cli import main as run

    sys.exit(run() and 0)


if __name__ == "__main__":
    main()
