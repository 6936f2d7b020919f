"""Run transformers' own common tests on this package, and say of each test that was skipped why.

python tests/transformers_common/run.py [file of test cases] [-k pattern ...]

It downloads transformers' source distribution once, into build/, which git ignores.
"""

import argparse
import importlib
import os
import sys
import unittest
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import suite

ROOT = Path(__file__).resolve().parents[2]


def names(results: list[tuple[unittest.TestCase, str]]) -> set[str]:
    """Of tests; those of subtests are their tests'."""
    return {getattr(test, "test_case", test).id() for test, _ in results}


def count(outcomes: unittest.TestResult) -> dict[str, int]:
    """A test with subtests is passed where none of them failed or was skipped."""
    failed = names(outcomes.failures + outcomes.errors)
    skipped = names(outcomes.skipped) - failed
    return {"passed": outcomes.testsRun - len(failed | skipped), "failed": len(failed), "skipped": len(skipped)}


def print_skipped(outcomes: unittest.TestResult) -> None:
    """Each reason, the configurations it holds in, and the tests that were skipped for it."""
    configurations = defaultdict(set)
    for test, reason in outcomes.skipped:
        _, configuration, name = getattr(test, "test_case", test).id().rsplit(".", 2)
        configurations[reason, name].add(configuration)
    tests = defaultdict(list)
    for (reason, name), where in sorted(configurations.items()):
        tests[f"{reason} ({', '.join(sorted(where))})"].append(name)
    for group, names_of_group in tests.items():
        print(f"skipped: {group}", *names_of_group, sep="\n    ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=Path, default=Path(__file__).with_name("cases.py"))
    parser.add_argument("-k", action="append", help="only tests whose name holds this; may be given several times")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "transformers_common")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

    try:
        folder = suite.prepare(version("transformers"), arguments.cache)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    from transformers.utils import logging  # seconds, and after the environment is set

    sys.path[:0] = [str(ROOT), str(folder), str(arguments.cases.parent)]
    cases = importlib.import_module(arguments.cases.stem)
    logging.disable_default_handler()  # it writes past the buffer that holds what a test prints until it fails
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*" for pattern in arguments.k] if arguments.k else None
    tests = loader.loadTestsFromModule(cases)
    outcomes = unittest.TextTestRunner(verbosity=0, buffer=True).run(tests)
    print_skipped(outcomes)
    counts = count(outcomes)
    print(f"transformers' common tests: {', '.join(f'{number} {what}' for what, number in counts.items())}")
    return 0 if outcomes.wasSuccessful() and counts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
