"""Words of a peer on our terminal: nothing in them may move the cursor or fill the screen."""


def printable(text: str, limit: int = 60) -> str:
    """The text with control characters as question marks, cut to `limit` characters."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
