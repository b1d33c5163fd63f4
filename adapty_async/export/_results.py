"""
The results of the export analytics API: typed envelopes.

Adapty's documentation has few types for what is inside of them, so cells are decoded JSON.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from adapty_async._api.results import ResultStruct

Number = float | None


class Metric(ResultStruct, frozen=True, kw_only=True):
    """
    A metric of a chart.

    Attributes:
        data: the data points, as decoded JSON; empty for an aggregated metric.
        value: the main value.
        description: HTML that explains the metric.
        unit: such as ``USD`` or ``percent``.
        recommended_period: ``date_from``, ``date_to`` and ``period_unit``, if there is one.
    """

    data: tuple[dict[str, Any], ...] = ()
    value: Number = None
    value_from: Number = None
    value_to: Number = None
    compare_value_from: Number = None
    compare_value_to: Number = None
    title: str | None = None
    type: str | None = None
    default_aggregation: str | None = None
    description: str | None = None
    metric_name: str | None = None
    is_json: bool | None = None
    unit: str | None = None
    recommended_period: dict[str, Any] | None = None


class AnalyticsResult(ResultStruct, frozen=True, kw_only=True):
    """
    A chart.

    Attributes:
        data: the metrics by name, such as ``revenue``, ``proceeds`` and ``net_revenue``.
    """

    data: dict[str, Metric] = msgspec.field(default_factory=dict)

    essential: ClassVar[frozenset[str]] = frozenset({"data"})


class CohortSegment(ResultStruct, frozen=True, kw_only=True):
    """
    The users who installed the app in the same period.

    Attributes:
        segment_start_date: the first day of the period.
        type: ``total`` for all users, ``single`` for one cohort.
        values: a mapping for each period, with names such as ``revenue_usd`` and ``subscribers``.
    """

    segment_start_date: str | None = None
    type: str | None = None
    title: str | None = None
    total_installs: int | None = None
    total_subscriptions: int | None = None
    total_paid_subscribers: int | None = None
    total_revenue_usd: Number = None
    total_proceeds_usd: Number = None
    total_net_revenue_usd: Number = None
    total_anrpas_usd: Number = None
    total_appas_usd: Number = None
    total_arpas_usd: Number = None
    total_anrppu_usd: Number = None
    total_apppu_usd: Number = None
    total_arppu_usd: Number = None
    total_anrpu_usd: Number = None
    total_appu_usd: Number = None
    total_arpu_usd: Number = None
    predict: dict[str, Any] | None = None
    values: tuple[dict[str, Any], ...] = ()


class CohortResult(ResultStruct, frozen=True, kw_only=True):
    """The cohorts of a range of dates."""

    data: tuple[CohortSegment, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"data"})


class ConversionResult(Metric, frozen=True, kw_only=True):
    """
    The conversion between two states of a subscription.

    Attributes:
        data: the data points, as decoded JSON; empty for an aggregated metric.
        value: the conversion rate.
        unit: usually ``percent``.
    """

    value_from: int | None = None
    value_to: int | None = None


class FunnelStage(ResultStruct, frozen=True, kw_only=True):
    """
    A stage of a funnel.

    Attributes:
        period: -2 for the installation, -1 for the display of a paywall, and so on.
        value: the number of users who reached the stage.
        value_relative: the same in percent of the first stage.
        following_changes: the users who did not reach the next stage.
    """

    period: int | None = None
    title: str | None = None
    value: int | None = None
    value_relative: Number = None
    relative_changes: Number = None
    following_changes: dict[str, Any] | None = None
    churn_reason_title: str | None = None
    churn_reasons: tuple[dict[str, Any], ...] = ()
    values: tuple[dict[str, Any], ...] = ()


class FunnelSegment(ResultStruct, frozen=True, kw_only=True):
    """A segment of a funnel; its type is ``total`` for all users."""

    title: str | None = None
    type: str | None = None
    values: tuple[FunnelStage, ...] = ()


class FunnelResult(ResultStruct, frozen=True, kw_only=True):
    """The funnel of a range of dates, by segment."""

    data: tuple[FunnelSegment, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"data"})


class LtvSegment(ResultStruct, frozen=True, kw_only=True):
    """The lifetime value of a segment; its type is ``total`` for all users."""

    title: str | None = None
    type: str | None = None
    value: Number = None
    values: tuple[dict[str, Any], ...] = ()
    cohort_size: int | None = None


class LtvMetric(ResultStruct, frozen=True, kw_only=True):
    """The lifetime values for one way to count money."""

    data: tuple[LtvSegment, ...] = ()
    description: str | None = None
    value: Number = None
    unit: str | None = None
    title: str | None = None


class LtvResult(ResultStruct, frozen=True, kw_only=True):
    """The lifetime values of a range of dates."""

    revenue: LtvMetric | None = None
    proceeds: LtvMetric | None = None
    net_revenue: LtvMetric | None = None


class RetentionResult(ResultStruct, frozen=True, kw_only=True):
    """
    The retention of a range of dates.

    Attributes:
        data: the data points, as decoded JSON.
    """

    data: tuple[dict[str, Any], ...] = ()
    title: str | None = None
    metric_name: str | None = None
    description: str | None = None
    value_type: str | None = None


class Placement(ResultStruct, frozen=True, kw_only=True):
    """
    A placement, as one audience sees it.

    Attributes:
        developer_id: the id of the placement.
        segment_name: the id of the audience.
    """

    developer_id: str | None = None
    placement_name: str | None = None
    audience_name: str | None = None
    segment_name: str | None = None
    cross_placement_ab_test_name: str | None = None
    ab_test_name: str | None = None
    paywall_name: str | None = None
    onboarding_name: str | None = None


class PlacementsResult(ResultStruct, frozen=True, kw_only=True):
    """The placements of an app."""

    data: tuple[Placement, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"data"})
