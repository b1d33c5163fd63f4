"""
A Sphinx extension that turns the names of public objects into links.

The reference has one page for each public module. An object may have several names there, such as
`adapty_async.Limits` and `adapty_async.config.Limits`: it is described once, and every name leads
to that description, on this site and in its inventory for others.

In prose, a name in single backticks becomes a link without any markup, so that the pages read well
as plain Markdown, too: `Limits`, `BulkRun.stop()`, `v2.profiles.bulk_delete()`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import adapty_async
from adapty_async import AdaptyClient, AdaptyMailClient

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.domains.python import ObjectEntry
    from sphinx.environment import BuildEnvironment

# A name that only one object can have: it has a dot, or is that of a class.
_NAME = re.compile(r"((?:[A-Za-z_]\w*\.)+\w+|[A-Z]\w*[a-z]\w*)(?:\(\))?")
# Types that signatures name by their private or short modules, and their documented names.
_TYPES = {
    r"\baiohttp\.web_(?:request|response)\.": "aiohttp.web.",
    r"\b_pytest\.(?:fixtures|monkeypatch)\.": "pytest.",
    r"\bpa\.Table": "pyarrow.Table",
    r"\bpl\.DataFrame": "polars.DataFrame",
    r"(?<!\.)\bPathLike": "os.PathLike",
    r"~?datetime\.Annotated\[(.+?), ~?msgspec\.Meta\([^)]*\)\]": r"\1",  # has a time zone
    r"(?<![\w.])type\[": "typing.Type[",  # some classes have an attribute `type`
    r"<factory>": "...",
}
# The start of the description of attributes, and their type, as napoleon has written them.
_ATTRIBUTES = re.compile(r"(\.\. attribute:: )(\w+(?:, \w+)*)")
_TYPE = re.compile(r" +:type: (.*)")


@functools.cache
def modules() -> list[str]:
    """Return the modules that have a page of the reference."""
    found = pkgutil.walk_packages(adapty_async.__path__, "adapty_async.")
    names = [one.name for one in found if not re.search(r"\._|\.cli$", one.name)]
    return [name for name in names if importlib.import_module(name).__all__]


@functools.cache
def _names() -> list[list[str]]:
    """Return the names of each public class and function that has more than one."""
    names: dict[int, list[str]] = {}
    for module in ("adapty_async", *modules()):
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                names.setdefault(id(thing), []).append(f"{module}.{name}")
    return [group for group in names.values() if len(group) > 1]


@functools.cache
def _resources() -> dict[str, str]:
    """Return the class of each resource by the expression that leads to it, as `v2.profiles`."""
    client, mail = AdaptyClient("key", public_key="key"), AdaptyMailClient("key")
    owners = {"v1": client.v1, "v2": client.v2, "web": client.web, "mail": mail}
    return {"export": "adapty_async.export.Exports"} | {
        f"{api}.{name}": f"{type(resource).__module__.split('._')[0]}.{type(resource).__name__}"
        for api, owner in owners.items()
        for name, resource in vars(owner).items()
        if f"adapty_async.{api}" in type(resource).__module__
    }


def _note_aliases(_: Sphinx, env: BuildEnvironment) -> list[str]:
    """Register the other names of the objects that are described, with those of their members."""
    objects = env.domains.python_domain.objects
    for group in _names():
        [described] = (name for name in group if name in objects and not objects[name].aliased)
        members = {
            name.removeprefix(described): entry._replace(aliased=True)
            for name, entry in objects.items()
            if name == described or name.startswith(f"{described}.")
        }
        for name in group:
            for member, entry in members.items():
                objects.setdefault(name + member, entry)
    return []  # no page has to be read again


def _find(env: BuildEnvironment, text: str) -> ObjectEntry | None:
    """Return the one object that a name in prose can mean."""
    domain = env.domains.python_domain
    name = text.removeprefix("adapty.")
    way, _, method = name.rpartition(".")
    if way in _resources():
        return domain.objects.get(f"{_resources()[way]}.{method}")
    if name == "client":
        return None  # `adapty.client` is an attribute of metrics, and no resource of a client
    found = {
        (entry.docname, entry.node_id): entry
        for _, entry in domain.find_obj(env, "adapty_async", "", name, None, searchmode=1)
    }
    return next(iter(found.values())) if len(found) == 1 else None


def _link(app: Sphinx, page: str, entry: ObjectEntry, child: nodes.Node) -> nodes.Element:
    return make_refnode(app.builder, page, entry.docname, entry.node_id, child)


def _link_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Link a name of a docstring that is not one of its own module."""
    match = _NAME.fullmatch(node["reftarget"])
    entry = _find(env, match[1]) if match else None
    return _link(app, node["refdoc"], entry, shown) if entry else None


