"""`python -m flowkit`: the same as the command `flowkit`."""

from flowkit.cli.main import main

if __name__ == "__main__":
    main()
