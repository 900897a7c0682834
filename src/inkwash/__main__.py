"""`python -m inkwash ...`, and `torchrun --nproc-per-node 4 -m inkwash ...`: the command `inkwash`."""

from inkwash.cli import main

if __name__ == "__main__":
    main()
