"""The example notebook, run by a kernel as Jupyter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import examples

_PATH = Path(examples.__path__[0], "notebook.ipynb")


@pytest.fixture
def notebook() -> Any:
    """Return the notebook."""
    return nbformat.read(_PATH, as_version=4)  # type: ignore[no-untyped-call]


def test_a_notebook_has_no_outputs(notebook: Any) -> None:
    """The file in the repository holds no output and no number of a run."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert cells
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


def test_a_notebook_shows_reports_and_tables(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell runs, and a report is shown as HTML: counts and reasons, without ids."""
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    NotebookClient(notebook, timeout=50, kernel_name="python3").execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert {output.output_type for output in outputs} == {"execute_result"}
    report, failures, profiles, chart = (output.data for output in outputs)
    assert "Not complete: 252 items were read." in report["text/html"]
    assert "customer_user_id: must not begin or end with a blank" in report["text/html"]
    assert "user_1" not in report["text/html"]
    assert report["text/plain"] == "BulkReport(total=252, done=250, absent=1, failed=1)"
    assert "with a blank " in failures["text/plain"]
    assert "user_254" in profiles["text/html"]
    assert "2025-03" in chart["text/html"]
