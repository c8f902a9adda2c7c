"""Work-precision against the peers, on problems whose solution is known."""
