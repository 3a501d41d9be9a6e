"""What do the tests of each `deepio_core` module cover of it, without the help of all the others?

A branch that only an end-to-end test happens to reach is not tested: nobody looked at its result. So every
module `name.py` is measured under `tests/core/**/test_name.py` and `test_name_*.py` alone. Exit code 1 if any
branch is missed. A module of the testing kit, `testing/name.py`, has the tests `test_testing_name.py`.

    python tools/own_coverage.py            every module
    python tools/own_coverage.py peer sdp   these
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tests_of(module: Path) -> list[str]:
    """The test files named after a module."""
    folder = ROOT / "tests" / "core"
    name = "_".join(module.relative_to(ROOT / "deepio_core").with_suffix("").parts)
    return sorted({*map(str, folder.rglob(f"test_{name}.py")), *map(str, folder.rglob(f"test_{name}_*.py"))})


def covers_itself(module: Path, scratch: str) -> bool:
    """Run the tests of a module, print what they miss of it, and tell whether that is nothing."""
    tests = tests_of(module)
    name = module.relative_to(ROOT)
    if not tests:
        print(f"{name}: no test file of its own")
        return False
    coverage = [sys.executable, "-m", "coverage"]
    data = f"--data-file={scratch}/{module.stem}"
    run = [*coverage, "run", data, "--parallel-mode", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(run, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: its tests fail\n{done.stdout}{done.stderr}")
        return False
    subprocess.run([*coverage, "combine", "--quiet", data], cwd=ROOT, check=True)
    report = [*coverage, "report", data, f"--include={name}", "--fail-under=100", "--format=total"]
    done = subprocess.run(report, cwd=ROOT, check=False, capture_output=True, text=True)
    print(f"{name}: {done.stdout.strip()} %")
    if done.returncode:
        subprocess.run([*coverage, "report", data, f"--include={name}"], cwd=ROOT, check=False)
    return not done.returncode


def main(names: list[str]) -> int:
    """Measure the modules named, or all."""
    # A package's __init__ only passes names on; tests/test_exports.py looks after those.
    modules = [path for path in sorted((ROOT / "deepio_core").rglob("*.py")) if path.stem != "__init__"]
    unknown = set(names) - {path.stem for path in modules}
    if unknown:
        print(f"deepio_core has no module {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        good = [covers_itself(path, scratch) for path in modules if not names or path.stem in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
