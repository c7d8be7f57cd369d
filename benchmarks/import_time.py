"""How long `import sklearn_maml` takes beside scikit-learn's own imports, each in fresh processes, one after the other.

    python benchmarks/import_time.py [rounds]

A row for what scikit-learn itself imports on `import sklearn`, and one for the part of it that a user of linear models
imports; then the slowest modules of this package by their own time, from ``python -X importtime``.
"""

import subprocess
import sys
import time
from statistics import median

STATEMENTS = {
    "python": "pass",
    "sklearn": "import sklearn",
    "sklearn.linear_model": "import sklearn.linear_model",
    "sklearn_maml": "import sklearn_maml",
}


def seconds(statement):
    """Wall time of a fresh Python that runs a statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def own_times():
    """Milliseconds that each module of this package takes itself, without what it imports, slowest first."""
    command = [sys.executable, "-X", "importtime", "-c", STATEMENTS["sklearn_maml"]]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if "sklearn_maml" in line]
    return sorted(((int(own) / 1000, name.strip()) for own, _, name in rows), reverse=True)


def main(rounds=15):
    """Print medians and ratios."""
    times = {name: [] for name in STATEMENTS}
    for number in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            taken = seconds(statement)
            if number:  # the first round compiles and fills the disk cache
                times[name].append(taken)
    bare = median(times.pop("python"))
    medians = {name: median(values) - bare for name, values in times.items()}
    print(f"medians of {rounds} rounds, less {1000 * bare:.0f} ms for Python itself\n")
    print("| import | ms | sklearn_maml takes |")
    print("|---|---|---|")
    for name, taken in medians.items():
        print(f"| {name} | {1000 * taken:.0f} | {medians['sklearn_maml'] / taken:.2f} times |")
    modules = own_times()
    own = sum(taken for taken, _ in modules)
    print(f"\n{len(modules)} modules of this package take {own:.0f} ms themselves; the slowest:")
    for taken, name in modules[:5]:
        print(f"  {taken:5.1f} ms {name}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