def _link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link the names in the prose of a page."""
    for literal in [*doctree.findall(nodes.literal)]:
        match = _NAME.fullmatch(literal.astext())
        if match and not any(
            isinstance(parent, nodes.reference | nodes.title) for parent in _parents(literal)
        ):
            entry = _find(app.env, match[1])
            if entry is not None:
                literal.replace_self(_link(app, page, entry, literal.deepcopy()))


def _parents(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def _show_public_bases(_: Sphinx, __: str, ___: Any, ____: Any, bases: list[type]) -> None:
    """Replace each private base class by its own bases, until all of them are public."""
    while any(_is_private(base) for base in bases):
        bases[:] = [
            above
            for base in bases
            for above in (base.__bases__ if _is_private(base) else (base,))
            if above is not object
        ]


def _is_private(base: type) -> bool:
    module = getattr(base, "__module__", "")
    return module.startswith("adapty_async.") and not any(
        base.__name__ in public.__all__ and getattr(public, base.__name__) is base
        for public in map(importlib.import_module, modules())
    )


def _show_documented_types(
    _: Sphinx, __: str, ___: str, ____: Any, _____: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write types by the names that their own documentation has, and so that Sphinx parses them."""
    return signature and _documented(signature), returns and _documented(returns)


def _list_constants(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the constants and type aliases of a module, which autodoc omits if it imports them."""
    name = page.removeprefix("api/")
    if name == page:
        return
    module = importlib.import_module(f"adapty_async.{name}")
    analyzer = ModuleAnalyzer.for_module(module.__name__)
    documented = {name for _, name in analyzer.find_attr_docs()} | analyzer.tags.keys()
    constants = [
        f".. autodata:: adapty_async.{name}.{each}"
        for each in module.__all__
        if not inspect.isclass(getattr(module, each))
        if not inspect.isfunction(getattr(module, each))
        if each not in documented
        if not hasattr(getattr(module, each), "__wrapped__")  # a decorated function
    ]
    if constants:
        directives = "\n   :no-value:\n".join([*constants, ""])
        source[0] += f"\n## Constants and types\n\n```{{eval-rst}}\n{directives}```\n"


def _fill_tables(_: Sphinx, page: str, source: list[str]) -> None:
    """Fill the tables of the modules, and of the classes that the package itself has."""
    if page != "api":
        return
    table = "| name | summary |\n|---|---|\n"
    pages = (
        f"| [`{name}`](api/{name.removeprefix('adapty_async.')}.md) "
        f"| {_summary(importlib.import_module(name))} |"
        for name in modules()
    )
    classes = (
        f"| `{name}` | {_summary(thing)} |"
        for name in adapty_async.__all__
        if inspect.isclass(thing := getattr(adapty_async, name))
    )
    for mark, rows in {"modules": pages, "names": classes}.items():
        source[0] = source[0].replace(f"<!-- {mark} -->", table + "\n".join(rows))


def _summary(thing: Any) -> str:
    """Return the first sentence of a docstring, in Markdown."""
    sentence = re.split(r"(?<=\.)\s|\n\n", inspect.getdoc(thing) or "", maxsplit=1)[0]
    return sentence.replace("\n", " ").replace("``", "`")


def _skip(_: Sphinx, __: str, name: str, thing: Any, *___: Any) -> bool | None:
    """Skip the methods of a subclass of `dict` that differ from its own in their types alone."""
    return True if name in vars(dict) and not thing.__doc__ else None


def _describe(_: Sphinx, what: str, name: str, thing: Any, __: Any, lines: list[str]) -> None:
    """Describe a constant or type alias by the comment at its definition, in whichever module."""
    if what == "data":
        lines[:] = next(_comments_at(name.rpartition(".")[2], thing), [])


def _comments_at(name: str, thing: Any) -> Iterator[list[str]]:
    for module in [*sys.modules.values()]:
        if module.__name__.startswith("adapty_async") and vars(module).get(name) is thing:
            comments = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            if ("", name) in comments:
                yield comments["", name]


def _shape_attributes(
    _: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]
) -> None:
    """Show the type of an attribute next to its name, and give each of several names a target."""
    shaped: list[str] = []
    place = 0
    for line in lines:
        if match := _ATTRIBUTES.fullmatch(line):
            first, *others = match[2].split(", ")
            names = [match[1] + first, *(" " * len(match[1]) + name for name in others)]
            shaped += names
            place = len(shaped)
        elif match := _TYPE.fullmatch(line):
            shaped.insert(place, f"   :type: {_short(_documented(match[1]))}")
        else:
            shaped.append(line)
    lines[:] = shaped


def _documented(text: str) -> str:
    for pattern, name in _TYPES.items():
        text = re.sub(pattern, name, text)
    return text


def _short(text: str) -> str:
    """Return an annotation that Sphinx shows without the modules of its types."""
    return re.sub(r"\b(?:\w+\.)+\w+", r"~\g<0>", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the handlers of this extension."""
    app.connect("autodoc-process-bases", _show_public_bases)
    app.connect("autodoc-process-signature", _show_documented_types)
    app.connect("autodoc-process-docstring", _shape_attributes, priority=600)  # after napoleon
    app.connect("autodoc-process-docstring", _describe)
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _fill_tables)
    app.connect("source-read", _list_constants)
    app.connect("env-updated", _note_aliases)
    app.connect("missing-reference", _link_short_name)
    app.connect("doctree-resolved", _link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
