#!/usr/bin/env python3
"""Measure retrieval between the views of scans; arguments are those of `headsweep align`."""

import sys

from headsweep.cli import main

if __name__ == "__main__":
    main(["align", *sys.argv[1:]])
