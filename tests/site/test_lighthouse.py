"""The reader of Lighthouse's results, on small ones."""

from __future__ import annotations

from typing import Any

from tests.site.lighthouse import faults_of


def a_result(score: float | None, **scores: float | None) -> dict[str, Any]:
    """Return a result of Lighthouse with these scores of audits."""
    items = [{"node": {"selector": "body > img"}}, {"node": {"selector": "p"}}]
    return {
        "categories": {
            "accessibility": {"score": score, "auditRefs": [{"id": name} for name in scores]}
        },
        "audits": {
            name: {"score": one, "title": f"About {name}", "details": {"items": items}}
            for name, one in scores.items()
        },
    }


def test_a_page_with_the_best_score_has_no_fault() -> None:
    """A score of 100 is no fault, nor is an audit that does not apply or is for people."""
    assert faults_of(a_result(1, contrast=1, video=None)) == []


def test_each_failed_audit_names_its_elements() -> None:
    """A lower score is a fault, and each failed audit is one with the elements that it names."""
    assert faults_of(a_result(0.934, alt=0, contrast=0.5, title=1, video=None)) == [
        "Lighthouse: accessibility is 93%, not 100%",
        "alt: About alt: body > img; p",
        "contrast: About contrast: body > img; p",
    ]


def test_a_page_that_lighthouse_cannot_judge_is_a_fault() -> None:
    """A page without a score is a fault, and one that does not load has Lighthouse's reason."""
    unloaded = {"runtimeError": {"message": "status code 404"}, **a_result(None)}

    assert faults_of(a_result(None)) == ["Lighthouse: accessibility is unknown, not 100%"]
    assert faults_of(unloaded) == ["Lighthouse: status code 404"]
