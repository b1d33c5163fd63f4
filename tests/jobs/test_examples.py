"""The examples of jobs: each runs to its end, and each file has the form of its kind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import httpx
import msgspec
import pytest

import examples
from adapty_async import AdaptyClient, Limits
from adapty_async.jobs import JobStore, Lines
from adapty_async.sandbox import Sandbox
from tests.jobs.test_job import BY, users
from tests.shared.support import until

pytestmark = pytest.mark.unmeasured

_FOLDER = Path(examples.__path__[0], "jobs")

_STREAQ = """
import asyncio, streaq_worker as example
async def main():
    await example.deliver()
    example.worker.burst = True
    await example.worker.run_async()
asyncio.run(main())
"""


@pytest.fixture
async def job_url(
    postgres_url: str,
    name: str,
    sandbox: Sandbox,
    adapty: AdaptyClient,
    ids: Callable[..., Lines],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Plan a job of a few parts, to which the environment points."""
    sandbox.seed_profiles(users(40))
    async with JobStore(postgres_url) as store:
        call, source = adapty.v2.profiles.bulk_delete, ids(*users(30))
        await store.plan(name, call, source, by=BY, part_size=10)
    monkeypatch.setenv("ADAPTY_STORE_URL", postgres_url)
    monkeypatch.setenv("ADAPTY_JOB", name)
    monkeypatch.setenv("ADAPTY_API_KEY", sandbox.api_key)
    monkeypatch.setenv("ADAPTY_BASE_URL", sandbox.url)
    return postgres_url


@pytest.fixture
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Return a way to import an example; it reads the environment when it is imported."""
    loaded: list[str] = []

    def load_example(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, _FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # annotations are resolved by name
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load_example
    for name in loaded:
        del sys.modules[name]


async def has_ended(url: str, name: str, sandbox: Sandbox) -> bool:
    """Return whether the job has ended, and each id was sent once."""
    async with JobStore(url) as store:
        report = await (await store.job(name)).report()
    return report.ok and len(sandbox.arrivals()) == 30


async def test_replicas_and_a_job_share_one_rate(
    job_url: str,
    name: str,
    sandbox: Sandbox,
    load: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A web service erases single users while a job with the same key is at work."""
    monkeypatch.setenv("RATE_URL", job_url)
    service = load("web_service")
    async with (
        service.lifespan(service.app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(service.app), base_url="http://service"
        ) as http,
        JobStore(job_url) as store,
        store.rate as rate,
        AdaptyClient(limits=Limits(shared=rate)) as own,
    ):
        job = await store.job(name, own.v2.profiles.bulk_delete)
        working = asyncio.create_task(job.work())
        for user in ("user_35", "user_36", "nobody"):
            assert (await http.delete(f"/users/{user}")).status_code == 204
        assert (await working).ok
        await until(lambda: {one.members for one in rate.statistics()} == {2})
    left = {f"user_{number}" for number in range(30, 40)} - {"user_35", "user_36"}
    assert sandbox.customer_user_ids() == left


async def test_parts_in_taskiq(
    job_url: str, name: str, sandbox: Sandbox, load: Callable[[str], ModuleType]
) -> None:
    """The example delivers the parts until the job has ended."""
    await load("taskiq_worker").deliver()
    assert await has_ended(job_url, name, sandbox)


