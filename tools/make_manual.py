"""Make docs/manual.pdf from docs/en/manual.md: one section a page. Needs reportlab (BSD), for this only.

python tools/make_manual.py
"""

from __future__ import annotations

from pathlib import Path

from reportlab.lib.pagesizes import A5
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    styles = getSampleStyleSheet()
    story = []
    for block in (ROOT / "docs/en/manual.md").read_text(encoding="utf-8").split("\n\n"):
        text = block.strip()
        if text.startswith("# "):
            story += [Paragraph(text[2:], styles["Title"]), Spacer(1, 12)]
        elif text.startswith("## "):
            if len(story) > 2:
                story.append(PageBreak())
            story += [Paragraph(text[3:], styles["Heading1"])]
        elif text:
            story += [Paragraph(text, styles["BodyText"]), Spacer(1, 6)]
    document = SimpleDocTemplate(
        str(ROOT / "docs/manual.pdf"), pagesize=A5, title="rfctl manual", author="rfctl", invariant=1
    )
    document.build(story)


if __name__ == "__main__":
    main()
