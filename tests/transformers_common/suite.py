"""transformers' common tests, out of the source distribution of the very version that is installed.

The distribution is downloaded once. Only the two files that are needed are read out of it, and written under names of
our own: nothing that the archive says decides where a file goes.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

FILES = ("test_modeling_common.py", "test_configuration_common.py")

# What those two import of files that the distribution leaves out: tests of export and of generation, which have no
# part in models without `generate`, and the values of common fields that ConfigTester gives to a configuration.
LEFT_OUT = {
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 3,
    "architectures": ["FairModel"],
    "id2label": {0: "no", 1: "yes"},
    "label2id": {"no": 0, "yes": 1},
    "problem_type": "regression",
}
""",
}


def prepare(version: str, cache: Path) -> Path:
    """
    Args:
        version: of transformers.
        cache: folder that keeps the distribution.

    Returns:
        The folder to import `transformers_tests` from.

    Raises:
        ValueError: where the distribution cannot be had, is damaged, is of another version or lacks the tests.
    """
    folder = cache / version
    archive = folder / f"transformers-{version}.tar.gz"
    if not archive.exists():
        download(version, folder)
    texts = dict(LEFT_OUT)
    try:
        with tarfile.open(archive) as distribution:
            top = f"transformers-{version}"
            about = read(distribution, f"{top}/PKG-INFO").splitlines()
            if "Name: transformers" not in about or f"Version: {version}" not in about:
                raise ValueError(f"{archive} is not transformers {version}: delete it, it is downloaded again.")
            texts.update((name, read(distribution, f"{top}/tests/{name}")) for name in FILES)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} is damaged ({error}): delete it, it is downloaded again.") from error
    except KeyError as error:
        raise ValueError(f"{archive} does not hold transformers {version} with its tests: {error.args[0]}.") from error
    for name, text in texts.items():
        file = folder / "transformers_tests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text, encoding="utf-8")
    return folder


def read(distribution: tarfile.TarFile, name: str) -> str:
    file = distribution.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read().decode("utf-8")


def download(version: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    source = ["--no-deps", "--no-binary", "transformers", "--dest", str(folder), f"transformers=={version}"]
    done = subprocess.run(pip + source, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ValueError(
            f"The source distribution of transformers {version}, which holds its common tests, is not in {folder} and "
            f"could not be downloaded ({reason}): connect to a package index once."
        )
