"""The command line as tests call it."""

from isdo import __main__ as cli


def run(capsys, *arguments):
    """Return (exit status, standard output, standard error)."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()
