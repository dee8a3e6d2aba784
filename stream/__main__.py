"""`python -m stream` is `rankloop`."""

from stream.cli.main import main

if __name__ == "__main__":
    main(prog_name="rankloop")
