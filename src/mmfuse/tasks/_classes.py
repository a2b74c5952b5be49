"""Names of classes, their order, and the way from a name to its number."""

from collections.abc import Sequence

from mmfuse._checks import nearest


class ClassNames:
    """Class names in a fixed order. Not a module: it holds no tensor."""

    def __init__(self, owner: str, classes: Sequence[str] | int, *, at_least: int) -> None:
        names = [str(i) for i in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]
        if isinstance(classes, str) or len(set(names)) != len(names) or len(names) < at_least:
            raise ValueError(
                f"{owner} got classes={classes!r}. Expected a number or a list of {at_least} or more different names. "
                "Read them from the training table with table.classes(column)."
            )
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names)}

    def number(self, name: str) -> int:
        """The place of a class in the order."""
        if name not in self._numbers:
            shown = self.names[:10] + ["..."] * (len(self.names) > 10)
            raise ValueError(
                f"label {name!r} is not a class. Expected one of the {len(self.names)} classes {shown}."
                f"{nearest(name, self.names)} Classes are those of the training table: add rows of this class there, "
                "or leave the cell empty for an unknown label."
            )
        return self._numbers[name]
