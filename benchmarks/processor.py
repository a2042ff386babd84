"""A benchmark as on a smaller processor than the one at hand."""

import os
import sys

WITHOUT_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "KT_KERNEL_CPU_VARIANT": "avx2",
}


def without_avx512() -> None:
    """Go on where all sides do without AVX-512.

    Libraries and our compiler read what to do without as they load, so the program that runs as
    `python -m` starts anew, once.
    """
    if all(os.environ.get(name) == value for name, value in WITHOUT_AVX512.items()):
        return
    compiler = f"{os.environ.get('CC', '').strip() or 'cc'} -mno-avx512f"
    environment = {**os.environ, **WITHOUT_AVX512, "CC": compiler}
    spec = sys.modules["__main__"].__spec__
    assert spec is not None
    os.execve(sys.executable, [sys.executable, "-m", spec.name, *sys.argv[1:]], environment)
