"""What a form offers: names that there are, put into its schema beside the text that may be any other.

Prefect's UI shows such a field as a switch: Choose is a list with a search, Write a text. It tells the two apart by the
type of the value. So of one name the list has no type, and a name that is chosen stands as the text that it is; of many
the list is an array, and the text is lines. In the schema `prefixItems` frees the first items of an array from `items`,
which the UI alone looks at: the server takes names that were not there yet when the form was made.
"""

from copy import deepcopy
from typing import Any

from darkroom.choices import Choices

Schema = dict[str, Any]
_TOLD = ("title", "description", "position", "choices")
_ARRAY = ("minItems", "maxItems")
_FREE = 256
"""Items of an array that may be any name; more are written as lines."""


def offer(schema: Schema, choices: Choices) -> Schema:
    """The schema of a flow's parameters, with what there is to choose from in the fields that ask for it."""
    schema = deepcopy(schema)
    for form in schema["definitions"].values():
        for name, field in form["properties"].items():
            if "choices" in field:
                form["properties"][name] = _offered(field, choices.get(field["choices"], []))
        if groups := form.get("groups"):
            _group(form, groups)
    return schema


def _group(form: Schema, groups: dict[str, list[str]]) -> None:
    """Put each group into an object in the place of its first field. Outside of it a field is taken, and not shown."""
    group_of = {name: group for group, names in groups.items() for name in names}
    properties, form["properties"], form["patternProperties"] = form["properties"], {}, {}
    for name, field in properties.items():
        if group := group_of.get(name):
            empty = {"title": group, "type": "object", "properties": {}, "additionalProperties": False}
            form["properties"].setdefault(group, empty)["properties"][name] = field
            form["patternProperties"][f"^{name}$"] = field
        else:
            form["properties"][name] = field


def _offered(field: Schema, names: list[str]) -> Schema:
    told = {word: field[word] for word in _TOLD if word in field}
    bounds = {word: field[word] for word in _ARRAY if word in field}
    if field["type"] == "array":
        items = {"items": {"type": "string", "enum": names}, "prefixItems": [{"type": "string"}] * _FREE}
        several = items if names else {"items": {"type": "string"}}
        chosen = {"title": "Choose" if names else "List", "type": "array", **several, **bounds}
        return {**told, "anyOf": [chosen, {"title": "Write", "type": "string", "minLength": field.get("minItems", 0)}]}
    text = {word: value for word, value in field.items() if word not in (*_TOLD, "default")}
    return {**told, "anyOf": [{"title": "Choose", "enum": names}, {"title": "Write", **text}]} if names else field
