#!/usr/bin/env python3
"""How well the views of a scan find each other; arguments are those of `headsweep align`."""

import sys

from headsweep.cli import main

if __name__ == "__main__":
    main(["align", *sys.argv[1:]])
