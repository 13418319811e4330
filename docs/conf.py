"""Sphinx settings: `python -m sphinx -W --keep-going -b html docs docs/_build`."""

import re

import jaxfed

project = "jaxfed"
author = "The jaxfed authors"
version = release = jaxfed.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "speed_table.md"]
html_theme = "furo"
html_title = f"jaxfed {release}"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3
default_role = "code"  # docstrings write `name`
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

nitpicky = True
nitpick_ignore_regex = [
    # types of other packages, whose sites this build does not read
    ("py:class", r"(jax|jnp|np|numpy|optax|dp_accounting)\..*"),
    ("py:class", r"(collections|os|pathlib|typing)\..*"),
    ("py:class", r"(DpEvent|array.*)"),
    ("py:exc", r"[A-Za-z]*Error"),
    # values that pass between parts of the package and have no page
    (
        "py:class",
        r"jaxfed\..*\.(_central_correlated\._State|_joint\.Encoded|_base\.Group"
        r"|_privunit\.Cap|_opening\.Opened|_plan\.Plan)",
    ),
]

# Of these, napoleon takes the text before a colon for a type; ours is a sentence.
_ONE_SENTENCE = ("attribute", "property", "data")


def _docstring_to_rest(app, what, name, obj, options, lines):
    """Turns a Google-style docstring with Markdown's `|x|` and tables into reST."""
    from sphinx.ext.napoleon import Config, GoogleDocstring

    lines[:] = _markdown_to_rest(lines)
    if what not in _ONE_SENTENCE:
        config = Config(napoleon_use_ivar=True, napoleon_use_rtype=False)
        google = GoogleDocstring(lines, config, app, what, name, obj, options)
        lines[:] = google.lines()


def _markdown_to_rest(lines):
    result = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("| "):
            parts = re.split(r"(`[^`]*`)", line)
            escaped = (p if p[:1] == "`" else p.replace("|", r"\|") for p in parts)
            result.append("".join(escaped))
        elif set("".join(cells)) <= set("- "):
            continue  # the line under the header
        else:
            if not result[-1].startswith("   "):
                result += [".. list-table::", "   :header-rows: 1", ""]
            result.append(f"   * - {cells[0]}")
            result += [f"     - {cell}" for cell in cells[1:]]
    return result


def _public_reference(app, env, node, contnode):
    """Finds what a private module defines under the name that the package gives it."""
    target = node.get("reftarget", "")
    public = re.sub(r"\._\w+(?=\.)", "", target)
    if public == target or node.get("refdomain") != "py":
        return None
    document = node.get("refdoc", env.docname)
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, document, app.builder, node["reftype"], public, node, contnode
    )


def setup(app):
    app.connect("missing-reference", _public_reference)
    app.connect("autodoc-process-docstring", _docstring_to_rest)
