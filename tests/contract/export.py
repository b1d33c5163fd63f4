"""The contract of the export analytics API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapty_async import AdaptyExportClient, export
from adapty_async._api.call import Endpoint, Operation
from adapty_async.export import _queries
from tests.contract.contract import STATUSES, Contract
from tests.contract.documents import DOCUMENTS

DOCUMENT = DOCUMENTS["export-analytics-api"]
FILTERS = export.Filters(date=("2024-01-01", "2024-12-31"))
CLIENT = AdaptyExportClient("key")
PLACEMENTS = export.PlacementFilters(placement_type="paywall")


def built(endpoint: Endpoint[Any], kind: type[_queries.Query]) -> Callable[[Any], Operation[Any]]:
    """Return a function that builds the operation of a documented body."""

    def build(body: Any) -> Operation[Any]:
        filters = export.Filters(**body["filters"])
        return Operation(endpoint, body=kind(**{**body, "filters": filters}))

    return build


def _example(operation: str) -> Any:
    [(_, body)] = DOCUMENT.request_examples(operation)
    return body


def _properties(schema: str) -> set[str]:
    return set(DOCUMENT.schemas[schema]["properties"])


DEFECTS: dict[str, Callable[[], bool]] = {
    "from_period is a number in the example of conversion, text or null in its schema": lambda: (
        _example("retrieveConversionData")["from_period"] == 1
        and DOCUMENT.schemas["ConversionDataRequest"]["properties"]["from_period"]["oneOf"]
        == [{"type": "string"}, {"type": "null"}]
    ),
    "the example of retention has a period_type, and its schema does not": lambda: (
        "period_type" in _example("retrieveRetentionData")
        and "period_type" not in _properties("RetentionDataRequest")
    ),
    "placements respond in CSV, and their request has no format": lambda: (
        "text/csv" in DOCUMENT.spec("retrievePlacementInfo")["responses"]["200"]["content"]
        and "format" not in _properties("PlacementInfoRequest")
    ),
    "the header Adapty-Tz is described in prose alone": lambda: (
        not any(DOCUMENT.declared(name, "header") for name in DOCUMENT.operations)
    ),
}

CONTRACT = Contract(
    name="export-analytics-api",
    module=export,
    calls={
        "retrieveAnalyticsData": lambda: (
            CLIENT.analytics(chart_id="revenue", filters=FILTERS, tz="UTC").operation
        ),
        "retrieveCohortData": lambda: CLIENT.cohort(filters=FILTERS).operation,
        "retrieveConversionData": lambda: (
            CLIENT.conversion(filters=FILTERS, from_period=None, to_period="1").operation
        ),
        "retrieveFunnelData": lambda: CLIENT.funnel(filters=FILTERS).operation,
        "retrieveLTVData": lambda: CLIENT.ltv(filters=FILTERS).operation,
        "retrieveRetentionData": lambda: CLIENT.retention(filters=FILTERS).operation,
        "retrievePlacementInfo": lambda: CLIENT.placements(filters=PLACEMENTS).operation,
    },
    requests={
        "AnalyticsDataRequest": _queries.AnalyticsQuery,
        "CohortDataRequest": _queries.CohortQuery,
        "ConversionDataRequest": _queries.ConversionQuery,
        "FunnelDataRequest": _queries.FunnelQuery,
        "LTVDataRequest": _queries.LtvQuery,
        "RetentionDataRequest": _queries.RetentionQuery,
        "PlacementInfoRequest": _queries.PlacementsQuery,
    },
    responses={
        "AnalyticsDataResponse": export.AnalyticsResult,
        "MetricData": export.Metric,
        "CohortDataResponse": export.CohortResult,
        "ConversionDataResponse": export.ConversionResult,
        "FunnelDataResponse": export.FunnelResult,
        "LTVDataResponse": export.LtvResult,
        "RetentionDataResponse": export.RetentionResult,
        "PlacementInfoResponse": export.PlacementsResult,
    },
    parts=frozenset(
        {"MetricsFilters", "CohortSegment", "FunnelSegment", "FunnelValue", "LTVMetric", "LTVData"}
    ),
    elsewhere={
        "CohortValue": "a cell: decoded JSON, since charts gain values",
        "ErrorResponse": "the codec decodes every error format",
        "UnauthorizedError": "the codec decodes every error format",
    },
    builders={
        "retrieveAnalyticsData": built(export.ANALYTICS, _queries.AnalyticsQuery),
        "retrieveCohortData": built(export.COHORT, _queries.CohortQuery),
        "retrieveConversionData": built(export.CONVERSION, _queries.ConversionQuery),
        "retrieveFunnelData": built(export.FUNNEL, _queries.FunnelQuery),
        "retrieveLTVData": built(export.LTV, _queries.LtvQuery),
        "retrieveRetentionData": built(export.RETENTION, _queries.RetentionQuery),
        "retrievePlacementInfo": lambda body: (
            CLIENT.placements(filters=export.PlacementFilters(**body["filters"])).operation
        ),
    },
    error_kinds={},
    statuses=STATUSES,
    authorization=lambda sandbox: f"Api-Key {sandbox.api_key}",
    defects=DEFECTS,
    undeclared={"retrieveAnalyticsData": {"Adapty-Tz"}},
    examples_against_schemas=frozenset({"retrieveConversionData"}),
    beyond=frozenset({("RetentionQuery", "period_type"), ("PlacementsQuery", "format")}),
)
