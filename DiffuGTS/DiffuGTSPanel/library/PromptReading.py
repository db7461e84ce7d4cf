"""How prompts are understood, before anything runs; needs no torch."""

from __future__ import annotations

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Run import ParsedPrompt
from DiffuGTSPanel.process import LibraryLauncher

# Where the embedded model is best first, by the scores in its card; then where it has none.
EXAMPLES = ("lung tumor", "soft tissue sarcoma", "brain tumor", "liver tumor", "kidney tumor",
            "pancreas tumor", "colon tumor", "breast tumor")


def prompts(text: str) -> list[str]:
    """The prompts in a text, separated by line breaks or semicolons."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.prompt import several

    return several(text)


def understand(text: str, model: str) -> list[ParsedPrompt]:
    """How each prompt in `text` is understood for `model` (its catalogue name)."""
    return [_understandOne(prompt, model) for prompt in prompts(text)]


def suggestions(prefix: str, limit: int) -> list[str]:
    """Prompts that complete the typed text."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.prompt import parsing

    return parsing.suggestions(prefix, limit)


def _understandOne(text: str, model: str) -> ParsedPrompt:
    from DiffuGTSLib.errors import PromptNotUnderstood
    from DiffuGTSLib.prompt import understand as read
    from DiffuGTSLib.prompt.vocabulary import vocabulary

    try:
        prompt = read(text)
    except PromptNotUnderstood as error:
        return ParsedPrompt(text, False, error.message, known=False,
                             suggestions=error.suggestions, hint=error.hint,
                             hasUnknownWords=bool(vocabulary().read(text).unknown))
    finding = vocabulary().findings[prompt.finding].name
    words = [prompt.anatomy_name or _("anywhere"), finding, ", ".join(prompt.modalities),
             _("model {name}").format(name=model), *prompt.notes]
    return ParsedPrompt(text, True, " · ".join(words), prompt.title, prompt.anatomy_name, finding,
                         prompt.modalities, prompt.known)
