"""The rules for what people may write on an image, at and beyond each limit."""

import pytest

from darkroom import rules


@pytest.mark.parametrize("name", ["a", "A.b_c-d 9", "-", ".", "_", "x" * 128, "a  b", "x" * 126 + " y"])
def test_a_name_within_the_rules_is_accepted(name):
    rules.check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "x" * 129, "a/b", "a\n", "\na", "é", "a\tb", "a\0", "a<b", "x" * 126 + "  "],
)
def test_a_name_outside_the_rules_is_refused(name):
    with pytest.raises(rules.NameInvalidError, match=r"^name-invalid: "):
        rules.check_name(name)


@pytest.mark.parametrize("text", ["", "one line, with: signs!", "é" * 1024])
def test_a_description_within_the_rules_is_accepted(text):
    rules.check_description(text)


@pytest.mark.parametrize("text", ["x" * 1025, "a\nb", "a\rb", "<b", "b>", "\x1b[2J", "\x9b2J"])
def test_a_description_outside_the_rules_is_refused(text):
    with pytest.raises(rules.DescriptionError, match=r"^description-invalid: "):
        rules.check_description(text)


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 0), (1, 0), (0, 1), (512, 512), (rules.MAX_RAM, rules.MAX_RAM)])
def test_memory_within_the_rules_is_accepted(minimum, maximum):
    rules.check_memory(minimum, maximum)


@pytest.mark.parametrize(("minimum", "maximum"), [(-1, 0), (0, -1), (2, 1), (rules.MAX_RAM + 1, 0), (0, 1 << 40)])
def test_memory_outside_the_rules_is_refused(minimum, maximum):
    with pytest.raises(rules.MemoryInvalidError, match=r"^memory-invalid: "):
        rules.check_memory(minimum, maximum)


@pytest.mark.parametrize(("size", "kind"), [(0, "system"), (1024, "system"), (0, "data"), (2048, "data")])
def test_a_minimum_disk_within_the_rules_is_accepted(size, kind):
    rules.check_min_disk(size, kind)


@pytest.mark.parametrize(("size", "kind"), [(-1, "system"), (1025, "system"), (-1, "data"), (2049, "data")])
def test_a_minimum_disk_outside_the_rules_is_refused(size, kind):
    with pytest.raises(rules.DiskError, match=r"^min-disk-invalid: "):
        rules.check_min_disk(size, kind)


@pytest.mark.parametrize(
    "tags", [{}, {"k": ""}, {"a-b_C9": "v-1_"}, {"k" * 36: "v" * 43}, {f"k{number}": "v" for number in range(10)}]
)
def test_tags_within_the_rules_are_accepted(tags):
    rules.check_tags(tags)


@pytest.mark.parametrize(
    "tags",
    [
        {"": "v"},
        {"k" * 37: "v"},
        {"k": "v" * 44},
        {"a.b": "v"},
        {"k": "a b"},
        {"k": "v\n"},
        {"k\n": "v"},
        {f"k{number}": "v" for number in range(11)},
    ],
)
def test_tags_outside_the_rules_are_refused(tags):
    with pytest.raises(rules.TagError, match=r"^tag-invalid: "):
        rules.check_tags(tags)
