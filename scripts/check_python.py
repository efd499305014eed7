"""Say clearly which Python the set-up needs. Runs under any Python 3.6 and later."""

import importlib.util
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
version = "{}.{}".format(*sys.version_info[:2])

if not OLDEST <= sys.version_info[:2] <= NEWEST:
    sys.exit(
        f"Tessera needs Python 3.11, 3.12 or 3.13; {sys.executable} is {version}. "
        "Name another one: make demo PYTHON=python3.12"
    )
if importlib.util.find_spec("ensurepip") is None:
    sys.exit(f"{sys.executable} cannot make environments. On Debian or Ubuntu: apt-get install python{version}-venv")
