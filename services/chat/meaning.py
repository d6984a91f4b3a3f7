"""Vectors of lines as recall keeps and compares them. Pure.

A sentence encoder's directions are kept in 8 bits a value: half the bytes of float16, and a form that numpy turns into
numbers as fast as a processor reads it. Lengths do not matter, for likeness is the cosine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Part of the name of what is stored: another form is another model's, and embedded anew.
FORM = "/8"


def packed(vectors: bytes, dim: int) -> list[bytes]:
    """Rows of float16, little-endian, as they are kept: dim bytes a row."""
    rows = np.frombuffer(vectors, "<f2").astype(np.float32).reshape(-1, dim)
    most = np.abs(rows).max(axis=1, keepdims=True) if rows.size else rows
    return [row.tobytes() for row in np.rint(rows * (127 / np.where(most == 0, 1, most))).astype(np.int8)]


def likeness(rows: Sequence[bytes], vector: bytes) -> list[float]:
    """Cosine of each kept row with a vector (one row of float16); a row of zeros is like nothing."""
    wanted = np.frombuffer(vector, "<f2").astype(np.float32)
    matrix = np.frombuffer(b"".join(rows), np.int8).reshape(len(rows), -1).astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix)) * max(float(np.sqrt(wanted @ wanted)), 1e-6)
    found: list[float] = ((matrix @ wanted) / np.where(lengths == 0, 1, lengths)).tolist()
    return found
