"""Counts how many small changes of the code that decides are noticed by the tests of `make quick`: `make mutants`.

mutmut writes every mutant (one operator, condition, number or truth value changed) into a copy of the tree, finds out
which tests call which function, and runs the tests of each mutant in a separate process. This tool copies the tree,
draws the sample, and prints the result. ``[tool.mutmut]`` in pyproject.toml names the modules and the tests.

A mutant is in the sample if the hash of its name is among the lowest. So an edit of a test changes no sample, and an
edit of a function replaces only the mutants of this function.
"""

import argparse
import collections
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

# mutmut's command line can neither draw a sample nor leave out operators, so these are modules without documentation.
# requirements/dev.txt pins their version.
from mutmut import __main__ as mutmut
from mutmut.mutation import diff_apply, mutators, trampoline
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils import file_utils, format_utils
from mutmut.workers import isolation

ROOT = Path(__file__).parents[1]
COPY = ROOT / ".cache" / "mutants"  # mutmut reads `src` and changes `mutants/src` below it; the tests run in `mutants`
SOURCES = ("gateway/src/", "operator/src/")
SURVIVORS = COPY / "survivors.txt"
# Of mutmut's operators not those for texts, which are mostly messages, nor those that replace values by None.
OPERATORS = {
    mutators.operator_number,
    mutators.operator_name,
    mutators.operator_keywords,
    mutators.operator_swap_op,
    mutators.operator_remove_unary_ops,
    mutators.operator_if_exp,
    mutators.operator_match,
}
SURVIVED = {"survived", "no tests"}
# Limit of a mutant's CPU time, from the time that its tests took unchanged; pyproject.toml limits the elapsed time.
TIMEOUT_FACTOR, TIMEOUT_SECONDS = 4, 60


def main() -> None:
    """Run the sample, print a table by module, and write a diff of each survivor."""
    options = _options()
    _copy_tree()
    os.chdir(COPY)
    assert isinstance(mutators.mutation_operators, list)
    mutators.mutation_operators[:] = [pair for pair in mutators.mutation_operators if pair[1] in OPERATORS]
    results = _test(_sample(_generate(options.jobs), options.size, options.seed), options.jobs)
    _print_table(results)
    survivors = sorted(name for name, status in results.items() if status in SURVIVED)
    diffs = (f"# {name}: {results[name]}\n{diff_apply.get_diff_for_mutant(name)}\n" for name in survivors)
    SURVIVORS.write_text("\n".join(diffs), "utf-8")
    print(f"\nThe survivors are in {SURVIVORS.relative_to(ROOT)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=300, help="how many mutants to test (300)")
    parser.add_argument("--seed", default="usher", help="another word draws another sample")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants to test at the same time (2)")
    return parser.parse_args()


def _copy_tree() -> None:
    """Copy what git knows or would add, and both packages into the one source folder that mutmut expects."""
    shutil.rmtree(COPY, ignore_errors=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listing, cwd=ROOT, text=True).split("\0"):  # noqa: S603
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            _copy(name, Path("mutants") / name)
            for folder in SOURCES:
                if name.startswith(folder):
                    _copy(name, Path("src") / name.removeprefix(folder))
    _copy("pyproject.toml", Path("pyproject.toml"))


def _copy(name: str, target: Path) -> None:
    (COPY / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / name, COPY / target, follow_symlinks=False)


def _generate(jobs: int) -> list[str]:
    """Write all mutants, and return their names."""
    trampoline.set_mutant_under_test("mutant_generation")
    file_utils.copy_src_dir()
    with mutmut.CatchOutput(spinner_title="Writing mutants"):
        mutmut.create_mutants(jobs)
    return [name for _, name, _ in mutmut.collect_source_file_mutation_data(mutant_names=[])[0]]


def _sample(names: Iterable[str], size: int, seed: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())[:size]


def _test(sample: list[str], jobs: int) -> dict[str, str]:
    """Run all tests once to see which functions they call, then the tests of each mutant until one fails."""
    file_utils.setup_source_paths()
    runner = isolation.get_mutant_runner(jobs)
    mutmut.run_stats_collection(runner)
    trampoline.set_mutant_under_test("")
    results: dict[str, str] = {}

    def wait() -> None:
        result = runner.wait_for_result()
        results[result.mutant_name] = status_by_exit_code[result.exit_code]
        print(f"{len(results)} of {len(sample)} {results[result.mutant_name]}: {result.mutant_name}", flush=True)

    runner.startup()
    for name in sample:
        while not runner.has_capacity():
            wait()
        tests = state().tests_by_mangled_function_name[format_utils.mangled_name_from_mutant_name(name)]
        seconds = sum(state().duration_by_test[test] for test in tests)
        runner.submit(name, list(tests), int(TIMEOUT_FACTOR * seconds) + TIMEOUT_SECONDS, seconds)
    while runner.pending_count():
        wait()
    runner.shutdown()
    return results


def _print_table(results: dict[str, str]) -> None:
    """Print the mutants of each module; a mutant that ends in a timeout or a crash counts as killed."""
    counts = collections.Counter((_module(name), status in SURVIVED) for name, status in results.items())
    rows = [(module, counts[module, False], counts[module, True]) for module in sorted({key[0] for key in counts})]
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    print(f"{'module':50}{'killed':>9}{'survived':>10}{'total':>7}")
    for module, killed, survived in rows:
        print(f"{module:50}{killed:>9}{survived:>10}{killed + survived:>7}")


def _module(name: str) -> str:
    """Return the module of a mutant such as ``package.module.x_function__mutmut_1``."""
    return name.rpartition(".")[0]


if __name__ == "__main__":
    main()
