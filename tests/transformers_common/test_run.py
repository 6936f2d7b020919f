"""The script fails where a model does, and says what it lacks. Its real run is part of `make test`."""

import io
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.py")
VERSION = version("transformers")

BROKEN = """
import unittest

import torch
from cases import CodesFocusedTest, FairTests

from modeling_fair import FairModel


class Forgetful(FairModel):
    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.rand(3))  # _init_weights does not know it


class Raising(FairModel):
    def forward(self, input_ids, attention_mask=None):
        raise RuntimeError("broken")


class ForgetfulTest(FairTests, unittest.TestCase):
    all_model_classes = (Forgetful,)


class RaisingTest(FairTests, unittest.TestCase):
    all_model_classes = (Raising,)
"""
THREE_TESTS = ("-k", "test_can_init_all_missing", "-k", "test_determinism", "-k", "test_sdpa_can_dispatch_composite")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def run_cases(folder: Path, cases: str, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "some_cases.py").write_text(cases)
    done = run(folder / "some_cases.py", *arguments)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    return done


def test_broken_models_fail_and_skips_are_named(tmp_path):
    done = run_cases(tmp_path, BROKEN, *THREE_TESTS)
    assert done.returncode == 1
    assert "4 passed, 2 failed, 3 skipped" in done.stdout
    assert "ForgetfulTest.test_can_init_all_missing_weights" in done.stderr
    assert "RaisingTest.test_determinism" in done.stderr
    assert (
        "skipped: for models composed of several; FAIR is one (CodesFocusedTest, ForgetfulTest, RaisingTest)\n"
        "    test_sdpa_can_dispatch_composite_models\n"
    ) in done.stdout


def test_a_run_of_no_test_fails(tmp_path):
    done = run_cases(tmp_path, "")
    assert done.returncode == 1 and "0 passed" in done.stdout


def test_without_network_it_says_what_it_lacks(tmp_path):
    done = run("--cache", tmp_path, PIP_NO_INDEX="1")
    assert done.returncode == 2
    assert "connect to a package index" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "about, named",
    [
        (f"Name: transformers\nVersion: {VERSION}\n", "test_modeling_common.py"),
        ("Name: transformers\nVersion: 1.0\n", "is not transformers"),
        (None, "damaged"),
    ],
)
def test_another_archive_is_refused(tmp_path, about, named):
    archive = tmp_path / VERSION / f"transformers-{VERSION}.tar.gz"
    archive.parent.mkdir()
    if about is None:
        archive.write_bytes(b"half of an archive")
    else:
        with tarfile.open(archive, "w:gz") as distribution:
            member = tarfile.TarInfo(f"transformers-{VERSION}/PKG-INFO")
            member.size = len(about)
            distribution.addfile(member, io.BytesIO(about.encode()))
    done = run("--cache", tmp_path)
    assert done.returncode == 2 and named in done.stderr
    assert not (archive.parent / "transformers_tests").exists()
