"""Arrays in safetensors files that are whole or not there."""

import os

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


def write_tensors(
    path: str | os.PathLike, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write arrays under another name first, so that `path` is whole or not there."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    temporary = f"{os.fspath(path)}.tmp"
    save_file(whole, temporary, metadata=metadata)
    os.replace(temporary, path)


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file.

    Raises:
        ValueError: naming the file, where it is not whole.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: fetch it again.") from error
