"""The reference page of a custom resource, from its schema: one table of fields, one list of rules."""

from collections.abc import Iterator
from typing import Any

from crdgen.structural import Schema


def reference_page(crd: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    spec = crd["spec"]
    version = spec["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    kind, group, short_name = spec["names"]["kind"], spec["group"], spec["names"]["shortNames"][0]
    lines = [
        f"# {kind}",
        "",
        f"`apiVersion: {group}/{version['name']}`, short name `{short_name}`. {root['description']}",
        "",
        "An unknown field is an error. A dash in the column Default: nothing is filled in.",
        "",
    ]
    for part in ("spec", "status"):
        schema = root["properties"][part]
        lines += [f"## {part}", "", schema["description"], "", "| Field | Type | Default | |", "|---|---|---|---|"]
        lines += [
            f"| `{path}`{' (required)' if required else ''} | {_type(field)} | {_default(field)} "
            f"| {_cell(field.get('description', ''))} |"
            for path, field, required in _fields(schema, "")
        ]
        lines.append("")
    lines += ["## Rules", "", "Checked by the API server; the message is what `kubectl apply` shows.", ""]
    lines += [f"* `{path or kind}`: {message}" for path, message in _rules(root, "")]
    lines += ["", "## Columns", "", "| Column | |", "|---|---|"]
    lines += [
        f"| {column['name'].upper()}{' (wide)' if column.get('priority') else ''} | {column['description']} |"
        for column in version["additionalPrinterColumns"]
    ]
    return "\n".join(lines) + "\n"


def _fields(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    for name, field in schema["properties"].items():
        path = f"{prefix}{name}"
        yield path, field, name in schema.get("required", ())
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _fields(inner, f"{path}[]." if "items" in field else f"{path}.")


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, field in schema.get("properties", {}).items():
        inner = field.get("items", field)
        yield from _rules(inner, f"{path}.{name}".removeprefix(".") + ("[]" if "items" in field else ""))


def _type(field: Schema) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "number or percentage" if "%" in field.get("pattern", "") else "quantity"
    kind = str(field["type"])
    if kind == "array":
        return f"list of at most {field['maxItems']}: {_type(field['items'])}"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"map of at most {field['maxProperties']}: {_type(values)}" if values else "block"
    if "enum" in field:
        return "one of " + ", ".join(field["enum"])
    if "maximum" in field:
        return f"{kind}, {field['minimum']} to {field['maximum']}"
    return f"{kind}, at most {field['maxLength']} characters" if "maxLength" in field else kind


def _default(field: Schema) -> str:
    return f"`{field['default']}`" if "default" in field and "properties" not in field else "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
