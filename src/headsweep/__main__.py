"""`python -m headsweep`: the command line without the console script."""

from headsweep.cli import main

main()
