"""The best items of one user by faiss, whose product quantiser adds up table entries just as scores are made."""

from typing import Any

import numpy as np


def import_faiss() -> Any:
    """
    Raises:
        ImportError: without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("The backends 'pq' and 'ivf' need faiss: pip install faiss-cpu.") from error
    return faiss


def largest_sums(table: np.ndarray, codes: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest sums of table entries (num_codebooks * codebook_size,), one a code: (sums, rows of `codes`), largest
    first, (wanted,) each.

    A product quantiser adds up, for each part of a query, its product with the centroid of the item's code. Here parts
    have one dimension, the query is all ones and the centroids are the table."""
    faiss = import_faiss()
    num_codebooks = codes.shape[1]
    entries: np.ndarray = np.zeros((num_codebooks, 256), np.float32)
    entries[:, : len(table) // num_codebooks] = table.reshape(num_codebooks, -1)[:, :256]
    quantiser = faiss.ProductQuantizer(num_codebooks, num_codebooks, 8)
    faiss.copy_array_to_vector(entries.ravel(), quantiser.centroids)
    codes, ones = np.ascontiguousarray(codes), np.ones(num_codebooks, np.float32)
    sums, rows = np.empty(wanted, np.float32), np.empty(wanted, np.int64)
    heap = faiss.float_minheap_array_t()
    heap.nh, heap.k, heap.val, heap.ids = 1, wanted, faiss.swig_ptr(sums), faiss.swig_ptr(rows)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # one query is one thread's work; more would only wait, in torch's way
    try:
        quantiser.search_ip(faiss.swig_ptr(ones), 1, faiss.swig_ptr(codes), len(codes), heap)
    finally:
        faiss.omp_set_num_threads(threads)
    return sums[rows >= 0], rows[rows >= 0]  # sums of -inf never enter the heap
