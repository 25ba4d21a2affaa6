"""Pictures of the page, drawn by matplotlib as SVG, in the colours of the page's style."""
