"""`python -m ptkit`."""

from ptkit.cli import main

main()
