"""`zoo` and `python -m zoo`."""


def main() -> None:
    from zoo.cli import main as run  # so that importing the package costs nothing

    run()


if __name__ == "__main__":
    main()
