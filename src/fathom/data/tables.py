"""The parquet tables of a dataset, laid out so that lerobot (through pandas and Hugging Face datasets) reads them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from fathom.data.features import Feature
from fathom.data.staging import vector_column


def frame_table(columns: pa.Table, features: Mapping[str, Feature], indices: Mapping[str, NDArray[Any]]) -> pa.Table:
    """One episode's rows: its own columns, then LeRobot's index columns, each (frames,)."""
    stored = [name for name, feature in features.items() if feature.dtype != "video"]
    arrays = {name: vector_column(indices[name]) if name in indices else columns[name] for name in stored}
    return pa.table(arrays).replace_schema_metadata({"huggingface": json.dumps(_hugging_face(features, stored))})


def _hugging_face(features: Mapping[str, Feature], stored: Sequence[str]) -> dict[str, Any]:
    """How Hugging Face datasets should read the columns; without it pictures come back as bytes on the Hub."""

    return {"info": {"features": {name: column_kind(features[name]) for name in stored}}}


def column_kind(feature: Feature) -> dict[str, Any]:
    """How Hugging Face datasets calls the type of a column."""
    if feature.dtype == "image":
        return {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    return value if feature.shape == (1,) else {"feature": value, "length": feature.shape[0], "_type": "List"}


def task_table(tasks: Sequence[str]) -> pa.Table:
    """``task_index`` and ``task``; lerobot wants the second as the index of a pandas table."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})

    def column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": pandas_type,
            "numpy_type": numpy_type,
            "metadata": None,
        }

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def episode_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """One row per episode: where its frames lie, its tasks and its statistics."""
    return pa.Table.from_pylist([dict(row) for row in rows])
