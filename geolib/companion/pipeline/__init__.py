"""From notebooks to figures and the table of numbers."""

import sys

# nbformat checks notebooks by jsonschema, which builds a grammar of addresses as it is imported, where JupyterLab has
# brought the package for it. No notebook is checked for addresses, and the grammar takes a second.
sys.modules.setdefault("rfc3987_syntax", None)
