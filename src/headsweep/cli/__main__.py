"""`python -m headsweep.cli`: the command line without the console script."""

from headsweep.cli import main

main()
