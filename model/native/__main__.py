"""Compile the experts ahead of their first use: python -m model.native"""

from model import native

if __name__ == "__main__":
    loaded = native.library()
    print("No C compiler: experts run on torch." if loaded is None else f"Ready: {loaded._name}")