async def test_parts_in_streaq(
    job_url: str,
    redis_url: str,
    name: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The example delivers the parts, and a worker runs them."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    process = await asyncio.create_subprocess_exec(  # it leaves streams open
        sys.executable,
        "-c",
        _STREAQ,
        cwd=_FOLDER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert await has_ended(job_url, name, sandbox)


async def test_parts_in_procrastinate(
    job_url: str, name: str, sandbox: Sandbox, load: Callable[[str], ModuleType]
) -> None:
    """The example delivers the parts once, and a worker runs them."""
    example = load("procrastinate_worker")
    for _ in range(2):
        await example.deliver()
    await example.work(wait=False, install_signal_handlers=False)
    assert await has_ended(job_url, name, sandbox)


class _Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A base of the parts of a manifest, which have no other fields."""


class _Key(_Strict):
    name: str
    key: str


class _Secret(_Strict):
    secret_key_ref: _Key


class _Variable(_Strict):
    name: str
    value_from: _Secret


class _Mount(_Strict):
    name: str
    mount_path: str
    read_only: bool


class _Container(_Strict):
    name: str
    image: str
    command: list[str]
    env: list[_Variable]
    resources: dict[Literal["requests", "limits"], dict[Literal["cpu", "memory"], str]]
    volume_mounts: list[_Mount]


class _Claim(_Strict):
    claim_name: str
    read_only: bool


class _Volume(_Strict):
    name: str
    persistent_volume_claim: _Claim


class _PodSpec(_Strict):
    restart_policy: Literal["Never", "OnFailure"]
    termination_grace_period_seconds: int
    containers: list[_Container]
    volumes: list[_Volume]


class _Metadata(_Strict):
    name: str | msgspec.UnsetType = msgspec.UNSET
    labels: dict[str, str] = {}


class _Pod(_Strict):
    metadata: _Metadata
    spec: _PodSpec


class _ExitCodes(_Strict):
    container_name: str
    operator: Literal["In", "NotIn"]
    values: list[int]


class _Condition(_Strict):
    type: Literal["DisruptionTarget"]
    status: Literal["True", "False", "Unknown"]


class _Rule(_Strict):
    action: Literal["FailJob", "Ignore", "Count", "FailIndex"]
    on_exit_codes: _ExitCodes | msgspec.UnsetType = msgspec.UNSET
    on_pod_conditions: list[_Condition] = []


class _Policy(_Strict):
    rules: list[_Rule]


class _JobSpec(_Strict):
    parallelism: int
    completions: int
    completion_mode: Literal["Indexed", "NonIndexed"]
    backoff_limit: int
    pod_failure_policy: _Policy
    template: _Pod


class _Manifest(_Strict):
    """
    The fields of a Kubernetes Job that the example uses.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
    """

    api_version: Literal["batch/v1"]
    kind: Literal["Job"]
    metadata: _Metadata
    spec: _JobSpec


def loaded(name: str) -> dict[str, Any]:
    """Return the content of a file of YAML."""
    yaml = pytest.importorskip("yaml", reason="pyyaml reads the manifests; it is in the group dev")
    content: dict[str, Any] = yaml.safe_load((_FOLDER / name).read_text("utf-8"))
    return content


def test_the_kubernetes_manifest_has_the_fields_of_a_job() -> None:
    """Each field is Kubernetes', and what belongs together has one name."""
    content = loaded("kubernetes.yaml")
    spec = msgspec.convert(content, _Manifest).spec
    (worker,) = spec.template.spec.containers
    (exits, disruption) = spec.pod_failure_policy.rules
    assert isinstance(exits.on_exit_codes, _ExitCodes)
    assert exits.on_exit_codes.container_name == worker.name
    assert 75 not in exits.on_exit_codes.values
    assert disruption.action == "Ignore"
    assert spec.template.spec.restart_policy == "Never"  # a failure policy needs it
    assert [one.name for one in worker.volume_mounts] == [
        one.name for one in spec.template.spec.volumes
    ]
    assert worker.command[:3] == ["adapty-async", "job", "work"]


def test_the_compose_file_starts_a_store_a_plan_and_workers() -> None:
    """The services depend on each other, and call commands that exist."""
    content = loaded("compose.yaml")
    services: dict[str, dict[str, Any]] = content["services"]
    assert set(services) == {"store", "plan", "worker"}
    assert set(services["worker"]["depends_on"]) == {"store", "plan"}
    assert services["worker"]["image"] == services["plan"]["image"]
    for service in ("plan", "worker"):
        command = services[service]["command"].split()
        assert command[:3] == ["adapty-async", "job", "plan" if service == "plan" else "work"]
        assert services[service]["environment"]["ADAPTY_STORE_URL"].startswith("postgresql://")
