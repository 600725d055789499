"""The command line of `python datasets/NAME.py`."""

from __future__ import annotations

import argparse


class OneLineParser(argparse.ArgumentParser):
    """argparse's parser with a module's docstring as its help, whose errors are one line on stderr and exit code 2."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str):
        self.exit(2, f"error: {' '.join(message.split())}\n")
