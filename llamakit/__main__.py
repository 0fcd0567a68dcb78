"""`python -m llamakit`."""

from llamakit.cli import main

main()
