"""What a model must be told, as it is said on a command line."""

from __future__ import annotations

import shlex

from inkwash.modelfolder import Config


def options(config: Config) -> str:
    """The options of `inkwash sample` without which a model draws nothing, with examples; "" where it needs none."""
    vector = config.conditions.vector
    means = zip(vector.names, vector.mean or (0.0,) * len(vector.names), strict=True) if vector else ()
    each = {
        "prompt": ' --prompt "what the picture shows"',
        "vector": "".join(f" --vector {shlex.quote(f'{name}={mean:.3g}')}" for name, mean in means),
        "image": " --image picture.png",
    }
    return "".join(each[name] for name in config.needed)
