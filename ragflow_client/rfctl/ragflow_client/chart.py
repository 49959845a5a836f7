"""Figures of an evaluation as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rfctl.core.error import UsageError

# Fonts with Chinese signs, as Windows, macOS and Linux have them; the first that is there is used.
_CJK_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
)
_BAR = 0.36  # inches of height per bar
_MAX_INCHES = 60.0


def draw_bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> bytes:
    """A PNG of horizontal bars, one group of them per name; values are 0-1, None leaves its place empty.

    series: legend text -> one value per group; where there is one series no legend is drawn. Raises
    UsageError `eval.no-matplotlib` where the library is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("eval.no-matplotlib") from error
    known = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [name for name in _CJK_FONTS if name in known][:1]
    count = max(1, len(series))
    height = min(_MAX_INCHES, 1.2 + _BAR * len(groups) * (count + 0.6))
    with mpl.rc_context({"font.family": [*fonts, "DejaVu Sans"], "svg.fonttype": "path"}):
        figure = Figure(figsize=(8, height), dpi=144, layout="constrained")
        axes = figure.add_subplot()
        for place, (label, values) in enumerate(series.items()):
            rows = [(at, value) for at, value in enumerate(values) if value is not None]
            offsets = [at + (place - (count - 1) / 2) * 0.8 / count for at, _ in rows]
            bars = axes.barh(offsets, [value for _, value in rows], height=0.8 / count, label=_plain(label))
            axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set_yticks(range(len(groups)), [_plain(name) for name in groups])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.08)
        axes.set_title(_plain(title))
        axes.spines[["top", "right"]].set_visible(False)
        if count > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=count, frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return stream.getvalue()


def can_draw_chinese() -> bool:
    """Whether a font with Chinese signs is installed; without one the labels should be English."""
    try:
        from matplotlib import font_manager
    except ImportError:
        return False
    return bool({font.name for font in font_manager.fontManager.ttflist} & set(_CJK_FONTS))


def _plain(text: str) -> str:
    """Text without mathtext: a dollar sign in a name is a dollar sign."""
    return text.replace("\\", "\\\\").replace("$", r"\$")
