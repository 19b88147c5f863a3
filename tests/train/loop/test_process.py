"""Settings of the process."""

import subprocess
import sys


def python(code: str, **environment: str) -> str:
    """The output of `code` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment or None
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_malloc_is_tuned_where_glibc_is_and_the_user_has_no_settings():
    module = "earlyfusion.train.loop.process"
    code = f"import sys; from {module} import tune_malloc as f; print(f(), 'torch' in sys.modules)"
    expected = python("import platform; print(platform.libc_ver()[0] == 'glibc', False)")
    assert python(code, PATH="") == expected
    assert python(code, PATH="", MALLOC_MMAP_MAX_="5") == "False False\n"
