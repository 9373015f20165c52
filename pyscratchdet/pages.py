"""Pages for people, filled in by jinja2, which escapes every value; control characters are shown as their escapes."""

from __future__ import annotations

from importlib import resources

from pyscratchdet.errors import printable


def fill_page(package: str, template: str, **values: object) -> str:
    """Returns an HTML page.

    Args:
        package: The package that holds the template.
        template: Its file name.
        values: Its variables; one that is missing is an error.
    """
    from jinja2 import Environment, StrictUndefined

    engine = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = resources.files(package).joinpath(template).read_text(encoding="utf-8")
    return engine.from_string(text).render(values)
