"""Compile the C sources ahead of their first use: python -m model.native"""

import logging

from model.native.compiled import library

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if library() is not None:
        print("Ready: small experts, attention, norms and the loss run in compiled code.")
