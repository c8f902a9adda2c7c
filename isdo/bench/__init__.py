"""Work-precision against other samplers, on problems whose solution is known."""
