"""How many examples a property is tried on: a few in the tests, as many as are asked for by
benchmarks/faults/properties.py.
"""

import os


def examples(usual: int) -> int:
    """Return the number that PTKIT_EXAMPLES asks for, else the usual one."""
    return int(os.environ.get("PTKIT_EXAMPLES", usual))
