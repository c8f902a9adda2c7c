"""The commands of python -m isdo, a file each: ``SUMMARY``, ``add_arguments(parser)``,
``run(args)``."""
