"""Compile the C sources ahead of their first use: python -m model.native"""

from model.native.compiled import library

if __name__ == "__main__":
    loaded = library()
    print("No C compiler: layers run on torch." if loaded is None else f"Ready: {loaded._name}")
