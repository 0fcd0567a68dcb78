"""`python -m llamakit`."""

from llamakit.start import main

main()
