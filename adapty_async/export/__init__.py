"""
The export analytics API: charts, cohorts, funnels and placements as typed JSON, CSV lines or files.

`adapty_async.AdaptyExportClient` has a method for each of the seven exports. A method returns an
export, which is sent when it is used: await a `JsonExport`, iterate over a `CsvExport`, or write
either to a file. Both can be divided into chunks of the calendar.

Enumerations are open: wherever one is accepted, so is any other text, for values that Adapty added
since.

Source: https://adapty.io/docs/export-analytics-api
"""

from __future__ import annotations

from adapty_async.export._calls import (
    ANALYTICS,
    COHORT,
    CONVERSION,
    FUNNEL,
    LTV,
    PLACEMENTS,
    RETENTION,
    Exports,
)
from adapty_async.export._exports import (
    ChunkWritten,
    CsvExport,
    ExportedFile,
    JsonChunk,
    JsonChunks,
    JsonExport,
)
from adapty_async.export._queries import (
    AccountingType,
    AnalyticsOptions,
    Chart,
    CohortOptions,
    ConversionOptions,
    DateType,
    Filters,
    FunnelOptions,
    LtvOptions,
    PeriodType,
    PeriodUnit,
    PlacementFilters,
    PlacementType,
    RetentionOptions,
    ShowValueAs,
    ValueField,
    ValueType,
)
from adapty_async.export._results import (
    AnalyticsResult,
    CohortResult,
    CohortSegment,
    ConversionResult,
    FunnelResult,
    FunnelSegment,
    FunnelStage,
    LtvMetric,
    LtvResult,
    LtvSegment,
    Metric,
    Placement,
    PlacementsResult,
    RetentionResult,
)

__all__ = (
    "ANALYTICS",
    "COHORT",
    "CONVERSION",
    "FUNNEL",
    "LTV",
    "PLACEMENTS",
    "RETENTION",
    "AccountingType",
    "AnalyticsOptions",
    "AnalyticsResult",
    "Chart",
    "ChunkWritten",
    "CohortOptions",
    "CohortResult",
    "CohortSegment",
    "ConversionOptions",
    "ConversionResult",
    "CsvExport",
    "DateType",
    "ExportedFile",
    "Exports",
    "Filters",
    "FunnelOptions",
    "FunnelResult",
    "FunnelSegment",
    "FunnelStage",
    "JsonChunk",
    "JsonChunks",
    "JsonExport",
    "LtvMetric",
    "LtvOptions",
    "LtvResult",
    "LtvSegment",
    "Metric",
    "PeriodType",
    "PeriodUnit",
    "Placement",
    "PlacementFilters",
    "PlacementType",
    "PlacementsResult",
    "RetentionOptions",
    "RetentionResult",
    "ShowValueAs",
    "ValueField",
    "ValueType",
)
