"""What holds for sizes, whatever they are of."""


def check_positive(config: object, names: str) -> None:
    """Refuse the first of these fields that is below 1.

    Raises:
        ValueError: that names it.
    """
    for name in names.split():
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be at least 1")
