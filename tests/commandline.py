"""The command line as tests call it."""

import pytest

from isdo import __main__ as cli
from isdo import zoo

needs_weights = pytest.mark.skipif(
    not (zoo.FOLDER / "eps.safetensors").exists(), reason="eps is not trained yet"
)


def run(capsys, *arguments):
    """Return (exit status, standard output, standard error)."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()
