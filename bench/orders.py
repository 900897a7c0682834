"""The table of docs/samplers.md, "Orders": errors and orders on Gaussian data, whose flow is known.

    python bench/orders.py                         # 10 seconds

Measured by tests/convergence.py, as tests/test_samplers_orders.py does, which holds the samplers to their orders; the
errors, and the orders down to t = 0, are only printed here.
"""

from __future__ import annotations

import sys
from pathlib import Path as File

sys.path.insert(0, str(File(__file__).parents[1] / "tests"))

from affine import DETERMINISTIC, graded, spaced
from convergence import OWN, errors, orders

ALL = ("linear", "vp", "ve", "table")
AGAIN = ("dpm++ 1", "deis 1", "ipndm 1", "adams 1")  # ddim, and euler


def main() -> None:
    """Measure and print."""
    grids = [
        *(grid(0.9, 0.1, steps) for grid in (spaced, graded) for steps in (80, 160)),
        *(spaced(0.98, 0.0, steps) for steps in (80, 160)),
        *(spaced(start, end, 20) for start, end in ((0.9, 0.1), (0.98, 0.0))),
    ]
    print(f"| sampler | order on equal steps: {', '.join(ALL)} | its own order | ", end="")
    print("error in 20 steps, linear | vp | order down to t = 0, linear | vp |\n|---|---|---|---|---|---|---|")
    for name in OWN:
        if name in AGAIN:
            continue
        found = {path: errors(DETERMINISTIC[name], path, grids) for path in ALL}
        even, own, down = ({path: orders(found[path][k : k + 2])[0] for path in ALL} for k in (0, 2, 4))
        cells = [name, *(", ".join(f"{order[path]:.2f}" for path in ALL) for order in (even, own))]
        cells += [f"{found[path][6]:.1e} → {found[path][7]:.1e}" for path in ("linear", "vp")]
        cells += [f"{down[path]:.2f}" for path in ("linear", "vp")]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
