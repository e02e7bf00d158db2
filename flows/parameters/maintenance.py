"""The forms of what keeps a project tidy."""

from flows.parameters.base import Form, SystemBlocks, blocks


class ReapImages(Form):
    """Kill images whose import was given up."""

    blocks: SystemBlocks = blocks()
