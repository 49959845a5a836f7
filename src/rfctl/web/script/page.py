"""What Streamlit runs for every visit and click. In a folder of its own: it comes on the module path."""

from rfctl.web.view import draw

draw()
